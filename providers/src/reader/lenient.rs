//! Field types that take what the wire gives. Providers send numbers as strings and floats, `null` for "none",
//! and objects where text was promised; a surprise in one member must not cost us the others. So every type
//! here accepts any JSON value and keeps only what it understands.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Visitor methods for the kinds of value a type has no use for: read past, and left at the default.
macro_rules! ignore {
    ($($kind:ident)*) => { $(ignore!(@ $kind);)* };
    (@ unit) => {
        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> { Ok(Default::default()) }
    };
    (@ bool) => {
        fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> { Ok(Default::default()) }
    };
    (@ number) => {
        fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> { Ok(Default::default()) }
        fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> { Ok(Default::default()) }
        fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> { Ok(Default::default()) }
    };
    (@ text) => {
        fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> { Ok(Default::default()) }
    };
    (@ list) => {
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            Ok(Default::default())
        }
    };
    (@ object) => {
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok(Default::default())
        }
    };
    (@ expecting) => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str("any value") }
    };
}

/// Larger counts are noise, and floats no longer hold them exactly. Sums of a few counts cannot overflow.
const MAX_COUNT: u64 = 1 << 53;

/// A count. Whole floats and numeric strings are read; negative, huge and other values are `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Num(pub Option<u64>);

impl<'de> Deserialize<'de> for Num {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Num, D::Error> {
        Real::deserialize(deserializer).map(|real| Num(real.count()))
    }
}

/// A measure or an amount of money; also the exact integer when it was one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Real {
    whole: Option<u64>,
    value: Option<f64>,
}

impl Real {
    pub fn get(self) -> Option<f64> {
        self.value
    }

    fn count(self) -> Option<u64> {
        // A float too large for the cast becomes the largest integer, and is refused like it.
        self.whole
            .or(self.value.map(|value| value.round() as u64))
            .filter(|count| *count <= MAX_COUNT)
    }

    fn of(value: f64) -> Real {
        let value = (value.is_finite() && value >= 0.0).then_some(value);
        Real { whole: None, value }
    }
}

impl<'de> Deserialize<'de> for Real {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Real, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Real;
            ignore!(expecting unit bool list object);
            fn visit_u64<E: Error>(self, value: u64) -> Result<Real, E> {
                Ok(Real {
                    whole: Some(value),
                    value: Some(value as f64),
                })
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<Real, E> {
                Ok(Real::of(value as f64))
            }
            fn visit_f64<E: Error>(self, value: f64) -> Result<Real, E> {
                Ok(Real::of(value))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Real, E> {
                Ok(match text.trim().parse::<u64>() {
                    Ok(value) => self.visit_u64::<E>(value)?,
                    Err(_) => text.trim().parse().map(Real::of).unwrap_or_default(),
                })
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// A word or a text; borrowed when it holds no escapes. Numbers are read as their digits.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Text<'a>(pub Option<Cow<'a, str>>);

impl Text<'_> {
    /// The text when it says anything.
    pub fn get(&self) -> Option<&str> {
        self.0.as_deref().filter(|text| !text.is_empty())
    }

    pub fn is(&self, word: &str) -> bool {
        self.0.as_deref() == Some(word)
    }

    pub fn or_empty(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text<'a>, D::Error> {
        struct Reader<'a>(PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Reader<'a> {
            type Value = Text<'a>;
            ignore!(expecting unit bool list object);
            fn visit_u64<E: Error>(self, value: u64) -> Result<Text<'a>, E> {
                Ok(Text(Some(Cow::Owned(value.to_string()))))
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<Text<'a>, E> {
                Ok(Text(Some(Cow::Owned(value.to_string()))))
            }
            fn visit_f64<E: Error>(self, value: f64) -> Result<Text<'a>, E> {
                Ok(Text(Some(Cow::Owned(value.to_string()))))
            }
            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'a>, E> {
                Ok(Text(Some(Cow::Borrowed(text))))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'a>, E> {
                Ok(Text(Some(Cow::Owned(text.to_owned()))))
            }
        }
        deserializer.deserialize_any(Reader(PhantomData))
    }
}

/// How much text there is, without keeping it. In lists and objects the texts of the members `text`,
/// `thinking`, `reasoning` and `content` count.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Len(pub u64);

impl<'de> Deserialize<'de> for Len {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Len, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Len;
            ignore!(expecting unit bool number);
            fn visit_str<E: Error>(self, text: &str) -> Result<Len, E> {
                Ok(Len(text.len() as u64))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Len, A::Error> {
                let mut total = 0;
                while let Some(Len(more)) = seq.next_element()? {
                    total += more;
                }
                Ok(Len(total))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Len, A::Error> {
                let mut total = 0;
                while let Some(key) = map.next_key::<Text<'_>>()? {
                    if matches!(
                        key.or_empty(),
                        "text" | "thinking" | "reasoning" | "content"
                    ) {
                        total += map.next_value::<Len>()?.0;
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Len(total))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// True or false; everything else is false.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Flag(pub bool);

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Flag, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Flag;
            ignore!(expecting unit number text list object);
            fn visit_bool<E: Error>(self, value: bool) -> Result<Flag, E> {
                Ok(Flag(value))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// An object of a known shape; `None` for any other value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Obj<T>(pub Option<T>);

impl<T> Default for Obj<T> {
    fn default() -> Obj<T> {
        Obj(None)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Obj<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Obj<T>, D::Error> {
        struct Reader<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Reader<T> {
            type Value = Obj<T>;
            ignore!(expecting unit bool number text list);
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Obj<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|value| Obj(Some(value)))
            }
        }
        deserializer.deserialize_any(Reader(PhantomData))
    }
}

/// Items of one list that are kept; a longer list is read past, not stored. No reply a reader understands has
/// this many choices, images or output items.
const MAX_ITEMS: usize = 4096;

/// A list; any other value is an empty one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct List<T>(pub Vec<T>);

impl<T> Default for List<T> {
    fn default() -> List<T> {
        List(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<List<T>, D::Error> {
        struct Reader<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Reader<T> {
            type Value = List<T>;
            ignore!(expecting unit bool number text object);
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List<T>, A::Error> {
                let mut items = Vec::new();
                while items.len() < MAX_ITEMS {
                    let Some(item) = seq.next_element()? else {
                        return Ok(List(items));
                    };
                    items.push(item);
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(List(items))
            }
        }
        deserializer.deserialize_any(Reader(PhantomData))
    }
}

/// A value's own text, unread; `None` for `null`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Raw<'a>(pub Option<&'a str>);

impl<'a> Raw<'a> {
    pub fn is_object(&self) -> bool {
        self.0.is_some_and(|text| text.starts_with('{'))
    }

    /// Neither absent, `null`, `false`, nor empty.
    pub fn is_truthy(&self) -> bool {
        let Some(text) = self.0 else { return false };
        let inside = |open: char, close: char| {
            text.strip_prefix(open)
                .and_then(|text| text.strip_suffix(close))
                .map(|text| !text.trim().is_empty())
        };
        inside('{', '}')
            .or_else(|| inside('[', ']'))
            .unwrap_or(text != "false" && text != "\"\"")
    }

    /// Reads the value now; `None` when it is absent or of another shape.
    pub fn read<T: Deserialize<'a>>(&self) -> Option<T> {
        serde_json::from_str(self.0?).ok()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Raw<'a>, D::Error> {
        let text = <&'de RawValue>::deserialize(deserializer)?.get();
        Ok(Raw((text != "null").then_some(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct Sample<'a> {
        number: Num,
        #[serde(borrow)]
        text: Text<'a>,
        length: Len,
        flag: Flag,
        object: Obj<Inner>,
        list: List<Obj<Inner>>,
        #[serde(borrow)]
        raw: Raw<'a>,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default)]
    struct Inner {
        value: Num,
    }

    #[test]
    fn every_member_takes_every_kind_of_value() {
        let values = [
            "null",
            "true",
            "7",
            "-7",
            "7.0",
            "1e99",
            "\"7\"",
            "\"\\n\"",
            "[]",
            "[[1],{}]",
            "{}",
            "{\"value\":{\"value\":1}}",
        ];
        for member in ["number", "text", "length", "flag", "object", "list", "raw"] {
            for value in values {
                let document = format!("{{\"{member}\":{value}}}");
                let sample: Result<Sample<'_>, _> = serde_json::from_str(&document);
                assert!(sample.is_ok(), "{document}: {sample:?}");
            }
        }
    }

    #[test]
    fn numbers_are_counts() {
        let read = |text: &str| serde_json::from_str::<Num>(text).expect("any value").0;
        assert_eq!(read("12.0"), Some(12));
        assert_eq!(read("\"12\""), Some(12));
        assert_eq!(read("18446744073709551615"), None);
        assert_eq!(read("1e99"), None);
        assert_eq!(read("-1"), None);
        assert_eq!(read("{}"), None);
    }

    #[test]
    fn texts_are_measured_decoded() {
        let read = |text: &str| serde_json::from_str::<Len>(text).expect("any value").0;
        assert_eq!(read("\"a\\n\\u00e9\""), 4);
        assert_eq!(
            read(
                "[{\"type\":\"text\",\"text\":\"abc\"},{\"type\":\"thinking\",\"thinking\":[{\"text\":\"d\"}]}]"
            ),
            4
        );
    }
}
