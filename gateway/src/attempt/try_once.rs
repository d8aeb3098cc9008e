//! One try on one target, up to the point where its outcome can be judged.

use std::borrow::Cow;
use std::time::Instant;

use bytes::Bytes;
use providers::{Dialect, Failure, ReplyHead, ReplyReader, RequestType};

use super::verdict::Remaining;
use super::{Open, Run, abandoned, failure_of, inspect};
use crate::app::App;
use crate::backend::http_client::{Broken, Timeouts};
use crate::backend::remote::{self, StreamFailure};
use crate::backend::{Reply, vertex};
use crate::error::{GatewayError, Kind};
use crate::route::{PlanStep, RemoteTarget, StepBody, Target};
use crate::trace::{Attempt, Decision};

pub enum Tried {
    /// The caller gets this.
    Good(Box<Open>),
    /// An answer that another try may better.
    Bad {
        open: Box<Open>,
        failure: Option<Failure>,
    },
    /// No answer.
    Broken {
        broken: Broken,
        attempt: Box<Attempt>,
    },
    ClientGone(Box<Attempt>),
    CallerFault(GatewayError, Box<Attempt>),
}

pub async fn try_once(
    run: &mut Run<'_, '_>,
    step: &PlanStep,
    mut attempt: Attempt,
    remaining: Remaining,
) -> Tried {
    let answered = match send(run, step, &mut attempt).await {
        Ok(answered) => answered,
        Err(tried) => return tried.into_tried(attempt),
    };
    attempt.status = answered.status;
    if answered.is_status_report {
        attempt.dialect = Dialect::Opaque;
        attempt.request_type = RequestType::Other;
    }
    let header = |name: &str| {
        answered
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    attempt.response_content_type = header("content-type").unwrap_or_default();
    attempt.upstream_request_id = upstream_request_id(&header);
    let reader = ReplyReader::new(
        attempt.dialect,
        step.facts.stream,
        &ReplyHead {
            status: answered.status,
            content_type: header("content-type").as_deref(),
            content_encoding: header("content-encoding").as_deref(),
            header: &header,
        },
    );
    let mut open = Box::new(Open {
        reply: answered,
        reader,
        attempt,
    });
    let may_go_on = remaining.attempts_here > 0 || remaining.has_next_step;

    if !(200..300).contains(&open.reply.status) {
        if !may_go_on {
            return Tried::Good(open);
        }
        let failure = tokio::select! {
            failure = failure_of(&mut open) => failure,
            () = abandoned(run.app, run.writer, run.slot) => return gone(open).await,
        };
        return Tried::Bad { open, failure };
    }
    let inspected = tokio::select! {
        inspected = inspect::inspect(&mut open, &step.tries, may_go_on) => inspected,
        () = abandoned(run.app, run.writer, run.slot) => return gone(open).await,
    };
    match inspected {
        Ok(None) => Tried::Good(open),
        Ok(Some(failure)) => {
            open.attempt.error = Some(Kind::UpstreamOverloaded);
            Tried::Bad {
                open,
                failure: Some(failure),
            }
        }
        Err(broken) => {
            open.reply.body.cancel().await;
            let Open {
                reader,
                mut attempt,
                ..
            } = *open;
            attempt.reading = Some(reader.finish(false));
            attempt.response_complete = false;
            Tried::Broken {
                broken,
                attempt: Box::new(attempt),
            }
        }
    }
}

/// Why there is no answer to look at.
enum NoAnswer {
    Broken(Broken),
    Gone,
    Caller(GatewayError),
}

impl NoAnswer {
    fn into_tried(self, mut attempt: Attempt) -> Tried {
        attempt.ended = Instant::now();
        match self {
            NoAnswer::Broken(broken) => Tried::Broken {
                broken,
                attempt: Box::new(attempt),
            },
            NoAnswer::Gone => {
                attempt.error = Some(Kind::ClientGone);
                attempt.decision = Decision::ClientGone;
                Tried::ClientGone(Box::new(attempt))
            }
            NoAnswer::Caller(error) => {
                attempt.error = Some(error.kind);
                Tried::CallerFault(error, Box::new(attempt))
            }
        }
    }
}

async fn send(
    run: &mut Run<'_, '_>,
    step: &PlanStep,
    attempt: &mut Attempt,
) -> Result<Reply, NoAnswer> {
    let timeouts = Timeouts {
        connect: step.tries.connect,
        head: step.tries.head,
        idle: step.tries.idle,
    };
    match (&step.target, &step.body) {
        (Target::Remote(target), StepBody::Held(body)) => tokio::select! {
            sent = send_held(run.app, target, body, timeouts) => sent.map_err(NoAnswer::Broken),
            () = abandoned(run.app, run.writer, run.slot) => Err(NoAnswer::Gone),
        },
        (Target::Remote(target), StepBody::Streamed) => {
            let (mut bytes, copy) = (0u64, &mut *run.streamed);
            let keep = |chunk: &Bytes| {
                bytes += chunk.len() as u64;
                if step.record.collect && step.record.collect_payload {
                    copy.push(chunk);
                }
            };
            let target = credentialed(run.app, target)
                .await
                .map_err(NoAnswer::Broken)?;
            let sent = remote::send_streamed(
                &run.app.http,
                &target,
                run.writer.session(),
                run.limits,
                timeouts,
                keep,
            )
            .await;
            attempt.request_bytes = bytes;
            sent.map_err(|failure| match failure {
                StreamFailure::Upstream(broken) => NoAnswer::Broken(broken),
                StreamFailure::Caller(error) if error.kind == Kind::BadRequest => NoAnswer::Gone,
                StreamFailure::Caller(error) => NoAnswer::Caller(error),
            })
        }
        (Target::Local(target), StepBody::Held(body)) => tokio::select! {
            reply = run.app.engine_reply(target, body) => Ok(reply),
            () = abandoned(run.app, run.writer, run.slot) => Err(NoAnswer::Gone),
        },
        (Target::Local(_), StepBody::Streamed) => Err(NoAnswer::Caller(GatewayError::new(
            Kind::BadRequest,
            "the embedded engine takes JSON bodies (`content-type: application/json`)",
        ))),
    }
}

/// The target with whatever its credential has to be exchanged for.
async fn credentialed<'t>(
    app: &App,
    target: &'t RemoteTarget,
) -> Result<Cow<'t, RemoteTarget>, Broken> {
    let Some(exchange) = &target.exchange else {
        return Ok(Cow::Borrowed(target));
    };
    let value = app.exchanges.authorization(exchange).await?;
    let mut target = target.clone();
    vertex::apply(&mut target.headers, value);
    Ok(Cow::Owned(target))
}

async fn send_held(
    app: &App,
    target: &RemoteTarget,
    body: &Bytes,
    timeouts: Timeouts,
) -> Result<Reply, Broken> {
    let target = credentialed(app, target).await?;
    remote::send(&app.http, &target, body, timeouts).await
}

async fn gone(mut open: Box<Open>) -> Tried {
    open.reply.body.cancel().await;
    let Open {
        reader,
        mut attempt,
        ..
    } = *open;
    attempt.ended = Instant::now();
    attempt.error = Some(Kind::ClientGone);
    attempt.decision = Decision::ClientGone;
    attempt.reading = Some(reader.finish(false));
    attempt.response_complete = false;
    Tried::ClientGone(Box::new(attempt))
}

/// The id by which the provider knows this exchange; each names its header in its own way.
fn upstream_request_id(header: &dyn Fn(&str) -> Option<String>) -> String {
    const NAMES: [&str; 9] = [
        "x-request-id",
        "request-id",
        "apim-request-id",
        "x-amzn-requestid",
        "x-debug-trace-id",
        "x-generation-id",
        "x-fal-request-id",
        "dg-request-id",
        "x-goog-request-id",
    ];
    NAMES
        .iter()
        .find_map(|name| header(name))
        .map(|id| id.chars().take(128).collect())
        .unwrap_or_default()
}
