//! What holds for one step: entry over request over gateway, for every setting.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use providers::CustomCost;

use crate::config::{Backoff, Gateway};
use crate::decode::EntryConfig;

/// Tries on one target that a caller may ask for.
const MAX_ATTEMPTS: u32 = 5;
/// Longest pause between tries that a caller may ask for.
const MAX_RETRY_DELAY_MS: u64 = 60_000;
/// Metadata entries kept; the rest are dropped without error.
const MAX_METADATA: usize = 5;
/// Longest metadata header read, bytes; a longer one is ignored.
const MAX_METADATA_BYTES: usize = 16 * 1024;

/// Where a setting is looked up: the entry's headers first, then the request's.
#[derive(Clone, Copy)]
pub struct Layers<'l> {
    pub entry: Option<&'l HeaderMap>,
    pub request: &'l HeaderMap,
}

impl<'l> Layers<'l> {
    pub fn get(&self, name: &str) -> Option<&'l str> {
        let entry = self.entry.and_then(|headers| headers.get(name));
        entry
            .or_else(|| self.request.get(name))
            .and_then(|value| value.to_str().ok())
    }
}

/// How a step is tried.
#[derive(Debug, Clone)]
pub struct TrySettings {
    pub max_attempts: u32,
    pub retry_delay: Duration,
    pub backoff: Backoff,
    pub connect: Duration,
    /// Until the answer's head.
    pub head: Duration,
    /// Until the first byte of the answer's body: what `cf-aig-request-timeout` bounds.
    pub first_byte: Option<Duration>,
    /// Until the first event with content.
    pub first_token: Option<Duration>,
    pub idle: Duration,
}

/// What is kept of a step.
#[derive(Debug, Clone)]
pub struct RecordSettings {
    /// Off: the request is counted, but the logs do not list it.
    pub collect: bool,
    pub collect_payload: bool,
    /// A flat JSON object, `{}` when none was sent.
    pub metadata: Arc<str>,
    pub custom_cost: Option<CustomCost>,
}

pub fn try_settings(
    gateway: &Gateway,
    layers: Layers<'_>,
    entry: Option<&EntryConfig>,
) -> TrySettings {
    let number = |value: Option<f64>, header: &str| -> Option<u64> {
        value
            .filter(|number| number.is_finite() && *number >= 0.0)
            .map(|number| number as u64)
            .or_else(|| layers.get(header).and_then(|text| text.trim().parse().ok()))
    };
    let max_attempts = number(entry.and_then(|e| e.max_attempts), "cf-aig-max-attempts")
        .map(|n| n.clamp(1, MAX_ATTEMPTS as u64) as u32)
        .unwrap_or(gateway.retry_max_attempts);
    let retry_delay = number(entry.and_then(|e| e.retry_delay), "cf-aig-retry-delay")
        .map(|ms| Duration::from_millis(ms.min(MAX_RETRY_DELAY_MS)))
        .unwrap_or(gateway.retry_delay);
    let backoff = entry
        .and_then(|e| e.backoff.as_deref())
        .or_else(|| layers.get("cf-aig-backoff"))
        .and_then(Backoff::parse)
        .unwrap_or(gateway.retry_backoff);
    let first_byte = number(
        entry.and_then(|e| e.request_timeout),
        "cf-aig-request-timeout",
    )
    // What an old client writes for the same thing.
    .or_else(|| number(None, "cf-aig-request-timeout-ms"))
    .filter(|ms| *ms > 0)
    .map(Duration::from_millis);
    let timeouts = &gateway.timeouts;
    TrySettings {
        max_attempts,
        retry_delay,
        backoff,
        connect: timeouts.connect,
        head: first_byte.unwrap_or(timeouts.response_head),
        first_byte,
        first_token: timeouts.first_token,
        idle: timeouts.idle,
    }
}

pub fn record_settings(gateway: &Gateway, layers: Layers<'_>) -> RecordSettings {
    let switch = |name: &str, default: bool| match layers.get(name).map(str::trim) {
        Some("true" | "1") => true,
        Some("false" | "0") => false,
        _ => default,
    };
    RecordSettings {
        collect: switch("cf-aig-collect-log", gateway.collect_logs),
        collect_payload: switch("cf-aig-collect-log-payload", gateway.collect_logs_payload),
        metadata: layers
            .get("cf-aig-metadata")
            .map(metadata)
            .unwrap_or_else(|| "{}".into()),
        custom_cost: layers.get("cf-aig-custom-cost").and_then(CustomCost::parse),
    }
}

/// A flat object of at most five strings, numbers and booleans. What does not fit is dropped, and
/// what is not JSON is ignored: tags never fail a request. Keys of `cf.` are reserved.
fn metadata(text: &str) -> Arc<str> {
    if text.len() > MAX_METADATA_BYTES {
        return "{}".into();
    }
    let Ok(serde_json::Value::Object(all)) = serde_json::from_str(text) else {
        return "{}".into();
    };
    let kept: serde_json::Map<String, serde_json::Value> = all
        .into_iter()
        .filter(|(key, value)| {
            !key.starts_with("cf.")
                && (value.is_string() || value.is_number() || value.is_boolean())
        })
        .take(MAX_METADATA)
        .collect();
    serde_json::Value::Object(kept).to_string().into()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::config::Timeouts;

    #[test]
    fn metadata_keeps_five_flat_entries_in_their_order() {
        let text = r#"{"z":1,"cf.user":"x","nested":{"a":1},"b":true,"c":"3","d":4,"e":5,"f":6}"#;
        assert_eq!(&*metadata(text), r#"{"z":1,"b":true,"c":"3","d":4,"e":5}"#);
        assert_eq!(&*metadata("not json"), "{}");
        assert_eq!(&*metadata("[1]"), "{}");
    }

    #[test]
    fn the_entry_beats_the_request_and_the_request_beats_the_gateway() {
        let mut request = HeaderMap::new();
        request.insert("cf-aig-max-attempts", HeaderValue::from_static("3"));
        request.insert("cf-aig-retry-delay", HeaderValue::from_static("700"));
        request.insert("cf-aig-collect-log", HeaderValue::from_static("false"));
        let mut entry = HeaderMap::new();
        entry.insert("cf-aig-retry-delay", HeaderValue::from_static("20"));
        let layers = Layers {
            entry: Some(&entry),
            request: &request,
        };
        let gateway = Gateway::unconfigured("default", "default", &Timeouts::default());
        let config = EntryConfig {
            max_attempts: Some(9.0),
            request_timeout: Some(2000.0),
            ..EntryConfig::default()
        };

        let tries = try_settings(&gateway, layers, Some(&config));
        assert_eq!(tries.max_attempts, 5);
        assert_eq!(tries.retry_delay, Duration::from_millis(20));
        assert_eq!(tries.first_byte, Some(Duration::from_secs(2)));
        assert!(!record_settings(&gateway, layers).collect);

        let bare = HeaderMap::new();
        let tries = try_settings(
            &gateway,
            Layers {
                entry: None,
                request: &bare,
            },
            None,
        );
        assert_eq!(tries.max_attempts, gateway.retry_max_attempts);
        assert_eq!(tries.first_byte, None);
    }
}
