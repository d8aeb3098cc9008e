//! The wire formats a provider may answer in. A dialect belongs to the body of a reply, not to a vendor:
//! many vendors share `OpenAiChat`, and one vendor may speak several (OpenRouter's chat and messages paths).

use std::fmt;

/// How a reply's body is laid out: where its text, usage, end and errors stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Chat and legacy completions in OpenAI's format, with the spellings of everyone who copied it.
    OpenAiChat,
    OpenAiResponses,
    /// Embeddings, images, audio, files: one JSON document, or events whose JSON `type` names them.
    OpenAiMedia,
    Anthropic,
    Gemini,
    GeminiInteractions,
    BedrockConverse,
    /// The model maker's own JSON, wrapped by Bedrock.
    BedrockInvoke,
    CohereV2,
    CohereV1,
    /// Mistral conversations; Mistral chat is `OpenAiChat`.
    Mistral,
    Tgi,
    Perplexity,
    OpenRouter,
    Replicate,
    WorkersAi,
    Ollama,
    Elevenlabs,
    Deepgram,
    Cartesia,
    Fal,
    Ideogram,
    /// Passed on unread.
    Opaque,
}

impl Dialect {
    /// Every dialect, in declaration order.
    pub const ALL: [Dialect; 23] = [
        Dialect::OpenAiChat,
        Dialect::OpenAiResponses,
        Dialect::OpenAiMedia,
        Dialect::Anthropic,
        Dialect::Gemini,
        Dialect::GeminiInteractions,
        Dialect::BedrockConverse,
        Dialect::BedrockInvoke,
        Dialect::CohereV2,
        Dialect::CohereV1,
        Dialect::Mistral,
        Dialect::Tgi,
        Dialect::Perplexity,
        Dialect::OpenRouter,
        Dialect::Replicate,
        Dialect::WorkersAi,
        Dialect::Ollama,
        Dialect::Elevenlabs,
        Dialect::Deepgram,
        Dialect::Cartesia,
        Dialect::Fal,
        Dialect::Ideogram,
        Dialect::Opaque,
    ];

    /// The name used in records and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Dialect::OpenAiChat => "openai_chat",
            Dialect::OpenAiResponses => "openai_responses",
            Dialect::OpenAiMedia => "openai_media",
            Dialect::Anthropic => "anthropic",
            Dialect::Gemini => "gemini",
            Dialect::GeminiInteractions => "gemini_interactions",
            Dialect::BedrockConverse => "bedrock_converse",
            Dialect::BedrockInvoke => "bedrock_invoke",
            Dialect::CohereV2 => "cohere_v2",
            Dialect::CohereV1 => "cohere_v1",
            Dialect::Mistral => "mistral_conversations",
            Dialect::Tgi => "tgi",
            Dialect::Perplexity => "perplexity",
            Dialect::OpenRouter => "openrouter",
            Dialect::Replicate => "replicate",
            Dialect::WorkersAi => "workers_ai",
            Dialect::Ollama => "ollama",
            Dialect::Elevenlabs => "elevenlabs",
            Dialect::Deepgram => "deepgram",
            Dialect::Cartesia => "cartesia",
            Dialect::Fal => "fal",
            Dialect::Ideogram => "ideogram",
            Dialect::Opaque => "opaque",
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
