//! Records the store refused for what is in them: one JSON line each, with the error, so that a
//! human can look. Bodies are left out (they are named by size); the file is for repair, not replay.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use serde::Serialize;

use crate::record::{AttemptRow, LogRecord, RequestRow};

/// Past this the file takes no more; refused records are then only counted.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// A record of a block that the store will never take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    /// Index in the block.
    pub index: usize,
    pub error: String,
}

#[derive(Serialize)]
struct Letter<'a> {
    block: &'a str,
    error: &'a str,
    request: &'a RequestRow,
    attempts: &'a [AttemptRow],
    body_bytes: usize,
}

pub(crate) struct DeadLetters {
    path: PathBuf,
}

impl DeadLetters {
    pub fn new(path: PathBuf) -> Self {
        DeadLetters { path }
    }

    /// Appends one record and syncs it. A record may stand here twice when the process died between
    /// this and the acknowledgement of its block.
    pub fn write(&self, block: &str, record: &LogRecord, error: &str) -> io::Result<()> {
        let bodies = record
            .attempts
            .iter()
            .filter_map(|attempt| attempt.body.as_ref());
        let letter = Letter {
            block,
            error,
            request: &record.request,
            attempts: &record.attempts,
            body_bytes: bodies
                .map(|body| body.request.len() + body.response.len())
                .sum(),
        };
        let mut line = serde_json::to_vec(&letter)?;
        line.push(b'\n');
        let mut file = self.open()?;
        if file.metadata()?.len() + line.len() as u64 > MAX_FILE_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::QuotaExceeded,
                "the dead letter file is full; look at it and remove it",
            ));
        }
        file.write_all(&line)?;
        file.sync_data()
    }

    fn open(&self) -> io::Result<File> {
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.path)
    }
}
