//! Retention: old rows go in small pieces, so that inserts are never held up for long, and the file
//! gives the room back.

use std::time::{Duration, SystemTime};

use rusqlite::params;

use super::{Writer, failed};
use crate::error::Error;

const DAY: Duration = Duration::from_secs(86_400);
/// Rows removed in one transaction. Bodies are large, and few of them make a long transaction.
const ROWS_AT_ONCE: usize = 2_000;
const BODIES_AT_ONCE: usize = 50;
/// Pieces in one sweep; the rest waits for the next one.
const MAX_PIECES: usize = 200;
/// Ids of blocks are needed until the spool's acknowledgement is on the disk: seconds.
const BLOCK_ID_DAYS: u32 = 7;

impl Writer {
    /// Blocking, for a second or so at the most when much has piled up.
    pub fn sweep(&mut self) -> Result<(), Error> {
        let now = SystemTime::now();
        self.remove_older(
            "bodies",
            "created_at",
            self.body_retention_days,
            BODIES_AT_ONCE,
            now,
        )?;
        // A body does not outlive its row.
        self.remove_older(
            "bodies",
            "created_at",
            self.retention_days,
            BODIES_AT_ONCE,
            now,
        )?;
        self.remove_older(
            "attempts",
            "created_at",
            self.retention_days,
            ROWS_AT_ONCE,
            now,
        )?;
        self.remove_older(
            "requests",
            "created_at",
            self.retention_days,
            ROWS_AT_ONCE,
            now,
        )?;
        self.remove_older("blocks", "inserted_at", BLOCK_ID_DAYS, ROWS_AT_ONCE, now)?;
        self.connection()?
            .execute_batch("PRAGMA incremental_vacuum(2000)")
            .map_err(failed)
    }

    /// `table` and `column` are words of this file, never input.
    fn remove_older(
        &mut self,
        table: &str,
        column: &str,
        days: u32,
        at_once: usize,
        now: SystemTime,
    ) -> Result<(), Error> {
        if days == 0 {
            return Ok(()); // kept for ever
        }
        let Some(limit) = now.checked_sub(DAY * days) else {
            return Ok(());
        };
        let limit_us = limit
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_micros() as i64);
        let key = if table == "blocks" { "id" } else { "rowid" };
        let text = format!(
            "DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} WHERE {column} < ? LIMIT {at_once})"
        );
        for _ in 0..MAX_PIECES {
            let removed = self
                .connection()?
                .prepare_cached(&text)
                .map_err(failed)?
                .execute(params![limit_us])
                .map_err(failed)?;
            if removed < at_once {
                break;
            }
        }
        Ok(())
    }
}
