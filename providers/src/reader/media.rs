//! Embeddings, pictures, sound and files: mostly one document with usage somewhere, sometimes events whose JSON
//! names them, often nothing but bytes. Also the conversations of Mistral, whose events look alike.

use serde::Deserialize;

use crate::Dialect;

use super::lenient::{Len, List, Num, Obj, Raw, Real, Text};
use super::notes::Notes;
use super::openai_usage::OpenAiUsage;
use super::scan;

/// Any of these documents or events.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Reply<'a> {
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    request_id: Text<'a>,
    #[serde(borrow)]
    conversation_id: Text<'a>,
    #[serde(borrow)]
    transcription_id: Text<'a>,
    #[serde(borrow)]
    model: Text<'a>,
    #[serde(borrow)]
    object: Text<'a>,
    #[serde(borrow)]
    service_tier: Text<'a>,
    #[serde(borrow)]
    usage: Raw<'a>,
    usage_info: Obj<UsageInfo>,
    #[serde(borrow)]
    data: List<Obj<Picture<'a>>>,
    #[serde(borrow)]
    images: List<Raw<'a>>,
    text: Len,
    outputs: List<Len>,
    // Seconds of sound, by several names.
    duration: Real,
    audio_duration_secs: Real,
    #[serde(borrow)]
    metadata: Obj<Metadata<'a>>,
    #[serde(borrow)]
    error: Raw<'a>,
    #[serde(borrow)]
    errors: Raw<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct UsageInfo {
    pages_processed: Num,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Picture<'a> {
    #[serde(borrow)]
    b64_json: Raw<'a>,
    #[serde(borrow)]
    url: Raw<'a>,
    /// Ideogram leaves the address of an unsafe picture empty, but made it.
    #[serde(borrow)]
    is_image_safe: Raw<'a>,
}

/// Deepgram's account of what it heard.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata<'a> {
    #[serde(borrow)]
    request_id: Text<'a>,
    duration: Real,
    channels: Num,
    #[serde(borrow)]
    models: List<Text<'a>>,
}

/// Reads one reply of these kinds.
#[derive(Debug, Default)]
pub(super) struct Media {
    usage: OpenAiUsage,
}

impl Media {
    pub fn event(&mut self, notes: &mut Notes, name: &[u8], data: &[u8]) {
        if data.trim_ascii() == b"[DONE]" {
            notes.whole();
            return;
        }
        let kind = if name.is_empty() {
            scan::kind(data, b"type")
        } else {
            name
        };
        let is_last = kind.ends_with(b".completed")
            || matches!(
                kind,
                b"speech.audio.done"
                    | b"transcript.text.done"
                    | b"transcription.done"
                    | b"conversation.response.done"
                    | b"done"
            );
        match kind {
            b"error" | b"conversation.response.error" => notes.fail_by(data),
            b"conversation.response.started" => {
                notes.stage_start();
                self.read(notes, data);
            }
            b"transcript.text.delta" | b"transcription.text.delta" => {
                notes.text(scan::text_len(data, &[b"delta", b"text"]));
            }
            b"message.output.delta" | b"function.call.delta" => {
                notes.text(scan::text_len(data, &[b"content", b"text", b"arguments"]));
            }
            _ if is_last => {
                self.read(notes, data);
                // Each last event of a picture stream is one picture.
                if kind.starts_with(b"image") {
                    self.usage.add_image();
                }
                notes.whole();
            }
            // Events without a type: only an error is worth telling apart.
            b"" => {
                self.read(notes, data);
                notes.stage_content();
            }
            _ => notes.stage_content(),
        }
    }

    /// A whole JSON body. True when it is a complete answer.
    pub fn document(&mut self, notes: &mut Notes, body: &[u8]) -> bool {
        if body.first() == Some(&b'[') {
            let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok();
            if !is_json {
                notes.malformed();
            }
            return is_json;
        }
        self.read(notes, body)
    }

    pub fn settle(&mut self, notes: &mut Notes) {
        let Some(mut usage) = self.usage.settle(notes.dialect) else {
            return;
        };
        // What a picture endpoint generates is pictures, even where the split is not told.
        if notes.dialect == Dialect::OpenAiMedia
            && usage.images.is_some()
            && usage.out_image.is_none()
        {
            usage.out_image = usage.out_total;
        }
        notes.usage = Some(usage);
    }

    fn read(&mut self, notes: &mut Notes, json: &[u8]) -> bool {
        let Ok(reply) = serde_json::from_slice::<Reply<'_>>(json) else {
            notes.malformed();
            return false;
        };
        self.reply(notes, &reply, json);
        true
    }

    fn reply(&mut self, notes: &mut Notes, reply: &Reply<'_>, json: &[u8]) {
        // Jobs and files carry the error of what they describe, which is no failure of this request.
        let is_described = reply.object.get().is_some_and(|object| object != "error");
        let is_error =
            reply.error.is_truthy() || reply.errors.is_truthy() || reply.object.is("error");
        if is_error && !is_described {
            notes.fail_by(json);
        }
        notes.model(&reply.model);
        for id in [
            &reply.id,
            &reply.request_id,
            &reply.conversation_id,
            &reply.transcription_id,
        ] {
            notes.response_id(id);
        }
        let text = reply.text.0 + reply.outputs.0.iter().map(|output| output.0).sum::<u64>();
        notes.text(text);
        self.usage.tier(&reply.service_tier);
        if self.usage.take(&reply.usage) {
            notes.usage_raw(reply.usage.0.unwrap_or_default());
        }
        if let Some(info) = &reply.usage_info.0 {
            self.usage.pages(info.pages_processed.0);
        }
        self.pictures(reply);
        self.sound(notes, reply);
    }

    fn pictures(&mut self, reply: &Reply<'_>) {
        let is_made = |picture: &&Picture<'_>| {
            picture.b64_json.0.is_some()
                || picture.url.0.is_some()
                || picture.is_image_safe.0.is_some()
        };
        let listed = reply
            .data
            .0
            .iter()
            .flat_map(|picture| &picture.0)
            .filter(is_made)
            .count();
        let count = listed.max(reply.images.0.len());
        if count > 0 {
            self.usage.images(Some(count as u64));
        }
    }

    fn sound(&mut self, notes: &mut Notes, reply: &Reply<'_>) {
        if let Some(metadata) = &reply.metadata.0 {
            notes.response_id(&metadata.request_id);
            // Every channel is transcribed, and billed, by itself.
            let channels = metadata.channels.0.unwrap_or(1).max(1) as f64;
            self.usage
                .seconds(metadata.duration.get().map(|seconds| seconds * channels));
            if let Some(model) = metadata.models.0.first() {
                notes.model(model);
            }
        }
        let told = reply.duration.get().or(reply.audio_duration_secs.get());
        if told.is_some() && !self.usage.has_seconds() {
            self.usage.seconds(told);
        }
    }
}
