//! Records in `<data_dir>/logs.sqlite`. One connection writes, on the writer thread; a few read, on
//! blocking threads. Write-ahead logging lets both go on at once, also from two processes.

mod insert;
mod migrate;
mod query;
mod sweep;

use std::borrow::Cow;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags, ToSql};
use tokio::sync::Semaphore;

use crate::config::Config;
use crate::error::Error;
use crate::schema::Cell;
pub(crate) use query::Reader;

/// Another process may hold the file for a while; past this the block is tried again later.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Questions at one time; more wait for their turn within their own time limit.
const MAX_READERS: usize = 4;

pub(crate) struct Writer {
    path: Arc<Path>,
    /// `None` until the file could be prepared: another process may hold it for a while.
    connection: Option<Connection>,
    retention_days: u32,
    body_retention_days: u32,
}

pub(super) fn open(config: &Config) -> Result<(Reader, Writer), Error> {
    let path = config.data_dir.join("logs.sqlite");
    // Made here so that nobody else may read it; SQLite gives its -wal and -shm the same mode.
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(Error::io(&path))?;
    let path: Arc<Path> = Arc::from(path.as_path());
    let reader = Reader {
        path: path.clone(),
        idle: Arc::new(Mutex::new(Vec::new())),
        turns: Arc::new(Semaphore::new(MAX_READERS)),
    };
    let mut writer = Writer {
        path,
        connection: None,
        retention_days: config.retention_days,
        body_retention_days: config.body_retention_days,
    };
    match writer.connection() {
        Ok(_) => {}
        // Records wait in the spool, as they do for any store that is away.
        Err(error @ Error::Unavailable(_)) => {
            tracing::warn!(%error, "the log store is not ready; records wait for it")
        }
        Err(error) => return Err(error),
    }
    Ok((reader, writer))
}

impl Writer {
    /// The prepared connection, made now if it could not be made before.
    fn connection(&mut self) -> Result<&mut Connection, Error> {
        if self.connection.is_none() {
            self.connection = Some(prepare(&self.path)?);
        }
        Ok(self.connection.as_mut().expect("it was just made"))
    }
}

fn prepare(path: &Path) -> Result<Connection, Error> {
    let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
    connection
        .execute_batch(
            // FULL: a commit is on the disk before the spool lets go of its rows.
            "PRAGMA auto_vacuum = INCREMENTAL;
             PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             PRAGMA journal_size_limit = 67108864;",
        )
        .map_err(failed)?;
    migrate::migrate(&mut connection)?;
    Ok(connection)
}

fn connect(path: &Path, access: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

/// SQLite's messages name tables and columns, never values.
fn failed(error: rusqlite::Error) -> Error {
    Error::Unavailable(error.to_string())
}

impl ToSql for Cell<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Cell::Null => ValueRef::Null,
            Cell::Integer(value) => ValueRef::Integer(*value),
            Cell::Real(value) => ValueRef::Real(*value),
            Cell::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}

fn to_cell(value: ValueRef<'_>) -> Cell<'_> {
    match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(value) => Cell::Integer(value),
        ValueRef::Real(value) => Cell::Real(value),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => match String::from_utf8_lossy(bytes) {
            Cow::Borrowed(text) => Cell::Text(Cow::Borrowed(text)),
            Cow::Owned(text) => Cell::Text(Cow::Owned(text)),
        },
    }
}
