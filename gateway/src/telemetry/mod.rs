//! What operators see of a running gateway: metrics by name, and log lines on stderr.

pub mod metrics;
pub mod rooms;
pub mod tracing;
