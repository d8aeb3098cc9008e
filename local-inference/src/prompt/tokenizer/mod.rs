//! Text to token ids and ids to bytes, by the vocabulary a model comes with: inside its GGUF file, or as
//! `tokenizer.json` beside its weights.
//!
//! Written control tokens (`<|im_end|>`) in a text become what they name, as in Transformers: templates need it. What
//! a family puts around a prompt (its begin token, say) is put there by [`Tokenizer::encode_prompt`] alone.

mod gguf;
mod hub;
mod pieces;
mod sentencepiece;
mod split;

#[cfg(test)]
mod tests;

use crate::weights::gguf::GgufError;
use pieces::{Kind, Pieces};
use sentencepiece::SentencePiece;
use tokenizers::{
    DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl,
};

/// Tokens that end a turn or a text, under the names the families give them; taken as such where they are control tokens.
const END_TOKENS: [&str; 12] = [
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<|end_of_turn|>",
    "<|EOT|>",
    "<|end|>",
    "<｜end▁of▁sentence｜>",
    "<eos>",
    "</s>",
];

#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenizerError {
    #[error(transparent)]
    File(#[from] GgufError),
    #[error("cannot read `{name}`: {cause}")]
    Read { name: String, cause: String },
    #[error(
        "tokenizer `{model}` with pre-tokenizer `{pre}` is not supported; those of Llama, Mistral, Gemma, Qwen, DeepSeek, Falcon, GPT-2 and SmolLM are"
    )]
    Unsupported { model: String, pre: String },
    #[error("vocabulary does not fit together: {0}")]
    Vocabulary(String),
}

/// SentencePiece's joining behind the library's handling of added tokens.
type MarkedTokenizer = TokenizerImpl<
    SentencePiece,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

enum Encoder {
    Library(Box<tokenizers::Tokenizer>),
    Marked(Box<MarkedTokenizer>),
}

impl Encoder {
    fn ids(&self, text: &str, is_wrapped: bool) -> Result<Vec<u32>, String> {
        let encoding = match self {
            Encoder::Library(inner) => inner.encode_fast(text, is_wrapped),
            Encoder::Marked(inner) => inner.encode_fast(text, is_wrapped),
        };
        let encoding = encoding.map_err(|error| error.to_string())?;
        Ok(encoding.get_ids().to_vec())
    }

    fn id(&self, name: &str) -> Option<u32> {
        match self {
            Encoder::Library(inner) => inner.token_to_id(name),
            Encoder::Marked(inner) => inner.token_to_id(name),
        }
    }
}

/// A token with a part to play, and how it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Named {
    id: Option<u32>,
    text: String,
}

pub(crate) struct Tokenizer {
    encoder: Encoder,
    /// What each token writes; control tokens are empty, they write nothing.
    pieces: Pieces,
    kinds: Vec<Kind>,
    /// Sorted.
    end_tokens: Vec<u32>,
    begin: Named,
    end: Named,
    /// What stands before and behind a prompt.
    before: Vec<u32>,
    after: Vec<u32>,
    has_space_prefix: bool,
    longest: usize,
}

/// What [`Tokenizer::assemble`] is told beside the vocabulary.
#[derive(Default)]
struct Parts {
    begin: Named,
    end: Named,
    /// Further tokens that end a text; those with well-known names are found by themselves.
    ends: Vec<u32>,
    before: Vec<u32>,
    after: Vec<u32>,
    has_space_prefix: bool,
}

impl Tokenizer {
    fn assemble(
        encoder: Encoder,
        tokens: &[impl AsRef<str>],
        kinds: Vec<Kind>,
        pieces: Pieces,
        parts: Parts,
    ) -> Tokenizer {
        let is_end = |token: &str, kind: Kind| kind.is_special() && END_TOKENS.contains(&token);
        let well_known = tokens
            .iter()
            .zip(&kinds)
            .zip(0u32..)
            .filter(|((token, kind), _)| is_end(token.as_ref(), **kind))
            .map(|(_, id)| id);
        let mut end_tokens: Vec<u32> = parts.ends.into_iter().chain(parts.end.id).collect();
        end_tokens.extend(well_known);
        end_tokens.sort_unstable();
        end_tokens.dedup();
        // An added token shortens text by its written form, which `pieces` leaves out.
        let written = tokens.iter().map(|token| token.as_ref().len());
        let longest = written.max().unwrap_or(1).max(1);
        Tokenizer {
            encoder,
            pieces,
            kinds,
            end_tokens,
            begin: parts.begin,
            end: parts.end,
            before: parts.before,
            after: parts.after,
            has_space_prefix: parts.has_space_prefix,
            longest,
        }
    }

    /// Ids there are. A model may have more columns than that; the rest mean nothing.
    pub(crate) fn vocabulary(&self) -> usize {
        self.pieces.len()
    }

    /// Token ids of `text`, nothing added.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        self.encoder.ids(text, false)
    }

    /// Token ids of a prompt: with what the family puts before and behind one, unless the text (a template's, say) begins
    /// or ends so already.
    pub(crate) fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, String> {
        let mut ids = self.encode(text)?;
        if !ids.starts_with(&self.before) {
            ids.splice(0..0, self.before.iter().copied());
        }
        if !ids.ends_with(&self.after) {
            ids.extend(&self.after);
        }
        Ok(ids)
    }

    /// No text of this length has fewer tokens: lets an enormous one be refused unread.
    pub(crate) fn fewest_tokens(&self, text_bytes: usize) -> usize {
        text_bytes / self.longest
    }

    /// The bytes a token writes; part of a character, possibly. A control token writes nothing.
    pub(crate) fn token_bytes(&self, token: u32) -> &[u8] {
        self.pieces.get(token)
    }

    /// Whether the model says with this token that it is finished.
    pub(crate) fn is_end(&self, token: u32) -> bool {
        self.end_tokens.binary_search(&token).is_ok()
    }

    /// Whether the token steers rather than writes: no text of an answer is spelt with it.
    pub(crate) fn is_special(&self, token: u32) -> bool {
        let kind = self.kinds.get(token as usize);
        kind.is_none_or(|kind| kind.is_special())
    }

    /// The token of this name, as the vocabulary spells it.
    pub(crate) fn token(&self, name: &str) -> Option<u32> {
        self.encoder.id(name)
    }

    /// The control token of this name.
    pub(crate) fn control_token(&self, name: &str) -> Option<u32> {
        let id = self.token(name)?;
        self.is_special(id).then_some(id)
    }

    /// How templates write the begin token; empty where there is none.
    pub(crate) fn bos_text(&self) -> &str {
        &self.begin.text
    }

    pub(crate) fn eos_text(&self) -> &str {
        &self.end.text
    }

    /// Whether the first token of a text carries a space the text does not have: an answer of its own loses it, the
    /// continuation of a text keeps it.
    pub(crate) fn has_space_prefix(&self) -> bool {
        self.has_space_prefix
    }
}
