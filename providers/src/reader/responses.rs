//! OpenAI Responses: named events, of which exactly one ends the reply and repeats all of it. Deltas are
//! glanced at; only first and last events are parsed.

use serde::Deserialize;

use super::lenient::{Len, List, Num, Obj, Raw, Text};
use super::notes::Notes;
use super::openai_usage::OpenAiUsage;
use super::scan;

/// The reply itself: a whole document, or what an event carries.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Response<'a> {
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    model: Text<'a>,
    #[serde(borrow)]
    status: Text<'a>,
    #[serde(borrow)]
    service_tier: Text<'a>,
    #[serde(borrow)]
    incomplete_details: Obj<Incomplete<'a>>,
    #[serde(borrow)]
    usage: Raw<'a>,
    tool_usage: Obj<ToolUsage>,
    #[serde(borrow)]
    output: List<Obj<Item<'a>>>,
    #[serde(borrow)]
    error: Raw<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Incomplete<'a> {
    #[serde(borrow)]
    reason: Text<'a>,
}

/// What hosted tools used, told beside the usage.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ToolUsage {
    web_search: Obj<WebSearch>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WebSearch {
    num_requests: Num,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Item<'a> {
    #[serde(borrow)]
    r#type: Text<'a>,
    #[serde(borrow)]
    content: List<Obj<Part<'a>>>,
    arguments: Len,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Part<'a> {
    #[serde(borrow)]
    r#type: Text<'a>,
    text: Len,
    refusal: Len,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Event<'a> {
    #[serde(borrow)]
    response: Obj<Response<'a>>,
}

/// Reads one reply in this format.
#[derive(Debug, Default)]
pub(super) struct Responses {
    usage: OpenAiUsage,
}

impl Responses {
    pub fn event(&mut self, notes: &mut Notes, name: &[u8], data: &[u8]) {
        if data.trim_ascii() == b"[DONE]" {
            return;
        }
        let kind = if name.is_empty() {
            scan::kind(data, b"type")
        } else {
            name
        };
        match kind {
            b"response.created" | b"response.queued" | b"response.in_progress" => {
                notes.stage_start();
                // The names are worth a parse once; later start events repeat them.
                if notes.response_id.is_none() {
                    self.carried(notes, data);
                }
            }
            b"response.output_item.added" | b"response.content_part.added" => notes.stage_start(),
            b"response.completed" => {
                self.carried(notes, data);
                notes.whole();
            }
            b"response.incomplete" => {
                self.carried(notes, data);
                notes.whole();
            }
            b"response.failed" => {
                self.carried(notes, data);
                notes.usage_is_final();
                notes.fail_by(data);
            }
            b"error" => notes.fail_by(data),
            b"" => match serde_json::from_slice::<Event<'_>>(data) {
                Ok(_) if data.starts_with(b"{\"error\"") => notes.fail_by(data),
                Ok(_) => notes.stage_content(),
                Err(_) => notes.malformed(),
            },
            other => {
                notes.stage_content();
                // Sound and pictures come as deltas too, but their length says nothing of tokens.
                let is_text = other.ends_with(b".delta") && !other.ends_with(b"audio.delta");
                if is_text {
                    notes.text(scan::text_len(data, &[b"delta"]));
                }
            }
        }
    }

    /// A whole JSON body. True when it is a complete answer.
    pub fn document(&mut self, notes: &mut Notes, body: &[u8]) -> bool {
        let Ok(response) = serde_json::from_slice::<Response<'_>>(body) else {
            notes.malformed();
            return false;
        };
        let text = response
            .output
            .0
            .iter()
            .flat_map(|item| &item.0)
            .map(Item::text)
            .sum();
        notes.text(text);
        self.response(notes, &response);
        if response.status.is("failed")
            || (response.status.get().is_none() && response.error.is_truthy())
        {
            notes.fail_by(body);
        }
        !matches!(response.status.or_empty(), "in_progress" | "queued")
    }

    pub fn settle(&mut self, notes: &mut Notes) {
        notes.usage = self.usage.settle(notes.dialect);
    }

    fn carried(&mut self, notes: &mut Notes, data: &[u8]) {
        let Ok(event) = serde_json::from_slice::<Event<'_>>(data) else {
            notes.malformed();
            return;
        };
        if let Some(response) = &event.response.0 {
            self.response(notes, response);
            if response.error.is_truthy() {
                notes.fail_by(response.error.0.unwrap_or_default().as_bytes());
            }
        }
    }

    fn response(&mut self, notes: &mut Notes, response: &Response<'_>) {
        notes.model(&response.model);
        notes.response_id(&response.id);
        self.usage.tier(&response.service_tier);
        if self.usage.take(&response.usage) {
            notes.usage_raw(response.usage.0.unwrap_or_default());
            self.usage.web_searches(response.web_searches());
        }
        if let Some(reason) = response.finish() {
            notes.finish(&Text(Some(reason.into())));
        }
    }
}

impl Response<'_> {
    fn items<'i>(&'i self) -> impl Iterator<Item = &'i Item<'i>> {
        self.output.0.iter().flat_map(|item| &item.0)
    }

    /// Older answers tell searches only by the items they left.
    fn web_searches(&self) -> Option<u64> {
        let told = self
            .tool_usage
            .0
            .as_ref()
            .and_then(|tools| tools.web_search.0.as_ref());
        told.and_then(|search| search.num_requests.0).or_else(|| {
            let calls = self
                .items()
                .filter(|item| item.r#type.is("web_search_call"))
                .count();
            (calls > 0).then_some(calls as u64)
        })
    }

    /// This format has no finish reason; these are the words the chat format would use.
    fn finish(&self) -> Option<&str> {
        match self.status.or_empty() {
            "completed" => {
                let is_refusal = |item: &Item<'_>| {
                    item.content
                        .0
                        .iter()
                        .flat_map(|part| &part.0)
                        .any(|part| part.r#type.is("refusal"))
                };
                if self.items().any(|item| item.r#type.is("function_call")) {
                    Some("tool_calls")
                } else if self.items().any(is_refusal) {
                    Some("refusal")
                } else {
                    Some("stop")
                }
            }
            "incomplete" => {
                let reason = self
                    .incomplete_details
                    .0
                    .as_ref()
                    .and_then(|details| details.reason.get());
                match reason {
                    Some("max_output_tokens" | "max_messages") | None => Some("length"),
                    Some(other) => Some(other),
                }
            }
            "cancelled" => Some("cancelled"),
            _ => None,
        }
    }
}

impl Item<'_> {
    fn text(&self) -> u64 {
        let parts = self.content.0.iter().flat_map(|part| &part.0);
        self.arguments.0 + parts.map(|part| part.text.0 + part.refusal.0).sum::<u64>()
    }
}
