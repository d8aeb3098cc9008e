use super::*;
use crate::registry::{all, custom, find};

fn url_of(upstream: &Upstream) -> String {
    let scheme = if upstream.tls { "https" } else { "http" };
    format!(
        "{scheme}://{}{}",
        upstream.authority(),
        upstream.path_and_query
    )
}

fn reach(slug: &str, rest: &str) -> Result<String, PathError> {
    reach_at(slug, rest, None)
}

fn reach_at(slug: &str, rest: &str, base_url: Option<&str>) -> Result<String, PathError> {
    let spec = find(slug).unwrap_or_else(custom);
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    upstream(spec, path, query, base_url, &|_| None).map(|upstream| url_of(&upstream))
}

fn fal(target: &str, base_url: Option<&str>) -> Result<String, PathError> {
    let spec = find("fal").expect("fal is in the table");
    upstream(spec, "", None, base_url, &|name| {
        (name == "x-fal-target-url").then(|| target.to_owned())
    })
    .map(|upstream| url_of(&upstream))
}

/// One line per slug and spelling; both spellings of a version must give the same URL.
#[rustfmt::skip]
const URLS: &[(&str, &str, &str)] = &[
    ("openai", "chat/completions", "https://api.openai.com/v1/chat/completions"),
    ("openai", "v1/chat/completions", "https://api.openai.com/v1/chat/completions"),
    ("openai", "v1/responses/resp_1?stream=true&starting_after=4", "https://api.openai.com/v1/responses/resp_1?stream=true&starting_after=4"),
    ("openai", "?model=gpt-realtime", "https://api.openai.com/v1/realtime?model=gpt-realtime"),
    ("anthropic", "v1/messages?beta=true", "https://api.anthropic.com/v1/messages?beta=true"),
    ("google-ai-studio", "v1beta/models/gemini-x:streamGenerateContent?alt=sse", "https://generativelanguage.googleapis.com/v1beta/models/gemini-x:streamGenerateContent?alt=sse"),
    ("google-ai-studio", "v1/models/gemini-x:generateContent", "https://generativelanguage.googleapis.com/v1/models/gemini-x:generateContent"),
    ("google", "v1beta/openai/chat/completions", "https://generativelanguage.googleapis.com/v1beta/openai/chat/completions"),
    ("google", "?api_key=K&a=b", "https://generativelanguage.googleapis.com/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent?key=K&a=b"),
    ("google-vertex-ai", "v1/projects/p/locations/us-central1/publishers/google/models/m:generateContent", "https://us-central1-aiplatform.googleapis.com/v1/projects/p/locations/us-central1/publishers/google/models/m:generateContent"),
    ("google-vertex-ai", "v1/projects/p/locations/global/publishers/google/models/m:generateContent", "https://aiplatform.googleapis.com/v1/projects/p/locations/global/publishers/google/models/m:generateContent"),
    ("google-vertex-ai", "v1/publishers/google/models/m:generateContent", "https://aiplatform.googleapis.com/v1/publishers/google/models/m:generateContent"),
    ("azure-openai", "res/dep/chat/completions?api-version=2024-10-21", "https://res.openai.azure.com/openai/deployments/dep/chat/completions?api-version=2024-10-21"),
    ("azure-openai", "res/my%20dep.1/embeddings", "https://res.openai.azure.com/openai/deployments/my%20dep.1/embeddings"),
    ("azure-openai", "res/openai/v1/responses", "https://res.openai.azure.com/openai/v1/responses"),
    ("azure-openai", "res/openai/deployments/dep/chat/completions", "https://res.openai.azure.com/openai/deployments/dep/chat/completions"),
    ("azure-openai", "res/openai/chat/completions", "https://res.openai.azure.com/openai/deployments/openai/chat/completions"),
    ("aws-bedrock", "bedrock-runtime/us-east-1/model/anthropic.claude-v1%3A0/converse-stream", "https://bedrock-runtime.us-east-1.amazonaws.com/model/anthropic.claude-v1%3A0/converse-stream"),
    ("aws-bedrock", "bedrock-runtime/us-east-1/model/anthropic.claude-v1:0/invoke", "https://bedrock-runtime.us-east-1.amazonaws.com/model/anthropic.claude-v1:0/invoke"),
    ("aws-bedrock", "bedrock-runtime/eu-west-1/model/arn%3Aaws%3Abedrock%3Aeu-west-1%3A1%3Ainference-profile%2Fx/converse", "https://bedrock-runtime.eu-west-1.amazonaws.com/model/arn%3Aaws%3Abedrock%3Aeu-west-1%3A1%3Ainference-profile%2Fx/converse"),
    ("aws-bedrock", "bedrock-mantle/us-east-1/anthropic/v1/messages", "https://bedrock-mantle.us-east-1.api.aws/anthropic/v1/messages"),
    ("aws-bedrock", "bedrock-agent-runtime/us-west-2/rerank", "https://bedrock-agent-runtime.us-west-2.amazonaws.com/rerank"),
    ("huggingface", "bigcode/starcoder", "https://api-inference.huggingface.co/models/bigcode/starcoder"),
    ("huggingface", "models/bigcode/starcoder", "https://api-inference.huggingface.co/models/bigcode/starcoder"),
    ("replicate", "predictions", "https://api.replicate.com/v1/predictions"),
    ("replicate", "v1/predictions", "https://api.replicate.com/v1/predictions"),
    ("groq", "chat/completions", "https://api.groq.com/openai/v1/chat/completions"),
    ("groq", "v1/chat/completions", "https://api.groq.com/openai/v1/chat/completions"),
    ("groq", "openai/v1/chat/completions", "https://api.groq.com/openai/v1/chat/completions"),
    ("mistral", "v1/chat/completions", "https://api.mistral.ai/v1/chat/completions"),
    ("mistral", "chat/completions", "https://api.mistral.ai/v1/chat/completions"),
    ("cohere", "v1/chat", "https://api.cohere.ai/v1/chat"),
    ("cohere", "v2/chat", "https://api.cohere.ai/v2/chat"),
    ("cohere", "chat", "https://api.cohere.ai/v1/chat"),
    ("cohere", "compatibility/v1/chat/completions", "https://api.cohere.ai/compatibility/v1/chat/completions"),
    ("perplexity-ai", "chat/completions", "https://api.perplexity.ai/chat/completions"),
    ("perplexity", "v1/sonar", "https://api.perplexity.ai/v1/sonar"),
    ("deepseek", "chat/completions", "https://api.deepseek.com/chat/completions"),
    ("deepseek", "v1/chat/completions", "https://api.deepseek.com/v1/chat/completions"),
    ("deepseek", "anthropic/v1/messages", "https://api.deepseek.com/anthropic/v1/messages"),
    ("grok", "v1/chat/completions", "https://api.x.ai/v1/chat/completions"),
    ("xai", "chat/completions", "https://api.x.ai/v1/chat/completions"),
    ("cerebras", "chat/completions", "https://api.cerebras.ai/v1/chat/completions"),
    ("cerebras", "v1/chat/completions", "https://api.cerebras.ai/v1/chat/completions"),
    ("openrouter", "chat/completions", "https://openrouter.ai/api/v1/chat/completions"),
    ("openrouter", "v1/chat/completions", "https://openrouter.ai/api/v1/chat/completions"),
    ("openrouter", "api/v1/models", "https://openrouter.ai/api/v1/models"),
    ("fireworks", "chat/completions", "https://api.fireworks.ai/inference/v1/chat/completions"),
    ("fireworks", "inference/v1/chat/completions", "https://api.fireworks.ai/inference/v1/chat/completions"),
    ("baseten", "v1/chat/completions", "https://inference.baseten.co/v1/chat/completions"),
    ("baseten", "model/abc123", "https://model-abc123.api.baseten.co/production/predict"),
    ("baseten", "model/abc123/development/predict", "https://model-abc123.api.baseten.co/development/predict"),
    ("parallel", "v1beta/search", "https://api.parallel.ai/v1beta/search"),
    ("elevenlabs", "v1/text-to-speech/voice?output_format=mp3", "https://api.elevenlabs.io/v1/text-to-speech/voice?output_format=mp3"),
    ("elevenlabs", "?agent_id=a", "https://api.elevenlabs.io/v1/convai/conversation?agent_id=a"),
    ("cartesia", "tts/bytes", "https://api.cartesia.ai/tts/bytes"),
    ("cartesia", "?cartesia_version=2024-06-10", "https://api.cartesia.ai/tts/websocket?cartesia_version=2024-06-10"),
    ("deepgram", "v1/listen?model=nova-3", "https://api.deepgram.com/v1/listen?model=nova-3"),
    ("fal", "fal-ai/flux/dev", "https://fal.run/fal-ai/flux/dev"),
    ("ideogram", "v1/ideogram-v3/generate", "https://api.ideogram.ai/v1/ideogram-v3/generate"),
    ("ideogram", "generate", "https://api.ideogram.ai/generate"),
];

#[test]
fn every_slug_reaches_its_provider_in_both_spellings() {
    for (slug, rest, expected) in URLS {
        assert_eq!(reach(slug, rest).as_deref(), Ok(*expected), "{slug} {rest}");
    }
    for spec in all() {
        let is_shown = URLS.iter().any(|(slug, _, _)| *slug == spec.slug);
        assert!(
            is_shown || spec.slug == "workers-ai",
            "{} has no line in the table",
            spec.slug
        );
    }
}

#[test]
fn a_base_url_replaces_scheme_host_and_base_path() {
    #[rustfmt::skip]
    let cases: &[(&str, &str, &str, &str)] = &[
        ("openai", "chat/completions", "http://127.0.0.1:9000/v1", "http://127.0.0.1:9000/v1/chat/completions"),
        ("openai", "v1/chat/completions", "http://127.0.0.1:9000/v1", "http://127.0.0.1:9000/v1/chat/completions"),
        ("openai", "v1/chat/completions", "http://127.0.0.1:9000", "http://127.0.0.1:9000/v1/chat/completions"),
        ("openai", "chat/completions", "http://127.0.0.1:9000/", "http://127.0.0.1:9000/chat/completions"),
        ("openai", "?model=m", "http://h/v1", "http://h/v1/realtime?model=m"),
        ("groq", "openai/v1/models", "https://proxy.example/groq/v1/", "https://proxy.example/groq/v1/models"),
        ("cohere", "v2/chat", "http://h/v1", "http://h/v2/chat"),
        ("huggingface", "models/a/b", "http://h/hf-inference/models", "http://h/hf-inference/models/a/b"),
        ("azure-openai", "res/dep/chat/completions?api-version=1", "http://127.0.0.1:9000", "http://127.0.0.1:9000/openai/deployments/dep/chat/completions?api-version=1"),
        ("aws-bedrock", "bedrock-runtime/us-east-1/model/a%3A0/converse", "http://127.0.0.1:9000", "http://127.0.0.1:9000/model/a%3A0/converse"),
        ("google-vertex-ai", "v1/projects/p/locations/eu/x", "http://127.0.0.1:9000/v1", "http://127.0.0.1:9000/v1/projects/p/locations/eu/x"),
        ("baseten", "model/abc", "http://127.0.0.1:9000", "http://127.0.0.1:9000/production/predict"),
        ("baseten", "chat/completions", "http://127.0.0.1:9000/v1", "http://127.0.0.1:9000/v1/chat/completions"),
        ("workers-ai", "@cf/meta/llama", "https://h/accounts/a/ai/run", "https://h/accounts/a/ai/run/@cf/meta/llama"),
        ("workers-ai", "run/@cf/meta/llama", "https://h/accounts/a/ai/run", "https://h/accounts/a/ai/run/@cf/meta/llama"),
        ("workers-ai", "v1/chat/completions", "https://h/accounts/a/ai", "https://h/accounts/a/ai/v1/chat/completions"),
        ("custom-mine", "v1/chat/completions?x=1", "https://Mine.example/api/v1", "https://mine.example/api/v1/chat/completions?x=1"),
        ("custom-mine", "", "https://mine.example/hook", "https://mine.example/hook"),
        ("custom-mine", "", "https://mine.example", "https://mine.example/"),
        ("custom-mine", "a/", "http://[::1]:8080", "http://[::1]:8080/a/"),
    ];
    for (slug, rest, base_url, expected) in cases {
        assert_eq!(
            reach_at(slug, rest, Some(base_url)).as_deref(),
            Ok(*expected),
            "{slug} {rest} {base_url}"
        );
    }
    assert_eq!(
        reach("custom-mine", "x"),
        Err(PathError::NoBaseUrl("custom"))
    );
    assert_eq!(
        reach("workers-ai", "@cf/a/b"),
        Err(PathError::NoBaseUrl("workers-ai"))
    );
}

#[test]
fn bad_base_urls_say_why_and_keep_secrets() {
    for url in [
        "mine.example",
        "ftp://h",
        "http://",
        "http://h:x",
        "http://h:0",
        "http://h:99999",
        "http://a b/",
        "http://[::g]/",
        "http://h/?q=1",
    ] {
        assert!(
            matches!(
                reach_at("openai", "x", Some(url)),
                Err(PathError::BaseUrl { .. })
            ),
            "{url}"
        );
    }
    let error = reach_at("openai", "x", Some("https://user:secret@h/"))
        .expect_err("user names are refused");
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[test]
fn path_tricks_are_refused() {
    for rest in [
        "../x",
        "a/../b",
        "a/%2e%2e/b",
        "a/%2E%2e",
        "a%2f%2e%2e%2fb",
        "a/%2e%2e%5cb",
        "v1/.%2e/x",
        "..",
        "%2e%2e",
    ] {
        assert_eq!(reach("openai", rest), Err(PathError::StepsUp), "{rest}");
    }
    assert_eq!(reach("openai", "a//b"), Err(PathError::EmptySegment));
    assert_eq!(reach("openai", "/a"), Err(PathError::EmptySegment));
    for rest in [
        "a b",
        "a\r\nHost: x",
        "a\tb",
        "a#b",
        "a\\b",
        "a?q=x y",
        "a?q=\n",
    ] {
        assert!(
            matches!(reach("openai", rest), Err(PathError::BadCharacter(_))),
            "{rest:?}"
        );
    }
    // Dots that do not step upwards are just names, and encoded slashes stay encoded.
    assert!(reach("openai", "files/..a").is_ok());
    assert!(reach("openai", "files/a..").is_ok());
    assert_eq!(
        reach("huggingface", "a%2Fb").as_deref(),
        Ok("https://api-inference.huggingface.co/models/a%2Fb")
    );
}

#[test]
fn template_values_are_single_labels() {
    for rest in [
        "evil.com%2f/dep/x",
        "evil.com/dep/x",
        "RES/dep/x",
        "%2e/dep/x",
        "/dep/x",
        "a_b/dep/x",
        "é/d/x",
    ] {
        assert!(reach("azure-openai", rest).is_err(), "{rest}");
    }
    let long = format!("{}/dep/x", "a".repeat(64));
    assert!(matches!(
        reach("azure-openai", &long),
        Err(PathError::Template { .. })
    ));
    assert!(
        reach(
            "aws-bedrock",
            "bedrock-runtime/us-east-1.evil/model/m/invoke"
        )
        .is_err()
    );
    assert!(matches!(
        reach("aws-bedrock", "s3/us-east-1/x"),
        Err(PathError::BedrockService(_))
    ));
    assert!(matches!(
        reach("aws-bedrock", "model/m/invoke"),
        Err(PathError::BedrockService(_) | PathError::Shape { .. })
    ));
    assert!(reach("google-vertex-ai", "v1/projects/p/locations/evil.com%23/x").is_err());
    assert!(reach("baseten", "model/a.b").is_err());
    assert!(reach("azure-openai", "res").is_err());
    assert!(reach("azure-openai", "res/dep").is_err());
    assert!(reach("azure-openai", "res/dep/").is_err());
}

#[test]
fn fal_targets_stay_with_fal() {
    assert_eq!(
        fal("https://queue.fal.run/fal-ai/flux?x=1", None).as_deref(),
        Ok("https://queue.fal.run/fal-ai/flux?x=1")
    );
    assert_eq!(
        fal("https://QUEUE.fal.run:443/a", None).as_deref(),
        Ok("https://queue.fal.run/a")
    );
    assert_eq!(
        fal("https://queue.fal.run/a/b", Some("http://127.0.0.1:9000")).as_deref(),
        Ok("http://127.0.0.1:9000/a/b")
    );
    for target in [
        "http://fal.run/x",
        "https://fal.run.evil.com/x",
        "https://evil.com/fal.run",
        "https://evil.com#fal.run/",
        "https://fal.run@evil.com/",
        "https://fal.run:8443/",
        "https://x.fal.run/",
        "https:/fal.run/",
        "https://127.0.0.1/",
        "",
    ] {
        assert!(
            matches!(fal(target, None), Err(PathError::FalTarget(_))),
            "{target}"
        );
    }
    assert_eq!(fal("https://fal.run/a/../b", None), Err(PathError::StepsUp));
    assert!(fal("https://fal.run/a b", None).is_err());
    assert!(fal("https://fal.run/a#b", None).is_err());
}

#[test]
fn bedrock_carries_what_a_signature_needs() {
    let spec = find("aws-bedrock").expect("in the table");
    let scope = |rest: &str| {
        upstream(spec, rest, None, Some("http://127.0.0.1:1"), &|_| None)
            .expect("a good path")
            .aws
    };
    assert_eq!(
        scope("bedrock-runtime/eu-central-1/model/m/converse"),
        Some(AwsScope {
            service: "bedrock",
            region: "eu-central-1".to_owned()
        })
    );
    assert_eq!(
        scope("bedrock-mantle/us-east-1/v1/models").map(|aws| aws.service),
        Some("bedrock-mantle")
    );
}
