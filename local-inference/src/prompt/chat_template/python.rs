//! Values as Python writes them: templates were made for it, and models were trained on what they gave.

use minijinja::Value;
use minijinja::value::ValueKind;
use serde_json::Value as Json;

/// JSON as a template's value; objects keep their order.
pub(super) fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => {
            if let Some(value) = number.as_i64() {
                Value::from(value)
            } else if let Some(value) = number.as_u64() {
                Value::from(value)
            } else {
                Value::from(number.as_f64().unwrap_or(f64::NAN))
            }
        }
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(value).collect(),
        Json::Object(members) => {
            let members = members.iter();
            Value::from_pairs(members.map(|(name, member)| (name.clone(), value(member))))
        }
    }
}

/// The arguments of `json.dumps` that templates use.
#[derive(Debug, Default)]
pub(super) struct Style {
    pub indent: Option<usize>,
    /// Between members, and between a name and its value.
    pub separators: Option<[String; 2]>,
    pub is_ascii: bool,
    pub sorts_keys: bool,
}

impl Style {
    pub(super) fn json(&self, value: &Value) -> String {
        let mut out = String::new();
        self.write(value, 0, &mut out);
        out
    }

    fn write(&self, value: &Value, depth: usize, out: &mut String) {
        match value.kind() {
            ValueKind::Undefined | ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => match value.is_integer() {
                true => *out += &value.to_string(),
                false => *out += &float(value),
            },
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter().map(Iterator::collect).unwrap_or_default();
                self.list('[', ']', items.len(), depth, out, |i, out| {
                    self.write(&items[i], depth + 1, out);
                });
            }
            ValueKind::Map => {
                let mut names: Vec<Value> =
                    value.try_iter().map(Iterator::collect).unwrap_or_default();
                if self.sorts_keys {
                    names.sort();
                }
                let colon = self.separators.as_ref().map_or(": ", |pair| &pair[1]);
                self.list('{', '}', names.len(), depth, out, |i, out| {
                    self.string(&names[i].to_string(), out);
                    out.push_str(colon);
                    let member = value.get_item(&names[i]).unwrap_or_default();
                    self.write(&member, depth + 1, out);
                });
            }
            _ => self.string(&value.to_string(), out),
        }
    }

    fn list(
        &self,
        open: char,
        close: char,
        count: usize,
        depth: usize,
        out: &mut String,
        item: impl Fn(usize, &mut String),
    ) {
        // With an indent the line break takes the space's place.
        let usual = if self.indent.is_some() { "," } else { ", " };
        let comma = self.separators.as_ref().map_or(usual, |pair| &pair[0]);
        let line = |depth: usize, out: &mut String| {
            if let Some(indent) = self.indent {
                out.push('\n');
                *out += &" ".repeat(indent * depth);
            }
        };
        out.push(open);
        for i in 0..count {
            if i > 0 {
                out.push_str(comma);
            }
            line(depth + 1, out);
            item(i, out);
        }
        if count > 0 {
            line(depth, out);
        }
        out.push(close);
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for letter in text.chars() {
            match letter {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                '\0'..='\x1f' => *out += &format!("\\u{:04x}", letter as u32),
                '\x7f'.. if self.is_ascii => {
                    for unit in letter.encode_utf16(&mut [0; 2]) {
                        *out += &format!("\\u{unit:04x}");
                    }
                }
                _ => out.push(letter),
            }
        }
        out.push('"');
    }
}

/// Python's shortest form: digits up to sixteen places, an exponent of at least two digits beyond.
fn float(value: &Value) -> String {
    let Ok(number) = f64::try_from(value.clone()) else {
        return value.to_string();
    };
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .to_owned();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if number != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    format!("{number:?}")
}
