//! A tokenizer from the files beside safetensors weights: `tokenizer.json`, and what `tokenizer_config.json`,
//! `generation_config.json` and `config.json` say of it.

use super::pieces::{Kind, Pieces, Spelling, byte_of};
use super::{Encoder, Named, Parts, Tokenizer, TokenizerError};
use serde_json::Value;
use std::path::Path;

/// Wrapped and unwrapped, it shows what the tokenizer puts around a text.
const PROBE: &str = "a";

impl Tokenizer {
    /// `path` is that of `tokenizer.json`; the other files are looked for beside it, and any may be missing.
    pub(crate) fn from_files(path: &Path) -> Result<Tokenizer, TokenizerError> {
        let unreadable = |cause: &dyn ToString| TokenizerError::Read {
            name: path.display().to_string(),
            cause: cause.to_string(),
        };
        let bytes = std::fs::read(path).map_err(|error| unreadable(&error))?;
        let mut inner =
            tokenizers::Tokenizer::from_bytes(&bytes).map_err(|error| unreadable(&error))?;
        // Lengths are the engine's to bound, and it packs prompts without padding.
        inner
            .with_truncation(None)
            .map_err(|error| unreadable(&error))?;
        inner.with_padding(None);

        let config = beside(path, "tokenizer_config.json")?;
        let named = |key: &str| {
            let text = token_text(&config[key]).unwrap_or_default();
            match inner.token_to_id(text) {
                Some(id) if !text.is_empty() => Named {
                    id: Some(id),
                    text: text.to_owned(),
                },
                _ => Named::default(),
            }
        };
        let (begin, end) = (named("bos_token"), named("eos_token"));
        let mut ends = end_ids(&beside(path, "generation_config.json")?);
        ends.extend(end_ids(&beside(path, "config.json")?));
        let decoder = serde_json::to_value(inner.get_decoder()).unwrap_or_default();
        let (tokens, kinds) = vocabulary(&inner, spelling(&decoder));
        let mut pieces = Pieces::new();
        for (token, kind) in tokens.iter().zip(&kinds) {
            pieces.push(token, *kind, spelling(&decoder))?;
        }
        let encoder = Encoder::Library(Box::new(inner));
        let (mut before, mut after) = wrapping(&encoder).map_err(TokenizerError::Vocabulary)?;
        // Newer than the file's own rule, where given.
        override_with(&mut before, &config["add_bos_token"], &begin);
        override_with(&mut after, &config["add_eos_token"], &end);
        let parts = Parts {
            begin,
            end,
            ends,
            before,
            after,
            has_space_prefix: drops_first_space(&decoder),
        };
        Ok(Tokenizer::assemble(encoder, &tokens, kinds, pieces, parts))
    }
}

/// The JSON file `name` in the folder of `path`; null where there is none.
fn beside(path: &Path, name: &str) -> Result<Value, TokenizerError> {
    let path = path.with_file_name(name);
    let read = match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Value::Null),
        Err(error) => Err(error.to_string()),
    };
    read.map_err(|cause| TokenizerError::Read {
        name: path.display().to_string(),
        cause,
    })
}

/// A token as configurations write one: its text, or an object that holds it.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}

/// One id or several.
fn end_ids(config: &Value) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match &config["eos_token_id"] {
        Value::Array(ids) => ids.iter().filter_map(id).collect(),
        other => id(other).into_iter().collect(),
    }
}

fn override_with(around: &mut Vec<u32>, setting: &Value, token: &Named) {
    match setting.as_bool() {
        Some(true) => *around = token.id.into_iter().collect(),
        Some(false) => around.clear(),
        None => {}
    }
}

/// What the tokenizer puts before and behind a text.
fn wrapping(encoder: &Encoder) -> Result<(Vec<u32>, Vec<u32>), String> {
    let plain = encoder.ids(PROBE, false)?;
    let wrapped = encoder.ids(PROBE, true)?;
    let at = wrapped
        .windows(plain.len().max(1))
        .position(|window| window == plain.as_slice());
    Ok(match at {
        Some(at) => (wrapped[..at].to_vec(), wrapped[at + plain.len()..].to_vec()),
        None => (Vec::new(), Vec::new()),
    })
}

/// The decoder and those inside it.
fn steps(decoder: &Value) -> Vec<&Value> {
    match decoder["decoders"].as_array() {
        Some(inner) => inner.iter().flat_map(steps).collect(),
        None => vec![decoder],
    }
}

fn spelling(decoder: &Value) -> Spelling {
    let is_marked = |step: &Value| match step["type"].as_str() {
        Some("Metaspace" | "ByteFallback") => true,
        Some("Replace") => step["pattern"]["String"] == "▁",
        _ => false,
    };
    let steps = steps(decoder);
    if steps.iter().any(|step| step["type"] == "ByteLevel") {
        Spelling::Bytes
    } else if steps.into_iter().any(is_marked) {
        Spelling::Marks
    } else {
        Spelling::Plain
    }
}

fn drops_first_space(decoder: &Value) -> bool {
    steps(decoder)
        .into_iter()
        .any(|step| match step["type"].as_str() {
            Some("Strip") => step["content"] == " " && step["start"].as_u64() > Some(0),
            Some("Metaspace") => step["prepend_scheme"] != "never",
            _ => false,
        })
}

/// Every id's token and kind; an id nobody has is unused.
fn vocabulary(inner: &tokenizers::Tokenizer, spelling: Spelling) -> (Vec<String>, Vec<Kind>) {
    let ids = inner.get_vocab(true);
    let size = ids.values().max().map_or(0, |id| *id as usize + 1);
    let (mut tokens, mut kinds) = (vec![String::new(); size], vec![Kind::Unused; size]);
    for (token, id) in ids {
        let at = id as usize;
        kinds[at] = match spelling {
            Spelling::Marks if byte_of(&token).is_some() => Kind::Byte,
            _ => Kind::Normal,
        };
        tokens[at] = token;
    }
    for (id, token) in inner.get_added_tokens_decoder() {
        kinds[id as usize] = match token.special {
            true => Kind::Control,
            false => Kind::UserDefined,
        };
    }
    (tokens, kinds)
}
