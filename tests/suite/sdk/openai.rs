//! The `openai` packages against a scripted OpenAI.

use super::{Language, Report, asked_status, calls_for, impatient, run::run, stream};
use serde_json::{Value, json};
use std::time::Duration;
use tests::http::find;
use tests::shapes::{chat_answer, openai_error};
use tests::sse::{chat_stream, named};
use tests::{Call, Reply, ScriptedUpstream, TestGateway, upstream::closed_port};

const WORDS: [&str; 3] = ["one", " two", " three"];
const BROKE_OFF: &str = "the answer of provider `openai` broke off";

/// 0.25, -0.5 and 1.5 as four bytes each, lowest first.
const VECTOR: &str = "AACAPgAAAL8AAMA/";

/// The file that the programs upload.
fn file() -> Vec<u8> {
    (0..=255).cycle().take(256 * 1200).collect()
}

fn answer(call: &Call) -> Reply {
    let target = call.target.as_str();
    match (call.method.as_str(), target) {
        ("GET", "/v1/files/file-1/content") => {
            return Reply::bytes(200, "application/octet-stream", file());
        }
        ("POST", "/v1/files") => {
            return Reply::json(
                200,
                &json!({"id": "file-1", "object": "file", "bytes": 256 * 1200, "created_at": 1_700_000_000,
                        "filename": "calls.jsonl", "purpose": "batch", "status": "processed"}),
            );
        }
        _ => {}
    }
    let body = call.json();
    let model = body["model"]
        .as_str()
        .expect("every other call names a model");
    let is_streamed = body["stream"] == true;
    match target {
        "/v1/chat/completions" if is_streamed => stream(model, chat_stream(&WORDS), 3),
        "/v1/chat/completions" => chat(call, model),
        "/v1/responses" if is_streamed => stream(model, responses_stream(), 6),
        "/v1/responses" => Reply::json(200, &response("completed", true)),
        "/v1/embeddings" => {
            let vector = match body["encoding_format"].as_str() {
                Some("base64") => json!(VECTOR),
                _ => json!([0.25, -0.5, 1.5]),
            };
            Reply::json(
                200,
                &json!({"object": "list", "model": model, "data": [{"object": "embedding", "index": 0, "embedding": vector}],
                        "usage": {"prompt_tokens": 2, "total_tokens": 2}}),
            )
        }
        _ => Reply::empty(405),
    }
}

fn chat(call: &Call, model: &str) -> Reply {
    let busy = || {
        let error = openai_error("requests", "rate_limit_exceeded", "slow down");
        Reply::json(429, &error).header("retry-after", "1")
    };
    let error = |status, kind, code| {
        let error = openai_error(kind, code, &format!("the provider said {status}"));
        Reply::json(status, &error)
    };
    match asked_status(model) {
        Some(status @ 400) => error(status, "invalid_request_error", "context_length_exceeded"),
        Some(status @ 401) => error(status, "invalid_request_error", "invalid_api_key"),
        Some(status @ 404) => error(status, "invalid_request_error", "model_not_found"),
        Some(429) => busy(),
        Some(status) => error(status, "server_error", "server_error"),
        None if model == "busy-once" && call.header("x-stainless-retry-count") == Some("0") => {
            busy()
        }
        None => Reply::json(200, &chat_answer(model, "one two three", 11, 3)),
    }
}

/// A response of the Responses API, before and after its work.
pub fn response(status: &str, is_done: bool) -> Value {
    let part = json!({"type": "output_text", "text": "one two three", "annotations": []});
    let item = json!({"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [part]});
    let usage = json!({"input_tokens": 11, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 3,
                       "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 14});
    json!({
        "id": "resp_1", "object": "response", "created_at": 1_700_000_000, "status": status, "model": "gpt-4o-mini",
        "error": null, "incomplete_details": null, "instructions": null, "metadata": {}, "parallel_tool_calls": true,
        "temperature": 1.0, "top_p": 1.0, "tool_choice": "auto", "tools": [],
        "output": if is_done { json!([item]) } else { json!([]) },
        "usage": if is_done { usage } else { Value::Null },
    })
}

fn responses_stream() -> Vec<Vec<u8>> {
    let place = json!({"item_id": "msg_1", "output_index": 0, "content_index": 0});
    let text = |text: &str| json!({"type": "output_text", "text": text, "annotations": []});
    let item = |status: &str, content: Value| json!({"type": "message", "id": "msg_1", "status": status, "role": "assistant", "content": content});
    let at_place = |more: Value| {
        let mut event = place.clone();
        let fields = event.as_object_mut().expect("an object");
        fields.extend(more.as_object().expect("an object").clone());
        event
    };
    let mut events = vec![
        json!({"type": "response.created", "response": response("in_progress", false)}),
        json!({"type": "response.in_progress", "response": response("in_progress", false)}),
        json!({"type": "response.output_item.added", "output_index": 0, "item": item("in_progress", json!([]))}),
        at_place(json!({"type": "response.content_part.added", "part": text("")})),
    ];
    events.extend(WORDS.iter().map(|word| {
        at_place(json!({"type": "response.output_text.delta", "delta": word, "logprobs": []}))
    }));
    events.extend([
        at_place(json!({"type": "response.output_text.done", "text": "one two three", "logprobs": []})),
        at_place(json!({"type": "response.content_part.done", "part": text("one two three")})),
        json!({"type": "response.output_item.done", "output_index": 0, "item": item("completed", json!([text("one two three")]))}),
        json!({"type": "response.completed", "response": response("completed", true)}),
    ]);
    for (number, event) in events.iter_mut().enumerate() {
        event["sequence_number"] = json!(number);
    }
    events.iter().map(named).collect()
}

async fn openai(language: Language) {
    let upstream = ScriptedUpstream::replying(Reply::from_call(answer)).await;
    let config = impatient()
        .provider("openai", &upstream.url("/v1"))
        .provider("groq", &format!("http://{}/v1", closed_port()));
    let gateway = TestGateway::start(config).await;
    let Some(report) = report(language, &gateway).await else {
        return;
    };
    check_answers(&report);
    check_errors(&report);
    check_cuts(&report, language);
    check_calls(&upstream.calls());
}

async fn report(language: Language, gateway: &TestGateway) -> Option<Report> {
    let base = format!("http://{}/v1/default/default/openai", gateway.server);
    let down = format!("http://{}/v1/default/default/groq", gateway.server);
    run(language, "openai_calls", &[base, down]).await
}

fn check_answers(report: &Report) {
    let said = json!({"text": "one two three", "finish": "stop", "tokens": 14});
    report.saw("chat", said.clone());
    report.saw("waits_as_told", said);
    let pieces = json!({"pieces": ["one", " two", " three", "14 tokens"]});
    report.saw("chat_stream", pieces.clone());
    report.saw("responses_stream", pieces);
    report.saw(
        "responses",
        json!({"text": "one two three", "status": "completed", "tokens": 14}),
    );
    let vector = json!({"vector": [0.25, -0.5, 1.5], "tokens": 2});
    report.saw("embeddings", vector.clone());
    report.saw("embeddings_as_numbers", vector);
    report.saw(
        "upload",
        json!({"id": "file-1", "name": "calls.jsonl", "bytes": 256 * 1200}),
    );
    report.saw("download", json!({"same": true}));
}

fn check_errors(report: &Report) {
    for (status, class, words) in [
        (400, "BadRequestError", "the provider said 400"),
        (401, "AuthenticationError", "the provider said 401"),
        (404, "NotFoundError", "the provider said 404"),
        (429, "RateLimitError", "slow down"),
        (500, "InternalServerError", "the provider said 500"),
    ] {
        report.refused(&format!("status_{status}"), status, class, words);
    }
    report.refused("provider_down", 502, "InternalServerError", "");
}

/// Whatever broke, the client raises; it says our words unless it chokes on half an event first.
fn check_cuts(report: &Report, language: Language) {
    let broken_json = match language {
        Language::Python => "JSONDecodeError",
        Language::Node => "SyntaxError",
    };
    for (api, pieces) in [("chat", &WORDS[..2]), ("responses", &WORDS[..2])] {
        for fault in ["cut", "stall"] {
            report.raised_after(pieces, &format!("{api}_{fault}"), "APIError", BROKE_OFF);
        }
        report.raised_after(pieces, &format!("{api}_cut-mid-event"), broken_json, "");
    }
}

/// What the provider saw of it.
fn check_calls(calls: &[Call]) {
    for call in calls {
        assert_eq!(
            call.header("authorization"),
            Some("Bearer sk-of-the-caller")
        );
    }
    let tries = calls_for(calls, "busy-once");
    assert_eq!(tries.len(), 2, "{tries:#?}");
    let waited = tries[1].at - tries[0].at;
    assert!(
        waited >= Duration::from_secs(1),
        "Retry-After of 1 s, and {waited:?} waited"
    );
    let formats: Vec<_> = calls_for(calls, "text-embedding-3-small")
        .iter()
        .map(|call| call.json()["encoding_format"].clone())
        .collect();
    assert_eq!(
        formats,
        ["base64", "float"],
        "the clients ask for base64 by themselves"
    );
    let uploads: Vec<&Call> = calls
        .iter()
        .filter(|call| call.target == "/v1/files")
        .collect();
    assert_eq!(uploads.len(), 1);
    let content_type = uploads[0].header("content-type").unwrap_or_default();
    assert!(
        content_type.starts_with("multipart/form-data; boundary="),
        "{content_type}"
    );
    assert!(
        find(&uploads[0].body, &file()).is_some(),
        "the file arrived otherwise"
    );
}

#[tokio::test]
async fn the_python_client_of_openai_notices_only_the_base_url() {
    openai(Language::Python).await;
}

#[tokio::test]
async fn the_node_client_of_openai_notices_only_the_base_url() {
    openai(Language::Node).await;
}
