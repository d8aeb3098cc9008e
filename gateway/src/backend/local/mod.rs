//! The engine in this process, spoken to in the bytes of the Workers AI API.
//!
//! Bytes in ([`serve`]), bytes out ([`LocalReply`]): the native form (`run/{model}`), and OpenAI's chat completions and
//! completions. Knows no sockets and no gateway settings. Reading is lenient, as the original's clients
//! need it: unknown fields are ignored, known ones that cannot be honoured are refused by name.

mod fault;
mod input;
mod input_chat;
mod reply;
mod stream;
mod values;

#[cfg(test)]
mod tests;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use local_inference::{EngineConfig, EngineHandle, Generation, TokenEvent};

use super::{Reply, ReplyBody};
use crate::config;
use fault::Fault;
use input::Asked;
pub use stream::{LocalStream, Piece};

/// The longest body read. The largest window holds a hundredth of it.
const MAX_BODY_BYTES: usize = 10 * 1024 * 1024;
/// Longer bodies are parsed away from the proxy's threads.
const MAX_INLINE_BODY_BYTES: usize = 64 * 1024;

/// What a path asks of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalEndpoint {
    /// The native form. An empty model: the body names it.
    Run {
        model: String,
    },
    ChatCompletions,
    Completions,
    /// A part of the API the engine does not have; named for the answer.
    Unsupported(&'static str),
}

impl LocalEndpoint {
    /// OpenAI's forms have their own errors.
    fn is_openai(&self) -> bool {
        !matches!(self, LocalEndpoint::Run { .. })
    }
}

/// Where the request came in; errors look different there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// `/client/v4/accounts/{account}/ai/...`
    Rest,
    /// `/v1/{account}/{gateway}/workers-ai/...`
    Gateway,
}

/// An answer whose status is known.
pub struct LocalReply {
    pub status: u16,
    pub content_type: &'static str,
    pub retry_after_s: Option<u64>,
    pub body: LocalBody,
}

pub enum LocalBody {
    Full(Bytes),
    Stream(LocalStream),
}

/// Reads the path after `workers-ai/` or `/ai/`, still percent-encoded: clients send model names with `/` and `@`
/// bare or encoded. `None`: nothing of ours.
pub fn endpoint(rest: &str) -> Option<LocalEndpoint> {
    let path = rest.split('?').next().unwrap_or_default();
    let decoded = percent_encoding::percent_decode_str(path)
        .decode_utf8()
        .ok()?;
    let path = decoded.trim_matches('/');
    let model = |name: &str| {
        let is_clean = !name.split('/').any(|part| part.is_empty() || part == "..");
        let is_model = name.starts_with("@cf/") || name.starts_with("@hf/");
        (is_model && is_clean).then(|| LocalEndpoint::Run {
            model: name.to_owned(),
        })
    };
    match path {
        "v1/chat/completions" => Some(LocalEndpoint::ChatCompletions),
        "v1/completions" => Some(LocalEndpoint::Completions),
        "v1/embeddings" => Some(LocalEndpoint::Unsupported("/v1/embeddings")),
        "v1/responses" => Some(LocalEndpoint::Unsupported("/v1/responses")),
        "run" => Some(LocalEndpoint::Run {
            model: String::new(),
        }),
        _ => match path.strip_prefix("run/") {
            // Any name after `run/` is a model's, if an unknown one.
            Some(name) => model(name).or_else(|| {
                let is_clean = !name.split('/').any(|part| part == "..");
                is_clean.then(|| LocalEndpoint::Run {
                    model: name.to_owned(),
                })
            }),
            None => model(path),
        },
    }
}

/// Answers one request. Every failure that is known before the first token has its own status; later ones end the stream.
pub async fn serve(
    engine: &EngineHandle,
    host: Host,
    endpoint: LocalEndpoint,
    body: &[u8],
) -> LocalReply {
    let is_openai = endpoint.is_openai();
    match answer(engine, endpoint, body).await {
        Ok(reply) => reply,
        Err(fault) => fault.reply(host, is_openai),
    }
}

async fn answer(
    engine: &EngineHandle,
    endpoint: LocalEndpoint,
    body: &[u8],
) -> Result<LocalReply, Fault> {
    let asked = read(endpoint, body).await?;
    let model = asked.request.model.clone();
    let faulty = |error| Fault::engine(error, &model);
    let Generation {
        prompt_tokens,
        mut events,
    } = engine.generate(asked.request).await.map_err(faulty)?;
    // The status waits for the first event, so that a failure before any text is an error and no broken answer.
    let first = events.recv().await.unwrap_or_else(fault::gone);
    if let TokenEvent::Failed(error) = first {
        return Err(faulty(error));
    }
    let answer = reply::Answer::new(asked.shape, &model, prompt_tokens, asked.is_usage_wanted);
    if asked.is_stream {
        return Ok(LocalReply {
            status: 200,
            content_type: "text/event-stream",
            retry_after_s: None,
            body: LocalBody::Stream(LocalStream::new(answer, first, events)),
        });
    }
    let mut text = String::new();
    let mut event = first;
    loop {
        match event {
            TokenEvent::Text { text: piece, .. } => text.push_str(&piece),
            TokenEvent::Done {
                stop,
                completion_tokens,
                ..
            } => {
                let body = answer.whole(&text, stop, completion_tokens);
                return Ok(LocalReply::json(200, None, body));
            }
            TokenEvent::Failed(error) => return Err(faulty(error)),
            TokenEvent::ToolCallStart { .. } | TokenEvent::ToolCallArguments { .. } => {}
        }
        event = events.recv().await.unwrap_or_else(fault::gone);
    }
}

async fn read(endpoint: LocalEndpoint, body: &[u8]) -> Result<Asked, Fault> {
    if body.len() <= MAX_INLINE_BODY_BYTES {
        return input::read(&endpoint, body);
    }
    if body.len() > MAX_BODY_BYTES {
        return Err(Fault::too_large(MAX_BODY_BYTES));
    }
    let body = body.to_vec();
    let read = tokio::task::spawn_blocking(move || input::read(&endpoint, &body)).await;
    read.unwrap_or_else(|error| Err(Fault::internal(&error.to_string())))
}

impl LocalReply {
    fn json(status: u16, retry_after_s: Option<u64>, body: Vec<u8>) -> LocalReply {
        LocalReply {
            status,
            content_type: "application/json",
            retry_after_s,
            body: LocalBody::Full(body.into()),
        }
    }
}

/// Starts the engine of the configuration.
pub fn start(config: &config::Engine) -> EngineHandle {
    local_inference::Engine::start(EngineConfig {
        model_dir: config.model_dir.clone(),
        models: config.models.clone(),
        threads: config.threads,
        max_running: config.max_running,
        max_waiting: config.max_waiting,
        max_context: config.max_context,
    })
}

/// The pipeline's way in: an answer in its own terms. `rest` as for [`endpoint`].
pub async fn reply(
    engine: Option<&EngineHandle>,
    rest: &str,
    is_rest: bool,
    body: &Bytes,
) -> Reply {
    let host = if is_rest { Host::Rest } else { Host::Gateway };
    let local = match (engine, endpoint(rest)) {
        (Some(engine), Some(endpoint)) => serve(engine, host, endpoint, body).await,
        (Some(_), None) => Fault::no_route(rest).reply(host, rest.contains("v1/")),
        (None, _) => Fault::no_engine().reply(host, rest.contains("v1/")),
    };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(local.content_type));
    if let Some(seconds) = local.retry_after_s {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    let body = match local.body {
        LocalBody::Full(bytes) => ReplyBody::full(bytes),
        LocalBody::Stream(stream) => ReplyBody::engine(stream.into_channel()),
    };
    Reply {
        status: local.status,
        headers,
        body,
    }
}
