//! OpenAI's legacy text completion, whole and in chunks.

use local_inference::TokenEvent;
use serde::Serialize;

use super::logprobs::{self, CompletionLogprobs};
use super::{Head, Padding, finish, write_event};
use crate::backend::local::events::{Choice, Tally};
use crate::backend::local::fault::to_json;

const OBJECT: &str = "text_completion";

pub(super) fn whole(head: &Head, choices: &[Choice], tally: Tally) -> Vec<u8> {
    let choices = choices
        .iter()
        .enumerate()
        .map(|(index, choice)| TextChoice {
            index: index as u32,
            text: &choice.text,
            logprobs: logprobs::completion(&choice.logprobs, &mut 0),
            finish_reason: Some(finish(choice.stop)),
        });
    to_json(&head.completion(OBJECT, choices.collect(), Some(tally.into())))
}

/// Chunks.
pub(super) struct Stream {
    head: Head,
    /// Characters told of each choice.
    offsets: Vec<usize>,
}

impl Stream {
    pub(super) fn new(head: Head, choices: u32) -> Stream {
        Stream {
            head,
            offsets: vec![0; choices as usize],
        }
    }

    pub(super) fn event(&mut self, out: &mut String, event: TokenEvent, padding: &mut Padding) {
        let mut nowhere = 0;
        let told = match &event {
            TokenEvent::Text {
                choice,
                text,
                logprobs,
            } => {
                let offset = self.offsets.get_mut(*choice as usize);
                TextChoice {
                    index: *choice,
                    text,
                    logprobs: logprobs::completion(logprobs, offset.unwrap_or(&mut nowhere)),
                    finish_reason: None,
                }
            }
            TokenEvent::Done { choice, stop, .. } => TextChoice {
                index: *choice,
                text: "",
                logprobs: None,
                finish_reason: Some(finish(*stop)),
            },
            // Prompts of this form have no tools.
            TokenEvent::ToolCallStart { .. }
            | TokenEvent::ToolCallArguments { .. }
            | TokenEvent::Failed(_) => return,
        };
        let mut chunk = self.head.completion(OBJECT, vec![told], None);
        chunk.p = padding.next();
        write_event(out, &chunk);
    }

    pub(super) fn usage(&self, out: &mut String, tally: Tally) {
        let none = Vec::<TextChoice<'_>>::new();
        write_event(out, &self.head.completion(OBJECT, none, Some(tally.into())));
    }
}

#[derive(Serialize)]
struct TextChoice<'a> {
    index: u32,
    text: &'a str,
    logprobs: Option<CompletionLogprobs>,
    finish_reason: Option<&'static str>,
}
