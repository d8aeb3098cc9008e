//! The attempt loop of one step: try, look, and decide by `verdict` whether the caller gets this
//! outcome, the same target is tried again, or the next step has its turn.
//!
//! Nothing is written to the caller here, so every outcome can still be changed.

pub mod backoff;
mod inspect;
mod try_once;
pub mod verdict;

use std::time::{Duration, Instant};

use providers::{Failure, ReplyReader};

use crate::app::App;
use crate::backend::{Reply, remote};
use crate::cache::replay::Slot;
use crate::door::intake::BodyLimits;
use crate::door::writer::{Gone, ReplyWriter};
use crate::error::{GatewayError, Kind};
use crate::route::{Plan, PlanStep};
use crate::tee::capture::Capture;
use crate::trace::{Attempt, Decision, RequestTrace};
use verdict::{Failed, Remaining, Verdict};

/// Most of a failed answer that is read, to learn what it was and to keep the connection.
const MAX_FAILED_BODY: usize = 64 * 1024;
/// Longest wait for the rest of a failed answer.
const FAILED_BODY_PATIENCE: Duration = Duration::from_secs(5);

/// An answer the caller may get, its head not yet sent.
pub struct Open {
    pub reply: Reply,
    pub reader: ReplyReader,
    pub attempt: Attempt,
}

pub enum Outcome {
    Answer(Box<Open>),
    /// This step is spent; its attempts are in the trace. The error is for the case that it was the last.
    Spent(GatewayError),
    ClientGone,
    /// The caller's own fault, found while its body was streamed.
    Refused(GatewayError),
}

/// What the loop works with.
pub struct Run<'r, 's> {
    pub app: &'r App,
    pub plan: &'r Plan,
    pub writer: &'r mut ReplyWriter<'s>,
    pub limits: BodyLimits,
    pub fallback_on_content_filter: bool,
    /// The step's place in the cache: others may wait there for this answer.
    pub slot: &'r Slot,
    /// Pieces of a streamed request body, kept for the record.
    pub streamed: &'r mut Capture,
}

pub async fn run(run: &mut Run<'_, '_>, step: &PlanStep, trace: &mut RequestTrace) -> Outcome {
    let has_next_step = (step.index as usize) + 1 < run.plan.steps.len();
    // A body that passes through can be sent once.
    let max_attempts = if step.body.held().is_some() {
        step.tries.max_attempts
    } else {
        1
    };
    let mut number = 0;
    loop {
        number += 1;
        let remaining = Remaining {
            attempts_here: max_attempts - number,
            has_next_step,
            is_universal: run.plan.is_universal,
            fallback_on_content_filter: run.fallback_on_content_filter,
        };
        let attempt = begin(step, number);
        let verdict = match try_once::try_once(run, step, attempt, remaining).await {
            try_once::Tried::Good(open) => return Outcome::Answer(open),
            try_once::Tried::ClientGone(attempt) => {
                trace.attempts.push(*attempt);
                return Outcome::ClientGone;
            }
            try_once::Tried::CallerFault(error, attempt) => {
                trace.attempts.push(*attempt);
                return Outcome::Refused(error);
            }
            try_once::Tried::Bad { open, failure } => {
                let failed = Failed {
                    status: Some(open.reply.status),
                    error: open.attempt.error,
                    failure: failure.as_ref(),
                };
                let verdict = verdict::judge(&failed, remaining);
                if verdict == Verdict::Stop {
                    return Outcome::Answer(open);
                }
                trace.attempts.push(dismiss(run.app, *open).await);
                (verdict, None)
            }
            try_once::Tried::Broken { broken, attempt } => {
                let error = remote::fault(&broken, &step.provider);
                tracing::info!(
                    provider = step.provider,
                    step = step.index,
                    attempt = number,
                    error = broken.kind.slug(),
                    cause = broken.cause,
                    "a try got no answer"
                );
                let mut attempt = *attempt;
                attempt.error = Some(broken.kind);
                attempt.ended = Instant::now();
                attempt.decision = Decision::Failed;
                trace.attempts.push(attempt);
                let failed = Failed {
                    status: None,
                    error: Some(broken.kind),
                    failure: None,
                };
                (verdict::judge(&failed, remaining), Some(error))
            }
        };
        match verdict {
            (Verdict::Again(asked), _) => {
                let own = backoff::wait(step.tries.backoff, step.tries.retry_delay, number);
                // The provider's word is a floor: trying before it is refused again.
                let wait = asked.map_or(own, |asked| asked.max(own));
                tokio::select! {
                    _ = tokio::time::sleep(wait) => {}
                    () = abandoned(run.app, run.writer, run.slot) => return Outcome::ClientGone,
                }
            }
            (Verdict::Next | Verdict::Stop, error) => {
                let error = error.unwrap_or_else(|| {
                    GatewayError::new(Kind::UpstreamReset, "the step was given up")
                });
                return Outcome::Spent(error);
            }
        }
    }
}

/// Resolves when nobody is left to answer: the caller is gone, and so is everybody who waited for
/// the same answer.
pub async fn abandoned(app: &App, writer: &mut ReplyWriter<'_>, slot: &Slot) {
    let was_gone = writer.is_gone();
    let Gone = writer.gone().await;
    if !was_gone {
        app.metrics.callers_left.inc();
    }
    slot.followers_left().await;
}

/// The row of a request that a limit of ours kept from its provider.
pub fn refused(step: &PlanStep, error: &GatewayError, cloudflare_statuses: bool) -> Attempt {
    let mut attempt = begin(step, 1);
    attempt.status = error.status(cloudflare_statuses);
    attempt.error = Some(error.kind);
    attempt.decision = Decision::RateLimited;
    attempt
}

/// An attempt that has not happened yet.
pub fn begin(step: &PlanStep, number: u32) -> Attempt {
    let now = Instant::now();
    Attempt {
        id: ulid::Ulid::generate().to_string(),
        step: step.index,
        number,
        provider: step.provider.clone(),
        dialect: step.facts.dialect,
        request_type: step.facts.request_type,
        requested_model: step.facts.model.clone(),
        path: step.path.clone(),
        request_content_type: step.content_type.clone(),
        response_content_type: String::new(),
        started: now,
        first_byte: None,
        ended: now,
        status: 0,
        error: None,
        decision: Decision::Failed,
        reading: None,
        estimated_prompt_tokens: step.facts.body_estimate_tokens,
        request_body: step.body.held().cloned().unwrap_or_default(),
        request_bytes: step.body.held().map_or(0, |bytes| bytes.len() as u64),
        response_bytes: 0,
        response_body: Vec::new(),
        request_complete: true,
        response_complete: true,
        upstream_request_id: String::new(),
        cached: false,
        stored_key: matches!(&step.target, crate::route::Target::Remote(target) if target.stored_key),
        settings: step.record.clone(),
    }
}

/// Ends a try whose answer nobody gets: what was read of it is its record, and a connection read
/// to its end goes back to the pool.
async fn dismiss(app: &App, open: Open) -> Attempt {
    let Open {
        mut reply,
        reader,
        mut attempt,
    } = open;
    attempt.ended = Instant::now();
    attempt.decision = Decision::Failed;
    attempt.response_body = reply.body.held().cloned().collect();
    attempt.response_bytes = attempt
        .response_body
        .iter()
        .map(|piece| piece.len() as u64)
        .sum();
    let ended_whole = reply.body.is_drained();
    attempt.response_complete = ended_whole;
    attempt.reading = Some(reader.finish(ended_whole));
    if ended_whole {
        reply.body.release(app).await;
    } else {
        reply.body.cancel().await;
    }
    attempt
}

/// Reads what a failed answer says, up to a bound and a patience.
async fn hold_failed_body(open: &mut Open) -> Vec<u8> {
    let mut seen: Vec<u8> = open
        .reply
        .body
        .held()
        .flat_map(|piece| piece.iter().copied())
        .collect();
    let read = async {
        while seen.len() < MAX_FAILED_BODY {
            match open.reply.body.peek_next().await {
                Ok(Some(piece)) => {
                    open.reader.push(&piece);
                    seen.extend_from_slice(&piece);
                }
                Ok(None) | Err(_) => return,
            }
        }
    };
    if tokio::time::timeout(FAILED_BODY_PATIENCE, read)
        .await
        .is_err()
    {
        tracing::debug!("a failed answer did not end in time; what came of it is judged");
    }
    seen
}

/// What an answer that is not a success means.
async fn failure_of(open: &mut Open) -> Option<Failure> {
    let body = hold_failed_body(open).await;
    let headers = &open.reply.headers;
    let header = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    providers::classify(open.attempt.dialect, open.reply.status, &header, &body)
}
