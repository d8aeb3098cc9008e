//! OpenAI's chat completion, whole and in chunks.

use local_inference::{TokenEvent, ToolCall};
use serde::Serialize;

use super::logprobs::{self, ChatLogprobs};
use super::{Head, Padding, finish, write_event};
use crate::backend::local::events::{Choice, Tally};
use crate::backend::local::fault::to_json;

const CHUNK: &str = "chat.completion.chunk";

pub(super) fn whole(head: &Head, choices: &[Choice], tally: Tally) -> Vec<u8> {
    let choices = choices.iter().enumerate().map(|(index, choice)| {
        let is_silent = choice.text.trim().is_empty() && !choice.calls.is_empty();
        let calls = choice.calls.iter().map(whole_call).collect::<Vec<_>>();
        let message = Message {
            role: "assistant",
            content: (!is_silent).then_some(choice.text.as_str()),
            refusal: None,
            tool_calls: (!calls.is_empty()).then_some(calls),
        };
        WholeChoice {
            index: index as u32,
            message,
            logprobs: logprobs::chat(&choice.logprobs),
            finish_reason: finish(choice.stop),
            stop_reason: None,
        }
    });
    to_json(&head.completion("chat.completion", choices.collect(), Some(tally.into())))
}

fn whole_call(call: &ToolCall) -> WholeCall<'_> {
    WholeCall {
        id: &call.id,
        kind: "function",
        function: WholeFunction {
            name: &call.name,
            arguments: &call.arguments,
        },
    }
}

#[derive(Serialize)]
struct WholeChoice<'a> {
    index: u32,
    message: Message<'a>,
    logprobs: Option<ChatLogprobs<'a>>,
    finish_reason: &'static str,
    stop_reason: Option<()>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: Option<&'a str>,
    refusal: Option<()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<Vec<WholeCall<'a>>>,
}

#[derive(Serialize)]
struct WholeCall<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    function: WholeFunction<'a>,
}

#[derive(Serialize)]
struct WholeFunction<'a> {
    name: &'a str,
    arguments: &'a str,
}

/// Chunks.
pub(super) struct Stream {
    head: Head,
    choices: u32,
}

impl Stream {
    pub(super) fn new(head: Head, choices: u32) -> Stream {
        Stream { head, choices }
    }

    pub(super) fn begin(&self, out: &mut String, padding: &mut Padding) {
        for index in 0..self.choices {
            let delta = Delta {
                role: Some("assistant"),
                content: Some(""),
                tool_calls: None,
            };
            self.write(out, ChunkChoice::new(index, delta), padding);
        }
    }

    pub(super) fn event(&self, out: &mut String, event: TokenEvent, padding: &mut Padding) {
        match event {
            TokenEvent::Text {
                choice,
                text,
                logprobs,
            } => {
                let delta = Delta {
                    content: Some(&text),
                    ..Delta::default()
                };
                let told = ChunkChoice {
                    logprobs: logprobs::chat(&logprobs),
                    ..ChunkChoice::new(choice, delta)
                };
                self.write(out, told, padding);
            }
            TokenEvent::ToolCallStart {
                choice,
                index,
                id,
                name,
            } => {
                let call = ChunkCall {
                    index,
                    id: Some(&id),
                    kind: Some("function"),
                    function: ChunkFunction {
                        name: Some(&name),
                        arguments: "",
                    },
                };
                self.write(out, ChunkChoice::new(choice, Delta::call(call)), padding);
            }
            TokenEvent::ToolCallArguments {
                choice,
                index,
                text,
            } => {
                let call = ChunkCall {
                    index,
                    id: None,
                    kind: None,
                    function: ChunkFunction {
                        name: None,
                        arguments: &text,
                    },
                };
                self.write(out, ChunkChoice::new(choice, Delta::call(call)), padding);
            }
            TokenEvent::Done { choice, stop, .. } => {
                let told = ChunkChoice {
                    finish_reason: Some(finish(stop)),
                    ..ChunkChoice::new(choice, Delta::default())
                };
                self.write(out, told, padding);
            }
            TokenEvent::Failed(_) => {}
        }
    }

    pub(super) fn usage(&self, out: &mut String, tally: Tally) {
        let none = Vec::<ChunkChoice<'_>>::new();
        write_event(out, &self.head.completion(CHUNK, none, Some(tally.into())));
    }

    fn write(&self, out: &mut String, choice: ChunkChoice<'_>, padding: &mut Padding) {
        let mut chunk = self.head.completion(CHUNK, vec![choice], None);
        chunk.p = padding.next();
        write_event(out, &chunk);
    }
}

#[derive(Serialize)]
struct ChunkChoice<'a> {
    index: u32,
    delta: Delta<'a>,
    logprobs: Option<ChatLogprobs<'a>>,
    finish_reason: Option<&'static str>,
}

impl<'a> ChunkChoice<'a> {
    fn new(index: u32, delta: Delta<'a>) -> ChunkChoice<'a> {
        ChunkChoice {
            index,
            delta,
            logprobs: None,
            finish_reason: None,
        }
    }
}

#[derive(Serialize, Default)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[ChunkCall<'a>; 1]>,
}

impl<'a> Delta<'a> {
    fn call(call: ChunkCall<'a>) -> Delta<'a> {
        Delta {
            tool_calls: Some([call]),
            ..Delta::default()
        }
    }
}

/// Id and name come with the first piece of a call, and never again.
#[derive(Serialize)]
struct ChunkCall<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: ChunkFunction<'a>,
}

#[derive(Serialize)]
struct ChunkFunction<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: &'a str,
}
