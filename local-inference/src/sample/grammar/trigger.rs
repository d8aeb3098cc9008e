//! Sees in free text that the model has begun a call.

use crate::request::Tool;
use crate::tools::ToolFormat;

/// What the text has shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Nothing,
    /// A call begins; these bytes of it have been written already.
    Begun(Vec<u8>),
}

#[derive(Debug, Clone)]
enum Kind {
    /// This text, anywhere.
    Marker(&'static str),
    /// An object with a tool's name as its first key, at the beginning of the answer.
    Whole {
        names: Vec<String>,
        /// The key of the first object has been read, or something else stands in its place.
        is_over: bool,
    },
}

#[derive(Debug, Clone)]
pub(super) struct Trigger {
    kind: Kind,
    /// The last bytes, as many as may belong to the beginning.
    held: Vec<u8>,
}

impl Trigger {
    pub(super) fn new(format: ToolFormat, tools: &[Tool]) -> Trigger {
        let kind = match format.marker() {
            Some(marker) => Kind::Marker(marker),
            None => Kind::Whole {
                names: tools.iter().map(|tool| tool.name.clone()).collect(),
                is_over: false,
            },
        };
        Trigger {
            kind,
            held: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> Seen {
        match &mut self.kind {
            Kind::Marker(marker) => {
                self.held.extend_from_slice(bytes);
                let marker = marker.as_bytes();
                let at = self
                    .held
                    .windows(marker.len())
                    .position(|part| part == marker);
                if let Some(at) = at {
                    let rest = self.held.split_off(at + marker.len());
                    self.held.clear();
                    return Seen::Begun(rest);
                }
                let kept = self.held.len().min(marker.len() - 1);
                self.held.drain(..self.held.len() - kept);
                Seen::Nothing
            }
            Kind::Whole { is_over: true, .. } => Seen::Nothing,
            Kind::Whole { names, is_over } => {
                self.held.extend_from_slice(bytes);
                match name_and_rest(&self.held) {
                    Head::Partial => Seen::Nothing,
                    Head::Other => {
                        *is_over = true;
                        self.held.clear();
                        Seen::Nothing
                    }
                    Head::Named { name, rest } => {
                        *is_over = true;
                        if !names.iter().any(|known| known.as_bytes() == name) {
                            return Seen::Nothing;
                        }
                        // As the grammar writes it, whatever the model's white space was.
                        let begun = [b"{\"name\": \"", name, b"\"", rest].concat();
                        Seen::Begun(begun)
                    }
                }
            }
        }
    }

    pub(super) fn rearm(&mut self) {
        self.held.clear();
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Head<'a> {
    Partial,
    Other,
    Named { name: &'a [u8], rest: &'a [u8] },
}

/// The name in `{"name": "…"` with white space anywhere between, and what follows it. Names with escapes are left to the reader.
fn name_and_rest(text: &[u8]) -> Head<'_> {
    let mut rest = text;
    for part in [&b"{"[..], b"\"name\"", b":", b"\""] {
        rest = rest.trim_ascii_start();
        match rest.strip_prefix(part) {
            Some(after) => rest = after,
            None if part.starts_with(rest) => return Head::Partial,
            None => return Head::Other,
        }
    }
    match rest.iter().position(|byte| matches!(byte, b'"' | b'\\')) {
        Some(end) if rest[end] == b'"' => Head::Named {
            name: &rest[..end],
            rest: &rest[end + 1..],
        },
        Some(_) => Head::Other,
        None => Head::Partial,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(format: ToolFormat, text: &str, expected: Option<&str>) {
        let tool = Tool {
            name: "add".to_owned(),
            description: None,
            parameters: serde_json::Value::Null,
        };
        // The beginning is what came with the deciding bytes: the rest of the text when it is cut there, nothing by single bytes.
        for size in 1..=text.len() {
            let mut trigger = Trigger::new(format, std::slice::from_ref(&tool));
            let mut begun = None;
            for part in text.as_bytes().chunks(size) {
                if begun.is_none()
                    && let Seen::Begun(bytes) = trigger.push(part)
                {
                    begun = Some(bytes);
                }
                assert!(trigger.held.len() <= text.len());
            }
            match expected {
                Some(expected) => {
                    let begun = begun.unwrap_or_else(|| panic!("{text:?} by {size}"));
                    assert!(
                        expected.as_bytes().starts_with(&begun),
                        "{text:?} by {size}"
                    );
                    assert!(size < text.len() || begun == expected.as_bytes());
                }
                None => assert_eq!(begun, None, "{text:?} by {size}"),
            }
        }
    }

    #[test]
    fn calls_are_seen_where_they_begin() {
        check(ToolFormat::Hermes, "Well <tool <tool_call>\n{", Some("\n{"));
        check(ToolFormat::Hermes, "no <tool_cal>", None);
        check(ToolFormat::Mistral, "[TOOL_CALLS] [", Some(" ["));
        let whole = |text, expected| check(ToolFormat::Llama3, text, expected);
        whole("\n { \"name\" :\"add\", ", Some("{\"name\": \"add\", "));
        whole("{\"name\": \"Bob\"} {\"name\": \"add\"", None);
        whole("I say {\"name\": \"add\"", None);
        whole("{\"age\": 1, \"name\": \"add\"", None);
    }
}
