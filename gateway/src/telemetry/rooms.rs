//! Counters that the other rooms keep, in Prometheus text format under their room's name.

use std::fmt::Write;

use crate::cache::CacheStats;

fn counter(text: &mut String, name: &str, help: &str, value: u64) {
    metric(text, name, help, "counter", value);
}

fn gauge(text: &mut String, name: &str, help: &str, value: u64) {
    metric(text, name, help, "gauge", value);
}

fn metric(text: &mut String, name: &str, help: &str, kind: &str, value: u64) {
    writeln!(
        text,
        "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
    )
    .expect("a String takes all text");
}

pub fn records(text: &mut String, stats: &analytics::Stats) {
    counter(
        text,
        "analytics_records_total",
        "Records taken by the spool",
        stats.recorded,
    );
    counter(
        text,
        "analytics_records_inserted_total",
        "Records in the store",
        stats.inserted,
    );
    counter(
        text,
        "analytics_records_dropped_total",
        "Records lost: not taken by the spool, or given up because it was full",
        stats.lost + stats.dropped,
    );
    counter(
        text,
        "analytics_dead_letters_total",
        "Records the store refused for their data",
        stats.dead_letters,
    );
    counter(
        text,
        "analytics_insert_failures_total",
        "Inserts that failed and were tried again",
        stats.insert_failures,
    );
    gauge(
        text,
        "analytics_records_pending",
        "Records in the spool, not yet in the store",
        stats.pending,
    );
    gauge(
        text,
        "analytics_spool_bytes",
        "Disk taken by the spool",
        stats.spool_bytes,
    );
    gauge(
        text,
        "analytics_store_up",
        "0 from a failed insert until one succeeds",
        u64::from(stats.is_store_up),
    );
}

pub fn cache(text: &mut String, stats: &CacheStats) {
    counter(
        text,
        "gateway_cache_hits_total",
        "Requests answered from the cache",
        stats.hits,
    );
    counter(
        text,
        "gateway_cache_misses_total",
        "Cacheable requests that were not",
        stats.misses,
    );
    counter(
        text,
        "gateway_cache_stored_total",
        "Answers stored",
        stats.stored,
    );
    counter(
        text,
        "gateway_cache_too_large_total",
        "Answers not stored for their size",
        stats.too_large,
    );
    gauge(text, "gateway_cache_entries", "Answers held", stats.entries);
    gauge(text, "gateway_cache_bytes", "Bytes held", stats.bytes);
}

pub fn redis(text: &mut String, stats: &crate::redis::RedisStats, fallbacks: u64) {
    gauge(
        text,
        "gateway_redis_up",
        "1 while Redis answers",
        u64::from(stats.is_up),
    );
    counter(
        text,
        "gateway_redis_commands_total",
        "Commands that were answered",
        stats.commands,
    );
    counter(
        text,
        "gateway_redis_errors_total",
        "Commands that failed or took too long",
        stats.errors,
    );
    counter(
        text,
        "gateway_redis_skipped_total",
        "Commands not sent, because no connection stood",
        stats.skipped,
    );
    counter(
        text,
        "gateway_limit_fallbacks_total",
        "Requests counted by this process alone because Redis was away",
        fallbacks,
    );
}

/// One line a model. Their names come from the configuration, so their number is bounded.
#[cfg(feature = "local")]
pub fn engine(text: &mut String, models: &[(&str, local_inference::Stats)]) {
    use local_inference::Stats;
    type Read = fn(&Stats) -> f64;
    const COUNTERS: &[(&str, &str, Read)] = &[
        ("engine_rejected_total", "Requests refused as busy", |s| {
            s.rejected as f64
        }),
        ("engine_cancelled_total", "Answers whose caller left", |s| {
            s.cancelled as f64
        }),
        (
            "engine_preemptions_total",
            "Answers that gave their attention memory up for others",
            |s| s.preemptions as f64,
        ),
        ("engine_steps_total", "Steps", |s| s.steps as f64),
        ("engine_step_seconds_total", "Time spent in steps", |s| {
            s.step_micros as f64 / 1e6
        }),
        (
            "engine_sample_seconds_total",
            "Of that, time spent choosing tokens and writing them out",
            |s| s.sample_micros as f64 / 1e6,
        ),
        (
            "engine_step_tokens_total",
            "Rows of all steps; by steps, the mean batch",
            |s| s.step_tokens as f64,
        ),
        (
            "engine_prompt_tokens_total",
            "Prompt tokens computed",
            |s| s.prompt_tokens as f64,
        ),
        (
            "engine_cached_tokens_total",
            "Prompt tokens found computed",
            |s| s.cached_tokens as f64,
        ),
        ("engine_completion_tokens_total", "Tokens generated", |s| {
            s.completion_tokens as f64
        }),
        ("engine_loads_total", "Times the model was loaded", |s| {
            s.loads as f64
        }),
        ("engine_load_failures_total", "Times it could not be", |s| {
            s.load_failures as f64
        }),
        ("engine_unloads_total", "Times it was unloaded", |s| {
            s.unloads as f64
        }),
        (
            "engine_adapter_hits_total",
            "Requests whose adapter was there when they came",
            |s| s.adapter_hits as f64,
        ),
        (
            "engine_adapter_loads_total",
            "Times an adapter was made ready",
            |s| s.adapter_loads as f64,
        ),
        (
            "engine_adapter_failures_total",
            "Times an adapter could not be fetched or loaded",
            |s| s.adapter_failures as f64,
        ),
        (
            "engine_adapter_evictions_total",
            "Times an adapter was let go for another",
            |s| s.adapter_evictions as f64,
        ),
        (
            "engine_adapter_wait_seconds_total",
            "Time from an adapter's being asked for to its being ready",
            |s| s.adapter_wait_micros as f64 / 1e6,
        ),
    ];
    const GAUGES: &[(&str, &str, Read)] = &[
        (
            "engine_admitted",
            "Answers that have a place, running or waiting",
            |s| s.admitted as f64,
        ),
        ("engine_running", "Answers that take part in steps", |s| {
            s.running as f64
        }),
        ("engine_waiting", "Answers in the queue", |s| {
            s.waiting as f64
        }),
        (
            "engine_kv_blocks",
            "Blocks of attention memory held by running answers",
            |s| s.kv_blocks as f64,
        ),
        (
            "engine_kv_capacity_blocks",
            "Blocks there are; 0 while not loaded",
            |s| s.kv_blocks_total as f64,
        ),
        (
            "engine_memory_bytes",
            "Weights, attention memory and room for adapters",
            |s| s.memory_bytes as f64,
        ),
        ("engine_adapters", "Adapters that are loaded", |s| {
            s.adapters as f64
        }),
        ("engine_adapter_bytes", "Memory of loaded adapters", |s| {
            s.adapter_bytes as f64
        }),
    ];
    for (kind, table) in [("counter", COUNTERS), ("gauge", GAUGES)] {
        for (name, help, read) in table {
            writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}")
                .expect("a String takes all text");
            for (model, stats) in models {
                let value = read(stats);
                writeln!(text, "{name}{{model=\"{model}\"}} {value}")
                    .expect("a String takes all text");
            }
        }
    }
}
