//! Chat and legacy completions in OpenAI's format, as its many speakers send them: OpenRouter, Perplexity and
//! Workers AI among them. The body decides what is there, not the vendor.
//!
//! Nearly every event of a stream is one small delta that changes nothing but the amount of text. Such an event
//! is only glanced at ([`Glance`]); the parser sees the first ones, the last ones and whatever looks unusual.

use serde::Deserialize;

use crate::{Dialect, Failure, ModelUsage};

use super::lenient::{Len, List, Num, Obj, Raw, Text};
use super::notes::Notes;
use super::openai_usage::OpenAiUsage;
use super::scan::{Scan, Value, decoded_len};

/// Models of a compound reply that are kept apart; the totals hold the rest.
const MAX_MODELS: usize = 32;

/// A chunk of a stream, or a whole document: the members are the same.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Chunk<'a> {
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    model: Text<'a>,
    #[serde(borrow)]
    object: Text<'a>,
    #[serde(borrow)]
    r#type: Text<'a>,
    #[serde(borrow)]
    service_tier: Text<'a>,
    #[serde(borrow)]
    choices: List<Choice<'a>>,
    #[serde(borrow)]
    usage: Raw<'a>,
    #[serde(borrow)]
    x_groq: Obj<XGroq<'a>>,
    #[serde(borrow)]
    usage_breakdown: Obj<Breakdown<'a>>,
    #[serde(borrow)]
    error: Raw<'a>,
    // Errors of servers that send no `error`.
    #[serde(borrow)]
    message: Raw<'a>,
    #[serde(borrow)]
    detail: Raw<'a>,
    // Workers AI: its own form of a chunk, its envelope, its errors.
    response: Len,
    tool_calls: List<ToolCall>,
    #[serde(borrow)]
    finish_reason: Text<'a>,
    #[serde(borrow)]
    result: Raw<'a>,
    #[serde(borrow)]
    errors: Raw<'a>,
    // A neighbour of chat on the same hosts: the reading of scanned pages.
    usage_info: Obj<UsageInfo>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Choice<'a> {
    delta: Obj<Delta>,
    message: Obj<Delta>,
    text: Len,
    #[serde(borrow)]
    finish_reason: Text<'a>,
    #[serde(borrow)]
    error: Raw<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Delta {
    content: Len,
    reasoning: Len,
    reasoning_content: Len,
    refusal: Len,
    tool_calls: List<ToolCall>,
    function_call: Obj<Call>,
    audio: Obj<Audio>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ToolCall {
    function: Obj<Call>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Call {
    arguments: Len,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Audio {
    transcript: Len,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct XGroq<'a> {
    #[serde(borrow)]
    usage: Raw<'a>,
    #[serde(borrow)]
    usage_breakdown: Obj<Breakdown<'a>>,
    #[serde(borrow)]
    error: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Breakdown<'a> {
    #[serde(borrow)]
    models: List<ModelPart<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ModelPart<'a> {
    #[serde(borrow)]
    model: Text<'a>,
    #[serde(borrow)]
    usage: Raw<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct UsageInfo {
    pages_processed: Num,
}

impl Delta {
    fn text(&self) -> u64 {
        let arguments: u64 = self.tool_calls.0.iter().map(ToolCall::text).sum();
        let call = self.function_call.0.as_ref().map_or(0, |c| c.arguments.0);
        let transcript = self.audio.0.as_ref().map_or(0, |a| a.transcript.0);
        // Some servers repeat the same reasoning under both names.
        let reasoning = self.reasoning.0.max(self.reasoning_content.0);
        self.content.0 + reasoning + self.refusal.0 + arguments + call + transcript
    }

    fn has_call(&self) -> bool {
        !self.tool_calls.0.is_empty() || self.function_call.0.is_some() || self.audio.0.is_some()
    }
}

impl ToolCall {
    fn text(&self) -> u64 {
        self.function.0.as_ref().map_or(0, |call| call.arguments.0)
    }
}

/// Reads one reply in this format.
#[derive(Debug, Default)]
pub(super) struct Chat {
    usage: OpenAiUsage,
    by_model: Vec<ModelUsage>,
    /// A chunk with choices was read in full, so id and model are known if they ever will be.
    is_introduced: bool,
    glance: Glance,
}

impl Chat {
    pub fn event(&mut self, notes: &mut Notes, name: &[u8], data: &[u8]) {
        if self.is_introduced
            && name.is_empty()
            && let Some(seen) = self.glance.look(data)
        {
            notes.text(seen.text_bytes);
            if seen.has_call {
                notes.stage_content();
            }
            return;
        }
        if data.trim_ascii() == b"[DONE]" {
            notes.whole();
            return;
        }
        let Ok(chunk) = serde_json::from_slice::<Chunk<'_>>(data) else {
            notes.malformed();
            return;
        };
        self.chunk(notes, &chunk, data);
        if name == b"error" {
            notes.fail_by(data);
        }
        let ends_without_marker = notes.dialect == Dialect::Perplexity
            && (notes.finish.is_some() || chunk.r#type.is("end_of_stream"));
        if ends_without_marker {
            notes.whole();
        }
    }

    /// A whole JSON body. True when it is a complete answer.
    pub fn document(&mut self, notes: &mut Notes, body: &[u8]) -> bool {
        if body.first() == Some(&b'[') {
            // Google's OpenAI-like endpoint wraps its errors in a list.
            return match serde_json::from_slice::<List<Obj<Chunk<'_>>>>(body) {
                Ok(list) => {
                    if list
                        .0
                        .iter()
                        .flat_map(|item| &item.0)
                        .any(|item| item.error.is_truthy())
                    {
                        notes.fail_by(body);
                    }
                    true
                }
                Err(_) => {
                    notes.malformed();
                    false
                }
            };
        }
        let Ok(document) = serde_json::from_slice::<Chunk<'_>>(body) else {
            notes.malformed();
            return false;
        };
        self.chunk(notes, &document, body);
        // The envelope of Workers AI holds the answer, in its own form or in this one.
        if document.result.is_object()
            && let Some(inner) = document.result.read::<Chunk<'_>>()
        {
            self.chunk(notes, &inner, body);
        }
        true
    }

    pub fn settle(&mut self, notes: &mut Notes) {
        let usage = self.usage.settle(notes.dialect);
        notes.usage = usage.map(|mut usage| {
            usage.by_model = std::mem::take(&mut self.by_model);
            usage
        });
    }

    fn chunk(&mut self, notes: &mut Notes, chunk: &Chunk<'_>, data: &[u8]) {
        notes.model(&chunk.model);
        notes.response_id(&chunk.id);
        self.usage.tier(&chunk.service_tier);
        self.error(notes, chunk, data);

        let mut text = chunk.response.0;
        let mut has_call = !chunk.tool_calls.0.is_empty();
        text += chunk.tool_calls.0.iter().map(ToolCall::text).sum::<u64>();
        for choice in &chunk.choices.0 {
            let part = choice.delta.0.as_ref().or(choice.message.0.as_ref());
            text += choice.text.0 + part.map_or(0, Delta::text);
            has_call |= part.is_some_and(Delta::has_call);
            if choice.error.is_truthy() {
                notes.fail_by(choice.error.0.unwrap_or_default().as_bytes());
            }
        }
        notes.text(text);
        if has_call {
            notes.stage_content();
        }
        self.is_introduced |= !chunk.choices.0.is_empty() || chunk.response.0 > 0;

        self.take_usage(notes, &chunk.usage);
        if let Some(groq) = &chunk.x_groq.0 {
            self.take_usage(notes, &groq.usage);
            self.take_breakdown(&groq.usage_breakdown);
            if let Some(error) = groq.error.get() {
                notes.fail(Failure::in_band(notes.dialect, "", "", error));
            }
        }
        self.take_breakdown(&chunk.usage_breakdown);
        if let Some(info) = &chunk.usage_info.0 {
            self.usage.pages(info.pages_processed.0);
        }
        notes.finish(&chunk.finish_reason);
        for choice in &chunk.choices.0 {
            notes.finish(&choice.finish_reason);
        }
    }

    fn error(&self, notes: &mut Notes, chunk: &Chunk<'_>, data: &[u8]) {
        let is_bare = chunk.choices.0.is_empty()
            && chunk.object.get().is_none()
            && !chunk.usage.is_object()
            && !chunk.result.is_object()
            && (chunk.message.is_truthy() || chunk.detail.is_truthy());
        if chunk.error.is_truthy()
            || chunk.errors.is_truthy()
            || chunk.object.is("error")
            || is_bare
        {
            notes.fail_by(data);
        }
    }

    fn take_usage(&mut self, notes: &mut Notes, usage: &Raw<'_>) {
        if self.usage.take(usage) {
            notes.usage_raw(usage.0.unwrap_or_default());
            notes.stage_content();
        }
    }

    fn take_breakdown(&mut self, breakdown: &Obj<Breakdown<'_>>) {
        let Some(breakdown) = &breakdown.0 else {
            return;
        };
        let parts = breakdown.models.0.iter().filter_map(|part| {
            let mut usage = OpenAiUsage::default();
            usage.take(&part.usage);
            Some(ModelUsage {
                model: part.model.get()?.to_owned(),
                usage: usage.settle(Dialect::OpenAiChat)?,
            })
        });
        self.by_model = parts.take(MAX_MODELS).collect();
    }
}

/// What a chunk held that a full parse would not have told more about.
#[derive(Debug, PartialEq)]
struct Seen {
    text_bytes: u64,
    has_call: bool,
}

/// Tells ordinary delta chunks from the others. Chunks of one stream begin alike, so the beginning of the last
/// one is remembered and, when it comes again, stepped over with one comparison.
#[derive(Debug, Default)]
struct Glance {
    /// Up to the bracket that opens the delta, and the depth of the member it belongs to.
    beginning: Vec<u8>,
    delta_depth: u32,
}

/// Longer beginnings are scanned each time.
const MAX_BEGINNING_BYTES: usize = 1024;

impl Glance {
    /// `None` when the chunk must be parsed.
    fn look(&mut self, chunk: &[u8]) -> Option<Seen> {
        let is_known = !self.beginning.is_empty() && chunk.starts_with(&self.beginning);
        let (mut scan, mut delta) = if is_known {
            let depth = self.delta_depth;
            let scan = Scan::resume(chunk, self.beginning.len(), depth);
            (scan, Some(depth))
        } else {
            (Scan::new(chunk), None)
        };
        let mut opened_at = 0;
        let mut has_text_member = false;
        let mut is_in_delta = is_known;
        let (mut text, mut reasoning, mut reasoning_content) = (0, 0, 0);
        let mut has_call = false;
        while let Some(member) = scan.next() {
            if let Some(depth) = delta
                && is_in_delta
            {
                if member.depth == depth + 1 {
                    let length = match member.value {
                        Value::String(string) => decoded_len(string),
                        _ => 0,
                    };
                    match member.key {
                        b"content" | b"refusal" => text += length,
                        b"reasoning" => reasoning += length,
                        b"reasoning_content" => reasoning_content += length,
                        b"tool_calls" | b"function_call" if member.value == Value::Open => {
                            has_call |= !is_empty(chunk, scan.at());
                            continue;
                        }
                        _ => {}
                    }
                    if member.value == Value::Open {
                        return None;
                    }
                    continue;
                }
                if member.depth > depth {
                    if let (b"arguments", Value::String(string)) = (member.key, member.value) {
                        text += decoded_len(string);
                    }
                    continue;
                }
                is_in_delta = false;
            }
            match (member.key, member.value) {
                (b"delta", Value::Open) if delta.is_none() && !has_text_member => {
                    delta = Some(member.depth);
                    is_in_delta = true;
                    opened_at = scan.at();
                }
                (b"text" | b"response", Value::String(string))
                    if delta.is_none() && !has_text_member =>
                {
                    has_text_member = true;
                    text += decoded_len(string);
                }
                (b"tool_calls", Value::Open) if is_empty(chunk, scan.at()) => {}
                (b"delta" | b"text" | b"response" | b"tool_calls", _) => return None,
                (b"object", Value::String(b"error")) => return None,
                (b"type", Value::String(b"end_of_stream")) => return None,
                (
                    b"usage" | b"error" | b"errors" | b"finish_reason" | b"x_groq" | b"message"
                    | b"detail" | b"result" | b"usage_breakdown" | b"usage_info",
                    value,
                ) if value != Value::Null => return None,
                _ => {}
            }
        }
        if !scan.is_balanced() || (delta.is_none() && !has_text_member) {
            return None;
        }
        if !is_known && (1..=MAX_BEGINNING_BYTES).contains(&opened_at) {
            self.beginning.clear();
            self.beginning.extend_from_slice(&chunk[..opened_at]);
            self.delta_depth = delta.unwrap_or(0);
        }
        Some(Seen {
            text_bytes: text + reasoning.max(reasoning_content),
            has_call,
        })
    }
}

/// Whether the bracket at `at` is closed at once.
fn is_empty(chunk: &[u8], at: usize) -> bool {
    let inside = chunk.get(at + 1..).unwrap_or_default().trim_ascii_start();
    matches!(inside.first(), Some(b']' | b'}'))
}

#[cfg(test)]
mod tests;
