//! Every provider of the wire format: the path, query, credential and body its upstream must see.

use serde_json::json;
use tests::{Config, Reply, Request, ScriptedUpstream, TestGateway};

/// Slug, base path of the configured `base_url`, remainder the caller writes, target upstream,
/// header that carries the credential.
type Case = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
);

const CASES: &[Case] = &[
    (
        "openai",
        "/v1",
        "chat/completions",
        "/v1/chat/completions",
        "authorization",
    ),
    (
        "openai",
        "/v1",
        "v1/responses",
        "/v1/responses",
        "authorization",
    ),
    (
        "openai",
        "/v1",
        "images/generations",
        "/v1/images/generations",
        "authorization",
    ),
    (
        "anthropic",
        "",
        "v1/messages?beta=true",
        "/v1/messages?beta=true",
        "x-api-key",
    ),
    (
        "anthropic",
        "",
        "v1/messages",
        "/v1/messages",
        "authorization",
    ),
    (
        "google-ai-studio",
        "",
        "v1beta/models/gemini-2.0-flash:streamGenerateContent?alt=sse",
        "/v1beta/models/gemini-2.0-flash:streamGenerateContent?alt=sse",
        "x-goog-api-key",
    ),
    (
        "google-ai-studio",
        "",
        "v1beta/openai/chat/completions",
        "/v1beta/openai/chat/completions",
        "authorization",
    ),
    (
        "google-vertex-ai",
        "",
        "v1/projects/p/locations/us-east1/publishers/google/models/gemini-2.0-flash:generateContent",
        "/v1/projects/p/locations/us-east1/publishers/google/models/gemini-2.0-flash:generateContent",
        "authorization",
    ),
    (
        "azure-openai",
        "",
        "my-resource/my-deployment/chat/completions?api-version=2024-10-21",
        "/openai/deployments/my-deployment/chat/completions?api-version=2024-10-21",
        "api-key",
    ),
    (
        "aws-bedrock",
        "",
        "bedrock-runtime/us-east-1/model/anthropic.claude-3-haiku-20240307-v1%3A0/converse",
        "/model/anthropic.claude-3-haiku-20240307-v1%3A0/converse",
        "authorization",
    ),
    (
        "aws-bedrock",
        "",
        "bedrock-runtime/eu-west-1/model/anthropic.claude-3-haiku-20240307-v1:0/invoke",
        "/model/anthropic.claude-3-haiku-20240307-v1:0/invoke",
        "authorization",
    ),
    (
        "huggingface",
        "/models",
        "HuggingFaceTB/SmolLM2",
        "/models/HuggingFaceTB/SmolLM2",
        "authorization",
    ),
    (
        "replicate",
        "/v1",
        "predictions",
        "/v1/predictions",
        "authorization",
    ),
    (
        "replicate",
        "/v1",
        "v1/predictions/abc",
        "/v1/predictions/abc",
        "authorization",
    ),
    (
        "groq",
        "/openai/v1",
        "chat/completions",
        "/openai/v1/chat/completions",
        "authorization",
    ),
    (
        "mistral",
        "",
        "v1/chat/completions",
        "/v1/chat/completions",
        "authorization",
    ),
    ("cohere", "/v1", "v1/chat", "/v1/chat", "authorization"),
    ("cohere", "/v1", "v2/chat", "/v2/chat", "authorization"),
    ("cohere", "/v1", "chat", "/v1/chat", "authorization"),
    (
        "perplexity-ai",
        "",
        "chat/completions",
        "/chat/completions",
        "authorization",
    ),
    (
        "deepseek",
        "",
        "chat/completions",
        "/chat/completions",
        "authorization",
    ),
    (
        "deepseek",
        "",
        "v1/chat/completions",
        "/v1/chat/completions",
        "authorization",
    ),
    (
        "grok",
        "",
        "v1/chat/completions",
        "/v1/chat/completions",
        "authorization",
    ),
    (
        "cerebras",
        "/v1",
        "chat/completions",
        "/v1/chat/completions",
        "authorization",
    ),
    (
        "cerebras",
        "/v1",
        "v1/chat/completions",
        "/v1/chat/completions",
        "authorization",
    ),
    (
        "openrouter",
        "/api",
        "v1/chat/completions",
        "/api/v1/chat/completions",
        "authorization",
    ),
    (
        "fireworks",
        "/inference/v1",
        "chat/completions",
        "/inference/v1/chat/completions",
        "authorization",
    ),
    (
        "baseten",
        "",
        "v1/chat/completions",
        "/v1/chat/completions",
        "authorization",
    ),
    (
        "parallel",
        "",
        "v1/tasks/runs",
        "/v1/tasks/runs",
        "x-api-key",
    ),
    (
        "elevenlabs",
        "",
        "v1/text-to-speech/voice?output_format=mp3_44100_128",
        "/v1/text-to-speech/voice?output_format=mp3_44100_128",
        "xi-api-key",
    ),
    ("cartesia", "", "tts/bytes", "/tts/bytes", "x-api-key"),
    (
        "deepgram",
        "",
        "v1/listen?model=nova-2&smart_format=true",
        "/v1/listen?model=nova-2&smart_format=true",
        "authorization",
    ),
    (
        "fal",
        "",
        "fal-ai/flux/dev",
        "/fal-ai/flux/dev",
        "authorization",
    ),
    (
        "ideogram",
        "",
        "v1/ideogram-v3/generate",
        "/v1/ideogram-v3/generate",
        "api-key",
    ),
    (
        "custom-mine",
        "/base/v1",
        "anything/at/all?x=1",
        "/base/v1/anything/at/all?x=1",
        "x-my-key",
    ),
];

/// A gateway with every slug of the table, each at its own base path of one upstream.
async fn all_slugs() -> (TestGateway, ScriptedUpstream) {
    let upstream =
        ScriptedUpstream::replying(Reply::json(200, &json!({"object": "anything"}))).await;
    let mut bases: Vec<(&str, &str)> = CASES
        .iter()
        .map(|(slug, base, ..)| (*slug, *base))
        .collect();
    bases.dedup();
    let config = bases
        .into_iter()
        .fold(Config::new(), |config, (slug, base)| {
            config.provider(slug, &upstream.url(&format!("/at/{slug}{base}")))
        });
    (TestGateway::start(config).await, upstream)
}

#[tokio::test]
async fn each_slug_sends_the_right_path_query_credential_and_body() {
    let (gateway, upstream) = all_slugs().await;
    for (slug, _, rest, target, credential) in CASES {
        upstream.forget_calls();
        let body = json!({"model": "some-model", "from": slug, "rest": rest});
        let request = Request::post(&format!("/v1/default/default/{slug}/{rest}"), &body)
            .header(credential, &format!("secret of {slug}"))
            .header("x-kept", "yes");
        let answer = gateway.send(&request).await;
        assert_eq!(answer.status, 200, "{slug}/{rest}: {}", answer.text());
        let call = upstream.only_call();
        assert_eq!(call.target, format!("/at/{slug}{target}"), "{slug}/{rest}");
        assert_eq!(
            call.header(credential),
            Some(format!("secret of {slug}").as_str()),
            "{slug}/{rest}"
        );
        assert_eq!(
            (call.header("x-kept"), call.method.as_str()),
            (Some("yes"), "POST"),
            "{slug}/{rest}"
        );
        assert_eq!(
            call.header("host"),
            Some(upstream.host().as_str()),
            "{slug}/{rest}"
        );
        assert_eq!(call.body, request.body, "{slug}/{rest}");
        assert_eq!(answer.text(), "{\"object\":\"anything\"}", "{slug}/{rest}");
    }
}

#[tokio::test]
async fn each_slug_is_reached_through_the_universal_endpoint_too() {
    let (gateway, upstream) = all_slugs().await;
    for (slug, _, rest, target, credential) in CASES {
        upstream.forget_calls();
        let entry = json!({"provider": slug, "endpoint": rest, "query": {"model": "some-model"},
            "headers": {(*credential): format!("secret of {slug}")}});
        let answer = gateway
            .send(&Request::post("/v1/default/default", &json!([entry])))
            .await;
        assert_eq!(answer.status, 200, "{slug}/{rest}: {}", answer.text());
        let call = upstream.only_call();
        assert_eq!(call.target, format!("/at/{slug}{target}"), "{slug}/{rest}");
        assert_eq!(
            call.header(credential),
            Some(format!("secret of {slug}").as_str()),
            "{slug}/{rest}"
        );
        assert_eq!(call.body, b"{\"model\":\"some-model\"}", "{slug}/{rest}");
    }
}

#[tokio::test]
async fn each_slugs_row_names_it() {
    let (gateway, _upstream) = all_slugs().await;
    for (slug, _, rest, ..) in CASES {
        let answer = gateway
            .send(&Request::post(
                &format!("/v1/default/default/{slug}/{rest}"),
                &json!({}),
            ))
            .await;
        let row = gateway.rows_of(&answer, 1).await.remove(0);
        assert_eq!(row.text("provider"), *slug, "{rest}");
    }
}

#[tokio::test]
async fn template_values_that_are_no_names_are_refused() {
    let (gateway, upstream) = all_slugs().await;
    for path in [
        "azure-openai/evil.example%2F/dep/chat/completions",
        "azure-openai/a.b/dep/chat/completions",
        "azure-openai/UPPER/dep/chat/completions",
        "azure-openai//dep/chat/completions",
        "aws-bedrock/bedrock-runtime/evil.example%23/model/m/converse",
        "aws-bedrock/bedrock-runtime/us_east_1/model/m/converse",
        "aws-bedrock/s3/us-east-1/bucket/key",
        "google-vertex-ai/v1/projects/p/locations/evil.example%2F/publishers/google/models/m:generateContent",
        "baseten/model/evil.example%2F/predict",
    ] {
        let answer = gateway
            .send(&Request::post(
                &format!("/v1/default/default/{path}"),
                &json!({}),
            ))
            .await;
        assert_eq!(answer.status, 400, "{path}: {}", answer.text());
        assert!(answer.error_code().is_some(), "{path}: {}", answer.text());
    }
    assert_eq!(upstream.call_count(), 0);
}

#[tokio::test]
async fn the_target_header_of_fal_leads_to_fal_only() {
    let (gateway, upstream) = all_slugs().await;
    let to = |target: &str| {
        Request::post("/v1/default/default/fal/ignored", &json!({}))
            .header("x-fal-target-url", target)
    };
    gateway
        .send(&to("https://queue.fal.run/fal-ai/flux/requests/1?logs=1"))
        .await
        .expect_status(200);
    let call = upstream.only_call();
    assert_eq!(call.target, "/at/fal/fal-ai/flux/requests/1?logs=1");
    assert_eq!(call.header("x-fal-target-url"), None);
    upstream.forget_calls();
    for target in [
        "http://queue.fal.run/x",
        "https://evil.example/x",
        "https://fal.run.evil.example/x",
        "https://evilfal.run/x",
        "https://user@fal.run/x",
        "https://fal.run:8443/x",
        "https://fal.run@evil.example/x",
        "https://169.254.169.254/latest",
        "file:///etc/passwd",
        "//fal.run/x",
        "not a url",
    ] {
        let answer = gateway.send(&to(target)).await;
        assert_eq!(answer.status, 400, "{target}: {}", answer.text());
    }
    assert_eq!(upstream.call_count(), 0);
}

#[tokio::test]
async fn what_is_not_served_yet_says_so() {
    let (gateway, _upstream) = all_slugs().await;
    let body = json!({"model": "openai/gpt-4o-mini", "messages": []});
    let answer = gateway
        .send(&Request::post(
            "/v1/default/default/compat/chat/completions",
            &body,
        ))
        .await;
    assert!(
        (400..502).contains(&answer.status) && answer.status != 500,
        "{}",
        answer.status
    );
    assert!(answer.text().contains("compat"), "{}", answer.text());
    assert!(answer.error_code().is_some());
}

/// Keys sent by every road to every provider are upstream's to see, and nobody else's.
#[tokio::test]
async fn no_key_is_found_anywhere_but_upstream() {
    let (gateway, upstream) = all_slugs().await;
    let mut canaries = Vec::new();
    for (index, (slug, _, rest, _, credential)) in CASES.iter().enumerate() {
        let canary = |road: &str| format!("canary-{road}-{index}-{slug}");
        let path = format!("/v1/default/default/{slug}/{rest}");
        let with_query = |name: &str| {
            let sign = if rest.contains('?') { '&' } else { '?' };
            format!("{path}{sign}{name}={}", canary(name))
        };
        let entry = json!({"provider": slug, "endpoint": rest, "query": {}, "headers": {(*credential): canary("entry")}});
        for request in [
            Request::post(&path, &json!({})).header(credential, &canary("header")),
            Request::post(&with_query("key"), &json!({})),
            Request::post(&with_query("api_key"), &json!({})),
            Request::post("/v1/default/default", &json!([entry])),
        ] {
            gateway.send(&request).await.expect_status(200);
        }
        canaries.extend(["header", "key", "api_key", "entry"].map(canary));
    }
    // A failure is where a careless message would quote what it was given.
    let nowhere = Config::new().provider(
        "openai",
        &format!("http://{}/v1", tests::upstream::closed_port()),
    );
    let failing = TestGateway::start(nowhere.set("log", "level = \"debug\"")).await;
    let request = Request::post(
        "/v1/default/default/openai/x?api_key=canary-failed",
        &json!({}),
    );
    let failed = failing
        .send(&request.header("authorization", "Bearer canary-failed"))
        .await
        .expect_status(502);
    failing.rows_of(&failed, 1).await;
    assert!(
        !failed.text().contains("canary-failed") && !failing.stderr().contains("canary-failed")
    );

    let rows = gateway.rows("default", "default", canaries.len()).await;
    let seen_upstream = format!("{:?}", upstream.calls());
    let mut places = vec![
        ("rows".to_owned(), format!("{rows:?}").into_bytes()),
        ("stderr".to_owned(), gateway.stderr().into_bytes()),
        ("metrics".to_owned(), gateway.admin("/metrics").await.body),
        ("readiness".to_owned(), gateway.admin("/readyz").await.body),
    ];
    for folder in [gateway.folder(), failing.folder()] {
        places.extend(files_below(folder).into_iter().map(|path| {
            (
                path.display().to_string(),
                std::fs::read(path).unwrap_or_default(),
            )
        }));
    }
    for canary in &canaries {
        assert!(
            seen_upstream.contains(canary.as_str()),
            "{canary} did not arrive"
        );
    }
    for (name, bytes) in &places {
        let found = tests::http::find(bytes, b"canary-");
        let shown = found
            .map(|at| String::from_utf8_lossy(&bytes[at..(at + 60).min(bytes.len())]).into_owned());
        assert!(shown.is_none(), "{name} holds {shown:?}");
    }
}

fn files_below(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder)
        .expect("a readable folder")
        .flatten()
        .map(|entry| entry.path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                files_below(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}
