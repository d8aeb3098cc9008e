//! One configured tenant: its written form [`GatewayEntry`] and its resolved form [`Gateway`].
//!
//! Field names are those of the management API, so that one struct reads the file today and a
//! request body of the API as well; `null` and a missing field mean the same.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Timeouts;

/// The account that exists without being named anywhere.
pub const DEFAULT_ACCOUNT: &str = "default";

/// The gateway that exists in every account.
pub const DEFAULT_GATEWAY: &str = "default";

const MAX_NAME_BYTES: usize = 64;

/// Longest a stored reply may live: 31 days, seconds.
pub const MAX_CACHE_TTL_S: u64 = 2_678_400;

/// Tries on one target, the first included.
pub const MAX_ATTEMPTS: u32 = 5;

/// Longest pause between two tries, milliseconds.
pub const MAX_RETRY_DELAY_MS: u64 = 60_000;

/// A sliding window remembers each request's time, 8 bytes: 8 MB at this limit. More is refused
/// at start; a fixed window has no such bound.
pub const MAX_SLIDING_LIMIT: u64 = 1_000_000;

/// Longest rate-limiting interval: one year, seconds.
const MAX_INTERVAL_S: u64 = 31_536_000;

/// `[[gateways]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatewayEntry {
    /// Account it belongs to.
    pub account: String,
    /// Its id in the path.
    pub id: String,
    /// Seconds a reply is kept; 0 = caching off unless a request asks.
    pub cache_ttl: Option<u64>,
    /// Changing this gateway's settings drops what it has cached.
    pub cache_invalidate_on_update: bool,
    /// Callers with different credentials share entries stored under `cf-aig-cache-key`.
    pub cache_key_shared: bool,
    /// Write a log row for each request.
    pub collect_logs: bool,
    /// Keep bodies beside the row.
    pub collect_logs_payload: bool,
    /// Seconds over which requests are counted; 0 = no limit.
    pub rate_limiting_interval: Option<u64>,
    /// Requests allowed in the interval; 0 = no limit.
    pub rate_limiting_limit: Option<u64>,
    /// `fixed` (aligned to the clock) or `sliding` (any trailing interval).
    pub rate_limiting_technique: Option<Technique>,
    /// Callers need a gateway token. Unset: `default` needs one as soon as a token exists,
    /// others do not.
    pub authentication: Option<bool>,
    /// Tries on one target, 1 to 5.
    pub retry_max_attempts: Option<u32>,
    /// Pause between tries, milliseconds.
    pub retry_delay: Option<u64>,
    /// How the pause grows.
    pub retry_backoff: Option<Backoff>,
    /// A content-filter refusal moves on to the next step of a universal request.
    pub fallback_on_content_filter: bool,
    /// Requests in flight at once through this gateway; 0 = only the server's bound.
    pub max_in_flight: usize,
    /// Overrides of `[timeouts]`.
    pub timeouts: GatewayTimeouts,
}

impl Default for GatewayEntry {
    fn default() -> GatewayEntry {
        GatewayEntry {
            account: DEFAULT_ACCOUNT.to_owned(),
            id: DEFAULT_GATEWAY.to_owned(),
            cache_ttl: None,
            cache_invalidate_on_update: true,
            cache_key_shared: false,
            collect_logs: true,
            collect_logs_payload: true,
            rate_limiting_interval: None,
            rate_limiting_limit: None,
            rate_limiting_technique: None,
            authentication: None,
            retry_max_attempts: None,
            retry_delay: None,
            retry_backoff: None,
            fallback_on_content_filter: false,
            max_in_flight: 0,
            timeouts: GatewayTimeouts::default(),
        }
    }
}

/// `timeouts` of a gateway: what is left out comes from `[timeouts]`. Milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatewayTimeouts {
    pub connect_ms: Option<u64>,
    pub response_head_ms: Option<u64>,
    /// 0 = no such limit, whatever `[timeouts]` says.
    pub first_token_ms: Option<u64>,
    pub idle_ms: Option<u64>,
}

impl GatewayTimeouts {
    fn over(&self, base: &Timeouts) -> Timeouts {
        let pick = |own: Option<u64>, base: Duration| own.map_or(base, Duration::from_millis);
        Timeouts {
            connect: pick(self.connect_ms, base.connect),
            response_head: pick(self.response_head_ms, base.response_head),
            first_token: match self.first_token_ms {
                None => base.first_token,
                Some(ms) => (ms > 0).then(|| Duration::from_millis(ms)),
            },
            idle: pick(self.idle_ms, base.idle),
        }
    }
}

/// How requests are counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Technique {
    #[default]
    Fixed,
    Sliding,
}

/// How the pause between tries grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backoff {
    Constant,
    Linear,
    #[default]
    Exponential,
}

impl Backoff {
    /// The wire's word, as in `cf-aig-backoff`; `None` when it is none of the three.
    pub fn parse(word: &str) -> Option<Backoff> {
        match word.trim().to_ascii_lowercase().as_str() {
            "constant" => Some(Backoff::Constant),
            "linear" => Some(Backoff::Linear),
            "exponential" => Some(Backoff::Exponential),
            _ => None,
        }
    }
}

/// A gateway as requests see it: resolved, shared, never changed in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    pub account: Arc<str>,
    pub id: Arc<str>,
    /// Changes when the settings change (and `cache_invalidate_on_update` is on); part of every
    /// cache key. The same settings give the same number in every process.
    pub generation: u64,
    /// Zero = off.
    pub cache_ttl: Duration,
    pub cache_invalidate_on_update: bool,
    pub cache_key_shared: bool,
    pub collect_logs: bool,
    pub collect_logs_payload: bool,
    /// Zero = no limit.
    pub rate_limiting_interval: Duration,
    /// Zero = no limit.
    pub rate_limiting_limit: u64,
    pub rate_limiting_technique: Technique,
    pub authentication: Option<bool>,
    pub retry_max_attempts: u32,
    pub retry_delay: Duration,
    pub retry_backoff: Backoff,
    pub fallback_on_content_filter: bool,
    pub max_in_flight: Option<usize>,
    pub timeouts: Timeouts,
}

/// A gateway's request limit, when it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    pub interval: Duration,
    pub limit: u64,
    pub technique: Technique,
}

impl Gateway {
    /// The settings of a gateway nobody configured.
    pub fn unconfigured(account: &str, id: &str, timeouts: &Timeouts) -> Gateway {
        let entry = GatewayEntry {
            account: account.to_owned(),
            id: id.to_owned(),
            ..GatewayEntry::default()
        };
        Gateway::from_entry(&entry, timeouts)
    }

    /// `entry` was checked by [`GatewayEntry::problems`].
    pub(super) fn from_entry(entry: &GatewayEntry, timeouts: &Timeouts) -> Gateway {
        Gateway {
            account: entry.account.as_str().into(),
            id: entry.id.as_str().into(),
            generation: entry.generation(),
            cache_ttl: Duration::from_secs(entry.cache_ttl.unwrap_or(0)),
            cache_invalidate_on_update: entry.cache_invalidate_on_update,
            cache_key_shared: entry.cache_key_shared,
            collect_logs: entry.collect_logs,
            collect_logs_payload: entry.collect_logs_payload,
            rate_limiting_interval: Duration::from_secs(entry.rate_limiting_interval.unwrap_or(0)),
            rate_limiting_limit: entry.rate_limiting_limit.unwrap_or(0),
            rate_limiting_technique: entry.rate_limiting_technique.unwrap_or_default(),
            authentication: entry.authentication,
            retry_max_attempts: entry.retry_max_attempts.unwrap_or(1),
            retry_delay: Duration::from_millis(entry.retry_delay.unwrap_or(100)),
            retry_backoff: entry.retry_backoff.unwrap_or_default(),
            fallback_on_content_filter: entry.fallback_on_content_filter,
            max_in_flight: (entry.max_in_flight > 0).then_some(entry.max_in_flight),
            timeouts: entry.timeouts.over(timeouts),
        }
    }

    pub fn rate_limit(&self) -> Option<RateLimit> {
        let is_on = !self.rate_limiting_interval.is_zero() && self.rate_limiting_limit > 0;
        is_on.then_some(RateLimit {
            interval: self.rate_limiting_interval,
            limit: self.rate_limiting_limit,
            technique: self.rate_limiting_technique,
        })
    }

    /// Whether a caller must show a gateway token. `tokens_exist`: any token, of any account.
    pub fn needs_token(&self, tokens_exist: bool) -> bool {
        self.authentication
            .unwrap_or(tokens_exist && &*self.id == DEFAULT_GATEWAY)
    }
}

impl GatewayEntry {
    /// What is wrong with it, as (key, message).
    pub(super) fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let mut check = |is_fine: bool, key: &'static str, message: String| {
            if !is_fine {
                problems.push((key, message));
            }
        };
        check(
            is_account_name(&self.account),
            "account",
            format!(
                "`{}` is not an account name: letters, digits, `_` and `-`, at most 64",
                self.account
            ),
        );
        check(
            is_gateway_id(&self.id),
            "id",
            format!(
                "`{}` is not a gateway id: lower-case letters, digits, `_`, single inner `-`, at most 64",
                self.id
            ),
        );
        let ttl = self.cache_ttl.unwrap_or(0);
        check(
            ttl <= MAX_CACHE_TTL_S,
            "cache_ttl",
            format!("{ttl} s is more than 31 days ({MAX_CACHE_TTL_S})"),
        );
        let interval = self.rate_limiting_interval.unwrap_or(0);
        check(
            interval <= MAX_INTERVAL_S,
            "rate_limiting_interval",
            format!("{interval} s is more than a year ({MAX_INTERVAL_S})"),
        );
        let limit = self.rate_limiting_limit.unwrap_or(0);
        let is_sliding = self.rate_limiting_technique == Some(Technique::Sliding);
        check(
            !is_sliding || limit <= MAX_SLIDING_LIMIT,
            "rate_limiting_limit",
            format!(
                "{limit} is too many for a sliding window (at most {MAX_SLIDING_LIMIT}); use `fixed`"
            ),
        );
        let attempts = self.retry_max_attempts.unwrap_or(1);
        check(
            (1..=MAX_ATTEMPTS).contains(&attempts),
            "retry_max_attempts",
            format!("{attempts} is not between 1 and {MAX_ATTEMPTS}"),
        );
        let delay = self.retry_delay.unwrap_or(0);
        check(
            delay <= MAX_RETRY_DELAY_MS,
            "retry_delay",
            format!("{delay} ms is more than {MAX_RETRY_DELAY_MS}"),
        );
        let own = &self.timeouts;
        for (key, ms) in [
            ("timeouts.connect_ms", own.connect_ms),
            ("timeouts.response_head_ms", own.response_head_ms),
            ("timeouts.idle_ms", own.idle_ms),
        ] {
            check(
                ms != Some(0),
                key,
                "0 would time out at once; leave it out instead".to_owned(),
            );
        }
        problems
    }

    fn generation(&self) -> u64 {
        if !self.cache_invalidate_on_update {
            return 0;
        }
        let settings = serde_json::to_vec(self).expect("plain fields always serialise");
        let digest = Sha256::digest(settings);
        u64::from_be_bytes(digest[..8].try_into().expect("a digest has 32 bytes"))
    }
}

/// `^[A-Za-z0-9_-]{1,64}$`
pub fn is_account_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// `^[a-z0-9_]+(?:-[a-z0-9_]+)*$`, at most 64.
pub fn is_gateway_id(id: &str) -> bool {
    let is_word = |word: &str| {
        !word.is_empty()
            && word
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    id.len() <= MAX_NAME_BYTES && id.split('-').all(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_grammar() {
        for id in ["default", "prod", "a-b_c-9", "_", "0"] {
            assert!(is_gateway_id(id), "{id}");
        }
        for id in [
            "",
            "-a",
            "a-",
            "a--b",
            "Prod",
            "a.b",
            "a/b",
            "ä",
            &"x".repeat(65),
        ] {
            assert!(!is_gateway_id(id), "{id}");
        }
        for account in ["default", "A-_-9", "--", &"x".repeat(64)] {
            assert!(is_account_name(account), "{account}");
        }
        for account in ["", "a b", "a/b", "..", &"x".repeat(65)] {
            assert!(!is_account_name(account), "{account}");
        }
    }

    #[test]
    fn generation_follows_settings_unless_told_otherwise() {
        let entry = GatewayEntry::default();
        let changed = GatewayEntry {
            cache_ttl: Some(60),
            ..entry.clone()
        };
        assert_eq!(entry.generation(), entry.clone().generation());
        assert_ne!(entry.generation(), changed.generation());
        let keep = |entry: &GatewayEntry| {
            GatewayEntry {
                cache_invalidate_on_update: false,
                ..entry.clone()
            }
            .generation()
        };
        assert_eq!(keep(&entry), keep(&changed));
    }

    #[test]
    fn only_default_asks_for_a_token_by_itself() {
        let timeouts = Timeouts::default();
        let default = Gateway::unconfigured("acct", DEFAULT_GATEWAY, &timeouts);
        assert!(!default.needs_token(false));
        assert!(default.needs_token(true));
        let other = Gateway::unconfigured("acct", "prod", &timeouts);
        assert!(!other.needs_token(true));
        assert!(
            Gateway {
                authentication: Some(true),
                ..other
            }
            .needs_token(false)
        );
        assert!(
            !Gateway {
                authentication: Some(false),
                ..default
            }
            .needs_token(true)
        );
    }

    #[test]
    fn a_limit_needs_both_numbers() {
        let plain = Gateway::unconfigured("a", "b", &Timeouts::default());
        assert_eq!(plain.rate_limit(), None);
        let half = Gateway {
            rate_limiting_limit: 5,
            ..plain
        };
        assert_eq!(half.rate_limit(), None);
        let whole = Gateway {
            rate_limiting_interval: Duration::from_secs(60),
            ..half
        };
        assert!(whole.rate_limit().is_some());
    }

    #[test]
    fn problems_name_key_and_value() {
        let entry = GatewayEntry {
            id: "Prod".into(),
            retry_max_attempts: Some(6),
            rate_limiting_limit: Some(MAX_SLIDING_LIMIT + 1),
            rate_limiting_technique: Some(Technique::Sliding),
            ..GatewayEntry::default()
        };
        let keys: Vec<_> = entry.problems().iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, ["id", "rate_limiting_limit", "retry_max_attempts"]);
        assert!(GatewayEntry::default().problems().is_empty());
    }
}
