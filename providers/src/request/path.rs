//! Format, kind and model by provider and path.
//!
//! One function per family that differs; most providers share OpenAI's paths.

use super::{RequestType, model_name, query_parameter};
use crate::Dialect;
use crate::registry::{Family, ProviderSpec};
use crate::url::is_version;

/// What path and query say.
#[derive(Debug)]
pub(super) struct FromPath {
    pub dialect: Dialect,
    pub request_type: RequestType,
    pub model: Option<String>,
    /// The path's model is the one used, whatever the body says.
    pub is_model_final: bool,
    /// `None` when the body decides.
    pub stream: Option<bool>,
}

impl FromPath {
    fn new(dialect: Dialect, request_type: RequestType) -> FromPath {
        FromPath {
            dialect,
            request_type,
            model: None,
            is_model_final: false,
            stream: None,
        }
    }

    fn opaque() -> FromPath {
        FromPath::new(Dialect::Opaque, RequestType::Other)
    }

    /// A model that the body may override.
    fn or_model(self, raw: &str) -> FromPath {
        FromPath {
            model: model_name(raw),
            ..self
        }
    }

    fn with_model(self, raw: &str) -> FromPath {
        FromPath {
            model: model_name(raw),
            is_model_final: true,
            ..self
        }
    }

    fn with_stream(self, stream: bool) -> FromPath {
        FromPath {
            stream: Some(stream),
            ..self
        }
    }
}

pub(super) fn read(spec: &ProviderSpec, method: &str, rest: &str, query: &str) -> FromPath {
    let rest = rest.trim_end_matches('/');
    let bare = without_version(without_base(spec.base_path, rest));
    match spec.family {
        Family::OpenAi | Family::Mistral => openai(method, bare, query),
        Family::Anthropic => anthropic(method, bare),
        Family::Google => google(method, bare, query),
        Family::Vertex => vertex(method, rest, query),
        Family::Azure => azure(method, rest, query),
        Family::Bedrock => bedrock(method, rest, query),
        Family::WorkersAi => workers_ai(method, rest, query),
        Family::HuggingFace => hugging_face(method, bare, query),
        Family::Replicate => replicate(bare),
        Family::Baseten => baseten(method, bare, query),
        Family::Cohere => cohere(method, rest, bare, query),
        Family::Perplexity => perplexity(method, bare, query),
        Family::OpenRouter => openrouter(method, bare, query),
        Family::Elevenlabs => {
            audio(Dialect::Elevenlabs, bare).with_stream(bare.contains("/stream"))
        }
        Family::Cartesia => audio(Dialect::Cartesia, bare).with_stream(bare == "tts/sse"),
        Family::Deepgram => deepgram(bare, query),
        Family::Fal => fal(bare),
        Family::Ideogram => ideogram(bare),
        Family::Unknown => by_path_alone(method, bare, query),
    }
}

fn without_base<'a>(base_path: &str, rest: &'a str) -> &'a str {
    let base = base_path.trim_start_matches('/');
    match rest
        .strip_prefix(base)
        .and_then(|tail| tail.strip_prefix('/'))
    {
        Some(tail) if !base.is_empty() => tail,
        _ => rest,
    }
}

fn without_version(path: &str) -> &str {
    match path.split_once('/') {
        Some((first, tail)) if is_version(first) => tail,
        _ => path,
    }
}

/// OpenAI's paths, which most others share, and Anthropic's `messages` where a vendor serves both.
fn openai(method: &str, path: &str, query: &str) -> FromPath {
    use RequestType::*;
    let is_post = method.eq_ignore_ascii_case("POST");
    let path = path.strip_prefix("beta/").unwrap_or(path);
    if let Some(path) = path.strip_prefix("anthropic/") {
        return anthropic(method, without_version(path));
    }
    match path {
        "chat/completions" | "agents/completions" if is_post => {
            FromPath::new(Dialect::OpenAiChat, Chat)
        }
        "completions" | "fim/completions" if is_post => {
            FromPath::new(Dialect::OpenAiChat, Completion)
        }
        // The same socket address serves several formats of frames.
        "realtime" | "" => FromPath {
            model: query_parameter(query, "model").map(Into::into),
            ..FromPath::opaque()
        },
        "messages" => FromPath::new(Dialect::Anthropic, Chat),
        "embeddings" => FromPath::new(Dialect::OpenAiMedia, Embeddings),
        "moderations" | "chat/moderations" => FromPath::new(Dialect::OpenAiMedia, Moderation),
        "rerank" => FromPath::new(Dialect::OpenAiMedia, Rerank),
        _ => {
            let (first, tail) = path.split_once('/').unwrap_or((path, ""));
            match first {
                // Stored items are read back, not used again.
                "responses" if tail.ends_with("/input_items") => FromPath::opaque(),
                "responses" if is_post && matches!(tail, "" | "compact") => {
                    FromPath::new(Dialect::OpenAiResponses, Chat)
                }
                // A background answer, whose usage stands nowhere else.
                "responses" => {
                    let resumes =
                        query_parameter(query, "stream").is_some_and(|value| value == "true");
                    FromPath::new(Dialect::OpenAiResponses, Other).with_stream(resumes)
                }
                "messages" => FromPath::new(Dialect::Anthropic, Other),
                "conversations" => {
                    FromPath::new(Dialect::Mistral, if is_post { Chat } else { Other })
                }
                "chat" => FromPath::opaque(),
                "images" => FromPath::new(Dialect::OpenAiMedia, Image),
                "audio" => FromPath::new(Dialect::OpenAiMedia, Audio),
                _ => FromPath::new(Dialect::OpenAiMedia, Other),
            }
        }
    }
}

fn anthropic(method: &str, path: &str) -> FromPath {
    let is_post = method.eq_ignore_ascii_case("POST");
    let kind = match path {
        "messages" if is_post => RequestType::Chat,
        "complete" if is_post => RequestType::Completion,
        _ => RequestType::Other,
    };
    FromPath::new(Dialect::Anthropic, kind)
}

fn google(method: &str, path: &str, query: &str) -> FromPath {
    if let Some(path) = path.strip_prefix("openai/") {
        return openai(method, without_version(path), query);
    }
    if path == "interactions" || path.starts_with("interactions/") {
        return FromPath::new(Dialect::GeminiInteractions, RequestType::Chat);
    }
    gemini_method(path).unwrap_or_else(|| FromPath::new(Dialect::Gemini, RequestType::Other))
}

/// `…/{model}:{method}`. The name may hold `models/` more than once, by mistake of clients.
fn gemini_method(path: &str) -> Option<FromPath> {
    let (resource, method) = path.rsplit_once(':').or_else(|| path.rsplit_once("%3A"))?;
    let model = resource.rsplit("models/").next().unwrap_or(resource);
    let model = model.strip_prefix("models%2F").unwrap_or(model);
    let (kind, stream) = match method {
        "generateContent" => (RequestType::Chat, false),
        "streamGenerateContent" => (RequestType::Chat, true),
        "embedContent" | "batchEmbedContents" => (RequestType::Embeddings, false),
        "predict" if model.contains("embedding") => (RequestType::Embeddings, false),
        "predict" => (RequestType::Image, false),
        _ => (RequestType::Other, false),
    };
    Some(
        FromPath::new(Dialect::Gemini, kind)
            .with_model(model)
            .with_stream(stream),
    )
}

fn vertex(method: &str, path: &str, query: &str) -> FromPath {
    if let Some((_, operation)) = path.split_once("/endpoints/openapi/") {
        return openai(method, operation, query);
    }
    if path.contains("/interactions") {
        return FromPath::new(Dialect::GeminiInteractions, RequestType::Chat);
    }
    let publisher = path
        .split_once("publishers/")
        .and_then(|(_, tail)| tail.split('/').next());
    let (Some(publisher), Some((resource, operation))) = (publisher, path.rsplit_once(':')) else {
        return google(method, path, query);
    };
    if !matches!(operation, "rawPredict" | "streamRawPredict") {
        return google(method, path, query);
    }
    let model = resource.rsplit("models/").next().unwrap_or(resource);
    let dialect = if publisher == "anthropic" {
        Dialect::Anthropic
    } else {
        Dialect::OpenAiChat
    };
    let kind = if model == "count-tokens" {
        RequestType::Other
    } else {
        RequestType::Chat
    };
    let found = FromPath::new(dialect, kind).with_model(model);
    // The plain method may stream too, when the body says so.
    if operation == "streamRawPredict" {
        found.with_stream(true)
    } else {
        found
    }
}

fn azure(method: &str, path: &str, query: &str) -> FromPath {
    let after = path.split_once('/').map_or("", |(_, after)| after);
    if let Some(operation) = after.strip_prefix("openai/v1/") {
        return openai(method, operation, query);
    }
    let after = after.strip_prefix("openai/deployments/").unwrap_or(after);
    let (deployment, operation) = after.split_once('/').unwrap_or((after, ""));
    openai(method, operation, query).or_model(deployment)
}

fn bedrock(method: &str, path: &str, query: &str) -> FromPath {
    // Service and region come first.
    let mut parts = path.splitn(3, '/');
    let (service, _, path) = (parts.next(), parts.next(), parts.next().unwrap_or_default());
    let openai_path = path.strip_prefix("openai/").unwrap_or(path);
    if service == Some("bedrock-mantle") || openai_path.len() < path.len() {
        return openai(method, without_version(openai_path), query);
    }
    if path == "rerank" {
        return FromPath::new(Dialect::Opaque, RequestType::Rerank);
    }
    bedrock_model(path).unwrap_or_else(FromPath::opaque)
}

/// `model/{id}/{operation}`
fn bedrock_model(path: &str) -> Option<FromPath> {
    let (id, operation) = path.strip_prefix("model/")?.rsplit_once('/')?;
    let (dialect, stream) = match operation {
        "converse" => (Dialect::BedrockConverse, false),
        "converse-stream" => (Dialect::BedrockConverse, true),
        "invoke" => (Dialect::BedrockInvoke, false),
        "invoke-with-response-stream" => (Dialect::BedrockInvoke, true),
        _ => return Some(FromPath::opaque().with_model(id)),
    };
    let kind = if id.contains("embed") {
        RequestType::Embeddings
    } else {
        RequestType::Chat
    };
    Some(
        FromPath::new(dialect, kind)
            .with_model(id)
            .with_stream(stream),
    )
}

fn workers_ai(method: &str, path: &str, query: &str) -> FromPath {
    let bare = without_version(path);
    if bare.len() < path.len() {
        return openai(method, bare, query);
    }
    FromPath::new(Dialect::WorkersAi, RequestType::Chat)
        .with_model(path.strip_prefix("run/").unwrap_or(path))
}

fn hugging_face(method: &str, path: &str, query: &str) -> FromPath {
    let found = match path.find("v1/") {
        Some(at) => openai(method, &path[at + "v1/".len()..], query),
        None if path.starts_with("chat/") => openai(method, path, query),
        None => FromPath::new(Dialect::Tgi, RequestType::Completion),
    };
    let model = path.split("/v1/").next().unwrap_or_default();
    let model = model.split("/pipeline/").next().unwrap_or_default();
    let is_model =
        model.split('/').count() <= 2 && !model.starts_with("chat/") && !model.starts_with("v1/");
    if is_model {
        found.or_model(model)
    } else {
        found
    }
}

/// A prediction never streams here: the client fetches the stream from an address in the answer.
fn replicate(path: &str) -> FromPath {
    let found = FromPath::new(Dialect::Replicate, RequestType::Other).with_stream(false);
    let owned = path
        .strip_prefix("models/")
        .or_else(|| path.strip_prefix("deployments/"));
    match owned.and_then(|tail| tail.strip_suffix("/predictions")) {
        Some(model) => found.with_model(model),
        None => found,
    }
}

fn baseten(method: &str, path: &str, query: &str) -> FromPath {
    match path.strip_prefix("model/") {
        Some(tail) => FromPath::opaque().or_model(tail.split('/').next().unwrap_or_default()),
        None => openai(method, path, query),
    }
}

fn cohere(method: &str, rest: &str, path: &str, query: &str) -> FromPath {
    if let Some(path) = path.strip_prefix("compatibility/") {
        return openai(method, without_version(path), query);
    }
    let dialect = if rest.starts_with("v2/") {
        Dialect::CohereV2
    } else {
        Dialect::CohereV1
    };
    let kind = match path {
        "chat" => RequestType::Chat,
        "generate" | "summarize" => RequestType::Completion,
        "embed" => RequestType::Embeddings,
        "rerank" => RequestType::Rerank,
        _ => RequestType::Other,
    };
    FromPath::new(dialect, kind)
}

fn perplexity(method: &str, path: &str, query: &str) -> FromPath {
    match path {
        "chat/completions" | "sonar" => FromPath::new(Dialect::Perplexity, RequestType::Chat),
        "agent" => FromPath::new(Dialect::OpenAiResponses, RequestType::Chat),
        "contextualizedembeddings" => FromPath::new(Dialect::OpenAiMedia, RequestType::Embeddings),
        "search" => FromPath::new(Dialect::Perplexity, RequestType::Other),
        _ if path.starts_with("async/") => FromPath::new(Dialect::Perplexity, RequestType::Other),
        _ => openai(method, path, query),
    }
}

fn openrouter(method: &str, path: &str, query: &str) -> FromPath {
    match path {
        "chat/completions" => FromPath::new(Dialect::OpenRouter, RequestType::Chat),
        "completions" => FromPath::new(Dialect::OpenRouter, RequestType::Completion),
        // Tells the cost of an earlier request, which has its own record.
        "generation" | "credits" | "key" => FromPath::opaque(),
        _ => openai(method, path, query),
    }
}

fn audio(dialect: Dialect, path: &str) -> FromPath {
    const AUDIO: &[&str] = &[
        "text-to-speech",
        "speech-to-text",
        "speech-to-speech",
        "tts",
        "stt",
        "listen",
        "speak",
    ];
    let first = path.split('/').next().unwrap_or_default();
    FromPath::new(
        dialect,
        if AUDIO.contains(&first) {
            RequestType::Audio
        } else {
            RequestType::Other
        },
    )
}

fn deepgram(path: &str, query: &str) -> FromPath {
    let found = audio(Dialect::Deepgram, path).with_stream(false);
    match query_parameter(query, "model") {
        Some(model) => found.with_model(&model),
        None => found,
    }
}

/// The path is the model; requests of the queue carry their id after it.
fn fal(path: &str) -> FromPath {
    let app = path.split("/requests/").next().unwrap_or_default();
    let is_stream = app.ends_with("/stream");
    FromPath::new(Dialect::Fal, RequestType::Other)
        .with_model(app.strip_suffix("/stream").unwrap_or(app))
        .with_stream(is_stream)
}

fn ideogram(path: &str) -> FromPath {
    let found = FromPath::new(Dialect::Ideogram, RequestType::Image).with_stream(false);
    match path.split_once('/') {
        Some((model, _)) => found.with_model(model),
        None => found,
    }
}

/// Behind a custom slug stands anything: the path's ending tells which of the known formats it copies.
fn by_path_alone(method: &str, path: &str, query: &str) -> FromPath {
    const OPENAI: &[&str] = &[
        "chat/completions",
        "completions",
        "responses",
        "embeddings",
        "messages",
        "moderations",
        "rerank",
        "images/generations",
        "images/edits",
        "audio/speech",
        "audio/transcriptions",
        "audio/translations",
    ];
    let ends = |known: &str| {
        path.strip_suffix(known)
            .is_some_and(|before| before.is_empty() || before.ends_with('/'))
    };
    if let Some(known) = OPENAI.iter().find(|known| ends(known)) {
        return openai(method, known, query);
    }
    if ends("api/chat") || ends("api/generate") || ends("api/embed") {
        let kind = if ends("api/embed") {
            RequestType::Embeddings
        } else {
            RequestType::Chat
        };
        return FromPath::new(Dialect::Ollama, kind);
    }
    if ends("generate") || ends("generate_stream") {
        let found = FromPath::new(Dialect::Tgi, RequestType::Completion);
        return found.with_stream(ends("generate_stream"));
    }
    if path.contains(":generateContent") || path.contains(":streamGenerateContent") {
        return gemini_method(path).unwrap_or_else(FromPath::opaque);
    }
    path.find("model/")
        .and_then(|at| bedrock_model(&path[at..]))
        .unwrap_or_else(FromPath::opaque)
}
