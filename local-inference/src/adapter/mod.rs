//! LoRA adapters: small matrices beside a model's own that make one base answer in many ways.
//!
//! An adapter comes as PEFT writes it, `adapter_config.json` and `adapter_model.safetensors` ([`AdapterFiles`]). To each
//! target, a projection of a layer, it adds `scale * B (A x)`. Its [`AdapterHash`] tells it from all others: files never change
//! under a hash, so what was computed with one may be kept under its name.

mod check;
pub(crate) mod config;
pub(crate) mod load;
mod merge;
pub(crate) mod registry;
pub(crate) mod target;
pub(crate) mod tensors;

pub use merge::merge_adapter;

use crate::error::EngineError;
use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// The two files, whole.
#[derive(Clone)]
pub struct AdapterFiles {
    /// `adapter_config.json`
    pub config: Vec<u8>,
    /// `adapter_model.safetensors`
    pub weights: Vec<u8>,
}

/// Content hash of an adapter's two files. Equal hashes answer alike.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct AdapterHash(pub [u8; 32]);

impl fmt::Debug for AdapterHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// In hexadecimal.
impl fmt::Display for AdapterHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// An adapter as a request names it: found and allowed already, not yet loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterRef {
    /// For people: errors name it.
    pub id: Arc<str>,
    pub hash: AdapterHash,
}

/// Where adapters' files come from. The cause of a failure is for the caller.
pub trait AdapterSource: Send + Sync + 'static {
    fn fetch(
        &self,
        adapter: &AdapterRef,
    ) -> Pin<Box<dyn Future<Output = Result<AdapterFiles, String>> + Send>>;
}

/// What an adapter may be at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdapterLimits {
    pub max_rank: usize,
    /// Of the weights' file.
    pub max_bytes: u64,
}

/// What a checked adapter is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterSummary {
    /// The highest of its targets' ranks.
    pub rank: usize,
    /// `q_proj` and so on, each once.
    pub targets: Vec<String>,
    pub parameters: u64,
}

/// Why files are no adapter for a model. Texts are for the caller: they name the value and what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdapterError {
    #[error("adapter_config.json: {0}")]
    Config(String),
    #[error("adapter_model.safetensors: {0}")]
    Weights(String),
    /// The base model cannot be looked at.
    #[error(transparent)]
    Base(#[from] EngineError),
}

/// An adapter in the form a model computes with; immutable.
pub(crate) struct LoadedAdapter {
    /// Memory it takes.
    pub bytes: usize,
    /// What the model that loaded it made of it.
    pub matrices: Box<dyn Any + Send + Sync>,
}

/// Makes adapters for one loaded model, away from its thread.
pub(crate) trait AdapterLoader: Send + Sync {
    /// Takes seconds for large adapters: for a blocking thread.
    fn load(&self, files: &AdapterFiles) -> Result<LoadedAdapter, AdapterError>;
}
