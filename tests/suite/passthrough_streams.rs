//! Streams pass chunk by chunk and byte by byte, whatever is in them.

use serde_json::json;
use std::sync::Arc;
use tests::shapes::{CHAT, chat, message};
use tests::sse::{chat_stream, cut, generate, message_stream, named};
use tests::{Config, Connection, Ending, Gate, Reply, Request, ScriptedUpstream, TestGateway};

#[tokio::test]
async fn two_hundred_generated_streams_pass_unchanged() {
    let upstream = ScriptedUpstream::replying(Reply::from_call(|call| {
        let seed = call.json()["seed"].as_u64().expect("the test names a seed");
        Reply::sse(cut(&generate(seed), seed))
    }))
    .await;
    let gateway =
        Arc::new(TestGateway::start(Config::new().provider("openai", &upstream.url("/v1"))).await);
    let mut running = tokio::task::JoinSet::new();
    for seed in 0..200u64 {
        if running.len() == 8 {
            running
                .join_next()
                .await
                .expect("eight are running")
                .expect("no stream differs");
        }
        let gateway = gateway.clone();
        running.spawn(async move {
            let mut body = chat("gpt-4o-mini", true);
            body["seed"] = json!(seed);
            // Every other stream is also held back until its first content, as with retries left.
            let attempts = if seed.is_multiple_of(2) { "1" } else { "3" };
            let request = Request::post(CHAT, &body).header("cf-aig-max-attempts", attempts);
            let answer = gateway.send(&request).await.expect_status(200);
            assert_eq!(answer.ending, Ending::Whole, "seed {seed}");
            assert_eq!(
                answer.header("content-type"),
                Some("text/event-stream"),
                "seed {seed}"
            );
            let wanted = generate(seed);
            assert!(
                answer.body == wanted,
                "seed {seed}: {} bytes for {}",
                answer.body.len(),
                wanted.len()
            );
        });
    }
    while let Some(done) = running.join_next().await {
        done.expect("no stream differs");
    }
    assert_eq!(upstream.call_count(), 200);
}

#[tokio::test]
async fn each_event_arrives_before_the_next_is_sent() {
    let events = chat_stream(&["one", " two", " three"]);
    let gates: Vec<Gate> = events.iter().map(|_| Gate::closed()).collect();
    let mut reply = Reply::sse(events.clone());
    for (index, gate) in gates.iter().enumerate().rev() {
        reply = reply.gate_after(index, gate);
    }
    let upstream = ScriptedUpstream::replying(reply).await;
    let gateway = TestGateway::start(Config::new().provider("openai", &upstream.url("/v1"))).await;
    let mut connection = Connection::open(gateway.server).await;
    connection
        .send(&Request::post(CHAT, &chat("gpt-4o-mini", true)))
        .await;
    let mut arriving = connection.head("POST").await;
    for (event, gate) in events.iter().zip(&gates) {
        gate.open();
        assert_eq!(&connection.read_until(&mut arriving, event).await, event);
    }
    assert_eq!(connection.rest(arriving).await.ending, Ending::Whole);
}

#[tokio::test]
async fn the_head_of_a_stream_arrives_before_its_first_event() {
    let gate = Gate::closed();
    let upstream =
        ScriptedUpstream::replying(Reply::sse(chat_stream(&["one"])).gate_after(0, &gate)).await;
    let gateway = TestGateway::start(Config::new().provider("openai", &upstream.url("/v1"))).await;
    let mut connection = Connection::open(gateway.server).await;
    connection
        .send(&Request::post(CHAT, &chat("gpt-4o-mini", true)))
        .await;
    let arriving = connection.head("POST").await;
    assert_eq!(
        (arriving.status, arriving.head.header("content-type")),
        (200, Some("text/event-stream"))
    );
    gate.open();
    assert_eq!(
        connection.rest(arriving).await.body,
        chat_stream(&["one"]).concat()
    );
}

#[tokio::test]
async fn start_events_are_held_only_while_another_try_remains() {
    let events = message_stream(&["one", " two"]);
    let gate = Gate::closed();
    let reply = Reply::sse(events.clone()).gate_after(3, &gate);
    let upstream = ScriptedUpstream::replying(reply).await;
    let gateway = TestGateway::start(Config::new().provider("anthropic", &upstream.url(""))).await;
    let mut connection = Connection::open(gateway.server).await;
    connection
        .send(&Request::post(
            "/v1/default/default/anthropic/v1/messages",
            &message(true),
        ))
        .await;
    // No retry is possible, so nothing is gained by waiting.
    let mut arriving = connection.head("POST").await;
    let start = events[..3].concat();
    assert_eq!(
        connection.read_until(&mut arriving, &events[2]).await,
        start
    );
    gate.open();
    assert_eq!(connection.rest(arriving).await.body, events[3..].concat());
}

#[tokio::test]
async fn a_held_stream_is_let_go_by_its_first_content() {
    let events = message_stream(&["one", " two"]);
    let gate = Gate::closed();
    // The fourth event is the first with content; the rest waits behind the gate.
    let upstream =
        ScriptedUpstream::replying(Reply::sse(events.clone()).gate_after(4, &gate)).await;
    let gateway = TestGateway::start(Config::new().provider("anthropic", &upstream.url(""))).await;
    let mut connection = Connection::open(gateway.server).await;
    let request = Request::post("/v1/default/default/anthropic/v1/messages", &message(true));
    connection
        .send(&request.header("cf-aig-max-attempts", "3"))
        .await;
    let mut arriving = connection.head("POST").await;
    assert_eq!(
        connection.read_until(&mut arriving, &events[3]).await,
        events[..4].concat()
    );
    gate.open();
    assert_eq!(connection.rest(arriving).await.body, events[4..].concat());
}

#[tokio::test]
async fn a_stream_that_only_keeps_alive_is_not_held_for_ever() {
    // Past 64 events the gateway stops looking and lets the stream go.
    let comment = |n: usize| format!(": keep-alive {n}\n\n").into_bytes();
    let ping = |_| named(&json!({"type": "ping"}));
    for keep_alive in [&ping as &dyn Fn(usize) -> Vec<u8>, &comment] {
        let events: Vec<Vec<u8>> = (0..100).map(keep_alive).collect();
        let gate = Gate::closed();
        let reply = Reply::sse(events.clone()).gate_after(100, &gate);
        let upstream = ScriptedUpstream::replying(reply).await;
        let config = Config::new().provider("anthropic", &upstream.url(""));
        let gateway = TestGateway::start(config).await;
        let mut connection = Connection::open(gateway.server).await;
        let request = Request::post("/v1/default/default/anthropic/v1/messages", &message(true));
        connection
            .send(&request.header("cf-aig-max-attempts", "3"))
            .await;
        let mut arriving = connection.head("POST").await;
        let wanted = events.concat();
        let mut body = Vec::new();
        while body.len() < wanted.len() {
            body.extend(
                connection
                    .piece(&mut arriving)
                    .await
                    .expect("open")
                    .expect("open"),
            );
        }
        assert_eq!(body, wanted);
        gate.open();
        assert_eq!(connection.rest(arriving).await.ending, Ending::Whole);
    }
}

#[tokio::test]
async fn a_slow_reader_gets_every_byte_of_a_long_stream() {
    let words = vec!["a word that repeats "; 20_000];
    let events = chat_stream(&words);
    let pieces: Vec<Vec<u8>> = events.chunks(64).map(<[Vec<u8>]>::concat).collect();
    let upstream = ScriptedUpstream::replying(Reply::sse(pieces)).await;
    let gateway = TestGateway::start(Config::new().provider("openai", &upstream.url("/v1"))).await;
    let mut connection = Connection::open(gateway.server).await;
    connection
        .send(&Request::post(CHAT, &chat("gpt-4o-mini", true)))
        .await;
    let arriving = connection.head("POST").await;
    // Not reading until the upstream can write no more shows that the gateway holds it back.
    upstream.wait_for_calls(1).await;
    let before = gateway.memory_bytes();
    let answer = connection.rest(arriving).await;
    assert!(answer.body == events.concat());
    assert_eq!(answer.ending, Ending::Whole);
    assert!(before < 512 * 1024 * 1024, "{before} bytes resident");
}
