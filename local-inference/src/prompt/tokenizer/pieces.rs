//! What each token writes: a table of bytes, made once from the vocabulary's spelling.

use super::TokenizerError;
use std::collections::HashMap;
use std::sync::LazyLock;

/// How a vocabulary spells its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// GPT-2's letters for bytes: `Ġ` is a space.
    Bytes,
    /// SentencePiece's: `▁` is a space, `<0x0A>` a byte.
    Marks,
    /// As written.
    Plain,
}

/// What a token is for, by the numbers of the GGUF format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    /// Steers rather than writes.
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl Kind {
    /// Numbers the format does not know count as ordinary text, as llama.cpp has it.
    pub(super) fn of(number: i64) -> Kind {
        match number {
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            5 => Kind::Unused,
            6 => Kind::Byte,
            _ => Kind::Normal,
        }
    }

    pub(super) fn is_special(self) -> bool {
        matches!(self, Kind::Control | Kind::Unknown | Kind::Unused)
    }
}

/// All tokens' bytes, one behind the other.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    bytes: Vec<u8>,
    /// Token t is `bytes[starts[t]..starts[t + 1]]`.
    starts: Vec<u32>,
}

impl Pieces {
    pub(super) fn new() -> Pieces {
        Pieces {
            bytes: Vec::new(),
            starts: vec![0],
        }
    }

    /// Appends what the next token writes.
    pub(super) fn push(
        &mut self,
        token: &str,
        kind: Kind,
        spelling: Spelling,
    ) -> Result<(), TokenizerError> {
        match (kind, spelling) {
            (Kind::Control | Kind::Unknown | Kind::Unused, _) => {}
            // Given by the user as text; a SentencePiece file spells its spaces with marks all the same.
            (Kind::UserDefined, Spelling::Marks) => self.bytes.extend(unmarked(token).as_bytes()),
            (Kind::UserDefined, _) | (_, Spelling::Plain) => self.bytes.extend(token.as_bytes()),
            (_, Spelling::Marks) => match byte_of(token) {
                Some(byte) => self.bytes.push(byte),
                None => self.bytes.extend(unmarked(token).as_bytes()),
            },
            (_, Spelling::Bytes) => {
                for letter in token.chars() {
                    let byte = ALPHABET.get(&letter).ok_or_else(|| {
                        TokenizerError::Vocabulary(format!(
                            "token `{token}` holds a letter outside the byte alphabet"
                        ))
                    })?;
                    self.bytes.push(*byte);
                }
            }
        }
        let end = u32::try_from(self.bytes.len())
            .map_err(|_| TokenizerError::Vocabulary("tokens longer than 4 GB".to_owned()))?;
        self.starts.push(end);
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Empty for ids outside the vocabulary.
    pub(super) fn get(&self, token: u32) -> &[u8] {
        let token = token as usize;
        match (self.starts.get(token), self.starts.get(token + 1)) {
            (Some(start), Some(end)) => &self.bytes[*start as usize..*end as usize],
            _ => &[],
        }
    }
}

pub(super) fn unmarked(token: &str) -> String {
    token.replace('▁', " ")
}

/// The byte a token like `<0x0A>` stands for.
pub(super) fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    match digits.len() {
        2 => u8::from_str_radix(digits, 16).ok(),
        _ => None,
    }
}

/// GPT-2's letters for bytes: printable ones stand for themselves, the rest is moved past 255.
static ALPHABET: LazyLock<HashMap<char, u8>> = LazyLock::new(|| {
    let mut moved = 256u32;
    (0..=255u8)
        .map(|byte| {
            let letter = match byte {
                b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
                _ => {
                    let letter = char::from_u32(moved).expect("256 to 323 are characters");
                    moved += 1;
                    letter
                }
            };
            (letter, byte)
        })
        .collect()
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_covers_every_byte_once() {
        assert_eq!(ALPHABET.len(), 256);
        assert_eq!(ALPHABET.get(&'Ġ'), Some(&b' '));
        assert_eq!(ALPHABET.get(&'Ċ'), Some(&b'\n'));
    }

    #[test]
    fn each_spelling_writes_its_bytes() {
        let check = |token: &str, kind: Kind, spelling: Spelling, expected: &[u8]| {
            let mut pieces = Pieces::new();
            pieces.push(token, kind, spelling).expect("a valid token");
            assert_eq!(pieces.get(0), expected, "{token} {kind:?} {spelling:?}");
        };
        check("Ġtwo", Kind::Normal, Spelling::Bytes, b" two");
        check("Ã©", Kind::Normal, Spelling::Bytes, "é".as_bytes());
        check("▁two▁", Kind::Normal, Spelling::Marks, b" two ");
        check("<0xE2>", Kind::Byte, Spelling::Marks, b"\xe2");
        check("<0xE2", Kind::Normal, Spelling::Marks, b"<0xE2");
        check("▁▁", Kind::UserDefined, Spelling::Marks, b"  ");
        check("<b>", Kind::UserDefined, Spelling::Bytes, b"<b>");
        check("</s>", Kind::Control, Spelling::Marks, b"");
        check("##s", Kind::Normal, Spelling::Plain, b"##s");
        let mut pieces = Pieces::new();
        assert!(pieces.push("漢", Kind::Normal, Spelling::Bytes).is_err());
        assert_eq!(pieces.get(7), b"");
    }
}
