//! OpenAI's response object, whole and as typed events.
//!
//! The answer is a list of items: a message with the text, then one item for each call. In a stream each item is opened,
//! told in pieces, and closed; the last event carries the whole object.

use local_inference::{StopReason, TokenEvent, TokenLogprob};
use serde_json::{Value, json};
use uuid::Uuid;

use super::logprobs;
use super::{Head, Padding};
use crate::backend::local::events::{Choice, Tally};
use crate::backend::local::fault::to_json;
use crate::backend::local::input::Echo;

pub(super) fn whole(head: &Head, echo: &Echo, choices: &[Choice], tally: Tally) -> Vec<u8> {
    let mut output = Vec::new();
    let mut stop = StopReason::Stop;
    // This form has room for one.
    if let Some(choice) = choices.first() {
        stop = choice.stop;
        if !choice.text.is_empty() || choice.calls.is_empty() {
            let mut message = OpenMessage::new();
            message.text.push_str(&choice.text);
            message.logprobs = told_logprobs(&choice.logprobs);
            output.push(message.item(item_status(stop)));
        }
        for call in &choice.calls {
            let mut open = OpenCall::new(&call.id, &call.name);
            open.arguments.push_str(&call.arguments);
            output.push(open.item(item_status(stop)));
        }
    }
    to_json(&object(head, echo, output, Some((stop, tally))))
}

/// `end`: how it ended and what it took; `None` while it is being made.
fn object(head: &Head, echo: &Echo, output: Vec<Value>, end: Option<(StopReason, Tally)>) -> Value {
    let (status, details, usage) = match end {
        None => ("in_progress", Value::Null, Value::Null),
        Some((StopReason::Length, tally)) => (
            "incomplete",
            json!({"reason": "max_output_tokens"}),
            usage(tally),
        ),
        Some((_, tally)) => ("completed", Value::Null, usage(tally)),
    };
    let own = [
        ("id", json!(head.id)),
        ("object", json!("response")),
        ("created_at", json!(head.created)),
        ("status", json!(status)),
        ("model", json!(head.model)),
        ("output", Value::Array(output)),
        ("error", Value::Null),
        ("incomplete_details", details),
        ("usage", usage),
    ];
    let own = own.map(|(name, value)| (name.to_owned(), value));
    Value::Object(own.into_iter().chain(echo.fields.clone()).collect())
}

fn usage(tally: Tally) -> Value {
    json!({
        "input_tokens": tally.prompt_tokens,
        "input_tokens_details": {"cached_tokens": tally.cached_tokens},
        "output_tokens": tally.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": tally.prompt_tokens + tally.completion_tokens,
    })
}

fn item_status(stop: StopReason) -> &'static str {
    match stop {
        StopReason::Length => "incomplete",
        StopReason::Stop | StopReason::ToolCalls => "completed",
    }
}

fn told_logprobs(told: &[TokenLogprob]) -> Vec<Value> {
    match serde_json::to_value(logprobs::tokens(told)) {
        Ok(Value::Array(values)) => values,
        _ => Vec::new(),
    }
}

fn id(prefix: &str) -> String {
    format!("{prefix}{}", Uuid::new_v4().simple())
}

struct OpenMessage {
    id: String,
    text: String,
    logprobs: Vec<Value>,
}

impl OpenMessage {
    fn new() -> OpenMessage {
        OpenMessage {
            id: id("msg_"),
            text: String::new(),
            logprobs: Vec::new(),
        }
    }

    fn part(&self) -> Value {
        json!({"type": "output_text", "text": self.text, "annotations": [], "logprobs": self.logprobs})
    }

    fn item(&self, status: &str) -> Value {
        let content = match status {
            "in_progress" => json!([]),
            _ => json!([self.part()]),
        };
        json!({"id": self.id, "type": "message", "status": status, "role": "assistant", "content": content})
    }
}

struct OpenCall {
    id: String,
    call_id: String,
    name: String,
    arguments: String,
}

impl OpenCall {
    fn new(call_id: &str, name: &str) -> OpenCall {
        OpenCall {
            id: id("fc_"),
            call_id: call_id.to_owned(),
            name: name.to_owned(),
            arguments: String::new(),
        }
    }

    fn item(&self, status: &str) -> Value {
        json!({
            "id": self.id, "type": "function_call", "status": status, "call_id": self.call_id, "name": self.name,
            "arguments": self.arguments,
        })
    }
}

enum Open {
    Message(OpenMessage),
    Call(OpenCall),
}

/// Typed events.
pub(super) struct Stream {
    head: Head,
    echo: Echo,
    sequence: u64,
    /// Items that are closed.
    output: Vec<Value>,
    open: Option<Open>,
    stop: StopReason,
}

impl Stream {
    pub(super) fn new(head: Head, echo: Echo) -> Stream {
        Stream {
            head,
            echo,
            sequence: 0,
            output: Vec::new(),
            open: None,
            stop: StopReason::Stop,
        }
    }

    pub(super) fn begin(&mut self, out: &mut String) {
        let response = object(&self.head, &self.echo, Vec::new(), None);
        self.write(
            out,
            "response.created",
            json!({"response": response.clone()}),
        );
        self.write(out, "response.in_progress", json!({"response": response}));
    }

    pub(super) fn event(&mut self, out: &mut String, event: TokenEvent, padding: &mut Padding) {
        match event {
            TokenEvent::Text { text, logprobs, .. } => self.text(out, &text, &logprobs, padding),
            TokenEvent::ToolCallStart { id, name, .. } => {
                self.close(out, "completed");
                let call = OpenCall::new(&id, &name);
                self.added(out, call.item("in_progress"));
                self.open = Some(Open::Call(call));
            }
            TokenEvent::ToolCallArguments { text, .. } => {
                let index = self.output.len();
                let Some(Open::Call(call)) = &mut self.open else {
                    return;
                };
                call.arguments.push_str(&text);
                let fields = json!({"item_id": call.id, "output_index": index, "delta": text});
                self.delta(
                    out,
                    "response.function_call_arguments.delta",
                    fields,
                    padding,
                );
            }
            TokenEvent::Done { stop, .. } => {
                self.stop = stop;
                // An answer without a word is a message without one.
                if self.open.is_none() && self.output.is_empty() {
                    self.message(out);
                }
                self.close(out, item_status(stop));
            }
            TokenEvent::Failed(_) => {}
        }
    }

    pub(super) fn end(&mut self, out: &mut String, tally: Tally) {
        let output = std::mem::take(&mut self.output);
        let response = object(&self.head, &self.echo, output, Some((self.stop, tally)));
        let kind = match self.stop {
            StopReason::Length => "response.incomplete",
            StopReason::Stop | StopReason::ToolCalls => "response.completed",
        };
        self.write(out, kind, json!({"response": response}));
    }

    fn text(
        &mut self,
        out: &mut String,
        text: &str,
        logprobs: &[TokenLogprob],
        padding: &mut Padding,
    ) {
        if !matches!(self.open, Some(Open::Message(_))) {
            self.close(out, "completed");
            self.message(out);
        }
        let index = self.output.len();
        let Some(Open::Message(message)) = &mut self.open else {
            return;
        };
        message.text.push_str(text);
        let told = told_logprobs(logprobs);
        message.logprobs.extend(told.iter().cloned());
        let fields = json!({
            "item_id": message.id, "output_index": index, "content_index": 0, "delta": text, "logprobs": told,
        });
        self.delta(out, "response.output_text.delta", fields, padding);
    }

    fn message(&mut self, out: &mut String) {
        let message = OpenMessage::new();
        self.added(out, message.item("in_progress"));
        let fields = json!({
            "item_id": message.id, "output_index": self.output.len(), "content_index": 0, "part": message.part(),
        });
        self.write(out, "response.content_part.added", fields);
        self.open = Some(Open::Message(message));
    }

    fn added(&mut self, out: &mut String, item: Value) {
        let fields = json!({"output_index": self.output.len(), "item": item});
        self.write(out, "response.output_item.added", fields);
    }

    /// Ends the item that is open, if one is.
    fn close(&mut self, out: &mut String, status: &str) {
        let index = self.output.len();
        let item = match self.open.take() {
            None => return,
            Some(Open::Message(message)) => {
                let place =
                    json!({"item_id": message.id, "output_index": index, "content_index": 0});
                let with = |name: &str, value: Value| {
                    let mut fields = place.clone();
                    fields[name] = value;
                    fields
                };
                let mut done = with("text", json!(message.text));
                done["logprobs"] = json!(message.logprobs);
                self.write(out, "response.output_text.done", done);
                self.write(
                    out,
                    "response.content_part.done",
                    with("part", message.part()),
                );
                message.item(status)
            }
            Some(Open::Call(call)) => {
                let fields = json!({
                    "item_id": call.id, "output_index": index, "name": call.name, "arguments": call.arguments,
                });
                self.write(out, "response.function_call_arguments.done", fields);
                call.item(status)
            }
        };
        let fields = json!({"output_index": index, "item": item});
        self.write(out, "response.output_item.done", fields);
        self.output.push(item);
    }

    /// A piece of text, with what hides its length, under the name this API has for it.
    fn delta(&mut self, out: &mut String, kind: &str, mut fields: Value, padding: &mut Padding) {
        if let Some(padding) = padding.next() {
            fields["obfuscation"] = json!(padding);
        }
        self.write(out, kind, fields);
    }

    fn write(&mut self, out: &mut String, kind: &str, fields: Value) {
        let mut event = json!({"type": kind, "sequence_number": self.sequence});
        self.sequence += 1;
        if let (Value::Object(event), Value::Object(fields)) = (&mut event, fields) {
            event.extend(fields);
        }
        out.push_str(&format!("event: {kind}\ndata: {event}\n\n"));
    }
}
