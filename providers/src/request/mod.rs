//! What a request says about itself: format, model, whether it asks for a stream, what it is for.
//!
//! Read, never re-encoded: the body goes upstream as it came. The path and query are read first, since many
//! providers put the model there; then the body, in one borrowing pass that builds no tree. Nothing here can
//! fail: a body that is not what its type says just tells less, and the provider will say so itself.
//!
//! - `path`: format, kind and model by provider and path
//! - `body`: the few members of a JSON body that matter, and how much text it holds
//! - `form`: the same from multipart forms

mod body;
mod form;
mod path;

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::Dialect;
use crate::registry::ProviderSpec;

/// Longest model name kept, in bytes; the rest is cut.
const MAX_MODEL_BYTES: usize = 256;
/// Bytes of text taken for one token. English is near four, code and other scripts need fewer, so this is an
/// estimate good enough to reserve a budget with, not to bill from.
const TEXT_BYTES_PER_TOKEN: u64 = 4;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestType {
    Chat,
    Completion,
    Embeddings,
    Image,
    Audio,
    Moderation,
    Rerank,
    Other,
}

impl RequestType {
    pub fn as_str(self) -> &'static str {
        match self {
            RequestType::Chat => "chat",
            RequestType::Completion => "completion",
            RequestType::Embeddings => "embeddings",
            RequestType::Image => "image",
            RequestType::Audio => "audio",
            RequestType::Moderation => "moderation",
            RequestType::Rerank => "rerank",
            RequestType::Other => "other",
        }
    }
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestFacts {
    /// The format the answer will have.
    pub dialect: Dialect,
    pub model: Option<String>,
    /// Whether a stream was asked for. The answer may still not be one.
    pub stream: bool,
    pub request_type: RequestType,
    /// Tokens of the body's text, by its length alone: see the module's constants. 0 when there is no text
    /// or the body was not at hand.
    pub body_estimate_tokens: u64,
}

/// Reads a request. `rest` is the raw path after the slug; `body` is `None` when it is streamed past us.
pub fn read_request(
    spec: &ProviderSpec,
    method: &str,
    rest: &str,
    query: Option<&str>,
    content_type: Option<&str>,
    body: Option<&[u8]>,
) -> RequestFacts {
    let from_path = path::read(spec, method, rest, query.unwrap_or_default());
    let content_type = content_type.unwrap_or_default();
    let from_body = body
        .map(|bytes| body::Said::read(content_type, bytes))
        .unwrap_or_default();
    let model = match from_path.model {
        Some(model) if from_path.is_model_final => Some(model),
        // Some servers of a single model want a placeholder in the body.
        fallback => from_body
            .model
            .filter(|name| fallback.is_none() || name != "tgi")
            .or(fallback),
    };
    let streams_unasked = from_path.dialect == Dialect::Ollama;
    RequestFacts {
        dialect: from_path.dialect,
        model,
        stream: from_path
            .stream
            .or(from_body.stream)
            .unwrap_or(streams_unasked),
        request_type: from_path.request_type,
        body_estimate_tokens: from_body.text_bytes.div_ceil(TEXT_BYTES_PER_TOKEN),
    }
}

/// A model name as text, decoded and cut.
fn model_name(raw: &str) -> Option<String> {
    let decoded = percent_decode_str(raw).decode_utf8_lossy();
    cut_name(&decoded)
}

fn cut_name(name: &str) -> Option<String> {
    let mut end = name.len().min(MAX_MODEL_BYTES);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    let name = name[..end].trim();
    (!name.is_empty()).then(|| name.to_owned())
}

fn query_parameter<'a>(query: &'a str, wanted: &str) -> Option<Cow<'a, str>> {
    query.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        (name == wanted).then(|| percent_decode_str(value).decode_utf8_lossy())
    })
}

#[cfg(test)]
mod tests;
