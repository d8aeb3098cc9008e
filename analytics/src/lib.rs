//! Records of what the gateway did: kept on disk at once, brought to a store, and asked for again.
//!
//! ```text
//! Recorder::record ─► spool (mapped files) ─► writer thread ─► SQLite or ClickHouse ─► Store
//!   on the request      write-ahead, bounded    blocks, retries    rows and bodies       list, get, body
//! ```
//!
//! - `record`: the rows; `schema`: the column list that DDL and inserts follow
//! - `recorder`, `spool`, `writer`, `dead_letter`, `stats`: the way in
//! - `store`: SQLite and ClickHouse; `query`: questions, typed, the same for both
//!
//! A record that `Recorder::record` accepted survives `kill -9` and reaches the store exactly once.
//! A store that is down slows nothing and loses nothing until the spool's bound is reached; then the
//! oldest records go, counted.

mod config;
mod dead_letter;
mod error;
mod query;
mod record;
mod recorder;
pub mod schema;
mod spool;
mod stats;
mod store;
mod writer;

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::time::Duration;

pub use config::{ClickHouseConfig, Config, Password};
pub use error::{Error, Lost};
pub use query::{Extent, Extents, Filter, FilterKey, LogPage, LogQuery, Operator, OrderBy};
pub use record::{AttemptRow, Bodies, LogRecord, RequestRow};
pub use recorder::Recorder;
pub use stats::Stats;
pub use store::Store;
pub use writer::WriterHandle;

/// Opens the spool and the store and starts the writer. SQLite must open; a ClickHouse that does not
/// answer yet is no failure, its records wait in the spool.
pub async fn open(config: &Config) -> Result<(Recorder, Store, WriterHandle), Error> {
    let dir = &config.data_dir;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(Error::io(dir))?;
    if config.spool_max_bytes < 4 << 20 {
        return Err(Error::Config(format!(
            "spool_max_bytes is {}; at least 4194304 (4 MiB) are needed",
            config.spool_max_bytes
        )));
    }
    let counters = Arc::new(stats::Counters::default());
    let (store, sink) = store::open(config)?;
    let limits = spool::Limits {
        // Four segments at least, so that giving up the oldest keeps most.
        segment_bytes: config
            .segment_bytes
            .clamp(64 << 10, config.spool_max_bytes / 4),
        max_bytes: config.spool_max_bytes,
    };
    let spool = spool::Spool::open(&dir.join("spool"), limits, counters.clone())?;
    let writer = writer::Writer {
        spool: spool.clone(),
        sink,
        limits: spool::BlockLimits {
            max_records: u64::from(config.max_block_rows.max(1)),
            max_bytes: config.max_block_bytes,
        },
        max_block_age: Duration::from_millis(config.max_block_age_ms),
        dead_letters: dead_letter::DeadLetters::new(dir.join("dead_letters.jsonl")),
        counters: counters.clone(),
    };
    let handle = writer::start(writer).map_err(Error::io(dir))?;
    Ok((Recorder { spool, counters }, store, handle))
}
