//! Realtime sockets: upgraded on both sides, then passed on byte for byte.

use std::time::Duration;
use tests::http::Framing;
use tests::{Config, Connection, Reply, Request, ScriptedUpstream, TestGateway};

fn upgrade(target: &str) -> Request {
    Request::get(target)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
}

async fn openai(reply: Reply) -> (TestGateway, ScriptedUpstream) {
    let upstream = ScriptedUpstream::replying(reply).await;
    let gateway = TestGateway::start(Config::new().provider("openai", &upstream.url("/v1"))).await;
    (gateway, upstream)
}

const REALTIME: &str = "/v1/default/default/openai/realtime?model=gpt-realtime";

#[tokio::test]
async fn frames_pass_both_ways_unchanged() {
    let (gateway, upstream) = openai(Reply::upgrade_and_echo()).await;
    let mut connection = Connection::open(gateway.server).await;
    connection
        .send(&upgrade(REALTIME).header("authorization", "Bearer sk-test"))
        .await;
    let mut arriving = connection.head("GET").await;
    assert_eq!(arriving.status, 101);
    assert_eq!(
        arriving.head.header("sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    let call = upstream.only_call();
    assert_eq!(call.target, "/v1/realtime?model=gpt-realtime");
    assert_eq!(call.header("authorization"), Some("Bearer sk-test"));
    assert_eq!(
        call.header("sec-websocket-key"),
        Some("dGhlIHNhbXBsZSBub25jZQ==")
    );
    // A masked text frame, then one whose length needs two more bytes.
    let long: Vec<u8> = [&[0x82, 0xFE, 0x0F, 0xA0, 1, 2, 3, 4][..], &vec![0xAB; 4000]].concat();
    for frame in [
        b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58".to_vec(),
        long,
    ] {
        connection.write(&frame).await.expect("the socket is open");
        arriving.becomes(Framing::UntilClose);
        let mut back = Vec::new();
        while back.len() < frame.len() {
            back.extend(
                connection
                    .piece(&mut arriving)
                    .await
                    .expect("open")
                    .expect("open"),
            );
        }
        assert_eq!(back, frame);
    }
    connection.leave();
    upstream.wait_until_left().await;
}

#[tokio::test]
async fn a_key_in_a_subprotocol_goes_upstream_and_into_no_log() {
    let (gateway, upstream) = openai(Reply::upgrade_and_echo()).await;
    let mut connection = Connection::open(gateway.server).await;
    let offered = "realtime, openai-insecure-api-key.canary-socket, openai-beta.realtime-v1";
    connection
        .send(&upgrade(REALTIME).header("sec-websocket-protocol", offered))
        .await;
    assert_eq!(connection.head("GET").await.status, 101);
    assert_eq!(
        upstream.only_call().header("sec-websocket-protocol"),
        Some(offered)
    );
    connection.leave();
    let rows = gateway.rows("default", "default", 1).await;
    assert!(!rows[0].mentions("canary-socket") && !gateway.stderr().contains("canary-socket"));
    assert_eq!(rows[0].text("provider"), "openai");
}

#[tokio::test]
async fn a_refused_upgrade_is_passed_on() {
    let refusal = Reply::json(
        401,
        &tests::shapes::openai_error("invalid_request_error", "invalid_api_key", "no"),
    );
    let (gateway, _upstream) = openai(refusal).await;
    let answer = gateway.send(&upgrade(REALTIME)).await.expect_status(401);
    assert_eq!(answer.json()["error"]["code"], "invalid_api_key");
}

#[tokio::test]
async fn a_socket_closed_by_the_provider_is_closed_for_the_caller() {
    let (gateway, _upstream) = openai(Reply::verbatim(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n\u{1}tail",
    )
    .then_close()
    .after(Duration::from_millis(20)))
    .await;
    let mut connection = Connection::open(gateway.server).await;
    connection.send(&upgrade(REALTIME)).await;
    assert_eq!(connection.head("GET").await.status, 101);
    assert_eq!(connection.bytes_until_close().await, b"\x01tail");
}
