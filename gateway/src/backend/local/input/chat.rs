//! Chat messages, in the several forms clients give their contents and calls.

use std::collections::HashMap;

use local_inference::{Message, ToolCall};
use serde_json::Value;

use super::tools::short;
use crate::backend::local::fault::Fault;
use crate::backend::local::values::{Object, asks, mismatch, present};

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
    let messages: Result<Vec<Message>, Fault> = values.iter().enumerate().map(message).collect();
    let mut messages = messages?;
    name_answers(&mut messages);
    Ok(Some(messages))
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
    if present(fields, "audio").is_some_and(asks) {
        return Err(Fault::unsupported(&format!("{at}/audio")));
    }
    let role = match role {
        // OpenAI's newer name; templates know the old one.
        "developer" => "system",
        // And its older name.
        "function" => "tool",
        other => other,
    };
    let content = match fields.get("content") {
        Some(content) => content_text(content, &format!("{at}/content"))?,
        None => String::new(),
    };
    let word = |field: &str| {
        present(fields, field)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    Ok(Message {
        role: role.to_owned(),
        content,
        name: word("name"),
        tool_calls: calls(fields, &at)?,
        tool_call_id: word("tool_call_id"),
    })
}

fn calls(fields: &Object, at: &str) -> Result<Vec<ToolCall>, Fault> {
    match (
        present(fields, "tool_calls"),
        present(fields, "function_call"),
    ) {
        (Some(Value::Array(values)), _) => {
            let call = |(index, value)| call(value, &format!("{at}/tool_calls/{index}"));
            values.iter().enumerate().map(call).collect()
        }
        (Some(other), _) => Err(mismatch(&format!("{at}/tool_calls"), other, "array")),
        (None, Some(value)) => Ok(vec![call(value, &format!("{at}/function_call"))?]),
        (None, None) => Ok(Vec::new()),
    }
}

/// `{id, type, function: {name, arguments}}`, or flat. Arguments are JSON text, or the object itself.
fn call(value: &Value, at: &str) -> Result<ToolCall, Fault> {
    let Value::Object(written) = value else {
        return Err(mismatch(at, value, "object"));
    };
    let fields = match present(written, "function") {
        Some(Value::Object(fields)) => fields,
        Some(other) => return Err(mismatch(&format!("{at}/function"), other, "object")),
        None => written,
    };
    let Some(Value::String(name)) = present(fields, "name") else {
        let text = format!("required properties at '/{at}' are 'name'");
        return Err(Fault::input("messages", text));
    };
    let id = present(written, "id").and_then(Value::as_str);
    Ok(ToolCall {
        id: id.unwrap_or_default().to_owned(),
        name: name.clone(),
        arguments: arguments(fields.get("arguments"), at)?,
    })
}

/// JSON text of an object, as templates and parsers take it. Nothing is no arguments.
pub(super) fn arguments(value: Option<&Value>, at: &str) -> Result<String, Fault> {
    match value {
        None | Some(Value::Null) => Ok("{}".to_owned()),
        Some(Value::String(text)) if text.trim().is_empty() => Ok("{}".to_owned()),
        Some(Value::String(text)) => match serde_json::from_str::<Value>(text) {
            Ok(Value::Object(_)) => Ok(text.clone()),
            _ => Err(Fault::input(
                "messages",
                format_args!("'/{at}/arguments' is not the JSON text of an object"),
            )),
        },
        Some(object @ Value::Object(_)) => Ok(object.to_string()),
        Some(other) => Err(mismatch(&format!("{at}/arguments"), other, "string")),
    }
}

/// An answer to a call says which function it is of: where the caller gave only the call's id, from there.
pub(super) fn name_answers(messages: &mut [Message]) {
    let mut names: HashMap<String, String> = HashMap::new();
    for message in messages {
        for call in &message.tool_calls {
            if !call.id.is_empty() {
                names.insert(call.id.clone(), call.name.clone());
            }
        }
        if let (None, Some(id)) = (&message.name, &message.tool_call_id) {
            message.name = names.get(id).cloned();
        }
    }
}

/// A text, nothing, or an array of text parts.
pub(super) fn content_text(content: &Value, at: &str) -> Result<String, Fault> {
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
    let text = match kind {
        "text" | "input_text" | "output_text" => part.get("text"),
        "refusal" => part.get("refusal"),
        other => return Err(Fault::unsupported(&format!("{at}: {}", short(other)))),
    };
    match text {
        Some(Value::String(text)) => Ok(text),
        _ => Err(mismatch(at, part, "text part")),
    }
}
