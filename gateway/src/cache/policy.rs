//! Whether a step may be answered from the cache and may fill it: settings and headers → [`CachePolicy`].
//!
//! Precedence: entry headers of a universal request, then request headers, then the gateway. The
//! older names `cf-cache-ttl` and `cf-skip-cache` are honoured behind the newer ones.

use std::time::Duration;

use http::HeaderMap;
use http::header::RANGE;

use crate::config::Gateway;
use crate::config::gateway::MAX_CACHE_TTL_S;

/// Shortest time a header may ask for, seconds.
const MIN_TTL_S: u64 = 60;

/// For `cf-aig-cache-key` alone, seconds.
const CUSTOM_KEY_TTL_S: u64 = 300;

/// Longest custom key that is used, bytes; a longer one is hashed like any other, so this only keeps
/// nonsense out. (Heads are bounded long before.)
const MAX_CUSTOM_KEY_BYTES: usize = 8 * 1024;

const TTL_HEADERS: [&str; 2] = ["cf-aig-cache-ttl", "cf-cache-ttl"];
const SKIP_HEADERS: [&str; 2] = ["cf-aig-skip-cache", "cf-skip-cache"];
const KEY_HEADERS: [&str; 1] = ["cf-aig-cache-key"];

/// Response headers that are kept with a stored reply. Everything else belongs to the one exchange
/// it came from: cookies, rate limits, connection, our own `cf-aig-*`.
const STORED_HEADERS: [&str; 11] = [
    "content-type",
    "content-encoding",
    "content-language",
    "content-disposition",
    "etag",
    "last-modified",
    "request-id",
    "x-request-id",
    "openai-model",
    "openai-version",
    "anthropic-version",
];

/// What the cache may do for one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachePolicy {
    /// May answer.
    pub read: bool,
    /// May be filled.
    pub write: bool,
    pub ttl: Duration,
    pub custom_key: Option<String>,
}

impl CachePolicy {
    pub const OFF: CachePolicy = CachePolicy {
        read: false,
        write: false,
        ttl: Duration::ZERO,
        custom_key: None,
    };

    /// Whether a key has to be made at all.
    pub fn applies(&self) -> bool {
        self.read || self.write
    }
}

/// `entry` holds a universal entry's own headers.
pub fn decide(gateway: &Gateway, entry: Option<&HeaderMap>, request: &HeaderMap) -> CachePolicy {
    let settings = Settings { entry, request };
    // A part of a reply is not the reply; its range is not in the key.
    let is_partial =
        request.contains_key(RANGE) || entry.is_some_and(|entry| entry.contains_key(RANGE));
    if is_partial || settings.skips() {
        return CachePolicy::OFF;
    }
    let custom_key = settings
        .find(&KEY_HEADERS)
        .filter(|key| !key.is_empty() && key.len() <= MAX_CUSTOM_KEY_BYTES)
        .map(str::to_owned);
    let ttl = match settings.ttl_s() {
        Some(0) => return CachePolicy::OFF,
        Some(asked_s) => Duration::from_secs(asked_s.clamp(MIN_TTL_S, MAX_CACHE_TTL_S)),
        None if !gateway.cache_ttl.is_zero() => gateway.cache_ttl,
        None if custom_key.is_some() => Duration::from_secs(CUSTOM_KEY_TTL_S),
        None => return CachePolicy::OFF,
    };
    CachePolicy {
        read: true,
        write: true,
        ttl,
        custom_key,
    }
}

/// Whether a whole reply of this status may be stored. Partial content is not a whole reply.
pub fn is_storable_status(status: u16) -> bool {
    (200..300).contains(&status) && status != 206
}

/// Whether a response header (lower case) is kept with the reply.
pub fn is_stored_header(name: &str) -> bool {
    STORED_HEADERS.contains(&name)
}

struct Settings<'h> {
    entry: Option<&'h HeaderMap>,
    request: &'h HeaderMap,
}

impl<'h> Settings<'h> {
    /// The first of `names` that is set: all of them in the entry, then all in the request.
    fn find(&self, names: &[&str]) -> Option<&'h str> {
        self.all(names).next()
    }

    fn all(&self, names: &[&str]) -> impl Iterator<Item = &'h str> {
        let levels = self.entry.into_iter().chain([self.request]);
        levels.flat_map(move |headers| {
            names
                .iter()
                .filter_map(|name| headers.get(*name)?.to_str().ok())
                .map(str::trim)
        })
    }

    fn skips(&self) -> bool {
        // `1` is what some clients send.
        self.find(&SKIP_HEADERS)
            .is_some_and(|value| value.eq_ignore_ascii_case("true") || value == "1")
    }

    /// A value that is no number is passed over, as if the header were not there.
    fn ttl_s(&self) -> Option<u64> {
        self.all(&TTL_HEADERS).find_map(|value| value.parse().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Timeouts;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    /// TTL and custom key for a gateway's TTL, an entry's and a request's headers; `None` = off.
    fn check(
        gateway_ttl_s: u64,
        entry: &[(&'static str, &'static str)],
        request: &[(&'static str, &'static str)],
        expected: Option<(u64, Option<&str>)>,
    ) {
        let gateway = Gateway {
            cache_ttl: Duration::from_secs(gateway_ttl_s),
            ..Gateway::unconfigured("acct", "gw", &Timeouts::default())
        };
        let policy = decide(&gateway, Some(&headers(entry)), &headers(request));
        let seen = policy
            .applies()
            .then_some((policy.ttl.as_secs(), policy.custom_key.as_deref()));
        assert_eq!(
            seen, expected,
            "gateway {gateway_ttl_s}, entry {entry:?}, request {request:?}"
        );
        assert_eq!(policy.read, policy.write);
    }

    #[test]
    fn what_turns_caching_on() {
        check(0, &[], &[], None);
        check(300, &[], &[], Some((300, None)));
        check(5, &[], &[], Some((5, None)));
        check(0, &[], &[("cf-aig-cache-ttl", "3600")], Some((3600, None)));
        check(0, &[], &[("cf-cache-ttl", "3600")], Some((3600, None)));
        check(
            0,
            &[],
            &[("cf-aig-cache-key", "faq")],
            Some((300, Some("faq"))),
        );
        check(
            900,
            &[],
            &[("cf-aig-cache-key", "faq")],
            Some((900, Some("faq"))),
        );
        check(
            0,
            &[],
            &[("cf-aig-cache-key", "faq"), ("cf-aig-cache-ttl", "70")],
            Some((70, Some("faq"))),
        );
        check(0, &[], &[("cf-aig-cache-key", " ")], None);
    }

    #[test]
    fn what_turns_it_off() {
        check(300, &[], &[("cf-aig-cache-ttl", "0")], None);
        check(300, &[], &[("cf-aig-skip-cache", "true")], None);
        check(300, &[], &[("cf-aig-skip-cache", "1")], None);
        check(300, &[], &[("cf-skip-cache", "true")], None);
        check(300, &[], &[("range", "bytes=0-1")], None);
        check(
            300,
            &[],
            &[("cf-aig-skip-cache", "false")],
            Some((300, None)),
        );
        check(
            0,
            &[],
            &[("cf-aig-cache-key", "faq"), ("cf-aig-cache-ttl", "0")],
            None,
        );
    }

    #[test]
    fn asked_times_are_clamped_and_nonsense_passed_over() {
        check(0, &[], &[("cf-aig-cache-ttl", "1")], Some((60, None)));
        check(
            0,
            &[],
            &[("cf-aig-cache-ttl", "99999999999")],
            Some((2_678_400, None)),
        );
        check(0, &[], &[("cf-aig-cache-ttl", "soon")], None);
        check(300, &[], &[("cf-aig-cache-ttl", "-5")], Some((300, None)));
        check(
            0,
            &[],
            &[("cf-aig-cache-ttl", "x"), ("cf-cache-ttl", "80")],
            Some((80, None)),
        );
    }

    #[test]
    fn an_entry_beats_the_request() {
        let request = [("cf-aig-cache-ttl", "3600")];
        check(0, &[("cf-aig-cache-ttl", "0")], &request, None);
        check(0, &[("cf-cache-ttl", "120")], &request, Some((120, None)));
        check(
            0,
            &[("cf-aig-skip-cache", "false")],
            &[("cf-aig-skip-cache", "true"), request[0]],
            Some((3600, None)),
        );
        check(
            0,
            &[("cf-aig-cache-key", "a")],
            &[("cf-aig-cache-key", "b")],
            Some((300, Some("a"))),
        );
    }

    #[test]
    fn only_whole_good_replies_and_harmless_headers() {
        assert!(is_storable_status(200) && is_storable_status(201));
        for status in [199, 206, 304, 400, 500] {
            assert!(!is_storable_status(status), "{status}");
        }
        assert!(is_stored_header("content-type"));
        for name in [
            "set-cookie",
            "x-ratelimit-remaining",
            "cf-aig-step",
            "retry-after",
            "connection",
        ] {
            assert!(!is_stored_header(name), "{name}");
        }
    }
}
