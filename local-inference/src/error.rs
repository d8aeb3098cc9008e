//! Why a request could not be answered.

/// The engine's faults. Texts are for the caller, except `Load` and `Internal`, which carry the cause for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    #[error("no such model `{model}`")]
    UnknownModel { model: String },
    #[error("model `{model}` is not on this machine: {how}")]
    NotPulled { model: String, how: String },
    #[error("model cannot be loaded: {0}")]
    Load(String),
    /// Every running place and every waiting place is taken; worth another try soon.
    #[error("every place of this model is taken, try again in a moment")]
    Busy,
    #[error("{requested} tokens asked for, the window is {window}")]
    ContextTooLong { requested: u64, window: u64 },
    #[error("`{field}` {reason}")]
    Invalid { field: &'static str, reason: String },
    /// It cannot be had or does not fit the model.
    #[error("adapter `{id}`: {reason}")]
    Adapter { id: String, reason: String },
    #[error("engine failed: {0}")]
    Internal(String),
}
