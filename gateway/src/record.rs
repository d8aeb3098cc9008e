//! `RequestTrace` → `analytics::LogRecord`: the request row and one row an attempt. Pure.

use std::sync::Arc;
use std::time::Instant;
#[cfg(feature = "local")]
use std::time::{SystemTime, UNIX_EPOCH};

use analytics::{AttemptRow, Bodies, LogRecord, RequestRow};
use bytes::Bytes;
use providers::{Catalog, Ending, Reading, RequestType, Usage, UsageSource};

use crate::auth::Caller;
use crate::config::{Gateway, Records};
use crate::exchange::{Ids, Incoming};
use crate::trace::{Attempt, Decision, RequestTrace};

/// Bytes of text that make a token, roughly; only for answers whose provider did not say.
const BYTES_PER_TOKEN: u64 = 4;

/// What a record is made from beside the trace.
pub struct Subject<'s> {
    pub gateway: &'s Arc<Gateway>,
    pub caller: &'s Caller,
    pub incoming: &'s Incoming,
    pub ids: &'s Ids,
    pub records: &'s Records,
    pub catalog: &'s Catalog,
    /// The engine's price of a model's work, where one is known.
    pub neurons: &'s dyn Fn(&str, &Usage) -> Option<f64>,
}

pub fn build(subject: &Subject<'_>, trace: RequestTrace) -> LogRecord {
    let Subject {
        gateway,
        caller,
        incoming,
        ids,
        ..
    } = *subject;
    let user_agent: String = incoming
        .header("user-agent")
        .unwrap_or("")
        .chars()
        .take(256)
        .collect();
    let collect = trace
        .attempts
        .last()
        .map_or(gateway.collect_logs, |attempt| attempt.settings.collect);
    let metadata = trace.attempts.last().map_or("{}".to_owned(), |attempt| {
        attempt.settings.metadata.to_string()
    });
    let answered = trace.answered;
    let error = trace
        .error
        .or_else(|| answered.and_then(|index| trace.attempts[index].error));
    let attempts: Vec<AttemptRow> = trace
        .attempts
        .into_iter()
        .map(|attempt| attempt_row(subject, attempt, &user_agent))
        .collect();
    let spokesman = answered.map(|index| &attempts[index]).or(attempts.last());
    let costs = attempts.iter().filter_map(|row| row.cost_pico);
    let cost_pico = costs.clone().next().map(|_| costs.sum());
    let decision = trace.decision.unwrap_or(Decision::Failed);
    let path = match &incoming.query {
        Some(query) => providers::redact_path(&format!("{}?{query}", incoming.path)),
        None => incoming.path.clone(),
    };
    let request = RequestRow {
        event_id: ids.event.clone(),
        created_at_us: incoming.clock.started_us,
        account: gateway.account.to_string(),
        gateway: gateway.id.to_string(),
        method: incoming.method.as_str().to_owned(),
        path,
        status_code: trace.status,
        success: (200..300).contains(&trace.status)
            && error.is_none()
            && answered.is_none_or(|index| attempts[index].success),
        cached: decision == Decision::CacheHit,
        decision: decision.as_str().to_owned(),
        error_code: error.map_or("", |kind| kind.slug()).to_owned(),
        answered_by: answered.map(|index| attempts[index].id.clone()),
        provider: spokesman.map_or_else(String::new, |row| row.provider.clone()),
        model: spokesman.map_or_else(String::new, |row| row.model.clone()),
        attempts: attempts.len() as u32,
        duration_us: incoming.clock.elapsed_us(),
        first_byte_us: trace.first_byte.map(|at| since(incoming.clock.started, at)),
        tokens_in: answered.and_then(|index| attempts[index].tokens_in),
        tokens_out: answered.and_then(|index| attempts[index].tokens_out),
        cost_pico,
        caller: caller.label.to_string(),
        metadata,
        user_agent,
        collect,
    };
    LogRecord { request, attempts }
}

/// A request of a batch, answered when nobody waited for it.
#[cfg(feature = "local")]
pub fn of_batched(batched: &crate::backend::local::batch::Batched) -> LogRecord {
    let duration_us = batched.started.elapsed().as_micros() as i64;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let created_at_us = now.map_or(0, |time| time.as_micros() as i64) - duration_us;
    let event_id = format!("{}-{}", batched.request_id, batched.index);
    let path = format!("run/{}?queueRequest=true", batched.model);
    let success = (200..300).contains(&batched.status);
    let tally = batched.took.map(|took| took.tally);
    let attempt = AttemptRow {
        id: ulid::Ulid::generate().to_string(),
        event_id: event_id.clone(),
        account: batched.caller.account.to_string(),
        gateway: batched.caller.gateway.to_string(),
        created_at_us,
        provider: "workers-ai".to_owned(),
        model: batched.model.clone(),
        path: path.clone(),
        status_code: batched.status,
        success,
        attempt: 1,
        decision: Decision::Direct.as_str().to_owned(),
        tokens_in: tally.map(|tally| i64::from(tally.prompt_tokens)),
        tokens_out: tally.map(|tally| i64::from(tally.completion_tokens)),
        cache_read: tally.map(|tally| i64::from(tally.cached_tokens)),
        usage_source: UsageSource::Final.as_str().to_owned(),
        cost_pico: success.then_some(0),
        metadata: "{}".to_owned(),
        duration_us,
        collect: true,
        neurons: batched.took.map(|took| took.neurons),
        ..AttemptRow::default()
    };
    let request = RequestRow {
        event_id,
        created_at_us,
        account: attempt.account.clone(),
        gateway: attempt.gateway.clone(),
        method: "POST".to_owned(),
        path,
        status_code: batched.status,
        success,
        decision: attempt.decision.clone(),
        answered_by: Some(attempt.id.clone()),
        provider: attempt.provider.clone(),
        model: attempt.model.clone(),
        attempts: 1,
        duration_us,
        tokens_in: attempt.tokens_in,
        tokens_out: attempt.tokens_out,
        cost_pico: attempt.cost_pico,
        caller: batched.caller.label.to_string(),
        metadata: attempt.metadata.clone(),
        collect: true,
        ..RequestRow::default()
    };
    LogRecord {
        request,
        attempts: vec![attempt],
    }
}

fn since(from: Instant, to: Instant) -> i64 {
    to.saturating_duration_since(from).as_micros() as i64
}

fn attempt_row(subject: &Subject<'_>, attempt: Attempt, user_agent: &str) -> AttemptRow {
    let reading = attempt.reading.as_ref();
    let model = reading
        .and_then(|reading| reading.model.clone())
        .or_else(|| attempt.requested_model.clone())
        .unwrap_or_default();
    // A refusal or a full context in good order is an answer, if not one the caller will like.
    let ended_well = reading.is_none_or(|reading| {
        reading.ending != Ending::Cut
            && (reading.failure.is_none() || reading.ending == Ending::Whole)
    });
    let success = attempt.error.is_none() && (200..300).contains(&attempt.status) && ended_well;
    let usage = usage(&attempt);
    let settings = &attempt.settings;
    let (cost_pico, custom_cost) = match (&usage, attempt.cached) {
        // An answer of ours costs nothing, whatever prices the caller set.
        (_, true) => (Some(0), settings.custom_cost.is_some()),
        (Some(usage), false) => price(subject.catalog, &attempt, &model, usage),
        (None, false) => (None, false),
    };
    let neurons = match &usage {
        Some(usage) if attempt.provider == "workers-ai" && !attempt.cached => {
            (subject.neurons)(&model, usage)
        }
        _ => None,
    };
    let error_code = match (
        attempt.error,
        reading.and_then(|reading| reading.failure.as_ref()),
    ) {
        (Some(kind), _) => kind.slug().to_owned(),
        (None, Some(failure)) => failure.class.as_str().to_owned(),
        (None, None) => String::new(),
    };
    let finish = reading.map_or_else(String::new, |reading| {
        match (&reading.finish, reading.ending) {
            (_, Ending::Unknown) if (200..300).contains(&attempt.status) => "unknown".to_owned(),
            (Some(finish), _) => finish.clone(),
            (None, _) => String::new(),
        }
    });
    let count = |pick: fn(&Usage) -> Option<u64>| {
        usage
            .as_ref()
            .and_then(pick)
            .map(|n| n.min(i64::MAX as u64) as i64)
    };
    AttemptRow {
        event_id: subject.ids.event.clone(),
        account: subject.gateway.account.to_string(),
        gateway: subject.gateway.id.to_string(),
        created_at_us: subject.incoming.clock.at_us(attempt.started),
        provider: attempt.provider.clone(),
        model,
        model_type: model_type(attempt.request_type).to_owned(),
        path: attempt.path.clone(),
        request_type: attempt.request_type.as_str().to_owned(),
        request_content_type: attempt.request_content_type.clone(),
        response_content_type: attempt.response_content_type.clone(),
        status_code: attempt.status,
        success,
        cached: attempt.cached,
        step: attempt.step,
        attempt: attempt.number,
        decision: attempt.decision.as_str().to_owned(),
        error_code,
        finish,
        tokens_in: count(|usage| usage.in_total),
        tokens_out: count(|usage| usage.out_total),
        cache_read: count(|usage| usage.cache_read),
        cache_write_5m: count(|usage| usage.cache_write_5m),
        cache_write_1h: count(|usage| usage.cache_write_1h),
        cache_write_other: count(|usage| usage.cache_write_other),
        reasoning: count(|usage| usage.reasoning),
        in_audio: count(|usage| usage.in_audio),
        in_image: count(|usage| usage.in_image),
        out_audio: count(|usage| usage.out_audio),
        out_image: count(|usage| usage.out_image),
        seconds: usage.as_ref().and_then(|usage| usage.seconds),
        web_searches: count(|usage| usage.web_searches),
        images: count(|usage| usage.images),
        characters: count(|usage| usage.characters),
        search_units: count(|usage| usage.search_units),
        usage_source: usage
            .as_ref()
            .map_or("", |usage| usage.source.as_str())
            .to_owned(),
        usage_raw: reading
            .and_then(|reading| reading.usage_raw.clone())
            .unwrap_or_default(),
        tier: usage
            .as_ref()
            .and_then(|usage| usage.tier.clone())
            .unwrap_or_default(),
        cost_pico,
        custom_cost,
        metadata: settings.metadata.to_string(),
        duration_us: since(attempt.started, attempt.ended),
        first_byte_us: attempt.first_byte.map(|at| since(attempt.started, at)),
        user_agent: user_agent.to_owned(),
        authentication: subject.caller.is_authenticated,
        byok: attempt.stored_key,
        request_size: attempt.request_bytes as i64,
        response_size: attempt.response_bytes as i64,
        upstream_request_id: attempt.upstream_request_id.clone(),
        malformed_events: reading.map_or(0, |reading| {
            reading.malformed_events.min(u32::MAX as u64) as u32
        }),
        collect: settings.collect,
        neurons,
        body: bodies(subject.records, &attempt),
        id: attempt.id,
    }
}

fn bodies(records: &Records, attempt: &Attempt) -> Option<Bodies> {
    let keeps =
        records.capture_bodies && attempt.settings.collect && attempt.settings.collect_payload;
    let kept = attempt.request_body.len().min(records.max_body_bytes);
    keeps.then(|| Bodies {
        request: attempt.request_body[..kept].to_vec(),
        response: join(&attempt.response_body),
        request_complete: attempt.request_complete && kept == attempt.request_body.len(),
        response_complete: attempt.response_complete,
    })
}

fn join(pieces: &[Bytes]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(pieces.iter().map(Bytes::len).sum());
    for piece in pieces {
        whole.extend_from_slice(piece);
    }
    whole
}

/// The provider's numbers, or for text an estimate that says it is one. A failed call used nothing
/// that anybody could know.
fn usage(attempt: &Attempt) -> Option<Usage> {
    let reading = attempt.reading.as_ref()?;
    if let Some(usage) = &reading.usage {
        return Some(usage.clone());
    }
    if !(200..300).contains(&attempt.status) || reading.failure.is_some() {
        return None;
    }
    let prompt = attempt.estimated_prompt_tokens;
    match attempt.request_type {
        RequestType::Chat | RequestType::Completion => {
            Some(Usage::estimate(prompt, delivered_tokens(reading)))
        }
        RequestType::Embeddings => Some(Usage::estimate(prompt, 0)),
        _ => None,
    }
}

fn delivered_tokens(reading: &Reading) -> u64 {
    reading.delivered_text_bytes.div_ceil(BYTES_PER_TOKEN)
}

fn price(catalog: &Catalog, attempt: &Attempt, model: &str, usage: &Usage) -> (Option<i64>, bool) {
    if let Some(custom) = &attempt.settings.custom_cost {
        return (custom.cost(usage).map(|cost| cost.pico_usd), true);
    }
    if attempt.provider == "workers-ai" && usage.source != UsageSource::Estimate {
        // Our own engine bills nobody.
        return (Some(0), false);
    }
    let cost = catalog.cost(&attempt.provider, model, usage);
    (cost.map(|cost| cost.pico_usd), false)
}

fn model_type(request_type: RequestType) -> &'static str {
    match request_type {
        RequestType::Chat | RequestType::Completion => "text-generation",
        RequestType::Embeddings => "embeddings",
        RequestType::Image => "image-generation",
        RequestType::Audio => "audio",
        RequestType::Moderation => "moderation",
        RequestType::Rerank => "rerank",
        RequestType::Other => "",
    }
}
