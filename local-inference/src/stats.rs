//! Counters of the engine, read by whoever shows metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// Names every counter once: the public reading, the atomics behind it, and the sum over models.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A reading of one model's counters, or their sum over all models.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// What the engine thread and the callers count in.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub $name: AtomicU64,)*
        }

        impl Counters {
            pub(crate) fn read(&self) -> Stats {
                Stats { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }

        impl std::ops::AddAssign for Stats {
            fn add_assign(&mut self, other: Stats) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

counters! {
    /// Sequences that have a place: running, waiting, or with a prompt still being read. A gauge.
    admitted,
    /// Sequences that take part in steps. A gauge.
    running,
    /// Sequences in the queue, those that had to give way among them. A gauge.
    waiting,
    /// Requests refused as busy.
    rejected,
    /// Sequences whose caller left before the end.
    cancelled,
    /// Sequences that had to give their blocks up for others, each time.
    preemptions,
    steps,
    /// Time spent in steps.
    step_micros,
    /// Of that, time spent choosing tokens and writing them out.
    sample_micros,
    /// Rows of all steps: `step_tokens / steps` is the mean batch.
    step_tokens,
    /// Prompt tokens computed, those computed again after giving way included.
    prompt_tokens,
    /// Prompt tokens not computed, an earlier text having left them.
    cached_tokens,
    completion_tokens,
    /// Key/value blocks held by running sequences. A gauge.
    kv_blocks,
    /// Blocks there are. A gauge, 0 while not loaded.
    kv_blocks_total,
    /// Bytes of weights, attention memory and room for adapters, by estimate until it is loaded. A gauge.
    memory_bytes,
    /// Times the model was loaded.
    loads,
    /// Times it could not be.
    load_failures,
    /// Times it was unloaded, idle or for another model.
    unloads,
    /// Adapters that are there. A gauge.
    adapters,
    /// Memory they take. A gauge.
    adapter_bytes,
    /// Requests whose adapter was there when they came.
    adapter_hits,
    /// Times an adapter was made ready.
    adapter_loads,
    /// Times one could not be fetched or loaded.
    adapter_failures,
    /// Times one was let go for another.
    adapter_evictions,
    /// Time from an adapter's being asked for to its being ready, of all loads.
    adapter_wait_micros,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, value: u64) {
        counter.fetch_add(value, Ordering::Relaxed);
    }

    pub(crate) fn set(counter: &AtomicU64, value: usize) {
        counter.store(value as u64, Ordering::Relaxed);
    }
}
