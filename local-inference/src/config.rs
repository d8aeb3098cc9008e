//! The engine's settings.

use std::path::PathBuf;

/// What the engine is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// Where model files lie. Default `./data/models`.
    pub model_dir: PathBuf,
    /// Models that may be asked for, by catalogue name; each is loaded by its first request.
    pub models: Vec<String>,
    /// Threads a step is spread over. Default 0: one a core. Fewer leave cores to the proxy.
    pub threads: usize,
    /// Sequences advanced together, per model. Default 8. More raise the sum of tokens a second and lower each one's.
    pub max_running: usize,
    /// Requests that may wait beside the running ones, per model. Default 64; one more is answered "busy" at once.
    pub max_waiting: usize,
    /// Bound on prompt and answer together, in tokens. Default 0: the model's own window, which is kept in any case.
    pub max_context: usize,
}

impl Default for EngineConfig {
    fn default() -> EngineConfig {
        EngineConfig {
            model_dir: PathBuf::from("./data/models"),
            models: vec!["@cf/huggingfacetb/smollm2-135m-instruct".to_owned()],
            threads: 0,
            max_running: 8,
            max_waiting: 64,
            max_context: 0,
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
}
