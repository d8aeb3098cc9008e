//! `Plan`: ordered steps, each a target with its body, its settings and the facts the body tells.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method};
use providers::{Credential, ProviderSpec, RequestFacts, Upstream};

use super::headers;
use super::settings::{self, Layers, RecordSettings, TrySettings};
use crate::auth::Caller;
use crate::backend::vertex::Exchange;
use crate::cache::policy::{self, CachePolicy};
use crate::config::{Config, Gateway, ProviderConfig, Secret};
use crate::decode::{Entry, EntryConfig};
use crate::error::{GatewayError, Kind};
use crate::exchange::Incoming;
use crate::identify::shown;

pub struct Plan {
    pub steps: Vec<PlanStep>,
    /// A universal request moves on for any answer that is not a success.
    pub is_universal: bool,
}

pub struct PlanStep {
    pub index: u32,
    pub provider: String,
    pub spec: &'static ProviderSpec,
    pub target: Target,
    pub body: StepBody,
    pub facts: RequestFacts,
    /// Provider-relative, with credentials in the query redacted.
    pub path: String,
    pub content_type: String,
    pub tries: TrySettings,
    pub record: RecordSettings,
    pub cache: CachePolicy,
}

pub enum Target {
    Remote(Box<RemoteTarget>),
    /// The engine of this process.
    Local(LocalTarget),
}

/// What the engine is asked, the body apart.
#[derive(Debug, Clone)]
pub struct LocalTarget {
    pub account: Arc<str>,
    pub gateway: Arc<str>,
    /// Label of the caller's token, for records of work done later.
    pub caller: Arc<str>,
    /// Path after the provider's slug or `/ai/`, still percent-encoded.
    pub endpoint: String,
    pub query: Option<String>,
    pub is_rest: bool,
}

/// A provider's address and what is sent there, the body apart.
#[derive(Debug, Clone)]
pub struct RemoteTarget {
    pub method: Method,
    pub upstream: Upstream,
    pub headers: HeaderMap,
    /// The credential came from our configuration, not from the caller.
    pub stored_key: bool,
    /// Set when the credential is a key file that has to be exchanged first.
    pub exchange: Option<Exchange>,
}

/// Held bodies can be sent again; a streamed one passes through once.
#[derive(Clone)]
pub enum StepBody {
    Held(Bytes),
    Streamed,
}

impl StepBody {
    pub fn held(&self) -> Option<&Bytes> {
        match self {
            StepBody::Held(bytes) => Some(bytes),
            StepBody::Streamed => None,
        }
    }
}

/// What planning looks at beside the request.
#[derive(Clone, Copy)]
pub struct Ground<'g> {
    pub config: &'g Config,
    pub gateway: &'g Gateway,
    pub caller: &'g Caller,
    pub incoming: &'g Incoming,
    pub has_engine: bool,
}

/// One provider, named by the path.
pub fn single(
    ground: Ground<'_>,
    slug: &str,
    rest: &str,
    body: StepBody,
) -> Result<Plan, GatewayError> {
    let step = build(
        ground,
        Asked {
            is_rest: false,
            ..Asked::path(ground, slug, rest, body)
        },
    )?;
    Ok(Plan {
        steps: vec![step],
        is_universal: false,
    })
}

/// The engine behind the REST host.
pub fn rest_ai(ground: Ground<'_>, rest: &str, body: StepBody) -> Result<Plan, GatewayError> {
    let step = build(
        ground,
        Asked {
            is_rest: true,
            ..Asked::path(ground, "workers-ai", rest, body)
        },
    )?;
    Ok(Plan {
        steps: vec![step],
        is_universal: false,
    })
}

/// A list of steps from the body of a universal request.
pub fn universal(ground: Ground<'_>, entries: &[Entry]) -> Result<Plan, GatewayError> {
    let steps = entries.iter().enumerate().map(|(index, entry)| {
        let content_type = entry
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let asked = Asked {
            index: index as u32,
            slug: &entry.provider,
            rest: &entry.endpoint,
            query: entry.query_string.as_deref(),
            method: &Method::POST,
            headers: &entry.headers,
            content_type: content_type.or(Some("application/json")),
            body: StepBody::Held(entry.body.clone()),
            is_rest: false,
            entry: Some(entry),
        };
        build(ground, asked).map_err(|error| GatewayError {
            message: format!("step {index}: {}", error.message),
            ..error
        })
    });
    Ok(Plan {
        steps: steps.collect::<Result<_, _>>()?,
        is_universal: true,
    })
}

/// One step as it is asked for.
struct Asked<'r> {
    index: u32,
    slug: &'r str,
    rest: &'r str,
    query: Option<&'r str>,
    method: &'r Method,
    headers: &'r HeaderMap,
    content_type: Option<&'r str>,
    body: StepBody,
    is_rest: bool,
    entry: Option<&'r Entry>,
}

impl<'r> Asked<'r> {
    fn path(ground: Ground<'r>, slug: &'r str, rest: &'r str, body: StepBody) -> Asked<'r> {
        Asked {
            index: 0,
            slug,
            rest,
            query: ground.incoming.query.as_deref(),
            method: &ground.incoming.method,
            headers: &ground.incoming.headers,
            content_type: ground.incoming.header("content-type"),
            body,
            is_rest: false,
            entry: None,
        }
    }

    fn entry_config(&self) -> Option<&EntryConfig> {
        self.entry.map(|entry| &entry.config)
    }
}

fn build(ground: Ground<'_>, asked: Asked<'_>) -> Result<PlanStep, GatewayError> {
    let (spec, configured) = provider(ground.config, asked.slug)?;
    let entry_headers = asked.entry.map(|entry| &entry.headers);
    let layers = Layers {
        entry: entry_headers,
        request: &ground.incoming.headers,
    };
    let facts = providers::read_request(
        spec,
        asked.method.as_str(),
        asked.rest,
        asked.query,
        asked.content_type,
        asked.body.held().map(|bytes| &bytes[..]),
    );
    let path = match asked.query {
        Some(query) => providers::redact_path(&format!("{}?{query}", asked.rest)),
        None => providers::redact_path(asked.rest),
    };
    let is_local =
        spec.slug == "workers-ai" && configured.is_none_or(|provider| provider.base_url.is_none());
    let target = if is_local {
        if !ground.has_engine {
            return Err(GatewayError::new(
                Kind::UnknownProvider,
                "provider `workers-ai` is answered by the embedded engine, which is off (`engine.enabled`)",
            ));
        }
        Target::Local(LocalTarget {
            account: Arc::clone(&ground.gateway.account),
            gateway: Arc::clone(&ground.gateway.id),
            caller: Arc::clone(&ground.caller.label),
            endpoint: asked.rest.to_owned(),
            query: asked.query.map(str::to_owned),
            is_rest: asked.is_rest,
        })
    } else {
        Target::Remote(Box::new(remote(ground, &asked, spec, configured)?))
    };
    Ok(PlanStep {
        index: asked.index,
        // A custom provider goes by its own name.
        provider: if asked.slug.starts_with("custom-") {
            asked.slug.to_owned()
        } else {
            spec.slug.to_owned()
        },
        spec,
        target,
        facts,
        path,
        content_type: asked.content_type.unwrap_or("").to_owned(),
        tries: settings::try_settings(ground.gateway, layers, asked.entry_config()),
        record: settings::record_settings(ground.gateway, layers),
        cache: policy::decide(ground.gateway, entry_headers, &ground.incoming.headers),
        body: asked.body,
    })
}

/// The table's row, and what the configuration says about it.
pub fn provider<'c>(
    config: &'c Config,
    slug: &str,
) -> Result<(&'static ProviderSpec, Option<&'c ProviderConfig>), GatewayError> {
    if slug == "compat" {
        return Err(GatewayError::new(
            Kind::NotYet,
            "provider `compat` is not served yet; name a provider in the path, for example `openai`",
        ));
    }
    if slug.starts_with("custom-") {
        let configured = config.providers.get(slug).ok_or_else(|| {
            let slug = shown(slug);
            GatewayError::new(
                Kind::UnknownProvider,
                format!("custom provider `{slug}` is not configured: add [providers.{slug}] with a base_url"),
            )
        })?;
        return Ok((providers::custom(), Some(configured)));
    }
    let spec = providers::find(slug).ok_or_else(|| {
        GatewayError::new(
            Kind::UnknownProvider,
            format!("unknown provider `{}`", shown(slug)),
        )
    })?;
    Ok((
        spec,
        config.providers.get(spec.slug).map(|provider| &**provider),
    ))
}

fn remote(
    ground: Ground<'_>,
    asked: &Asked<'_>,
    spec: &'static ProviderSpec,
    configured: Option<&ProviderConfig>,
) -> Result<RemoteTarget, GatewayError> {
    let base_url = configured.and_then(|provider| provider.base_url.as_deref());
    let header = |name: &str| {
        asked
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    let query = asked.query.map(|query| ground.caller.strip_query(query));
    let upstream = providers::upstream(spec, asked.rest, query.as_deref(), base_url, &header)
        .map_err(|error| GatewayError::new(Kind::BadRequest, error.to_string()))?;
    let mut sent = headers::forward(spec, asked.headers);
    for (name, secret) in configured
        .map(|provider| provider.headers.as_slice())
        .unwrap_or_default()
    {
        set_secret(&mut sent, name, secret.expose(), spec)?;
    }
    if let Some(content_type) = asked.content_type
        && !sent.contains_key(header::CONTENT_TYPE)
        && let Ok(value) = HeaderValue::from_str(content_type)
    {
        sent.insert(header::CONTENT_TYPE, value);
    }
    let presented = {
        let header = |name: &str| {
            sent.get(name)
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned)
        };
        providers::presented_credential(spec, &header, query.as_deref())
    };
    let stored = configured
        .and_then(|provider| provider.api_key.as_ref())
        .filter(|_| presented.is_none());
    let mut exchange = None;
    let body = asked
        .body
        .held()
        .map(|bytes| &bytes[..])
        .unwrap_or_default();
    let now = (ground.incoming.clock.started_us / 1_000_000).max(0) as u64;
    match (&presented, stored) {
        (Some(own), _) if is_key_file(spec, own.reveal()) => {
            sent.remove(header::AUTHORIZATION);
            exchange = Some(Secret::new(own.reveal()));
        }
        // A Bedrock key comes as a bearer and is wanted elsewhere on some paths of this host; a
        // signature the caller made is left alone.
        (Some(own), _) if asked.rest.starts_with("bedrock-mantle/") && is_bearer(&sent) => {
            apply_key(
                spec,
                own.reveal(),
                asked.method,
                &upstream,
                body,
                now,
                &mut sent,
            )?;
        }
        (None, Some(secret)) if is_key_file(spec, secret.expose()) => {
            exchange = Some(secret.clone())
        }
        (None, Some(secret)) => apply_key(
            spec,
            secret.expose(),
            asked.method,
            &upstream,
            body,
            now,
            &mut sent,
        )?,
        (Some(_), _) | (None, None) => {}
    }
    let exchange = exchange.map(|key_file| Exchange {
        key_file,
        url: configured.and_then(|provider| provider.token_url.clone()),
    });
    frame(&asked.body, asked.method, ground.incoming, &mut sent);
    Ok(RemoteTarget {
        method: asked.method.clone(),
        upstream,
        headers: sent,
        stored_key: stored.is_some(),
        exchange,
    })
}

fn is_bearer(sent: &HeaderMap) -> bool {
    let value = sent
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    value.is_some_and(|value| value.len() > 7 && value[..7].eq_ignore_ascii_case("bearer "))
}

/// A Google service account's key file instead of an access key.
fn is_key_file(spec: &ProviderSpec, secret: &str) -> bool {
    spec.slug == "google-vertex-ai" && providers::vertex::ServiceAccount::read(secret).is_some()
}

fn apply_key(
    spec: &ProviderSpec,
    secret: &str,
    method: &Method,
    upstream: &Upstream,
    body: &[u8],
    now: u64,
    sent: &mut HeaderMap,
) -> Result<(), GatewayError> {
    // A signature covers the other headers, so they go in and come out again.
    let mut signed: Vec<(String, String)> = sent
        .iter()
        .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())))
        .collect();
    let credential = Credential::new(secret);
    providers::apply_credential(
        spec,
        &credential,
        method.as_str(),
        upstream,
        body,
        &mut signed,
        now,
    )
    .map_err(|error| unusable(spec, error))?;
    sent.clear();
    for (name, value) in signed {
        append_secret(sent, &name, &value, spec)?;
    }
    Ok(())
}

fn append_secret(
    sent: &mut HeaderMap,
    name: &str,
    value: &str,
    spec: &ProviderSpec,
) -> Result<(), GatewayError> {
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| unusable(spec, error))?;
    let mut value =
        HeaderValue::from_str(value).map_err(|_| unusable(spec, "not a header value"))?;
    value.set_sensitive(true);
    sent.append(name, value);
    Ok(())
}

fn set_secret(
    sent: &mut HeaderMap,
    name: &str,
    value: &str,
    spec: &ProviderSpec,
) -> Result<(), GatewayError> {
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| unusable(spec, error))?;
    let mut value =
        HeaderValue::from_str(value).map_err(|_| unusable(spec, "not a header value"))?;
    value.set_sensitive(true);
    sent.insert(name, value);
    Ok(())
}

fn unusable(spec: &ProviderSpec, cause: impl std::fmt::Display) -> GatewayError {
    GatewayError::new(
        Kind::Internal,
        format!("the stored key of provider `{}` cannot be used", spec.slug),
    )
    .private(cause)
}

/// The body's framing is ours to say, never the caller's to forward.
fn frame(body: &StepBody, method: &Method, incoming: &Incoming, sent: &mut HeaderMap) {
    match body {
        StepBody::Held(bytes)
            if bytes.is_empty()
                && matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) => {}
        StepBody::Held(bytes) => {
            sent.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        }
        StepBody::Streamed => match incoming.headers.get(header::CONTENT_LENGTH) {
            Some(length) => {
                sent.insert(header::CONTENT_LENGTH, length.clone());
            }
            None => {
                sent.insert(
                    header::TRANSFER_ENCODING,
                    HeaderValue::from_static("chunked"),
                );
            }
        },
    }
}
