//! What can go wrong with a fine-tune, in words for its caller.

use local_inference::{AdapterError, EngineError};

use crate::error::{GatewayError, Kind};
use crate::state::StateError;

#[derive(Debug, thiserror::Error)]
pub enum FinetuneError {
    /// The original's words; the name or id is the caller's own.
    #[error("Finetune {0} not found")]
    NotFound(String),
    /// The original names the files otherwise than its own uploads do.
    #[error(
        "Finetune is missing required files (model.safetensors and config.json): `{name}` has no {missing}, upload it to finetunes/{name}/finetune-assets"
    )]
    Incomplete { name: String, missing: String },
    #[error("Finetune {name} is for the model {model}, not for {asked}: ask {model} with it")]
    OtherModel {
        name: String,
        model: String,
        asked: String,
    },
    #[error("The model {0} does not support LoRa inference")]
    NoAdapters(String),
    #[error("No such model: No such model {model} or task; this gateway's engine offers {offered}")]
    UnknownModel { model: String, offered: String },
    /// In a request, as without an adapter.
    #[error("No such model: No such model {0} or task")]
    NoSuchModel(String),
    #[error("a fine-tune `{0}` exists already in this account: take another name or delete it")]
    Taken(String),
    #[error(
        "the account has {count} fine-tunes and may have {max} (`finetunes.max_per_account`): delete one"
    )]
    Full { count: u64, max: u64 },
    #[error("{0}")]
    Invalid(String),
    #[error("{name} is larger than {max} bytes ({key})")]
    TooLarge {
        name: &'static str,
        max: u64,
        key: &'static str,
    },
    /// The files are no adapter for the model; they were not kept.
    #[error("{reason}; the upload was not kept{hint}")]
    Refused {
        reason: AdapterError,
        hint: &'static str,
    },
    #[error("the fine-tune was changed by somebody else meanwhile: try again")]
    Changed,
    #[error("the gateway could not keep the file")]
    Disk(#[from] std::io::Error),
    #[error(transparent)]
    State(#[from] StateError),
}

impl From<rusqlite::Error> for FinetuneError {
    fn from(error: rusqlite::Error) -> FinetuneError {
        FinetuneError::State(error.into())
    }
}

impl FinetuneError {
    /// The API's number and the HTTP status, in answers to requests for text.
    pub fn code(&self) -> (u32, u16) {
        match self {
            FinetuneError::Incomplete { .. } => (3039, 400),
            FinetuneError::Disk(_) | FinetuneError::State(_) => (3043, 500),
            other => {
                let kind = other.kind();
                (kind.code(), kind.status())
            }
        }
    }

    fn kind(&self) -> Kind {
        match self {
            FinetuneError::NotFound(_) | FinetuneError::OtherModel { .. } => Kind::UnknownFinetune,
            FinetuneError::NoAdapters(_) => Kind::NoAdapters,
            FinetuneError::UnknownModel { .. } | FinetuneError::NoSuchModel(_) => {
                Kind::UnknownModel
            }
            FinetuneError::TooLarge { .. } => Kind::BodyTooLarge,
            // Nothing in the files is to blame.
            FinetuneError::Refused {
                reason: AdapterError::Base(EngineError::Load(_) | EngineError::Internal(_)),
                ..
            } => Kind::Internal,
            FinetuneError::Refused { .. } => Kind::FinetuneRefused,
            FinetuneError::Incomplete { .. }
            | FinetuneError::Taken(_)
            | FinetuneError::Full { .. }
            | FinetuneError::Changed
            | FinetuneError::Invalid(_) => Kind::BadRequest,
            FinetuneError::Disk(_) | FinetuneError::State(_) => Kind::Internal,
        }
    }
}

impl From<FinetuneError> for GatewayError {
    fn from(error: FinetuneError) -> GatewayError {
        let kind = error.kind();
        match error {
            FinetuneError::Disk(cause) => {
                GatewayError::new(kind, "the gateway could not keep the file").private(cause)
            }
            FinetuneError::State(cause) => {
                GatewayError::new(kind, "internal server error").private(cause)
            }
            other => GatewayError::new(kind, other.to_string()),
        }
    }
}
