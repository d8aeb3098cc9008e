//! `<tool_call>` object `</tool_call>`, any number of them in the text.

use super::call::{CallReader, Read};
use super::{Calls, MarkerMatcher, Match, Prose, ToolPiece};

pub(super) const OPEN: &str = "<tool_call>";
pub(super) const CLOSE: &str = "</tool_call>";

#[derive(Debug)]
enum State {
    Text(MarkerMatcher),
    Call(CallReader),
    /// After the object. A model that leaves the mark out is understood all the same.
    Close(MarkerMatcher),
}

#[derive(Debug)]
pub(super) struct Reader {
    state: State,
}

impl Reader {
    pub(super) fn new() -> Reader {
        Reader { state: text() }
    }

    pub(super) fn push(
        &mut self,
        letter: char,
        calls: &mut Calls,
        prose: &mut Prose,
        out: &mut Vec<ToolPiece>,
    ) {
        match &mut self.state {
            State::Text(matcher) => match matcher.push(letter) {
                Match::No(text) => prose.push_all(&text, out),
                Match::Maybe => {}
                Match::Yes => {
                    let before = prose.take_space() + OPEN;
                    self.state = State::Call(CallReader::new(before));
                }
            },
            State::Call(call) => match call.push(letter, calls, out) {
                Read::Going => {}
                Read::Done => {
                    prose.is_after_call = true;
                    self.state = State::Close(MarkerMatcher::new(CLOSE));
                }
                Read::Broken => {
                    let unsaid = call.unsaid();
                    call.abandon(calls, out);
                    self.state = text();
                    prose.push_all(&unsaid, out);
                    self.push(letter, calls, prose, out);
                }
            },
            State::Close(matcher) => {
                if matcher.held.is_empty() && letter.is_whitespace() {
                    prose.push(letter, out);
                    return;
                }
                match matcher.push(letter) {
                    Match::Maybe => {}
                    Match::Yes => {
                        prose.take_space();
                        self.state = text();
                    }
                    Match::No(given_back) => {
                        let rest = given_back + &matcher.finish();
                        self.state = text();
                        for letter in rest.chars() {
                            self.push(letter, calls, prose, out);
                        }
                    }
                }
            }
        }
    }

    pub(super) fn finish(
        &mut self,
        calls: &mut Calls,
        prose: &mut Prose,
        out: &mut Vec<ToolPiece>,
    ) {
        match &mut self.state {
            State::Text(matcher) | State::Close(matcher) => {
                let held = matcher.finish();
                prose.push_all(&held, out);
            }
            State::Call(call) => {
                let unsaid = call.unsaid();
                call.abandon(calls, out);
                prose.push_all(&unsaid, out);
            }
        }
        self.state = text();
    }
}

fn text() -> State {
    State::Text(MarkerMatcher::new(OPEN))
}
