//! The request path's side of this room: one call that encodes a record and copies it into the
//! spool. It never touches the network and never waits for the store.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::Lost;
use crate::record::LogRecord;
use crate::spool::Spool;
use crate::stats::{Counters, Stats};

/// Where records are given; cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    pub(crate) spool: Arc<Spool>,
    pub(crate) counters: Arc<Counters>,
}

impl Recorder {
    /// Keeps `record`: once this returns `Ok`, the record survives `kill -9` and comes to the store
    /// exactly once. A sync copy into mapped memory, safe to call from async code; a few
    /// microseconds without bodies. A loss is counted here; the caller's request goes on.
    pub fn record(&self, record: &LogRecord) -> Result<(), Lost> {
        let result = self.spool.append(record);
        let counter = if result.is_ok() {
            &self.counters.recorded
        } else {
            &self.counters.lost
        };
        counter.fetch_add(1, Ordering::Relaxed);
        result
    }

    /// The counters now.
    pub fn stats(&self) -> Stats {
        self.counters.read(self.spool.bytes())
    }
}
