//! What becomes of a stream that goes wrong after its first byte: never a second answer, never a cut
//! answer that looks whole, and never a changed byte.

use serde_json::{Value, json};
use tests::shapes::{CHAT, UNIVERSAL, chat, chat_answer, message, step};
use tests::sse::{chat_stream, message_stream};
use tests::{
    Answer, Config, Connection, Ending, Gate, Reply, Request, Row, ScriptedUpstream, TestGateway,
};

const MESSAGES: &str = "/v1/default/default/anthropic/v1/messages";

struct Streamed {
    answer: Answer,
    rows: Vec<Row>,
    a: ScriptedUpstream,
}

/// Streams A's reply in a universal request whose second step must never be called.
async fn streamed(a_reply: Reply, config: Config) -> Streamed {
    let a = ScriptedUpstream::replying(a_reply).await;
    let b = ScriptedUpstream::replying(Reply::sse(chat_stream(&["from B"]))).await;
    let config = config
        .provider("openai", &a.url("/v1"))
        .provider("groq", &b.url("/openai/v1"));
    let gateway = TestGateway::start(config).await;
    let steps = json!([
        step("openai", "chat/completions", chat("gpt-4o-mini", true), 2),
        step(
            "groq",
            "chat/completions",
            chat("llama-3.3-70b-versatile", true),
            2
        ),
    ]);
    let answer = gateway
        .send(&Request::post(UNIVERSAL, &steps))
        .await
        .expect_status(200);
    assert_eq!(answer.header("cf-aig-step"), Some("0"));
    assert_eq!((a.call_count(), b.call_count()), (1, 0), "calls of A and B");
    let rows = gateway.rows_of(&answer, 1).await;
    Streamed { answer, rows, a }
}

/// The error event that follows `delivered`, and the checks every cut stream has in common.
fn error_event_after(answer: &Answer, delivered: &[u8]) -> String {
    assert!(
        answer.body.starts_with(delivered),
        "bytes before the cut: {:?}",
        answer.text()
    );
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    assert_eq!(
        answer.ending,
        Ending::Cut,
        "a cut answer must not look whole"
    );
    assert!(!answer.text().contains("[DONE]"));
    String::from_utf8(answer.body[delivered.len()..].to_vec()).expect("the error event is text")
}

/// The JSON of an unnamed event that stands alone.
fn unnamed_event(text: &str) -> Value {
    let json = text
        .strip_prefix("data: ")
        .and_then(|rest| rest.strip_suffix("\n\n"));
    let json = json.unwrap_or_else(|| panic!("{text:?} is not one unnamed event"));
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{json:?} is no JSON: {error}"))
}

fn assert_openai_error(event: &Value) {
    assert_eq!(event["error"]["type"], "upstream_error", "{event:#}");
    assert!(
        event["error"]["message"]
            .as_str()
            .is_some_and(|message| !message.is_empty()),
        "{event:#}"
    );
    assert!(
        event["error"]["code"].is_string() && event["error"]["param"].is_null(),
        "{event:#}"
    );
}

/// The row of a stream that ended early.
fn assert_cut_row(row: &Row) {
    assert!(!row.is("success"), "{:#}", row.0);
    assert_eq!(row.status(), 200, "the upstream's status is kept");
    assert!(!row.text("error_code").is_empty(), "{:#}", row.0);
    let tokens_out = row
        .number("tokens_out")
        .expect("tokens of what was delivered");
    assert!((1.0..20.0).contains(&tokens_out), "{:#}", row.0);
}

#[tokio::test]
async fn a_stream_cut_after_some_events_ends_with_an_error_event_and_an_unclean_close() {
    let events = chat_stream(&["one", " two", " three", " four"]);
    let seen = streamed(Reply::sse(events.clone()).cut_after(3), Config::new()).await;
    assert_openai_error(&unnamed_event(&error_event_after(
        &seen.answer,
        &events[..3].concat(),
    )));
    assert_cut_row(&seen.rows[0]);
}

#[tokio::test]
async fn a_reset_after_some_events_is_a_cut_like_any_other() {
    let events = chat_stream(&["one", " two", " three", " four"]);
    let delivered = events[..3].concat();
    // The reset waits until its events have arrived, since it could overtake them otherwise.
    let gate = Gate::closed();
    let a = Reply::sse(events).reset_after(3).gate_after(3, &gate);
    let a = ScriptedUpstream::replying(a).await;
    let gateway = TestGateway::start(Config::new().provider("openai", &a.url("/v1"))).await;
    let request =
        Request::post(CHAT, &chat("gpt-4o-mini", true)).header("cf-aig-max-attempts", "3");
    let mut connection = Connection::open(gateway.server).await;
    connection.send(&request).await;
    let mut arriving = connection.head("POST").await;
    assert_eq!(
        connection
            .read_until(&mut arriving, &delivered[delivered.len() - 60..])
            .await,
        delivered
    );
    gate.open();
    let answer = connection.rest(arriving).await;
    assert_openai_error(&unnamed_event(&error_event_after(&answer, b"")));
    assert_eq!(a.call_count(), 1);
    assert_cut_row(&gateway.rows_of(&answer, 1).await[0]);
}

#[tokio::test]
async fn a_stream_cut_inside_an_event_ends_that_event_before_the_error() {
    let events = chat_stream(&["one", " two", " three"]);
    let half = events[3][..20].to_vec();
    let pieces = [events[..3].concat(), half.clone(), b"never sent".to_vec()];
    let seen = streamed(Reply::sse(pieces).cut_after(2), Config::new()).await;
    let delivered = [events[..3].concat(), half].concat();
    let tail = error_event_after(&seen.answer, &delivered);
    let event = tail
        .strip_prefix("\n\n")
        .unwrap_or_else(|| panic!("{tail:?} does not end the half event first"));
    assert_openai_error(&unnamed_event(event));
}

#[tokio::test]
async fn a_stalled_stream_ends_like_a_cut_one_after_the_idle_timeout() {
    let events = chat_stream(&["one", " two", " three", " four"]);
    let config = Config::new().set("timeouts", "idle_ms = 300");
    let seen = streamed(Reply::sse(events.clone()).stall_after(3), config).await;
    assert_openai_error(&unnamed_event(&error_event_after(
        &seen.answer,
        &events[..3].concat(),
    )));
    assert_cut_row(&seen.rows[0]);
    assert!(seen.rows[0].mentions("idle"), "{:#}", seen.rows[0].0);
    seen.a.wait_until_left().await;
}

#[tokio::test]
async fn broken_chunk_framing_is_a_cut() {
    let events = chat_stream(&["one", " two"]);
    let mut wire =
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            .to_vec();
    for event in &events[..3] {
        wire.extend_from_slice(&tests::http::as_chunk(event));
    }
    wire.extend_from_slice(b"not-a-size\r\nwhatever\r\n");
    let seen = streamed(Reply::verbatim(wire), Config::new()).await;
    assert_openai_error(&unnamed_event(&error_event_after(
        &seen.answer,
        &events[..3].concat(),
    )));
    assert_cut_row(&seen.rows[0]);
}

#[tokio::test]
async fn a_malformed_event_is_passed_on_unchanged_and_counted() {
    let mut events = chat_stream(&["one", " two"]);
    events.insert(
        2,
        b"data: {\"id\":\"chatcmpl-1\",\"choices\":[{\"delta\":{\"conte\n\n".to_vec(),
    );
    let a = ScriptedUpstream::replying(Reply::sse(events.clone())).await;
    let gateway = TestGateway::start(Config::new().provider("openai", &a.url("/v1"))).await;
    let answer = gateway
        .send(&Request::post(CHAT, &chat("gpt-4o-mini", true)))
        .await
        .expect_status(200);
    assert_eq!(
        answer.text(),
        String::from_utf8(events.concat()).expect("UTF-8")
    );
    assert_eq!(answer.ending, Ending::Whole);
    let row = gateway.rows_of(&answer, 1).await.remove(0);
    assert!(row.is("success"));
    assert_eq!(row.number("malformed_events"), Some(1.0));
    assert_eq!(
        (row.number("tokens_in"), row.number("tokens_out")),
        (Some(11.0), Some(2.0))
    );
    assert_eq!(gateway.metric("gateway_malformed_events_total").await, 1.0);
}

#[tokio::test]
async fn a_clean_end_without_the_terminal_event_is_passed_on_and_marked_unknown() {
    // Neither a finish_reason nor [DONE]: nothing proves that this is all there was to say.
    let events = chat_stream(&["one", " two"])[..3].to_vec();
    let config = Config::new().gateway("default", "default", "cache_ttl = 300");
    let a = ScriptedUpstream::replying(Reply::sse(events.clone())).await;
    let gateway = TestGateway::start(config.provider("openai", &a.url("/v1"))).await;
    for call in 1..=2 {
        let answer = gateway
            .send(&Request::post(CHAT, &chat("gpt-4o-mini", true)))
            .await
            .expect_status(200);
        assert_eq!(
            (answer.body.clone(), answer.ending.clone()),
            (events.concat(), Ending::Whole)
        );
        assert_eq!(
            answer.header("cf-aig-cache-status"),
            Some("MISS"),
            "an unproven end is not cached"
        );
        assert_eq!(a.call_count(), call);
        assert_eq!(
            gateway.rows_of(&answer, 1).await[0].text("finish"),
            "unknown"
        );
    }
}

#[tokio::test]
async fn a_cut_stream_is_not_cached() {
    let events = chat_stream(&["one", " two", " three"]);
    let a = ScriptedUpstream::start().await;
    a.then("/", Reply::sse(events.clone()).cut_after(3));
    a.always("/", Reply::sse(events.clone()));
    let config = Config::new()
        .gateway("default", "default", "cache_ttl = 300")
        .provider("openai", &a.url("/v1"));
    let gateway = TestGateway::start(config).await;
    let request = Request::post(CHAT, &chat("gpt-4o-mini", true));
    assert_eq!(gateway.send(&request).await.ending, Ending::Cut);
    let second = gateway.send(&request).await;
    assert_eq!(
        (second.header("cf-aig-cache-status"), &second.body),
        (Some("MISS"), &events.concat())
    );
}

async fn anthropic(reply: Reply) -> (Answer, Row) {
    let a = ScriptedUpstream::replying(reply).await;
    let gateway = TestGateway::start(Config::new().provider("anthropic", &a.url(""))).await;
    let answer = gateway
        .send(&Request::post(MESSAGES, &message(true)))
        .await
        .expect_status(200);
    let row = gateway.rows_of(&answer, 1).await.remove(0);
    (answer, row)
}

fn anthropic_error(text: &str) -> Value {
    let json = text
        .strip_prefix("event: error\ndata: ")
        .and_then(|rest| rest.strip_suffix("\n\n"));
    let json = json.unwrap_or_else(|| panic!("{text:?} is not one `error` event"));
    let event: Value = serde_json::from_str(json).expect("JSON");
    assert_eq!(event["type"], "error");
    assert!(
        event["error"]["type"].is_string() && event["error"]["message"].is_string(),
        "{event:#}"
    );
    event
}

#[tokio::test]
async fn a_cut_anthropic_stream_ends_with_a_named_error_event() {
    let events = message_stream(&["one", " two", " three"]);
    let (answer, row) = anthropic(Reply::sse(events.clone()).cut_after(5)).await;
    anthropic_error(&error_event_after(&answer, &events[..5].concat()));
    assert!(!answer.text().contains("message_stop"));
    assert_cut_row(&row);
}

#[tokio::test]
async fn an_anthropic_stream_cut_inside_an_event_becomes_an_error_event() {
    let events = message_stream(&["one", " two"]);
    let half = events[4][..30].to_vec();
    let (answer, _) =
        anthropic(Reply::sse([events[..4].concat(), half.clone(), Vec::new()]).cut_after(2)).await;
    let tail = error_event_after(&answer, &[events[..4].concat(), half].concat());
    // The line ends, the event does not: its last `event:` line then names it.
    let event = tail
        .strip_prefix('\n')
        .unwrap_or_else(|| panic!("{tail:?} does not end the half line first"));
    anthropic_error(event);
}

#[tokio::test]
async fn an_error_event_in_mid_stream_is_passed_on_and_the_row_fails() {
    let mut events = message_stream(&["one"])[..5].to_vec();
    events.push(tests::sse::named(
        &json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
    ));
    let (answer, row) = anthropic(Reply::sse(events.clone())).await;
    assert_eq!(answer.body, events.concat());
    assert!(!row.is("success"), "{:#}", row.0);
}

#[tokio::test]
async fn a_body_shorter_than_its_length_is_a_cut() {
    let body = chat_answer("gpt-4o-mini", "half of this is missing", 11, 3).to_string();
    let half = &body[..body.len() / 2];
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    // Verbatim bytes leave the connection open; an idle timeout and a close are the same to a caller.
    let a = ScriptedUpstream::replying(Reply::verbatim(head + half)).await;
    let config = Config::new()
        .set("timeouts", "idle_ms = 300")
        .provider("openai", &a.url("/v1"));
    let gateway = TestGateway::start(config).await;
    let answer = gateway
        .send(&Request::post(CHAT, &chat("gpt-4o-mini", false)))
        .await
        .expect_status(200);
    assert_eq!(answer.ending, Ending::Cut);
    assert!(answer.body.starts_with(half.as_bytes()));
    assert!(!gateway.rows_of(&answer, 1).await[0].is("success"));
}

#[tokio::test]
async fn a_binary_answer_that_breaks_off_gets_no_extra_bytes() {
    let audio: Vec<u8> = (0..=255).cycle().take(4000).collect();
    let pieces = [audio[..3000].to_vec(), audio[3000..].to_vec()];
    let a = ScriptedUpstream::replying(Reply::chunked("audio/mpeg", pieces).cut_after(1)).await;
    let gateway = TestGateway::start(Config::new().provider("openai", &a.url("/v1"))).await;
    let speech = json!({"model": "tts-1", "input": "hello", "voice": "alloy"});
    let answer = gateway
        .send(&Request::post(
            "/v1/default/default/openai/audio/speech",
            &speech,
        ))
        .await;
    assert_eq!(
        (answer.ending, answer.body),
        (Ending::Cut, audio[..3000].to_vec())
    );
}
