//! Single fields out of a JSON object, as leniently as clients write them.

use serde_json::{Map, Value};

use super::fault::Fault;

pub(super) type Object = Map<String, Value>;

/// The field, unless it is missing or null, which every client means as missing.
pub(super) fn present<'o>(object: &'o Object, field: &str) -> Option<&'o Value> {
    object.get(field).filter(|value| !value.is_null())
}

/// A switch. The official examples send `"true"` as text.
pub(super) fn switch(object: &Object, field: &str) -> Result<bool, Fault> {
    match present(object, field) {
        None => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(Value::String(text)) if text == "true" => Ok(true),
        Some(Value::String(text)) if text == "false" || text.is_empty() => Ok(false),
        Some(other) => Err(mismatch(field, other, "boolean")),
    }
}

pub(super) fn text<'o>(object: &'o Object, field: &str) -> Result<Option<&'o str>, Fault> {
    match present(object, field) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(mismatch(field, other, "string")),
    }
}

/// A number within bounds, which the sentence of refusal names as the original does.
pub(super) fn number(
    object: &Object,
    field: &str,
    low: f64,
    high: f64,
) -> Result<Option<f64>, Fault> {
    let Some(value) = present(object, field) else {
        return Ok(None);
    };
    let number = value
        .as_f64()
        .ok_or_else(|| mismatch(field, value, "number"))?;
    if number < low {
        return Err(Fault::input(
            field,
            format_args!("'/{field}' must be >= {low}"),
        ));
    }
    if number > high {
        return Err(Fault::input(
            field,
            format_args!("'/{field}' must be <= {high}"),
        ));
    }
    Ok(Some(number))
}

/// A whole number within bounds; `256.0` is one too.
pub(super) fn whole(
    object: &Object,
    field: &str,
    low: f64,
    high: f64,
) -> Result<Option<u64>, Fault> {
    let Some(number) = number(object, field, low, high)? else {
        return Ok(None);
    };
    if number.fract() != 0.0 {
        let value = present(object, field).unwrap_or(&Value::Null);
        return Err(mismatch(field, value, "integer"));
    }
    Ok(Some(number as u64))
}

/// Any 64-bit number, signed or not: seeds are bits, and the API's reach past 32 of them.
pub(super) fn seed(object: &Object) -> Result<Option<u64>, Fault> {
    match present(object, "seed") {
        None => Ok(None),
        Some(value) => value
            .as_u64()
            .or_else(|| value.as_i64().map(i64::cast_unsigned))
            .map(Some)
            .ok_or_else(|| mismatch("seed", value, "integer")),
    }
}

/// One text or an array of them.
pub(super) fn texts(object: &Object, field: &str) -> Result<Vec<String>, Fault> {
    match present(object, field) {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![text.clone()]),
        Some(Value::Array(values)) => values
            .iter()
            .map(|value| match value {
                Value::String(text) => Ok(text.clone()),
                other => Err(mismatch(field, other, "string")),
            })
            .collect(),
        Some(other) => Err(mismatch(field, other, "string")),
    }
}

pub(super) fn mismatch(field: &str, value: &Value, expected: &str) -> Fault {
    let actual = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    Fault::input(
        field,
        format_args!("Type mismatch of '/{field}', '{actual}' not in '{expected}'"),
    )
}

/// Whether a value asks for anything: not null, false, zero or empty.
pub(super) fn asks(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}
