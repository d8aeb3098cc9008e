//! What the log stores themselves hold, read past the gateway: the logs API shows no request rows,
//! and not every column.

use crate::{Config, Request, TestGateway, client};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Map, Value, json};
use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// Columns in the store's order. Flags are 0 and 1 in either store.
pub type Columns = Map<String, Value>;

/// A question both stores understand, and its answer's rows.
pub trait Database {
    fn select(&self, sql: &str) -> impl Future<Output = Vec<Columns>>;
}

/// The file of a gateway that keeps its rows in SQLite.
pub struct Sqlite<'g>(pub &'g TestGateway);

impl Sqlite<'_> {
    /// A connection of our own, as another process would have it.
    pub fn connect(&self) -> Connection {
        let path = self.0.folder().join("data/logs.sqlite");
        Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)
            .expect("the gateway made its file")
    }
}

impl Database for Sqlite<'_> {
    async fn select(&self, sql: &str) -> Vec<Columns> {
        let connection = self.connect();
        let mut statement = connection.prepare(sql).expect("a sound question");
        let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let rows = statement.query_map([], |row| {
            let cell = |(index, name): (usize, &String)| {
                let value = match row.get_ref(index)? {
                    ValueRef::Null => Value::Null,
                    ValueRef::Integer(number) => json!(number),
                    ValueRef::Real(number) => json!(number),
                    ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
                        json!(String::from_utf8_lossy(bytes))
                    }
                };
                Ok((name.clone(), value))
            };
            names.iter().enumerate().map(cell).collect()
        });
        let rows = rows.expect("SQLite answers");
        rows.collect::<Result<_, _>>().expect("SQLite answers")
    }
}

/// A database of its own for one test, on the server at `CLICKHOUSE_URL`.
pub struct ClickHouse {
    pub address: SocketAddr,
    database: String,
}

impl ClickHouse {
    /// `None` where there is no server, which is said.
    pub fn of(test: &str) -> Option<ClickHouse> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let url = std::env::var("CLICKHOUSE_URL").unwrap_or_default();
        let Some(host) = url.trim_end_matches('/').strip_prefix("http://") else {
            let why = "CLICKHOUSE_URL is not set; scripts/lib/clickhouse.sh starts a server";
            // Past the test runner, which keeps what a passing test prints to itself.
            let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
            return None;
        };
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Some(ClickHouse {
            address: host
                .parse()
                .unwrap_or_else(|_| panic!("CLICKHOUSE_URL `{url}` is no http://address:port")),
            database: format!(
                "suite_{}_{}",
                since.expect("a clock past 1970").as_nanos(),
                COUNT.fetch_add(1, Ordering::Relaxed)
            ),
        })
    }

    /// `config` with rows going to this database by way of `url`.
    pub fn in_config(&self, config: Config, url: &str) -> Config {
        config
            .set("clickhouse", &format!("url = {url:?}"))
            .set("clickhouse", &format!("database = {:?}", self.database))
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    async fn ask(&self, database: &str, sql: &str) -> String {
        let target = format!(
            "/?database={database}&default_format=JSONEachRow&output_format_json_quote_64bit_integers=0"
        );
        let request = Request::post_bytes(&target, "text/plain", sql);
        client::send(self.address, &request)
            .await
            .expect_status(200)
            .text()
    }

    /// Takes the database away again.
    pub async fn forget(self) {
        let sql = format!("DROP DATABASE IF EXISTS {}", self.database);
        self.ask("default", &sql).await;
    }
}

impl Database for ClickHouse {
    async fn select(&self, sql: &str) -> Vec<Columns> {
        let text = self.ask(&self.database, sql).await;
        let row = |line| {
            let mut row: Columns = serde_json::from_str(line).expect("a row is JSON");
            for value in row.values_mut() {
                if let Value::Bool(flag) = value {
                    *value = json!(u8::from(*flag));
                }
            }
            row
        };
        text.lines().map(row).collect()
    }
}
