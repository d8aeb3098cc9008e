//! Harness for the suite in `suite/`: the built gateway as a child process on free ports, a scripted
//! upstream and a client that both see HTTP/1.1 byte by byte.
//!
//! Nothing here knows the gateway's code. [`TestGateway`] runs the program people run; what a test
//! asserts is what a client, a provider or an operator could have seen. Nothing waits by sleeping for
//! a guessed time: [`eventually`] asks for a condition until one shared [`PATIENCE`] is over.

pub mod adapter;
pub mod client;
pub mod config;
pub mod database;
pub mod gateway;
pub mod http;
pub mod http2;
pub mod logs;
pub mod outage;
pub mod shapes;
pub mod sse;
pub mod tls;
pub mod upstream;

pub use client::{Answer, Connection, Ending, Request};
pub use config::Config;
pub use gateway::TestGateway;
pub use logs::Row;
pub use upstream::{Call, Gate, Reply, ScriptedUpstream};

use std::time::Duration;
use tokio::time::Instant;

/// How long any test waits for anything. Long, because a busy two-core machine runs everything at
/// once; a test that passes never comes near it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks `probe` until it answers, and fails the test with `what` when [`PATIENCE`] is over.
pub async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "waited {PATIENCE:?} in vain for {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// `future`, or a failed test that says `what` did not happen within [`PATIENCE`].
pub async fn within_patience<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} in vain for {what}"),
    }
}
