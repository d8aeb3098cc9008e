//! The Vercel AI SDK through `ai-gateway-provider`: universal requests as that package writes them.

use super::{Language, asked_status, impatient, run::run, stream};
use serde_json::json;
use tests::logs::logs_path;
use tests::shapes::{chat_answer, openai_error};
use tests::sse::{chat_stream, message_stream};
use tests::{Call, Reply, Request, ScriptedUpstream, TestGateway, eventually};

fn openai(call: &Call) -> Reply {
    let body = call.json();
    let model = body["model"].as_str().expect("a model");
    if let Some(status) = asked_status(model) {
        return Reply::json(
            status,
            &openai_error("server_error", "server_error", "down"),
        );
    }
    match (call.target.as_str(), body["stream"] == true) {
        ("/v1/chat/completions", true) => {
            stream(model, chat_stream(&["from", " the", " first"]), 3)
        }
        ("/v1/chat/completions", false) => {
            Reply::json(200, &chat_answer(model, "from the first", 11, 3))
        }
        _ => Reply::json(200, &super::openai::response("completed", true)),
    }
}

fn anthropic(call: &Call) -> Reply {
    if call.json()["stream"] == true {
        return Reply::sse(message_stream(&["from", " the", " second"]));
    }
    Reply::json(
        200,
        &json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5",
                "content": [{"type": "text", "text": "from the second"}], "stop_reason": "end_turn", "stop_sequence": null,
                "usage": {"input_tokens": 25, "output_tokens": 15}}),
    )
}

/// A gateway token, from the moment the gateway asks for one.
async fn token(gateway: &TestGateway) -> String {
    let create = [
        "token",
        "create",
        "--config",
        "config.toml",
        "--label",
        "sdk",
    ];
    let (status, stdout, stderr) = tests::gateway::run(&create, gateway.folder()).await;
    assert!(status.success(), "{stderr}");
    let logs = Request::get(&logs_path("default", "default"));
    eventually("the gateway to ask for tokens", async || {
        (gateway.send(&logs).await.status == 401).then_some(())
    })
    .await;
    stdout.trim().to_owned()
}

#[tokio::test]
async fn the_vercel_sdk_sends_universal_requests_and_reads_which_step_answered() {
    let first = ScriptedUpstream::replying(Reply::from_call(openai)).await;
    let second = ScriptedUpstream::replying(Reply::from_call(anthropic)).await;
    let config = impatient()
        .provider("openai", &first.url("/v1"))
        .provider("anthropic", &second.url(""))
        .gateway("default", "open", "authentication = false")
        .gateway("default", "closed", "authentication = true");
    let gateway = TestGateway::start(config).await;
    let token = token(&gateway).await;
    let origin = format!("http://{}", gateway.server);
    let arguments = [origin, token.clone()];
    let Some(report) = run(Language::Node, "ai_gateway_provider", &arguments).await else {
        return;
    };
    report.saw(
        "first",
        json!({"text": "from the first", "finish": "stop", "tokens": 3}),
    );
    report.saw(
        "second",
        json!({"text": "from the second", "finish": "stop", "tokens": 15}),
    );
    report.saw(
        "responses",
        json!({"text": "one two three", "finish": "stop", "tokens": 3}),
    );
    report.saw(
        "stream_first",
        json!({"pieces": ["from", " the", " first", "3 tokens"]}),
    );
    report.saw(
        "stream_second",
        json!({"pieces": ["from", " the", " second", "15 tokens"]}),
    );
    report.raised_after(&["from", " the"], "stream_cut", "Error", "broke off");
    report.raised("unknown", "AiGatewayDoesNotExist", "");
    report.saw(
        "closed_with_token",
        json!({"text": "from the first", "finish": "stop", "tokens": 3}),
    );
    report.raised("closed", "AiGatewayUnauthorizedError", "");
    assert_eq!(
        second.call_count(),
        2,
        "asked only where the first step failed"
    );
    assert_eq!(
        second.calls()[0].header("x-api-key"),
        Some("sk-of-the-caller")
    );
    for call in first.calls().iter().chain(&second.calls()) {
        assert!(
            !format!("{call:?}").contains(&token),
            "the token is ours alone: {call:#?}"
        );
    }
}
