//! The queries that boards use: run as written, on the tables the gateway itself makes, against a
//! ClickHouse at `CLICKHOUSE_URL`. Rows are put in by hand, so that every number is known.

use serde_json::{Value, json};
use std::io::Write as _;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use tests::logs::logs_path;
use tests::{Config, Request, TestGateway, client, eventually};

/// 2026-01-01 00:00:00 UTC, and 100 minutes later: intervals of a minute.
const FROM_MS: u64 = 1_767_225_600_000;
const TO_MS: u64 = FROM_MS + 100 * 60_000;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboards/queries")
}

/// Every query by its path under `dashboards/queries`, without `.sql`.
fn queries() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let entries = |path: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(path).expect("a readable folder");
        entries
            .map(|entry| entry.expect("an entry").path())
            .collect()
    };
    for board in entries(&folder()) {
        for path in entries(&board) {
            let name = path
                .strip_prefix(folder())
                .expect("below it")
                .with_extension("");
            let text = std::fs::read_to_string(&path).expect("readable text");
            found.push((name.display().to_string(), text));
        }
    }
    found.sort();
    found
}

/// Each `${...}` of a query, without its braces.
fn variables(text: &str) -> Vec<&str> {
    let ends = text.split("${").skip(1).map(|rest| rest.split_once('}'));
    ends.map(|cut| cut.expect("a variable ends with `}`").0)
        .collect()
}

/// What Grafana makes of a query: its built-in times, and our two variables quoted by `sqlstring`.
fn filled(text: &str, account: &[&str], gateway: &[&str]) -> String {
    let quoted = |values: &[&str]| {
        let quoted = values
            .iter()
            .map(|value| format!("'{}'", value.replace('\'', "''")));
        quoted.collect::<Vec<_>>().join(",")
    };
    text.replace("${__from}", &FROM_MS.to_string())
        .replace("${__to}", &TO_MS.to_string())
        .replace("${account:sqlstring}", &quoted(account))
        .replace("${gateway:sqlstring}", &quoted(gateway))
}

#[test]
fn each_query_says_what_it_answers_and_asks_grafana_for_nothing_else() {
    let queries = queries();
    assert!(!queries.is_empty());
    for (name, text) in queries {
        let question = text.lines().next().unwrap_or_default();
        assert!(
            question.starts_with("-- ") && question.ends_with('?'),
            "{name}: `{question}`"
        );
        for variable in variables(&text) {
            let is_known =
                matches!(variable, "__from" | "__to") || variable.ends_with(":sqlstring");
            assert!(is_known, "{name}: ${{{variable}}}");
        }
        assert!(!filled(&text, &["a"], &["g"]).contains('$'), "{name}");
    }
}

/// A database of its own, with the gateway's tables in it.
struct Store {
    server: SocketAddr,
    database: String,
}

impl Store {
    async fn open(url: &str) -> Store {
        let authority = url.trim_end_matches('/').strip_prefix("http://");
        let server = authority
            .and_then(|authority| authority.to_socket_addrs().ok()?.next())
            .unwrap_or_else(|| {
                panic!("CLICKHOUSE_URL = `{url}`: http://host:port is understood here")
            });
        let nanos = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_nanos();
        let database = format!("test_dashboards_{nanos}");
        let config = Config::new()
            .set("clickhouse", &format!("url = {url:?}"))
            .set("clickhouse", &format!("database = {database:?}"))
            .set("records", "retention_days = 0");
        let gateway = TestGateway::start(config).await;
        let logs = Request::get(&logs_path("default", "default"));
        eventually("the gateway to make its tables", async || {
            (gateway.send(&logs).await.status == 200).then_some(())
        })
        .await;
        Store { server, database }
    }

    async fn ask(&self, statement: &str) -> String {
        let target = format!(
            "/?database={}&output_format_json_quote_64bit_integers=0",
            self.database
        );
        let request = Request::post_bytes(&target, "text/plain", statement);
        let answer = client::send(self.server, &request).await;
        assert_eq!(answer.status, 200, "{statement}\n{}", answer.text());
        answer.text()
    }

    /// Each row is `base` with `own` over it.
    async fn insert(&self, table: &str, base: &Value, rows: &[Value]) {
        let mut statement = format!("INSERT INTO {table} FORMAT JSONEachRow\n");
        for own in rows {
            let mut row = base.clone();
            for (name, value) in own.as_object().expect("a row") {
                row[name] = value.clone();
            }
            statement += &format!("{row}\n");
        }
        self.ask(&statement).await;
    }

    /// The frame of a query: names, then rows.
    async fn frame(&self, query: &str, account: &[&str], gateway: &[&str]) -> (Vec<String>, Value) {
        let (_, text) = queries()
            .into_iter()
            .find(|(name, _)| name == query)
            .unwrap_or_else(|| panic!("no dashboards/queries/{query}.sql"));
        let answer = self
            .ask(&format!(
                "{} FORMAT JSONCompact",
                filled(&text, account, gateway)
            ))
            .await;
        let mut answer: Value = serde_json::from_str(&answer).expect("JSON");
        let columns = answer["meta"].as_array().expect("columns").iter();
        let names = columns.map(|column| column["name"].as_str().expect("a name").to_owned());
        (names.collect(), answer["data"].take())
    }

    async fn check(&self, query: &str, names: &[&str], rows: Value) {
        let (found_names, found_rows) = self.frame(query, &["acct"], &["gw"]).await;
        assert_eq!(found_names, names, "{query}");
        assert_eq!(found_rows, rows, "{query}");
    }
}

/// Seven requests of one gateway in two minutes; before and after the time range, and in other
/// accounts and gateways, one each that no query may count.
async fn fill(store: &Store) {
    let request = json!({
        "account": "acct", "gateway": "gw", "created_at": "2026-01-01 00:00:05.000000",
        "status_code": 200, "success": true, "decision": "direct", "provider": "openai",
        "model": "gpt-4o-mini", "attempts": 1, "duration_us": 400_000, "first_byte_us": 100_000,
    });
    let requests = [
        json!({}),
        json!({"decision": "retry", "duration_us": 800_000, "first_byte_us": 300_000}),
        json!({"cached": true, "decision": "cache_hit", "duration_us": 1, "first_byte_us": 1}),
        json!({"created_at": "2026-01-01 00:01:10.000000", "decision": "fallback", "provider": "groq"}),
        json!({"created_at": "2026-01-01 00:01:11.000000", "success": false, "status_code": 429, "decision": "rate_limited"}),
        json!({"created_at": "2026-01-01 00:01:12.000000", "success": false, "status_code": 502, "decision": "failed"}),
        json!({"created_at": "2026-01-01 00:01:59.999999", "success": false, "status_code": 500, "decision": "retry"}),
        json!({"created_at": "2025-12-31 23:59:59.999999"}),
        json!({"created_at": "2026-01-01 01:40:00.000000"}),
        json!({"account": "other"}),
        json!({"gateway": "it's"}),
    ];
    store.insert("requests", &request, &requests).await;
    let attempt = json!({
        "account": "acct", "gateway": "gw", "created_at": "2026-01-01 00:00:05.000000",
        "provider": "openai", "model": "gpt-4o-mini", "status_code": 200, "success": true,
        "decision": "direct", "tokens_in": 1000, "tokens_out": 200, "cost_pico": 270_000_000,
    });
    let unknown = json!({"tokens_in": null, "tokens_out": null, "cost_pico": null});
    let failed = |own: Value| {
        let mut row = unknown.clone();
        row["success"] = json!(false);
        row["decision"] = json!("failed");
        for (name, value) in own.as_object().expect("a row") {
            row[name] = value.clone();
        }
        row
    };
    let attempts = [
        json!({}),
        json!({"decision": "retry"}),
        json!({"cached": true, "decision": "cache_hit", "cost_pico": 0}),
        json!({"provider": "groq", "model": "new", "tokens_in": 10, "tokens_out": 20, "cost_pico": null}),
        failed(json!({"status_code": 503})),
        failed(json!({"status_code": 503, "created_at": "2026-01-01 00:02:00.000000"})),
        failed(json!({"status_code": 0, "error_code": "upstream_timeout"})),
        failed(
            json!({"status_code": 429, "error_code": "rate_limited", "decision": "rate_limited"}),
        ),
        failed(json!({"status_code": 200, "error_code": "client_gone", "decision": "client_gone"})),
        json!({"created_at": "2026-01-01 01:40:00.000000"}),
        json!({"account": "other"}),
        json!({"gateway": "it's"}),
    ];
    store.insert("attempts", &attempt, &attempts).await;
}

#[tokio::test]
async fn each_query_answers_its_question_on_the_gateways_own_tables() {
    let url = match std::env::var("CLICKHOUSE_URL") {
        Ok(url) if !url.is_empty() => url,
        _ => {
            // Not by `println!`, which the test runner keeps to itself when a test passes.
            let test = "each_query_answers_its_question_on_the_gateways_own_tables";
            let why = "CLICKHOUSE_URL is not set; scripts/lib/clickhouse.sh starts a server";
            let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
            return;
        }
    };
    let store = Store::open(&url).await;
    fill(&store).await;
    let (first, second) = ("2026-01-01 00:00:00", "2026-01-01 00:01:00");
    store
        .check(
            "overview/requests",
            &["time", "answered", "cached", "rate_limited", "failed"],
            json!([[first, 2, 1, 0, 0], [second, 1, 0, 1, 2]]),
        )
        .await;
    store
        .check(
            "overview/latency",
            &[
                "time",
                "first_byte_p50",
                "first_byte_p95",
                "whole_p50",
                "whole_p95",
            ],
            json!([[first, 200, 290, 600, 780], [second, 100, 100, 400, 400]]),
        )
        .await;
    store
        .check(
            "overview/spend",
            &[
                "provider",
                "model",
                "tries",
                "tokens_in",
                "tokens_out",
                "cost_usd",
                "unpriced",
            ],
            json!([
                ["openai", "gpt-4o-mini", 7, 2000, 400, 0.00054, 0],
                ["groq", "new", 1, 10, 20, 0, 1],
            ]),
        )
        .await;
    store
        .check(
            "overview/failures",
            &["provider", "failure", "tries", "last"],
            json!([
                ["openai", "503", 2, "2026-01-01 00:02:00.000000"],
                [
                    "openai",
                    "upstream_timeout",
                    1,
                    "2026-01-01 00:00:05.000000"
                ],
            ]),
        )
        .await;
    store
        .check(
            "overview/rescued",
            &["provider", "answered", "retried", "fell_back"],
            json!([["openai", 2, 1, 0], ["groq", 1, 0, 1]]),
        )
        .await;
    // A name with a quote, and several at once.
    let (_, rows) = store.frame("overview/rescued", &["acct"], &["it's"]).await;
    assert_eq!(rows, json!([["openai", 1, 0, 0]]));
    let (_, rows) = store
        .frame("overview/rescued", &["acct", "other"], &["gw", "it's"])
        .await;
    assert_eq!(rows, json!([["openai", 4, 1, 0], ["groq", 1, 0, 1]]));
    for (name, _) in queries() {
        let (_, rows) = store.frame(&name, &["nobody"], &["gw"]).await;
        assert_eq!(rows, json!([]), "{name} without rows");
    }
    store
        .ask(&format!("DROP DATABASE {}", store.database))
        .await;
}
