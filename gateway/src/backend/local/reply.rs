//! Answers as bytes: native envelope, chat completion, text completion; whole and in pieces.

use local_inference::StopReason;
use serde::Serialize;
use std::time::{SystemTime, UNIX_EPOCH};
use uuid::Uuid;

use super::fault::to_json;

/// Which form the caller speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Native,
    Chat,
    Completion,
}

/// What all pieces of one answer share.
pub(super) struct Answer {
    shape: Shape,
    id: String,
    created: u64,
    model: String,
    prompt_tokens: u32,
    is_usage_wanted: bool,
}

impl Answer {
    pub(super) fn new(
        shape: Shape,
        model: &str,
        prompt_tokens: u32,
        is_usage_wanted: bool,
    ) -> Answer {
        let prefix = if shape == Shape::Completion {
            "cmpl"
        } else {
            "chatcmpl"
        };
        Answer {
            shape,
            id: format!("{prefix}-{}", Uuid::new_v4().simple()),
            created: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |time| time.as_secs()),
            model: model.to_owned(),
            prompt_tokens,
            is_usage_wanted,
        }
    }

    /// The answer in one piece.
    pub(super) fn whole(&self, text: &str, stop: StopReason, completion_tokens: u32) -> Vec<u8> {
        let usage = self.usage(completion_tokens);
        let finish_reason = Some(finish(stop));
        match self.shape {
            Shape::Native => to_json(&Envelope {
                result: NativeResult {
                    response: text,
                    tool_calls: [],
                    usage,
                },
                success: true,
                errors: [],
                messages: [],
            }),
            Shape::Chat => {
                let message = ChatMessage {
                    role: "assistant",
                    content: text,
                    refusal: None,
                };
                let choice = ChatChoice {
                    index: 0,
                    message,
                    logprobs: None,
                    finish_reason,
                    stop_reason: None,
                };
                to_json(&self.completion("chat.completion", vec![choice], Some(usage), None))
            }
            Shape::Completion => {
                let choice = TextChoice {
                    index: 0,
                    text,
                    logprobs: None,
                    finish_reason,
                };
                to_json(&self.completion("text_completion", vec![choice], Some(usage), None))
            }
        }
    }

    /// What stands before the first text.
    pub(super) fn head_event(&self, padding: &str) -> String {
        match self.shape {
            Shape::Chat => {
                let delta = Delta {
                    role: Some("assistant"),
                    content: Some(""),
                };
                self.chat_event(delta, None, padding)
            }
            Shape::Native | Shape::Completion => String::new(),
        }
    }

    /// One piece of text as one event.
    pub(super) fn text_event(&self, text: &str, padding: &str) -> String {
        match self.shape {
            Shape::Native => event(&NativeChunk {
                response: text,
                p: Some(padding),
                usage: None,
            }),
            Shape::Chat => self.chat_event(
                Delta {
                    role: None,
                    content: Some(text),
                },
                None,
                padding,
            ),
            Shape::Completion => self.completion_event(text, None, padding),
        }
    }

    /// The end: why, how much, and the mark that says the stream is whole.
    pub(super) fn end_events(
        &self,
        stop: StopReason,
        completion_tokens: u32,
        padding: &str,
    ) -> String {
        let usage = self.usage(completion_tokens);
        let finish_reason = Some(finish(stop));
        let mut events = match self.shape {
            Shape::Native => String::new(),
            Shape::Chat => self.chat_event(
                Delta {
                    role: None,
                    content: None,
                },
                finish_reason,
                padding,
            ),
            Shape::Completion => self.completion_event("", finish_reason, padding),
        };
        match self.shape {
            Shape::Native => {
                events += &event(&NativeChunk {
                    response: "",
                    p: None,
                    usage: Some(usage),
                });
            }
            Shape::Chat if self.is_usage_wanted => {
                let choices = Vec::<ChunkChoice<'_>>::new();
                events +=
                    &event(&self.completion("chat.completion.chunk", choices, Some(usage), None));
            }
            Shape::Completion if self.is_usage_wanted => {
                let choices = Vec::<TextChoice<'_>>::new();
                events += &event(&self.completion("text_completion", choices, Some(usage), None));
            }
            Shape::Chat | Shape::Completion => {}
        }
        events + "data: [DONE]\n\n"
    }

    fn chat_event(
        &self,
        delta: Delta<'_>,
        finish_reason: Option<&'static str>,
        padding: &str,
    ) -> String {
        let choice = ChunkChoice {
            index: 0,
            delta,
            logprobs: None,
            finish_reason,
        };
        event(&self.completion("chat.completion.chunk", vec![choice], None, Some(padding)))
    }

    fn completion_event(
        &self,
        text: &str,
        finish_reason: Option<&'static str>,
        padding: &str,
    ) -> String {
        let choice = TextChoice {
            index: 0,
            text,
            logprobs: None,
            finish_reason,
        };
        event(&self.completion("text_completion", vec![choice], None, Some(padding)))
    }

    fn completion<'a, C>(
        &'a self,
        object: &'static str,
        choices: Vec<C>,
        usage: Option<Usage>,
        p: Option<&'a str>,
    ) -> Completion<'a, C> {
        Completion {
            id: &self.id,
            object,
            created: self.created,
            model: &self.model,
            choices,
            usage,
            p,
        }
    }

    fn usage(&self, completion_tokens: u32) -> Usage {
        Usage {
            prompt_tokens: self.prompt_tokens,
            completion_tokens,
            total_tokens: self.prompt_tokens + completion_tokens,
        }
    }
}

fn finish(stop: StopReason) -> &'static str {
    match stop {
        StopReason::Stop => "stop",
        StopReason::Length => "length",
        StopReason::ToolCalls => "tool_calls",
    }
}

fn event(value: &impl Serialize) -> String {
    format!("data: {}\n\n", String::from_utf8_lossy(&to_json(value)))
}

#[derive(Serialize, Clone, Copy)]
struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
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
    response: &'a str,
    tool_calls: [(); 0],
    usage: Usage,
}

/// `response` is a text in every chunk, the last included: a client of the original reads it unasked.
#[derive(Serialize)]
struct NativeChunk<'a> {
    response: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    p: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

#[derive(Serialize)]
struct Completion<'a, C> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<C>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p: Option<&'a str>,
}

#[derive(Serialize)]
struct ChatChoice<'a> {
    index: u32,
    message: ChatMessage<'a>,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
    stop_reason: Option<()>,
}

#[derive(Serialize)]
struct ChatMessage<'a> {
    role: &'static str,
    content: &'a str,
    refusal: Option<()>,
}

#[derive(Serialize)]
struct ChunkChoice<'a> {
    index: u32,
    delta: Delta<'a>,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

#[derive(Serialize)]
struct TextChoice<'a> {
    index: u32,
    text: &'a str,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
}
