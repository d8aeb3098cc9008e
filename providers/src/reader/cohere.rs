//! Cohere, both generations: v2 in named events, v1 in JSON lines, documents of either. Two counts stand side by
//! side; the billed one is money, the other is context with Cohere's own template in it.

use serde::Deserialize;

use crate::{Failure, Usage};

use super::lenient::{List, Num, Obj, Raw, Text};
use super::notes::Notes;
use super::scan;

/// An event, a line, or a whole document: one set of members.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Reply<'a> {
    #[serde(borrow)]
    r#type: Text<'a>,
    #[serde(borrow)]
    event_type: Text<'a>,
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    generation_id: Text<'a>,
    #[serde(borrow)]
    finish_reason: Text<'a>,
    #[serde(borrow)]
    usage: Raw<'a>,
    #[serde(borrow)]
    meta: Raw<'a>,
    #[serde(borrow)]
    delta: Obj<Delta<'a>>,
    #[serde(borrow)]
    response: Obj<Response<'a>>,
    #[serde(borrow)]
    generations: List<Obj<Generation<'a>>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Delta<'a> {
    #[serde(borrow)]
    finish_reason: Text<'a>,
    #[serde(borrow)]
    usage: Raw<'a>,
    #[serde(borrow)]
    error: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Response<'a> {
    #[serde(borrow)]
    generation_id: Text<'a>,
    #[serde(borrow)]
    meta: Raw<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Generation<'a> {
    #[serde(borrow)]
    finish_reason: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Wire {
    billed_units: Obj<Billed>,
    tokens: Obj<Billed>,
    cached_tokens: Num,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Billed {
    input_tokens: Num,
    output_tokens: Num,
    search_units: Num,
    classifications: Num,
    images: Num,
    image_tokens: Num,
    pages: Num,
}

/// Reads one reply in this format.
#[derive(Debug, Default)]
pub(super) struct Cohere {
    usage: Option<Usage>,
}

impl Cohere {
    /// An event of v2 or a line of v1.
    pub fn event(&mut self, notes: &mut Notes, name: &[u8], data: &[u8]) {
        let mut kind = name;
        for member in [&b"type"[..], b"event_type"] {
            if kind.is_empty() {
                kind = scan::kind(data, member);
            }
        }
        match kind {
            b"content-delta" | b"text-generation" | b"tool-plan-delta" | b"tool-call-delta" => {
                let keys: &[&[u8]] = &[b"text", b"thinking", b"tool_plan", b"arguments"];
                notes.text(scan::text_len(data, keys));
            }
            b"content-start" => notes.text(scan::text_len(data, &[b"text", b"thinking"])),
            b"message-start" | b"stream-start" => {
                notes.stage_start();
                self.read(notes, data);
            }
            b"message-end" | b"stream-end" => {
                if self.read(notes, data) {
                    notes.whole();
                }
            }
            b"error" => notes.fail_by(data),
            b"" if data.trim_ascii() == b"[DONE]" => {}
            b"" => {
                // A line that only complains: `{"message": ...}`.
                if self.read(notes, data) && scan::text_len(data, &[b"message"]) > 0 {
                    notes.fail_by(data);
                }
            }
            _ => notes.stage_content(),
        }
    }

    /// A whole JSON body. True when it is a complete answer.
    pub fn document(&mut self, notes: &mut Notes, body: &[u8]) -> bool {
        notes.text(scan::text_len(body, &[b"text", b"arguments"]));
        self.read(notes, body)
    }

    pub fn settle(&mut self, notes: &mut Notes) {
        notes.usage = self.usage.take();
    }

    fn read(&mut self, notes: &mut Notes, json: &[u8]) -> bool {
        let Ok(reply) = serde_json::from_slice::<Reply<'_>>(json) else {
            notes.malformed();
            return false;
        };
        notes.response_id(&reply.id);
        notes.response_id(&reply.generation_id);
        self.take(notes, &reply.usage);
        self.take(notes, &reply.meta);
        if let Some(delta) = &reply.delta.0 {
            self.take(notes, &delta.usage);
            if let Some(error) = delta.error.get() {
                let kind = delta.finish_reason.or_empty();
                notes.fail(Failure::in_band(notes.dialect, kind, "", error));
            }
            notes.finish(&delta.finish_reason);
        }
        if let Some(response) = &reply.response.0 {
            notes.response_id(&response.generation_id);
            self.take(notes, &response.meta);
        }
        for generation in reply
            .generations
            .0
            .iter()
            .flat_map(|generation| &generation.0)
        {
            notes.finish(&generation.finish_reason);
        }
        notes.finish(&reply.finish_reason);
        true
    }

    fn take(&mut self, notes: &mut Notes, raw: &Raw<'_>) {
        let Some(wire) = raw.read::<Wire>().filter(|_| raw.is_object()) else {
            return;
        };
        // Without a bill the context is the best count there is.
        let Some(billed) = wire.billed_units.0.or(wire.tokens.0) else {
            return;
        };
        notes.usage_raw(raw.0.unwrap_or_default());
        let mut usage = Usage {
            in_total: billed.input_tokens.0,
            out_total: billed.output_tokens.0,
            cache_read: wire.cached_tokens.0,
            in_image: billed.image_tokens.0,
            search_units: billed.search_units.0,
            requests: billed.classifications.0,
            images: billed.images.0,
            pages: billed.pages.0,
            ..Usage::default()
        };
        usage.fill_in_plain();
        self.usage = Some(usage);
    }
}
