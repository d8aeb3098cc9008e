//! The rows. Hosts and paths are the vendors' public ones; a deployment elsewhere is a `base_url` in the
//! configuration, never a new row.

use super::{Family, Layout, ProviderSpec, Scheme};

const PLAIN: ProviderSpec = ProviderSpec {
    slug: "",
    aliases: &[],
    host: "",
    base_path: "",
    beside_version: &[],
    realtime_path: "",
    layout: Layout::Plain,
    credential_headers: &["authorization"],
    credential_query: &[],
    scheme: Scheme::Authorization("Bearer"),
    family: Family::OpenAi,
};

pub(super) static CUSTOM: ProviderSpec = ProviderSpec {
    slug: "custom",
    layout: Layout::Custom,
    family: Family::Unknown,
    ..PLAIN
};

pub(super) static PROVIDERS: &[ProviderSpec] = &[
    ProviderSpec {
        slug: "openai",
        host: "api.openai.com",
        base_path: "/v1",
        realtime_path: "realtime",
        ..PLAIN
    },
    // No base path: the vendor's tools also call paths outside `v1`.
    ProviderSpec {
        slug: "anthropic",
        host: "api.anthropic.com",
        credential_headers: &["x-api-key", "authorization"],
        scheme: Scheme::Anthropic,
        family: Family::Anthropic,
        ..PLAIN
    },
    ProviderSpec {
        slug: "google-ai-studio",
        aliases: &["google"],
        host: "generativelanguage.googleapis.com",
        realtime_path: "ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent",
        credential_headers: &["x-goog-api-key", "authorization"],
        credential_query: &["key", "api_key"],
        scheme: Scheme::Google,
        family: Family::Google,
        ..PLAIN
    },
    ProviderSpec {
        slug: "google-vertex-ai",
        layout: Layout::Vertex,
        family: Family::Vertex,
        ..PLAIN
    },
    ProviderSpec {
        slug: "azure-openai",
        layout: Layout::Azure,
        credential_headers: &["api-key", "authorization"],
        credential_query: &["api-key"],
        scheme: Scheme::Header("api-key"),
        family: Family::Azure,
        ..PLAIN
    },
    ProviderSpec {
        slug: "aws-bedrock",
        layout: Layout::Bedrock,
        credential_headers: &["authorization", "x-api-key"],
        scheme: Scheme::Aws,
        family: Family::Bedrock,
        ..PLAIN
    },
    // Answered by the embedded engine; the row is for a `base_url` that points at the real service.
    ProviderSpec {
        slug: "workers-ai",
        layout: Layout::WorkersAi,
        family: Family::WorkersAi,
        ..PLAIN
    },
    ProviderSpec {
        slug: "huggingface",
        host: "api-inference.huggingface.co",
        base_path: "/models",
        family: Family::HuggingFace,
        ..PLAIN
    },
    ProviderSpec {
        slug: "replicate",
        host: "api.replicate.com",
        base_path: "/v1",
        family: Family::Replicate,
        ..PLAIN
    },
    ProviderSpec {
        slug: "groq",
        host: "api.groq.com",
        base_path: "/openai/v1",
        ..PLAIN
    },
    ProviderSpec {
        slug: "mistral",
        host: "api.mistral.ai",
        base_path: "/v1",
        family: Family::Mistral,
        ..PLAIN
    },
    ProviderSpec {
        slug: "cohere",
        host: "api.cohere.ai",
        base_path: "/v1",
        beside_version: &["compatibility"],
        family: Family::Cohere,
        ..PLAIN
    },
    // Serves the same paths with and without `v1`, so the remainder stays as it is.
    ProviderSpec {
        slug: "perplexity-ai",
        aliases: &["perplexity"],
        host: "api.perplexity.ai",
        family: Family::Perplexity,
        ..PLAIN
    },
    // The same here.
    ProviderSpec {
        slug: "deepseek",
        host: "api.deepseek.com",
        credential_headers: &["authorization", "x-api-key"],
        ..PLAIN
    },
    ProviderSpec {
        slug: "grok",
        aliases: &["xai"],
        host: "api.x.ai",
        base_path: "/v1",
        ..PLAIN
    },
    ProviderSpec {
        slug: "cerebras",
        host: "api.cerebras.ai",
        base_path: "/v1",
        ..PLAIN
    },
    ProviderSpec {
        slug: "openrouter",
        host: "openrouter.ai",
        base_path: "/api/v1",
        family: Family::OpenRouter,
        ..PLAIN
    },
    ProviderSpec {
        slug: "fireworks",
        host: "api.fireworks.ai",
        base_path: "/inference/v1",
        ..PLAIN
    },
    ProviderSpec {
        slug: "baseten",
        host: "inference.baseten.co",
        base_path: "/v1",
        layout: Layout::Baseten,
        scheme: Scheme::Authorization("Api-Key"),
        family: Family::Baseten,
        ..PLAIN
    },
    ProviderSpec {
        slug: "parallel",
        host: "api.parallel.ai",
        credential_headers: &["authorization", "x-api-key"],
        scheme: Scheme::Header("x-api-key"),
        family: Family::Unknown,
        ..PLAIN
    },
    ProviderSpec {
        slug: "elevenlabs",
        host: "api.elevenlabs.io",
        realtime_path: "v1/convai/conversation",
        credential_headers: &["xi-api-key", "authorization"],
        credential_query: &["xi-api-key"],
        scheme: Scheme::Header("xi-api-key"),
        family: Family::Elevenlabs,
        ..PLAIN
    },
    ProviderSpec {
        slug: "cartesia",
        host: "api.cartesia.ai",
        realtime_path: "tts/websocket",
        credential_headers: &["authorization", "x-api-key"],
        credential_query: &["api_key"],
        scheme: Scheme::Header("x-api-key"),
        family: Family::Cartesia,
        ..PLAIN
    },
    ProviderSpec {
        slug: "deepgram",
        host: "api.deepgram.com",
        credential_headers: &["authorization", "token"],
        scheme: Scheme::Authorization("Token"),
        family: Family::Deepgram,
        ..PLAIN
    },
    ProviderSpec {
        slug: "fal",
        host: "fal.run",
        layout: Layout::Fal,
        credential_query: &["fal_jwt_token"],
        scheme: Scheme::Authorization("Key"),
        family: Family::Fal,
        ..PLAIN
    },
    ProviderSpec {
        slug: "ideogram",
        host: "api.ideogram.ai",
        credential_headers: &["api-key", "authorization"],
        scheme: Scheme::Header("api-key"),
        family: Family::Ideogram,
        ..PLAIN
    },
];
