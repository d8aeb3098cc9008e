//! Functions the model may ask for, in the flat and in the wrapped form, and which it must.

use local_inference::{Tool, ToolChoice};
use serde_json::Value;

use crate::backend::local::fault::Fault;
use crate::backend::local::values::{Object, asks, mismatch, present};

/// Functions of one request; more is refused. All of them stand in the prompt.
const MAX_TOOLS: usize = 128;

pub(super) fn tools(object: &Object) -> Result<Vec<Tool>, Fault> {
    let values = match present(object, "tools") {
        None => return Ok(Vec::new()),
        Some(Value::Array(values)) => values,
        Some(other) => return Err(mismatch("tools", other, "array")),
    };
    if values.len() > MAX_TOOLS {
        let text = format!("Length of '/tools' must be <= {MAX_TOOLS} not met");
        return Err(Fault::input("tools", text));
    }
    let tool = |(index, value)| tool(index, value);
    values.iter().enumerate().map(tool).collect()
}

fn tool(index: usize, value: &Value) -> Result<Tool, Fault> {
    let at = format!("tools/{index}");
    let Value::Object(written) = value else {
        return Err(mismatch(&at, value, "object"));
    };
    let kind = written.get("type").and_then(Value::as_str);
    let fields = match present(written, "function") {
        Some(Value::Object(fields)) => fields,
        Some(other) => return Err(mismatch(&format!("{at}/function"), other, "object")),
        // A tool of another kind runs at the provider, and there is none here.
        None => match kind {
            Some(kind) if kind != "function" => {
                return Err(Fault::unsupported(&format!("{at}/type: {}", short(kind))));
            }
            _ => written,
        },
    };
    let name = match present(fields, "name") {
        Some(Value::String(name)) if !name.is_empty() => name.clone(),
        Some(Value::String(_)) | None => {
            let text = format!("required properties at '/{at}' are 'name'");
            return Err(Fault::input("tools", text));
        }
        Some(other) => return Err(mismatch(&format!("{at}/name"), other, "string")),
    };
    let description = match present(fields, "description") {
        None => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(other) => return Err(mismatch(&format!("{at}/description"), other, "string")),
    };
    let parameters = match present(fields, "parameters") {
        None => Value::Null,
        Some(Value::Object(schema)) if schema.is_empty() => Value::Null,
        Some(schema @ Value::Object(_)) => schema.clone(),
        Some(other) => return Err(mismatch(&format!("{at}/parameters"), other, "object")),
    };
    Ok(Tool {
        name,
        description,
        parameters,
    })
}

pub(super) fn choice(object: &Object, tools: &[Tool]) -> Result<ToolChoice, Fault> {
    let chosen = match present(object, "tool_choice") {
        None => return Ok(ToolChoice::Auto),
        Some(Value::String(word)) => word_choice(word)?,
        Some(Value::Object(fields)) => object_choice(fields)?,
        Some(other) => return Err(mismatch("tool_choice", other, "string")),
    };
    let refused = |text: String| Err(Fault::input("tool_choice", text));
    match &chosen {
        ToolChoice::Required if tools.is_empty() => {
            refused("'/tool_choice' asks for a call and '/tools' holds none".to_owned())
        }
        ToolChoice::Named(name) if !tools.iter().any(|tool| tool.name == *name) => {
            refused(format!(
                "'/tool_choice' names `{}`, which is not in '/tools'",
                short(name)
            ))
        }
        _ => Ok(chosen),
    }
}

fn word_choice(word: &str) -> Result<ToolChoice, Fault> {
    match word {
        "auto" => Ok(ToolChoice::Auto),
        "none" => Ok(ToolChoice::None),
        "required" | "any" => Ok(ToolChoice::Required),
        other => {
            let text = format!(
                "'/tool_choice': '{}' not in 'auto, none, required'",
                short(other)
            );
            Err(Fault::input("tool_choice", text))
        }
    }
}

/// `{"type": "function", "function": {"name"}}`, or the name beside the type.
fn object_choice(fields: &Object) -> Result<ToolChoice, Fault> {
    let named = match present(fields, "function") {
        Some(Value::Object(function)) => function.get("name"),
        Some(other) => return Err(mismatch("tool_choice/function", other, "object")),
        None => fields.get("name"),
    };
    match (named, fields.get("type").and_then(Value::as_str)) {
        (Some(Value::String(name)), _) => Ok(ToolChoice::Named(name.clone())),
        (Some(other), _) => Err(mismatch("tool_choice/function/name", other, "string")),
        (None, Some(word @ ("auto" | "none" | "required" | "any"))) => word_choice(word),
        (None, kind) => {
            let kind = kind.unwrap_or("function");
            Err(Fault::unsupported(&format!(
                "tool_choice/type: {}",
                short(kind)
            )))
        }
    }
}

/// Calls of one answer that are told: one where the caller takes no calls side by side.
pub(super) fn max_calls(object: &Object) -> Result<u32, Fault> {
    match present(object, "parallel_tool_calls") {
        None | Some(Value::Bool(true)) => Ok(u32::MAX),
        Some(Value::Bool(false)) => Ok(1),
        Some(other) => Err(mismatch("parallel_tool_calls", other, "boolean")),
    }
}

/// The oldest form, whose answer would have to be in its own old form too.
pub(super) fn refuse_functions(object: &Object) -> Result<(), Fault> {
    for field in ["functions", "function_call"] {
        if present(object, field).is_some_and(asks) {
            let text = format!("'/{field}' is not supported, '/tools' and '/tool_choice' are");
            return Err(Fault::input(field, text));
        }
    }
    Ok(())
}

/// A caller's word in a sentence of ours: not longer than it deserves.
pub(super) fn short(text: &str) -> String {
    text.chars().take(40).collect()
}
