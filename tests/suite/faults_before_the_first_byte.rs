//! What a caller sees, a provider is sent and the log keeps when a provider fails before it has
//! answered: another try, then the next step, and one clear answer when nothing helps.

use crate::pair::{Expected, answer_of, failure, pair};
use serde_json::json;
use std::time::Duration;
use tests::shapes::{CHAT, UNIVERSAL, chat, openai_error, step};
use tests::sse::{chat_event, chat_stream, data, message_stream, named};
use tests::upstream::closed_port;
use tests::{Config, Reply, Request, ScriptedUpstream, TestGateway};

#[tokio::test]
async fn a_429_with_retry_after_is_tried_again_when_the_wait_is_over() {
    let pair = pair(Config::new()).await;
    pair.a.then("/", failure(429).header("retry-after", "1"));
    pair.a.always("/", answer_of("A"));
    pair.check(Expected {
        answered_by: "A",
        a_calls: 2,
        b_calls: 0,
        rows: &[(429, false), (200, true)],
    })
    .await;
    let calls = pair.a.calls();
    let waited = calls[1].at - calls[0].at;
    assert!(
        waited >= Duration::from_secs(1),
        "tried again after {waited:?}"
    );
}

#[tokio::test]
async fn a_429_that_asks_for_a_long_wait_moves_to_the_next_step_at_once() {
    let pair = pair(Config::new()).await;
    pair.a
        .always("/", failure(429).header("retry-after", "120"));
    let (answer, _) = pair
        .check(Expected {
            answered_by: "B",
            a_calls: 1,
            b_calls: 1,
            rows: &[(429, false), (200, true)],
        })
        .await;
    assert!(answer.ended_at - answer.sent_at < Duration::from_secs(20));
}

#[tokio::test]
async fn a_429_on_a_single_call_is_passed_on_with_its_headers() {
    let pair = pair(Config::new()).await;
    pair.a.always(
        "/",
        failure(429)
            .header("retry-after", "7")
            .header("x-ratelimit-remaining-tokens", "0"),
    );
    let answer = pair.single().await.expect_status(429);
    assert_eq!(answer.header("retry-after"), Some("7"));
    assert_eq!(answer.header("x-ratelimit-remaining-tokens"), Some("0"));
    assert_eq!(
        answer.body,
        openai_error("server_error", "server_error", "this is A failing")
            .to_string()
            .into_bytes()
    );
    assert_eq!(pair.a.call_count(), 1);
    assert_eq!(pair.gateway.rows_of(&answer, 1).await[0].status(), 429);
}

#[tokio::test]
async fn a_429_without_retry_after_is_tried_twice_then_left() {
    let pair = pair(Config::new()).await;
    pair.a.always("/", failure(429));
    let rows = &[(429, false), (429, false), (200, true)];
    pair.check(Expected {
        answered_by: "B",
        a_calls: 2,
        b_calls: 1,
        rows,
    })
    .await;
}

#[tokio::test]
async fn a_single_500_is_cured_by_the_second_try() {
    let pair = pair(Config::new()).await;
    pair.a.then("/", failure(500));
    pair.a.always("/", answer_of("A"));
    pair.check(Expected {
        answered_by: "A",
        a_calls: 2,
        b_calls: 0,
        rows: &[(500, false), (200, true)],
    })
    .await;
}

#[tokio::test]
async fn a_503_for_ever_moves_to_the_next_step_after_both_tries() {
    let pair = pair(Config::new()).await;
    pair.a.always("/", failure(503));
    let rows = &[(503, false), (503, false), (200, true)];
    pair.check(Expected {
        answered_by: "B",
        a_calls: 2,
        b_calls: 1,
        rows,
    })
    .await;
}

#[tokio::test]
async fn every_status_that_another_try_may_cure_is_tried_again() {
    for status in [408, 409, 425, 429, 500, 502, 503, 504, 529] {
        let pair = pair(Config::new()).await;
        pair.a.then("/", failure(status));
        pair.a.always("/", answer_of("A"));
        let request = Request::post(CHAT, &chat("gpt-4o-mini", false));
        let request = request
            .header("cf-aig-max-attempts", "2")
            .header("cf-aig-retry-delay", "10");
        let answer = pair.gateway.send(&request).await;
        assert_eq!(
            (answer.status, pair.a.call_count()),
            (200, 2),
            "after a {status}"
        );
    }
}

#[tokio::test]
async fn a_reset_before_the_head_moves_to_the_next_step() {
    for a in [Reply::reset(), Reply::hang_up()] {
        let pair = pair(Config::new()).await;
        pair.a.always("/", a);
        let expected_rows = &[(0, false), (0, false), (200, true)];
        let (_, rows) = pair
            .check(Expected {
                answered_by: "B",
                a_calls: 2,
                b_calls: 1,
                rows: expected_rows,
            })
            .await;
        assert!(!rows[0].text("error_code").is_empty(), "{:#}", rows[0].0);
    }
}

#[tokio::test]
async fn a_reset_on_a_single_call_is_our_502() {
    let pair = pair(Config::new()).await;
    pair.a.always("/", Reply::reset());
    let answer = pair.single().await.expect_status(502);
    assert_eq!(answer.error_code(), Some(2005));
    let body = answer.json();
    assert_eq!(body["httpCode"], 502);
    assert_eq!(body["internalCode"], 2005);
    assert_eq!(body["name"], "AiGatewayError");
    assert_eq!(pair.gateway.rows_of(&answer, 1).await[0].status(), 0);
}

#[tokio::test]
async fn a_refused_connection_is_our_502_and_names_no_address() {
    let nowhere = closed_port();
    let gateway =
        TestGateway::start(Config::new().provider("openai", &format!("http://{nowhere}/v1"))).await;
    let answer = gateway
        .send(&Request::post(CHAT, &chat("gpt-4o-mini", false)))
        .await
        .expect_status(502);
    assert_eq!(answer.error_code(), Some(2005));
    assert!(
        !answer.text().contains(&nowhere.port().to_string()),
        "{}",
        answer.text()
    );
}

#[tokio::test]
async fn the_originals_statuses_return_when_they_are_asked_for() {
    let pair = pair(Config::new().set("server", "cloudflare_statuses = true")).await;
    pair.a.always("/", Reply::reset());
    let answer = pair.single().await.expect_status(400);
    assert_eq!(answer.error_code(), Some(2005));
}

#[tokio::test]
async fn silence_moves_to_the_next_step_after_one_timeout() {
    let pair = pair(Config::new().set("timeouts", "response_head_ms = 400")).await;
    pair.a.always("/", Reply::silence());
    let (_, rows) = pair
        .check(Expected {
            answered_by: "B",
            a_calls: 1,
            b_calls: 1,
            rows: &[(0, false), (200, true)],
        })
        .await;
    assert!(
        rows[0].text("error_code").contains("timeout"),
        "{:#}",
        rows[0].0
    );
    pair.a.wait_until_left().await;
}

#[tokio::test]
async fn a_steps_own_request_timeout_counts_for_that_step() {
    let pair = pair(Config::new()).await;
    pair.a.always("/", Reply::silence());
    pair.b
        .always("/", answer_of("B").after(Duration::from_millis(600)));
    let mut first = step("openai", "chat/completions", chat("gpt-4o-mini", false), 2);
    first["config"]["requestTimeout"] = json!(200);
    let steps = json!([
        first,
        step(
            "groq",
            "chat/completions",
            chat("llama-3.3-70b-versatile", false),
            1
        )
    ]);
    let answer = pair
        .gateway
        .send(&Request::post(UNIVERSAL, &steps))
        .await
        .expect_status(200);
    assert_eq!(answer.header("cf-aig-step"), Some("1"));
    assert_eq!((pair.a.call_count(), pair.b.call_count()), (1, 1));
}

#[tokio::test]
async fn silence_on_a_single_call_is_our_504() {
    let pair = pair(Config::new()).await;
    pair.a.always("/", Reply::silence());
    let request =
        Request::post(CHAT, &chat("gpt-4o-mini", false)).header("cf-aig-request-timeout", "200");
    let answer = pair.gateway.send(&request).await.expect_status(504);
    assert_eq!(answer.error_code(), Some(2005));
    assert!(
        pair.gateway.rows_of(&answer, 1).await[0]
            .text("error_code")
            .contains("timeout")
    );
}

#[tokio::test]
async fn a_slow_first_token_moves_to_the_next_step_and_nothing_of_the_first_is_seen() {
    let pair = pair(Config::new().set("timeouts", "first_token_ms = 400")).await;
    let mut pieces = vec![b": a comment proves nothing\n\n".to_vec()];
    pieces.push(chat_event(
        &json!({"role": "assistant", "content": ""}),
        None,
    ));
    pair.a
        .always("/", Reply::sse(pieces).stall_after(2).header("x-from", "A"));
    let answer = pair.stream_of_b().await;
    assert_eq!(pair.a.call_count(), 1);
    let rows = pair.gateway.rows_of(&answer, 2).await;
    assert_eq!(rows[0].status(), 200);
    assert!(!rows[0].is("success"));
    assert!(
        rows[0].text("error_code").contains("timeout"),
        "{:#}",
        rows[0].0
    );
    assert!(rows[1].is("success"));
    pair.a.wait_until_left().await;
}

#[tokio::test]
async fn a_stream_that_breaks_before_its_first_content_moves_to_the_next_step() {
    let pair = pair(Config::new()).await;
    pair.a.always(
        "/",
        Reply::sse(chat_stream(&["never", "seen"]))
            .cut_after(1)
            .header("x-from", "A"),
    );
    let answer = pair.stream_of_b().await;
    assert_eq!(pair.a.call_count(), 2);
    let rows = pair.gateway.rows_of(&answer, 3).await;
    assert!(!rows[0].is("success") && !rows[1].is("success") && rows[2].is("success"));
}

#[tokio::test]
async fn an_error_frame_as_the_first_event_is_a_failed_try() {
    let overloaded =
        json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
    for with_start_events in [false, true] {
        let a = ScriptedUpstream::start().await;
        let b = ScriptedUpstream::start().await;
        let config = Config::new()
            .provider("anthropic", &a.url(""))
            .provider("openai", &b.url("/v1"));
        let gateway = TestGateway::start(config).await;
        let mut events = if with_start_events {
            message_stream(&[])[..3].to_vec()
        } else {
            Vec::new()
        };
        events.push(named(&overloaded));
        a.always("/", Reply::sse(events).header("x-from", "A"));
        let wanted = chat_stream(&["from", " ", "B"]);
        b.always("/", Reply::sse(wanted.clone()));
        let steps = json!([
            step("anthropic", "v1/messages", tests::shapes::message(true), 2),
            step("openai", "chat/completions", chat("gpt-4o-mini", true), 2),
        ]);
        let answer = gateway
            .send(&Request::post(UNIVERSAL, &steps))
            .await
            .expect_status(200);
        assert_eq!(answer.body, wanted.concat());
        assert_eq!(answer.header("x-from"), None);
        assert_eq!((a.call_count(), b.call_count()), (2, 1));
        let rows = gateway.rows_of(&answer, 3).await;
        assert!(
            rows[0].text("error_code").contains("overloaded"),
            "{:#}",
            rows[0].0
        );
        assert!(!rows[0].is("success") && !rows[1].is("success") && rows[2].is("success"));
    }
}

#[tokio::test]
async fn an_error_frame_of_the_openai_family_is_a_failed_try_too() {
    let pair = pair(Config::new()).await;
    let frame = data(&openai_error(
        "server_error",
        "server_is_overloaded",
        "try later",
    ));
    pair.a
        .always("/", Reply::sse([frame]).header("x-from", "A"));
    pair.stream_of_b().await;
    assert_eq!(pair.a.call_count(), 2);
}

#[tokio::test]
async fn a_first_error_frame_on_the_last_try_is_passed_on_unchanged() {
    let pair = pair(Config::new()).await;
    let events = vec![data(&openai_error(
        "server_error",
        "server_is_overloaded",
        "try later",
    ))];
    pair.a.always("/", Reply::sse(events.clone()));
    let answer = pair
        .gateway
        .send(&Request::post(CHAT, &chat("gpt-4o-mini", true)))
        .await
        .expect_status(200);
    assert_eq!(answer.body, events.concat());
    assert!(!pair.gateway.rows_of(&answer, 1).await[0].is("success"));
}
