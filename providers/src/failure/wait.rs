//! How long a provider asks to wait, from its headers.
//!
//! Instants are read against the answer's own `date` header, so that a wrong clock here changes nothing and
//! the crate needs none.

use std::time::Duration;

use jiff::Timestamp;

/// Longer hints are cut to this: nobody waits in line for a day.
const MAX_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

type Header<'a> = &'a dyn Fn(&str) -> Option<String>;

/// `retry-after-ms`, then `retry-after` in seconds or as a date.
pub(super) fn hint(header: Header<'_>) -> Option<Duration> {
    let milliseconds = header("retry-after-ms").and_then(|value| value.trim().parse::<f64>().ok());
    if let Some(wait) = milliseconds.and_then(|ms| from_seconds(ms / 1000.0)) {
        return Some(wait);
    }
    let value = header("retry-after")?;
    match value.trim().parse::<f64>() {
        Ok(seconds) => from_seconds(seconds),
        Err(_) => until(http_date(&value)?, header),
    }
}

/// The reset of whichever limit is used up; when none says so, the nearest one.
pub(super) fn reset(header: Header<'_>) -> Option<Duration> {
    const LIMITS: &[(&str, &str)] = &[
        (
            "x-ratelimit-remaining-requests",
            "x-ratelimit-reset-requests",
        ),
        ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
        (
            "x-ratelimit-remaining-requests-day",
            "x-ratelimit-reset-requests-day",
        ),
        (
            "x-ratelimit-remaining-tokens-minute",
            "x-ratelimit-reset-tokens-minute",
        ),
        (
            "anthropic-ratelimit-requests-remaining",
            "anthropic-ratelimit-requests-reset",
        ),
        (
            "anthropic-ratelimit-tokens-remaining",
            "anthropic-ratelimit-tokens-reset",
        ),
        (
            "anthropic-ratelimit-input-tokens-remaining",
            "anthropic-ratelimit-input-tokens-reset",
        ),
        (
            "anthropic-ratelimit-output-tokens-remaining",
            "anthropic-ratelimit-output-tokens-reset",
        ),
        ("ratelimitbysize-remaining", "ratelimitbysize-reset"),
        ("x-ratelimit-remaining", "x-ratelimit-reset"),
    ];
    let mut used_up: Option<Duration> = None;
    let mut nearest: Option<Duration> = None;
    for (remaining, reset) in LIMITS {
        let Some(wait) = header(reset).and_then(|value| from_reset(&value, header)) else {
            continue;
        };
        nearest = Some(nearest.map_or(wait, |other| other.min(wait)));
        if header(remaining).is_some_and(|value| value.trim() == "0") {
            used_up = Some(used_up.map_or(wait, |other| other.max(wait)));
        }
    }
    used_up.or(nearest)
}

/// Seconds, fractional allowed; negative and non-finite numbers are no hint.
pub(super) fn from_seconds(seconds: f64) -> Option<Duration> {
    (seconds.is_finite() && seconds >= 0.0)
        .then(|| Duration::from_secs_f64(seconds.min(MAX_WAIT.as_secs_f64())))
}

/// `37s`, `2m59.56s`, `120ms`, `1h0m3s`.
pub(super) fn from_duration_text(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut seconds = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit = &rest[digits..];
        let (scale, unit_bytes) = if unit.starts_with("ms") {
            (0.001, 2)
        } else {
            match unit.as_bytes()[0] {
                b's' => (1.0, 1),
                b'm' => (60.0, 1),
                b'h' => (3600.0, 1),
                b'd' => (86_400.0, 1),
                _ => return None,
            }
        };
        seconds += number * scale;
        rest = &unit[unit_bytes..];
    }
    from_seconds(seconds)
}

/// A reset header: a duration, an RFC 3339 instant, seconds from now, or an epoch in seconds or milliseconds.
fn from_reset(value: &str, header: Header<'_>) -> Option<Duration> {
    let value = value.trim();
    if let Ok(number) = value.parse::<f64>() {
        let instant = match number {
            n if n >= 1e11 => Timestamp::from_millisecond(n as i64).ok()?,
            n if n >= 1e9 => Timestamp::from_second(n as i64).ok()?,
            seconds => return from_seconds(seconds),
        };
        return until(instant, header);
    }
    from_duration_text(value).or_else(|| until(value.parse().ok()?, header))
}

fn until(instant: Timestamp, header: Header<'_>) -> Option<Duration> {
    let sent = http_date(&header("date")?)?;
    let wait = instant
        .as_millisecond()
        .saturating_sub(sent.as_millisecond());
    Some(Duration::from_millis(u64::try_from(wait).unwrap_or(0)).min(MAX_WAIT))
}

fn http_date(value: &str) -> Option<Timestamp> {
    let zoned = jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_zoned(value.trim())
        .ok()?;
    Some(zoned.timestamp())
}
