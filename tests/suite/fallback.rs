//! Which answers move a universal request to its next step, and what is kept of the way there.

use crate::pair::{Expected, answer_of, failure, pair};
use serde_json::{Value, json};
use tests::shapes::{CHAT, UNIVERSAL, chat, chat_answer, openai_error, step};
use tests::upstream::closed_port;
use tests::{Config, Reply, Request, ScriptedUpstream, TestGateway};

#[tokio::test]
async fn a_context_too_long_moves_on_without_a_second_try() {
    let pair = pair(Config::new()).await;
    let refusal = openai_error(
        "invalid_request_error",
        "context_length_exceeded",
        "maximum context length is 8192",
    );
    pair.a.always("/", Reply::json(400, &refusal));
    pair.check(Expected {
        answered_by: "B",
        a_calls: 1,
        b_calls: 1,
        rows: &[(400, false), (200, true)],
    })
    .await;
}

#[tokio::test]
async fn a_context_too_long_on_a_single_call_is_passed_on() {
    let pair = pair(Config::new()).await;
    let refusal = openai_error(
        "invalid_request_error",
        "context_length_exceeded",
        "maximum context length is 8192",
    );
    pair.a.always("/", Reply::json(400, &refusal));
    let request =
        Request::post(CHAT, &chat("gpt-4o-mini", false)).header("cf-aig-max-attempts", "3");
    let answer = pair.gateway.send(&request).await.expect_status(400);
    assert_eq!((answer.json(), pair.a.call_count()), (refusal, 1));
}

async fn content_filter_answer(config: Config, code: &str) -> (u16, Value, usize, usize, usize) {
    let pair = pair(config).await;
    let refusal = openai_error(
        "invalid_request_error",
        code,
        "the prompt was refused by the content filter",
    );
    pair.a.always("/", Reply::json(400, &refusal));
    pair.b.always("/", answer_of("B"));
    let steps = json!([
        step("openai", "chat/completions", chat("gpt-4o-mini", false), 2),
        step(
            "groq",
            "chat/completions",
            chat("llama-3.3-70b-versatile", false),
            2
        ),
    ]);
    let answer = pair.gateway.send(&Request::post(UNIVERSAL, &steps)).await;
    let rows = pair
        .gateway
        .rows_of(&answer, pair.a.call_count() + pair.b.call_count())
        .await;
    (
        answer.status,
        answer.json(),
        pair.a.call_count(),
        pair.b.call_count(),
        rows.len(),
    )
}

#[tokio::test]
async fn a_content_filter_refusal_is_final() {
    for code in ["content_filter", "content_policy_violation"] {
        let (status, body, a_calls, b_calls, rows) =
            content_filter_answer(Config::new(), code).await;
        assert_eq!(
            (status, a_calls, b_calls, rows),
            (400, 1, 0, 1),
            "for {code}"
        );
        assert_eq!(body["error"]["code"], code);
    }
}

#[tokio::test]
async fn a_content_filter_refusal_moves_on_when_the_gateway_says_so() {
    let config = Config::new().gateway("default", "default", "fallback_on_content_filter = true");
    let (status, body, a_calls, b_calls, rows) =
        content_filter_answer(config, "content_filter").await;
    assert_eq!((status, a_calls, b_calls, rows), (200, 1, 1, 2));
    assert_eq!(body["choices"][0]["message"]["content"], "B");
}

#[tokio::test]
async fn a_primary_that_is_down_costs_no_call() {
    let pair = pair(Config::new()).await;
    pair.a.always("/", failure(503));
    for call in 1..=20 {
        pair.check(Expected {
            answered_by: "B",
            a_calls: 2 * call,
            b_calls: call,
            rows: &[(503, false), (503, false), (200, true)],
        })
        .await;
    }
    assert_eq!(pair.gateway.rows("default", "default", 60).await.len(), 60);
}

#[tokio::test]
async fn a_primary_that_refuses_connections_costs_no_call() {
    let b = ScriptedUpstream::replying(answer_of("B")).await;
    let config = Config::new().provider("openai", &format!("http://{}/v1", closed_port()));
    let gateway = TestGateway::start(config.provider("groq", &b.url("/openai/v1"))).await;
    let steps = json!([
        step("openai", "chat/completions", chat("gpt-4o-mini", false), 2),
        step(
            "groq",
            "chat/completions",
            chat("llama-3.3-70b-versatile", false),
            2
        ),
    ]);
    for _ in 0..20 {
        let answer = gateway
            .send(&Request::post(UNIVERSAL, &steps))
            .await
            .expect_status(200);
        assert_eq!(answer.header("cf-aig-step"), Some("1"));
    }
    assert_eq!(b.call_count(), 20);
    let rows = gateway.rows("default", "default", 60).await;
    assert_eq!(rows.iter().filter(|row| row.is("success")).count(), 20);
}

#[tokio::test]
async fn the_row_of_a_fallback_has_the_second_providers_model_tokens_and_cost() {
    let a = ScriptedUpstream::replying(failure(503)).await;
    let b = ScriptedUpstream::replying(Reply::json(
        200,
        &chat_answer("gpt-4o-mini", "B", 1000, 200),
    ))
    .await;
    let config = Config::new()
        .provider("groq", &a.url("/openai/v1"))
        .provider("openai", &b.url("/v1"));
    let gateway = TestGateway::start(config).await;
    let steps = json!([
        step(
            "groq",
            "chat/completions",
            chat("llama-3.3-70b-versatile", false),
            2
        ),
        step("openai", "chat/completions", chat("gpt-4o-mini", false), 2),
    ]);
    let answer = gateway
        .send(&Request::post(UNIVERSAL, &steps))
        .await
        .expect_status(200);
    assert_eq!(answer.header("cf-aig-step"), Some("1"));
    let row = gateway.answering_row(&answer).await;
    assert_eq!(
        (row.text("provider"), row.text("model"), row.step()),
        ("openai", "gpt-4o-mini", 1)
    );
    assert_eq!(
        (row.number("tokens_in"), row.number("tokens_out")),
        (Some(1000.0), Some(200.0))
    );
    // The list price: 0.15 USD a million tokens in, 0.60 out.
    let cost = row.number("cost").expect("a known price");
    assert!(
        (cost - (1000.0 * 0.15 + 200.0 * 0.60) / 1e6).abs() < 1e-12,
        "cost {cost}"
    );
    let rows = gateway.rows_of(&answer, 3).await;
    assert!(
        rows[..2]
            .iter()
            .all(|row| row.text("provider") == "groq" && row.number("cost").unwrap_or(0.0) == 0.0)
    );
}

#[tokio::test]
async fn when_every_step_fails_the_caller_gets_the_last_answer() {
    let pair = pair(Config::new()).await;
    pair.a.always("/", failure(503));
    let last = openai_error("server_error", "b_is_down", "this is B failing");
    pair.b
        .always("/", Reply::json(500, &last).header("x-from", "B"));
    let steps = json!([
        step("openai", "chat/completions", chat("gpt-4o-mini", false), 2),
        step(
            "groq",
            "chat/completions",
            chat("llama-3.3-70b-versatile", false),
            2
        ),
    ]);
    let answer = pair
        .gateway
        .send(&Request::post(UNIVERSAL, &steps))
        .await
        .expect_status(500);
    assert_eq!(
        (answer.header("x-from"), answer.header("cf-aig-step")),
        (Some("B"), Some("1"))
    );
    assert_eq!(answer.json(), last);
    assert_eq!((pair.a.call_count(), pair.b.call_count()), (2, 2));
}
