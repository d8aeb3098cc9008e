//! Models: a step's tokens in, logits out.
//!
//! [`load`] opens nothing and knows no catalogue: it turns opened files into a [`CausalModel`]. A family
//! ([`families`]) reads the header into a [`DecoderSpec`](spec::DecoderSpec), [`names`] says what its tensors are called,
//! [`layers`] loads them, and [`decoder`] holds the one list of ops all families run.

pub(crate) mod decoder;
mod families;
mod header;
mod layers;
pub(crate) mod names;
pub(crate) mod spec;
#[cfg(test)]
mod tests;

use crate::adapter::AdapterLoader;
use crate::adapter::target::Targets;
use crate::backend::BackendError;
use crate::backend::candle::{self, CandleBackend};
use crate::backend::cpu::CpuBackend;
use crate::batch::StepBatch;
use crate::config::BackendKind;
use crate::weights::{ModelFiles, WeightsError};
use candle_core::Device;
use decoder::Decoder;
use kernels::{KvDtype, Pool};
use std::sync::Arc;

/// A decoder-only language model. It sees tokens, positions and block tables, and knows nothing of requests.
pub(crate) trait CausalModel: Send {
    /// Bytes of attention memory a block of [`BLOCK_TOKENS`](kernels::BLOCK_TOKENS) positions takes.
    fn kv_block_bytes(&self) -> usize;
    /// Makes room for blocks 0 to `blocks`. Called once, before the first step.
    fn reserve_kv(&mut self, blocks: usize);
    /// Logits in a row.
    fn vocabulary(&self) -> usize;
    /// Memory held by weights.
    fn weight_bytes(&self) -> usize {
        0
    }
    /// What makes adapters for this model; `None`: it takes none.
    fn adapter_loader(&self) -> Option<Arc<dyn AdapterLoader>> {
        None
    }
    /// Runs one step: keeps the keys and values of every row in the blocks its run names, and writes one row of logits
    /// for each run that wants them, in order. A row's result does not depend on the other runs.
    fn forward(&mut self, batch: &StepBatch, logits: &mut Vec<f32>);
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error("tensor `{name}`: {source}")]
    Tensor { name: String, source: BackendError },
    #[error("tensor `{name}` has shape {actual:?}, expected {expected:?}")]
    Shape {
        name: String,
        actual: Vec<usize>,
        expected: Vec<usize>,
    },
    #[error("key `{0}` is missing in the model's header")]
    Key(String),
    #[error("key `{0}` of the model's header has a value that cannot be")]
    Value(String),
    #[error("{0} is not supported")]
    Unsupported(String),
}

/// How a model is held in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoadOptions {
    pub backend: BackendKind,
    /// Positions a sequence may reach.
    pub max_positions: usize,
    pub kv_dtype: KvDtype,
}

/// The longest text the model was made for, where its header says so.
pub(crate) fn window(files: &ModelFiles) -> Result<Option<usize>, LoadError> {
    const WINDOW: header::Key = header::key("max_position_embeddings", "context_length");
    header::Header::read(files)?.size(WINDOW)
}

/// What of the model an adapter may change, and what Transformers calls its tensors.
pub(crate) fn targets(files: &ModelFiles) -> Result<(Targets, &'static names::Names), LoadError> {
    let described = families::read(files)?;
    let names = described.original_names;
    Ok((Targets::new(&described.spec, names), names))
}

/// Packs the weights of `files`, which are not needed afterwards.
///
/// # Errors
/// Files that are no model of a family we know, or of one the backend does not run.
pub(crate) fn load(
    files: &ModelFiles,
    options: LoadOptions,
    pool: Pool,
) -> Result<Box<dyn CausalModel>, LoadError> {
    match options.backend {
        BackendKind::Cpu => {
            let backend = CpuBackend::new(pool);
            Ok(Box::new(Decoder::load(files, options, backend)?))
        }
        BackendKind::Candle => {
            let architecture = families::architecture(files)?;
            if !candle::SUPPORTED.contains(&architecture.as_str()) {
                return Err(LoadError::Unsupported(format!(
                    "architecture `{architecture}` on the candle backend ({} are; use the cpu backend)",
                    candle::SUPPORTED.join(", ")
                )));
            }
            let backend = CandleBackend::new(Device::Cpu, pool);
            Ok(Box::new(Decoder::load(files, options, backend)?))
        }
    }
}
