//! The harness against itself: the raw client sees exactly what the scripted upstream was told to do.

use crate::client::send;
use crate::http::Framing;
use crate::sse::{chat_stream, cut, generate};
use crate::{Connection, Ending, Gate, Reply, Request, ScriptedUpstream};
use std::time::Duration;

async fn answer(reply: Reply) -> crate::Answer {
    let upstream = ScriptedUpstream::replying(reply).await;
    send(upstream.address, &Request::get("/x")).await
}

#[tokio::test]
async fn whole_answers_are_whole_in_each_framing() {
    let events = chat_stream(&["one", " two"]);
    let chunked = answer(Reply::sse(events.clone())).await;
    assert_eq!(
        (chunked.ending, chunked.body),
        (Ending::Whole, events.concat())
    );
    assert_eq!(chunked.pieces.len(), events.len());
    let counted = answer(Reply::bytes(201, "text/plain", "four")).await;
    assert_eq!(
        (counted.status, counted.ending, counted.body),
        (201, Ending::Whole, b"four".to_vec())
    );
    let unframed = answer(Reply::until_close("text/plain", "four")).await;
    assert_eq!(
        (unframed.ending, unframed.body),
        (Ending::UntilClose, b"four".to_vec())
    );
    let empty = answer(Reply::empty(204)).await;
    assert_eq!((empty.ending, empty.body.len()), (Ending::Whole, 0));
}

#[tokio::test]
async fn cut_answers_are_seen_to_be_cut() {
    let events = chat_stream(&["one", " two", " three"]);
    let cut = answer(Reply::sse(events.clone()).cut_after(2)).await;
    assert_eq!((cut.ending, cut.body), (Ending::Cut, events[..2].concat()));
    assert_eq!(
        answer(Reply::sse(events).reset_after(2)).await.ending,
        Ending::Cut
    );
    let wire = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nnonsense\r\n";
    let broken = answer(Reply::verbatim(wire)).await;
    assert_eq!((broken.ending, broken.body), (Ending::Cut, b"abc".to_vec()));
}

#[tokio::test]
async fn resets_and_hang_ups_come_before_any_head() {
    for reply in [Reply::reset(), Reply::hang_up()] {
        let upstream = ScriptedUpstream::replying(reply).await;
        let mut connection = Connection::open(upstream.address).await;
        connection.send(&Request::get("/x")).await;
        assert!(connection.try_head("GET").await.is_err());
        assert_eq!(upstream.call_count(), 1);
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_while_the_reply_stalls_waits_or_is_done() {
    let events = chat_stream(&["one", " two"]);
    let gate = Gate::closed();
    for reply in [
        Reply::silence(),
        Reply::sse(events.clone()).stall_after(1),
        Reply::sse(events.clone()).behind(&gate),
        Reply::sse(events.clone()).after(Duration::from_secs(600)),
        Reply::sse(events),
    ] {
        let upstream = ScriptedUpstream::replying(reply).await;
        let mut connection = Connection::open(upstream.address).await;
        connection.send(&Request::get("/x")).await;
        upstream.wait_for_calls(1).await;
        assert_eq!(upstream.only_call().closed_at, None);
        let left_at = connection.leave();
        let closed_at = upstream.wait_until_left().await[0]
            .closed_at
            .expect("just waited for");
        assert!(closed_at.saturating_duration_since(left_at) < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn calls_are_kept_as_they_were_sent() {
    let upstream = ScriptedUpstream::replying(Reply::empty(200)).await;
    let request = Request::post_bytes("/a%2Fb?x=%20", "text/x", &b"\x00\xff"[..])
        .header("X-Odd", "1")
        .header("x-odd", "2");
    let mut connection = Connection::open(upstream.address).await;
    for _ in 0..2 {
        connection.send(&request).await;
        connection.answer("POST").await.expect_status(200);
    }
    for call in upstream.calls() {
        assert_eq!(
            (call.method.as_str(), call.target.as_str()),
            ("POST", "/a%2Fb?x=%20")
        );
        assert_eq!(
            (call.framing, call.body.as_slice()),
            (Framing::Length(2), &b"\x00\xff"[..])
        );
        let odd: Vec<_> = call
            .headers
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("x-odd"))
            .collect();
        assert_eq!((odd[0].0.as_str(), odd[1].1.as_str()), ("X-Odd", "2"));
    }
}

#[tokio::test]
async fn queued_replies_go_before_standing_ones_and_longer_prefixes_first() {
    let upstream = ScriptedUpstream::start().await;
    upstream.always("/", Reply::empty(201));
    upstream.always("/long", Reply::empty(202));
    upstream.then("/long", Reply::empty(203));
    for (path, status) in [("/long/x", 203), ("/long/x", 202), ("/other", 201)] {
        send(upstream.address, &Request::get(path))
            .await
            .expect_status(status);
    }
}

#[test]
fn a_seed_gives_one_stream_and_cuts_lose_nothing() {
    for seed in 0..50 {
        let stream = generate(seed);
        assert_eq!(stream, generate(seed));
        assert_eq!(cut(&stream, seed).concat(), stream);
        assert!(cut(&stream, seed).iter().all(|piece| !piece.is_empty()));
    }
    assert_ne!(generate(1), generate(2));
}
