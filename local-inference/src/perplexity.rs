//! How well a model foretells a text: the figure by which two engines on the same weights are compared.

use crate::batch::StepBatch;
use crate::config::BackendKind;
use crate::error::EngineError;
use crate::model::{self, CausalModel, LoadOptions};
use crate::prompt::tokenizer::Tokenizer;
use crate::weights::ModelFiles;
use kernels::{BLOCK_TOKENS, KvDtype, Pool};
use std::path::Path;

/// Chunks advanced together. More would only use more memory: 8 rows a step already share each read of the weights.
const CHUNKS_A_PASS: usize = 8;

/// What [`perplexity`] found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Perplexity {
    /// e to the mean negative log-likelihood of the scored tokens.
    pub value: f64,
    pub scored_tokens: usize,
    pub chunks: usize,
}

/// Perplexity of the text, counted as llama.cpp's tool does: the tokens are cut into chunks of `context`, a rest is left
/// out; a chunk is read alone, begins with the begin token where the model wants one, and each token of its second half
/// but the first is scored by what stands before it.
///
/// `model` is a GGUF file, or a folder with weights and tokenizer.
///
/// # Errors
/// When the model cannot be loaded, or the text has fewer tokens than one chunk.
pub fn perplexity(
    model: &Path,
    text: &str,
    context: usize,
    kv_dtype: KvDtype,
    threads: usize,
) -> Result<Perplexity, EngineError> {
    let load = |error: &dyn std::fmt::Display| EngineError::Load(error.to_string());
    let files = ModelFiles::open(model).map_err(|error| load(&error))?;
    let tokenizer = match &files {
        ModelFiles::Gguf(file) => Tokenizer::from_gguf(&file.header),
        ModelFiles::Folder(_) => Tokenizer::from_files(&model.join("tokenizer.json")),
    };
    let tokenizer = tokenizer.map_err(|error| load(&error))?;
    let options = LoadOptions {
        backend: BackendKind::Cpu,
        max_positions: context,
        kv_dtype,
    };
    let mut model =
        model::load(&files, options, Pool::new(threads)).map_err(|error| load(&error))?;
    drop(files);
    let tokens = tokenizer
        .encode_prompt(text)
        .map_err(|error| load(&error))?;
    let begin = tokenizer.encode_prompt("").map_err(|error| load(&error))?;
    let mut chunks: Vec<Vec<u32>> = tokens.chunks_exact(context).map(<[u32]>::to_vec).collect();
    if chunks.is_empty() {
        return Err(EngineError::Invalid {
            field: "text",
            reason: format!("has {} tokens, a chunk takes {context}", tokens.len()),
        });
    }
    if let Some(begin) = begin.first() {
        chunks.iter_mut().for_each(|chunk| chunk[0] = *begin);
    }
    model.reserve_kv(CHUNKS_A_PASS * context.div_ceil(BLOCK_TOKENS));
    let loss: f64 = chunks
        .chunks(CHUNKS_A_PASS)
        .map(|pass| pass_loss(&mut *model, pass))
        .sum();
    let scored_tokens = chunks.len() * (context - context / 2 - 1);
    Ok(Perplexity {
        value: (loss / scored_tokens as f64).exp(),
        scored_tokens,
        chunks: chunks.len(),
    })
}

/// Summed negative log-likelihood of the scored tokens of chunks that are read side by side.
fn pass_loss(model: &mut dyn CausalModel, chunks: &[Vec<u32>]) -> f64 {
    let context = chunks[0].len();
    let blocks_each = context.div_ceil(BLOCK_TOKENS) as u32;
    let tables: Vec<Vec<u32>> = (0..chunks.len() as u32)
        .map(|chunk| (chunk * blocks_each..(chunk + 1) * blocks_each).collect())
        .collect();
    let (mut batch, mut logits) = (StepBatch::default(), Vec::new());
    let first = context / 2;
    for (chunk, table) in chunks.iter().zip(&tables) {
        batch.push(&chunk[..first], 0, table, false, None);
    }
    model.forward(&batch, &mut logits);
    let mut loss = 0.0;
    for position in first..context - 1 {
        batch.clear();
        for (chunk, table) in chunks.iter().zip(&tables) {
            batch.push(&chunk[position..=position], position, table, true, None);
        }
        model.forward(&batch, &mut logits);
        let rows = logits.chunks_exact(model.vocabulary());
        for (chunk, row) in chunks.iter().zip(rows) {
            loss -= log_likelihood(row, chunk[position + 1]);
        }
    }
    loss
}

/// log softmax, in f64: a sum of fifty thousand terms keeps its digits.
fn log_likelihood(logits: &[f32], token: u32) -> f64 {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|logit| f64::from(logit - highest).exp())
        .sum();
    f64::from(logits[token as usize] - highest) - sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::model_dir_or_skip;

    /// What llama-perplexity (release b11434, `-c 512`, its defaults otherwise) says of the same file and text.
    const LLAMA_CPP: f64 = 18.1699;

    #[test]
    fn the_real_model_foretells_a_fixed_text_as_llama_cpp_does() {
        let Some(directory) = model_dir_or_skip("perplexity") else {
            return;
        };
        let model = directory.join(&*crate::catalogue::all()[0].file);
        let text = include_str!("../tests/parity/text.txt");
        let found = perplexity(&model, text, 512, KvDtype::Bf16, 2).expect("a known model");
        println!("{found:?}, llama.cpp {LLAMA_CPP}");
        assert!((found.value / LLAMA_CPP - 1.0).abs() < 0.005, "{found:?}");
    }

    #[test]
    fn equal_logits_share_the_likelihood() {
        assert!((log_likelihood(&[3.0; 4], 2) + 4f64.ln()).abs() < 1e-12);
    }
}
