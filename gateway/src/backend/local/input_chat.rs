//! Chat messages, in the several forms clients give their contents.

use local_inference::Message;
use serde_json::Value;

use super::fault::Fault;
use super::values::{Object, asks, mismatch, present};

/// The field `messages`, if there is one.
pub(super) fn messages(object: &Object) -> Result<Option<Vec<Message>>, Fault> {
    let values = match present(object, "messages") {
        None => return Ok(None),
        Some(Value::Array(values)) => values,
        Some(other) => return Err(mismatch("messages", other, "array")),
    };
    if values.is_empty() {
        return Err(Fault::input(
            "messages",
            "Length of '/messages' must be >= 1 not met",
        ));
    }
    values
        .iter()
        .enumerate()
        .map(message)
        .collect::<Result<Vec<_>, _>>()
        .map(Some)
}

fn message((index, value): (usize, &Value)) -> Result<Message, Fault> {
    let at = format!("messages/{index}");
    let Value::Object(fields) = value else {
        return Err(mismatch(&at, value, "object"));
    };
    let role = match present(fields, "role") {
        Some(Value::String(role)) => role.as_str(),
        Some(other) => return Err(mismatch(&format!("{at}/role"), other, "string")),
        None => {
            let text = format!("required properties at '/{at}' are 'role,content'");
            return Err(Fault::input("messages", text));
        }
    };
    for field in ["tool_calls", "function_call", "audio"] {
        if present(fields, field).is_some_and(asks) {
            return Err(Fault::unsupported(&format!("{at}/{field}")));
        }
    }
    let role = match role {
        "tool" | "function" => return Err(Fault::unsupported(&format!("{at}/role: {role}"))),
        // OpenAI's newer name; templates know the old one.
        "developer" => "system",
        other => other,
    };
    let content = match fields.get("content") {
        Some(content) => content_text(content, &format!("{at}/content"))?,
        None => String::new(),
    };
    Ok(Message::new(role, content))
}

/// A text, nothing, or an array of text parts.
fn content_text(content: &Value, at: &str) -> Result<String, Fault> {
    match content {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => parts
            .iter()
            .enumerate()
            .map(|(index, part)| part_text(part, &format!("{at}/{index}")))
            .collect(),
        other => Err(mismatch(at, other, "string")),
    }
}

fn part_text<'p>(part: &'p Value, at: &str) -> Result<&'p str, Fault> {
    if let Value::String(text) = part {
        return Ok(text);
    }
    let kind = part.get("type").and_then(Value::as_str).unwrap_or("text");
    match (kind, part.get("text")) {
        ("text" | "input_text", Some(Value::String(text))) => Ok(text),
        ("text" | "input_text", _) => Err(mismatch(at, part, "text part")),
        (other, _) => Err(Fault::unsupported(&format!("{at}: {}", short(other)))),
    }
}

/// A caller's word in a sentence of ours: not longer than it deserves.
fn short(text: &str) -> String {
    text.chars().take(40).collect()
}
