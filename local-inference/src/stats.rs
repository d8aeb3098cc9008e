//! Counters of the engine, read by whoever shows metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// A reading of all counters, summed over models.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests that have a place: running or waiting.
    pub admitted: u64,
    /// Sequences in the current step.
    pub running: u64,
    /// Requests refused as busy.
    pub rejected: u64,
    /// Sequences whose caller left before the end.
    pub cancelled: u64,
    pub steps: u64,
    /// Time spent in steps.
    pub step_micros: u64,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    /// Key/value blocks in use.
    pub kv_blocks: u64,
}

/// What the engine thread and the callers count in.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub admitted: AtomicU64,
    pub running: AtomicU64,
    pub rejected: AtomicU64,
    pub cancelled: AtomicU64,
    pub steps: AtomicU64,
    pub step_micros: AtomicU64,
    pub prompt_tokens: AtomicU64,
    pub completion_tokens: AtomicU64,
    pub kv_blocks: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, value: u64) {
        counter.fetch_add(value, Ordering::Relaxed);
    }

    pub(crate) fn read_into(&self, stats: &mut Stats) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        stats.admitted += read(&self.admitted);
        stats.running += read(&self.running);
        stats.rejected += read(&self.rejected);
        stats.cancelled += read(&self.cancelled);
        stats.steps += read(&self.steps);
        stats.step_micros += read(&self.step_micros);
        stats.prompt_tokens += read(&self.prompt_tokens);
        stats.completion_tokens += read(&self.completion_tokens);
        stats.kv_blocks += read(&self.kv_blocks);
    }
}
