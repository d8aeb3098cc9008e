//! More streams than the local model has places, callers who leave in the middle, and a provider beside them.
//!
//! `AI_GATEWAY_TEST_LOAD_SECONDS=300 AI_GATEWAY_TEST_LOAD_CALLERS=200 cargo test -p tests --test suite under_load -- --nocapture`
//! is the long run; without the two it takes some seconds. Times are printed and not judged: a machine may have
//! neighbours.

use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tests::gateway::model_folder;
use tests::shapes::{CHAT, chat, chat_answer};
use tests::{
    Config, Connection, Ending, Reply, Request, ScriptedUpstream, TestGateway, eventually,
};
use tokio::task::JoinSet;
use tokio::time::Instant;

const RUN: &str = "/v1/default/default/workers-ai/run/@cf/huggingfacetb/smollm2-135m-instruct";
/// Between two requests to the provider beside the streams.
const PROBE_PAUSE: Duration = Duration::from_millis(20);
/// One answer in so many is left in the middle.
const LEAVERS: u64 = 4;

fn setting(name: &str, or: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(or, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} takes a number"))
    })
}

#[derive(Default)]
struct Seen {
    whole: u64,
    left: u64,
    tokens: u64,
}

/// Streams one after the other until it is over.
async fn call(server: std::net::SocketAddr, caller: u64, is_over: Arc<AtomicBool>) -> Seen {
    let mut seen = Seen::default();
    for number in 0.. {
        if is_over.load(Ordering::Acquire) {
            break;
        }
        let max_tokens = 8 + (caller * 7 + number * 13) % 40;
        let body = json!({
            "messages": [{"role": "user", "content": format!("Caller {caller}, number {number}: tell me something.")}],
            "max_tokens": max_tokens, "stream": true, "ignore_eos": true, "seed": caller + 1,
        });
        let mut connection = Connection::open(server).await;
        connection.send(&Request::post(RUN, &body)).await;
        let mut arriving = connection.head("POST").await;
        assert_eq!(arriving.status, 200);
        if (caller + number).is_multiple_of(LEAVERS) {
            // Whatever came first is enough to know that it runs.
            connection
                .piece(&mut arriving)
                .await
                .expect("a running stream");
            connection.leave();
            seen.left += 1;
            continue;
        }
        let answer = connection.rest(arriving).await;
        assert_eq!(answer.ending, Ending::Whole);
        let text = answer.text();
        assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
        assert!(
            text.contains(&format!("\"completion_tokens\":{max_tokens}")),
            "{text}"
        );
        seen.whole += 1;
        seen.tokens += max_tokens;
    }
    seen
}

/// Round trips to a provider through the gateway, until it is over.
async fn probe(server: std::net::SocketAddr, is_over: Arc<AtomicBool>) -> Vec<Duration> {
    let mut times = Vec::new();
    let mut connection = Connection::open(server).await;
    while !is_over.load(Ordering::Acquire) {
        connection
            .send(&Request::post(CHAT, &chat("gpt-4o-mini", false)))
            .await;
        let answer = connection.answer("POST").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        times.push(answer.ended_at - answer.sent_at);
        tokio::time::sleep(PROBE_PAUSE).await;
    }
    times
}

fn percentile(times: &mut [Duration], part: f64) -> Duration {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * part) as usize]
}

#[tokio::test]
async fn streams_of_the_local_model_under_load_end_whole_and_starve_nobody() {
    let seconds = Duration::from_secs(setting("AI_GATEWAY_TEST_LOAD_SECONDS", 6));
    let callers = setting("AI_GATEWAY_TEST_LOAD_CALLERS", 40);
    let upstream = ScriptedUpstream::start().await;
    upstream.always(
        "/v1/chat",
        Reply::json(200, &chat_answer("gpt-4o-mini", "hello", 11, 3)),
    );
    let config = Config::new()
        .set("engine", &format!("model_dir = {:?}", model_folder()))
        .provider("openai", &upstream.url("/v1"));
    let gateway = TestGateway::start(config).await;
    // Loads the model before anything is measured.
    let first = json!({"prompt": "Hi", "max_tokens": 1});
    gateway
        .send(&Request::post(RUN, &first))
        .await
        .expect_status(200);

    let quiet = Arc::new(AtomicBool::new(false));
    let probing = tokio::spawn(probe(gateway.server, quiet.clone()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    quiet.store(true, Ordering::Release);
    let mut before = probing.await.expect("the provider answers");

    let is_over = Arc::new(AtomicBool::new(false));
    let mut streams = JoinSet::new();
    for caller in 0..callers {
        streams.spawn(call(gateway.server, caller, is_over.clone()));
    }
    let probing = tokio::spawn(probe(gateway.server, is_over.clone()));
    let started = Instant::now();
    // The attention memory fills during the first third; from then on memory stays where it is.
    tokio::time::sleep(seconds / 3).await;
    let memory_early = gateway.memory_bytes();
    tokio::time::sleep(seconds - seconds / 3).await;
    let memory_late = gateway.memory_bytes();
    is_over.store(true, Ordering::Release);
    let mut during = probing.await.expect("the provider answers");
    let seen = streams.join_all().await;
    let took = started.elapsed();

    let (whole, left): (u64, u64) = (
        seen.iter().map(|s| s.whole).sum(),
        seen.iter().map(|s| s.left).sum(),
    );
    let tokens: Vec<u64> = seen.iter().map(|s| s.tokens).collect();
    let (fewest, most) = (
        tokens.iter().min().expect("callers"),
        tokens.iter().max().expect("callers"),
    );
    println!(
        "{callers} callers for {took:.1?}: {whole} streams whole, {left} left by their callers, {:.0} tok/s to those who stayed; \
         tokens a caller {fewest} to {most}; memory {} MB, then {} MB",
        tokens.iter().sum::<u64>() as f64 / took.as_secs_f64(),
        memory_early >> 20,
        memory_late >> 20,
    );
    println!(
        "provider beside it: p50 {:.1?}, p99 {:.1?}; without load p50 {:.1?}, p99 {:.1?}",
        percentile(&mut during, 0.5),
        percentile(&mut during, 0.99),
        percentile(&mut before, 0.5),
        percentile(&mut before, 0.99),
    );
    assert!(
        seen.iter().all(|s| s.whole + s.left > 0),
        "a caller got nothing in {took:?}"
    );
    assert!(left > 0 && whole > 0);
    let growth = memory_late.saturating_sub(memory_early);
    assert!(
        growth < 96 << 20,
        "memory grew by {} MB after the first third",
        growth >> 20
    );
    eventually("every place to come back", async || {
        let is_free = gateway.metric("engine_admitted").await == 0.0
            && gateway.metric("engine_running").await == 0.0;
        is_free.then_some(())
    })
    .await;
}
