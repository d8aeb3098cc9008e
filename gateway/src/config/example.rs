//! Holds `config.example.toml` and the written form together.

use serde_json::Value as Json;

use super::file::File;
use super::gateway::{Gateway, GatewayEntry};
use super::{Config, Timeouts};

const EXAMPLE: &str = include_str!("../../../config.example.toml");

fn parse(text: &str) -> File {
    toml::from_str(text).unwrap_or_else(|error| panic!("{error}"))
}

fn json(file: &File) -> Json {
    serde_json::to_value(file).unwrap()
}

/// The example with its unset settings (`#key = value`) switched on.
fn everything_set() -> String {
    let switch_on = |line: &str| match line.strip_prefix('#') {
        Some(setting) if !setting.is_empty() && !setting.starts_with(' ') => setting.to_owned(),
        _ => line.to_owned(),
    };
    EXAMPLE.lines().map(|line| switch_on(line) + "\n").collect()
}

#[test]
fn the_example_is_the_defaults() {
    assert_eq!(json(&parse(EXAMPLE)), json(&File::default()));
    assert!(Config::parse(EXAMPLE, "config.example.toml").is_ok());
}

#[test]
fn no_setting_is_missing() {
    let text = everything_set();
    let written: toml::Table = text.parse().unwrap();
    let written = serde_json::to_value(written).unwrap();
    // Serialising shows every field of every struct, unset ones as null.
    let mut missing = Vec::new();
    compare(&json(&parse(&text)), Some(&written), "", &mut missing);
    assert!(
        missing.is_empty(),
        "not in config.example.toml: {missing:?}"
    );
}

fn compare(field: &Json, written: Option<&Json>, path: &str, missing: &mut Vec<String>) {
    let Some(written) = written else {
        missing.push(path.to_owned());
        return;
    };
    match field {
        Json::Object(fields) => {
            for (key, value) in fields {
                compare(value, written.get(key), &format!("{path}.{key}"), missing);
            }
        }
        Json::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                compare(
                    item,
                    written.get(index),
                    &format!("{path}[{index}]"),
                    missing,
                );
            }
        }
        Json::Null => missing.push(path.to_owned()),
        _ => {}
    }
}

#[test]
fn the_example_gateway_is_a_gateway_nobody_configured() {
    let text = everything_set();
    let entry: &GatewayEntry = &parse(&text).gateways[0];
    let timeouts = Timeouts::default();
    let shown = Gateway::from_entry(entry, &timeouts);
    let plain = Gateway::unconfigured("default", "default", &timeouts);
    // What is unset by default has to be shown as something.
    let shown = Gateway {
        generation: plain.generation,
        authentication: None,
        ..shown
    };
    assert_eq!(shown, plain);
}

#[test]
fn every_setting_has_its_reason() {
    let mut above = "";
    for line in EXAMPLE.lines() {
        let setting = line.trim_start_matches('#');
        let is_setting = !setting.starts_with([' ', '[']) && setting.contains(" = ");
        let is_repeated = [
            "connect_ms",
            "response_head_ms",
            "first_token_ms",
            "idle_ms",
            "enabled",
            "password",
        ]
        .iter()
        .any(|key| setting.starts_with(key));
        assert!(
            !is_setting || is_repeated || above.starts_with("# "),
            "no comment above `{line}`"
        );
        above = line;
    }
}
