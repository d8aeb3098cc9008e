//! Places in the engine, running or waiting: what bounds its queue.

use crate::stats::Counters;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// One sequence's place, from before its prompt is read to its end; given back on drop.
pub(crate) struct Seat(Arc<Counters>);

impl Seat {
    /// `count` places if no more than `limit` are taken then.
    pub(crate) fn take(counters: &Arc<Counters>, count: u64, limit: u64) -> Option<Vec<Seat>> {
        let taken = counters
            .admitted
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                (taken + count <= limit).then_some(taken + count)
            });
        match taken {
            Ok(_) => Some((0..count).map(|_| Seat(Arc::clone(counters))).collect()),
            Err(_) => {
                Counters::add(&counters.rejected, 1);
                None
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.admitted.fetch_sub(1, Ordering::Relaxed);
    }
}
