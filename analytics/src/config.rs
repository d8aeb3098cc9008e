//! Settings of the records room. The gateway fills `data_dir` and the password from its own tree.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Bounds, retention and the choice of store.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Folder of `logs.sqlite`, `spool/` and `dead_letters.jsonl`. Default `./data`.
    pub data_dir: PathBuf,
    /// Disk the spool may use. Past it the oldest segment not yet in the store is given up and its
    /// rows are counted as dropped. Default 1 GiB; raise it to survive a longer outage of the store.
    pub spool_max_bytes: u64,
    /// Size of one spool file, allocated ahead. Default 16 MiB.
    pub segment_bytes: u64,
    /// Records in one insert at most. Default 10,000.
    pub max_block_rows: u32,
    /// Bytes in one insert at most (a larger single record goes alone). Default 16 MiB.
    pub max_block_bytes: u64,
    /// How long a record may wait for others before it is inserted. Default 200 ms; a longer wait
    /// makes fewer and larger inserts.
    pub max_block_age_ms: u64,
    /// Days a row is kept; 0 keeps rows for ever. Default 30.
    pub retention_days: u32,
    /// Days a stored body is kept; 0 keeps bodies for ever. Default 7.
    pub body_retention_days: u32,
    /// Where records go; without it they go to SQLite in `data_dir`.
    pub clickhouse: Option<ClickHouseConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            data_dir: PathBuf::from("./data"),
            spool_max_bytes: 1 << 30,
            segment_bytes: 16 << 20,
            max_block_rows: 10_000,
            max_block_bytes: 16 << 20,
            max_block_age_ms: 200,
            retention_days: 30,
            body_retention_days: 7,
            clickhouse: None,
        }
    }
}

/// A ClickHouse server, spoken to over HTTP.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClickHouseConfig {
    /// Address of the HTTP interface, without credentials. Default `http://127.0.0.1:8123`.
    pub url: String,
    /// Database, made when it does not exist. Default `ai_gateway`.
    pub database: String,
    /// User; empty means the server's default user. Default empty.
    pub user: String,
    /// Given by the program; neither read from the written configuration nor printed with it.
    #[serde(skip)]
    pub password: Option<Password>,
    /// How long one insert may take before it is tried again. Default 30,000 ms.
    pub insert_timeout_ms: u64,
    /// How long a question may take before it is given up. Default 10,000 ms.
    pub query_timeout_ms: u64,
}

impl Default for ClickHouseConfig {
    fn default() -> Self {
        ClickHouseConfig {
            url: "http://127.0.0.1:8123".into(),
            database: "ai_gateway".into(),
            user: String::new(),
            password: None,
            insert_timeout_ms: 30_000,
            query_timeout_ms: 10_000,
        }
    }
}

/// The password of the log store; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    pub fn new(password: impl Into<String>) -> Self {
        Password(password.into())
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Password(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_table_gives_the_defaults() {
        let config: Config = serde_json::from_str("{}").expect("an empty object parses");
        assert_eq!(config, Config::default());
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error = serde_json::from_str::<Config>(r#"{"retention": 3}"#).unwrap_err();
        assert!(error.to_string().contains("retention"), "{error}");
    }

    #[test]
    fn the_password_is_not_printed() {
        let config = ClickHouseConfig {
            password: Some(Password::new("hunter2")),
            ..ClickHouseConfig::default()
        };
        assert!(!format!("{config:?}").contains("hunter2"));
        assert!(!serde_json::to_string(&config).unwrap().contains("hunter2"));
    }
}
