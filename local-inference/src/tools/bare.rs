//! Calls that are the whole answer: an object, several in a row (`; ` or white space between them) or in an array, in a code fence or not,
//! after Llama's `<|python_tag|>` or not. An object further on in the text is text: only the marker begins a call there.

use super::call::{CallReader, Read};
use super::{Calls, MarkerMatcher, Match, Prose, ToolPiece};

pub(super) const TAG: &str = "<|python_tag|>";
const FENCE: &str = "```";

#[derive(Debug)]
enum State {
    /// Where a call may begin: at the start, after the marker, after a call. Holds what to give back.
    Start(String),
    Call(CallReader),
    Text(MarkerMatcher),
}

#[derive(Debug)]
pub(super) struct Reader {
    state: State,
}

impl Reader {
    pub(super) fn new() -> Reader {
        Reader {
            state: State::Start(String::new()),
        }
    }

    pub(super) fn push(
        &mut self,
        letter: char,
        calls: &mut Calls,
        prose: &mut Prose,
        out: &mut Vec<ToolPiece>,
    ) {
        match &mut self.state {
            State::Start(held) => {
                if letter == '{' {
                    let mut call = CallReader::new(std::mem::take(held));
                    // The first letter of an object is never the last, nor broken.
                    call.push(letter, calls, out);
                    self.state = State::Call(call);
                    return;
                }
                held.push(letter);
                if !may_lead_in(held.trim_start(), prose.is_after_call) {
                    let unsaid = std::mem::take(held);
                    self.give_back(&unsaid, calls, prose, out);
                }
            }
            State::Call(call) => match call.push(letter, calls, out) {
                Read::Going => {}
                Read::Done => {
                    prose.is_after_call = true;
                    self.state = State::Start(String::new());
                }
                Read::Broken => {
                    let mut unsaid = call.unsaid();
                    unsaid.push(letter);
                    call.abandon(calls, out);
                    self.give_back(&unsaid, calls, prose, out);
                }
            },
            State::Text(matcher) => match matcher.push(letter) {
                Match::No(given_back) => prose.push_all(&given_back, out),
                Match::Maybe => {}
                Match::Yes => self.state = State::Start(prose.take_space() + TAG),
            },
        }
    }

    /// It was no call. A marker that led here is text by now; one that follows counts.
    fn give_back(
        &mut self,
        unsaid: &str,
        calls: &mut Calls,
        prose: &mut Prose,
        out: &mut Vec<ToolPiece>,
    ) {
        self.state = text();
        let after_tag = match unsaid.find(TAG) {
            Some(at) => at + TAG.len(),
            None => 0,
        };
        prose.push_all(&unsaid[..after_tag], out);
        for letter in unsaid[after_tag..].chars() {
            self.push(letter, calls, prose, out);
        }
    }

    pub(super) fn finish(
        &mut self,
        calls: &mut Calls,
        prose: &mut Prose,
        out: &mut Vec<ToolPiece>,
    ) {
        match &mut self.state {
            // Behind a call: the end of its array or fence.
            State::Start(_) if prose.is_after_call => {}
            State::Start(held) => {
                let held = std::mem::take(held);
                prose.push_all(&held, out);
            }
            State::Call(call) => {
                let unsaid = call.unsaid();
                call.abandon(calls, out);
                prose.push_all(&unsaid, out);
            }
            State::Text(matcher) => {
                let held = matcher.finish();
                prose.push_all(&held, out);
            }
        }
        self.state = text();
    }
}

fn text() -> State {
    State::Text(MarkerMatcher::new(TAG))
}

/// Whether an object after `held`, or after `held` and more, would be a call.
fn may_lead_in(held: &str, is_after_call: bool) -> bool {
    if is_after_call {
        // The ends of an array and a fence, the marks between calls.
        let rest = held.trim_matches(|letter: char| {
            letter.is_whitespace() || matches!(letter, ';' | ',' | ']' | '`')
        });
        return TAG.starts_with(rest);
    }
    let rest = match held.strip_prefix(TAG) {
        Some(rest) => rest.trim_start(),
        None if TAG.starts_with(held) => return true,
        None => held,
    };
    let rest = match rest.strip_prefix(FENCE) {
        Some(rest) => {
            let inside = rest.trim_start_matches(|letter: char| letter.is_ascii_alphabetic());
            let language = &rest[..rest.len() - inside.len()];
            if !"json".starts_with(language) {
                return false;
            }
            inside.trim_start()
        }
        None if FENCE.starts_with(rest) => return true,
        None => rest,
    };
    rest.is_empty() || rest.trim_end() == "["
}
