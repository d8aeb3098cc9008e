//! The Anthropic packages against a scripted Anthropic.

use super::{Language, Report, asked_status, calls_for, impatient, run::run, stream};
use serde_json::json;
use std::time::Duration;
use tests::sse::message_stream;
use tests::{Call, Reply, ScriptedUpstream, TestGateway};

const WORDS: [&str; 3] = ["one", " two", " three"];
const BROKE_OFF: &str = "the answer of provider `anthropic` broke off";

fn answer(call: &Call) -> Reply {
    let body = call.json();
    let model = body["model"].as_str().expect("a model");
    if body["stream"] == true {
        return stream(model, message_stream(&WORDS), 5);
    }
    let asked = match asked_status(model) {
        None if model == "busy-once" && call.header("x-stainless-retry-count") == Some("0") => {
            Some(429)
        }
        asked => asked,
    };
    let Some(status) = asked else {
        return Reply::json(
            200,
            &json!({"id": "msg_1", "type": "message", "role": "assistant", "model": model,
                    "content": [{"type": "text", "text": "one two three"}], "stop_reason": "end_turn", "stop_sequence": null,
                    "usage": {"input_tokens": 25, "output_tokens": 15}}),
        );
    };
    let kind = match status {
        400 => "invalid_request_error",
        401 => "authentication_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        _ => "api_error",
    };
    let error = json!({"type": "error", "error": {"type": kind, "message": format!("the provider said {status}")},
                       "request_id": "req_1"});
    let reply = Reply::json(status, &error);
    if status == 429 {
        return reply.header("retry-after", "1");
    }
    reply
}

async fn anthropic(language: Language) {
    let upstream = ScriptedUpstream::replying(Reply::from_call(answer)).await;
    let config = impatient().provider("anthropic", &upstream.url(""));
    let gateway = TestGateway::start(config).await;
    let base = format!("http://{}/v1/default/default/anthropic", gateway.server);
    let Some(report) = run(language, "anthropic_calls", &[base]).await else {
        return;
    };
    let said = json!({"text": "one two three", "finish": "end_turn", "tokens": 15});
    report.saw("message", said.clone());
    report.saw("waits_as_told", said);
    let pieces = json!({"pieces": ["one", " two", " three", "15 tokens"]});
    report.saw("stream", pieces.clone());
    report.saw("helper", pieces);
    check_errors(&report, language);
    check_cuts(&report);
    let calls = upstream.calls();
    for call in &calls {
        assert_eq!(call.target, "/v1/messages");
        // The clients of today send the key as a bearer, those before them under a name of its own.
        let key = call
            .header("authorization")
            .and_then(|value| value.strip_prefix("Bearer "));
        assert_eq!(key.or(call.header("x-api-key")), Some("sk-of-the-caller"));
        assert!(call.header("anthropic-version").is_some());
    }
    let tries = calls_for(&calls, "busy-once");
    assert_eq!(tries.len(), 2, "{tries:#?}");
    let waited = tries[1].at - tries[0].at;
    assert!(
        waited >= Duration::from_secs(1),
        "Retry-After of 1 s, and {waited:?} waited"
    );
}

fn check_errors(report: &Report, language: Language) {
    // The Node client has no class of its own for an overloaded provider.
    let overloaded = match language {
        Language::Python => "OverloadedError",
        Language::Node => "InternalServerError",
    };
    for (status, class) in [
        (400, "BadRequestError"),
        (401, "AuthenticationError"),
        (404, "NotFoundError"),
        (429, "RateLimitError"),
        (500, "InternalServerError"),
        (529, overloaded),
    ] {
        let words = format!("the provider said {status}");
        report.refused(&format!("status_{status}"), status, class, &words);
    }
}

/// Half an event does no harm here: its last name makes it the error.
fn check_cuts(report: &Report) {
    for form in ["stream", "helper"] {
        for fault in ["cut", "stall", "cut-mid-event"] {
            report.raised_after(
                &WORDS[..2],
                &format!("{form}_{fault}"),
                "APIError",
                BROKE_OFF,
            );
        }
    }
}

#[tokio::test]
async fn the_python_client_of_anthropic_notices_only_the_base_url() {
    anthropic(Language::Python).await;
}

#[tokio::test]
async fn the_node_client_of_anthropic_notices_only_the_base_url() {
    anthropic(Language::Node).await;
}
