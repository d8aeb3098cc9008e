//! What `Recorder::record` costs the request path: `cargo bench -p analytics`.
//!
//! The spool alone, release build, 2-core AMD EPYC VM with ext4 on a virtual disk, 2026-11-22, on a
//! busy machine, records given as fast as one thread can:
//!
//! | bodies | mean | median | 99 of 100 |
//! | --- | --- | --- | --- |
//! | none | 3.0 µs | 1.2 µs | 6 µs |
//! | 8 KiB | 14 µs | 7.6 µs | 13 µs |
//! | 64 KiB | 90 µs | 49 µs | 2 ms |
//!
//! The median is the encoding and the copy; what is above it is page faults on fresh pages of the
//! segment, and with large bodies the disk behind them.

use std::time::{Duration, Instant};

use analytics::{AttemptRow, Bodies, Config, LogRecord, RequestRow};

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for (body_bytes, records) in [(0, 50_000), (8 << 10, 5_000), (64 << 10, 1_000)] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = Config {
            data_dir: dir.path().to_path_buf(),
            ..Config::default()
        };
        let (recorder, _store, writer) = runtime
            .block_on(analytics::open(&config))
            .expect("it opens");
        let record = record(body_bytes);
        let mut times: Vec<Duration> = (0..records)
            .map(|_| {
                let begun = Instant::now();
                recorder.record(&record).expect("the record is kept");
                begun.elapsed()
            })
            .collect();
        let mean = times.iter().sum::<Duration>() / records;
        times.sort();
        let at = |percent: usize| times[times.len() * percent / 100];
        println!(
            "bodies of {body_bytes} bytes: mean {mean:?}, median {:?}, 99 of 100 {:?}",
            at(50),
            at(99)
        );
        drop(writer); // stops the writer thread; the folder goes with everything in it
    }
}

/// As an OpenAI chat completion leaves it.
fn record(body_bytes: usize) -> LogRecord {
    let request = RequestRow {
        event_id: "6f0d2a34-1111-4222-8333-444455556666".into(),
        created_at_us: 1_790_000_000_000_000,
        account: "acct".into(),
        gateway: "gw".into(),
        method: "POST".into(),
        path: "/v1/acct/gw/openai/chat/completions".into(),
        status_code: 200,
        success: true,
        provider: "openai".into(),
        model: "gpt-4o-mini".into(),
        attempts: 1,
        duration_us: 812_345,
        tokens_in: Some(12),
        tokens_out: Some(33),
        cost_pico: Some(21_600_000),
        metadata: "{\"team\":\"red\"}".into(),
        user_agent: "OpenAI/Python 2.9.0".into(),
        collect: true,
        ..RequestRow::default()
    };
    let attempt = AttemptRow {
        id: "01JDAAAAAAAAAAAAAAAAAAAAAA".into(),
        event_id: request.event_id.clone(),
        account: request.account.clone(),
        gateway: request.gateway.clone(),
        created_at_us: request.created_at_us,
        provider: request.provider.clone(),
        model: request.model.clone(),
        path: "chat/completions".into(),
        request_type: "chat".into(),
        status_code: 200,
        success: true,
        tokens_in: request.tokens_in,
        tokens_out: request.tokens_out,
        usage_source: "final".into(),
        usage_raw: "{\"prompt_tokens\":12,\"completion_tokens\":33,\"total_tokens\":45}".into(),
        cost_pico: request.cost_pico,
        metadata: request.metadata.clone(),
        user_agent: request.user_agent.clone(),
        body: (body_bytes > 0).then(|| Bodies {
            request: vec![b'q'; body_bytes / 2],
            response: vec![b'a'; body_bytes / 2],
            request_complete: true,
            response_complete: true,
        }),
        ..AttemptRow::default()
    };
    LogRecord {
        request,
        attempts: vec![attempt],
    }
}
