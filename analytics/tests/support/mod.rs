//! What the tests of this crate share: records to write, a way to open the room on a store, and one
//! way to wait.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod fake_clickhouse;

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use analytics::{
    AttemptRow, Bodies, ClickHouseConfig, Config, LogQuery, LogRecord, Recorder, RequestRow, Store,
    WriterHandle,
};
use tempfile::TempDir;

/// How long any awaited condition may take, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` holds; says which one did not.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(
            Instant::now() < deadline,
            "still not so after {PATIENCE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A small fast generator (splitmix64), so that a failure is repeated from its printed seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// The room opened on one store.
pub struct Opened {
    pub config: Config,
    pub recorder: Recorder,
    pub store: Store,
    pub writer: Option<WriterHandle>,
    /// Removed with this.
    pub dir: Option<TempDir>,
}

impl Opened {
    /// Waits until everything recorded is in the store.
    pub async fn settled(&self) {
        eventually("all records are in the store", async || {
            self.recorder.stats().pending == 0
        })
        .await;
    }

    pub async fn drain(&mut self) {
        self.writer
            .take()
            .expect("not drained before")
            .drain(PATIENCE)
            .await;
    }
}

pub fn config(dir: &Path) -> Config {
    Config {
        data_dir: dir.to_path_buf(),
        segment_bytes: 1 << 20,
        max_block_age_ms: 20,
        // `record` makes rows with fixed times, which would be past their retention.
        retention_days: 0,
        body_retention_days: 0,
        ..Config::default()
    }
}

pub async fn open(config: Config) -> Opened {
    let (recorder, store, writer) = analytics::open(&config).await.expect("the room opens");
    Opened {
        config,
        recorder,
        store,
        writer: Some(writer),
        dir: None,
    }
}

/// The room in a folder of its own, with settings changed by `change`.
pub async fn open_fresh(change: impl FnOnce(&mut Config)) -> Opened {
    let dir = TempDir::new().expect("a temporary folder");
    let mut config = config(dir.path());
    change(&mut config);
    Opened {
        dir: Some(dir),
        ..open(config).await
    }
}

/// Where the tests' ClickHouse is; without one the test that asked says so and ends.
pub fn clickhouse_url(test: &str) -> Option<String> {
    match std::env::var("CLICKHOUSE_URL") {
        Ok(url) if !url.is_empty() => Some(url),
        _ => {
            // Not by `println!`, which the test runner keeps to itself when a test passes.
            let why = "CLICKHOUSE_URL is not set; scripts/lib/clickhouse.sh starts a server";
            let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
            None
        }
    }
}

/// A database of its own for one test, on the server at `url`.
pub fn clickhouse(url: &str) -> ClickHouseConfig {
    let unique = ulid::Ulid::generate().to_string().to_lowercase();
    ClickHouseConfig {
        url: url.into(),
        database: format!("test_{unique}"),
        ..ClickHouseConfig::default()
    }
}

/// A record in which every column is filled, differently for each `number`.
pub fn record(number: u64) -> LogRecord {
    let mut random = Random(number);
    let created_at_us = 1_790_000_000_000_000 + number as i64 * 1_000_003;
    let event_id = format!("event-{number}");
    let attempts: Vec<AttemptRow> = (0..1 + number % 3)
        .map(|index| attempt(number, index, &event_id, created_at_us, &mut random))
        .collect();
    let last = attempts.last().expect("there is at least one");
    let request = RequestRow {
        created_at_us,
        account: "acct".into(),
        gateway: "gw".into(),
        method: "POST".into(),
        path: format!("/v1/acct/gw/openai/{number}?key=REDACTED"),
        status_code: if number.is_multiple_of(7) { 0 } else { 200 },
        success: !number.is_multiple_of(5),
        cached: number.is_multiple_of(4),
        decision: "fallback".into(),
        error_code: if number.is_multiple_of(5) {
            "upstream_timeout"
        } else {
            ""
        }
        .into(),
        answered_by: (!number.is_multiple_of(5)).then(|| last.id.clone()),
        provider: last.provider.clone(),
        model: last.model.clone(),
        attempts: attempts.len() as u32,
        duration_us: random.below(10_000_000) as i64,
        first_byte_us: random.chance(70).then(|| random.below(1_000_000) as i64),
        tokens_in: last.tokens_in,
        tokens_out: last.tokens_out,
        cost_pico: last.cost_pico,
        caller: "ci \"key\" 'quoted' \\".into(),
        metadata: last.metadata.clone(),
        user_agent: "tests/1.0 (ünïcode)".into(),
        collect: true,
        event_id,
    };
    LogRecord { request, attempts }
}

fn attempt(
    number: u64,
    index: u64,
    event_id: &str,
    created_at_us: i64,
    random: &mut Random,
) -> AttemptRow {
    let mut maybe = |percent: u64| random.chance(percent).then(|| random.below(100_000) as i64);
    let body = (number.is_multiple_of(2)).then(|| Bodies {
        request: format!("{{\"messages\":\"{number}\"}}").into_bytes(),
        response: vec![0, 159, 146, 150, (number % 256) as u8],
        request_complete: true,
        response_complete: index.is_multiple_of(2),
    });
    AttemptRow {
        id: format!("01TEST{number:014}{index:06}"),
        event_id: event_id.into(),
        account: "acct".into(),
        gateway: "gw".into(),
        created_at_us: created_at_us + index as i64,
        provider: ["openai", "anthropic", "workers-ai"][(number % 3) as usize].into(),
        model: format!("model-{}", number % 5),
        model_type: "Text Generation".into(),
        path: "chat/completions".into(),
        request_type: "chat".into(),
        request_content_type: "application/json".into(),
        response_content_type: "text/event-stream".into(),
        status_code: [200, 429, 503][(index % 3) as usize],
        success: index.is_multiple_of(2),
        cached: number.is_multiple_of(4),
        step: index as u32,
        attempt: 1,
        decision: if index == 0 { "" } else { "fallback" }.into(),
        error_code: String::new(),
        finish: "stop\n\t'\"\\ \u{0}end".into(),
        tokens_in: maybe(80),
        tokens_out: maybe(80),
        cache_read: maybe(50),
        cache_write_5m: maybe(50),
        cache_write_1h: maybe(50),
        cache_write_other: maybe(50),
        reasoning: maybe(50),
        in_audio: maybe(50),
        in_image: maybe(50),
        out_audio: maybe(50),
        out_image: maybe(50),
        seconds: maybe(50).map(|value| value as f64 / 7.0),
        web_searches: maybe(50),
        images: maybe(50),
        characters: maybe(50),
        search_units: maybe(50),
        usage_source: "final".into(),
        usage_raw: "{\"prompt_tokens\": 3}".into(),
        tier: "default".into(),
        cost_pico: maybe(80).map(|value| value * 1_000_001),
        custom_cost: number.is_multiple_of(2),
        metadata: format!(
            "{{\"team\":\"red\",\"user\":{number},\"beta\":{}}}",
            number.is_multiple_of(2)
        ),
        duration_us: 1_000 * number as i64 + 999,
        first_byte_us: maybe(70),
        user_agent: "tests/1.0 (ünïcode)".into(),
        authentication: number.is_multiple_of(3),
        byok: number.is_multiple_of(2),
        request_size: 100 + number as i64,
        response_size: i64::MAX - number as i64,
        upstream_request_id: format!("req_{number}"),
        malformed_events: index as u32,
        collect: true,
        neurons: number.is_multiple_of(3).then_some(number as f64 * 0.125),
        body,
    }
}

/// Records in a store that `filled` opened.
pub const RECORDS: u64 = 30;

/// Opens the named store with `record(0..RECORDS)` in it.
pub async fn filled(server: Option<String>) -> Opened {
    let opened = open_fresh(|config| config.clickhouse = server.as_deref().map(clickhouse)).await;
    for number in 0..RECORDS {
        opened
            .recorder
            .record(&record(number))
            .expect("the record is kept");
    }
    opened.settled().await;
    opened
}

/// Every attempt row of the gateway `acct`/`gw`, oldest first.
pub async fn all_attempts(store: &Store) -> Vec<AttemptRow> {
    let mut rows = Vec::new();
    for page in 1.. {
        let query = LogQuery {
            page,
            per_page: 1_000,
            descending: false,
            ..query()
        };
        let found = store.list(query).await.expect("the store answers");
        if found.rows.is_empty() {
            break;
        }
        rows.extend(found.rows);
    }
    rows
}

pub fn query() -> LogQuery {
    LogQuery {
        account: "acct".into(),
        gateway: "gw".into(),
        ..LogQuery::default()
    }
}

/// The event ids in the store, sorted: what came, and how often.
pub async fn event_ids(store: &Store) -> Vec<String> {
    let rows = store
        .requests("acct", "gw", 1_000_000)
        .await
        .expect("the store answers");
    let mut ids: Vec<String> = rows.into_iter().map(|row| row.event_id).collect();
    ids.sort();
    ids
}

/// The event ids of `record(number)` for each number, sorted.
pub fn expected_ids(numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    let mut ids: Vec<String> = numbers
        .into_iter()
        .map(|number| format!("event-{number}"))
        .collect();
    ids.sort();
    ids
}
