//! Encoders: texts to vectors, and contexts ranked by how well they answer a query.
//!
//! BERT and XLM-RoBERTa, by our own few ops on candle tensors, from a folder as sentence-transformers writes it
//! (`config.json`, `tokenizer.json`, `model.safetensors`, and where they are `modules.json`, `1_Pooling/config.json`,
//! `sentence_bert_config.json`).
//!
//! ```text
//! caller:        texts -> tokenizer (cuts what is too long) -> bounded queue
//! worker thread: batches of texts of like length -> encoder -> pooling or score -> reply
//! ```
//!
//! A text longer than the model's window (512 tokens for most, 8192 for bge-m3; less where the folder says so) is cut
//! at its end, as everywhere with these models; a query and its context are cut together, the longer one first. Texts of a batch lie one behind the other without
//! padding, so a vector does not depend on its neighbours beyond the last bits of a float. A batch holds a bounded
//! number of tokens, so memory does not grow with a request; callers take turns, a batch each. A caller who has left
//! is noticed within a layer. One model has one thread; when its queue is full the answer is [`EngineError::Busy`].

mod batch;
mod encoder;
mod entries;
mod files;
mod slot;
mod worker;

#[cfg(test)]
mod tests;

use crate::engine::EngineHandle;
use crate::error::EngineError;

pub use entries::{EncoderEntry, EncoderTask};
pub(crate) use slot::Encoders;

/// How a text's token vectors become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of all of them.
    Mean,
    /// The first one, which was trained to stand for the text.
    Cls,
}

/// Texts that become vectors.
#[derive(Debug, Clone)]
pub struct EmbedRequest {
    pub model: String,
    /// At least one.
    pub texts: Vec<String>,
    /// `None`: the model's usual one.
    pub pooling: Option<Pooling>,
}

/// A vector for each text, in the request's order.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    pub dimensions: usize,
    /// Of length 1, unless the model is one that does not normalise.
    pub vectors: Vec<Vec<f32>>,
    /// After cutting, the model's own begin and end tokens included.
    pub prompt_tokens: u32,
}

/// Contexts to be ranked by how well they answer the query.
#[derive(Debug, Clone)]
pub struct RerankRequest {
    pub model: String,
    pub query: String,
    /// At least one.
    pub contexts: Vec<String>,
    /// Give only so many of the best; `None`: all.
    pub top_k: Option<usize>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Ranking {
    /// Number of the context and its score, best first; equal scores in the request's order. A reranker's score lies between 0 and 1;
    /// an embedding model ranks by the cosine of the vectors.
    pub scores: Vec<(usize, f32)>,
    pub prompt_tokens: u32,
}

impl EngineHandle {
    /// The configured encoders.
    pub fn encoder_models(&self) -> Vec<&'static EncoderEntry> {
        self.encoders().entries().collect()
    }

    /// Waits while the model loads and while earlier requests run. Dropping the future cancels.
    ///
    /// # Errors
    /// `Busy` when the model's queue is full; `Invalid` for no texts or a model that only ranks; those of loading.
    pub async fn embed(&self, request: EmbedRequest) -> Result<Embeddings, EngineError> {
        if request.texts.is_empty() {
            return Err(empty("text"));
        }
        let slot = self.encoders().find(&request.model)?;
        if slot.entry().task != EncoderTask::Embed {
            return Err(EngineError::Invalid {
                field: "model",
                reason: format!("`{}` ranks contexts and gives no vectors", slot.entry().id),
            });
        }
        let pooling = request.pooling;
        let (vectors, prompt_tokens) = slot.embed(request.texts, pooling).await?;
        Ok(Embeddings {
            dimensions: vectors.first().map_or(0, Vec::len),
            vectors,
            prompt_tokens,
        })
    }

    /// Waits while the model loads and while earlier requests run. Dropping the future cancels.
    ///
    /// # Errors
    /// `Busy` when the model's queue is full; `Invalid` for no contexts; those of loading.
    pub async fn rerank(&self, request: RerankRequest) -> Result<Ranking, EngineError> {
        if request.contexts.is_empty() {
            return Err(empty("contexts"));
        }
        let slot = self.encoders().find(&request.model)?;
        let (scores, prompt_tokens) = match slot.entry().task {
            EncoderTask::Rank => slot.score(request.query, request.contexts).await?,
            EncoderTask::Embed => {
                let mut texts = request.contexts;
                texts.push(request.query);
                let (mut vectors, prompt_tokens) = slot.embed(texts, None).await?;
                let query = vectors.pop().unwrap_or_default();
                let scores = vectors.iter().map(|vector| cosine(vector, &query));
                (scores.collect(), prompt_tokens)
            }
        };
        Ok(Ranking {
            scores: best_first(scores, request.top_k),
            prompt_tokens,
        })
    }
}

/// Every encoder the engine knows.
pub fn encoders() -> &'static [EncoderEntry] {
    entries::all()
}

fn empty(field: &'static str) -> EngineError {
    let reason = "must hold at least one text".to_owned();
    EngineError::Invalid { field, reason }
}

fn best_first(scores: Vec<f32>, top_k: Option<usize>) -> Vec<(usize, f32)> {
    let mut ranked: Vec<(usize, f32)> = scores.into_iter().enumerate().collect();
    // Stable: equal scores stay in order.
    ranked.sort_by(|left, right| right.1.total_cmp(&left.1));
    ranked.truncate(top_k.unwrap_or(usize::MAX));
    ranked
}

fn cosine(left: &[f32], right: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let lengths = (dot(left, left) * dot(right, right)).sqrt();
    match lengths > 0.0 {
        true => dot(left, right) / lengths,
        false => 0.0,
    }
}
