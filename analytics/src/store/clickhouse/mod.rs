//! Records in a ClickHouse server, over its HTTP interface. The server may be down at any time, at
//! the start too: tables are made before the first insert or question that finds it up.

mod failure;
mod insert;
mod migrate;
mod query;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clickhouse::Client;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::Mutex;

use crate::config::{ClickHouseConfig, Config};
use crate::error::Error;

/// A server and whether its tables are known to be there.
struct Server {
    client: Client,
    database: String,
    retention_days: u32,
    body_retention_days: u32,
    tables: Arc<Tables>,
}

/// Whether the tables are known to be there, shared by both sides.
#[derive(Default)]
struct Tables {
    are_ready: AtomicBool,
    migrating: Mutex<()>,
}

pub(crate) struct Reader {
    server: Server,
    time_limit: Duration,
}

pub(crate) struct Writer {
    server: Server,
    time_limit: Duration,
}

pub(super) fn open(config: &ClickHouseConfig, all: &Config) -> Result<(Reader, Writer), Error> {
    check_url(&config.url)?;
    let tables = Arc::new(Tables::default());
    // One client each: a client's connections live on the runtime that made them.
    let server = || Server {
        client: client(config),
        database: config.database.clone(),
        retention_days: all.retention_days,
        body_retention_days: all.body_retention_days,
        tables: tables.clone(),
    };
    let reader = Reader {
        server: server(),
        time_limit: Duration::from_millis(config.query_timeout_ms),
    };
    let writer = Writer {
        server: server(),
        time_limit: Duration::from_millis(config.insert_timeout_ms),
    };
    Ok((reader, writer))
}

fn client(config: &ClickHouseConfig) -> Client {
    // Validation asks the server for its columns and panics where they differ; our columns are
    // held to the DDL by a test.
    let mut client = Client::default()
        .with_url(&config.url)
        .with_validation(false);
    if !config.user.is_empty() {
        client = client.with_user(&config.user);
    }
    if let Some(password) = &config.password {
        client = client.with_password(password.reveal());
    }
    client
}

fn check_url(url: &str) -> Result<(), Error> {
    let rest = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"));
    let host = rest
        .and_then(|rest| rest.split(['/', '?']).next())
        .unwrap_or_default();
    if host.contains('@') {
        return Err(Error::Config(
            "clickhouse.url holds credentials; put them in `user` and `password`".into(),
        ));
    }
    if host.is_empty() {
        return Err(Error::Config(format!(
            "clickhouse.url is `{url}`; it has to look like `http://127.0.0.1:8123`"
        )));
    }
    Ok(())
}

impl Server {
    /// A client for our database, once its tables are there.
    async fn ready(&self) -> Result<Client, Error> {
        if !self.tables.are_ready.load(Ordering::Acquire) {
            let _one_at_a_time = self.tables.migrating.lock().await;
            if !self.tables.are_ready.load(Ordering::Acquire) {
                migrate::migrate(self).await?;
                self.tables.are_ready.store(true, Ordering::Release);
            }
        }
        Ok(self.client.clone().with_database(&self.database))
    }

    /// An error of a call, as ours. Tables that have gone (a server set up anew while we run) are
    /// made again at the next call.
    fn failed(&self, error: clickhouse::error::Error) -> Error {
        if failure::is_about_missing_tables(&error) {
            self.tables.are_ready.store(false, Ordering::Release);
        }
        failure::failed(error)
    }
}

/// Bytes as a ClickHouse `String`, which is not necessarily UTF-8.
struct Blob<B>(B);

impl<B: AsRef<[u8]>> Serialize for Blob<B> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0.as_ref())
    }
}

impl<'de> Deserialize<'de> for Blob<Vec<u8>> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl serde::de::Visitor<'_> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(bytes)
            }
        }
        deserializer.deserialize_byte_buf(Bytes).map(Blob)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_cannot_work_is_refused_at_the_start() {
        for (url, is_good) in [
            ("http://127.0.0.1:8123", true),
            ("https://logs.example/clickhouse", true),
            ("127.0.0.1:8123", false),
            ("http://", false),
            ("http://user:secret@host:8123", false),
        ] {
            let result = check_url(url);
            assert_eq!(result.is_ok(), is_good, "{url}");
            assert!(!format!("{result:?}").contains("secret"), "{url}");
        }
    }
}
