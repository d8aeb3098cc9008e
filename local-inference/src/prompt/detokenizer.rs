//! Tokens' bytes to text as they come, never cutting a character.

/// Holds the bytes of a character whose rest has not come yet: at most three.
#[derive(Debug, Default)]
pub(crate) struct Detokenizer {
    held: Vec<u8>,
}

impl Detokenizer {
    /// Adds bytes and appends every character that is now whole to `out`. What cannot become one is replaced by
    /// U+FFFD, as the library's lossy decoding of the whole would.
    pub(crate) fn push(&mut self, bytes: &[u8], out: &mut String) {
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
}
