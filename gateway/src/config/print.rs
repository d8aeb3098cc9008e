//! `print-config`: every setting with its value and where that came from.

use serde_json::Value as Json;
use toml::{Table, Value};

use super::file::File;

/// Where a value came from, later ones beating earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Default,
    File,
    Environment,
}

impl Source {
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Default => "default",
            Source::File => "file",
            Source::Environment => "environment",
        }
    }
}

/// One key of the tree.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// The table it stands in: `server`, `providers.openai`, `gateways[0].timeouts`.
    pub section: String,
    pub key: String,
    /// `None` = unset. Plain secrets are hidden already.
    pub value: Option<Value>,
    pub source: Source,
}

/// `table` is what the file and the environment said, `overridden` the paths the latter set.
pub(super) fn settings(file: &File, table: &Table, overridden: &[String]) -> Vec<Setting> {
    // JSON keeps unset options as null where TOML leaves them out; here both are of interest.
    let tree = serde_json::to_value(file).expect("the written form is plain data");
    let mut settings = Vec::new();
    collect(
        &tree,
        Some(&Value::Table(table.clone())),
        "",
        overridden,
        &mut settings,
    );
    settings
}

fn collect(
    tree: &Json,
    written: Option<&Value>,
    section: &str,
    overridden: &[String],
    out: &mut Vec<Setting>,
) {
    let Json::Object(fields) = tree else { return };
    let (sections, keys): (Vec<_>, Vec<_>) =
        fields.iter().partition(|(_, value)| is_section(value));
    for (key, value) in keys {
        let place = written.and_then(|table| table.get(key));
        let source = if overridden.contains(&join(section, key)) {
            Source::Environment
        } else if place.is_some() {
            Source::File
        } else {
            Source::Default
        };
        out.push(Setting {
            section: section.to_owned(),
            key: key.clone(),
            value: to_toml(value),
            source,
        });
    }
    for (key, value) in sections {
        let place = written.and_then(|table| table.get(key));
        match value {
            Json::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    let place = place.and_then(|array| array.get(index));
                    collect(
                        item,
                        place,
                        &format!("{}[{index}]", join(section, key)),
                        overridden,
                        out,
                    );
                }
            }
            _ => collect(value, place, &join(section, key), overridden, out),
        }
    }
}

/// Tables and arrays of tables get a heading of their own; a secret's reference does not.
fn is_section(value: &Json) -> bool {
    match value {
        Json::Object(fields) => !is_reference(fields),
        Json::Array(items) => items.iter().any(Json::is_object),
        _ => false,
    }
}

fn is_reference(fields: &serde_json::Map<String, Json>) -> bool {
    fields.len() == 1
        && ["env", "file"]
            .iter()
            .any(|kind| fields.get(*kind).is_some_and(Json::is_string))
}

fn join(section: &str, key: &str) -> String {
    if section.is_empty() {
        key.to_owned()
    } else {
        format!("{section}.{key}")
    }
}

fn to_toml(value: &Json) -> Option<Value> {
    match value {
        Json::Null => None,
        other => Value::try_from(other).ok(),
    }
}

pub(super) fn render(settings: &[Setting]) -> String {
    let mut text = String::new();
    let mut section = "";
    for setting in settings {
        if setting.section != section {
            section = &setting.section;
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&heading(section));
            text.push('\n');
        }
        let line = match &setting.value {
            Some(value) => format!("{} = {value}", setting.key),
            None => format!("# {} is unset", setting.key),
        };
        text.push_str(&format!("{line:<60} # {}\n", setting.source.as_str()));
    }
    text
}

/// `gateways[0]` opens an array's item, `gateways[0].timeouts` a table inside the last one.
fn heading(section: &str) -> String {
    let without_index: String = section
        .split('.')
        .map(strip_index)
        .collect::<Vec<_>>()
        .join(".");
    if section.ends_with(']') {
        format!("[[{without_index}]]")
    } else {
        format!("[{without_index}]")
    }
}

fn strip_index(part: &str) -> &str {
    part.split_once('[').map_or(part, |(name, _)| name)
}
