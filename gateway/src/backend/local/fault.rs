//! What the engine's side answers when it cannot: codes and forms of the Workers AI API.

use std::time::Duration;

use local_inference::EngineError;
use serde::Serialize;
use uuid::Uuid;

use super::{Host, LocalReply};
use crate::finetunes::FinetuneError;
use crate::identify::shown;

/// One refusal: the API's number, the HTTP status, the sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub code: u32,
    pub status: u16,
    pub text: String,
    /// The field at fault, for OpenAI's clients.
    pub param: Option<String>,
    pub retry_after_s: Option<u64>,
    /// Trying again is of no use today, though the status looks as if it were.
    pub is_final: bool,
}

/// Seconds after which a busy engine is worth another try: a short answer takes about as long.
const BUSY_RETRY_S: u64 = 1;

impl Fault {
    pub(super) fn new(code: u32, status: u16, text: impl Into<String>) -> Fault {
        Fault {
            code,
            status,
            text: text.into(),
            param: None,
            retry_after_s: None,
            is_final: false,
        }
    }

    /// 5006: a field is not what it may be. `text` names it in the original's manner (`'/top_k' must be <= 50`).
    pub(super) fn input(field: &str, text: impl std::fmt::Display) -> Fault {
        let fault = Fault::new(5006, 400, format!("Bad input: Error: {text}"));
        Fault {
            param: Some(field.to_owned()),
            ..fault
        }
    }

    /// 5006: a field that means something, which this engine cannot do.
    pub(super) fn unsupported(field: &str) -> Fault {
        Fault::input(
            field,
            format_args!("'/{field}' is not supported by this model"),
        )
    }

    pub(super) fn unknown_model(model: &str) -> Fault {
        Fault::new(
            5007,
            400,
            format!("No such model: No such model {model} or task"),
        )
    }

    pub(super) fn no_adapters(model: &str) -> Fault {
        let error = FinetuneError::NoAdapters(shown(model));
        let (code, status) = error.code();
        Fault {
            param: Some("lora".to_owned()),
            ..Fault::new(code, status, error.to_string())
        }
    }

    pub(super) fn internal(cause: &str) -> Fault {
        Fault::new(3043, 500, format!("Internal server error: {cause}"))
    }

    pub(super) fn too_large(limit: usize) -> Fault {
        Fault::new(
            3006,
            413,
            format!("Request is too large: at most {limit} bytes are read"),
        )
    }

    /// 3040: every place is taken.
    pub(super) fn busy() -> Fault {
        let text = "Capacity temporarily exceeded, please try again.";
        Fault {
            retry_after_s: Some(BUSY_RETRY_S),
            ..Fault::new(3040, 429, text)
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        self.code == 3040
    }

    /// 3021: the task's or model's requests of this minute are used up.
    pub(super) fn rate(name: &str, limit: u32, wait: Duration) -> Fault {
        let text =
            format!("rate limiting: inference request per min rate reached ({limit} for {name})");
        Fault {
            retry_after_s: Some(wait.as_secs_f64().ceil() as u64),
            ..Fault::new(3021, 429, text)
        }
    }

    /// 4006: the account's neurons of this day are used up. No time to come back is told, or clients would wait for it.
    pub(super) fn allowance(limit: u64) -> Fault {
        let text = format!(
            "you have used up your daily free allocation of {limit} neurons, which is renewed at 00:00 UTC"
        );
        Fault {
            is_final: true,
            ..Fault::new(4006, 429, text)
        }
    }

    pub(super) fn no_route(rest: &str) -> Fault {
        let rest: String = rest.chars().take(200).collect();
        let text = format!(
            "No such model: nothing is served at `{rest}`; the engine knows `run/{{model}}` and `v1/` with chat/completions, completions, responses, embeddings, models"
        );
        Fault::new(5007, 404, text)
    }

    pub(super) fn no_engine() -> Fault {
        Fault::new(
            5007,
            400,
            "No such model: no engine runs here (`engine.enabled` is false)",
        )
    }

    pub(super) fn engine(error: EngineError, model: &str) -> Fault {
        match error {
            EngineError::UnknownModel { model } => Fault::unknown_model(&model),
            EngineError::NotPulled { how, .. } => Fault::new(
                5007,
                400,
                format!("No such model: {model} is not on this machine yet; {how}"),
            ),
            EngineError::Busy => Fault::busy(),
            EngineError::ContextTooLong { requested, window } => Fault::new(
                5021,
                413,
                format!(
                    "The estimated number of input and maximum output tokens ({requested}) exceeded this model context window limit ({window})."
                ),
            ),
            EngineError::Invalid { field, reason } => {
                Fault::input(field, format_args!("'/{field}' {reason}"))
            }
            EngineError::Adapter { id, reason } => {
                Fault::new(3037, 404, format!("Finetune {id}: {reason}"))
            }
            EngineError::Load(cause) | EngineError::Internal(cause) => {
                tracing::error!(model, cause, "the engine failed a request");
                // Causes name files and shapes, never prompts; the one who runs the engine is the one who reads this.
                Fault::internal(&cause)
            }
        }
    }

    pub(super) fn reply(self, host: Host, is_openai: bool) -> LocalReply {
        let request_id = Uuid::new_v4().to_string();
        let body = match (is_openai, host) {
            (true, _) => to_json(&self.envelope(&request_id, true)),
            (false, Host::Rest) => to_json(&self.envelope(&request_id, false)),
            (false, Host::Gateway) => to_json(&GatewayForm {
                name: "AiError",
                internal_code: self.code,
                http_code: self.status,
                message: format!("AiError: {} ({request_id})", self.text),
                // Without the kind of error in front, as the original has it.
                description: self
                    .text
                    .strip_prefix("No such model: ")
                    .unwrap_or(&self.text),
                request_id: &request_id,
            }),
        };
        LocalReply {
            retry_after_s: self.retry_after_s,
            is_final: self.is_final,
            ..LocalReply::json(self.status, body)
        }
    }

    fn envelope<'f>(&'f self, request_id: &str, is_openai: bool) -> Envelope<'f> {
        Envelope {
            errors: [self.native(request_id)],
            success: false,
            result: Empty {},
            messages: [],
            error: is_openai.then(|| self.openai(request_id)),
        }
    }

    fn native(&self, request_id: &str) -> NativeError {
        NativeError {
            message: format!("AiError: AiError: {} ({request_id})", self.text),
            code: self.code,
        }
    }

    fn openai(&self, request_id: &str) -> OpenAiError<'_> {
        let kind = match self.status {
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        let code = match self.code {
            3021 | 3040 => Some("rate_limit_exceeded"),
            4006 => Some("insufficient_quota"),
            5007 => Some("model_not_found"),
            5021 => Some("context_length_exceeded"),
            _ => None,
        };
        OpenAiError {
            message: format!("AiError: {} ({request_id})", self.text),
            kind,
            param: self.param.as_deref(),
            code,
        }
    }
}

/// Our own types with text keys: nothing in them can fail to serialise.
pub(super) fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("structs of texts and numbers serialise")
}

// Field order is the original's; some of its clients are regular expressions.

#[derive(Serialize)]
struct Envelope<'f> {
    errors: [NativeError; 1],
    success: bool,
    result: Empty,
    messages: [Empty; 0],
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<OpenAiError<'f>>,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct NativeError {
    message: String,
    code: u32,
}

#[derive(Serialize)]
struct OpenAiError<'f> {
    message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'f str>,
    code: Option<&'static str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GatewayForm<'f> {
    name: &'static str,
    internal_code: u32,
    http_code: u16,
    message: String,
    description: &'f str,
    request_id: &'f str,
}
