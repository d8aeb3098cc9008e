//! Where records end up and where questions are answered. Two stores with the same columns and the
//! same answers: SQLite in the data folder, or ClickHouse over HTTP.
//!
//! `Store` answers; `Sink` is the writer thread's side. Bodies are kept in a table of their own.

mod clickhouse;
mod parts;
mod sqlite;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::config::Config;
use crate::dead_letter::Refused;
use crate::error::Error;
use crate::query::{LogPage, LogQuery};
use crate::record::{AttemptRow, Bodies, LogRecord, RequestRow};

/// Answers questions about records; cheap to clone. Each question has a time limit of its own
/// (`query_timeout_ms` of ClickHouse, 10 s in SQLite) and ends as `Error::Unavailable` past it.
#[derive(Clone)]
pub struct Store {
    kind: Arc<Kind>,
}

enum Kind {
    Sqlite(sqlite::Reader),
    ClickHouse(Box<clickhouse::Reader>),
}

/// The writer's side of a store.
pub(crate) enum Sink {
    Sqlite(sqlite::Writer),
    ClickHouse(Box<clickhouse::Writer>),
}

pub(crate) fn open(config: &Config) -> Result<(Store, Sink), Error> {
    let (kind, sink) = match &config.clickhouse {
        Some(server) => {
            let (reader, writer) = clickhouse::open(server, config)?;
            (
                Kind::ClickHouse(Box::new(reader)),
                Sink::ClickHouse(Box::new(writer)),
            )
        }
        None => {
            let (reader, writer) = sqlite::open(config)?;
            (Kind::Sqlite(reader), Sink::Sqlite(writer))
        }
    };
    Ok((
        Store {
            kind: Arc::new(kind),
        },
        sink,
    ))
}

impl Store {
    /// A page of attempt rows, without bodies.
    pub async fn list(&self, query: LogQuery) -> Result<LogPage, Error> {
        match &*self.kind {
            Kind::Sqlite(reader) => reader.list(query).await,
            Kind::ClickHouse(reader) => reader.list(query).await,
        }
    }

    /// One attempt row, without bodies; `None` when there is none or it is kept out of the logs.
    pub async fn get(
        &self,
        account: &str,
        gateway: &str,
        id: &str,
    ) -> Result<Option<AttemptRow>, Error> {
        match &*self.kind {
            Kind::Sqlite(reader) => reader.get(account, gateway, id).await,
            Kind::ClickHouse(reader) => reader.get(account, gateway, id).await,
        }
    }

    /// The bodies of one attempt; `None` when they were not kept, or not that long.
    pub async fn body(
        &self,
        account: &str,
        gateway: &str,
        id: &str,
    ) -> Result<Option<Bodies>, Error> {
        match &*self.kind {
            Kind::Sqlite(reader) => reader.body(account, gateway, id).await,
            Kind::ClickHouse(reader) => reader.body(account, gateway, id).await,
        }
    }

    /// The newest request rows of a gateway, newest first, those kept out of the logs included.
    pub async fn requests(
        &self,
        account: &str,
        gateway: &str,
        limit: usize,
    ) -> Result<Vec<RequestRow>, Error> {
        match &*self.kind {
            Kind::Sqlite(reader) => reader.requests(account, gateway, limit).await,
            Kind::ClickHouse(reader) => reader.requests(account, gateway, limit).await,
        }
    }

    /// Whether the store answers at all.
    pub async fn health(&self) -> Result<(), Error> {
        match &*self.kind {
            Kind::Sqlite(reader) => reader.health().await,
            Kind::ClickHouse(reader) => reader.health().await,
        }
    }
}

impl Sink {
    /// Inserts a block, once however often it is asked to. Gives back the records the store refuses
    /// for their content; any other failure is an error, and the block is to be sent again.
    pub async fn insert(
        &mut self,
        block: &str,
        records: &[LogRecord],
    ) -> Result<Vec<Refused>, Error> {
        match self {
            Sink::Sqlite(writer) => writer.insert(block, records),
            Sink::ClickHouse(writer) => writer.insert(block, records).await,
        }
    }

    /// Removes what is past its retention.
    pub async fn sweep(&mut self) -> Result<(), Error> {
        match self {
            Sink::Sqlite(writer) => writer.sweep(),
            Sink::ClickHouse(_) => Ok(()), // the tables' TTL does it
        }
    }
}
