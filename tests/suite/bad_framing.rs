//! Requests that are too large, too slow or not HTTP: refused early, nothing kept, nothing forwarded.

use std::time::Duration;
use tests::shapes::{CHAT, UNIVERSAL, chat, chat_answer};
use tests::{
    Answer, Config, Connection, Reply, Request, ScriptedUpstream, TestGateway, within_patience,
};
use tokio::time::Instant;

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

/// Sends bytes as they are; `None` when the connection was closed without an answer.
async fn send_bytes(gateway: &TestGateway, bytes: &[u8]) -> Option<Answer> {
    let mut connection = Connection::open(gateway.server).await;
    let _ = connection.write(bytes).await;
    let arriving = connection.try_head("POST").await.ok()?;
    Some(connection.rest(arriving).await)
}

/// A 4xx, or a connection closed in the stranger's face.
fn assert_refused(answer: &Option<Answer>, what: &str) {
    if let Some(answer) = answer {
        assert!(
            (400..500).contains(&answer.status),
            "{what}: {} {}",
            answer.status,
            answer.text()
        );
    }
}

#[tokio::test]
async fn a_gigabyte_is_refused_before_it_is_sent() {
    let (gateway, upstream) = openai(Config::new()).await;
    let before = gateway.memory_bytes();
    for path in [CHAT, UNIVERSAL] {
        let request = Request::new("POST", path)
            .header("content-type", "application/json")
            .header("content-length", "1073741824");
        let mut connection = Connection::open(gateway.server).await;
        connection
            .write(&request.head_bytes(gateway.server))
            .await
            .expect("a head is taken");
        let answer = connection.answer("POST").await.expect_status(413);
        assert!(answer.error_code().is_some(), "{}", answer.text());
        within_patience("the connection to end", connection.closed_by_peer()).await;
    }
    assert_eq!(upstream.call_count(), 0);
    let grown = gateway.memory_bytes().saturating_sub(before);
    assert!(grown < 64 * 1024 * 1024, "grew by {grown} bytes");
}

#[tokio::test]
async fn a_chunked_body_past_the_bound_is_refused() {
    let (gateway, _upstream) = openai(Config::new().set("server", "max_body_bytes = 100000")).await;
    let mut body = Vec::new();
    for _ in 0..30 {
        body.extend_from_slice(&tests::http::as_chunk(&[b'x'; 10_000]));
    }
    let request = Request::post_bytes(UNIVERSAL, "application/json", body)
        .header("transfer-encoding", "chunked");
    let answer = gateway.send(&request).await.expect_status(413);
    assert!(
        answer.text().contains("100000") || answer.text().contains("larger"),
        "{}",
        answer.text()
    );
    let largest = Request::post_bytes(CHAT, "application/json", vec![b' '; 100_000]);
    gateway.send(&largest).await.expect_status(200);
    gateway
        .send(&Request::post_bytes(
            CHAT,
            "application/json",
            vec![b' '; 100_001],
        ))
        .await
        .expect_status(413);
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_given_up() {
    let (gateway, upstream) =
        openai(Config::new().set("server", "body_read_timeout_ms = 300")).await;
    let request = Request::new("POST", CHAT)
        .header("content-type", "application/json")
        .header("content-length", "100");
    let mut connection = Connection::open(gateway.server).await;
    connection
        .write(&request.head_bytes(gateway.server))
        .await
        .expect("a head is taken");
    connection
        .write(b"{\"model\":")
        .await
        .expect("the beginning of a body is taken");
    let started = Instant::now();
    let answer = connection.answer("POST").await.expect_status(408);
    assert!(started.elapsed() >= Duration::from_millis(290));
    assert!(answer.error_code().is_some(), "{}", answer.text());
    assert_eq!(upstream.call_count(), 0);
}

#[tokio::test]
async fn a_head_that_does_not_arrive_is_given_up() {
    let (gateway, _upstream) =
        openai(Config::new().set("server", "header_read_timeout_ms = 300")).await;
    let mut connection = Connection::open(gateway.server).await;
    connection
        .write(b"POST /v1/default/default HTTP/1.1\r\nhost: local")
        .await
        .expect("a beginning is taken");
    connection.closed_by_peer().await;
    assert_serves(&gateway).await;
}

#[tokio::test]
async fn floods_of_headers_are_refused() {
    let (gateway, upstream) = openai(Config::new()).await;
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n");
    let many: String = (0..10_000)
        .map(|n| format!("x-flood-{n}: {n}\r\n"))
        .collect();
    let long = format!("x-long: {}\r\n", "a".repeat(1024 * 1024));
    for (what, extra) in [("many headers", many), ("a long header", long)] {
        let answer = send_bytes(&gateway, format!("{head}{extra}\r\n").as_bytes()).await;
        assert_refused(&answer, what);
    }
    let target = format!(
        "GET /v1/default/default/openai/{} HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "a".repeat(1024 * 1024)
    );
    assert_refused(
        &send_bytes(&gateway, target.as_bytes()).await,
        "a long path",
    );
    assert_eq!(upstream.call_count(), 0);
    assert_serves(&gateway).await;
}

#[tokio::test]
async fn requests_that_two_servers_could_read_differently_are_refused() {
    let (gateway, upstream) = openai(Config::new()).await;
    let start =
        format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n");
    for (what, rest) in [
        (
            "both framings",
            "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "both framings, the other way",
            "transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
        ),
        (
            "two lengths",
            "content-length: 2\r\ncontent-length: 3\r\n\r\n{}x",
        ),
        ("a list of lengths", "content-length: 2, 3\r\n\r\n{}x"),
        ("a negative length", "content-length: -2\r\n\r\n{}"),
        ("a length with a plus", "content-length: +2\r\n\r\n{}"),
        ("a hexadecimal length", "content-length: 0x2\r\n\r\n{}"),
        ("an unknown coding", "transfer-encoding: xchunked\r\n\r\n{}"),
        (
            "chunked twice",
            "transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "a bad chunk size",
            "transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        ),
        ("a space before the colon", "content-length : 2\r\n\r\n{}"),
        (
            "a folded header",
            "x-a: 1\r\n folded: 2\r\ncontent-length: 2\r\n\r\n{}",
        ),
        (
            "a nul in a value",
            "x-a: a\0b\r\ncontent-length: 2\r\n\r\n{}",
        ),
        ("no colon", "nonsense\r\ncontent-length: 2\r\n\r\n{}"),
    ] {
        let answer = send_bytes(&gateway, format!("{start}{rest}").as_bytes()).await;
        assert_refused(&answer, what);
        assert_eq!(upstream.call_count(), 0, "{what}");
    }
    assert_serves(&gateway).await;
}

#[tokio::test]
async fn what_is_no_http_is_dropped() {
    let (gateway, upstream) = openai(Config::new()).await;
    let binary: Vec<u8> = (0..=255u8).cycle().take(5000).collect();
    let bytes: [&[u8]; 6] = [
        b"\r\n\r\n\r\n",
        b"HELLO\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /v1/default/default/openai/\xff\xfe HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"POST / HTTP/9.9\r\nhost: localhost\r\n\r\n",
        &binary,
    ];
    for bytes in bytes {
        let mut connection = Connection::open(gateway.server).await;
        let _ = connection.write(bytes).await;
        connection.leave();
    }
    let header = b"GET /v1/default/default/openai/models HTTP/1.1\r\nhost: localhost\r\nx-bad: \xff\xfe\r\n\r\n";
    let answer = send_bytes(&gateway, header).await;
    assert!(
        answer.is_none_or(|answer| answer.status == 200 || (400..500).contains(&answer.status))
    );
    upstream.forget_calls();
    assert_serves(&gateway).await;
    assert_eq!(gateway.admin("/healthz").await.status, 200);
}

#[tokio::test]
async fn abandoned_bodies_hold_no_memory() {
    let (gateway, _upstream) = openai(Config::new()).await;
    assert_serves(&gateway).await;
    let before = gateway.memory_bytes();
    let piece = vec![b'x'; 1024 * 1024];
    for _ in 0..60 {
        let request = Request::new("POST", CHAT).header("content-length", "50000000");
        let mut connection = Connection::open(gateway.server).await;
        let _ = connection.write(&request.head_bytes(gateway.server)).await;
        let _ = connection.write(&piece).await;
        connection.leave();
    }
    assert_serves(&gateway).await;
    let grown = gateway.memory_bytes().saturating_sub(before);
    assert!(
        grown < 100 * 1024 * 1024,
        "grew by {grown} bytes over 60 abandoned bodies"
    );
}
