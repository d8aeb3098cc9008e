//! The native form: an envelope around `response`, flat tool calls and usage.

use local_inference::{StopReason, TokenEvent, ToolCall};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{Padding, Usage, finish, write_event};
use crate::backend::local::events::{Choice, Tally};
use crate::backend::local::fault::to_json;

pub(super) fn whole(is_json: bool, choices: &[Choice], tally: Tally) -> Vec<u8> {
    // This form has room for one.
    let Some(choice) = choices.first() else {
        return to_json(&envelope(Response::Nothing, Vec::new(), "stop", tally));
    };
    let is_value = is_json && choice.calls.is_empty() && choice.stop == StopReason::Stop;
    let value = is_value
        .then(|| serde_json::from_str::<&RawValue>(&choice.text).ok())
        .flatten();
    let response = match value {
        Some(value) => Response::Value(value),
        None if !choice.calls.is_empty() && choice.text.trim().is_empty() => Response::Nothing,
        None => Response::Text(&choice.text),
    };
    let calls = choice.calls.iter().map(flat).collect();
    to_json(&envelope(response, calls, finish(choice.stop), tally))
}

fn envelope<'a>(
    response: Response<'a>,
    tool_calls: Vec<FlatCall<'a>>,
    finish_reason: &'static str,
    tally: Tally,
) -> Envelope<'a> {
    Envelope {
        result: NativeResult {
            response,
            tool_calls,
            finish_reason,
            usage: tally.into(),
        },
        success: true,
        errors: [],
        messages: [],
    }
}

fn flat(call: &ToolCall) -> FlatCall<'_> {
    let arguments = match serde_json::from_str(&call.arguments) {
        Ok(value) => Arguments::Value(value),
        // An answer that was cut in the middle of its call.
        Err(_) => Arguments::Text(&call.arguments),
    };
    FlatCall {
        name: &call.name,
        arguments,
    }
}

#[derive(Serialize)]
struct Envelope<'a> {
    result: NativeResult<'a>,
    success: bool,
    errors: [(); 0],
    messages: [(); 0],
}

#[derive(Serialize)]
struct NativeResult<'a> {
    response: Response<'a>,
    tool_calls: Vec<FlatCall<'a>>,
    finish_reason: &'static str,
    usage: Usage,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Response<'a> {
    Text(&'a str),
    Value(&'a RawValue),
    Nothing,
}

/// Flat, with arguments as an object: the original's own helper reads nothing else.
#[derive(Serialize)]
struct FlatCall<'a> {
    name: &'a str,
    arguments: Arguments<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Arguments<'a> {
    Value(&'a RawValue),
    Text(&'a str),
}

/// Chunks of the native form.
#[derive(Default)]
pub(super) struct Stream {
    has_calls: bool,
}

impl Stream {
    pub(super) fn event(&mut self, out: &mut String, event: TokenEvent, padding: &mut Padding) {
        let mut write = |response: &str, call, finish_reason| {
            let chunk = Chunk {
                response,
                tool_calls: call,
                finish_reason,
                usage: None,
                p: padding.next(),
            };
            write_event(out, &chunk);
        };
        match event {
            TokenEvent::Text { text, .. } if !text.is_empty() => write(&text, None, None),
            TokenEvent::ToolCallStart {
                index, id, name, ..
            } => {
                self.has_calls = true;
                let function = ChunkFunction {
                    name: Some(Some(&name)),
                    arguments: "",
                };
                let call = ChunkCall {
                    id: Some(Some(&id)),
                    kind: Some("function"),
                    index: Some(index),
                    function,
                };
                write("", Some([call]), None);
            }
            // A piece without a name and without text would be taken for the mark below.
            TokenEvent::ToolCallArguments { index, text, .. } if !text.is_empty() => {
                let function = ChunkFunction {
                    name: None,
                    arguments: &text,
                };
                let call = ChunkCall {
                    id: None,
                    kind: Some("function"),
                    index: Some(index),
                    function,
                };
                write("", Some([call]), None);
            }
            TokenEvent::Done { stop, .. } => {
                if self.has_calls {
                    // The original's mark after the last call.
                    let function = ChunkFunction {
                        name: Some(None),
                        arguments: "",
                    };
                    let call = ChunkCall {
                        id: Some(None),
                        kind: None,
                        index: None,
                        function,
                    };
                    write("", Some([call]), None);
                }
                write("", None, Some(finish(stop)));
            }
            TokenEvent::Text { .. }
            | TokenEvent::ToolCallArguments { .. }
            | TokenEvent::Failed(_) => {}
        }
    }

    pub(super) fn end(out: &mut String, tally: Tally) {
        let chunk = Chunk {
            response: "",
            tool_calls: None,
            finish_reason: None,
            usage: Some(tally.into()),
            p: None,
        };
        write_event(out, &chunk);
    }
}

/// `response` is a text in every chunk, the last included: a client of the original reads it unasked.
#[derive(Serialize)]
struct Chunk<'a> {
    response: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[ChunkCall<'a>; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p: Option<&'static str>,
}

/// A piece of a call. `Some(None)` is a null, `None` is left out.
#[derive(Serialize)]
struct ChunkCall<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Option<&'a str>>,
    #[serde(rename = "type")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u32>,
    function: ChunkFunction<'a>,
}

#[derive(Serialize)]
struct ChunkFunction<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<Option<&'a str>>,
    arguments: &'a str,
}
