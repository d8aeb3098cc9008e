//! One way to ask a model's header, whichever form it has: the keys of `config.json`, or those of GGUF behind the
//! architecture's name.

use super::LoadError;
use crate::weights::ModelFiles;
use crate::weights::gguf::Gguf;
use serde_json::{Map, Value};

/// Above any real model, and far below what could overflow a product of three.
const MAX_SIZE: i64 = 1 << 20;

/// A question's key in both forms; empty where one has none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key {
    pub config: &'static str,
    pub gguf: &'static str,
}

pub(crate) const fn key(config: &'static str, gguf: &'static str) -> Key {
    Key { config, gguf }
}

#[derive(Clone, Copy)]
pub(crate) enum Header<'a> {
    /// The part of `config.json` that describes the text model.
    Config(&'a Map<String, Value>),
    Gguf {
        file: &'a Gguf,
        architecture: &'a str,
    },
}

impl<'a> Header<'a> {
    pub(crate) fn read(files: &'a ModelFiles) -> Result<Header<'a>, LoadError> {
        Ok(match files {
            ModelFiles::Folder(folder) => match folder.config.get("text_config") {
                Some(Value::Object(text)) => Header::Config(text),
                _ => Header::Config(&folder.config),
            },
            ModelFiles::Gguf(file) => Header::Gguf {
                file: &file.header,
                architecture: file
                    .header
                    .text("general.architecture")
                    .map_err(crate::weights::WeightsError::from)?,
            },
        })
    }

    pub(crate) fn is_gguf(&self) -> bool {
        matches!(self, Header::Gguf { .. })
    }

    /// `model_type`, or GGUF's architecture.
    pub(crate) fn architecture(&self) -> &'a str {
        match self {
            Header::Config(config) => config
                .get("model_type")
                .and_then(Value::as_str)
                .unwrap_or_default(),
            Header::Gguf { architecture, .. } => architecture,
        }
    }

    /// A value of `config.json`; absent in GGUF, and where it is null.
    pub(crate) fn config(&self, key: &str) -> Option<&'a Value> {
        match self {
            Header::Config(config) => config.get(key).filter(|value| !value.is_null()),
            Header::Gguf { .. } => None,
        }
    }

    /// A length or count of at least one; `None` when absent.
    pub(crate) fn size(&self, key: Key) -> Result<Option<usize>, LoadError> {
        let value = match self {
            Header::Config(_) => self.config(key.config).map(Value::as_i64),
            Header::Gguf { file, .. } => {
                let key = self.gguf_key(key);
                file.has_key(&key).then(|| file.integer(&key).ok())
            }
        };
        let check = |value: Option<i64>| {
            value
                .filter(|value| (1..=MAX_SIZE).contains(value))
                .map(|value| value as usize)
                .ok_or_else(|| self.wrong(key))
        };
        value.map(check).transpose()
    }

    pub(crate) fn need_size(&self, key: Key) -> Result<usize, LoadError> {
        self.size(key)?
            .ok_or_else(|| LoadError::Key(self.name(key)))
    }

    /// A finite number; `None` when absent.
    pub(crate) fn float(&self, key: Key) -> Result<Option<f32>, LoadError> {
        let value = match self {
            Header::Config(_) => self.config(key.config).map(Value::as_f64),
            Header::Gguf { file, .. } => {
                let key = self.gguf_key(key);
                file.has_key(&key).then(|| file.float(&key).ok())
            }
        };
        let check = |value: Option<f64>| {
            value
                .map(|value| value as f32)
                .filter(|value| value.is_finite())
                .ok_or_else(|| self.wrong(key))
        };
        value.map(check).transpose()
    }

    /// A switch of `config.json`.
    pub(crate) fn flag(&self, key: &str) -> Option<bool> {
        self.config(key).and_then(Value::as_bool)
    }

    /// A text of GGUF's header.
    pub(crate) fn gguf_text(&self, key: &str) -> Option<&'a str> {
        match self {
            Header::Config(_) => None,
            Header::Gguf { file, architecture } => file.text(&format!("{architecture}.{key}")).ok(),
        }
    }

    /// The key as its file spells it, for errors.
    pub(crate) fn name(&self, key: Key) -> String {
        match self {
            Header::Config(_) => key.config.to_owned(),
            Header::Gguf { .. } => self.gguf_key(key),
        }
    }

    pub(crate) fn wrong(&self, key: Key) -> LoadError {
        LoadError::Value(self.name(key))
    }

    fn gguf_key(&self, key: Key) -> String {
        format!("{}.{}", self.architecture(), key.gguf)
    }
}
