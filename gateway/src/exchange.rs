//! What one request carries from room to room: its head, its ids and its clock.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, Method};
use uuid::Uuid;

use crate::app::App;
use crate::auth::Caller;
use crate::config::Config;
use crate::identify::Place;

/// The head of a request as it arrived. The body is read later, after the caller was admitted.
#[derive(Debug, Clone)]
pub struct Incoming {
    pub method: Method,
    /// Raw path as the caller wrote it, still percent-encoded.
    pub path: String,
    pub query: Option<String>,
    pub headers: HeaderMap,
    pub client: Option<SocketAddr>,
    pub is_http2: bool,
    /// The caller asked to change protocols (WebSocket).
    pub is_upgrade: bool,
    pub clock: Clock,
}

/// When the request arrived, on both clocks: one to subtract, one to store.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    pub started: Instant,
    pub started_us: i64,
}

impl Clock {
    pub fn start() -> Clock {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Clock {
            started: Instant::now(),
            started_us: since_epoch.as_micros() as i64,
        }
    }

    pub fn elapsed_us(&self) -> i64 {
        self.started.elapsed().as_micros() as i64
    }

    /// Unix time of an instant of this process, in microseconds.
    pub fn at_us(&self, instant: Instant) -> i64 {
        self.started_us + instant.saturating_duration_since(self.started).as_micros() as i64
    }
}

impl Incoming {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// What every stage may look at. Built once a request; nothing is added later.
#[derive(Clone, Copy)]
pub struct Exchange<'e> {
    pub app: &'e Arc<App>,
    pub config: &'e Arc<Config>,
    pub incoming: &'e Incoming,
    pub ids: &'e Ids,
    pub place: &'e Place,
    pub caller: &'e Caller,
}

/// The ids a reply carries. `request` is ours alone; `event` may be the caller's.
#[derive(Debug, Clone)]
pub struct Ids {
    pub request: String,
    pub event: String,
    pub trace: String,
}

/// Longest event id a caller may set; a longer one is replaced by ours.
const MAX_EVENT_ID: usize = 128;

impl Ids {
    pub fn new(headers: &HeaderMap) -> Ids {
        let request = Uuid::new_v4().to_string();
        let event = text(headers, "cf-aig-event-id")
            .filter(|id| {
                !id.is_empty()
                    && id.len() <= MAX_EVENT_ID
                    && id.bytes().all(|b| b.is_ascii_graphic())
            })
            .map(str::to_owned)
            .unwrap_or_else(|| request.clone());
        let trace = text(headers, "cf-aig-otel-trace-id")
            .filter(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()))
            .map(str::to_ascii_lowercase)
            .unwrap_or_else(|| Uuid::new_v4().simple().to_string());
        Ids {
            request,
            event,
            trace,
        }
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_event_id_is_kept_and_a_wild_one_is_not() {
        let mut headers = HeaderMap::new();
        headers.insert("cf-aig-event-id", "my-id-7".parse().expect("header"));
        assert_eq!(Ids::new(&headers).event, "my-id-7");
        headers.insert("cf-aig-event-id", "with space".parse().expect("header"));
        let ids = Ids::new(&headers);
        assert_eq!(ids.event, ids.request);
        assert_eq!(ids.trace.len(), 32);
    }
}
