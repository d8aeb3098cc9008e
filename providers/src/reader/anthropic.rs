//! Anthropic Messages, by whoever serves it: named events over SSE, or the same JSON inside Bedrock's chunks.
//! Input numbers here leave cached tokens out; the totals put them back.

use serde::Deserialize;

use crate::{ModelUsage, Usage};

use super::lenient::{Len, List, Num, Obj, Raw, Text};
use super::notes::Notes;
use super::scan;

/// Iterations of one reply that are kept apart by model; the totals hold the rest.
const MAX_MODELS: usize = 32;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Event<'a> {
    #[serde(borrow)]
    r#type: Text<'a>,
    #[serde(borrow)]
    message: Obj<Message<'a>>,
    #[serde(borrow)]
    delta: Obj<Delta<'a>>,
    #[serde(borrow)]
    usage: Raw<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Message<'a> {
    #[serde(borrow)]
    r#type: Text<'a>,
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    model: Text<'a>,
    content: List<Obj<Block>>,
    #[serde(borrow)]
    stop_reason: Text<'a>,
    #[serde(borrow)]
    usage: Raw<'a>,
    #[serde(borrow)]
    error: Raw<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Delta<'a> {
    #[serde(borrow)]
    stop_reason: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Block {
    text: Len,
    thinking: Len,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Wire<'a> {
    input_tokens: Num,
    cache_read_input_tokens: Num,
    cache_creation_input_tokens: Num,
    cache_creation: Obj<Lifetimes>,
    output_tokens: Num,
    output_tokens_details: Obj<OutputDetails>,
    server_tool_use: Obj<ServerTools>,
    #[serde(borrow)]
    service_tier: Text<'a>,
    #[serde(borrow)]
    iterations: List<Obj<Iteration<'a>>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Lifetimes {
    ephemeral_5m_input_tokens: Num,
    ephemeral_1h_input_tokens: Num,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OutputDetails {
    thinking_tokens: Num,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ServerTools {
    web_search_requests: Num,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Iteration<'a> {
    #[serde(borrow)]
    model: Text<'a>,
    input_tokens: Num,
    cache_read_input_tokens: Num,
    cache_creation_input_tokens: Num,
    cache_creation: Obj<Lifetimes>,
    output_tokens: Num,
}

/// The numbers of one usage object or iteration, as told.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    input: Option<u64>,
    cache_read: Option<u64>,
    cache_write: Option<u64>,
    write_5m: Option<u64>,
    write_1h: Option<u64>,
    output: Option<u64>,
}

impl Counts {
    /// Later non-null numbers replace earlier ones; nothing is added up.
    fn overlay(&mut self, later: Counts) {
        self.input = later.input.or(self.input);
        self.cache_read = later.cache_read.or(self.cache_read);
        self.cache_write = later.cache_write.or(self.cache_write);
        self.write_5m = later.write_5m.or(self.write_5m);
        self.write_1h = later.write_1h.or(self.write_1h);
        self.output = later.output.or(self.output);
    }

    fn usage(self) -> Usage {
        let split = self.write_5m.unwrap_or(0) + self.write_1h.unwrap_or(0);
        // The sum stands beside its parts; parts without a sum make one.
        let written = self.cache_write.unwrap_or(split).max(split);
        let is_split = self.write_5m.is_some() || self.write_1h.is_some();
        let mut usage = Usage {
            in_total: self
                .input
                .map(|input| input + self.cache_read.unwrap_or(0) + written),
            cache_read: self.cache_read,
            // Without the split every written token has the default lifetime.
            cache_write_5m: if is_split {
                self.write_5m
            } else {
                self.cache_write
            },
            cache_write_1h: self.write_1h,
            cache_write_other: (is_split && written > split).then(|| written - split),
            out_total: self.output,
            ..Usage::default()
        };
        usage.fill_in_plain();
        usage
    }
}

/// Usage told so far.
#[derive(Debug, Default)]
pub(super) struct AnthropicUsage {
    counts: Counts,
    thinking: Option<u64>,
    web_searches: Option<u64>,
    tier: Option<String>,
    iterations: Vec<(String, Counts)>,
    is_told: bool,
}

impl AnthropicUsage {
    pub fn take(&mut self, notes: &mut Notes, raw: &Raw<'_>) {
        if !raw.is_object() {
            return;
        }
        let Some(wire) = raw.read::<Wire<'_>>() else {
            return;
        };
        self.is_told = true;
        notes.usage_raw(raw.0.unwrap_or_default());
        let lifetimes = wire.cache_creation.0.unwrap_or_default();
        self.counts.overlay(Counts {
            input: wire.input_tokens.0,
            cache_read: wire.cache_read_input_tokens.0,
            cache_write: wire.cache_creation_input_tokens.0,
            write_5m: lifetimes.ephemeral_5m_input_tokens.0,
            write_1h: lifetimes.ephemeral_1h_input_tokens.0,
            output: wire.output_tokens.0,
        });
        let details = wire.output_tokens_details.0.unwrap_or_default();
        self.thinking = details.thinking_tokens.0.or(self.thinking);
        let tools = wire.server_tool_use.0.unwrap_or_default();
        self.web_searches = tools.web_search_requests.0.or(self.web_searches);
        if let Some(tier) = wire.service_tier.get() {
            self.tier = Some(tier.to_owned());
        }
        let iterations = wire.iterations.0.iter().flat_map(|item| &item.0);
        let iterations: Vec<_> = iterations
            .map(|item| {
                let lifetimes = item.cache_creation.0.as_ref();
                let counts = Counts {
                    input: item.input_tokens.0,
                    cache_read: item.cache_read_input_tokens.0,
                    cache_write: item.cache_creation_input_tokens.0,
                    write_5m: lifetimes.and_then(|l| l.ephemeral_5m_input_tokens.0),
                    write_1h: lifetimes.and_then(|l| l.ephemeral_1h_input_tokens.0),
                    output: item.output_tokens.0,
                };
                (item.model.or_empty().to_owned(), counts)
            })
            .collect();
        if !iterations.is_empty() {
            self.iterations = iterations;
        }
    }

    /// The totals. Work done in iterations (compaction, an advisor) is billed but stands outside the top level,
    /// so with iterations the totals are their sum.
    pub fn settle(&mut self, model: Option<&str>) -> Option<Usage> {
        if !self.is_told {
            return None;
        }
        let mut usage = if self.iterations.is_empty() {
            self.counts.usage()
        } else {
            let mut total = Counts::default();
            let add = |slot: &mut Option<u64>, more: Option<u64>| {
                if let Some(more) = more {
                    *slot = Some(slot.unwrap_or(0).saturating_add(more));
                }
            };
            for (_, counts) in &self.iterations {
                add(&mut total.input, counts.input);
                add(&mut total.cache_read, counts.cache_read);
                add(&mut total.cache_write, counts.cache_write);
                add(&mut total.write_5m, counts.write_5m);
                add(&mut total.write_1h, counts.write_1h);
                add(&mut total.output, counts.output);
            }
            total.usage()
        };
        let others = self
            .iterations
            .iter()
            .filter(|(name, _)| !name.is_empty() && Some(name.as_str()) != model);
        usage.by_model = others
            .take(MAX_MODELS)
            .map(|(name, counts)| ModelUsage {
                model: name.clone(),
                usage: counts.usage(),
            })
            .collect();
        usage.reasoning = self.thinking;
        usage.web_searches = self.web_searches;
        usage.tier = self.tier.take();
        Some(usage)
    }
}

/// Reads one reply in this format.
#[derive(Debug, Default)]
pub(super) struct Anthropic {
    pub usage: AnthropicUsage,
}

impl Anthropic {
    pub fn event(&mut self, notes: &mut Notes, name: &[u8], data: &[u8]) {
        let kind = if name.is_empty() {
            scan::kind(data, b"type")
        } else {
            name
        };
        match kind {
            // The signature of a thought is no text.
            b"content_block_delta" => {
                let bytes = scan::text_len(data, &[b"text", b"thinking", b"partial_json"]);
                notes.text(bytes);
            }
            b"content_block_start" => notes.text(scan::text_len(data, &[b"text", b"thinking"])),
            b"ping" => notes.stage_start(),
            b"content_block_stop" => notes.stage_content(),
            b"message_stop" => notes.whole(),
            b"error" => notes.fail_by(data),
            b"message_start" | b"message_delta" => self.message_event(notes, data),
            b"" => notes.malformed(),
            _ => notes.stage_content(),
        }
    }

    fn message_event(&mut self, notes: &mut Notes, data: &[u8]) {
        let Ok(event) = serde_json::from_slice::<Event<'_>>(data) else {
            notes.malformed();
            return;
        };
        if let Some(message) = &event.message.0 {
            notes.stage_start();
            self.message(notes, message);
        }
        if event.r#type.is("message_delta") || event.delta.0.is_some() {
            notes.stage_content();
        }
        if let Some(delta) = &event.delta.0 {
            notes.finish(&delta.stop_reason);
        }
        self.usage.take(notes, &event.usage);
    }

    /// A whole JSON body. True when it is a complete answer.
    pub fn document(&mut self, notes: &mut Notes, body: &[u8]) -> bool {
        let Ok(message) = serde_json::from_slice::<Message<'_>>(body) else {
            notes.malformed();
            return false;
        };
        if message.r#type.is("error") || message.error.is_truthy() {
            notes.fail_by(body);
        }
        let blocks = message.content.0.iter().flat_map(|block| &block.0);
        notes.text(blocks.map(|block| block.text.0 + block.thinking.0).sum());
        self.message(notes, &message);
        true
    }

    pub fn settle(&mut self, notes: &mut Notes) {
        notes.usage = self.usage.settle(notes.model.as_deref());
    }

    fn message(&mut self, notes: &mut Notes, message: &Message<'_>) {
        notes.model(&message.model);
        notes.response_id(&message.id);
        self.usage.take(notes, &message.usage);
        notes.finish(&message.stop_reason);
    }
}
