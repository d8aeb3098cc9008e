//! OpenAI's Responses form of a request. Nothing is kept between requests, so the whole conversation comes with each.

use local_inference::{GenerateRequest, Message, OutputFormat, Prompt, ToolCall};
use serde_json::{Map, Value, json};

use super::chat::{arguments, content_text, name_answers};
use super::tools::short;
use super::{Asked, Ground, check_length, format, generate, missing, params, request};
use crate::backend::local::fault::Fault;
use crate::backend::local::reply::{Form, Shape};
use crate::backend::local::values::{Object, mismatch, present, text, whole};

/// What the answer repeats of the request, as this API's answers do.
#[derive(Debug, Clone)]
pub(crate) struct Echo {
    pub fields: Map<String, Value>,
}

pub(super) fn read(ground: Ground<'_>, model: String, object: &Object) -> Result<Asked, Fault> {
    params::refuse_unsupported(object, params::RESPONSES)?;
    let mut messages = Vec::new();
    if let Some(instructions) = text(object, "instructions")? {
        messages.push(Message::new("system", instructions));
    }
    input(object, &mut messages)?;
    let format = match present(object, "text").and_then(|text| text.get("format")) {
        Some(Value::Object(written)) => format::read("text/format", written)?,
        Some(Value::Null) | None => OutputFormat::Text,
        Some(other) => return Err(mismatch("text/format", other, "object")),
    };
    let top_logprobs = whole(object, "top_logprobs", 0.0, 20.0)?;
    let has_logprobs = includes(object, "message.output_text.logprobs");
    let request = GenerateRequest {
        sampling: params::sampling(object, false)?,
        format,
        top_logprobs: has_logprobs.then_some(top_logprobs.unwrap_or(0) as u32),
        ..request(ground, model, Prompt::Messages(messages), object)?
    };
    let echo = Echo {
        fields: echo(object, &request),
    };
    let form = Form {
        shape: Shape::Responses(Box::new(echo)),
        is_usage_wanted: true,
        is_json: false,
    };
    generate(vec![request], form, object)
}

fn includes(object: &Object, what: &str) -> bool {
    let list = object.get("include").and_then(Value::as_array);
    list.is_some_and(|list| list.iter().any(|item| item == what))
}

fn input(object: &Object, messages: &mut Vec<Message>) -> Result<(), Fault> {
    match present(object, "input") {
        None => return Err(missing("input")),
        Some(Value::String(text)) => messages.push(Message::new("user", text.as_str())),
        Some(Value::Array(items)) => {
            check_length("input", items.is_empty())?;
            for (index, value) in items.iter().enumerate() {
                let at = format!("input/{index}");
                let Value::Object(fields) = value else {
                    return Err(mismatch(&at, value, "object"));
                };
                item(fields, &at, messages)?;
            }
        }
        Some(other) => return Err(mismatch("input", other, "string")),
    }
    name_answers(messages);
    Ok(())
}

fn item(fields: &Object, at: &str, messages: &mut Vec<Message>) -> Result<(), Fault> {
    let required = |what: &str| {
        let text = format!("required properties at '/{at}' are '{what}'");
        Fault::input("input", text)
    };
    let word = |field: &str| fields.get(field).and_then(Value::as_str);
    match word("type").unwrap_or("message") {
        "message" => {
            let role = match word("role").ok_or_else(|| required("role,content"))? {
                "developer" => "system",
                role => role,
            };
            let content = fields.get("content").unwrap_or(&Value::Null);
            let content = content_text(content, &format!("{at}/content"))?;
            messages.push(Message::new(role, content));
        }
        "function_call" => {
            let call = ToolCall {
                id: word("call_id")
                    .or(word("id"))
                    .unwrap_or_default()
                    .to_owned(),
                name: word("name").ok_or_else(|| required("name"))?.to_owned(),
                arguments: arguments(fields.get("arguments"), at)?,
            };
            // Text and calls of one turn are items of their own here and one message in every template.
            match messages.last_mut() {
                Some(last) if last.role == "assistant" => last.tool_calls.push(call),
                _ => messages.push(Message {
                    tool_calls: vec![call],
                    ..Message::new("assistant", "")
                }),
            }
        }
        "function_call_output" => {
            let output = fields.get("output").unwrap_or(&Value::Null);
            messages.push(Message {
                tool_call_id: word("call_id").map(str::to_owned),
                ..Message::new("tool", content_text(output, &format!("{at}/output"))?)
            });
        }
        // What a model thought is not shown to it again.
        "reasoning" => {}
        other => return Err(Fault::unsupported(&format!("{at}/type: {}", short(other)))),
    }
    Ok(())
}

fn echo(object: &Object, request: &GenerateRequest) -> Map<String, Value> {
    let or = |field: &str, default: Value| present(object, field).cloned().unwrap_or(default);
    let sampling = &request.sampling;
    let fields = json!({
        "background": false,
        "instructions": or("instructions", Value::Null),
        "max_output_tokens": sampling.max_tokens,
        "max_tool_calls": null,
        "metadata": or("metadata", json!({})),
        "parallel_tool_calls": or("parallel_tool_calls", json!(true)),
        "previous_response_id": null,
        "prompt_cache_key": or("prompt_cache_key", Value::Null),
        "reasoning": or("reasoning", json!({"effort": null, "summary": null})),
        "service_tier": "default",
        "store": false,
        "temperature": or("temperature", json!(shortest(sampling.temperature))),
        "text": or("text", json!({"format": {"type": "text"}})),
        "tool_choice": or("tool_choice", json!("auto")),
        "tools": or("tools", json!([])),
        "top_logprobs": or("top_logprobs", json!(0)),
        "top_p": or("top_p", json!(shortest(sampling.top_p))),
        "truncation": "disabled",
        "user": or("user", Value::Null),
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// 0.6 and not 0.6000000238418579.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
