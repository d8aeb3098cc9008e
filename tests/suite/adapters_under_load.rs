//! Many adapters, few of them popular, and less room than they need.
//!
//! `AI_GATEWAY_TEST_LOAD_SECONDS=300 AI_GATEWAY_TEST_ADAPTERS=500 cargo test -p tests --test suite adapters_under_load --
//! --nocapture` is the long run; without the two it takes some seconds. Times are printed and not judged: a machine may
//! have neighbours.

use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tests::adapter::{AI, MODEL, WIDTH, adapter_weights, complete, config};
use tests::{Connection, Ending, Request, TestGateway};
use tokio::task::JoinSet;
use tokio::time::Instant;

const CALLERS: u64 = 32;
/// The cache holds this part of all adapters.
const HOT: usize = 8;

fn setting(name: &str, or: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(or, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} takes a number"))
    })
}

/// Numbers from 0 on; each is drawn in proportion to 1 / (number + 1): Zipf's law.
struct Zipf {
    sums: Vec<f64>,
    state: u64,
}

impl Zipf {
    fn new(count: usize, seed: u64) -> Zipf {
        let mut sum = 0.0;
        let sums = (1..=count)
            .map(|rank| {
                sum += 1.0 / rank as f64;
                sum
            })
            .collect();
        Zipf {
            sums,
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    fn draw(&mut self) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let last = self.sums.last().copied().unwrap_or_default();
        let at = (self.state >> 11) as f64 / (1u64 << 53) as f64 * last;
        self.sums.partition_point(|sum| *sum <= at)
    }
}

/// Streams one after the other; the times to their first piece.
async fn call(
    server: std::net::SocketAddr,
    mut zipf: Zipf,
    is_over: Arc<AtomicBool>,
) -> Vec<Duration> {
    let mut times = Vec::new();
    while !is_over.load(Ordering::Acquire) {
        let name = format!("adapter-{}", zipf.draw());
        let body = json!({
            "prompt": "Tell me something.", "lora": name, "max_tokens": 8, "stream": true, "ignore_eos": true,
        });
        let mut connection = Connection::open(server).await;
        let asked = Instant::now();
        let path = format!("{AI}/run/{MODEL}");
        connection.send(&Request::post(&path, &body)).await;
        let mut arriving = connection.head("POST").await;
        assert_eq!(arriving.status, 200, "{name}");
        connection
            .piece(&mut arriving)
            .await
            .expect("a running stream");
        times.push(asked.elapsed());
        let answer = connection.rest(arriving).await;
        assert_eq!(answer.ending, Ending::Whole, "{name}");
        let text = answer.text();
        assert!(text.contains("\"completion_tokens\":8"), "{name}: {text}");
    }
    times
}

#[tokio::test]
async fn requests_for_more_adapters_than_fit_are_all_answered() {
    let seconds = Duration::from_secs(setting("AI_GATEWAY_TEST_LOAD_SECONDS", 5));
    let count = setting("AI_GATEWAY_TEST_ADAPTERS", 32) as usize;
    // Of rank 4 on one projection of each layer, in bf16; padded to rank 8 in memory.
    let bytes_each = 30 * 2 * 8 * WIDTH * 2;
    let cache_mib = (count / HOT * bytes_each).div_ceil(1 << 20);
    let config = config(&format!("max_per_account = {count}"))
        .set("engine", &format!("adapter_cache_mib = {cache_mib}"));
    let gateway = TestGateway::start(config).await;
    for index in 0..count {
        let weights = adapter_weights(4, WIDTH, index as u32 + 1, 0.1);
        complete(&gateway, &format!("adapter-{index}"), &weights).await;
    }
    // Loads the model before anything is measured.
    let first = json!({"prompt": "Hi", "max_tokens": 1});
    gateway
        .send(&Request::post(&format!("{AI}/run/{MODEL}"), &first))
        .await
        .expect_status(200);

    let is_over = Arc::new(AtomicBool::new(false));
    let mut streams = JoinSet::new();
    for caller in 0..CALLERS {
        let zipf = Zipf::new(count, caller + 1);
        streams.spawn(call(gateway.server, zipf, is_over.clone()));
    }
    tokio::time::sleep(seconds / 3).await;
    let memory_early = gateway.memory_bytes();
    tokio::time::sleep(seconds - seconds / 3).await;
    let memory_late = gateway.memory_bytes();
    is_over.store(true, Ordering::Release);
    let seen = streams.join_all().await;

    let mut times: Vec<Duration> = seen.iter().flatten().copied().collect();
    times.sort_unstable();
    let percentile = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    let hits = gateway.metric("engine_adapter_hits_total").await;
    let loads = gateway.metric("engine_adapter_loads_total").await;
    let evictions = gateway.metric("engine_adapter_evictions_total").await;
    println!(
        "{CALLERS} callers, {count} adapters, a cache of {cache_mib} MiB: {} answers, hits {:.1} %, {loads} loads, \
         {evictions} evictions, first piece p50 {:.1?}, p99 {:.1?}; memory {} MB, then {} MB",
        times.len(),
        100.0 * hits / (hits + loads),
        percentile(0.5),
        percentile(0.99),
        memory_early >> 20,
        memory_late >> 20,
    );
    assert!(seen.iter().all(|caller| !caller.is_empty()));
    assert!(evictions > 0.0, "the cache was too large for this test");
    let growth = memory_late.saturating_sub(memory_early);
    assert!(growth < 96 << 20, "memory grew by {} MB", growth >> 20);
    let held = gateway.metric("engine_adapter_bytes").await;
    assert!(held <= (cache_mib << 20) as f64, "{held} bytes held");
}
