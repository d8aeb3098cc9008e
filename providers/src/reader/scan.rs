//! A glance at JSON that is not parsed: object members in the order they stand, with depth, key and kind of
//! value. It believes its input. Broken JSON gives fewer or odd members, never a panic, so whoever uses it
//! decides only what may be skipped; anything unusual goes to the real parser.

/// A member of some object, at any depth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Member<'a> {
    /// Open brackets around the member: 1 in the outermost object.
    pub depth: u32,
    /// Between the quotes, escapes left as they are.
    pub key: &'a [u8],
    pub value: Value<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    /// Between the quotes, escapes left as they are.
    String(&'a [u8]),
    Null,
    /// An object or array; its members follow.
    Open,
    /// Number, true, false.
    Scalar,
}

pub(super) struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: u32,
    is_broken: bool,
}

impl<'a> Scan<'a> {
    pub fn new(bytes: &'a [u8]) -> Scan<'a> {
        Scan::resume(bytes, 0, 0)
    }

    /// Begins in the middle, where an earlier scan of the same beginning stood.
    pub fn resume(bytes: &'a [u8], at: usize, depth: u32) -> Scan<'a> {
        Scan {
            bytes,
            at,
            depth,
            is_broken: false,
        }
    }

    /// After the last member: every bracket and string that was opened was closed.
    pub fn is_balanced(&self) -> bool {
        self.depth == 0 && !self.is_broken && self.at >= self.bytes.len()
    }

    /// Where the next member is looked for; for a member with an `Open` value, its opening bracket.
    pub fn at(&self) -> usize {
        self.at
    }

    fn skip_blanks(&self, mut at: usize) -> usize {
        while self.bytes.get(at).is_some_and(u8::is_ascii_whitespace) {
            at += 1;
        }
        at
    }
}

impl<'a> Iterator for Scan<'a> {
    type Item = Member<'a>;

    fn next(&mut self) -> Option<Member<'a>> {
        loop {
            match *self.bytes.get(self.at)? {
                b'"' => {
                    let start = self.at + 1;
                    let end = string_end(self.bytes, start)?;
                    self.at = self.skip_blanks(end + 1);
                    if self.bytes.get(self.at) != Some(&b':') {
                        continue;
                    }
                    let key = &self.bytes[start..end];
                    self.at = self.skip_blanks(self.at + 1);
                    let value = match *self.bytes.get(self.at)? {
                        b'"' => {
                            let start = self.at + 1;
                            let end = string_end(self.bytes, start)?;
                            self.at = end + 1;
                            Value::String(&self.bytes[start..end])
                        }
                        b'{' | b'[' => Value::Open,
                        b'n' => Value::Null,
                        _ => Value::Scalar,
                    };
                    return Some(Member {
                        depth: self.depth,
                        key,
                        value,
                    });
                }
                b'{' | b'[' => self.depth = self.depth.saturating_add(1),
                b'}' | b']' if self.depth == 0 => self.is_broken = true,
                b'}' | b']' => self.depth -= 1,
                _ => {}
            }
            self.at += 1;
        }
    }
}

/// The closing quote of the string that begins at `at`. Strings here are short and many, so eight bytes are
/// looked at together in place of a call into a vector search.
fn string_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let zero_bytes = |word: u64| word.wrapping_sub(LOW) & !word & HIGH;
    loop {
        while let Some(eight) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
            let word = u64::from_le_bytes(*eight);
            let found = zero_bytes(word ^ (LOW * u64::from(b'"')))
                | zero_bytes(word ^ (LOW * u64::from(b'\\')));
            if found != 0 {
                // The lowest mark is exact; later ones may be ghosts of its borrow.
                at += (found.trailing_zeros() / 8) as usize;
                break;
            }
            at += 8;
        }
        match *bytes.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// Bytes of a string once its escapes are undone. Half a surrogate pair counts as half its character.
pub(super) fn decoded_len(string: &[u8]) -> u64 {
    let mut length = string.len() as u64;
    let mut rest = string;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        let taken = match rest.get(at + 1) {
            Some(b'u') => {
                let code = rest
                    .get(at + 2..at + 6)
                    .and_then(|digits| std::str::from_utf8(digits).ok())
                    .and_then(|digits| u16::from_str_radix(digits, 16).ok())
                    .unwrap_or(0);
                let encoded = match code {
                    0..0x80 => 1,
                    0x80..0x800 | 0xd800..0xe000 => 2,
                    _ => 3,
                };
                length = length.saturating_sub(6 - encoded);
                6
            }
            _ => {
                length = length.saturating_sub(1);
                2
            }
        };
        rest = rest.get(at + taken..).unwrap_or_default();
    }
    length
}

/// The decoded length of the string members whose key is one of `keys`, at any depth.
pub(super) fn text_len(json: &[u8], keys: &[&[u8]]) -> u64 {
    Scan::new(json)
        .filter(|member| keys.contains(&member.key))
        .map(|member| match member.value {
            Value::String(text) => decoded_len(text),
            _ => 0,
        })
        .sum()
}

/// The value of the outermost member `type`, which nearly every sender puts first.
pub(super) fn kind<'a>(json: &'a [u8], key: &[u8]) -> &'a [u8] {
    Scan::new(json)
        .find(|member| member.depth == 1 && member.key == key)
        .and_then(|member| match member.value {
            Value::String(word) => Some(word),
            _ => None,
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(json: &str) -> Vec<(u32, String, String)> {
        Scan::new(json.as_bytes())
            .map(|member| {
                let value = match member.value {
                    Value::String(text) => String::from_utf8_lossy(text).into_owned(),
                    other => format!("{other:?}"),
                };
                let key = String::from_utf8_lossy(member.key).into_owned();
                (member.depth, key, value)
            })
            .collect()
    }

    #[test]
    fn members_in_order_with_depth() {
        let found = members(r#"{"a":"x", "b" : [{"c":null},"s",1],"d\"":{"e":-2}}"#);
        let expected = [
            (1, "a", "x"),
            (1, "b", "Open"),
            (3, "c", "Null"),
            (1, "d\\\"", "Open"),
            (2, "e", "Scalar"),
        ];
        let expected: Vec<_> = expected
            .map(|(depth, key, value)| (depth, key.to_owned(), value.to_owned()))
            .into();
        assert_eq!(found, expected);
    }

    #[test]
    fn strings_of_every_length_end_where_they_end() {
        for length in 0..40 {
            for tail in ["", "\\\"", "\\\\", "é", "\\\\\\\""] {
                let text = format!("{}{tail}", "x".repeat(length));
                let json = format!("{{\"k\":\"{text}\",\"after\":1}}");
                assert_eq!(members(&json)[0].2, text);
                assert_eq!(members(&json).len(), 2, "{json}");
            }
        }
    }

    #[test]
    fn lengths_agree_with_the_parser() {
        for text in [
            "",
            "plain",
            "a\\nb",
            "\\u00e9\\u4e2d",
            "\\ud83d\\ude00",
            "\\\\\\\"\\/é",
        ] {
            let json = format!("\"{text}\"");
            let parsed: String = serde_json::from_str(&json).expect("valid JSON");
            assert_eq!(decoded_len(text.as_bytes()), parsed.len() as u64, "{text}");
        }
    }

    #[test]
    fn broken_json_gives_less_and_never_panics() {
        let json = br#"{"a":{"b":["c",{"d":"e\u12"}],"f":"\"#;
        for end in 0..json.len() {
            let _ = Scan::new(&json[..end]).count();
            let _ = decoded_len(&json[..end]);
        }
    }
}
