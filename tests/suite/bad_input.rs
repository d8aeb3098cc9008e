//! What strangers send: a clear refusal, no panic, no memory held, and the next caller is served.

use serde_json::json;
use tests::shapes::{CHAT, UNIVERSAL, chat, chat_answer};
use tests::{Config, Reply, Request, ScriptedUpstream, TestGateway};

async fn openai(config: Config) -> (TestGateway, ScriptedUpstream) {
    let upstream = ScriptedUpstream::replying(Reply::json(
        200,
        &chat_answer("gpt-4o-mini", "hello", 11, 3),
    ))
    .await;
    (
        TestGateway::start(config.provider("openai", &upstream.url("/v1"))).await,
        upstream,
    )
}

async fn assert_serves(gateway: &TestGateway) {
    gateway
        .send(&Request::post(CHAT, &chat("gpt-4o-mini", false)))
        .await
        .expect_status(200);
}

#[tokio::test]
async fn an_unknown_provider_gateway_or_path_is_named() {
    let (gateway, upstream) = openai(Config::new()).await;
    for (path, status, code, words) in [
        (
            "/v1/default/default/no-such-provider/x",
            400,
            2008,
            "no-such-provider",
        ),
        (
            "/v1/default/no-such-gateway/openai/chat/completions",
            400,
            2001,
            "no-such-gateway",
        ),
        (
            "/v1/no-such-account/default/openai/chat/completions",
            400,
            2001,
            "no-such-account",
        ),
        (
            "/v1/default/default/custom-nobody/x",
            400,
            2008,
            "custom-nobody",
        ),
    ] {
        let answer = gateway.send(&Request::post(path, &json!({}))).await;
        assert_eq!(
            (answer.status, answer.error_code()),
            (status, Some(code)),
            "{path}"
        );
        assert!(answer.text().contains(words), "{path}: {}", answer.text());
        assert!(
            answer.header("cf-aig-event-id").is_some()
                && answer.header("cf-aig-request-id").is_some()
        );
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    for path in [
        "/",
        "/v1",
        "/v1/default",
        "/v2/default/default/openai/x",
        "/client/v4/nothing",
        "/favicon.ico",
    ] {
        let answer = gateway.send(&Request::get(path)).await;
        assert!(
            (400..500).contains(&answer.status),
            "{path}: {}",
            answer.status
        );
        assert_eq!(answer.json()["success"], false, "{path}");
    }
    assert_eq!(upstream.call_count(), 0);
}

#[tokio::test]
async fn what_a_name_in_the_path_may_not_hold_is_refused() {
    let (gateway, upstream) = openai(Config::new()).await;
    for path in [
        "/v1/de%66ault%00/default/openai/x",
        "/v1/a%2F..%2Fb/default/openai/x",
        "/v1/default/%2e%2e/openai/x",
        "/v1/default/default/%00/x",
        "/v1/default/default/open%0Aai/x",
        "/v1/%C3%A4/default/openai/x",
        "/v1/default/DEFAULT!/openai/x",
    ] {
        let answer = gateway.send(&Request::post(path, &json!({}))).await;
        assert!(
            (400..500).contains(&answer.status),
            "{path}: {} {}",
            answer.status,
            answer.text()
        );
        assert!(answer.error_code().is_some(), "{path}: {}", answer.text());
    }
    let answer = gateway
        .send(&Request::get(&format!(
            "/v1/{}/default/openai/x",
            "a".repeat(5000)
        )))
        .await;
    assert!(
        (400..500).contains(&answer.status) && answer.body.len() < 2000,
        "{}",
        answer.status
    );
    assert_eq!(upstream.call_count(), 0);
}

#[tokio::test]
async fn a_path_cannot_climb_out_of_the_providers_base() {
    let (gateway, upstream) = openai(Config::new()).await;
    for rest in [
        "..",
        "../admin",
        "../../default/default/anthropic",
        "files/../../secret",
        "%2e%2e/admin",
        "%2E%2E/admin",
        ".%2e/admin",
        "%2e./admin",
        "files/%2e%2e/%2e%2e/secret",
        "files%2F..%2F..%2Fsecret",
        "files/..%2fsecret",
        "files/..%5csecret",
        "..\\secret",
        "files/..;/secret",
    ] {
        upstream.forget_calls();
        let answer = gateway
            .send(&Request::get(&format!("/v1/default/default/openai/{rest}")))
            .await;
        let is_harmless = rest.contains(';') || rest.contains('\\') || rest.contains("%5c");
        if answer.status == 200 && is_harmless {
            // No segment of this is `..` on any server of ours; it must then arrive as written.
            assert_eq!(upstream.only_call().target, format!("/v1/{rest}"));
        } else {
            assert_eq!(answer.status, 400, "{rest}");
            assert_eq!(upstream.call_count(), 0, "{rest}");
        }
    }
}

#[tokio::test]
async fn slashes_doubled_or_encoded_arrive_as_written_or_are_refused() {
    let (gateway, upstream) = openai(Config::new()).await;
    for rest in [
        "/chat/completions",
        "chat//completions",
        "files%2Fabc",
        "files/a%2Fb",
        "models/a%252Fb",
        "models/%41",
    ] {
        upstream.forget_calls();
        let answer = gateway
            .send(&Request::get(&format!("/v1/default/default/openai/{rest}")))
            .await;
        if answer.status == 200 {
            assert_eq!(upstream.only_call().target, format!("/v1/{rest}"), "{rest}");
        } else {
            assert!(
                (400..500).contains(&answer.status),
                "{rest}: {}",
                answer.status
            );
            assert_eq!(upstream.call_count(), 0, "{rest}");
        }
    }
    let answer = gateway
        .send(&Request::post(
            "//v1/default/default/openai/chat/completions",
            &json!({}),
        ))
        .await;
    assert!((400..500).contains(&answer.status), "{}", answer.status);
}

#[tokio::test]
async fn a_malformed_body_on_a_providers_path_is_the_providers_to_judge() {
    let (gateway, upstream) = openai(Config::new()).await;
    let refusal = json!({"error": {"message": "could not parse", "type": "invalid_request_error", "code": null}});
    upstream.always("/", Reply::json(400, &refusal));
    for body in [
        &b"{\"model\": \"gpt"[..],
        b"",
        b"[1,2",
        b"\xff\xfe\x00",
        b"{\"model\": 5, \"stream\": \"yes\"}",
        b"nul\0",
    ] {
        upstream.forget_calls();
        let answer = gateway
            .send(&Request::post_bytes(CHAT, "application/json", body))
            .await
            .expect_status(400);
        assert_eq!(
            (answer.json(), upstream.only_call().body.as_slice()),
            (refusal.clone(), body)
        );
    }
    let deep = "[".repeat(200_000);
    gateway
        .send(&Request::post_bytes(CHAT, "application/json", deep))
        .await
        .expect_status(400);
}

#[tokio::test]
async fn a_malformed_universal_body_is_refused_with_a_reason() {
    let (gateway, upstream) = openai(Config::new()).await;
    let deep = format!(
        "[{{\"provider\":\"openai\",\"endpoint\":\"x\",\"query\":{}",
        "[".repeat(200_000)
    );
    for body in [
        &b"{\"provider\""[..],
        b"\xff\xfe[]",
        b"[{\"provider\":\"openai\",\"endpoint\":\"\xff\"}]",
        deep.as_bytes(),
    ] {
        let answer = gateway
            .send(&Request::post_bytes(UNIVERSAL, "application/json", body))
            .await;
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert!(answer.error_code().is_some(), "{}", answer.text());
        assert!(
            answer.body.len() < 2000,
            "a refusal does not repeat the body"
        );
    }
    assert_eq!(upstream.call_count(), 0);
    assert_serves(&gateway).await;
}

#[tokio::test]
async fn headers_that_make_no_sense_are_ignored_quietly() {
    let (gateway, _upstream) = openai(Config::new()).await;
    for (name, value) in [
        ("cf-aig-max-attempts", "many"),
        ("cf-aig-max-attempts", "-1"),
        ("cf-aig-max-attempts", "99999999999999999999"),
        ("cf-aig-retry-delay", "soon"),
        ("cf-aig-backoff", "quadratic"),
        ("cf-aig-request-timeout", "NaN"),
        ("cf-aig-cache-ttl", "forever"),
        ("cf-aig-cache-ttl", "-5"),
        ("cf-aig-skip-cache", "perhaps"),
        ("cf-aig-custom-cost", "{"),
        ("cf-aig-custom-cost", "{\"per_token_in\":\"x\"}"),
        (
            "cf-aig-custom-cost",
            "{\"per_token_in\":1e308,\"per_token_out\":1e308}",
        ),
        ("cf-aig-metadata", "\u{e9}"),
        ("cf-aig-collect-log", "2"),
    ] {
        let request = Request::post(CHAT, &chat("gpt-4o-mini", false)).header(name, value);
        assert_eq!(gateway.send(&request).await.status, 200, "{name}: {value}");
    }
}
