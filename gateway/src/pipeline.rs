//! The stages in order: the table of contents of the whole program.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::HeaderName;
use pingora::protocols::http::ServerSession;

use crate::app::App;
use crate::attempt::{self, Outcome, Run};
use crate::auth::{self, Caller, Permission, Presented};
use crate::cache::StoredReply;
use crate::cache::replay::{self, Cached, Slot};
use crate::config::Config;
use crate::decode;
use crate::door::intake::{self, BodyLimits};
use crate::door::origin;
use crate::door::websocket::Socket;
use crate::door::writer::{self, Headers, ReplyWriter};
use crate::error::{GatewayError, Kind};
use crate::exchange::{Exchange, Ids, Incoming};
use crate::identify::{self, Place, What};
use crate::record::{self, Subject};
use crate::rest;
use crate::route::{self, Ground, Plan, PlanStep, StepBody};
use crate::tee::capture::Capture;
use crate::tee::{self, Ending, Flight};
use crate::trace::{Decision, RequestTrace};

/// What became of a request.
pub enum Served {
    /// Answered, and the connection may carry the next request.
    Sent,
    /// The answer broke off, or nobody was there to read it.
    Aborted,
    /// A WebSocket: the framework's own path takes over.
    Upgrade(Box<Socket>),
}

pub async fn serve(app: &Arc<App>, session: &mut ServerSession, incoming: Incoming) -> Served {
    let config = app.live.load();
    let ids = Ids::new(&incoming.headers);
    let mut writer = ReplyWriter::new(session).until(app.cut.subscribe());
    let tokens = app.tokens.load();

    if tokens.is_empty()
        && config.server.is_loopback()
        && let Some(name) = origin::foreign(&incoming.headers)
    {
        let shown = identify::shown(&name);
        let message = format!(
            "`{shown}` is not this machine; without tokens only local callers are served (make one: ai-gateway token create)"
        );
        return refuse_early(
            app,
            &mut writer,
            &ids,
            &config,
            GatewayError::new(Kind::Forbidden, message),
            false,
        )
        .await;
    }
    let place = match identify::find(&config, &|account| tokens.names_account(account), &incoming) {
        Ok(place) => place,
        Err(lost) => {
            return refuse_early(app, &mut writer, &ids, &config, lost.error, lost.is_rest).await;
        }
    };
    let caller = match authenticate(&place, &incoming, &tokens) {
        Ok(caller) => caller,
        Err(error) => {
            return refuse_early(app, &mut writer, &ids, &config, error, place.what.is_rest())
                .await;
        }
    };
    let exchange = Exchange {
        app,
        config: &config,
        incoming: &incoming,
        ids: &ids,
        place: &place,
        caller: &caller,
    };
    let permit = match admit(&exchange) {
        Ok(permit) => permit,
        Err(error) => return refuse(&exchange, &mut writer, RequestTrace::default(), error).await,
    };
    match &place.what {
        What::RestLogs { rest } => rest::logs::serve(&exchange, &mut writer, rest).await,
        What::RestModels { rest } => rest::models::serve(&exchange, &mut writer, rest).await,
        #[cfg(feature = "local")]
        What::RestFinetunes { rest } => rest::finetunes::serve(&exchange, &mut writer, rest).await,
        What::Provider { slug, rest } if incoming.is_upgrade => {
            match Socket::plan(&exchange, permit, incoming.clone(), slug, rest) {
                Ok(socket) => Served::Upgrade(Box::new(socket)),
                Err(error) => refuse(&exchange, &mut writer, RequestTrace::default(), error).await,
            }
        }
        _ => answer(&exchange, &mut writer).await,
    }
}

fn authenticate(
    place: &Place,
    incoming: &Incoming,
    tokens: &auth::TokenSet,
) -> Result<Caller, GatewayError> {
    let presented = Presented {
        headers: &incoming.headers,
        query: incoming.query.as_deref(),
    };
    let gateway = &place.gateway;
    let checked = match &place.what {
        What::RestLogs { rest } => {
            let reads_bodies = rest.ends_with("/request") || rest.ends_with("/response");
            let permission = if reads_bodies {
                Permission::GatewayRead
            } else {
                Permission::LogsMetadata
            };
            let (account, id) = (&gateway.account, &gateway.id);
            auth::check_rest_gateway(account, id, &presented, tokens, permission)
        }
        What::RestAi { .. } | What::RestModels { .. } | What::RestFinetunes { .. } => {
            let changes = matches!(place.what, What::RestFinetunes { .. })
                && incoming.method != http::Method::GET;
            let permission = match changes {
                true => Permission::WorkersAiEdit,
                false => Permission::WorkersAiRead,
            };
            let (account, id) = (&gateway.account, &gateway.id);
            auth::check_rest_gateway(account, id, &presented, tokens, permission)
        }
        What::Universal | What::Provider { .. } => auth::check(gateway, &presented, tokens),
    };
    checked.map_err(|refusal| match (refusal, place.what.is_rest()) {
        (auth::AuthError::NotAllowed(_), true) => {
            GatewayError::new(Kind::Forbidden, refusal.to_string())
        }
        // Every refusal of the data plane reads the same, so that guessing tells nothing.
        (refusal, false) => GatewayError::new(Kind::Unauthorized, "Unauthorized").private(refusal),
        (refusal, true) => {
            GatewayError::new(Kind::Unauthorized, "Authentication error").private(refusal)
        }
    })
}

/// The guards that protect us, asked before a byte of the body is read.
fn admit(exchange: &Exchange<'_>) -> Result<crate::limit::InFlightPermit, GatewayError> {
    let app = exchange.app;
    if let (Some(flood), Some(client)) = (&app.limits.flood, exchange.incoming.client) {
        flood.check(client.ip()).map_err(|wait| {
            GatewayError::new(Kind::Flooding, "too many requests from this address")
                .retry_after(wait.seconds())
        })?;
    }
    app.limits
        .in_flight
        .enter(&exchange.place.gateway)
        .map_err(|full| {
            GatewayError::new(
                Kind::Busy,
                "too many requests are in flight, try again soon",
            )
            .private(format!("{full:?}"))
            .retry_after(1)
        })
}

/// Body, plan, and then each step's cache, limits and attempts.
async fn answer(exchange: &Exchange<'_>, writer: &mut ReplyWriter<'_>) -> Served {
    let mut trace = RequestTrace::default();
    let limits = BodyLimits {
        max_bytes: exchange.config.server.max_body_bytes as u64,
        timeout: exchange.config.server.body_read_timeout,
    };
    let plan = match plan(exchange, writer, limits).await {
        Ok(plan) => plan,
        Err(error) => return refuse(exchange, writer, trace, error).await,
    };
    let mut reserved = false;
    let records = &exchange.config.records;
    let mut streamed = Capture::new(
        &exchange.app.capture_budget,
        records.max_body_bytes,
        records.capture_bodies,
    );
    let mut last_error = None;
    for step in &plan.steps {
        let slot = match replay::look_up(exchange, step, writer).await {
            Cached::Hit(stored) => return hit(exchange, writer, trace, step, &stored).await,
            Cached::Miss(slot) => slot,
            Cached::ClientGone => return left(exchange, trace),
        };
        if !reserved {
            match reserve(exchange).await {
                Ok(()) => reserved = true,
                Err(error) => {
                    trace.decision = Some(Decision::RateLimited);
                    trace.attempts.push(attempt::refused(
                        step,
                        &error,
                        exchange.config.server.cloudflare_statuses,
                    ));
                    return refuse(exchange, writer, trace, error).await;
                }
            }
        }
        let mut run = Run {
            app: exchange.app,
            plan: &plan,
            writer,
            limits,
            fallback_on_content_filter: exchange.place.gateway.fallback_on_content_filter,
            slot: &slot,
            streamed: &mut streamed,
        };
        match attempt::run(&mut run, step, &mut trace).await {
            Outcome::Answer(open) => {
                return deliver(exchange, writer, trace, open, slot, streamed).await;
            }
            Outcome::Spent(error) => last_error = Some(error),
            Outcome::Refused(error) => return refuse(exchange, writer, trace, error).await,
            Outcome::ClientGone => return left(exchange, trace),
        }
    }
    let error = last_error
        .unwrap_or_else(|| GatewayError::new(Kind::BadRequest, "the list of steps is empty"));
    trace.decision = Some(Decision::Failed);
    refuse(exchange, writer, trace, error).await
}

async fn plan(
    exchange: &Exchange<'_>,
    writer: &mut ReplyWriter<'_>,
    limits: BodyLimits,
) -> Result<Plan, GatewayError> {
    let incoming = exchange.incoming;
    let announced = intake::check_announced(incoming, limits)?;
    let ground = Ground {
        config: exchange.config,
        gateway: &exchange.place.gateway,
        caller: exchange.caller,
        incoming,
        has_engine: exchange.app.has_engine(),
    };
    if exchange.place.what == What::Universal && incoming.method != http::Method::POST {
        let hint = if incoming.is_upgrade {
            "WebSocket requests here are not served yet"
        } else {
            "send a POST with a list of steps"
        };
        let kind = if incoming.is_upgrade {
            Kind::NotYet
        } else {
            Kind::MethodNotAllowed
        };
        return Err(GatewayError::new(
            kind,
            format!("{} is not served at this path; {hint}", incoming.method),
        ));
    }
    intake::welcome_body(writer.session(), incoming).await?;
    let body = match holds_body(exchange, announced) {
        true => StepBody::Held(intake::read_body(writer.session(), limits, announced).await?),
        false => StepBody::Streamed,
    };
    match &exchange.place.what {
        What::Universal => {
            let whole = body.held().cloned().unwrap_or_else(Bytes::new);
            let entries = decode::universal(&whole)?;
            route::universal(ground, &entries)
        }
        What::Provider { slug, rest } => route::single(ground, slug, rest, body),
        What::RestAi { rest } => route::rest_ai(ground, rest, body),
        What::RestLogs { .. } | What::RestModels { .. } | What::RestFinetunes { .. } => {
            Err(GatewayError::new(Kind::Internal, "internal server error"))
        }
    }
}

/// A body is held while it is small enough: for its model, its stream switch, the cache, another try.
/// A larger one, or one of unknown length that nobody reads, passes through in pieces.
fn holds_body(exchange: &Exchange<'_>, announced: Option<u64>) -> bool {
    let incoming = exchange.incoming;
    let must_read = match &exchange.place.what {
        What::Provider { slug, .. } => slug == "workers-ai",
        _ => true,
    };
    let is_json = incoming
        .header("content-type")
        .is_none_or(|kind| kind.to_ascii_lowercase().contains("json"));
    let has_no_length = incoming.is_http2
        || incoming
            .headers
            .contains_key(http::header::TRANSFER_ENCODING);
    match announced {
        _ if must_read => true,
        Some(length) => length <= exchange.config.server.max_buffered_body_bytes as u64,
        None => is_json || !has_no_length,
    }
}

/// Takes the request's place in the gateway's window: once, before its first upstream call.
async fn reserve(exchange: &Exchange<'_>) -> Result<(), GatewayError> {
    let now_us = exchange.incoming.clock.at_us(Instant::now());
    match exchange
        .app
        .limits
        .windows
        .take(&exchange.place.gateway, now_us)
        .await
    {
        Ok(_counted) => Ok(()),
        Err(wait) => {
            Err(GatewayError::new(Kind::RateLimited, "Rate limited").retry_after(wait.seconds()))
        }
    }
}

async fn deliver(
    exchange: &Exchange<'_>,
    writer: &mut ReplyWriter<'_>,
    mut trace: RequestTrace,
    mut open: Box<attempt::Open>,
    mut slot: Slot,
    mut streamed: Capture,
) -> Served {
    let (pieces, is_complete) = streamed.take();
    if !pieces.is_empty() {
        open.attempt.request_body = pieces.concat().into();
        open.attempt.request_complete = is_complete;
    }
    let decision = match (open.attempt.step, open.attempt.number) {
        (0, 1) => Decision::Direct,
        (0, _) => Decision::Retry,
        _ => Decision::Fallback,
    };
    let status = open.reply.status;
    slot.observe_head(&open.reply);
    let keep = slot.keep(exchange.config.cache.max_entry_bytes);
    let flight = Flight {
        app: exchange.app,
        ids: exchange.ids,
        records: &exchange.config.records,
        decision,
        keep,
        slot: &slot,
    };
    let flown = tee::fly(flight, writer, open).await;
    let (attempt, ending, keep, landing) = flown.split();
    slot.settle(exchange, &attempt, keep).await;
    trace.first_byte = attempt.first_byte;
    trace.status = status;
    trace.decision = Some(if ending == Ending::Whole {
        decision
    } else {
        attempt.decision
    });
    trace.error = attempt.error;
    trace.answered = Some(trace.attempts.len());
    trace.attempts.push(attempt);
    write_record(exchange, trace);
    match landing.land(writer).await {
        true => Served::Sent,
        false => Served::Aborted,
    }
}

/// An answer from the cache: recorded, free of charge, and without a place in any window.
async fn hit(
    exchange: &Exchange<'_>,
    writer: &mut ReplyWriter<'_>,
    mut trace: RequestTrace,
    step: &PlanStep,
    stored: &StoredReply,
) -> Served {
    let attempt = replay::hit_attempt(exchange, step, stored);
    let log_id = attempt.id.clone();
    trace.first_byte = attempt.first_byte;
    trace.status = stored.status;
    trace.decision = Some(Decision::CacheHit);
    trace.answered = Some(trace.attempts.len());
    trace.attempts.push(attempt);
    write_record(exchange, trace);
    match replay::replay(exchange, writer, step.index, &log_id, stored).await {
        Ok(()) => Served::Sent,
        Err(_) => Served::Aborted,
    }
}

/// The caller left before there was an answer.
fn left(exchange: &Exchange<'_>, mut trace: RequestTrace) -> Served {
    trace.decision = Some(Decision::ClientGone);
    trace.error = Some(Kind::ClientGone);
    write_record(exchange, trace);
    Served::Aborted
}

/// A fault before the caller is known. It is counted, and leaves no row: strangers could otherwise fill
/// a log that is not theirs.
async fn refuse_early(
    app: &App,
    writer: &mut ReplyWriter<'_>,
    ids: &Ids,
    config: &Config,
    error: GatewayError,
    is_rest: bool,
) -> Served {
    tracing::debug!(%error, "refused");
    app.metrics.request_ended(
        Decision::Refused,
        error.status(config.server.cloudflare_statuses),
        0.0,
    );
    let sent = match is_rest {
        true => rest::refuse(writer, ids, &error).await,
        false => writer::refuse(
            writer,
            ids,
            &error,
            config.server.cloudflare_statuses,
            Headers::new(),
        )
        .await
        .map(|_| ()),
    };
    if sent.is_ok() {
        Served::Sent
    } else {
        Served::Aborted
    }
}

/// A fault of ours: recorded, then told.
pub async fn refuse(
    exchange: &Exchange<'_>,
    writer: &mut ReplyWriter<'_>,
    mut trace: RequestTrace,
    error: GatewayError,
) -> Served {
    tracing::debug!(%error, event_id = exchange.ids.event, "refused");
    let cloudflare_statuses = exchange.config.server.cloudflare_statuses;
    trace.decision.get_or_insert(Decision::Refused);
    trace.error = Some(error.kind);
    trace.status = error.status(cloudflare_statuses);
    trace.first_byte = Some(Instant::now());
    let mut extra = Headers::new();
    if let Some(attempt) = trace.attempts.last() {
        extra.push((HeaderName::from_static("cf-aig-step"), attempt.step.into()));
        extra.push((
            HeaderName::from_static("cf-aig-log-id"),
            writer::value(&attempt.id),
        ));
    }
    write_record(exchange, trace);
    let sent = match exchange.place.what.is_rest() {
        true => rest::refuse(writer, exchange.ids, &error).await,
        false => writer::refuse(writer, exchange.ids, &error, cloudflare_statuses, extra)
            .await
            .map(|_| ()),
    };
    if sent.is_ok() {
        Served::Sent
    } else {
        Served::Aborted
    }
}

/// Appends the record; called on every exit, before the answer's last byte is released.
pub fn write_record(exchange: &Exchange<'_>, trace: RequestTrace) {
    let app = exchange.app;
    for attempt in trace.attempts.iter().filter(|attempt| !attempt.cached) {
        app.metrics.attempt_ended(attempt);
    }
    let seconds = exchange.incoming.clock.started.elapsed().as_secs_f64();
    app.metrics.request_ended(
        trace.decision.unwrap_or(Decision::Failed),
        trace.status,
        seconds,
    );
    let catalog = app.catalog.load();
    let subject = Subject {
        gateway: &exchange.place.gateway,
        caller: exchange.caller,
        incoming: exchange.incoming,
        ids: exchange.ids,
        records: &exchange.config.records,
        catalog: &catalog,
        neurons: &|model, usage| app.neurons(model, usage),
    };
    app.record(&record::build(&subject, trace));
}
