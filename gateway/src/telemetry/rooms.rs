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

#[cfg(feature = "local")]
pub fn engine(text: &mut String, stats: &local_inference::Stats) {
    counter(
        text,
        "engine_rejected_total",
        "Requests refused as busy",
        stats.rejected,
    );
    counter(
        text,
        "engine_cancelled_total",
        "Sequences whose caller left",
        stats.cancelled,
    );
    counter(
        text,
        "engine_steps_total",
        "Steps of all models",
        stats.steps,
    );
    counter(
        text,
        "engine_prompt_tokens_total",
        "Prompt tokens computed",
        stats.prompt_tokens,
    );
    counter(
        text,
        "engine_completion_tokens_total",
        "Tokens generated",
        stats.completion_tokens,
    );
    gauge(
        text,
        "engine_admitted",
        "Requests running or waiting",
        stats.admitted,
    );
    gauge(
        text,
        "engine_running",
        "Sequences in the current step",
        stats.running,
    );
    gauge(
        text,
        "engine_kv_blocks",
        "Key/value blocks in use",
        stats.kv_blocks,
    );
}
