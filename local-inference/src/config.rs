//! The engine's settings.

use crate::catalogue::CatalogueEntry;
pub use kernels::KvDtype;
use std::path::PathBuf;

/// What computes a decoder's steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BackendKind {
    /// Our kernels; every family.
    #[default]
    Cpu,
    /// Candle tensors with our kernels as custom ops, on the CPU: the Llama, Mistral and Qwen2 families, all weights as f32. Slower
    /// and larger; for comparing, and the way to GPUs.
    Candle,
}

/// What the engine is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// Where model files lie. Default `./data/models`.
    pub model_dir: PathBuf,
    /// Models that may be asked for, by catalogue name; each is loaded by its first request, or at start when `preload` names it.
    pub models: Vec<String>,
    /// Models of the operator's own, beside the catalogue's. Default none.
    pub custom_models: Vec<CatalogueEntry>,
    /// Models loaded at start, by name; each must be in `models` or `custom_models`. Default none. One that cannot load is tried
    /// again by its first request.
    pub preload: Vec<String>,
    /// What computes the steps of generating models. Default `Cpu`. A model of a family the backend does not run answers so.
    pub backend: BackendKind,
    /// Threads a step is spread over. Default 0: one a core. Fewer leave cores to the proxy.
    pub threads: usize,
    /// Sequences advanced together, per model. Default 8. More raise the sum of tokens a second and lower each one's.
    pub max_running: usize,
    /// Sequences that may wait beside the running ones, per model. Default 64; one more is answered "busy" at once.
    pub max_waiting: usize,
    /// Bound on prompt and answer together, in tokens. Default 0: the model's own window, which is kept in any case.
    pub max_context: usize,
    /// Tokens a step may hold. Default 256. Larger steps read long prompts little faster, and newcomers and cancels
    /// wait for the end of the step.
    pub max_step_tokens: usize,
    /// How long a step may take while somebody's answer is being written, in milliseconds. Default 60. Prompts of others are read in
    /// pieces that fit, by what earlier steps took; at least 16 tokens a step. Larger values read prompts faster
    /// and make answers halt.
    pub target_step_ms: u64,
    /// Attention memory of a model, in MiB, at most. Default 1024. It becomes real as it is first used. What running texts do not
    /// need keeps beginnings of earlier ones. When it is full, the newest sequence gives way and is computed again later. A model
    /// whose window alone needs more gets a smaller window.
    pub kv_cache_mib: usize,
    /// How attention memory keeps keys and values. Default `Bf16`: half the memory and traffic of `F32`.
    pub kv_dtype: KvDtype,
    /// Reuse prompt beginnings between tenants too. Default false: within one tenant only, since how soon an answer comes tells
    /// whether its beginning was there.
    pub share_prefixes: bool,
    /// Adapters of a model kept loaded, in MiB, at most. Default 512. When it is full, unused ones go, the least used first; while all
    /// are in use, requests for further ones wait. One larger than this is refused. Up to eight adapters more are on their way.
    pub adapter_cache_mib: usize,
    /// Weights, attention memory and adapters of all loaded models together, in MiB. Default 0: no bound. A model that does not fit has idle ones
    /// unloaded, the one unused for longest first; it is refused as busy while those at work leave no room, and with an
    /// error when it is larger than the bound by itself.
    pub memory_budget_mib: usize,
    /// Seconds after which a model nobody asked for is unloaded. Default 0: never. Its next request loads it again.
    pub idle_unload_s: u64,
}

impl Default for EngineConfig {
    fn default() -> EngineConfig {
        EngineConfig {
            model_dir: PathBuf::from("./data/models"),
            models: vec!["@cf/huggingfacetb/smollm2-135m-instruct".to_owned()],
            custom_models: Vec::new(),
            preload: Vec::new(),
            backend: BackendKind::Cpu,
            threads: 0,
            max_running: 8,
            max_waiting: 64,
            max_context: 0,
            max_step_tokens: 256,
            target_step_ms: 60,
            kv_cache_mib: 1024,
            kv_dtype: KvDtype::Bf16,
            share_prefixes: false,
            adapter_cache_mib: 512,
            memory_budget_mib: 0,
            idle_unload_s: 0,
        }
    }
}

impl EngineConfig {
    pub(crate) fn thread_count(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
    }

    pub(crate) fn kv_cache_bytes(&self) -> usize {
        self.kv_cache_mib.saturating_mul(1 << 20)
    }

    pub(crate) fn adapter_cache_bytes(&self) -> usize {
        self.adapter_cache_mib.saturating_mul(1 << 20)
    }

    /// Sequences a model may hold, running and waiting.
    pub(crate) fn max_seats(&self) -> usize {
        self.max_running.max(1).saturating_add(self.max_waiting)
    }
}
