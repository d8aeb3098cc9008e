//! Servers that run open models behind formats of their own: text-generation-inference, Ollama, Replicate.

use serde::Deserialize;

use crate::{Failure, Usage, UsageSource};

use super::lenient::{Flag, Len, List, Num, Obj, Raw, Real, Text};
use super::notes::Notes;

/// Text-generation-inference's own format: an event a token, a document, or a list with one document.
#[derive(Debug, Default)]
pub(super) struct Tgi {
    input: Option<u64>,
    output: Option<u64>,
    /// Token events seen, and the highest number one of them carried; the last resort for `output`.
    counted: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TgiReply<'a> {
    index: Num,
    #[serde(borrow)]
    token: Obj<TgiToken<'a>>,
    #[serde(borrow)]
    generated_text: Raw<'a>,
    #[serde(borrow)]
    details: Raw<'a>,
    #[serde(borrow)]
    error: Raw<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TgiToken<'a> {
    text: Len,
    special: Flag,
    #[serde(borrow)]
    id: Raw<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TgiDetails<'a> {
    #[serde(borrow)]
    finish_reason: Text<'a>,
    generated_tokens: Num,
    input_length: Num,
    #[serde(borrow)]
    prefill: List<Raw<'a>>,
}

impl Tgi {
    pub fn event(&mut self, notes: &mut Notes, data: &[u8]) {
        let Ok(reply) = serde_json::from_slice::<TgiReply<'_>>(data) else {
            notes.malformed();
            return;
        };
        if let Some(token) = reply.token.0.as_ref().filter(|token| token.id.0.is_some()) {
            self.counted = (self.counted + 1).max(reply.index.0.unwrap_or(0));
            notes.text(if token.special.0 { 0 } else { token.text.0 });
            notes.stage_content();
        }
        self.reply(notes, &reply, data);
        if reply.generated_text.0.is_some() {
            notes.whole();
        }
    }

    /// A whole JSON body. True when it is a complete answer.
    pub fn document(&mut self, notes: &mut Notes, body: &[u8]) -> bool {
        // Other tasks of the same hosts answer with lists of anything; those hold no usage.
        let read = if body.first() == Some(&b'[') {
            serde_json::from_slice::<List<Obj<TgiReply<'_>>>>(body).map(|list| {
                list.0
                    .into_iter()
                    .find_map(|item| item.0)
                    .unwrap_or_default()
            })
        } else {
            serde_json::from_slice::<TgiReply<'_>>(body)
        };
        let Ok(reply) = read else {
            notes.malformed();
            return false;
        };
        if let Some(Len(bytes)) = reply.generated_text.read() {
            notes.text(bytes);
        }
        self.reply(notes, &reply, body);
        true
    }

    pub fn settle(&mut self, notes: &mut Notes) {
        let is_counted = self.output.is_none() && self.counted > 0;
        let output = if is_counted {
            Some(self.counted)
        } else {
            self.output
        };
        if output.is_none() && self.input.is_none() {
            return;
        }
        notes.usage = Some(Usage {
            in_total: self.input,
            in_plain: self.input,
            out_total: output,
            source: if is_counted {
                UsageSource::Estimate
            } else {
                UsageSource::Final
            },
            ..Usage::default()
        });
    }

    fn reply(&mut self, notes: &mut Notes, reply: &TgiReply<'_>, data: &[u8]) {
        if reply.error.is_truthy() {
            notes.fail_by(data);
        }
        if let Some(details) = reply.details.read::<TgiDetails<'_>>() {
            notes.finish(&details.finish_reason);
            notes.usage_raw(reply.details.0.unwrap_or_default());
            self.output = details.generated_tokens.0.or(self.output);
            let prefill = details.prefill.0.len() as u64;
            self.input = details
                .input_length
                .0
                .or((prefill > 0).then_some(prefill))
                .or(self.input);
        }
    }
}

/// Ollama's own format: JSON lines, or one document.
#[derive(Debug, Default)]
pub(super) struct Ollama {
    usage: Option<Usage>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OllamaReply<'a> {
    #[serde(borrow)]
    model: Text<'a>,
    response: Len,
    message: Obj<OllamaMessage<'a>>,
    done: Flag,
    #[serde(borrow)]
    done_reason: Text<'a>,
    prompt_eval_count: Num,
    eval_count: Num,
    #[serde(borrow)]
    error: Raw<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OllamaMessage<'a> {
    content: Len,
    thinking: Len,
    #[serde(borrow)]
    tool_calls: Raw<'a>,
}

impl Ollama {
    /// A line of a stream.
    pub fn event(&mut self, notes: &mut Notes, data: &[u8]) {
        if self.read(notes, data) == Some(true) {
            notes.whole();
        }
    }

    /// A whole JSON body. True when it is a complete answer.
    pub fn document(&mut self, notes: &mut Notes, body: &[u8]) -> bool {
        self.read(notes, body).is_some()
    }

    pub fn settle(&mut self, notes: &mut Notes) {
        notes.usage = self.usage.take();
    }

    /// `Some(done)` when the JSON could be read.
    fn read(&mut self, notes: &mut Notes, json: &[u8]) -> Option<bool> {
        let Ok(reply) = serde_json::from_slice::<OllamaReply<'_>>(json) else {
            notes.malformed();
            return None;
        };
        notes.model(&reply.model);
        let message = reply.message.0.as_ref();
        notes.text(reply.response.0 + message.map_or(0, |m| m.content.0 + m.thinking.0));
        if let Some(calls) = message.and_then(|message| message.tool_calls.0) {
            notes.text(calls.len() as u64);
        }
        if reply.error.is_truthy() {
            notes.fail_by(json);
        }
        notes.finish(&reply.done_reason);
        let (input, output) = (reply.prompt_eval_count.0, reply.eval_count.0);
        if input.is_some() || output.is_some() {
            let usage = self.usage.get_or_insert_default();
            usage.in_total = input.or(usage.in_total);
            usage.out_total = output.or(usage.out_total);
            usage.fill_in_plain();
            notes.usage_raw(&format!(
                "{{\"prompt_eval_count\":{},\"eval_count\":{}}}",
                or_null(usage.in_total),
                or_null(usage.out_total)
            ));
        }
        Some(reply.done.0)
    }
}

fn or_null(count: Option<u64>) -> String {
    count.map_or_else(|| "null".to_owned(), |count| count.to_string())
}

/// Replicate predictions: documents with metrics, and streams of plain text without them.
#[derive(Debug, Default)]
pub(super) struct Replicate {
    usage: Option<Usage>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Prediction<'a> {
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    model: Text<'a>,
    #[serde(borrow)]
    status: Text<'a>,
    #[serde(borrow)]
    error: Raw<'a>,
    #[serde(borrow)]
    metrics: Raw<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metrics {
    predict_time: Real,
    input_token_count: Num,
    output_token_count: Num,
    image_count: Num,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Done<'a> {
    #[serde(borrow)]
    reason: Text<'a>,
}

impl Replicate {
    pub fn event(&mut self, notes: &mut Notes, name: &[u8], data: &[u8]) {
        match name {
            b"output" => notes.text(data.len() as u64),
            b"error" => notes.fail_by(data),
            b"done" => {
                let done = serde_json::from_slice::<Done<'_>>(data).unwrap_or_default();
                match done.reason.get() {
                    None => notes.whole(),
                    Some("error") => {
                        let failed = "the prediction failed";
                        notes.fail(Failure::in_band(notes.dialect, "", "", failed));
                    }
                    Some(_) => notes.finish(&done.reason),
                }
            }
            b"logs" => notes.stage_start(),
            _ => notes.stage_content(),
        }
    }

    /// A whole JSON body. True when it is a complete answer: a prediction still running is none.
    pub fn document(&mut self, notes: &mut Notes, body: &[u8]) -> bool {
        let Ok(prediction) = serde_json::from_slice::<Prediction<'_>>(body) else {
            notes.malformed();
            return false;
        };
        notes.response_id(&prediction.id);
        notes.model(&prediction.model);
        if prediction.status.is("failed") {
            notes.fail_by(
                prediction
                    .error
                    .0
                    .unwrap_or("\"the prediction failed\"")
                    .as_bytes(),
            );
        }
        if let Some(metrics) = prediction.metrics.read::<Metrics>() {
            notes.usage_raw(prediction.metrics.0.unwrap_or_default());
            let usage = Usage {
                in_total: metrics.input_token_count.0,
                in_plain: metrics.input_token_count.0,
                out_total: metrics.output_token_count.0,
                images: metrics.image_count.0,
                seconds: metrics.predict_time.get(),
                ..Usage::default()
            };
            let is_told = usage != Usage::default();
            self.usage = is_told.then_some(usage);
        }
        let is_running = matches!(
            prediction.status.or_empty(),
            "starting" | "processing" | "queued"
        );
        if !is_running {
            notes.finish(&prediction.status);
        }
        !is_running
    }

    pub fn settle(&mut self, notes: &mut Notes) {
        notes.usage = self.usage.take();
    }
}
