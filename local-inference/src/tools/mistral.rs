//! `[TOOL_CALLS]`, then an array of call objects, or a name, perhaps `[CALL_ID]` and an id, perhaps `[ARGS]`, and an object.

use super::call::{CallReader, Read};
use super::json_value::{JsonValue, Scan};
use super::{Calls, MarkerMatcher, Match, Prose, ToolPiece};

pub(super) const OPEN: &str = "[TOOL_CALLS]";
pub(super) const ARGUMENTS: &str = "[ARGS]";
const CALL_ID: &str = "[CALL_ID]";
/// Names are at most 64 letters and ids a few more; what is longer is prose.
const MAX_HEAD_BYTES: usize = 256;

#[derive(Debug)]
enum State {
    Text(MarkerMatcher),
    /// After the marker; holds what to give back.
    Open(String),
    /// A name and what may follow it, up to `{`. The first part of `held` is the marker.
    Head {
        held: String,
        head: String,
    },
    /// The arguments after a name.
    Arguments(JsonValue),
    /// An object of an array, or one without.
    Call {
        call: CallReader,
        in_array: bool,
    },
    /// Between the objects of an array; holds what to give back.
    Between(String),
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
                Match::No(given_back) => prose.push_all(&given_back, out),
                Match::Maybe => {}
                Match::Yes => self.state = State::Open(prose.take_space() + OPEN),
            },
            State::Open(held) if letter.is_whitespace() => held.push(letter),
            State::Open(held) => {
                let mut held = std::mem::take(held);
                match letter {
                    '[' => {
                        held.push(letter);
                        self.state = State::Between(held);
                    }
                    '{' => self.begin_call(held, false, calls, prose, out),
                    _ => {
                        let head = String::new();
                        self.state = State::Head { held, head };
                        self.push(letter, calls, prose, out);
                    }
                }
            }
            State::Head { held, head } => {
                if letter != '{' && head.len() < MAX_HEAD_BYTES && may_be_in_head(letter) {
                    head.push(letter);
                    return;
                }
                let name = name(head).to_owned();
                if letter != '{' || !calls.knows(&name) {
                    let unsaid = std::mem::take(held) + head;
                    self.give_back(&unsaid, letter, calls, prose, out);
                    return;
                }
                calls.start(name, out);
                self.state = State::Arguments(JsonValue::new());
                self.push(letter, calls, prose, out);
            }
            State::Arguments(value) => match value.push(letter) {
                Scan::Inside => calls.arguments(letter.encode_utf8(&mut [0; 4]), out),
                Scan::Last => {
                    calls.arguments(letter.encode_utf8(&mut [0; 4]), out);
                    calls.end(out);
                    prose.is_after_call = true;
                    self.state = text();
                }
                Scan::After | Scan::Broken => {
                    calls.end(out);
                    self.give_back("", letter, calls, prose, out);
                }
            },
            State::Call { call, in_array } => match call.push(letter, calls, out) {
                Read::Going => {}
                Read::Done => {
                    prose.is_after_call = true;
                    self.state = match *in_array {
                        true => State::Between(String::new()),
                        false => text(),
                    };
                }
                Read::Broken => {
                    let unsaid = call.unsaid();
                    call.abandon(calls, out);
                    self.give_back(&unsaid, letter, calls, prose, out);
                }
            },
            State::Between(held) => match letter {
                '{' => {
                    let held = std::mem::take(held);
                    self.begin_call(held, true, calls, prose, out);
                }
                ']' if prose.is_after_call => self.state = text(),
                ',' => held.push(letter),
                _ if letter.is_whitespace() => held.push(letter),
                _ => {
                    let unsaid = std::mem::take(held);
                    self.give_back(&unsaid, letter, calls, prose, out);
                }
            },
        }
    }

    fn begin_call(
        &mut self,
        held: String,
        in_array: bool,
        calls: &mut Calls,
        prose: &mut Prose,
        out: &mut Vec<ToolPiece>,
    ) {
        let call = CallReader::new(held);
        self.state = State::Call { call, in_array };
        self.push('{', calls, prose, out);
    }

    /// It was no call: `unsaid` is text, and `letter` begins anew.
    fn give_back(
        &mut self,
        unsaid: &str,
        letter: char,
        calls: &mut Calls,
        prose: &mut Prose,
        out: &mut Vec<ToolPiece>,
    ) {
        self.state = text();
        prose.push_all(unsaid, out);
        self.push(letter, calls, prose, out);
    }

    pub(super) fn finish(
        &mut self,
        calls: &mut Calls,
        prose: &mut Prose,
        out: &mut Vec<ToolPiece>,
    ) {
        let unsaid = match &mut self.state {
            State::Text(matcher) => matcher.finish(),
            State::Open(held) => std::mem::take(held),
            State::Head { held, head } => std::mem::take(held) + head,
            State::Arguments(_) => {
                calls.end(out);
                String::new()
            }
            State::Call { call, .. } => {
                let unsaid = call.unsaid();
                call.abandon(calls, out);
                unsaid
            }
            // An array that was not closed has said all its calls.
            State::Between(held) if prose.is_after_call => {
                held.clear();
                String::new()
            }
            State::Between(held) => std::mem::take(held),
        };
        prose.push_all(&unsaid, out);
        self.state = text();
    }
}

fn text() -> State {
    State::Text(MarkerMatcher::new(OPEN))
}

fn may_be_in_head(letter: char) -> bool {
    letter.is_alphanumeric() || matches!(letter, '_' | '-' | '.' | '/' | '[' | ']' | ' ')
}

/// The function's name in `name`, `name[ARGS]` or `name[CALL_ID]id[ARGS]`.
fn name(head: &str) -> &str {
    let head = head.trim();
    let head = head.strip_suffix(ARGUMENTS).unwrap_or(head);
    head.split(CALL_ID).next().unwrap_or(head).trim()
}
