//! Answers as bytes: native envelope, chat completion, text completion, response; whole and in pieces.

mod chat;
mod completion;
mod logprobs;
mod native;
mod responses;

use std::time::{SystemTime, UNIX_EPOCH};

use local_inference::{StopReason, TokenEvent};
use serde::Serialize;
use uuid::Uuid;

use super::events::{Choice, Tally};
use super::fault::to_json;
use super::input::Echo;

/// How an answer is to look.
#[derive(Debug, Clone)]
pub(super) struct Form {
    pub shape: Shape,
    /// A stream tells at its end what it took. The native form and responses always do.
    pub is_usage_wanted: bool,
    /// The text is JSON once it is finished, and the native form then tells it as a value.
    pub is_json: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Shape {
    Native,
    Chat,
    Completion,
    Responses(Box<Echo>),
}

/// What all pieces of one answer share.
#[derive(Debug, Clone)]
struct Head {
    id: String,
    created: u64,
    model: String,
}

/// An answer to be written.
pub(super) struct Answer {
    head: Head,
    form: Form,
    choices: u32,
}

impl Answer {
    pub(super) fn new(form: Form, model: &str, choices: u32) -> Answer {
        let prefix = match form.shape {
            Shape::Native | Shape::Chat => "chatcmpl-",
            Shape::Completion => "cmpl-",
            Shape::Responses(_) => "resp_",
        };
        Answer {
            head: Head {
                id: format!("{prefix}{}", Uuid::new_v4().simple()),
                created: SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |time| time.as_secs()),
                model: model.to_owned(),
            },
            form,
            choices,
        }
    }

    /// In one piece.
    pub(super) fn whole(self, choices: &[Choice], tally: Tally) -> Vec<u8> {
        match &self.form.shape {
            Shape::Native => native::whole(self.form.is_json, choices, tally),
            Shape::Chat => chat::whole(&self.head, choices, tally),
            Shape::Completion => completion::whole(&self.head, choices, tally),
            Shape::Responses(echo) => responses::whole(&self.head, echo, choices, tally),
        }
    }

    /// In pieces.
    pub(super) fn stream(self, padding: Padding) -> Stream {
        let Answer {
            head,
            form,
            choices,
        } = self;
        let writer = match form.shape {
            Shape::Native => Writer::Native(native::Stream::default()),
            Shape::Chat => Writer::Chat(chat::Stream::new(head, choices)),
            Shape::Completion => Writer::Completion(completion::Stream::new(head, choices)),
            Shape::Responses(echo) => {
                Writer::Responses(Box::new(responses::Stream::new(head, *echo)))
            }
        };
        Stream {
            writer,
            padding,
            is_usage_wanted: form.is_usage_wanted,
        }
    }
}

/// Writes server-sent events, one answer from its beginning to its end.
pub(super) struct Stream {
    writer: Writer,
    padding: Padding,
    is_usage_wanted: bool,
}

enum Writer {
    Native(native::Stream),
    Chat(chat::Stream),
    Completion(completion::Stream),
    Responses(Box<responses::Stream>),
}

impl Stream {
    /// What stands before the first text.
    pub(super) fn begin(&mut self, out: &mut String) {
        match &mut self.writer {
            Writer::Native(_) | Writer::Completion(_) => {}
            Writer::Chat(stream) => stream.begin(out, &mut self.padding),
            Writer::Responses(stream) => stream.begin(out),
        }
    }

    pub(super) fn event(&mut self, out: &mut String, event: TokenEvent) {
        let padding = &mut self.padding;
        match &mut self.writer {
            Writer::Native(stream) => stream.event(out, event, padding),
            Writer::Chat(stream) => stream.event(out, event, padding),
            Writer::Completion(stream) => stream.event(out, event, padding),
            Writer::Responses(stream) => stream.event(out, event, padding),
        }
    }

    /// The end: how much it took, and the mark that says the stream is whole.
    pub(super) fn end(&mut self, out: &mut String, tally: Tally) {
        match &mut self.writer {
            Writer::Native(_) => native::Stream::end(out, tally),
            Writer::Chat(stream) if self.is_usage_wanted => stream.usage(out, tally),
            Writer::Completion(stream) if self.is_usage_wanted => stream.usage(out, tally),
            Writer::Chat(_) | Writer::Completion(_) => {}
            // Its last event is the mark.
            Writer::Responses(stream) => return stream.end(out, tally),
        }
        out.push_str("data: [DONE]\n\n");
    }
}

fn finish(stop: StopReason) -> &'static str {
    match stop {
        StopReason::Stop => "stop",
        StopReason::Length => "length",
        StopReason::ToolCalls => "tool_calls",
    }
}

fn write_event(out: &mut String, value: &impl Serialize) {
    out.push_str("data: ");
    out.push_str(&String::from_utf8_lossy(&to_json(value)));
    out.push_str("\n\n");
}

#[derive(Debug, Serialize, Clone, Copy)]
pub(super) struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    prompt_tokens_details: PromptDetails,
}

#[derive(Debug, Serialize, Clone, Copy)]
struct PromptDetails {
    cached_tokens: u32,
}

impl From<Tally> for Usage {
    fn from(tally: Tally) -> Usage {
        Usage {
            prompt_tokens: tally.prompt_tokens,
            completion_tokens: tally.completion_tokens,
            total_tokens: tally.prompt_tokens + tally.completion_tokens,
            prompt_tokens_details: PromptDetails {
                cached_tokens: tally.cached_tokens,
            },
        }
    }
}

/// The object of both completion APIs, whole and as a chunk.
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
    p: Option<&'static str>,
}

impl Head {
    fn completion<C>(
        &self,
        object: &'static str,
        choices: Vec<C>,
        usage: Option<Usage>,
    ) -> Completion<'_, C> {
        Completion {
            id: &self.id,
            object,
            created: self.created,
            model: &self.model,
            choices,
            usage,
            p: None,
        }
    }
}

/// Text of random length in every chunk, so that sizes on the wire do not tell which tokens went by.
pub(super) struct Padding {
    /// `None`: switched off.
    state: Option<u64>,
}

const PADDING: &str = "abdefghijklmnoprstuvxyz1234567890abdefghijklmnoprstuvxyz1234567890";

impl Padding {
    pub(super) fn new(is_on: bool) -> Padding {
        Padding {
            state: is_on.then(|| Uuid::new_v4().as_u64_pair().0),
        }
    }

    fn next(&mut self) -> Option<&'static str> {
        let state = self.state.as_mut()?;
        // SplitMix64 from a secret start: an eavesdropper sees only sums of it and the text's length.
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Some(&PADDING[..((z ^ (z >> 31)) % (PADDING.len() as u64 + 1)) as usize])
    }
}
