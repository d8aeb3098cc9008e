//! The grammar of calls in each family's way of writing, in llguidance's Lark dialect.
//!
//! The arguments are grammars of their own, one a tool, named by [`arguments_name`]. White space is fixed to what the families'
//! templates write, so that a model meets what it was trained on and cannot lose itself in blank lines.

use super::{Markers, ToolFormat, hermes, mistral};

/// A forced answer holds at most this many calls; then it ends. A model that likes its calls would go on for ever.
const MAX_FORCED_CALLS: usize = 8;

/// Where the grammar begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallsFrom {
    /// At the beginning of the answer, which holds nothing but calls: several where the family writes several and `parallel` is set.
    Start { parallel: bool },
    /// Behind the text by which the model began a call of its own accord; one call.
    Marker,
}

/// The name by which the grammar refers to the arguments of tool number `index`.
pub(crate) fn arguments_name(index: usize) -> String {
    format!("arguments_{index}")
}

impl ToolFormat {
    /// The text that begins a call anywhere in an answer. `None`: calls are the whole answer, told apart by what they hold.
    pub(crate) fn marker(self) -> Option<&'static str> {
        match self {
            ToolFormat::Hermes => Some(hermes::OPEN),
            ToolFormat::Mistral | ToolFormat::MistralNamed => Some(mistral::OPEN),
            ToolFormat::Llama3 | ToolFormat::Json => None,
        }
    }

    /// The grammar of calls of the functions named, in their order.
    pub(crate) fn lark(self, names: &[&str], markers: &Markers, from: CallsFrom) -> String {
        let mark = |text: &str| match markers.token(text) {
            Some(id) => format!("<[{id}]>"),
            None => literal(text),
        };
        let any: Vec<String> = (0..names.len())
            .map(|index| format!("call_{index}"))
            .collect();
        let mut lark = format!("call: {}\n", any.join(" | "));
        for (index, name) in names.iter().enumerate() {
            let head = match self {
                ToolFormat::MistralNamed => {
                    format!("{} {}", literal(name), mark(mistral::ARGUMENTS))
                }
                ToolFormat::Llama3 => literal(&head(name, "parameters")),
                _ => literal(&head(name, "arguments")),
            };
            let end = match self {
                ToolFormat::MistralNamed => "",
                _ => "\"}\"",
            };
            let arguments = arguments_name(index);
            lark += &format!("call_{index}: {head} @{arguments} {end}\n");
        }
        let more = |next: &str| match from {
            CallsFrom::Start { parallel: true } => {
                format!("({next}){{0,{}}}", MAX_FORCED_CALLS - 1)
            }
            _ => String::new(),
        };
        let start = match self {
            ToolFormat::Hermes => {
                let (open, close) = (mark(hermes::OPEN), mark(hermes::CLOSE));
                match from {
                    CallsFrom::Marker => format!("\"\\n\"? call \"\\n\"? {close}"),
                    CallsFrom::Start { .. } => {
                        let one = format!("{open} \"\\n\" call \"\\n\" {close}");
                        format!("{one} {}", more(&format!("\"\\n\" {one}")))
                    }
                }
            }
            ToolFormat::Mistral => {
                let array = format!("\"[\" call {} \"]\"", more("\", \" call"));
                match from {
                    CallsFrom::Marker => format!("\" \"? {array}"),
                    CallsFrom::Start { .. } => format!("{} \" \"? {array}", mark(mistral::OPEN)),
                }
            }
            ToolFormat::MistralNamed => {
                let one = format!("{} call", mark(mistral::OPEN));
                match from {
                    CallsFrom::Marker => "call".to_owned(),
                    CallsFrom::Start { .. } => format!("{one} {}", more(&one)),
                }
            }
            // These families ask for one function in a turn.
            ToolFormat::Llama3 | ToolFormat::Json => "call".to_owned(),
        };
        format!("start: {start}\n{lark}")
    }
}

/// An object's beginning, up to the arguments.
fn head(name: &str, arguments: &str) -> String {
    format!(
        "{{\"name\": {}, \"{arguments}\": ",
        serde_json::Value::from(name)
    )
}

/// As a Lark literal, which is quoted as JSON is.
fn literal(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
