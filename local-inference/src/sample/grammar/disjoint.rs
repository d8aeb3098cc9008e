//! Whether an answer can fit two schemas at once. Says no only when that is certain.

use serde_json::{Map, Value};

/// References followed in a row, and schemas inside each other.
const MAX_STEPS: usize = 16;

/// Whether no two of these schemas, written in `root`, have an answer in common. `are_closed`: objects are written with listed
/// properties only, see [`super::schema`].
pub(super) fn all(root: &Value, schemas: &Value, are_closed: bool) -> bool {
    let Some(schemas) = schemas.as_array() else {
        return false;
    };
    let pairs = Pairs { root, are_closed };
    schemas.iter().enumerate().all(|(index, left)| {
        let mut later = schemas[index + 1..].iter();
        later.all(|right| pairs.are_apart(left, right, MAX_STEPS))
    })
}

/// Whether an object's properties are all listed once nothing is added to those it names.
pub(super) fn is_listed(keys: &Map<String, Value>) -> bool {
    let Some(properties) = keys.get("properties").and_then(Value::as_object) else {
        return false;
    };
    let least = keys.get("minProperties").and_then(Value::as_u64);
    !properties.is_empty()
        && !keys.contains_key("patternProperties")
        && required(keys).all(|name| properties.contains_key(name))
        && least.unwrap_or(0) <= properties.len() as u64
}

fn required(keys: &Map<String, Value>) -> impl Iterator<Item = &str> {
    let names = keys.get("required").and_then(Value::as_array);
    names.into_iter().flatten().filter_map(Value::as_str)
}

struct Pairs<'a> {
    root: &'a Value,
    are_closed: bool,
}

impl<'a> Pairs<'a> {
    fn are_apart(&self, left: &'a Value, right: &'a Value, steps: usize) -> bool {
        let (Some(left), Some(right)) = (self.resolved(left), self.resolved(right)) else {
            return false;
        };
        let Some(steps) = steps.checked_sub(1) else {
            return false;
        };
        for (one, other) in [(left, right), (right, left)] {
            let branches = one
                .get("anyOf")
                .or_else(|| one.get("oneOf"))
                .and_then(Value::as_array);
            if let Some(branches) = branches {
                let other = Value::Object(other.clone());
                return branches.iter().all(|branch| {
                    Pairs {
                        root: self.root,
                        are_closed: self.are_closed,
                    }
                    .are_apart(branch, &other, steps)
                });
            }
        }
        if let (Some(left), Some(right)) = (values(left), values(right)) {
            return !left
                .iter()
                .any(|value| right.iter().any(|other| are_equal(value, other)));
        }
        if let (Some(left), Some(right)) = (kinds(left), kinds(right))
            && !left
                .iter()
                .any(|kind| right.iter().any(|other| overlap(kind, other)))
        {
            return true;
        }
        are_numbers_apart(left, right)
            || are_numbers_apart(right, left)
            || self.are_objects_apart(left, right, steps)
    }

    /// By a property both must have, or by one each must have and the other cannot.
    fn are_objects_apart(
        &self,
        left: &'a Map<String, Value>,
        right: &'a Map<String, Value>,
        steps: usize,
    ) -> bool {
        let is_object = |keys: &Map<String, Value>| {
            kinds(keys).map_or(keys.contains_key("properties"), |kinds| kinds == ["object"])
        };
        if !is_object(left) || !is_object(right) {
            return false;
        }
        let property = |keys: &'a Map<String, Value>, name: &str| keys.get("properties")?.get(name);
        let is_told_apart = required(left)
            .filter(|name| required(right).any(|other| other == *name))
            .any(|name| match (property(left, name), property(right, name)) {
                (Some(left), Some(right)) => self.are_apart(left, right, steps),
                _ => false,
            });
        let cannot_have = |keys: &'a Map<String, Value>, name: &str| {
            let is_closed = match keys.get("additionalProperties") {
                Some(rest) => {
                    rest == &Value::Bool(false) && !keys.contains_key("patternProperties")
                }
                None => self.are_closed && is_listed(keys),
            };
            is_closed && property(keys, name).is_none()
        };
        let is_missing = |keys, other: &'a Map<String, Value>| {
            required(other).any(|name| cannot_have(keys, name))
        };
        is_told_apart || (is_missing(left, right) && is_missing(right, left))
    }

    fn resolved(&self, schema: &'a Value) -> Option<&'a Map<String, Value>> {
        let mut keys = schema.as_object()?;
        for _ in 0..MAX_STEPS {
            match keys.get("$ref").and_then(Value::as_str) {
                Some(reference) => {
                    keys = self
                        .root
                        .pointer(reference.strip_prefix('#')?)?
                        .as_object()?
                }
                None => return Some(keys),
            }
        }
        None
    }
}

/// The values of `const` or `enum`.
fn values(keys: &Map<String, Value>) -> Option<Vec<&Value>> {
    match (keys.get("const"), keys.get("enum")) {
        (Some(value), _) => Some(vec![value]),
        (None, Some(values)) => Some(values.as_array()?.iter().collect()),
        (None, None) => None,
    }
}

/// The types an answer may have; `None`: any.
fn kinds(keys: &Map<String, Value>) -> Option<Vec<&str>> {
    if let Some(values) = values(keys) {
        let kind = |value: &Value| match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        return Some(values.into_iter().map(kind).collect());
    }
    match keys.get("type")? {
        Value::String(kind) => Some(vec![kind]),
        Value::Array(kinds) => kinds.iter().map(Value::as_str).collect(),
        _ => None,
    }
}

/// As JSON Schema compares: 1 is 1.0.
fn are_equal(left: &Value, right: &Value) -> bool {
    match (left.as_f64(), right.as_f64()) {
        (Some(left), Some(right)) => left == right,
        _ => left == right,
    }
}

fn overlap(left: &str, right: &str) -> bool {
    let wide = |kind| if kind == "integer" { "number" } else { kind };
    wide(left) == wide(right)
}

/// Numbers only, and all of `low` below those of `high`.
fn are_numbers_apart(low: &Map<String, Value>, high: &Map<String, Value>) -> bool {
    let is_number = |keys: &Map<String, Value>| {
        keys.get("type")
            .is_some_and(|kind| kind == "integer" || kind == "number")
    };
    let number = |keys: &Map<String, Value>, key: &str| keys.get(key).and_then(Value::as_f64);
    let end = number(low, "maximum");
    let start = number(high, "minimum");
    let is_apart = match (end, start) {
        (Some(end), Some(start)) => end < start,
        _ => false,
    };
    is_number(low) && is_number(high) && is_apart
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(schemas: Value, expected: bool) {
        let root = json!({"$defs": {
            "cat": {"type": "object", "properties": {"kind": {"const": "cat"}}, "required": ["kind"]},
            "dog": {"type": "object", "properties": {"kind": {"enum": ["dog", "wolf"]}}, "required": ["kind"]},
            "loop": {"$ref": "#/$defs/loop"}}});
        assert_eq!(all(&root, &schemas, true), expected, "{schemas}");
    }

    #[test]
    fn only_what_is_certainly_apart_is_said_to_be() {
        check(
            json!([{"type": "string"}, {"type": ["null", "integer"]}, {"type": "array"}]),
            true,
        );
        check(json!([{"type": "integer"}, {"type": "number"}]), false);
        check(
            json!([{"type": "integer", "maximum": 5}, {"type": "number", "minimum": 6}]),
            true,
        );
        check(
            json!([{"const": 1}, {"const": 2}, {"enum": ["1", 3]}]),
            true,
        );
        check(json!([{"const": 1}, {"enum": [2, 1.0]}]), false);
        check(
            json!([{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}]),
            true,
        );
        check(
            json!([{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/cat"}]),
            false,
        );
        check(json!([{"$ref": "#/$defs/loop"}, {"type": "null"}]), false);
        check(
            json!([{"anyOf": [{"type": "null"}, {"type": "string"}]}, {"$ref": "#/$defs/dog"}]),
            true,
        );
        check(json!([{}, {"type": "null"}]), false);
        let with = |name: &str| json!({"type": "object", "properties": {name: {"type": "string"}}, "required": [name]});
        check(json!([with("email"), with("phone")]), true);
        let optional = json!({"type": "object", "properties": {"phone": {"type": "string"}}});
        check(json!([with("email"), optional]), false);
        let open = json!({"type": "object", "properties": {"phone": {}}, "required": ["phone"], "additionalProperties": true});
        check(json!([with("email"), open]), false);
    }
}
