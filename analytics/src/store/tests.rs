//! What only the writer's side of a store can be asked: a block that comes again, and retention.

use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::*;
use crate::config::ClickHouseConfig;
use crate::record::{AttemptRow, Bodies, RequestRow};

const DAY_US: i64 = 86_400_000_000;

fn now_us() -> i64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("a clock after 1970")
        .as_micros() as i64
}

fn record(number: usize, created_at_us: i64) -> LogRecord {
    let (account, gateway) = ("acct".to_string(), "gw".to_string());
    let body = Bodies {
        request: b"hello".to_vec(),
        ..Bodies::default()
    };
    let attempt = AttemptRow {
        id: format!("01TEST{number:020}"),
        account: account.clone(),
        gateway: gateway.clone(),
        created_at_us,
        collect: true,
        body: Some(body),
        ..AttemptRow::default()
    };
    let request = RequestRow {
        event_id: format!("event-{number}"),
        account,
        gateway,
        created_at_us,
        collect: true,
        ..RequestRow::default()
    };
    LogRecord {
        request,
        attempts: vec![attempt],
    }
}

/// A store in a folder of its own, or in a database of its own on the tests' ClickHouse.
struct Opened {
    store: Store,
    sink: Sink,
    config: Config,
    _dir: TempDir,
}

impl Opened {
    fn sqlite() -> Opened {
        Opened::with(None)
    }

    /// `None`, and a line that says so, when there is no ClickHouse.
    fn clickhouse(test: &str) -> Option<Opened> {
        let Ok(url) = std::env::var("CLICKHOUSE_URL") else {
            use std::io::Write;
            let why = "CLICKHOUSE_URL is not set; scripts/lib/clickhouse.sh starts a server";
            let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
            return None;
        };
        let database = format!("test_{}", ulid::Ulid::generate()).to_lowercase();
        Some(Opened::with(Some(ClickHouseConfig {
            url,
            database,
            ..ClickHouseConfig::default()
        })))
    }

    fn with(clickhouse: Option<ClickHouseConfig>) -> Opened {
        let dir = TempDir::new().expect("a temporary folder");
        let config = Config {
            data_dir: dir.path().to_path_buf(),
            clickhouse,
            ..Config::default()
        };
        let (store, sink) = open(&config).expect("the store opens");
        Opened {
            store,
            sink,
            config,
            _dir: dir,
        }
    }

    async fn counts(&self) -> (u64, usize) {
        let query = LogQuery {
            account: "acct".into(),
            gateway: "gw".into(),
            ..LogQuery::default()
        };
        let attempts = self
            .store
            .list(query)
            .await
            .expect("the store answers")
            .total_count;
        let requests = self
            .store
            .requests("acct", "gw", 1_000)
            .await
            .expect("the store answers")
            .len();
        (attempts, requests)
    }
}

async fn a_block_that_comes_again_is_dropped(mut opened: Opened) {
    let records: Vec<LogRecord> = (0..10).map(|number| record(number, now_us())).collect();
    for _ in 0..3 {
        assert_eq!(
            opened.sink.insert("block-1", &records[..6]).await.unwrap(),
            vec![]
        );
        assert_eq!(opened.counts().await, (6, 6));
    }
    // Equal rows under another id are another block: only the id counts.
    opened.sink.insert("block-2", &records[6..]).await.unwrap();
    opened.sink.insert("block-1", &records[..6]).await.unwrap();
    assert_eq!(opened.counts().await, (10, 10));
    // A second process, after a crash, knows the blocks too.
    let (_, mut sink) = open(&opened.config).unwrap();
    sink.insert("block-2", &records[6..]).await.unwrap();
    assert_eq!(opened.counts().await, (10, 10));
}

#[tokio::test]
async fn a_block_that_comes_again_is_dropped_by_sqlite() {
    a_block_that_comes_again_is_dropped(Opened::sqlite()).await;
}

#[tokio::test]
async fn a_block_that_comes_again_is_dropped_by_clickhouse() {
    if let Some(opened) = Opened::clickhouse("a_block_that_comes_again_is_dropped_by_clickhouse") {
        a_block_that_comes_again_is_dropped(opened).await;
    }
}

#[tokio::test]
async fn a_refused_block_that_comes_again_is_halved_the_same_way() {
    let mut opened = Opened::sqlite();
    let mut records: Vec<LogRecord> = (0..9).map(|number| record(number, now_us())).collect();
    records[4].attempts[0].id = records[0].attempts[0].id.clone();
    for _ in 0..2 {
        let refused = opened.sink.insert("block-1", &records).await.unwrap();
        assert_eq!(
            refused
                .iter()
                .map(|refusal| refusal.index)
                .collect::<Vec<_>>(),
            [4]
        );
        assert_eq!(opened.counts().await, (8, 8));
    }
}

#[tokio::test]
async fn sqlite_removes_what_is_past_its_retention() {
    let mut opened = Opened::sqlite();
    let ages_in_days = [0, 3, 6, 8, 20, 29, 31, 400];
    let records: Vec<LogRecord> = (0..)
        .zip(ages_in_days)
        .map(|(number, days)| record(number, now_us() - days * DAY_US))
        .collect();
    opened.sink.insert("block-1", &records).await.unwrap();
    opened.sink.sweep().await.unwrap();
    assert_eq!(opened.counts().await, (6, 6), "30 days for rows");
    let mut bodies = 0;
    for record in &records {
        let id = &record.attempts[0].id;
        bodies += usize::from(opened.store.body("acct", "gw", id).await.unwrap().is_some());
    }
    assert_eq!(bodies, 3, "7 days for bodies");
}

#[tokio::test]
async fn zero_days_keep_for_ever() {
    let dir = TempDir::new().unwrap();
    let config = Config {
        data_dir: dir.path().to_path_buf(),
        retention_days: 0,
        body_retention_days: 0,
        ..Config::default()
    };
    let (store, mut sink) = open(&config).unwrap();
    let old = record(1, now_us() - 4_000 * DAY_US);
    sink.insert("block-1", std::slice::from_ref(&old))
        .await
        .unwrap();
    sink.sweep().await.unwrap();
    assert!(
        store
            .body("acct", "gw", &old.attempts[0].id)
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn clickhouse_retention_follows_the_configuration() {
    let Some(opened) = Opened::clickhouse("clickhouse_retention_follows_the_configuration") else {
        return;
    };
    let server = opened.config.clickhouse.clone().unwrap();
    let client = ::clickhouse::Client::default()
        .with_url(&server.url)
        .with_validation(false);
    let ddl = async |table: &str| {
        let text = "SELECT create_table_query FROM system.tables WHERE database = ? AND name = ?";
        client
            .query(text)
            .bind(&server.database)
            .bind(table)
            .fetch_one::<String>()
            .await
            .unwrap()
    };
    for (days, body_days, row_ttl, body_ttl) in [
        (30, 7, Some(30), Some(7)),
        (30, 7, Some(30), Some(7)),
        (90, 0, Some(90), Some(90)),
        (5, 7, Some(5), Some(5)),
        (0, 7, None, Some(7)),
        (0, 0, None, None),
    ] {
        let config = Config {
            retention_days: days,
            body_retention_days: body_days,
            ..opened.config.clone()
        };
        let (_, mut sink) = open(&config).unwrap();
        sink.insert(&format!("block-{days}-{body_days}"), &[])
            .await
            .unwrap();
        for (table, expected) in [
            ("attempts", row_ttl),
            ("requests", row_ttl),
            ("bodies", body_ttl),
        ] {
            let ddl = ddl(table).await;
            match expected {
                Some(days) => assert!(
                    ddl.contains(&format!("+ toIntervalDay({days})")),
                    "{table}: {ddl}"
                ),
                None => assert!(!ddl.contains(" TTL "), "{table}: {ddl}"),
            }
        }
    }
}

#[tokio::test]
async fn clickhouse_tables_that_went_away_are_made_again() {
    let Some(mut opened) = Opened::clickhouse("clickhouse_tables_that_went_away_are_made_again")
    else {
        return;
    };
    let server = opened.config.clickhouse.clone().unwrap();
    let client = ::clickhouse::Client::default().with_url(&server.url);
    opened
        .sink
        .insert("block-1", &[record(1, now_us())])
        .await
        .unwrap();
    client
        .query(&format!("DROP DATABASE {}", server.database))
        .execute()
        .await
        .unwrap();
    let records = [record(2, now_us())];
    // The first try finds out, the second makes the tables.
    assert!(matches!(
        opened.sink.insert("block-2", &records).await,
        Err(Error::Unavailable(_))
    ));
    opened.sink.insert("block-2", &records).await.unwrap();
    assert_eq!(opened.counts().await, (1, 1));
}

#[tokio::test]
async fn a_question_has_a_time_limit_of_its_own() {
    // A server that accepts and never answers.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let opened = Opened::with(Some(ClickHouseConfig {
        url: format!("http://{}", listener.local_addr().unwrap()),
        query_timeout_ms: 50,
        insert_timeout_ms: 50,
        ..ClickHouseConfig::default()
    }));
    let Opened {
        store, mut sink, ..
    } = opened;
    let patience = Duration::from_secs(30);
    let health = tokio::time::timeout(patience, store.health())
        .await
        .expect("it does not hang");
    assert!(matches!(health, Err(Error::Unavailable(_))));
    let insert = tokio::time::timeout(patience, sink.insert("block", &[record(1, 1)])).await;
    assert!(matches!(
        insert.expect("it does not hang"),
        Err(Error::Unavailable(_))
    ));
}

#[test]
fn the_sqlite_files_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let opened = Opened::sqlite();
    let files: Vec<_> = std::fs::read_dir(&opened.config.data_dir)
        .unwrap()
        .flatten()
        .collect();
    assert!(!files.is_empty());
    for file in files {
        assert_eq!(
            file.metadata().unwrap().permissions().mode() & 0o077,
            0,
            "{:?}",
            file.path()
        );
    }
}
