//! What went wrong upstream: one class per failure, what the provider said, and how long it asks to wait.
//!
//! Providers disagree about statuses (an invalid key is 400 at Google, a lost quota 401 at ElevenLabs, an
//! overload 200 with an error event at Anthropic), so the words of the error body are read before the
//! status. The status decides only when the words say nothing known.
//!
//! - `words`: the error body, whatever its shape, as code, kind and message
//! - `wait`: retry hints from headers and body

mod wait;
mod words;

use std::time::Duration;

use crate::Dialect;
use words::Words;

/// Longest provider message kept, in bytes; the rest is cut.
const MAX_MESSAGE_BYTES: usize = 512;
/// How much of an error body is read. Error bodies are small; one past this bound is classed by its status.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// What kind of failure it was, and so what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureClass {
    /// The provider has no room just now: try again with back-off, then elsewhere.
    Overloaded,
    /// This caller is too fast: wait the hint when it is short, else go elsewhere.
    RateLimit,
    /// Credits, quota or a budget are used up: trying again cannot help.
    QuotaGone,
    Auth,
    ContextTooLong,
    /// Refused for what it says: never repeated by default.
    ContentPolicy,
    BadRequest,
    NotFound,
    Server,
    /// The answer ended without proof that it was whole. Only readers say this.
    Truncated,
}

impl FailureClass {
    pub fn as_str(self) -> &'static str {
        match self {
            FailureClass::Overloaded => "overloaded",
            FailureClass::RateLimit => "rate_limit",
            FailureClass::QuotaGone => "quota_gone",
            FailureClass::Auth => "auth",
            FailureClass::ContextTooLong => "context_too_long",
            FailureClass::ContentPolicy => "content_policy",
            FailureClass::BadRequest => "bad_request",
            FailureClass::NotFound => "not_found",
            FailureClass::Server => "server",
            FailureClass::Truncated => "truncated",
        }
    }

    /// Whether the same request may go well on the same target a little later.
    pub fn may_pass_later(self) -> bool {
        matches!(
            self,
            FailureClass::Overloaded
                | FailureClass::RateLimit
                | FailureClass::Server
                | FailureClass::Truncated
        )
    }
}

/// One upstream failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub class: FailureClass,
    /// How long the provider asks to wait, at most a day.
    pub retry_after: Option<Duration>,
    /// The provider's words, cut and with anything that looks like a key blanked.
    pub message: String,
}

impl Failure {
    /// A failure told by an event or frame inside a body: `kind` is an exception or error type, `code` the
    /// provider's code, either may be empty.
    pub fn in_band(dialect: Dialect, kind: &str, code: &str, message: &str) -> Failure {
        let words = Words {
            kind: kind.to_owned(),
            code: code.to_owned(),
            message: message.to_owned(),
            ..Words::default()
        };
        failure(dialect, 200, &words, None)
    }

    /// A failure told by a JSON document that is known to be an error, whatever status it came with.
    pub fn from_error_json(dialect: Dialect, status: u16, body: &[u8]) -> Failure {
        let words = Words::read(bounded(body)).unwrap_or_else(|| Words::from_text(bounded(body)));
        let retry_after = words.retry_after;
        failure(dialect, status, &words, retry_after)
    }
}

/// Classes an answer by its status, headers and (for errors) its body; `None` when nothing went wrong.
///
/// `body` may be the beginning only. A 2xx is looked into only when it is one JSON document, since some
/// providers report failures there; streams are the readers' business.
pub fn classify(
    dialect: Dialect,
    status: u16,
    header: &dyn Fn(&str) -> Option<String>,
    body: &[u8],
) -> Option<Failure> {
    if status < 400 {
        let may_hide_an_error = (200..300).contains(&status) && dialect != Dialect::Opaque;
        let words = may_hide_an_error
            .then(|| Words::read_failed_success(bounded(body)))
            .flatten()?;
        let retry_after = words.retry_after;
        return Some(failure(dialect, status, &words, retry_after));
    }
    let mut words = Words::read(bounded(body)).unwrap_or_else(|| Words::from_text(bounded(body)));
    if let Some(kind) = header("x-amzn-errortype") {
        // May carry a suffix: `ThrottlingException:http://...`.
        words.kind = kind.split(':').next().unwrap_or_default().to_owned();
    }
    let mut found = failure(dialect, status, &words, None);
    let limited = matches!(
        found.class,
        FailureClass::RateLimit | FailureClass::Overloaded
    );
    found.retry_after = wait::hint(header)
        .or(words.retry_after)
        .or_else(|| limited.then(|| wait::reset(header)).flatten());
    Some(found)
}

fn bounded(body: &[u8]) -> &[u8] {
    &body[..body.len().min(MAX_BODY_BYTES)]
}

fn failure(dialect: Dialect, status: u16, words: &Words, retry_after: Option<Duration>) -> Failure {
    let class = class_of_words(dialect, status, words)
        .unwrap_or_else(|| class_of_status(dialect, status, words));
    Failure {
        class,
        retry_after,
        message: words::clean(&words.message, MAX_MESSAGE_BYTES),
    }
}

/// Codes, kinds and sentences with one meaning wherever they stand. Order matters: the first match wins, and
/// the classes that must never be repeated come first.
fn class_of_words(dialect: Dialect, status: u16, words: &Words) -> Option<FailureClass> {
    const POLICY: &[&str] = &[
        "content_filter",
        "content_policy_violation",
        "image_content_policy_violation",
        "moderation_blocked",
        "responsibleaipolicyviolation",
        "bio_policy",
        "misalignment_policy_violation",
        "refusal",
        "safety",
        "prohibited_content",
        "guardrail_intervened",
    ];
    const CONTEXT: &[&str] = &[
        "context_length_exceeded",
        "string_above_max_length",
        "model_context_window_exceeded",
    ];
    const CONTEXT_TEXT: &[&str] = &[
        "prompt is too long",
        "maximum context length",
        "exceeds the maximum number of tokens",
        "input is too long for requested model",
        "tokens + `max_new_tokens` must be",
        "exceed context limit",
        "context window",
        "too many tokens",
    ];
    const MONEY: &[&str] = &[
        "insufficient_quota",
        "billing_error",
        "billing_hard_limit_reached",
        "billing_not_active",
        "enforced_spend_limit_reached",
        "quota_exceeded",
        "payment_required",
        "servicequotaexceededexception",
    ];
    const FULL: &[&str] = &[
        "overloaded_error",
        "overloaded",
        "server_is_overloaded",
        "slow_down",
        "engineoverloaded",
        "provider_overloaded",
        "service_tier_capacity_exceeded",
        "capacity_exceeded",
        "modelnotreadyexception",
        "serviceunavailableexception",
        "insufficient_system_resource",
        "unavailable",
    ];
    const AUTH: &[&str] = &[
        "invalid_api_key",
        "api_key_invalid",
        "authentication_error",
        "permission_error",
        "unauthenticated",
        "permission_denied",
        "accessdeniedexception",
        "unrecognizedclientexception",
        "invalidsignatureexception",
        "expiredtokenexception",
        "unsupported_country_region_territory",
    ];
    const FAST: &[&str] = &[
        "rate_limit_exceeded",
        "rate_limit_error",
        "ratelimitreached",
        "throttlingexception",
        "toomanyrequests",
    ];
    const GONE: &[&str] = &[
        "not_found_error",
        "model_not_found",
        "deploymentnotfound",
        "resourcenotfoundexception",
        "not_found",
    ];
    const OURS: &[&str] = &[
        "invalid_request_error",
        "invalid_argument",
        "validationexception",
        "validation",
        "failed_precondition",
    ];

    let text = words.message.to_ascii_lowercase();
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| text.contains(phrase));

    if words.has(POLICY) || words.flagged {
        return Some(FailureClass::ContentPolicy);
    }
    if words.has(&["invalid_prompt"]) && says(&["flagged", "policy", "violat", "safety"]) {
        return Some(FailureClass::ContentPolicy);
    }
    if dialect == Dialect::Ideogram && status == 422 && says(&["safety", "safe"]) {
        return Some(FailureClass::ContentPolicy);
    }
    let cerebras_context = text.contains("current length is") && text.contains("while limit is");
    if words.has(CONTEXT) || ((status < 429) && (says(CONTEXT_TEXT) || cerebras_context)) {
        return Some(FailureClass::ContextTooLong);
    }
    if status == 402
        || words.has(MONEY)
        || words.daily_quota
        || says(&["insufficient balance", "credit balance is too low"])
    {
        return Some(FailureClass::QuotaGone);
    }
    if words.has(AUTH) {
        return Some(FailureClass::Auth);
    }
    if words.has(FULL) || status == 529 || words.is_loading {
        return Some(FailureClass::Overloaded);
    }
    if words.has(&["resource_exhausted"]) {
        let told_when = words.retry_after.is_some();
        return Some(if told_when {
            FailureClass::RateLimit
        } else {
            FailureClass::Overloaded
        });
    }
    // A request that is larger than the whole per-minute allowance comes as 413: waiting cannot help it.
    if words.has(FAST) && status != 413 {
        return Some(FailureClass::RateLimit);
    }
    if words.has(GONE) {
        return Some(FailureClass::NotFound);
    }
    // Only an error inside a success needs these: a real status says it better.
    (status < 400 && words.has(OURS)).then_some(FailureClass::BadRequest)
}

fn class_of_status(dialect: Dialect, status: u16, words: &Words) -> FailureClass {
    // Inside a success the body may hold the status it means (`"code": 503`).
    let status = if status < 400 {
        words.status_in_code().unwrap_or(500)
    } else {
        status
    };
    let is_cohere = matches!(dialect, Dialect::CohereV1 | Dialect::CohereV2);
    match status {
        402 => FailureClass::QuotaGone,
        401 | 403 => FailureClass::Auth,
        404 => FailureClass::NotFound,
        408 | 409 | 424 | 425 => FailureClass::Server,
        429 => FailureClass::RateLimit,
        // An invalid token at Cohere, no room on the flexible tier at Groq.
        498 if is_cohere => FailureClass::Auth,
        498 | 529 => FailureClass::Overloaded,
        400..=499 => FailureClass::BadRequest,
        _ => FailureClass::Server,
    }
}

#[cfg(test)]
mod tests;
