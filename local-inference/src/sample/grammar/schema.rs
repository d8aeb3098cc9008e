//! Makes of a caller's JSON Schema one that llguidance holds exactly, and that a small model can finish.
//!
//! What comes out allows the same answers or fewer, never others. Fewer, where the schema leaves it open:
//! - objects that list their properties have no others, unless the schema combines schemas (`allOf`, keys beside a `$ref`);
//! - numbers stay between -10^18 and 10^18, written without an exponent: any reader's number type takes them;
//! - formats that readers judge more strictly than their usual patterns (dates, addresses) are narrowed; formats that are no known
//!   string form are annotations and hold nothing;
//! - properties come in the order the schema lists them; between things stands no white space, or one space after `,` and `:`.
//!
//! What a token by token check cannot hold (`not`, `uniqueItems`, `if`, …) is refused with the place in the schema. Arguments of tools
//! are treated mildly: there it is left out.

use super::disjoint;
use llguidance::JsonCompileOptions;
use serde_json::{Map, Value, json};

/// Levels of schema in schema; deeper ones are the caller's error.
const MAX_DEPTH: usize = 64;
const BIGGEST: i64 = 1_000_000_000_000_000_000;
/// Where the schema of any value stands in a prepared schema.
const ANY: &str = "engine.any";

/// Keys that say nothing about the answer.
const ANNOTATIONS: [&str; 14] = [
    "title",
    "description",
    "default",
    "example",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "nullable",
    "contentMediaType",
    "contentEncoding",
    "contentSchema",
    "$comment",
    "x-guidance",
];

/// Keys that would have to look at more than the next token.
const UNHELD: [&str; 17] = [
    "not",
    "if",
    "then",
    "else",
    "contains",
    "minContains",
    "maxContains",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
    "uniqueItems",
    "$dynamicRef",
    "$recursiveRef",
    "$dynamicAnchor",
];

/// The schema of an answer.
///
/// # Errors
/// What cannot be held, and where.
pub(super) fn prepare(schema: &Value) -> Result<Value, String> {
    prepare_as(schema, false)
}

/// The schema of a tool's arguments: always an object, whatever the tool's author left out.
pub(super) fn arguments(parameters: &Value) -> Value {
    match parameters {
        Value::Object(keys) if keys.is_empty() => any_object(),
        Value::Object(keys) => {
            let mut keys = keys.clone();
            let is_combined = ["$ref", "anyOf", "oneOf", "allOf"]
                .iter()
                .any(|key| keys.contains_key(*key));
            if !is_combined {
                keys.insert("type".to_owned(), json!("object"));
            }
            // A function that lists no parameters takes none.
            let lists = keys.get("properties").and_then(Value::as_object);
            let says_more = ["additionalProperties", "patternProperties", "required"]
                .iter()
                .any(|key| keys.contains_key(*key));
            if !is_combined && !says_more && lists.is_none_or(Map::is_empty) {
                keys.insert("additionalProperties".to_owned(), json!(false));
            }
            prepare_as(&Value::Object(keys), true).unwrap_or_else(|_| any_object())
        }
        // Null and whatever is no schema: it takes none.
        _ => finished(
            json!({"type": "object", "additionalProperties": false}),
            true,
        ),
    }
}

/// Any JSON object.
pub(super) fn any_object() -> Value {
    let reference = any_reference();
    let object = json!({"type": "object", "additionalProperties": reference});
    finished(object, false)
}

fn prepare_as(schema: &Value, is_mild: bool) -> Result<Value, String> {
    let walk = Walk {
        root: schema,
        is_mild,
        may_close: !combines(schema),
    };
    let prepared = walk.schema(schema, "", 0)?;
    let prepared = match prepared {
        Value::Object(_) => prepared,
        Value::Bool(true) => any_reference(),
        _ => return Err("it allows no answer".to_owned()),
    };
    Ok(finished(prepared, is_mild))
}

/// Adds what the compiler is to know.
fn finished(mut schema: Value, is_mild: bool) -> Value {
    let text = schema.to_string();
    if text.contains(ANY)
        && let Some(root) = schema.as_object_mut()
    {
        let definitions = root.entry("$defs").or_insert_with(|| json!({}));
        if let Some(definitions) = definitions.as_object_mut() {
            definitions.insert(ANY.to_owned(), any_value());
        }
    }
    let options = JsonCompileOptions {
        item_separator: ",\\x20?".to_owned(),
        key_separator: ":\\x20?".to_owned(),
        whitespace_flexible: false,
        lenient: is_mild,
        coerce_one_of: is_mild,
        // Without `\u`, a name cannot be written in two ways, one of them past a list of forbidden ones.
        json_allowed_escapes: Some("nrbtf\\\"".to_owned()),
        ..JsonCompileOptions::default()
    };
    options.apply_to(&mut schema);
    schema
}

fn any_reference() -> Value {
    json!({"$ref": format!("#/$defs/{ANY}")})
}

fn any_value() -> Value {
    json!({"anyOf": [
        {"type": ["null", "boolean", "string"]},
        {"type": "number", "minimum": -BIGGEST, "maximum": BIGGEST},
        {"type": "array", "items": any_reference()},
        {"type": "object", "additionalProperties": any_reference()},
    ]})
}

/// Whether schemas are laid over each other anywhere: then an object's own list of properties is not the whole list.
fn combines(schema: &Value) -> bool {
    match schema {
        Value::Array(parts) => parts.iter().any(combines),
        Value::Object(keys) => {
            let choice = ["$ref", "anyOf", "oneOf"]
                .iter()
                .any(|key| keys.contains_key(*key));
            let is_data = |key: &str| {
                ANNOTATIONS.contains(&key)
                    || matches!(
                        key,
                        "$defs" | "definitions" | "$schema" | "$id" | "discriminator"
                    )
            };
            let others = keys
                .keys()
                .filter(|key| !matches!(key.as_str(), "$ref" | "anyOf" | "oneOf") && !is_data(key));
            let is_laid_over = choice && others.count() > 0;
            let all = keys.get("allOf").and_then(Value::as_array);
            is_laid_over
                || all.is_some_and(|parts| {
                    parts.len() > 1 || keys.keys().any(|key| key != "allOf" && !is_data(key))
                })
                || keys.iter().any(|(key, value)| {
                    !matches!(key.as_str(), "enum" | "const" | "default" | "examples")
                        && combines(value)
                })
        }
        _ => false,
    }
}

struct Walk<'a> {
    root: &'a Value,
    is_mild: bool,
    may_close: bool,
}

impl Walk<'_> {
    fn schema(&self, schema: &Value, at: &str, depth: usize) -> Result<Value, String> {
        if depth > MAX_DEPTH {
            return Err(format!("it is more than {MAX_DEPTH} levels deep"));
        }
        let keys = match schema {
            Value::Object(keys) => keys,
            Value::Bool(true) => return Ok(self.anything()),
            Value::Bool(false) => return Ok(Value::Bool(false)),
            _ => return Err(format!("{} is neither object nor boolean", place(at))),
        };
        let mut out = Map::new();
        for (key, value) in keys {
            let at_key = || format!("{at}/{key}");
            match key.as_str() {
                key if ANNOTATIONS.contains(&key) => {}
                key if UNHELD.contains(&key) => self.unheld(keys, key, value, at, &mut out)?,
                "properties" | "patternProperties" | "$defs" | "definitions" => {
                    let value = self.each(value, &at_key(), depth)?;
                    out.insert(key.clone(), value);
                }
                "items" | "prefixItems" if value.is_array() => {
                    out.insert(key.clone(), self.list(value, &at_key(), depth)?);
                }
                "items" | "additionalItems" | "additionalProperties" => {
                    let value = self.schema(value, &at_key(), depth + 1)?;
                    out.insert(key.clone(), value);
                }
                "anyOf" | "allOf" => {
                    out.insert(key.clone(), self.list(value, &at_key(), depth)?);
                }
                "oneOf" => {
                    let branches = self.list(value, &at_key(), depth)?;
                    let is_apart = disjoint::all(self.root, value, self.may_close);
                    if !is_apart && !self.is_mild {
                        return Err(format!(
                            "an answer may fit several branches of `oneOf` at {}; say `anyOf`, or tell them apart by a required property with different `const`",
                            place(at)
                        ));
                    }
                    out.insert("anyOf".to_owned(), branches);
                }
                "$ref" => {
                    let is_own = value.as_str().is_some_and(|text| text.starts_with('#'));
                    if !is_own {
                        return Err(format!("`$ref` at {} points out of the schema", place(at)));
                    }
                    out.insert(key.clone(), value.clone());
                }
                "format" => {
                    if let Some((key, value)) = format(value, keys) {
                        out.insert(key.to_owned(), value);
                    }
                }
                _ => _ = out.insert(key.clone(), value.clone()),
            }
        }
        self.complete(&mut out);
        Ok(match simpler(&mut out) {
            Some(only) => only,
            None if out.is_empty() => self.anything(),
            None => Value::Object(out),
        })
    }

    fn anything(&self) -> Value {
        match self.may_close {
            true => any_reference(),
            false => Value::Bool(true),
        }
    }

    fn each(&self, schemas: &Value, at: &str, depth: usize) -> Result<Value, String> {
        let Some(schemas) = schemas.as_object() else {
            return Err(format!("{} is no object", place(at)));
        };
        let mut out = Map::new();
        for (name, schema) in schemas {
            let schema = self.schema(schema, &format!("{at}/{name}"), depth + 1)?;
            out.insert(name.clone(), schema);
        }
        Ok(Value::Object(out))
    }

    fn list(&self, schemas: &Value, at: &str, depth: usize) -> Result<Value, String> {
        let Some(schemas) = schemas.as_array() else {
            return Err(format!("{} is no array", place(at)));
        };
        let each = schemas.iter().enumerate();
        each.map(|(index, schema)| self.schema(schema, &format!("{at}/{index}"), depth + 1))
            .collect()
    }

    /// A key the recogniser cannot hold; some values of it ask for nothing.
    fn unheld(
        &self,
        keys: &Map<String, Value>,
        key: &str,
        value: &Value,
        at: &str,
        out: &mut Map<String, Value>,
    ) -> Result<(), String> {
        let is_single = keys.get("maxItems").and_then(Value::as_u64) <= Some(1)
            && keys.contains_key("maxItems");
        let asks_nothing = match key {
            "uniqueItems" => value == &json!(false) || is_single,
            "unevaluatedProperties" | "unevaluatedItems" => value == &json!(true),
            "then" | "else" => !keys.contains_key("if"),
            "minContains" | "maxContains" => !keys.contains_key("contains"),
            _ => false,
        };
        if asks_nothing || self.is_mild {
            return Ok(());
        }
        if key == "unevaluatedProperties" && value == &json!(false) && self.may_close {
            out.entry("additionalProperties").or_insert(json!(false));
            return Ok(());
        }
        Err(format!("`{key}` at {} is not supported", place(at)))
    }

    /// Says what the schema leaves open.
    fn complete(&self, keys: &mut Map<String, Value>) {
        let says = |keys: &Map<String, Value>, names: &[&str]| {
            names.iter().any(|name| keys.contains_key(*name))
        };
        let is_plain = !says(keys, &["type", "enum", "const", "$ref", "anyOf", "allOf"]);
        if self.may_close && is_plain {
            if says(keys, &["properties", "additionalProperties", "required"]) {
                keys.insert("type".to_owned(), json!("object"));
            } else if says(keys, &["items", "prefixItems"]) {
                keys.insert("type".to_owned(), json!("array"));
            }
        }
        if is_of(keys, "object") && !keys.contains_key("additionalProperties") && self.may_close {
            let rest = match disjoint::is_listed(keys) {
                true => Value::Bool(false),
                false => any_reference(),
            };
            keys.insert("additionalProperties".to_owned(), rest);
        }
        if is_of(keys, "array") && !says(keys, &["items", "prefixItems"]) {
            keys.insert("items".to_owned(), self.anything());
        }
        if is_of(keys, "integer") || is_of(keys, "number") {
            bound(keys);
        }
    }
}

fn is_of(keys: &Map<String, Value>, kind: &str) -> bool {
    match keys.get("type") {
        Some(Value::String(name)) => name == kind,
        Some(Value::Array(names)) => names.iter().any(|name| name == kind),
        _ => false,
    }
}

/// Bounds on the sides where there are none.
fn bound(keys: &mut Map<String, Value>) {
    let biggest = BIGGEST as f64;
    let number = |key: &str| keys.get(key).and_then(Value::as_f64);
    let low = number("minimum").or(number("exclusiveMinimum"));
    let high = number("maximum").or(number("exclusiveMaximum"));
    if low.is_none() && high.unwrap_or(0.0) > -biggest {
        keys.insert("minimum".to_owned(), json!(-BIGGEST));
    }
    if high.is_none() && low.unwrap_or(0.0) < biggest {
        keys.insert("maximum".to_owned(), json!(BIGGEST));
    }
}

/// `allOf` of one schema and nothing else is that schema.
fn simpler(keys: &mut Map<String, Value>) -> Option<Value> {
    if keys.len() != 1 {
        return None;
    }
    let all = keys.get_mut("allOf")?.as_array_mut()?;
    match all.len() {
        1 => all.pop(),
        _ => None,
    }
}

/// What holds a format: a key and its value. Beside a `pattern`, which is the caller's own, only llguidance's forms apply.
fn format(value: &Value, keys: &Map<String, Value>) -> Option<(&'static str, Value)> {
    let name = value.as_str()?;
    const DATE: &str = "[0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))";
    const TIME: &str = "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])";
    const LABEL: &str = "[a-z0-9]{1,20}(-[a-z0-9]{1,12}){0,2}";
    let pattern = match name {
        "date" => format!("^{DATE}$"),
        "time" => format!("^{TIME}$"),
        "date-time" => format!("^{DATE}T{TIME}$"),
        "email" | "idn-email" => format!(
            "^[a-zA-Z0-9]([a-zA-Z0-9_+-]{{0,20}}[a-zA-Z0-9])?(\\.[a-zA-Z0-9]{{1,20}}){{0,2}}@({LABEL}\\.){{1,3}}[a-z]{{2,10}}$"
        ),
        "hostname" | "idn-hostname" => {
            format!("^({LABEL}\\.){{0,4}}[a-z][a-z0-9]{{0,20}}$")
        }
        _ => {
            let held = match name {
                "uuid" | "ipv4" | "ipv6" | "duration" => name,
                "uri" | "iri" | "uri-reference" | "iri-reference" | "url" => "uri",
                _ => return None,
            };
            return Some(("format", json!(held)));
        }
    };
    match keys.contains_key("pattern") {
        true => Some(("format", value.clone())),
        false => Some(("pattern", json!(pattern))),
    }
}

/// A JSON pointer for the caller to read.
fn place(at: &str) -> String {
    match at {
        "" => "the top".to_owned(),
        at => format!("`{at}`"),
    }
}

#[cfg(test)]
mod tests;
