//! The few members of a JSON body that matter, read in one pass without building anything.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{cut_name, form};

/// Strings at least this long are looked at before they count as text: they may be base64.
const MIN_SUSPECT_BYTES: usize = 512;

/// What a body said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub model: Option<String>,
    pub stream: Option<bool>,
    /// Bytes of text anywhere in it; base64 left out.
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

/// The members of the outermost object.
struct Members<'s>(&'s mut Said);

/// One value: counts its text, and keeps it when it is what `name` or `flag` wants.
struct Value<'s> {
    text_bytes: &'s mut u64,
    name: Option<&'s mut Option<String>>,
    flag: Option<&'s mut Option<bool>>,
}

struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Member;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Member, D::Error> {
        deserializer.deserialize_str(self)
    }
}

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
        let mut list = None;
        while let Some(member) = map.next_key_seed(Key)? {
            let text_bytes = &mut said.text_bytes;
            match member {
                Member::Model => map.next_value_seed(Value {
                    text_bytes,
                    name: Some(&mut said.model),
                    flag: None,
                })?,
                Member::Models => map.next_value_seed(Value {
                    text_bytes,
                    name: Some(&mut list),
                    flag: None,
                })?,
                Member::Stream => map.next_value_seed(Value {
                    text_bytes,
                    name: None,
                    flag: Some(&mut said.stream),
                })?,
                Member::Nested => map.next_value_seed(Members(said))?,
                Member::Other => map.next_value_seed(Value {
                    text_bytes,
                    name: None,
                    flag: None,
                })?,
            }
            if said.model.is_none() {
                said.model = list.take();
            }
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        match self.name {
            Some(name) => *name = cut_name(text),
            None => *self.text_bytes += text_bytes(text),
        }
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        if let Some(flag) = self.flag {
            *flag = Some(value);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Value {
            text_bytes,
            mut name,
            ..
        } = self;
        // A wanted name is the first item; the others are read as plain values.
        while let Some(()) = items.next_element_seed(Value {
            text_bytes: &mut *text_bytes,
            name: name.take(),
            flag: None,
        })? {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key::<IgnoredAny>()?.is_some() {
            map.next_value_seed(Value {
                text_bytes: &mut *self.text_bytes,
                name: None,
                flag: None,
            })?;
        }
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// The string's length, or 0 when it is a file rather than text.
fn text_bytes(text: &str) -> u64 {
    if text.len() < MIN_SUSPECT_BYTES {
        return text.len() as u64;
    }
    let is_base64_byte =
        |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'-' | b'_' | b'=');
    let head = &text.as_bytes()[..MIN_SUSPECT_BYTES / 2];
    let is_file = text.starts_with("data:") || head.iter().all(is_base64_byte);
    if is_file { 0 } else { text.len() as u64 }
}
