//! A chat in the shape Transformers hands to templates, and what has to be mended before: calls told as text, results
//! without an id, ids a template does not take.

use super::python;
use crate::request::{Message, Tool, ToolCall};
use minijinja::Value;
use serde_json::{Map, Value as Json};
use std::collections::HashMap;

/// What a template expects of messages. Templates agree on the names, not on what stands there; [`Shape::guesses`] are tried
/// in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// Mistral's: ids of exactly nine letters and digits.
    pub has_short_ids: bool,
    /// DeepSeek's: a message of calls is known by its missing content.
    pub is_bare_none: bool,
    /// DeepSeek's again: arguments are joined to other text, so they have to be text.
    pub are_arguments_text: bool,
}

impl Shape {
    /// For the template of that text, the likeliest first.
    pub(super) fn guesses(source: &str) -> Vec<Shape> {
        let plain = source.replace('"', "'");
        let asks_for_none =
            plain.contains("['content'] is none") || plain.contains(".content is none");
        let likeliest = Shape {
            has_short_ids: plain.contains("length != 9") || plain.contains("length == 9"),
            is_bare_none: asks_for_none,
            are_arguments_text: false,
        };
        let mut guesses = vec![likeliest];
        guesses.extend([asks_for_none, false].into_iter().flat_map(|is_bare_none| {
            [false, true].map(|are_arguments_text| Shape {
                is_bare_none,
                are_arguments_text,
                ..likeliest
            })
        }));
        guesses.dedup();
        guesses
    }
}

pub(super) fn tool(tool: &Tool) -> Value {
    let parameters = match &tool.parameters {
        // Templates walk through the properties.
        Json::Null => object([("type", Value::from("object")), ("properties", object([]))]),
        schema => python::value(schema),
    };
    let description = tool.description.as_deref().unwrap_or_default();
    let function = object([
        ("name", Value::from(tool.name.as_str())),
        ("description", Value::from(description)),
        ("parameters", parameters),
    ]);
    object([("type", Value::from("function")), ("function", function)])
}

pub(super) fn values(messages: &[Message], shape: Shape) -> Value {
    let mut ids = Ids {
        is_short: shape.has_short_ids,
        known: HashMap::new(),
    };
    messages
        .iter()
        .map(|message| {
            let is_bare = message.content.is_empty() && !message.tool_calls.is_empty();
            let content = match shape.is_bare_none && is_bare {
                true => Value::from(()),
                false => Value::from(message.content.as_str()),
            };
            let mut members = vec![
                ("role", Value::from(message.role.as_str())),
                ("content", content),
            ];
            if let Some(name) = &message.name {
                members.push(("name", Value::from(name.as_str())));
            }
            if !message.tool_calls.is_empty() {
                let calls = message.tool_calls.iter();
                let calls: Value = calls
                    .map(|asked| call(asked, ids.get(&asked.id), shape))
                    .collect();
                members.push(("tool_calls", calls));
            }
            if let Some(id) = &message.tool_call_id {
                members.push(("tool_call_id", Value::from(ids.get(id))));
            }
            Value::from_pairs(members)
        })
        .collect()
}

fn call(call: &ToolCall, id: String, shape: Shape) -> Value {
    let arguments = match serde_json::from_str(&call.arguments) {
        Ok(arguments) if !shape.are_arguments_text => python::value(&arguments),
        _ => Value::from(call.arguments.as_str()),
    };
    let function = object([
        ("name", Value::from(call.name.as_str())),
        ("arguments", arguments),
    ]);
    object([
        ("id", Value::from(id)),
        ("type", Value::from("function")),
        ("function", function),
    ])
}

fn object<const N: usize>(members: [(&'static str, Value); N]) -> Value {
    Value::from_pairs(members)
}

/// Call ids as the template takes them: equal ones stay equal.
struct Ids {
    is_short: bool,
    known: HashMap<String, String>,
}

impl Ids {
    fn get(&mut self, id: &str) -> String {
        let fits = id.len() == 9 && id.chars().all(|c| c.is_ascii_alphanumeric());
        if !self.is_short || fits {
            return id.to_owned();
        }
        let next = self.known.len();
        let short = self.known.entry(id.to_owned());
        short.or_insert_with(|| format!("call{next:05}")).clone()
    }
}

/// Calls that stand as JSON text before their results become calls, several in a row one message; results get the id and
/// the name of the call they answer. Clients that know calls only as text (a call's JSON as the assistant's words, results
/// without ids) get from it what others get.
pub(super) fn with_calls_read(messages: &[Message]) -> Vec<Message> {
    let mut read: Vec<Message> = Vec::with_capacity(messages.len());
    // The newest calls no result has answered.
    let mut open: Vec<ToolCall> = Vec::new();
    let mut next_id = 0;
    for (at, message) in messages.iter().enumerate() {
        let mut message = message.clone();
        if message.role == "tool" {
            answer(&mut message, &mut open);
            read.push(message);
            continue;
        }
        if message.role == "assistant"
            && message.tool_calls.is_empty()
            && is_before_result(&messages[at + 1..])
            && let Some(calls) = calls_in(&message.content)
        {
            message.content.clear();
            message.tool_calls = calls;
            if let Some(before) = read.last_mut()
                && !before.tool_calls.is_empty()
            {
                number(&mut message.tool_calls, &mut next_id);
                open.extend(message.tool_calls.iter().cloned());
                before.tool_calls.append(&mut message.tool_calls);
                continue;
            }
        }
        number(&mut message.tool_calls, &mut next_id);
        if !message.tool_calls.is_empty() {
            open = message.tool_calls.clone();
        }
        read.push(message);
    }
    read
}

/// Ids for calls that came without.
fn number(calls: &mut [ToolCall], next: &mut usize) {
    for call in calls.iter_mut().filter(|call| call.id.is_empty()) {
        call.id = format!("call{next:05}");
        *next += 1;
    }
}

/// By its id, by its name, or the first call still open.
fn answer(result: &mut Message, open: &mut Vec<ToolCall>) {
    let place = match (&result.tool_call_id, &result.name) {
        (Some(id), _) => open.iter().position(|call| call.id == *id),
        (None, Some(name)) => open.iter().position(|call| call.name == *name),
        (None, None) => (!open.is_empty()).then_some(0),
    };
    if let Some(call) = place.map(|place| open.remove(place)) {
        result.tool_call_id.get_or_insert(call.id);
        result.name.get_or_insert(call.name);
    }
}

/// Whether a result follows, other messages of calls at most between.
fn is_before_result(rest: &[Message]) -> bool {
    let next = rest.iter().find(|message| message.role != "assistant");
    next.is_some_and(|message| message.role == "tool")
}

/// The call or calls a text is, if it is nothing else.
fn calls_in(text: &str) -> Option<Vec<ToolCall>> {
    if !text.trim_start().starts_with(['{', '[']) {
        return None;
    }
    match serde_json::from_str(text).ok()? {
        Json::Array(items) if !items.is_empty() => items
            .iter()
            .map(|item| call_in(item.as_object()?))
            .collect(),
        Json::Object(members) => Some(vec![call_in(&members)?]),
        _ => None,
    }
}

fn call_in(members: &Map<String, Json>) -> Option<ToolCall> {
    let function = match members.get("function") {
        Some(function) => function.as_object()?,
        None => members,
    };
    let name = function.get("name")?.as_str()?;
    let arguments = function
        .get("arguments")
        .or_else(|| function.get("parameters"))?;
    let arguments = match arguments {
        Json::String(text) => text.clone(),
        object => object.to_string(),
    };
    let id = members.get("id").and_then(Json::as_str).unwrap_or_default();
    Some(ToolCall {
        id: id.to_owned(),
        name: name.to_owned(),
        arguments,
    })
}

/// Each call in a message of its own, its result behind it.
pub(super) fn one_call_each(messages: &[Message]) -> Vec<Message> {
    let mut apart = Vec::with_capacity(messages.len());
    let mut rest = messages;
    while let Some((message, after)) = rest.split_first() {
        rest = after;
        if message.tool_calls.len() < 2 {
            apart.push(message.clone());
            continue;
        }
        let results = after.iter().take_while(|next| next.role == "tool").count();
        let (results, after) = after.split_at(results);
        rest = after;
        for (at, call) in message.tool_calls.iter().enumerate() {
            let content = if at == 0 {
                message.content.as_str()
            } else {
                ""
            };
            apart.push(Message {
                tool_calls: vec![call.clone()],
                ..Message::new(message.role.clone(), content)
            });
            let of_call = |result: &&Message| result.tool_call_id.as_ref() == Some(&call.id);
            apart.extend(results.iter().filter(of_call).cloned());
        }
        let is_known = |result: &&Message| {
            let id = result.tool_call_id.as_ref();
            message.tool_calls.iter().any(|call| id == Some(&call.id))
        };
        apart.extend(results.iter().filter(|result| !is_known(result)).cloned());
    }
    apart
}
