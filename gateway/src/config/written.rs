//! Text and environment → the written form, and which of its keys came from where.

use serde::Deserialize;
use toml::{Table, Value};

use super::ConfigError;
use super::file::File;
use super::secret::Environment;

pub(super) struct Written {
    pub(super) file: File,
    /// What the file and the environment said; without defaults.
    pub(super) table: Table,
    /// Paths that the environment set.
    pub(super) overridden: Vec<String>,
}

pub(super) fn read(
    text: &str,
    origin: &str,
    environment: &Environment,
) -> Result<Written, ConfigError> {
    let written = parse(text, origin)?;
    let mut table: Table = text.parse().expect("the same text was parsed a line above");
    let overridden = apply_overrides(&mut table, environment)?;
    let file = if overridden.is_empty() {
        written
    } else {
        from_table(table.clone())?
    };
    Ok(Written {
        file,
        table,
        overridden,
    })
}

fn parse(text: &str, origin: &str) -> Result<File, ConfigError> {
    let line_of = |error: &toml::de::Error| {
        let start = error.span()?.start;
        Some(text[..start.min(text.len())].matches('\n').count() + 1)
    };
    // `message()` and not `Display`: that one prints the source line, which may hold a secret.
    let deserializer = toml::Deserializer::parse(text).map_err(|error| ConfigError::Syntax {
        origin: origin.to_owned(),
        line: line_of(&error),
        message: error.message().to_owned(),
    })?;
    serde_path_to_error::deserialize(deserializer).map_err(|error| ConfigError::Key {
        origin: origin.to_owned(),
        line: line_of(error.inner()),
        path: error.path().to_string(),
        message: error.inner().message().to_owned(),
    })
}

fn from_table(table: Table) -> Result<File, ConfigError> {
    File::deserialize(table).map_err(|error| ConfigError::Override {
        name: "AI_GATEWAY_*".to_owned(),
        message: error.message().to_owned(),
    })
}

/// Puts each override into the table and returns the paths set. A variable is text: the setting
/// decides whether it is read as text, number or truth value.
fn apply_overrides(
    table: &mut Table,
    environment: &Environment,
) -> Result<Vec<String>, ConfigError> {
    let mut paths = Vec::new();
    for (name, path, text) in environment.overrides() {
        let failed = |message: String| ConfigError::Override {
            name: name.to_owned(),
            message,
        };
        let candidates = [
            Some(Value::String(text.to_owned())),
            text.parse().ok().map(Value::Integer),
            text.parse().ok().map(Value::Boolean),
        ];
        let mut first_error = None;
        let mut taken = None;
        for candidate in candidates.into_iter().flatten() {
            let mut attempt = table.clone();
            insert(&mut attempt, &path, candidate).map_err(failed)?;
            match serde_path_to_error::deserialize::<_, File>(attempt.clone()) {
                Ok(_) => taken = Some(attempt),
                Err(error) => {
                    first_error.get_or_insert(error.inner().message().to_owned());
                    continue;
                }
            }
            break;
        }
        match taken {
            Some(attempt) => *table = attempt,
            None => return Err(failed(first_error.unwrap_or_default())),
        }
        paths.push(path.join("."));
    }
    Ok(paths)
}

fn insert(table: &mut Table, path: &[String], value: Value) -> Result<(), String> {
    let (key, sections) = path
        .split_last()
        .expect("an override has a section and a key");
    let mut place = table;
    for section in sections {
        let entry = place
            .entry(section.clone())
            .or_insert_with(|| Value::Table(Table::new()));
        place = match entry {
            Value::Table(inner) => inner,
            _ => {
                return Err(format!(
                    "`{section}` is not a table that a variable can reach into"
                ));
            }
        };
    }
    place.insert(key.clone(), value);
    Ok(())
}
