//! Tokens' bytes to text as they come, never cutting a character.

/// Holds the bytes of a character whose rest has not come yet: at most three.
#[derive(Debug, Default)]
pub(crate) struct Detokenizer {
    held: Vec<u8>,
    drops_space: bool,
}

impl Detokenizer {
    /// For an answer of its own. With `has_space_prefix` its first space is the tokenizer's, not the text's, and is dropped;
    /// the continuation of a text (`Default`) keeps it.
    pub(crate) fn of_answer(has_space_prefix: bool) -> Detokenizer {
        Detokenizer {
            held: Vec::new(),
            drops_space: has_space_prefix,
        }
    }

    /// Adds bytes and appends every character that is now whole to `out`. What cannot become one is replaced by
    /// U+FFFD, as the library's lossy decoding of the whole would.
    pub(crate) fn push(&mut self, bytes: &[u8], out: &mut String) {
        let mut bytes = bytes;
        if !bytes.is_empty() && std::mem::take(&mut self.drops_space) {
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        self.held.extend_from_slice(bytes);
        let mut rest = self.held.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    out.push_str(text);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    out.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    match error.error_len() {
                        Some(bad) => {
                            out.push(char::REPLACEMENT_CHARACTER);
                            rest = &rest[bad..];
                        }
                        None => break,
                    }
                }
            }
        }
        let kept = self.held.len() - rest.len();
        self.held.drain(..kept);
    }

    /// The end: a character still unfinished will stay so.
    pub(crate) fn finish(&mut self, out: &mut String) {
        if !self.held.is_empty() {
            out.push(char::REPLACEMENT_CHARACTER);
            self.held.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_gives_the_text_of_the_whole() {
        let texts: [&[u8]; 5] = [
            "plain".as_bytes(),
            "naïve 漢字 👩‍👩‍👧 end".as_bytes(),
            b"bad \xff byte",
            b"cut \xf0\x9f\x91",
            b"\xe2\x82x\xc3",
        ];
        for bytes in texts {
            for size in 1..=bytes.len() {
                let (mut detokenizer, mut out) = (Detokenizer::default(), String::new());
                for part in bytes.chunks(size) {
                    detokenizer.push(part, &mut out);
                    assert!(detokenizer.held.len() < 4);
                }
                detokenizer.finish(&mut out);
                assert_eq!(out, String::from_utf8_lossy(bytes));
            }
        }
    }

    #[test]
    fn an_answer_of_its_own_loses_the_space_its_tokenizer_put_before_it() {
        let text = |mut detokenizer: Detokenizer, pieces: &[&[u8]]| {
            let mut out = String::new();
            for piece in pieces {
                detokenizer.push(piece, &mut out);
            }
            detokenizer.finish(&mut out);
            out
        };
        let pieces: &[&[u8]] = &[b"", b" ", b" \xe6", b"\xbc\xa2 ", b" end"];
        assert_eq!(text(Detokenizer::of_answer(true), pieces), " 漢  end");
        assert_eq!(text(Detokenizer::of_answer(false), pieces), "  漢  end");
        assert_eq!(text(Detokenizer::default(), pieces), "  漢  end");
        assert_eq!(text(Detokenizer::of_answer(true), &[b"a", b" b"]), "a b");
    }
}
