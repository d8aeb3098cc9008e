//! The append-only story of one request: what each stage decided, and what each attempt met.
//!
//! `record` turns it into rows at the end. Nothing reads it to decide anything.

use std::time::Instant;

use bytes::Bytes;
use providers::{Dialect, Reading, RequestType};

use crate::error::Kind;

/// Why the answer came from where it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The first target answered at its first try.
    Direct,
    /// The same target answered at a later try.
    Retry,
    /// A later step answered.
    Fallback,
    CacheHit,
    RateLimited,
    Refused,
    Failed,
    ClientGone,
}

impl Decision {
    pub fn as_str(self) -> &'static str {
        match self {
            Decision::Direct => "direct",
            Decision::Retry => "retry",
            Decision::Fallback => "fallback",
            Decision::CacheHit => "cache_hit",
            Decision::RateLimited => "rate_limited",
            Decision::Refused => "refused",
            Decision::Failed => "failed",
            Decision::ClientGone => "client_gone",
        }
    }
}

/// One try on one target, from its first packet to its last.
#[derive(Debug)]
pub struct Attempt {
    /// ULID; the answering attempt's is what `cf-aig-log-id` says.
    pub id: String,
    pub step: u32,
    /// Counts from 1 on each step.
    pub number: u32,
    pub provider: String,
    pub dialect: Dialect,
    pub request_type: RequestType,
    pub requested_model: Option<String>,
    /// Provider-relative, credentials redacted.
    pub path: String,
    pub request_content_type: String,
    pub response_content_type: String,
    pub started: Instant,
    pub first_byte: Option<Instant>,
    pub ended: Instant,
    /// The provider's status; 0 when none came.
    pub status: u16,
    pub error: Option<Kind>,
    pub decision: Decision,
    pub reading: Option<Reading>,
    pub estimated_prompt_tokens: u64,
    pub request_body: Bytes,
    pub request_bytes: u64,
    pub response_bytes: u64,
    /// What was kept of the answer, and whether that is all of it.
    pub response_body: Vec<Bytes>,
    pub request_complete: bool,
    pub response_complete: bool,
    pub upstream_request_id: String,
    pub cached: bool,
    pub stored_key: bool,
    pub settings: crate::route::RecordSettings,
}

/// The whole story.
#[derive(Debug, Default)]
pub struct RequestTrace {
    pub attempts: Vec<Attempt>,
    pub decision: Option<Decision>,
    pub error: Option<Kind>,
    /// What the caller's status line said; 0 when none was sent.
    pub status: u16,
    pub first_byte: Option<Instant>,
    /// Index into `attempts` of the one whose answer the caller got.
    pub answered: Option<usize>,
}
