//! A tokenizer from the header of a GGUF file: byte-level pairs (`gpt2`) or SentencePiece's (`llama`).

use super::pieces::{Kind, Pieces, Spelling, unmarked};
use super::sentencepiece::SentencePiece;
use super::{Encoder, MarkedTokenizer, Named, Parts, Tokenizer, TokenizerError, split};
use crate::weights::gguf::Gguf;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::{AddedToken, PreTokenizerWrapper};

impl Tokenizer {
    pub(crate) fn from_gguf(file: &Gguf) -> Result<Tokenizer, TokenizerError> {
        let model = file.text("tokenizer.ggml.model")?;
        let tokens = file.texts("tokenizer.ggml.tokens")?;
        let pre = match file.text("tokenizer.ggml.pre") {
            Ok(pre) => pre,
            Err(_) => unnamed(file, tokens.len()),
        };
        let kinds = match file.integers("tokenizer.ggml.token_type") {
            Ok(kinds) => kinds.iter().map(|kind| Kind::of(*kind)).collect(),
            Err(_) => vec![Kind::Normal; tokens.len()],
        };
        same_length(&tokens, &kinds)?;
        let parts = parts(file, model, pre, &tokens);
        match model {
            "gpt2" => {
                let steps = split::by_name(pre).map_err(vocabulary)?;
                let steps = steps.ok_or_else(|| TokenizerError::Unsupported {
                    model: model.to_owned(),
                    pre: pre.to_owned(),
                })?;
                let merges = file.texts("tokenizer.ggml.merges")?;
                // Llama 3 writes a word that is a token as that token, whatever its merges would make of it.
                let are_words_first = matches!(pre, "llama-bpe" | "llama3" | "llama-v3");
                let encoder = byte_level(&tokens, &merges, &kinds, steps, are_words_first)?;
                finish(encoder, &tokens, kinds, Spelling::Bytes, parts)
            }
            "llama" => {
                let scores = file.floats("tokenizer.ggml.scores")?;
                let unknown = id(file, "tokenizer.ggml.unknown_token_id");
                let pieces =
                    SentencePiece::new(&tokens, scores, &kinds, unknown, parts.has_space_prefix)?;
                let mut inner = MarkedTokenizer::new(pieces);
                let added = added(&tokens, &kinds, unmarked);
                inner.add_special_tokens(added).map_err(vocabulary)?;
                finish(
                    Encoder::Marked(Box::new(inner)),
                    &tokens,
                    kinds,
                    Spelling::Marks,
                    parts,
                )
            }
            _ => Err(TokenizerError::Unsupported {
                model: model.to_owned(),
                pre: pre.to_owned(),
            }),
        }
    }

    /// SmolLM's way over any byte-level vocabulary. `kinds` are the format's token types, one a token.
    pub(crate) fn new(
        tokens: &[&str],
        merges: &[&str],
        kinds: &[i64],
        eos: Option<u32>,
    ) -> Result<Tokenizer, TokenizerError> {
        let kinds: Vec<Kind> = kinds.iter().map(|kind| Kind::of(*kind)).collect();
        same_length(tokens, &kinds)?;
        let steps = split::by_name("smollm").map_err(vocabulary)?;
        let steps = steps.expect("the name is in the table");
        let encoder = byte_level(tokens, merges, &kinds, steps, false)?;
        let parts = Parts {
            end: named(tokens, eos),
            ..Parts::default()
        };
        finish(encoder, tokens, kinds, Spelling::Bytes, parts)
    }
}

/// The pre-tokenizer of a file from before they were named, by what else is known of the model.
fn unnamed(file: &Gguf, vocabulary: usize) -> &'static str {
    match (file.text("general.architecture"), vocabulary) {
        (Ok("qwen2"), _) => "qwen2",
        (Ok("phi2"), _) => "phi-2",
        (Ok("falcon"), _) => "falcon",
        (Ok("llama"), 128_256) => "llama-bpe",
        (Ok("llama"), 102_400) => "deepseek-llm",
        (Ok("llama"), 32_256) => "deepseek-coder",
        _ => "default",
    }
}

fn same_length(tokens: &[&str], kinds: &[Kind]) -> Result<(), TokenizerError> {
    if kinds.len() == tokens.len() {
        return Ok(());
    }
    let text = format!("{} tokens, {} token types", tokens.len(), kinds.len());
    Err(TokenizerError::Vocabulary(text))
}

fn vocabulary(error: impl ToString) -> TokenizerError {
    TokenizerError::Vocabulary(error.to_string())
}

fn id(file: &Gguf, key: &str) -> Option<u32> {
    let id = file.integer(key).ok()?;
    u32::try_from(id).ok()
}

fn named(tokens: &[&str], id: Option<u32>) -> Named {
    let text = id.and_then(|id| tokens.get(id as usize));
    match text {
        Some(text) => Named {
            id,
            text: (*text).to_owned(),
        },
        None => Named::default(),
    }
}

/// What the header says beside the vocabulary; what it leaves out, the kind of tokenizer decides.
fn parts(file: &Gguf, model: &str, pre: &str, tokens: &[&str]) -> Parts {
    let is_marked = model == "llama";
    let flag = |key: &str, otherwise: bool| file.flag(key).unwrap_or(otherwise);
    let begin = named(tokens, id(file, "tokenizer.ggml.bos_token_id"));
    let end = named(tokens, id(file, "tokenizer.ggml.eos_token_id"));
    let has_begin = is_marked || matches!(pre, "llama-bpe" | "llama3" | "llama-v3");
    let adds_begin = flag("tokenizer.ggml.add_bos_token", has_begin);
    let adds_end = flag("tokenizer.ggml.add_eos_token", false);
    let ends = ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];
    Parts {
        before: begin.id.filter(|_| adds_begin).into_iter().collect(),
        after: end.id.filter(|_| adds_end).into_iter().collect(),
        begin,
        end,
        ends: ends.iter().filter_map(|key| id(file, key)).collect(),
        has_space_prefix: is_marked && flag("tokenizer.ggml.add_space_prefix", true),
    }
}

/// Tokens that are cut out of a text before anything else; `spelt` turns their name into what stands in the text.
fn added(tokens: &[&str], kinds: &[Kind], spelt: impl Fn(&str) -> String) -> Vec<AddedToken> {
    let is_added = |kind: Kind| matches!(kind, Kind::Control | Kind::UserDefined);
    tokens
        .iter()
        .zip(kinds)
        .filter(|(_, kind)| is_added(**kind))
        .map(|(token, kind)| {
            let text = match kind {
                Kind::UserDefined => spelt(token),
                _ => (*token).to_owned(),
            };
            AddedToken::from(text, *kind == Kind::Control).normalized(false)
        })
        .collect()
}

fn byte_level(
    tokens: &[&str],
    merges: &[&str],
    kinds: &[Kind],
    steps: PreTokenizerWrapper,
    are_words_first: bool,
) -> Result<Encoder, TokenizerError> {
    let ids = tokens.iter().zip(0u32..);
    let words: Vocab = ids.map(|(token, id)| ((*token).to_owned(), id)).collect();
    let pair = |merge: &&str| {
        let space = merge.char_indices().skip(1).find(|(_, c)| *c == ' ');
        let (at, _) = space.ok_or_else(|| vocabulary(format!("merge `{merge}` is not a pair")))?;
        Ok((merge[..at].to_owned(), merge[at + 1..].to_owned()))
    };
    let merges = merges
        .iter()
        .map(pair)
        .collect::<Result<Vec<_>, TokenizerError>>()?;
    let bpe = BPE::builder()
        .vocab_and_merges(words, merges)
        .ignore_merges(are_words_first)
        .build()
        .map_err(vocabulary)?;
    let mut inner = tokenizers::Tokenizer::new(bpe);
    inner.with_pre_tokenizer(Some(steps));
    let added = added(tokens, kinds, str::to_owned);
    inner.add_special_tokens(added).map_err(vocabulary)?;
    Ok(Encoder::Library(Box::new(inner)))
}

fn finish(
    encoder: Encoder,
    tokens: &[&str],
    kinds: Vec<Kind>,
    spelling: Spelling,
    parts: Parts,
) -> Result<Tokenizer, TokenizerError> {
    let mut pieces = Pieces::new();
    for (token, kind) in tokens.iter().zip(&kinds) {
        pieces.push(token, *kind, spelling)?;
    }
    Ok(Tokenizer::assemble(encoder, tokens, kinds, pieces, parts))
}
