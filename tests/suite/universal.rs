//! `POST /v1/{account}/{gateway}`: a list of steps, tried in order.

use serde_json::{Value, json};
use std::time::Duration;
use tests::shapes::{UNIVERSAL, chat, chat_answer, openai_error, step};
use tests::{Answer, Config, Reply, Request, ScriptedUpstream, TestGateway};

/// One upstream behind two providers, told apart by their base paths.
async fn two_providers(config: Config) -> (TestGateway, ScriptedUpstream) {
    let upstream = ScriptedUpstream::start().await;
    upstream.always(
        "/openai/",
        Reply::json(200, &chat_answer("gpt-4o-mini", "openai", 11, 3)),
    );
    upstream.always(
        "/anthropic/",
        Reply::json(
            529,
            &json!({"type": "error", "error": {"type": "overloaded_error", "message": "no"}}),
        ),
    );
    let config = config
        .provider("openai", &upstream.url("/openai/v1"))
        .provider("anthropic", &upstream.url("/anthropic"));
    (TestGateway::start(config).await, upstream)
}

fn openai_step() -> Value {
    step("openai", "chat/completions", chat("gpt-4o-mini", false), 1)
}

fn anthropic_step() -> Value {
    step("anthropic", "v1/messages", tests::shapes::message(false), 1)
}

#[track_caller]
fn assert_refused(answer: &Answer, words: &str) {
    assert!(
        (400..500).contains(&answer.status),
        "{} {}",
        answer.status,
        answer.text()
    );
    assert!(answer.error_code().is_some(), "{}", answer.text());
    assert!(
        answer.text().contains(words),
        "{:?} does not speak of {words}",
        answer.text()
    );
}

#[tokio::test]
async fn a_list_is_tried_in_order_and_the_step_header_says_who_answered() {
    let (gateway, upstream) = two_providers(Config::new()).await;
    let answer = gateway
        .send(&Request::post(
            UNIVERSAL,
            &json!([openai_step(), anthropic_step()]),
        ))
        .await;
    let answer = answer.expect_status(200);
    assert_eq!(answer.header("cf-aig-step"), Some("0"));
    assert_eq!(upstream.only_call().target, "/openai/v1/chat/completions");
    upstream.forget_calls();
    let answer = gateway
        .send(&Request::post(
            UNIVERSAL,
            &json!([anthropic_step(), openai_step()]),
        ))
        .await;
    let answer = answer.expect_status(200);
    assert_eq!(answer.header("cf-aig-step"), Some("1"));
    let targets: Vec<String> = upstream
        .calls()
        .into_iter()
        .map(|call| call.target)
        .collect();
    assert_eq!(
        targets,
        ["/anthropic/v1/messages", "/openai/v1/chat/completions"]
    );
}

#[tokio::test]
async fn a_single_object_and_a_trailing_slash_are_taken() {
    let (gateway, upstream) = two_providers(Config::new()).await;
    for path in [UNIVERSAL.to_owned(), format!("{UNIVERSAL}/")] {
        let answer = gateway
            .send(&Request::post(&path, &openai_step()))
            .await
            .expect_status(200);
        assert_eq!(answer.header("cf-aig-step"), Some("0"));
        assert_eq!(
            answer.body,
            chat_answer("gpt-4o-mini", "openai", 11, 3)
                .to_string()
                .into_bytes()
        );
    }
    assert_eq!(upstream.call_count(), 2);
}

#[tokio::test]
async fn any_answer_that_is_not_a_success_moves_on() {
    for status in [400, 401, 403, 404, 422, 500, 302] {
        let (gateway, upstream) = two_providers(Config::new()).await;
        upstream.always(
            "/anthropic/",
            Reply::json(status, &openai_error("some_error", "some_code", "no")),
        );
        let answer = gateway
            .send(&Request::post(
                UNIVERSAL,
                &json!([anthropic_step(), openai_step()]),
            ))
            .await;
        assert_eq!(
            (answer.status, answer.header("cf-aig-step")),
            (200, Some("1")),
            "after a {status}"
        );
    }
}

#[tokio::test]
async fn the_endpoint_may_carry_a_query_a_slash_and_the_version_prefix() {
    let (gateway, upstream) = two_providers(Config::new()).await;
    for (endpoint, wanted) in [
        ("chat/completions", "/openai/v1/chat/completions"),
        ("/chat/completions", "/openai/v1/chat/completions"),
        ("v1/chat/completions", "/openai/v1/chat/completions"),
        ("/v1/chat/completions", "/openai/v1/chat/completions"),
        (
            "chat/completions?api-version=2024-10-21&x=a%20b",
            "/openai/v1/chat/completions?api-version=2024-10-21&x=a%20b",
        ),
    ] {
        upstream.forget_calls();
        let entry = step("openai", endpoint, chat("gpt-4o-mini", false), 1);
        gateway
            .send(&Request::post(UNIVERSAL, &entry))
            .await
            .expect_status(200);
        assert_eq!(upstream.only_call().target, wanted, "for {endpoint}");
    }
}

#[tokio::test]
async fn the_query_is_sent_as_it_was_written() {
    let (gateway, upstream) = two_providers(Config::new()).await;
    let query = "{ \"model\":\"gpt-4o-mini\", \"z\":1.0,\"a\":12345678901234567890, \"text\":\"\\u00e9 🦀\",\"messages\":[] }";
    let body = format!(
        "[{{\"provider\":\"openai\",\"endpoint\":\"chat/completions\",\"headers\":{{}},\"query\":{query}}}]"
    );
    gateway
        .send(&Request::post_bytes(UNIVERSAL, "application/json", body))
        .await
        .expect_status(200);
    let call = upstream.only_call();
    assert_eq!(String::from_utf8_lossy(&call.body), query);
    assert_eq!(call.header("content-type"), Some("application/json"));
    assert_eq!(call.method, "POST");
}

#[tokio::test]
async fn the_headers_of_an_entry_go_upstream_without_ours() {
    let (gateway, upstream) = two_providers(Config::new()).await;
    let mut entry = openai_step();
    entry["headers"] = json!({
        "authorization": "Bearer sk-entry", "OpenAI-Beta": "responses=v1", "cf-aig-cache-ttl": "0", "CF-AIG-Metadata": "{}",
        "host": "evil.example", "Content-Length": "3", "transfer-encoding": "chunked", "connection": "close",
    });
    let request = Request::post(UNIVERSAL, &json!([entry]))
        .header("authorization", "Bearer of-the-outer-request")
        .header("cf-aig-authorization", "Bearer gateway-token");
    gateway.send(&request).await.expect_status(200);
    let call = upstream.only_call();
    assert_eq!(call.header("authorization"), Some("Bearer sk-entry"));
    assert_eq!(call.header("openai-beta"), Some("responses=v1"));
    assert_eq!(call.header("host"), Some(upstream.host().as_str()));
    assert_eq!(
        call.body,
        chat("gpt-4o-mini", false).to_string().into_bytes()
    );
    let names = call
        .headers
        .iter()
        .map(|(name, _)| name.to_ascii_lowercase());
    let leaked: Vec<String> = names.filter(|name| name.starts_with("cf-aig-")).collect();
    assert!(leaked.is_empty(), "{leaked:?}");
    assert!(
        call.headers
            .iter()
            .all(|(_, value)| !value.contains("gateway-token"))
    );
    assert_eq!(
        call.headers
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("authorization"))
            .count(),
        1
    );
}

#[tokio::test]
async fn the_oldest_form_of_a_credential_is_an_authorization_header() {
    let (gateway, upstream) = two_providers(Config::new()).await;
    let mut entry = openai_step();
    entry["headers"] = json!({});
    entry["authorization"] = json!("Bearer sk-old");
    gateway
        .send(&Request::post(UNIVERSAL, &entry))
        .await
        .expect_status(200);
    assert_eq!(
        upstream.only_call().header("authorization"),
        Some("Bearer sk-old")
    );
}

#[tokio::test]
async fn header_values_that_could_smuggle_are_refused() {
    let (gateway, upstream) = two_providers(Config::new()).await;
    for headers in [
        json!({"x-a": "1\r\nx-b: 2"}),
        json!({"x-a": "1\nx-b: 2"}),
        json!({"x a": "1"}),
        json!({"x-a:": "1"}),
        json!({"": "1"}),
        json!({"x-a": "nul\u{0}"}),
    ] {
        let mut entry = openai_step();
        entry["headers"] = headers.clone();
        let answer = gateway.send(&Request::post(UNIVERSAL, &entry)).await;
        assert!(
            (400..500).contains(&answer.status),
            "{headers}: {} {}",
            answer.status,
            answer.text()
        );
    }
    assert_eq!(upstream.call_count(), 0);
}

#[tokio::test]
async fn tries_are_set_by_the_entry_then_the_request_then_the_gateway() {
    let config = Config::new().gateway(
        "default",
        "default",
        "retry_max_attempts = 2\nretry_delay = 1",
    );
    let (gateway, upstream) = two_providers(config).await;
    let plain = |value: Value| {
        let mut entry = anthropic_step();
        entry["config"] = value;
        Request::post(UNIVERSAL, &json!([entry]))
    };
    let asked = |request: Request| request.header("cf-aig-max-attempts", "4");
    for (request, tries) in [
        (plain(json!({})), 2),
        (asked(plain(json!({}))), 4),
        (asked(plain(json!({"maxAttempts": 3}))), 3),
        (asked(plain(json!({"maxAttempts": 1}))), 1),
    ] {
        upstream.forget_calls();
        gateway.send(&request).await.expect_status(529);
        assert_eq!(upstream.call_count(), tries);
    }
    upstream.forget_calls();
    let mut entry = anthropic_step();
    entry["config"] = json!({});
    entry["headers"]["cf-aig-max-attempts"] = json!("5");
    gateway
        .send(&asked(Request::post(UNIVERSAL, &json!([entry]))))
        .await
        .expect_status(529);
    assert_eq!(
        upstream.call_count(),
        5,
        "an entry's header beats the request's"
    );
}

#[tokio::test]
async fn the_pause_between_tries_grows_as_asked() {
    let (gateway, upstream) = two_providers(Config::new()).await;
    let ms = Duration::from_millis;
    for (backoff, pauses) in [
        ("constant", [ms(60), ms(60), ms(60)]),
        ("linear", [ms(60), ms(120), ms(180)]),
        ("exponential", [ms(60), ms(120), ms(240)]),
    ] {
        upstream.forget_calls();
        let mut entry = anthropic_step();
        entry["config"] = json!({"maxAttempts": 4, "retryDelay": 60, "backoff": backoff});
        gateway
            .send(&Request::post(UNIVERSAL, &entry))
            .await
            .expect_status(529);
        let calls = upstream.calls();
        assert_eq!(calls.len(), 4);
        for (index, pause) in pauses.iter().enumerate() {
            let waited = calls[index + 1].at - calls[index].at;
            assert!(waited >= *pause, "{backoff}: pause {index} was {waited:?}");
        }
    }
}

#[tokio::test]
async fn a_cache_setting_of_an_entry_beats_the_requests() {
    let (gateway, upstream) = two_providers(Config::new()).await;
    let mut entry = openai_step();
    entry["headers"]["cf-aig-cache-ttl"] = json!("0");
    let request = Request::post(UNIVERSAL, &json!([entry])).header("cf-aig-cache-ttl", "3600");
    for _ in 0..2 {
        let answer = gateway.send(&request).await.expect_status(200);
        assert_eq!(answer.header("cf-aig-cache-status"), Some("MISS"));
    }
    assert_eq!(upstream.call_count(), 2);
}

#[tokio::test]
async fn a_hit_on_the_second_step_answers_with_that_step() {
    let (gateway, upstream) = two_providers(Config::new()).await;
    let mut cached = openai_step();
    cached["headers"]["cf-aig-cache-ttl"] = json!("3600");
    let request = Request::post(UNIVERSAL, &json!([anthropic_step(), cached]));
    for status in ["MISS", "HIT"] {
        let answer = gateway.send(&request).await.expect_status(200);
        assert_eq!(
            (
                answer.header("cf-aig-cache-status"),
                answer.header("cf-aig-step")
            ),
            (Some(status), Some("1"))
        );
    }
    let of_openai = upstream
        .calls()
        .iter()
        .filter(|call| call.target.starts_with("/openai"))
        .count();
    assert_eq!(of_openai, 1);
}

#[tokio::test]
async fn what_is_no_list_of_steps_is_refused_with_a_reason() {
    let (gateway, upstream) = two_providers(Config::new()).await;
    for (body, words) in [
        ("[]", "step"),
        ("", "JSON"),
        ("{", "JSON"),
        ("[1]", "JSON"),
        ("\"text\"", "JSON"),
        (
            "[{\"endpoint\":\"chat/completions\",\"query\":{}}]",
            "provider",
        ),
        (
            "[{\"provider\":5,\"endpoint\":\"chat/completions\",\"query\":{}}]",
            "JSON",
        ),
        ("[{\"provider\":\"openai\",\"query\":{}}]", "endpoint"),
        (
            "[{\"provider\":\"openai\",\"endpoint\":\"chat/completions\",\"headers\":[1],\"query\":{}}]",
            "JSON",
        ),
    ] {
        let answer = gateway
            .send(&Request::post_bytes(UNIVERSAL, "application/json", body))
            .await;
        if words == "JSON" {
            assert!(
                (400..500).contains(&answer.status),
                "{body}: {}",
                answer.text()
            );
            assert!(answer.error_code().is_some(), "{body}: {}", answer.text());
        } else {
            assert_refused(&answer, words);
        }
    }
    let answer = gateway
        .send(&Request::post(
            UNIVERSAL,
            &step("no-such-provider", "x", json!({}), 1),
        ))
        .await;
    assert_eq!((answer.status, answer.error_code()), (400, Some(2008)));
    assert!(answer.text().contains("no-such-provider"));
    assert_eq!(upstream.call_count(), 0);
}

#[tokio::test]
async fn other_methods_than_post_are_refused() {
    let (gateway, _upstream) = two_providers(Config::new()).await;
    for method in ["GET", "PUT", "DELETE"] {
        let answer = gateway.send(&Request::new(method, UNIVERSAL)).await;
        assert!(
            (400..500).contains(&answer.status),
            "{method}: {}",
            answer.status
        );
    }
}

#[tokio::test]
async fn a_step_that_cannot_be_reached_falls_back_to_the_next() {
    let (gateway, upstream) =
        two_providers(Config::new().provider("groq", "http://127.0.0.1:9/openai/v1")).await;
    let unreachable = step(
        "groq",
        "chat/completions",
        chat("llama-3.3-70b-versatile", false),
        1,
    );
    let answer = gateway
        .send(&Request::post(
            UNIVERSAL,
            &json!([unreachable, openai_step()]),
        ))
        .await
        .expect_status(200);
    assert_eq!(
        (answer.header("cf-aig-step"), upstream.call_count()),
        (Some("1"), 1)
    );
}
