//! Keys that change on their way: a Google service account's key file is exchanged for an access key,
//! a Bedrock key goes into another header.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tests::{Answer, Config, Reply, Request, ScriptedUpstream, TestGateway};

/// Made for the tests of `providers`; opens nothing.
const KEY: &str = include_str!("../../providers/src/credential/throwaway_key.txt");
const PATH: &str = "/v1/default/default/google-vertex-ai/v1/projects/p/locations/europe-west1/publishers/google/models/gemini-2.0-flash:generateContent";

fn key_file() -> String {
    let pem = format!(
        "-----BEGIN PRIVATE {0}-----\n{KEY}-----END PRIVATE {0}-----\n",
        "KEY"
    );
    let file = json!({
        "type": "service_account",
        "client_email": "robot@project.iam.gserviceaccount.com",
        "private_key": pem,
    });
    STANDARD.encode(file.to_string())
}

async fn vertex(stored: bool) -> (TestGateway, ScriptedUpstream) {
    let upstream = ScriptedUpstream::replying(Reply::json(200, &json!({"candidates": []}))).await;
    let mut config = Config::new()
        .provider("google-vertex-ai", &upstream.url(""))
        .set(
            "providers.google-vertex-ai",
            &format!("token_url = \"{}\"", upstream.url("/token")),
        );
    if stored {
        let line = format!("api_key = \"{}\"", key_file());
        config = config.set("providers.google-vertex-ai", &line);
    }
    (TestGateway::start(config).await, upstream)
}

fn access_key(seconds: u64) -> Reply {
    Reply::json(
        200,
        &json!({"access_token": "ya29.canary-access", "expires_in": seconds, "token_type": "Bearer"}),
    )
}

async fn ask(gateway: &TestGateway, credential: Option<&str>) -> Answer {
    let mut request = Request::post(PATH, &json!({"contents": []}));
    if let Some(credential) = credential {
        request = request.header("authorization", &format!("Bearer {credential}"));
    }
    gateway.send(&request).await
}

fn exchanges(upstream: &ScriptedUpstream) -> usize {
    let calls = upstream.calls();
    calls.iter().filter(|call| call.target == "/token").count()
}

#[tokio::test]
async fn a_stored_key_file_is_exchanged_once_and_its_access_key_sent() {
    let (gateway, upstream) = vertex(true).await;
    upstream.always("/token", access_key(3600));
    for _ in 0..3 {
        ask(&gateway, None).await.expect_status(200);
    }
    assert_eq!(exchanges(&upstream), 1);
    for call in upstream
        .calls()
        .iter()
        .filter(|call| call.target != "/token")
    {
        assert_eq!(
            call.header("authorization"),
            Some("Bearer ya29.canary-access")
        );
    }
    let form = upstream.calls().remove(0);
    assert_eq!(
        form.header("content-type"),
        Some("application/x-www-form-urlencoded")
    );
    let log = gateway.stderr();
    assert!(
        !log.contains("canary-access") && !log.contains(&KEY[..40]),
        "{log}"
    );
}

#[tokio::test]
async fn an_access_key_near_its_end_is_not_used_again() {
    let (gateway, upstream) = vertex(true).await;
    upstream.always("/token", access_key(30));
    for _ in 0..2 {
        ask(&gateway, None).await.expect_status(200);
    }
    assert_eq!(exchanges(&upstream), 2);
}

#[tokio::test]
async fn a_callers_own_key_file_is_exchanged_and_never_sent_on() {
    let (gateway, upstream) = vertex(false).await;
    upstream.always("/token", access_key(3600));
    ask(&gateway, Some(&key_file())).await.expect_status(200);
    assert_eq!(exchanges(&upstream), 1);
    for call in upstream.calls() {
        assert_ne!(
            call.header("authorization"),
            Some(format!("Bearer {}", key_file()).as_str())
        );
    }
}

#[tokio::test]
async fn an_access_key_of_the_caller_is_sent_as_it_is() {
    let (gateway, upstream) = vertex(true).await;
    ask(&gateway, Some("ya29.own")).await.expect_status(200);
    assert_eq!(
        upstream.only_call().header("authorization"),
        Some("Bearer ya29.own")
    );
}

#[tokio::test]
async fn a_refused_exchange_is_a_provider_that_cannot_be_reached() {
    let (gateway, upstream) = vertex(true).await;
    upstream.always(
        "/token",
        Reply::json(400, &json!({"error": "invalid_grant"})),
    );
    let answer = ask(&gateway, None).await.expect_status(502);
    assert_eq!(answer.error_code(), Some(2005));
    assert_eq!(upstream.only_call().target, "/token");
}

#[tokio::test]
async fn a_bedrock_key_goes_where_the_anthropic_path_of_mantle_wants_it() {
    let upstream = ScriptedUpstream::replying(Reply::json(200, &json!({"content": []}))).await;
    let config = Config::new().provider("aws-bedrock", &upstream.url(""));
    let gateway = TestGateway::start(config).await;
    let path = "/v1/default/default/aws-bedrock/bedrock-mantle/us-east-1/anthropic/v1/messages";
    let body = json!({"model": "claude", "messages": []});
    let signed = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261122/us-east-1/bedrock-mantle/aws4_request, SignedHeaders=host, Signature=00";
    for (authorization, key, kept) in [
        ("Bearer bedrock-key", Some("bedrock-key"), None),
        (signed, None, Some(signed)),
    ] {
        upstream.forget_calls();
        let request = Request::post(path, &body).header("authorization", authorization);
        gateway.send(&request).await.expect_status(200);
        let call = upstream.only_call();
        assert_eq!(
            (call.header("x-api-key"), call.header("authorization")),
            (key, kept)
        );
    }
}
