//! Byte-level BPE built from the vocabulary and merges inside a GGUF file.

use crate::weights::gguf::{Gguf, GgufError};
use std::collections::HashMap;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, PreTokenizerWrapper};

/// The format's mark for tokens that steer rather than write.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// Control tokens that end a turn, under the names the families give them.
const END_TOKENS: [&str; 5] = [
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<end_of_turn>",
];

#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenizerError {
    #[error(transparent)]
    File(#[from] GgufError),
    #[error(
        "tokenizer `{model}` with pre-tokenizer `{pre}` is not supported (gpt2 with smollm is)"
    )]
    Unsupported { model: String, pre: String },
    #[error("vocabulary does not fit together: {0}")]
    Vocabulary(String),
}

pub(crate) struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// All tokens' bytes, one behind the other; control tokens are empty, they write nothing.
    bytes: Vec<u8>,
    /// Token t is `bytes[starts[t]..starts[t + 1]]`.
    starts: Vec<u32>,
    end_tokens: Vec<u32>,
    longest: usize,
}

impl Tokenizer {
    pub(crate) fn from_gguf(file: &Gguf) -> Result<Tokenizer, TokenizerError> {
        let model = file.text("tokenizer.ggml.model")?;
        let pre = file.text("tokenizer.ggml.pre").unwrap_or("default");
        if (model, pre) != ("gpt2", "smollm") {
            let (model, pre) = (model.to_owned(), pre.to_owned());
            return Err(TokenizerError::Unsupported { model, pre });
        }
        let tokens = file.texts("tokenizer.ggml.tokens")?;
        let merges = file.texts("tokenizer.ggml.merges")?;
        let kinds = file.integers("tokenizer.ggml.token_type")?;
        let eos = file.integer("tokenizer.ggml.eos_token_id").ok();
        Tokenizer::new(
            &tokens,
            &merges,
            &kinds,
            eos.and_then(|id| u32::try_from(id).ok()),
        )
    }

    /// `kinds` are the format's token types, one a token.
    pub(crate) fn new(
        tokens: &[&str],
        merges: &[&str],
        kinds: &[i64],
        eos: Option<u32>,
    ) -> Result<Tokenizer, TokenizerError> {
        let broken = |text: String| TokenizerError::Vocabulary(text);
        if kinds.len() != tokens.len() {
            let text = format!("{} tokens, {} token types", tokens.len(), kinds.len());
            return Err(broken(text));
        }
        let vocabulary: Vocab = tokens
            .iter()
            .zip(0u32..)
            .map(|(token, id)| ((*token).to_owned(), id))
            .collect();
        let merges = merges
            .iter()
            .map(|merge| {
                let (left, right) = merge
                    .split_once(' ')
                    .ok_or_else(|| broken(format!("merge `{merge}` is not a pair")))?;
                Ok((left.to_owned(), right.to_owned()))
            })
            .collect::<Result<Vec<_>, TokenizerError>>()?;
        let bpe = BPE::builder()
            .vocab_and_merges(vocabulary, merges)
            .build()
            .map_err(|error| broken(error.to_string()))?;
        let mut inner = tokenizers::Tokenizer::new(bpe);
        // Each digit is a word of its own, then GPT-2's split: what this family was trained with.
        let steps: Vec<PreTokenizerWrapper> = vec![
            Digits::new(true).into(),
            ByteLevel::new(false, true, true).into(),
        ];
        inner.with_pre_tokenizer(Some(Sequence::new(steps)));
        let special = |kind: i64| kind == CONTROL || kind == USER_DEFINED;
        let added = tokens
            .iter()
            .zip(kinds)
            .filter(|(_, kind)| special(**kind))
            .map(|(token, kind)| {
                AddedToken::from((*token).to_owned(), *kind == CONTROL).normalized(false)
            });
        inner
            .add_special_tokens(added)
            .map_err(|error| broken(error.to_string()))?;

        let to_byte = byte_alphabet();
        let (mut bytes, mut starts, mut end_tokens) = (Vec::new(), vec![0u32], Vec::new());
        for ((token, kind), id) in tokens.iter().zip(kinds).zip(0u32..) {
            match *kind {
                CONTROL => {
                    if END_TOKENS.contains(token) || eos == Some(id) {
                        end_tokens.push(id);
                    }
                }
                USER_DEFINED => bytes.extend(token.as_bytes()),
                _ => {
                    for letter in token.chars() {
                        let byte = to_byte.get(&letter).ok_or_else(|| {
                            broken(format!(
                                "token `{token}` holds a letter outside the byte alphabet"
                            ))
                        })?;
                        bytes.push(*byte);
                    }
                }
            }
            let end = u32::try_from(bytes.len())
                .map_err(|_| broken("tokens longer than 4 GB".to_owned()))?;
            starts.push(end);
        }
        let lengths = starts.windows(2).map(|pair| (pair[1] - pair[0]) as usize);
        // An added token shortens text by its written form, which `bytes` leaves out.
        let longest = lengths
            .chain(tokens.iter().map(|token| token.len()))
            .max()
            .unwrap_or(1)
            .max(1);
        Ok(Tokenizer {
            inner,
            bytes,
            starts,
            end_tokens,
            longest,
        })
    }

    pub(crate) fn vocabulary(&self) -> usize {
        self.starts.len() - 1
    }

    /// Token ids of `text`; written control tokens become what they name, as in Transformers.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|error| error.to_string())?;
        Ok(encoding.get_ids().to_vec())
    }

    /// No text of this length has fewer tokens: lets an enormous one be refused unread.
    pub(crate) fn fewest_tokens(&self, text_bytes: usize) -> usize {
        text_bytes / self.longest
    }

    /// The bytes a token writes; part of a character, possibly.
    pub(crate) fn token_bytes(&self, token: u32) -> &[u8] {
        let token = token as usize;
        match (self.starts.get(token), self.starts.get(token + 1)) {
            (Some(start), Some(end)) => &self.bytes[*start as usize..*end as usize],
            _ => &[],
        }
    }

    /// Whether the model says with this token that it is finished.
    pub(crate) fn is_end(&self, token: u32) -> bool {
        self.end_tokens.contains(&token)
    }
}

/// GPT-2's letters for bytes: printable ones stand for themselves, the rest is moved past 255.
fn byte_alphabet() -> HashMap<char, u8> {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue;
    use crate::testing::model_dir_or_skip;

    #[test]
    fn the_alphabet_covers_every_byte_once() {
        let alphabet = byte_alphabet();
        assert_eq!(alphabet.len(), 256);
        assert_eq!(alphabet.get(&'Ġ'), Some(&b' '));
        assert_eq!(alphabet.get(&'Ċ'), Some(&b'\n'));
    }

    #[test]
    fn a_vocabulary_that_does_not_fit_together_is_refused() {
        let build = |tokens: &[&str], merges: &[&str], kinds: &[i64]| {
            Tokenizer::new(tokens, merges, kinds, None)
                .err()
                .map(|error| error.to_string())
        };
        assert!(build(&["a"], &[], &[]).is_some());
        assert!(build(&["a"], &["ab"], &[1]).is_some());
        assert!(build(&["a"], &["a b"], &[1]).is_some());
        assert!(build(&["漢"], &[], &[1]).is_some());
        assert!(build(&["a", "b", "ab"], &["a b"], &[1, 1, 1]).is_none());
    }

    /// Expected ids are by a separate, naive byte-pair merge over the file's tables (each digit alone, then GPT-2's pattern).
    #[test]
    fn smollm2_texts_become_the_ids_it_was_trained_with() {
        let Some(directory) = model_dir_or_skip("the tokenizer's ids") else {
            return;
        };
        let path = directory.join(catalogue::all()[0].file);
        let bytes = std::fs::read(path).expect("the file was just seen");
        let file = Gguf::parse(&bytes).expect("a valid file");
        let tokenizer = Tokenizer::from_gguf(&file).expect("a known tokenizer");
        let check = |text: &str, ids: &[u32]| {
            assert_eq!(tokenizer.encode(text).as_deref(), Ok(ids), "{text:?}");
            let bytes: Vec<u8> = ids
                .iter()
                .flat_map(|id| tokenizer.token_bytes(*id).to_vec())
                .collect();
            let written = text.replace("<|im_start|>", "").replace("<|im_end|>", "");
            assert_eq!(String::from_utf8(bytes).as_deref(), Ok(written.as_str()));
        };
        check(
            "<|im_start|>user\nIn 2024, what's 3.14 + 2?<|im_end|>\n",
            &[
                1, 4093, 198, 788, 216, 34, 32, 34, 36, 28, 732, 506, 216, 35, 30, 33, 36, 1232,
                216, 34, 47, 2, 198,
            ],
        );
        check(
            "  naïve 漢字 👩‍👩‍👧\t\n\n x",
            &[
                216, 15486, 46494, 17097, 137, 112, 36518, 15107, 235, 119, 321, 231, 10813, 235,
                119, 321, 231, 10813, 235, 117, 197, 1116, 1792,
            ],
        );
        check(
            "don't STOP  it's 100%",
            &[12420, 982, 5022, 7627, 216, 357, 506, 216, 33, 32, 32, 21],
        );
        check(
            "def f(x):\n    return x**2\n",
            &[1604, 275, 24, 104, 727, 472, 1003, 1792, 828, 34, 198],
        );
        assert!(tokenizer.is_end(2) && tokenizer.is_end(0) && !tokenizer.is_end(1));
    }
}
