//! The few members of a JSON body that matter, read in one pass without building anything.
//!
//! A prompt may be megabytes, so its strings are neither decoded nor copied: the parser skips over each member
//! and hands back its bytes, in which quotes are counted.

use std::borrow::Cow;
use std::fmt;

use memchr::memchr;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{cut_name, form};

/// Strings at least this long are looked at before they count as text: they may be base64.
const MIN_SUSPECT_BYTES: usize = 512;

/// What a body said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub model: Option<String>,
    pub stream: Option<bool>,
    /// Bytes of text anywhere in it, escapes as written; base64 left out.
    pub text_bytes: u64,
}

impl Said {
    pub fn read(content_type: &str, bytes: &[u8]) -> Said {
        let kind = content_type
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
        let mut said = Said::default();
        if kind.starts_with("multipart/") {
            form::read(content_type, bytes, &mut said);
        } else if kind.contains("json") || (first == Some(&b'{') && !kind.starts_with("audio/")) {
            let mut json = serde_json::Deserializer::from_slice(bytes);
            // What was read before a fault still counts; the provider will refuse the rest.
            let _ = Members(&mut said).deserialize(&mut json);
        } else if kind.starts_with("text/") {
            said.text_bytes = bytes.len() as u64;
        }
        said
    }
}

/// Which member a key names.
enum Member {
    /// The model, under whichever name.
    Model,
    /// A list of models to try; the first counts when there is no model.
    Models,
    Stream,
    /// An object that holds such members itself.
    Nested,
    Other,
}

impl<'de> Deserialize<'de> for Member {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Member, D::Error> {
        struct Key;

        impl Visitor<'_> for Key {
            type Value = Member;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E>(self, key: &str) -> Result<Member, E> {
                Ok(match key {
                    // `model_id` with voices, `version` at Replicate, `agent_id` at Mistral.
                    "model" | "model_id" | "version" | "agent_id" => Member::Model,
                    "models" => Member::Models,
                    "stream" => Member::Stream,
                    "image_request" => Member::Nested,
                    _ => Member::Other,
                })
            }
        }

        deserializer.deserialize_str(Key)
    }
}

/// The members of the outermost object.
struct Members<'s>(&'s mut Said);

impl<'de> DeserializeSeed<'de> for Members<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Members<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let said = self.0;
        let mut first_of_list = None;
        while let Some(member) = map.next_key::<Member>()? {
            if let Member::Nested = member {
                map.next_value_seed(Members(said))?;
                continue;
            }
            let value = map.next_value::<&RawValue>()?.get();
            match member {
                Member::Model => said.model = text(value).or_else(|| said.model.take()),
                Member::Models => first_of_list = first_text(value),
                Member::Stream => said.stream = serde_json::from_str(value).ok().or(said.stream),
                Member::Nested | Member::Other => {
                    said.text_bytes += text_bytes_of(value.as_bytes())
                }
            }
        }
        if said.model.is_none() {
            said.model = first_of_list;
        }
        Ok(())
    }
}

fn text(value: &str) -> Option<String> {
    cut_name(&serde_json::from_str::<Cow<'_, str>>(value).ok()?)
}

fn first_text(value: &str) -> Option<String> {
    let items: Vec<&RawValue> = serde_json::from_str(value).ok()?;
    text(items.first()?.get())
}

/// The bytes of all strings in a JSON value that are not keys. The value was already found well formed.
fn text_bytes_of(json: &[u8]) -> u64 {
    let mut sum = 0;
    let mut rest = json;
    while let Some(quote) = memchr(b'"', rest) {
        rest = &rest[quote + 1..];
        let Some(length) = string_length(rest) else {
            break;
        };
        let string = &rest[..length];
        rest = &rest[length + 1..];
        let is_key = rest.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b':');
        if !is_key && !looks_like_a_file(string) {
            sum += string.len() as u64;
        }
    }
    sum
}

/// How far the closing quote is: the first one with an even number of backslashes before it. Looking for quotes
/// alone is what makes this cheap; prose has many more escaped line ends than quotes.
fn string_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr(b'"', bytes.get(at..)?)?;
        let backslashes = bytes[..at]
            .iter()
            .rev()
            .take_while(|byte| **byte == b'\\')
            .count();
        if backslashes % 2 == 0 {
            return Some(at);
        }
        at += 1;
    }
}

/// Whether a string is an encoded file rather than text.
fn looks_like_a_file(string: &[u8]) -> bool {
    if string.len() < MIN_SUSPECT_BYTES {
        return false;
    }
    // Some writers escape the slashes.
    let is_base64 =
        |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'-' | b'_' | b'=' | b'\\');
    string.starts_with(b"data:") || string[..MIN_SUSPECT_BYTES / 2].iter().all(is_base64)
}
