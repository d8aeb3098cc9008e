//! Counters of the records room, read by the gateway's metrics.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A reading of the counters. Records, not rows, unless the name says so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Given to the recorder and kept.
    pub recorded: u64,
    /// Given to the recorder and not kept (see `Lost`).
    pub lost: u64,
    /// In the spool, not yet in the store.
    pub pending: u64,
    /// In the store.
    pub inserted: u64,
    /// Given up, oldest first, because the spool or the disk was full.
    pub dropped: u64,
    /// Refused by the store and written to `dead_letters.jsonl`.
    pub dead_letters: u64,
    /// Refused by the store while the dead letter file was full or could not be written.
    pub dead_letters_lost: u64,
    /// Taken over from processes that died.
    pub adopted: u64,
    /// Spooled records whose bytes were damaged.
    pub corrupt: u64,
    /// Frames a dead process had not finished; their requests never ended.
    pub torn: u64,
    /// Blocks inserted.
    pub blocks: u64,
    /// Inserts that failed and were tried again.
    pub insert_failures: u64,
    /// Disk taken by the spool.
    pub spool_bytes: u64,
    /// False from a failed insert until one succeeds.
    pub is_store_up: bool,
    /// Why the last insert failed, while `is_store_up` is false.
    pub last_error: Option<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub recorded: AtomicU64,
    pub lost: AtomicU64,
    pub pending_records: AtomicU64,
    pub inserted: AtomicU64,
    pub dropped_records: AtomicU64,
    pub dead_letters: AtomicU64,
    pub dead_letters_lost: AtomicU64,
    pub adopted_records: AtomicU64,
    pub corrupt_records: AtomicU64,
    pub torn_frames: AtomicU64,
    pub blocks: AtomicU64,
    pub insert_failures: AtomicU64,
    is_store_down: AtomicBool,
    last_error: Mutex<Option<String>>,
}

impl Counters {
    pub fn read(&self, spool_bytes: u64) -> Stats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            recorded: get(&self.recorded),
            lost: get(&self.lost),
            pending: get(&self.pending_records),
            inserted: get(&self.inserted),
            dropped: get(&self.dropped_records),
            dead_letters: get(&self.dead_letters),
            dead_letters_lost: get(&self.dead_letters_lost),
            adopted: get(&self.adopted_records),
            corrupt: get(&self.corrupt_records),
            torn: get(&self.torn_frames),
            blocks: get(&self.blocks),
            insert_failures: get(&self.insert_failures),
            spool_bytes,
            is_store_up: !self.is_store_down.load(Ordering::Relaxed),
            last_error: self
                .last_error
                .lock()
                .expect("nothing panics under this lock")
                .clone(),
        }
    }

    /// True when this changed what was known.
    pub fn store_is_down(&self, error: &str) -> bool {
        self.insert_failures.fetch_add(1, Ordering::Relaxed);
        *self
            .last_error
            .lock()
            .expect("nothing panics under this lock") = Some(error.to_string());
        !self.is_store_down.swap(true, Ordering::Relaxed)
    }

    /// True when this changed what was known.
    pub fn store_is_up(&self) -> bool {
        let was_down = self.is_store_down.swap(false, Ordering::Relaxed);
        if was_down {
            *self
                .last_error
                .lock()
                .expect("nothing panics under this lock") = None;
        }
        was_down
    }
}
