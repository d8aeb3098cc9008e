//! Tool calls: how each family writes them, read from a stream of text and, where a call is forced, held by a grammar.
//!
//! [`ToolFormat::detect`] says from a model's chat template which way it writes calls. [`ToolReader`] takes the answer's text
//! in pieces of any size and gives text and calls; nothing is lost: what looks like a call and is none (a function nobody
//! offered, broken JSON) comes out as the text it was. [`ToolFormat::lark`] is the grammar of a forced call, for
//! [`crate::sample::grammar`]. [`prompted`] describes tools to models whose template has no place for them.
//!
//! In the engine: the prompt is rendered with the tools (or with [`prompted::system_text`] in front); per answer one reader
//! stands between the stop matcher and the outbox. A marker that is a control token writes no bytes of its own; while a reader is
//! active its text is [`Markers::text`]. The reader wants `push` for each piece and `finish` at the end of the answer.
//! An answer with at least one call ends with `StopReason::ToolCalls`, unless its length ran out within one.

mod bare;
mod call;
mod grammar;
mod hermes;
mod json_value;
mod mistral;
pub(crate) mod prompted;

use crate::request::Tool;
pub(crate) use grammar::{CallsFrom, arguments_name};

/// Calls of one answer; text that looks like more stays text.
const MAX_CALLS: u32 = 64;

/// A family's way of writing calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ToolFormat {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, once a call: Hermes, Qwen.
    Hermes,
    /// `{"name": …, "parameters": {…}}` as the whole answer, after `<|python_tag|>` or not.
    Llama3,
    /// `[TOOL_CALLS][{"name": …, "arguments": {…}}, …]`.
    Mistral,
    /// `[TOOL_CALLS]name[ARGS]{…}`, once a call: Mistral's models since 2025.
    MistralNamed,
    /// `{"name": …, "arguments": {…}}` as the whole answer: models that learnt no way, and do as the prompt says.
    Json,
}

impl ToolFormat {
    /// By the marks a template leaves: the marker its examples show or, for Llama, the tag or the key it writes.
    /// A template that names no tools gives [`ToolFormat::Json`]: see [`prompted`]. `has_token` says whether a text is one token
    /// of the vocabulary; it speaks for templates that leave the marker to the tokenizer.
    pub(crate) fn detect(template: &str, has_token: impl Fn(&str) -> bool) -> ToolFormat {
        let says = |text: &str| template.contains(text);
        if !uses_tools(template) {
            ToolFormat::Json
        } else if says("[TOOL_CALLS]") && says("[ARGS]") {
            ToolFormat::MistralNamed
        } else if says("[TOOL_CALLS]") {
            ToolFormat::Mistral
        } else if says("<tool_call>") {
            ToolFormat::Hermes
        } else if says("<|python_tag|>") || says("\"parameters\": ") || says("<|eot_id|>") {
            ToolFormat::Llama3
        } else if has_token("[TOOL_CALLS]") {
            ToolFormat::Mistral
        } else if has_token("<tool_call>") {
            ToolFormat::Hermes
        } else {
            ToolFormat::Json
        }
    }
}

/// Whether a chat template puts tools into the prompt by itself.
pub(crate) fn uses_tools(template: &str) -> bool {
    // `tools` as a variable: in a statement or an expression, not in prose.
    template
        .split("{%")
        .skip(1)
        .filter_map(|rest| rest.split("%}").next())
        .chain(
            template
                .split("{{")
                .skip(1)
                .filter_map(|rest| rest.split("}}").next()),
        )
        .any(|code| {
            code.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
                .any(|word| word == "tools")
        })
}

/// A finding of [`ToolReader`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ToolPiece {
    Text(String),
    /// Calls of an answer are numbered from 0.
    CallStart {
        index: u32,
        name: String,
    },
    /// The next piece of the arguments' JSON text.
    Arguments {
        index: u32,
        text: String,
    },
    CallEnd {
        index: u32,
    },
}

/// The tokens that mark calls in a vocabulary and write no bytes, being control tokens, with the text they stand for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Markers(Vec<(u32, &'static str)>);

impl Markers {
    const TEXTS: [&'static str; 6] = [
        "<tool_call>",
        "</tool_call>",
        "<|python_tag|>",
        "[TOOL_CALLS]",
        "[ARGS]",
        "[CALL_ID]",
    ];

    /// `control` gives the id of the control token with this text, if there is one.
    pub(crate) fn new(control: impl Fn(&str) -> Option<u32>) -> Markers {
        let found = Markers::TEXTS.into_iter();
        Markers(
            found
                .filter_map(|text| Some((control(text)?, text)))
                .collect(),
        )
    }

    /// What `token` writes for a [`ToolReader`]; `None` for all but the markers.
    pub(crate) fn text(&self, token: u32) -> Option<&'static str> {
        let found = self.0.iter().find(|(id, _)| *id == token);
        found.map(|(_, text)| *text)
    }

    pub(crate) fn token(&self, text: &str) -> Option<u32> {
        let found = self.0.iter().find(|(_, marker)| *marker == text);
        found.map(|(id, _)| *id)
    }
}

/// An id for a call, not to be guessed or met twice: `call_` and 24 letters and digits, or nine of them for Mistral, whose
/// template takes no other.
pub(crate) fn call_id(format: ToolFormat) -> String {
    use std::hash::{BuildHasher, Hasher};
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let (prefix, length) = match format {
        ToolFormat::Mistral | ToolFormat::MistralNamed => ("", 9),
        _ => ("call_", 24),
    };
    let mut id = prefix.to_owned();
    while id.len() < prefix.len() + length {
        // The standard library seeds each of these anew from the system's randomness.
        let mut bits = std::collections::hash_map::RandomState::new()
            .build_hasher()
            .finish();
        for _ in 0..10 {
            if id.len() < prefix.len() + length {
                id.push(char::from(ALPHABET[(bits % 62) as usize]));
                bits /= 62;
            }
        }
    }
    id
}

/// Which functions may be called and how many calls there were.
#[derive(Debug)]
struct Calls {
    names: Vec<String>,
    next: u32,
}

impl Calls {
    fn knows(&self, name: &str) -> bool {
        self.next < MAX_CALLS && self.names.iter().any(|known| known == name)
    }

    fn start(&mut self, name: String, out: &mut Vec<ToolPiece>) {
        let index = self.next;
        self.next += 1;
        out.push(ToolPiece::CallStart { index, name });
    }

    /// Of the call that began last.
    fn arguments(&self, text: &str, out: &mut Vec<ToolPiece>) {
        match out.last_mut() {
            Some(ToolPiece::Arguments { text: before, .. }) => before.push_str(text),
            _ => out.push(ToolPiece::Arguments {
                index: self.next.saturating_sub(1),
                text: text.to_owned(),
            }),
        }
    }

    fn end(&self, out: &mut Vec<ToolPiece>) {
        out.push(ToolPiece::CallEnd {
            index: self.next.saturating_sub(1),
        });
    }
}

/// Text that belongs to no call. White space waits for what follows: next to a call it is part of the way calls are written.
#[derive(Debug, Default)]
struct Prose {
    space: String,
    /// Whether the last thing said was a call.
    is_after_call: bool,
}

impl Prose {
    fn push(&mut self, letter: char, out: &mut Vec<ToolPiece>) {
        if letter.is_whitespace() {
            self.space.push(letter);
            return;
        }
        let mut text = std::mem::take(&mut self.space);
        text.push(letter);
        self.is_after_call = false;
        match out.last_mut() {
            Some(ToolPiece::Text(before)) => before.push_str(&text),
            _ => out.push(ToolPiece::Text(text)),
        }
    }

    fn push_all(&mut self, text: &str, out: &mut Vec<ToolPiece>) {
        for letter in text.chars() {
            self.push(letter, out);
        }
    }

    /// A call may be beginning: the space in front of it is its own, to be given back if it is none.
    fn take_space(&mut self) -> String {
        std::mem::take(&mut self.space)
    }

    fn finish(&mut self, out: &mut Vec<ToolPiece>) {
        let space = self.take_space();
        if !space.is_empty() && !self.is_after_call {
            match out.last_mut() {
                Some(ToolPiece::Text(before)) => before.push_str(&space),
                _ => out.push(ToolPiece::Text(space)),
            }
        }
    }
}

/// A marker in a stream of letters.
#[derive(Debug)]
struct MarkerMatcher {
    marker: &'static str,
    held: String,
}

/// What a letter did to the match.
enum Match {
    /// The letter, and with it those given back, are no beginning of the marker.
    No(String),
    /// Held: it may become the marker.
    Maybe,
    /// The marker is whole.
    Yes,
}

impl MarkerMatcher {
    fn new(marker: &'static str) -> MarkerMatcher {
        MarkerMatcher {
            marker,
            held: String::new(),
        }
    }

    fn push(&mut self, letter: char) -> Match {
        self.held.push(letter);
        let mut given_back = String::new();
        while !self.marker.starts_with(self.held.as_str()) {
            given_back.push(self.held.remove(0));
        }
        if !given_back.is_empty() {
            return Match::No(given_back);
        }
        if self.held == self.marker {
            self.held.clear();
            return Match::Yes;
        }
        Match::Maybe
    }

    fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[derive(Debug)]
enum Frame {
    Hermes(hermes::Reader),
    Mistral(mistral::Reader),
    Bare(bare::Reader),
}

/// Reads one answer. What comes out does not depend on where the text was cut, beyond the cuts in `Text` and `Arguments`.
/// It holds back a beginning that may become a call until it is decided: at most as much as the caller lets the model write.
#[derive(Debug)]
pub(crate) struct ToolReader {
    frame: Frame,
    calls: Calls,
    prose: Prose,
}

impl ToolReader {
    pub(crate) fn new(format: ToolFormat, tools: &[Tool]) -> ToolReader {
        let frame = match format {
            ToolFormat::Hermes => Frame::Hermes(hermes::Reader::new()),
            ToolFormat::Mistral | ToolFormat::MistralNamed => {
                Frame::Mistral(mistral::Reader::new())
            }
            ToolFormat::Llama3 | ToolFormat::Json => Frame::Bare(bare::Reader::new()),
        };
        ToolReader {
            frame,
            calls: Calls {
                names: tools.iter().map(|tool| tool.name.clone()).collect(),
                next: 0,
            },
            prose: Prose::default(),
        }
    }

    /// Appends to `out` what `text` brings.
    pub(crate) fn push(&mut self, text: &str, out: &mut Vec<ToolPiece>) {
        for letter in text.chars() {
            let (calls, prose) = (&mut self.calls, &mut self.prose);
            match &mut self.frame {
                Frame::Hermes(reader) => reader.push(letter, calls, prose, out),
                Frame::Mistral(reader) => reader.push(letter, calls, prose, out),
                Frame::Bare(reader) => reader.push(letter, calls, prose, out),
            }
        }
    }

    /// The answer is over: what was held comes out, and a call that was cut off ends where it is.
    pub(crate) fn finish(&mut self, out: &mut Vec<ToolPiece>) {
        let (calls, prose) = (&mut self.calls, &mut self.prose);
        match &mut self.frame {
            Frame::Hermes(reader) => reader.finish(calls, prose, out),
            Frame::Mistral(reader) => reader.finish(calls, prose, out),
            Frame::Bare(reader) => reader.finish(calls, prose, out),
        }
        self.prose.finish(out);
    }

    /// Calls begun so far.
    pub(crate) fn calls(&self) -> u32 {
        self.calls.next
    }
}

#[cfg(test)]
mod tests;
