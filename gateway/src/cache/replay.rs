//! The cache as a step of the pipeline sees it: look up before the attempts, replay a hit, store a
//! whole answer. What a stored answer *is* stands in `memory`; which one, in `key`.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::HeaderValue;
use http::header::HeaderName;
use providers::{Ending, Reading, Usage};
use serde::{Deserialize, Serialize};

use super::{
    CachePolicy, Content, Key, KeyParts, Landing, LeaderGuard, Lookup, Payer, StoredReply, policy,
};
use crate::attempt;
use crate::backend::Reply;
use crate::backend::http_client::authority;
use crate::door::writer::{Gone, Headers, ReplyWriter};
use crate::exchange::Exchange;
use crate::route::{self, PlanStep, Target};
use crate::tee::{self, Keep};
use crate::trace::{Attempt, Decision};

/// What a look-up came to.
pub enum Cached {
    Hit(Arc<StoredReply>),
    Miss(Slot),
    ClientGone,
}

/// A step's place in the cache: where its answer would go, if it may go anywhere.
#[derive(Default)]
pub struct Slot {
    place: Option<(Key, CachePolicy)>,
    guard: Option<LeaderGuard>,
    head: Option<(u16, Vec<(String, String)>)>,
}

/// What the record of a hit needs to know, kept beside the answer.
#[derive(Debug, Default, Serialize, Deserialize)]
struct About {
    model: Option<String>,
    finish: Option<String>,
    tokens_in: Option<u64>,
    tokens_out: Option<u64>,
}

/// Hashes only when caching can apply. Waits for an equal request that is already on its way.
pub async fn look_up(
    exchange: &Exchange<'_>,
    step: &PlanStep,
    writer: &mut ReplyWriter<'_>,
) -> Cached {
    let cache = &exchange.app.cache;
    let Some(body) = step.body.held() else {
        return Cached::Miss(Slot::default());
    };
    if !step.cache.applies() || !cache.takes_request(body.len()) {
        return Cached::Miss(Slot::default());
    }
    let key = key(exchange, step, body);
    let place = Some((key, step.cache.clone()));
    match cache
        .look_up(key, &step.cache, exchange.incoming.clock.started_us)
        .await
    {
        Lookup::Hit(stored) => Cached::Hit(stored),
        Lookup::Lead(guard) => Cached::Miss(Slot {
            place,
            guard: Some(guard),
            head: None,
        }),
        Lookup::Alone => Cached::Miss(Slot {
            place,
            guard: None,
            head: None,
        }),
        Lookup::Follow(follower) => {
            let landing = tokio::select! {
                landing = follower.wait() => landing,
                Gone = writer.gone() => return Cached::ClientGone,
            };
            cache.landed(&landing);
            match landing {
                Landing::Reply(stored) => Cached::Hit(stored),
                Landing::GoAlone => Cached::Miss(Slot {
                    place,
                    guard: None,
                    head: None,
                }),
            }
        }
    }
}

fn key(exchange: &Exchange<'_>, step: &PlanStep, body: &Bytes) -> Key {
    let gateway = &exchange.place.gateway;
    let no_headers = http::HeaderMap::new();
    let credentials;
    let (url, headers, payer) = match &step.target {
        Target::Remote(target) => {
            let scheme = if target.upstream.tls { "https" } else { "http" };
            let url = format!(
                "{scheme}://{}{}",
                authority(&target.upstream),
                target.upstream.path_and_query
            );
            credentials = route::credentials(step.spec, &target.headers);
            let payer = match target.stored_key {
                true => Payer::Caller(exchange.caller.key_id.as_deref()),
                false => Payer::Credentials(&credentials),
            };
            (url, &target.headers, payer)
        }
        Target::Local(target) => (
            format!("engine:{}", target.endpoint),
            &no_headers,
            Payer::Caller(exchange.caller.key_id.as_deref()),
        ),
    };
    let content = match &step.cache.custom_key {
        Some(key) => Content::Custom {
            key,
            is_shared: gateway.cache_key_shared,
        },
        None => Content::Body(body),
    };
    let local_model = match (&step.target, step.facts.model.as_deref()) {
        (Target::Local(target), Some(model)) => Some(exchange.app.local_model(target, model, body)),
        _ => None,
    };
    let parts = KeyParts {
        account: &gateway.account,
        gateway: &gateway.id,
        generation: gateway.generation,
        provider: &step.provider,
        method: match &step.target {
            Target::Remote(target) => target.method.as_str(),
            Target::Local(_) => "POST",
        },
        url: &url,
        payer,
        headers,
        content,
        is_stream: step.facts.stream,
        local_model: local_model.as_deref(),
    };
    parts.key()
}

impl Slot {
    /// Remembers what would be stored, when the answer is of a kind that may be.
    pub fn observe_head(&mut self, reply: &Reply) {
        let may_store = self.place.as_ref().is_some_and(|(_, policy)| policy.write);
        if !may_store || reply.is_status_report || !policy::is_storable_status(reply.status) {
            return;
        }
        let headers = reply
            .headers
            .iter()
            .filter(|(name, _)| policy::is_stored_header(name.as_str()));
        let headers = headers
            .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())));
        self.head = Some((reply.status, headers.collect()));
    }

    /// Where the pieces of a storable answer go.
    pub fn keep(&self, max_bytes: usize) -> Option<Keep> {
        self.head.as_ref().map(|_| Keep::new(max_bytes))
    }

    /// Returns once nobody waits for this answer; at once when nobody does.
    pub async fn followers_left(&self) {
        if let Some(guard) = &self.guard {
            guard.followers_left().await;
        }
    }

    /// Stores a whole answer and hands it to who waits; anything else releases them to go alone.
    pub async fn settle(self, exchange: &Exchange<'_>, attempt: &Attempt, keep: Option<Keep>) {
        let Slot {
            place: Some((key, policy)),
            guard,
            head: Some((status, headers)),
        } = self
        else {
            return;
        };
        let Some(chunks) = keep.and_then(Keep::into_pieces) else {
            return;
        };
        let reading = attempt.reading.as_ref();
        let is_whole = attempt.error.is_none()
            && reading.is_some_and(|reading| {
                reading.ending == Ending::Whole && reading.failure.is_none()
            });
        if !is_whole {
            return;
        }
        let usage = reading.and_then(|reading| reading.usage.as_ref());
        let about = About {
            model: reading.and_then(|reading| reading.model.clone()),
            finish: reading.and_then(|reading| reading.finish.clone()),
            tokens_in: usage.and_then(|usage| usage.in_total),
            tokens_out: usage.and_then(|usage| usage.out_total),
        };
        let stored = Arc::new(StoredReply {
            status,
            headers,
            chunks,
            about: serde_json::to_string(&about).unwrap_or_default(),
            stored_at_us: exchange.incoming.clock.at_us(Instant::now()),
            ttl: policy.ttl,
        });
        match guard {
            Some(guard) => exchange.app.cache.finish(guard, stored).await,
            None => {
                exchange.app.cache.put(key, stored).await;
            }
        }
    }
}

/// The attempt row of a hit: no provider was called, nothing was spent.
pub fn hit_attempt(exchange: &Exchange<'_>, step: &PlanStep, stored: &StoredReply) -> Attempt {
    let about: About = serde_json::from_str(&stored.about).unwrap_or_default();
    let content_type = stored
        .headers
        .iter()
        .find(|(name, _)| name == "content-type")
        .map(|(_, value)| value.clone());
    let usage = Usage {
        in_total: about.tokens_in,
        out_total: about.tokens_out,
        ..Usage::default()
    };
    let mut attempt = attempt::begin(step, 1);
    attempt.status = stored.status;
    attempt.cached = true;
    attempt.decision = Decision::CacheHit;
    attempt.first_byte = Some(Instant::now());
    attempt.ended = Instant::now();
    attempt.response_content_type = content_type.unwrap_or_default();
    attempt.response_bytes = stored.body_bytes() as u64;
    attempt.response_body = match exchange.config.records.capture_bodies {
        true => stored.chunks.clone(),
        false => Vec::new(),
    };
    attempt.reading = Some(Reading {
        model: about.model,
        finish: about.finish,
        usage: Some(usage),
        ending: Ending::Whole,
        usage_raw: None,
        response_id: None,
        failure: None,
        malformed_events: 0,
        events: 0,
        delivered_text_bytes: 0,
    });
    attempt
}

/// Writes a stored answer: a body as it was, a stream piece by piece.
pub async fn replay(
    exchange: &Exchange<'_>,
    writer: &mut ReplyWriter<'_>,
    step: u32,
    log_id: &str,
    stored: &StoredReply,
) -> Result<(), Gone> {
    let mut headers: Headers = Vec::with_capacity(stored.headers.len() + 7);
    for (name, value) in &stored.headers {
        if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
            headers.push((name, crate::door::writer::value(value)));
        }
    }
    let is_stream = stored
        .headers
        .iter()
        .any(|(name, value)| name == "content-type" && value.contains("event-stream"));
    if !is_stream {
        headers.push((
            HeaderName::from_static("content-length"),
            HeaderValue::from(stored.body_bytes()),
        ));
    }
    headers.push((
        HeaderName::from_static("cf-aig-cache-status"),
        HeaderValue::from_static("HIT"),
    ));
    tee::answer_headers(&mut headers, step, log_id, exchange.ids);
    writer.head(stored.status, &headers).await?;
    for chunk in &stored.chunks {
        writer.chunk(chunk.clone()).await?;
    }
    writer.end().await
}
