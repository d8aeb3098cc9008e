//! One call as an object: `{"name": …, "arguments": {…}}`, with its keys in any order and under any of their usual names.

use super::json_value::{JsonValue, Scan};
use super::{Calls, ToolPiece};

/// What a character did to the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    Going,
    /// It was the object's last.
    Done,
    /// It does not fit; what came before and was not yet said is in [`CallReader::unsaid`].
    Broken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Name,
    Arguments,
    /// OpenAI's wrapping, `"function": {…}`: its keys count as the call's own. A text here is the name.
    Function,
    Other,
}

#[derive(Debug)]
enum Place {
    Open,
    KeyOrEnd,
    NextKey,
    Key(JsonValue),
    Colon(Field),
    Value(Field, JsonValue),
    CommaOrEnd,
}

/// Holds everything back until the function's name is known to be one that was offered; then streams the arguments.
#[derive(Debug)]
pub(super) struct CallReader {
    place: Place,
    /// Inside `"function": {…}`.
    is_wrapped: bool,
    /// The key or text value being read.
    token: String,
    /// What to give back as text if this turns out to be no call.
    unsaid: String,
    is_started: bool,
    /// Arguments that came before the name.
    early: String,
    has_arguments: bool,
    /// The arguments are a text that holds JSON.
    is_quoted: bool,
}

impl CallReader {
    /// `before`: what was held back in front of the object, a marker for one.
    pub(super) fn new(before: String) -> CallReader {
        CallReader {
            place: Place::Open,
            is_wrapped: false,
            token: String::new(),
            unsaid: before,
            is_started: false,
            early: String::new(),
            has_arguments: false,
            is_quoted: false,
        }
    }

    /// What was read and not said in any form. Empty once the call has begun.
    pub(super) fn unsaid(&mut self) -> String {
        std::mem::take(&mut self.unsaid)
    }

    /// The stream is over, or went on with something else, in the middle of the object.
    pub(super) fn abandon(&mut self, calls: &mut Calls, out: &mut Vec<ToolPiece>) {
        if self.is_started {
            calls.end(out);
        }
    }

    pub(super) fn push(
        &mut self,
        letter: char,
        calls: &mut Calls,
        out: &mut Vec<ToolPiece>,
    ) -> Read {
        let read = self.step(letter, calls, out);
        if read != Read::Broken && !self.is_started {
            self.unsaid.push(letter);
        }
        if read == Read::Done {
            if !self.has_arguments {
                calls.arguments("{}", out);
            }
            calls.end(out);
        }
        read
    }

    fn step(&mut self, letter: char, calls: &mut Calls, out: &mut Vec<ToolPiece>) -> Read {
        let is_space = matches!(letter, ' ' | '\t' | '\n' | '\r');
        match &mut self.place {
            Place::Key(scanner) => {
                self.token.push(letter);
                match scanner.push(letter) {
                    Scan::Inside => Read::Going,
                    Scan::Last => match serde_json::from_str::<String>(&self.token) {
                        Ok(key) if self.is_started || is_of_a_call(&key) => {
                            self.go(Place::Colon(field(&key)))
                        }
                        Ok(_) => Read::Broken,
                        Err(_) => Read::Broken,
                    },
                    _ => Read::Broken,
                }
            }
            Place::Value(..) => self.value(letter, calls, out),
            _ if is_space => Read::Going,
            Place::Open if letter == '{' => self.go(Place::KeyOrEnd),
            Place::KeyOrEnd | Place::NextKey if letter == '"' => self.begin_key(letter),
            Place::Colon(found) if letter == ':' => {
                let found = *found;
                self.token.clear();
                self.go(Place::Value(found, JsonValue::new()))
            }
            Place::CommaOrEnd if letter == ',' => self.go(Place::NextKey),
            Place::KeyOrEnd | Place::CommaOrEnd if letter == '}' => self.end_of_object(),
            _ => Read::Broken,
        }
    }

    fn go(&mut self, place: Place) -> Read {
        self.place = place;
        Read::Going
    }

    fn begin_key(&mut self, letter: char) -> Read {
        let mut scanner = JsonValue::new();
        scanner.push(letter);
        self.token.clear();
        self.token.push(letter);
        self.go(Place::Key(scanner))
    }

    fn end_of_object(&mut self) -> Read {
        if self.is_wrapped {
            self.is_wrapped = false;
            return self.go(Place::CommaOrEnd);
        }
        match self.is_started {
            true => Read::Done,
            false => Read::Broken,
        }
    }

    fn value(&mut self, letter: char, calls: &mut Calls, out: &mut Vec<ToolPiece>) -> Read {
        let Place::Value(found, scanner) = &mut self.place else {
            return Read::Broken;
        };
        let found = *found;
        let is_first = self.token.is_empty();
        if is_first && letter.is_ascii_whitespace() {
            return Read::Going;
        }
        if is_first && found == Field::Function && letter == '{' && !self.is_wrapped {
            self.is_wrapped = true;
            return self.go(Place::KeyOrEnd);
        }
        let scan = scanner.push(letter);
        if scan == Scan::Broken {
            return Read::Broken;
        }
        let is_repeated = found == Field::Arguments && self.has_arguments;
        if is_first && (is_repeated || !may_begin(found, letter)) {
            return Read::Broken;
        }
        if is_first && found == Field::Arguments {
            self.is_quoted = letter == '"';
        }
        let is_streamed = found == Field::Arguments && !self.is_quoted;
        if is_streamed {
            // Enough to know that the value began; the rest goes straight out. `null` says nothing and is left out.
            if is_first {
                self.token.push(letter);
            }
            if self.token == "{" {
                self.say(letter, calls, out);
            }
        } else if scan != Scan::After {
            self.token.push(letter);
        }
        match scan {
            Scan::Inside => Read::Going,
            Scan::Last => match self.end_of_value(found, calls, out) {
                true => self.go(Place::CommaOrEnd),
                false => Read::Broken,
            },
            // Only the values of other fields may be numbers.
            Scan::After => {
                self.place = Place::CommaOrEnd;
                self.step(letter, calls, out)
            }
            Scan::Broken => Read::Broken,
        }
    }

    fn say(&mut self, letter: char, calls: &mut Calls, out: &mut Vec<ToolPiece>) {
        self.has_arguments = true;
        match self.is_started {
            true => calls.arguments(letter.encode_utf8(&mut [0; 4]), out),
            false => self.early.push(letter),
        }
    }

    fn end_of_value(&mut self, found: Field, calls: &mut Calls, out: &mut Vec<ToolPiece>) -> bool {
        match found {
            Field::Name | Field::Function => {
                let Ok(name) = serde_json::from_str::<String>(&self.token) else {
                    return false;
                };
                if self.is_started || !calls.knows(&name) {
                    return false;
                }
                self.is_started = true;
                self.unsaid.clear();
                calls.start(name, out);
                if !self.early.is_empty() {
                    calls.arguments(&std::mem::take(&mut self.early), out);
                }
                true
            }
            Field::Arguments if self.is_quoted => {
                let text = serde_json::from_str::<String>(&self.token).unwrap_or_default();
                let is_object = serde_json::from_str::<serde_json::Value>(&text)
                    .is_ok_and(|value| value.is_object());
                if !is_object {
                    return false;
                }
                for letter in text.chars() {
                    self.say(letter, calls, out);
                }
                true
            }
            Field::Arguments | Field::Other => true,
        }
    }
}

fn field(key: &str) -> Field {
    match key {
        "name" => Field::Name,
        "arguments" | "parameters" => Field::Arguments,
        "function" => Field::Function,
        _ => Field::Other,
    }
}

/// Before the name stands nothing but what calls are known to hold: any other object is text at its first key, not at its end.
fn is_of_a_call(key: &str) -> bool {
    field(key) != Field::Other || matches!(key, "id" | "type" | "index")
}

fn may_begin(found: Field, letter: char) -> bool {
    match found {
        Field::Name | Field::Function => letter == '"',
        Field::Arguments => matches!(letter, '{' | '"' | 'n'),
        Field::Other => true,
    }
}
