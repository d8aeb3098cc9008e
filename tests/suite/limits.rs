//! Limits are exact at their boundary, and only what reaches a provider counts.

use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tests::shapes::{CHAT, UNIVERSAL, chat, chat_answer, step};
use tests::{
    Answer, Config, Connection, Gate, Reply, Request, ScriptedUpstream, TestGateway, eventually,
};
use tokio::time::Instant;

const CALLERS: usize = 64;
const LIMIT: usize = 40;

/// An interval whose clock-aligned window has long to go, so that a test stays inside one.
fn long_interval() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock past 1970")
        .as_secs();
    let candidates = [3600, 3607, 4001, 5003, 7200];
    candidates
        .into_iter()
        .find(|interval| interval - now % interval > 600)
        .expect("not all of them end at once")
}

async fn limited(
    technique: &str,
    interval: u64,
    limit: usize,
) -> (Arc<TestGateway>, ScriptedUpstream) {
    let upstream = ScriptedUpstream::replying(Reply::json(
        200,
        &chat_answer("gpt-4o-mini", "hello", 11, 3),
    ))
    .await;
    let lines = format!(
        "rate_limiting_interval = {interval}\nrate_limiting_limit = {limit}\nrate_limiting_technique = \"{technique}\"\n"
    );
    let config = Config::new()
        .provider("openai", &upstream.url("/v1"))
        .provider("groq", &upstream.url("/openai/v1"));
    let config = config
        .gateway("default", "default", &lines)
        .gateway("default", "other", &lines);
    (Arc::new(TestGateway::start(config).await), upstream)
}

fn request() -> Request {
    Request::post(CHAT, &chat("gpt-4o-mini", false))
}

/// Answers of 64 callers who send `each` requests one after another, all at once.
async fn burst(gateway: &Arc<TestGateway>, each: usize) -> Vec<Answer> {
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let gateway = gateway.clone();
        running.spawn(async move {
            let mut answers = Vec::new();
            for _ in 0..each {
                answers.push(gateway.send(&request()).await);
            }
            answers
        });
    }
    running.join_all().await.into_iter().flatten().collect()
}

fn passed(answers: &[Answer]) -> usize {
    answers.iter().filter(|answer| answer.status == 200).count()
}

#[tokio::test]
async fn exactly_as_many_as_allowed_pass_in_one_window() {
    for technique in ["fixed", "sliding"] {
        let (gateway, upstream) = limited(technique, long_interval(), LIMIT).await;
        let answers = burst(&gateway, 3).await;
        assert_eq!(passed(&answers), LIMIT, "{technique}");
        assert_eq!(upstream.call_count(), LIMIT, "{technique}");
        let refused = answers
            .iter()
            .find(|answer| answer.status != 200)
            .expect("more were sent than pass");
        assert_eq!(
            (refused.status, refused.error_code()),
            (429, Some(2003)),
            "{technique}"
        );
        let wait: u64 = refused
            .header("retry-after")
            .and_then(|text| text.parse().ok())
            .expect("a wait in seconds");
        assert!(
            (1..=7200).contains(&wait),
            "{technique}: retry-after {wait}"
        );
        // Another gateway has a count of its own.
        let other = Request::post(
            &CHAT.replace("default/default", "default/other"),
            &chat("gpt-4o-mini", false),
        );
        gateway.send(&other).await.expect_status(200);
    }
}

#[tokio::test]
async fn a_refused_request_leaves_a_row_that_says_why() {
    let (gateway, upstream) = limited("fixed", long_interval(), 1).await;
    gateway.send(&request()).await.expect_status(200);
    let refused = gateway.send(&request()).await.expect_status(429);
    assert_eq!(upstream.call_count(), 1);
    let row = gateway.rows_of(&refused, 1).await.remove(0);
    assert!(!row.is("success"));
    assert!(row.mentions("rate_limited"), "{:#}", row.0);
}

/// When a passed request was decided at the earliest and at the latest.
fn decided(answers: &[Answer]) -> Vec<(Instant, Instant)> {
    let mut spans: Vec<_> = answers
        .iter()
        .filter(|a| a.status == 200)
        .map(|a| (a.sent_at, a.ended_at))
        .collect();
    spans.sort_by_key(|(_, latest)| *latest);
    spans
}

#[tokio::test]
async fn no_trailing_interval_of_a_sliding_window_holds_more_than_allowed() {
    let interval = Duration::from_secs(2);
    let (gateway, _upstream) = limited("sliding", interval.as_secs(), LIMIT).await;
    let started = Instant::now();
    let mut answers = Vec::new();
    while started.elapsed() < 3 * interval {
        answers.extend(burst(&gateway, 1).await);
    }
    let spans = decided(&answers);
    // A violation is certain when one more than allowed were all sent and answered in less than the
    // interval; nothing less than certain is asked of a test on a busy machine.
    for window in spans.windows(LIMIT + 1) {
        let earliest = window
            .iter()
            .map(|(earliest, _)| *earliest)
            .min()
            .expect("not empty");
        let latest = window[LIMIT].1;
        assert!(
            latest - earliest >= interval,
            "{} passed within {:?}",
            LIMIT + 1,
            latest - earliest
        );
    }
    assert!(
        spans.len() >= 2 * LIMIT,
        "what left the window makes room: {} passed",
        spans.len()
    );
}

#[tokio::test]
async fn every_fixed_window_lets_exactly_as_many_pass() {
    let (gateway, _upstream) = limited("fixed", 1, LIMIT).await;
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("a clock past 1970")
    };
    let (from, started) = (now(), Instant::now());
    let mut answers = Vec::new();
    while started.elapsed() < Duration::from_secs(4) {
        answers.extend(burst(&gateway, 2).await);
    }
    let touched = (now().as_secs() - from.as_secs() + 1) as usize;
    let total = passed(&answers);
    assert!(
        total <= touched * LIMIT,
        "{total} passed in {touched} windows"
    );
    assert!(total >= LIMIT, "{total} passed");
}

#[tokio::test]
async fn a_hit_takes_nothing_from_the_limit() {
    let (gateway, upstream) = limited("fixed", long_interval(), 2).await;
    let cached = request().header("cf-aig-cache-ttl", "3600");
    for _ in 0..10 {
        gateway.send(&cached).await.expect_status(200);
    }
    assert_eq!(upstream.call_count(), 1);
    gateway.send(&request()).await.expect_status(200);
    gateway.send(&request()).await.expect_status(429);
    assert_eq!(
        gateway
            .send(&cached)
            .await
            .expect_status(200)
            .header("cf-aig-cache-status"),
        Some("HIT")
    );
}

#[tokio::test]
async fn a_universal_request_and_its_tries_count_once() {
    let (gateway, upstream) = limited("fixed", long_interval(), 2).await;
    upstream.always(
        "/openai/v1",
        Reply::json(503, &json!({"error": {"message": "no"}})),
    );
    let steps = json!([
        step(
            "groq",
            "chat/completions",
            chat("llama-3.3-70b-versatile", false),
            3
        ),
        step("openai", "chat/completions", chat("gpt-4o-mini", false), 1),
    ]);
    for wanted in [200, 200, 429] {
        gateway
            .send(&Request::post(UNIVERSAL, &steps))
            .await
            .expect_status(wanted);
    }
    assert_eq!(upstream.call_count(), 8);
}

#[tokio::test]
async fn the_flood_guard_stops_one_address_after_its_burst() {
    let upstream = ScriptedUpstream::replying(Reply::json(
        200,
        &chat_answer("gpt-4o-mini", "hello", 11, 3),
    ))
    .await;
    let config = Config::new()
        .provider("openai", &upstream.url("/v1"))
        .set("flood", "enabled = true")
        .set("flood", "requests_per_second = 1")
        .set("flood", "burst = 10");
    let gateway = Arc::new(TestGateway::start(config).await);
    let answers = burst(&gateway, 1).await;
    let refused: Vec<&Answer> = answers
        .iter()
        .filter(|answer| answer.status == 429)
        .collect();
    assert!(
        (10..=CALLERS - 10).contains(&passed(&answers)),
        "{} passed",
        passed(&answers)
    );
    assert!(
        refused
            .iter()
            .all(|answer| answer.header("retry-after").is_some())
    );
}

#[tokio::test]
async fn requests_past_the_in_flight_bound_are_refused_and_the_others_go_on() {
    let upstream = ScriptedUpstream::start().await;
    let gate = Gate::closed();
    upstream.always(
        "/",
        Reply::json(200, &chat_answer("gpt-4o-mini", "hello", 11, 3)).behind(&gate),
    );
    let config = Config::new().provider("openai", &upstream.url("/v1"));
    let gateway =
        TestGateway::start(config.gateway("default", "default", "max_in_flight = 2")).await;
    let mut held = Vec::new();
    for count in 1..=2 {
        let mut connection = Connection::open(gateway.server).await;
        connection.send(&request()).await;
        upstream.wait_for_calls(count).await;
        held.push(connection);
    }
    let refused = gateway.send(&request()).await.expect_status(503);
    assert!(refused.error_code().is_some(), "{}", refused.text());
    gate.open();
    for mut connection in held {
        connection.answer("POST").await.expect_status(200);
    }
    eventually("room for one more", async || {
        (gateway.send(&request()).await.status == 200).then_some(())
    })
    .await;
}
