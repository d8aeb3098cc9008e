//! Error bodies in their many shapes, as a few words to look up.
//!
//! Seen in the wild: `error` as object, string or list; a list around the whole document (Google without
//! SSE); flat `message`; `detail` as text, list or object; `errors[]`; problem JSON; `err_code`/`err_msg`;
//! and pages of HTML from an edge. All are read leniently: nothing here can fail, it can only find less.

use std::time::Duration;

use serde_json::{Map, Value};

use super::wait;

/// What an error body says.
#[derive(Debug, Default)]
pub(super) struct Words {
    pub code: String,
    pub kind: String,
    /// Further names for the same fault: inner codes, reasons, statuses.
    pub more: Vec<String>,
    pub message: String,
    /// A moderation verdict stands beside the error.
    pub flagged: bool,
    /// The quota that ran out is a daily one.
    pub daily_quota: bool,
    /// The model is being loaded.
    pub is_loading: bool,
    pub retry_after: Option<Duration>,
}

impl Words {
    /// Reads an error document; `None` when it is not JSON.
    pub fn read(body: &[u8]) -> Option<Words> {
        let document: Value = serde_json::from_slice(body).ok()?;
        let mut words = Words::default();
        words.take_document(&document);
        Some(words)
    }

    /// Reads a document that came with a success status; `None` unless it says that it failed.
    pub fn read_failed_success(body: &[u8]) -> Option<Words> {
        // Most successes have no such member, and looking for it is cheaper than building the document.
        let may_be_error = memchr::memmem::find(body, b"\"error\"").is_some();
        let first = body.iter().find(|byte| !byte.is_ascii_whitespace())?;
        if !may_be_error || !matches!(first, b'{' | b'[') {
            return None;
        }
        let document: Value = serde_json::from_slice(body).ok()?;
        let object = match &document {
            Value::Array(items) => items
                .iter()
                .rev()
                .find(|item| is_truthy(item.get("error")))?,
            other => other,
        };
        let choice_error = object.pointer("/choices/0/error");
        let failed = matches!(object.get("status").and_then(Value::as_str), Some("failed"));
        if !is_truthy(object.get("error")) && !is_truthy(choice_error) && !failed {
            return None;
        }
        let mut words = Words::default();
        words.take_document(object);
        if let Some(error) = choice_error {
            words.take_error(error);
        }
        Some(words)
    }

    /// The beginning of a body that is not JSON.
    pub fn from_text(body: &[u8]) -> Words {
        Words {
            message: String::from_utf8_lossy(body).into_owned(),
            ..Words::default()
        }
    }

    /// Whether any of the names is one of `names` (given in lower case).
    pub fn has(&self, names: &[&str]) -> bool {
        let mine = [&self.code, &self.kind];
        mine.into_iter()
            .chain(&self.more)
            .any(|word| names.iter().any(|name| word.eq_ignore_ascii_case(name)))
    }

    /// The HTTP status the body itself names.
    pub fn status_in_code(&self) -> Option<u16> {
        self.code
            .parse()
            .ok()
            .filter(|code| (400..600).contains(code))
    }

    fn take_document(&mut self, document: &Value) {
        match document {
            Value::Array(items) => {
                if let Some(first) = items.first() {
                    self.take_document(first);
                }
            }
            Value::Object(object) => {
                self.take_object(object);
                for member in ["error", "errors", "detail"] {
                    if let Some(value) = object.get(member) {
                        self.take_error(value);
                    }
                }
            }
            Value::String(text) => self.set_message(text),
            _ => {}
        }
    }

    fn take_error(&mut self, error: &Value) {
        match error {
            Value::String(text) => self.set_message(text),
            Value::Array(items) => {
                if let Some(first) = items.first() {
                    self.take_error(first);
                }
            }
            Value::Object(object) => self.take_object(object),
            _ => {}
        }
    }

    fn take_object(&mut self, object: &Map<String, Value>) {
        if let Some(code) = ["code", "err_code", "error_code"]
            .iter()
            .find_map(|key| word(object.get(*key)))
        {
            self.push_name(code, true);
        }
        for key in ["type", "error_type", "__type", "category"] {
            if let Some(kind) = word(object.get(key)) {
                // `com.amazon.coral.service#AccessDeniedException` and the like.
                let kind = kind.rsplit('#').next().unwrap_or_default().to_owned();
                self.push_name(kind, false);
            }
        }
        for key in ["status", "reason", "error_type"] {
            self.more.extend(word(object.get(key)));
        }
        for key in [
            "message",
            "Message",
            "msg",
            "err_msg",
            "description",
            "title",
            "detail",
        ] {
            match object.get(key) {
                Some(Value::String(text)) => self.set_message(text),
                Some(Value::Object(inner)) => self.take_object(inner),
                _ => {}
            }
        }
        for key in ["innererror", "metadata", "details"] {
            match object.get(key) {
                Some(Value::Object(inner)) => self.take_object(inner),
                Some(Value::Array(items)) => items.iter().for_each(|item| self.take_detail(item)),
                _ => {}
            }
        }
        self.flagged |= object.contains_key("flagged_input")
            || object
                .get("content_filters")
                .and_then(Value::as_array)
                .is_some_and(|filters| {
                    filters
                        .iter()
                        .any(|filter| filter.get("blocked") == Some(&Value::Bool(true)))
                });
        if let Some(seconds) = object.get("estimated_time").and_then(Value::as_f64) {
            self.is_loading = true;
            self.retry_after = wait::from_seconds(seconds);
        }
        if let Some(seconds) = object.get("retry_after").and_then(Value::as_f64) {
            self.retry_after = wait::from_seconds(seconds);
        }
    }

    /// One entry of Google's `details`: `RetryInfo`, `QuotaFailure`, `ErrorInfo`.
    fn take_detail(&mut self, detail: &Value) {
        if let Some(reason) = detail.get("reason").and_then(Value::as_str) {
            self.more.push(reason.to_owned());
        }
        if let Some(delay) = detail.get("retryDelay").and_then(Value::as_str) {
            self.retry_after = wait::from_duration_text(delay);
        }
        let violations = detail
            .get("violations")
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default();
        self.daily_quota |= violations
            .iter()
            .filter_map(|violation| violation.get("quotaId").and_then(Value::as_str))
            .any(|quota| quota.contains("PerDay"));
    }

    fn push_name(&mut self, name: String, is_code: bool) {
        let slot = if is_code {
            &mut self.code
        } else {
            &mut self.kind
        };
        let earlier = std::mem::replace(slot, name);
        if !earlier.is_empty() {
            self.more.push(earlier);
        }
    }

    /// Deeper texts come later and are the better ones; an empty one never replaces a real one.
    fn set_message(&mut self, text: &str) {
        if !text.trim().is_empty() {
            text.clone_into(&mut self.message);
        }
    }
}

fn is_truthy(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) | Some(Value::Bool(false)) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Object(object)) => !object.is_empty(),
        Some(Value::Array(items)) => !items.is_empty(),
        Some(_) => true,
    }
}

fn word(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// One line of at most `max_bytes`, with words that look like keys blanked: some providers quote the key they
/// refuse.
pub(super) fn clean(message: &str, max_bytes: usize) -> String {
    let mut line = String::with_capacity(message.len().min(max_bytes));
    for piece in message.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(if looks_like_key(piece) {
            "[redacted]"
        } else {
            piece
        });
        if line.len() >= max_bytes {
            let mut end = max_bytes;
            while !line.is_char_boundary(end) {
                end -= 1;
            }
            line.truncate(end);
            break;
        }
    }
    line.retain(|character| !character.is_control());
    line
}

fn looks_like_key(piece: &str) -> bool {
    const PREFIXES: &[&str] = &[
        "sk-", "sk_", "AIza", "gsk_", "hf_", "r8_", "xai-", "pplx-", "AKIA", "ASIA", "csk-", "fw_",
        "eyJ", "ya29.",
    ];
    let bare = piece.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    PREFIXES
        .iter()
        .any(|prefix| bare.len() >= prefix.len() + 6 && bare.starts_with(prefix))
}
