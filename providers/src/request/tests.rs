use super::*;
use crate::registry::{custom, find};

use Dialect as D;
use RequestType as T;

/// Slug, path (after its method, when that is not POST), and what they tell.
type Case = (&'static str, &'static str, D, T, Option<&'static str>, bool);

const JSON: Option<&str> = Some("application/json");

fn read(slug: &str, path: &str, content_type: Option<&str>, body: Option<&[u8]>) -> RequestFacts {
    let spec = find(slug).unwrap_or_else(custom);
    let (method, path) = path.split_once(' ').unwrap_or(("POST", path));
    let (rest, query) = match path.split_once('?') {
        Some((rest, query)) => (rest, Some(query)),
        None => (path, None),
    };
    read_request(spec, method, rest, query, content_type, body)
}

#[test]
fn paths_tell_format_kind_model_and_stream() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("openai", "chat/completions", D::OpenAiChat, T::Chat, None, false),
        ("openai", "v1/chat/completions", D::OpenAiChat, T::Chat, None, false),
        ("openai", "GET v1/chat/completions/chatcmpl-1", D::Opaque, T::Other, None, false),
        ("openai", "v1/responses", D::OpenAiResponses, T::Chat, None, false),
        ("openai", "GET responses/resp_1?stream=true&starting_after=3", D::OpenAiResponses, T::Other, None, true),
        ("openai", "GET responses/resp_1/input_items", D::Opaque, T::Other, None, false),
        ("openai", "embeddings", D::OpenAiMedia, T::Embeddings, None, false),
        ("openai", "images/edits", D::OpenAiMedia, T::Image, None, false),
        ("openai", "audio/transcriptions", D::OpenAiMedia, T::Audio, None, false),
        ("openai", "moderations", D::OpenAiMedia, T::Moderation, None, false),
        ("openai", "GET v1/models", D::OpenAiMedia, T::Other, None, false),
        ("openai", "GET ?model=gpt-realtime", D::Opaque, T::Other, Some("gpt-realtime"), false),
        ("anthropic", "v1/messages?beta=true", D::Anthropic, T::Chat, None, false),
        ("anthropic", "v1/messages/count_tokens", D::Anthropic, T::Other, None, false),
        ("google-ai-studio", "v1beta/models/gemini-x:generateContent", D::Gemini, T::Chat, Some("gemini-x"), false),
        ("google-ai-studio", "v1beta/models/gemini-x:streamGenerateContent?alt=sse", D::Gemini, T::Chat, Some("gemini-x"), true),
        ("google-ai-studio", "v1beta/models/models/gemini-x:generateContent", D::Gemini, T::Chat, Some("gemini-x"), false),
        ("google-ai-studio", "v1beta/models/models%2Fgemini-x:embedContent", D::Gemini, T::Embeddings, Some("gemini-x"), false),
        ("google-ai-studio", "v1beta/openai/chat/completions", D::OpenAiChat, T::Chat, None, false),
        ("google-ai-studio", "v1beta/interactions", D::GeminiInteractions, T::Chat, None, false),
        ("google-ai-studio", "GET v1beta/models", D::Gemini, T::Other, None, false),
        ("google-vertex-ai", "v1/projects/p/locations/r/publishers/google/models/gemini-x:streamGenerateContent", D::Gemini, T::Chat, Some("gemini-x"), true),
        ("google-vertex-ai", "v1/projects/p/locations/r/publishers/anthropic/models/claude-x@20250101:streamRawPredict", D::Anthropic, T::Chat, Some("claude-x@20250101"), true),
        ("google-vertex-ai", "v1/projects/p/locations/r/publishers/mistralai/models/m:rawPredict", D::OpenAiChat, T::Chat, Some("m"), false),
        ("google-vertex-ai", "v1/projects/p/locations/r/endpoints/openapi/chat/completions", D::OpenAiChat, T::Chat, None, false),
        ("google-vertex-ai", "v1/projects/p/locations/r/publishers/google/models/text-embedding-x:predict", D::Gemini, T::Embeddings, Some("text-embedding-x"), false),
        ("azure-openai", "res/dep/chat/completions?api-version=1", D::OpenAiChat, T::Chat, Some("dep"), false),
        ("azure-openai", "res/openai/v1/responses", D::OpenAiResponses, T::Chat, None, false),
        ("aws-bedrock", "bedrock-runtime/us-east-1/model/anthropic.claude-v1%3A0/converse-stream", D::BedrockConverse, T::Chat, Some("anthropic.claude-v1:0"), true),
        ("aws-bedrock", "bedrock-runtime/us-east-1/model/arn%3Aaws%3Abedrock%3A%3A%3Aprofile%2Fx/invoke", D::BedrockInvoke, T::Chat, Some("arn:aws:bedrock:::profile/x"), false),
        ("aws-bedrock", "bedrock-runtime/us-east-1/model/amazon.titan-embed-text-v2:0/invoke", D::BedrockInvoke, T::Embeddings, Some("amazon.titan-embed-text-v2:0"), false),
        ("aws-bedrock", "bedrock-runtime/us-east-1/openai/v1/chat/completions", D::OpenAiChat, T::Chat, None, false),
        ("aws-bedrock", "bedrock-mantle/us-east-1/anthropic/v1/messages", D::Anthropic, T::Chat, None, false),
        ("aws-bedrock", "bedrock-mantle/us-east-1/v1/responses", D::OpenAiResponses, T::Chat, None, false),
        ("workers-ai", "@cf/meta/llama-3", D::WorkersAi, T::Chat, Some("@cf/meta/llama-3"), false),
        ("workers-ai", "run/@cf/meta/llama-3", D::WorkersAi, T::Chat, Some("@cf/meta/llama-3"), false),
        ("workers-ai", "v1/chat/completions", D::OpenAiChat, T::Chat, None, false),
        ("huggingface", "bigcode/starcoder", D::Tgi, T::Completion, Some("bigcode/starcoder"), false),
        ("huggingface", "models/meta/llama/v1/chat/completions", D::OpenAiChat, T::Chat, Some("meta/llama"), false),
        ("replicate", "v1/models/meta/llama/predictions", D::Replicate, T::Other, Some("meta/llama"), false),
        ("replicate", "GET predictions/abc", D::Replicate, T::Other, None, false),
        ("groq", "openai/v1/chat/completions", D::OpenAiChat, T::Chat, None, false),
        ("mistral", "v1/conversations", D::Mistral, T::Chat, None, false),
        ("mistral", "v1/fim/completions", D::OpenAiChat, T::Completion, None, false),
        ("mistral", "v1/chat/moderations", D::OpenAiMedia, T::Moderation, None, false),
        ("cohere", "v2/chat", D::CohereV2, T::Chat, None, false),
        ("cohere", "chat", D::CohereV1, T::Chat, None, false),
        ("cohere", "v1/rerank", D::CohereV1, T::Rerank, None, false),
        ("cohere", "compatibility/v1/chat/completions", D::OpenAiChat, T::Chat, None, false),
        ("perplexity-ai", "chat/completions", D::Perplexity, T::Chat, None, false),
        ("perplexity-ai", "v1/embeddings", D::OpenAiMedia, T::Embeddings, None, false),
        ("deepseek", "beta/completions", D::OpenAiChat, T::Completion, None, false),
        ("deepseek", "anthropic/v1/messages", D::Anthropic, T::Chat, None, false),
        ("grok", "v1/messages", D::Anthropic, T::Chat, None, false),
        ("openrouter", "v1/chat/completions", D::OpenRouter, T::Chat, None, false),
        ("openrouter", "messages", D::Anthropic, T::Chat, None, false),
        ("openrouter", "GET generation?id=1", D::Opaque, T::Other, None, false),
        ("fireworks", "inference/v1/embeddings", D::OpenAiMedia, T::Embeddings, None, false),
        ("baseten", "model/abc", D::Opaque, T::Other, Some("abc"), false),
        ("baseten", "v1/chat/completions", D::OpenAiChat, T::Chat, None, false),
        ("parallel", "v1/tasks/runs", D::Opaque, T::Other, None, false),
        ("elevenlabs", "v1/text-to-speech/v/stream", D::Elevenlabs, T::Audio, None, true),
        ("cartesia", "tts/sse", D::Cartesia, T::Audio, None, true),
        ("deepgram", "v1/listen?model=nova-3", D::Deepgram, T::Audio, Some("nova-3"), false),
        ("fal", "fal-ai/flux/dev", D::Fal, T::Other, Some("fal-ai/flux/dev"), false),
        ("fal", "GET fal-ai/flux/requests/1/status", D::Fal, T::Other, Some("fal-ai/flux"), false),
        ("fal", "fal-ai/any-llm/stream", D::Fal, T::Other, Some("fal-ai/any-llm"), true),
        ("ideogram", "v1/ideogram-v3/generate", D::Ideogram, T::Image, Some("ideogram-v3"), false),
        ("custom-x", "proxy/v1/chat/completions", D::OpenAiChat, T::Chat, None, false),
        ("custom-x", "v1/messages", D::Anthropic, T::Chat, None, false),
        ("custom-x", "api/chat", D::Ollama, T::Chat, None, true),
        ("custom-x", "generate_stream", D::Tgi, T::Completion, None, true),
        ("custom-x", "v1beta/models/g:streamGenerateContent", D::Gemini, T::Chat, Some("g"), true),
        ("custom-x", "model/m/converse", D::BedrockConverse, T::Chat, Some("m"), false),
        ("custom-x", "whatever", D::Opaque, T::Other, None, false),
        ("custom-x", "", D::Opaque, T::Other, None, false),
    ];
    for (slug, path, dialect, kind, model, stream) in cases {
        let facts = read(slug, path, None, None);
        assert_eq!(
            (
                facts.dialect,
                facts.request_type,
                facts.model.as_deref(),
                facts.stream
            ),
            (*dialect, *kind, *model, *stream),
            "{slug} {path}"
        );
    }
}

#[test]
fn bodies_tell_model_and_stream_where_the_path_does_not() {
    let facts = |slug: &str, path: &str, body: &str| {
        let facts = read(slug, path, JSON, Some(body.as_bytes()));
        (facts.model, facts.stream)
    };
    let said = |model: &str, stream: bool| (Some(model.to_owned()), stream);
    assert_eq!(
        facts(
            "openai",
            "chat/completions",
            r#"{"messages":[],"stream":true,"model":"gpt-x"}"#
        ),
        said("gpt-x", true)
    );
    assert_eq!(
        facts("openai", "chat/completions", r#"{"model":"a","model":"b"}"#),
        said("b", false)
    );
    assert_eq!(
        facts(
            "openai",
            "chat/completions",
            r#" {"mod\u0065l":"a\u00e9","stream":null}"#
        ),
        said("aé", false)
    );
    assert_eq!(
        facts(
            "openai",
            "chat/completions",
            r#"{"model":7,"stream":"true"}"#
        ),
        (None, false)
    );
    // The path's method decides at Google and Bedrock, the body's model at Azure.
    assert_eq!(
        facts(
            "google",
            "v1beta/models/g:generateContent",
            r#"{"model":"x","stream":true}"#
        ),
        said("g", false)
    );
    assert_eq!(
        facts(
            "azure-openai",
            "r/dep/chat/completions",
            r#"{"model":"gpt-x"}"#
        ),
        said("gpt-x", false)
    );
    assert_eq!(
        facts(
            "huggingface",
            "a/b/v1/chat/completions",
            r#"{"model":"tgi","stream":true}"#
        ),
        said("a/b", true)
    );
    assert_eq!(
        facts(
            "openrouter",
            "chat/completions",
            r#"{"models":["a/b","c/d"]}"#
        ),
        said("a/b", false)
    );
    assert_eq!(
        facts(
            "openrouter",
            "chat/completions",
            r#"{"models":["a/b"],"model":"m"}"#
        ),
        said("m", false)
    );
    assert_eq!(
        facts(
            "replicate",
            "predictions",
            r#"{"version":"o/n:1","stream":true}"#
        ),
        said("o/n:1", false)
    );
    assert_eq!(
        facts(
            "ideogram",
            "generate",
            r#"{"image_request":{"prompt":"p","model":"V_2"}}"#
        ),
        said("V_2", false)
    );
    assert_eq!(
        facts(
            "elevenlabs",
            "v1/text-to-speech/v",
            r#"{"text":"hi","model_id":"m"}"#
        ),
        said("m", false)
    );
    // A fault later on does not take back what was read.
    assert_eq!(
        facts(
            "openai",
            "chat/completions",
            r#"{"model":"a","stream":true,"messages":[{"#
        ),
        said("a", true)
    );
    assert_eq!(facts("openai", "chat/completions", "[1,2]"), (None, false));
    assert_eq!(facts("openai", "chat/completions", ""), (None, false));
    let deep = format!(r#"{{"model":"a","x":{}"#, "[".repeat(100_000));
    assert_eq!(facts("openai", "chat/completions", &deep), said("a", false));
    let long = format!(r#"{{"model":"{}"}}"#, "é".repeat(1000));
    assert_eq!(
        facts("openai", "chat/completions", &long)
            .0
            .map(|model| model.len()),
        Some(MAX_MODEL_BYTES)
    );
}

#[test]
fn text_is_estimated_and_files_are_not_text() {
    let estimate = |body: &str| {
        read("openai", "chat/completions", JSON, Some(body.as_bytes())).body_estimate_tokens
    };
    assert_eq!(
        estimate(r#"{"model":"a","messages":[{"role":"user","content":"12345678"}]}"#),
        3
    );
    assert_eq!(estimate(r#"{"input":"a\"b\\","x\"":"12"}"#), 2);
    let prose = "all work and no play ".repeat(100);
    let spoken = format!(r#"{{"input":["{prose}"]}}"#);
    assert_eq!(estimate(&spoken), 525);
    let picture = "iVBORw0KGgo".repeat(1000);
    assert_eq!(estimate(&format!(r#"{{"input":"{picture}"}}"#)), 0);
    assert_eq!(
        estimate(&format!(r#"{{"url":"data:image/png;base64,{picture}"}}"#)),
        0
    );
    assert_eq!(
        read("openai", "chat/completions", JSON, None).body_estimate_tokens,
        0
    );
}

#[test]
fn forms_are_searched_before_and_after_the_file() {
    let content_type = r#"multipart/form-data; charset=utf-8; boundary="XyZ""#;
    let file = "--XyZ\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.mp3\"\r\n\r\n\0\x01binary--Xy\r\n";
    let field = |name: &str, value: &str| {
        format!("--XyZ\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let end = "--XyZ--\r\n";
    for body in [
        format!(
            "{file}{}{}{end}",
            field("model", "whisper-1"),
            field("stream", "true")
        ),
        format!(
            "{}{}{file}{end}",
            field("stream", "True"),
            field("model", "whisper-1")
        ),
    ] {
        let facts = read(
            "openai",
            "audio/transcriptions",
            Some(content_type),
            Some(body.as_bytes()),
        );
        assert_eq!(
            (facts.model.as_deref(), facts.stream),
            (Some("whisper-1"), true)
        );
    }
    let named_like_a_field = format!(
        "--XyZ\r\nContent-Disposition: form-data; name=\"model\"; filename=\"x\"\r\n\r\nno\r\n{end}"
    );
    let facts = read(
        "openai",
        "audio/transcriptions",
        Some(content_type),
        Some(named_like_a_field.as_bytes()),
    );
    assert_eq!(facts.model, None);
    for (content_type, body) in [
        ("multipart/form-data", "x"),
        ("multipart/form-data; boundary=", "--"),
        (content_type, "--XyZ"),
        (content_type, ""),
    ] {
        assert_eq!(
            read(
                "openai",
                "images/edits",
                Some(content_type),
                Some(body.as_bytes())
            )
            .model,
            None
        );
    }
}
