//! The Google GenAI packages against a scripted Gemini API.

use super::{Language, Report, asked_status, impatient, run::run, stream};
use serde_json::{Value, json};
use tests::sse::data;
use tests::{Call, Reply, ScriptedUpstream, TestGateway};

const WORDS: [&str; 3] = ["one", " two", " three"];
const BROKE_OFF: &str = "the answer of provider `google-ai-studio` broke off";

fn answer(call: &Call) -> Reply {
    // The Python client of today asks for `v1`, the Node client for `v1beta`.
    let path = call
        .target
        .strip_prefix("/v1/models/")
        .or(call.target.strip_prefix("/v1beta/models/"));
    let rest = path.unwrap_or_default();
    let Some((model, method)) = rest.split_once(':') else {
        return Reply::empty(404);
    };
    if method == "streamGenerateContent?alt=sse" {
        return stream(model, events(), 2);
    }
    match asked_status(model) {
        Some(status) => {
            let kind = match status {
                400 => "INVALID_ARGUMENT",
                404 => "NOT_FOUND",
                429 => "RESOURCE_EXHAUSTED",
                _ => "UNAVAILABLE",
            };
            let error = json!({"code": status, "message": format!("the provider said {status}"), "status": kind});
            Reply::json(status, &json!({"error": error}))
        }
        None => Reply::json(200, &content("one two three", Some("STOP"), 3)),
    }
}

fn content(text: &str, finish: Option<&str>, tokens: u64) -> Value {
    let mut candidate =
        json!({"index": 0, "content": {"role": "model", "parts": [{"text": text}]}});
    if let Some(finish) = finish {
        candidate["finishReason"] = json!(finish);
    }
    json!({
        "candidates": [candidate], "modelVersion": "gemini-2.5-flash", "responseId": "response-1",
        "usageMetadata": {"promptTokenCount": 11, "candidatesTokenCount": tokens, "totalTokenCount": 11 + tokens},
    })
}

fn events() -> Vec<Vec<u8>> {
    let finish = [None, None, Some("STOP")];
    let parts = WORDS.iter().zip(finish).zip(1..);
    parts
        .map(|((word, finish), tokens)| data(&content(word, finish, tokens)))
        .collect()
}

async fn google(language: Language) {
    let upstream = ScriptedUpstream::replying(Reply::from_call(answer)).await;
    let config = impatient().provider("google-ai-studio", &upstream.url(""));
    let gateway = TestGateway::start(config).await;
    let base = format!(
        "http://{}/v1/default/default/google-ai-studio",
        gateway.server
    );
    let Some(report) = run(language, "google_calls", &[base]).await else {
        return;
    };
    let said = json!({"text": "one two three", "finish": "STOP", "tokens": 14});
    report.saw("generate", said);
    report.saw(
        "stream",
        json!({"pieces": ["one", " two", " three", "14 tokens"]}),
    );
    check_errors(&report, language);
    check_cuts(&report, language);
    for call in upstream.calls() {
        assert_eq!(call.header("x-goog-api-key"), Some("key-of-the-caller"));
    }
}

fn check_errors(report: &Report, language: Language) {
    for (status, class) in [
        (400, "ClientError"),
        (404, "ClientError"),
        (429, "ClientError"),
        (503, "ServerError"),
    ] {
        let class = match language {
            Language::Python => class,
            Language::Node => "ApiError",
        };
        let words = format!("the provider said {status}");
        report.refused(&format!("status_{status}"), status, class, &words);
    }
}

fn check_cuts(report: &Report, language: Language) {
    let (class, broken_json) = match language {
        Language::Python => ("ServerError", "UnknownApiResponseError"),
        Language::Node => ("ApiError", "SyntaxError"),
    };
    for fault in ["cut", "stall"] {
        report.raised_after(&WORDS[..2], &format!("stream_{fault}"), class, BROKE_OFF);
    }
    report.raised_after(&WORDS[..2], "stream_cut-mid-event", broken_json, "");
}

#[tokio::test]
async fn the_python_client_of_google_notices_only_the_base_url() {
    google(Language::Python).await;
}

#[tokio::test]
async fn the_node_client_of_google_notices_only_the_base_url() {
    google(Language::Node).await;
}
