//! What form the answer must have, in the many shapes clients write it.

use local_inference::OutputFormat;
use serde_json::Value;

use super::tools::short;
use crate::backend::local::fault::Fault;
use crate::backend::local::values::{Object, asks, mismatch, present};

/// `response_format`, or else `guided_json`.
pub(super) fn of(object: &Object) -> Result<OutputFormat, Fault> {
    match present(object, "response_format") {
        Some(Value::Object(written)) if !written.is_empty() => {
            let format = read("response_format", written)?;
            // Some clients always send the field, and put what they want into the other one.
            if format != OutputFormat::Text {
                return Ok(format);
            }
        }
        None | Some(Value::Object(_)) => {}
        Some(other) => return Err(mismatch("response_format", other, "object")),
    }
    match present(object, "guided_json") {
        Some(value) if asks(value) => Ok(OutputFormat::JsonSchema(guided(value)?)),
        _ => Ok(OutputFormat::Text),
    }
}

/// `{"type": "json_schema", "json_schema": {"name", "schema"} or the bare schema}`, or the schema beside the type.
pub(super) fn read(field: &str, written: &Object) -> Result<OutputFormat, Fault> {
    match written.get("type").and_then(Value::as_str) {
        None if written.contains_key("json_schema") => schema(field, written),
        None => Err(Fault::input(
            field,
            format_args!("required properties at '/{field}' are 'type'"),
        )),
        Some("text") => Ok(OutputFormat::Text),
        Some("json_object") => match present(written, "schema") {
            Some(_) => schema(field, written),
            None => Ok(OutputFormat::JsonObject),
        },
        Some("json_schema") => schema(field, written),
        Some(other) => Err(Fault::input(
            field,
            format_args!(
                "'/{field}/type': '{}' not in 'text, json_object, json_schema'",
                short(other)
            ),
        )),
    }
}

fn schema(field: &str, written: &Object) -> Result<OutputFormat, Fault> {
    let at = format!("{field}/json_schema");
    let value = match present(written, "json_schema") {
        Some(Value::Object(envelope)) if is_envelope(envelope) => {
            present(envelope, "schema").unwrap_or(&Value::Null)
        }
        Some(value) => value,
        None => present(written, "schema").ok_or_else(|| {
            let text = format!("required properties at '/{field}' are 'json_schema'");
            Fault::input(field, text)
        })?,
    };
    match value {
        // OpenAI lets the schema out of its envelope: any JSON.
        Value::Null => Ok(OutputFormat::JsonObject),
        Value::Object(_) | Value::Bool(true) => Ok(OutputFormat::JsonSchema(value.clone())),
        other => Err(mismatch(&at, other, "object")),
    }
}

/// `{name, schema?, strict?, description?}` and not a schema of its own: that has neither member as a text.
fn is_envelope(value: &Object) -> bool {
    let is_named = value.get("name").is_some_and(Value::is_string);
    let has_schema = value.get("schema").is_some_and(Value::is_object);
    has_schema || (is_named && !value.contains_key("type") && !value.contains_key("properties"))
}

/// A schema, or its JSON text.
fn guided(value: &Value) -> Result<Value, Fault> {
    match value {
        Value::Object(_) => Ok(value.clone()),
        Value::String(text) => match serde_json::from_str(text) {
            Ok(schema @ Value::Object(_)) => Ok(schema),
            _ => Err(Fault::input(
                "guided_json",
                "'/guided_json' is not the JSON text of a schema",
            )),
        },
        other => Err(mismatch("guided_json", other, "object")),
    }
}
