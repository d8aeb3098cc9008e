//! The body of a universal request: JSON → entries, each with its `query` as the caller wrote it.
//!
//! `query` is the body sent upstream, so it is never parsed into a tree and written again: its
//! bytes are a slice of the request.

use bytes::Bytes;
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::error::Category;
use serde_json::value::RawValue;

use crate::error::{GatewayError, Kind};
use crate::identify::shown;

/// Entries of one universal request; more is refused.
pub const MAX_STEPS: usize = 32;
/// Headers of one entry; more is refused.
const MAX_ENTRY_HEADERS: usize = 64;

/// One entry: a target and what overrides the request's own settings for it.
#[derive(Debug)]
pub struct Entry {
    pub provider: String,
    /// Path relative to the provider, without its query string.
    pub endpoint: String,
    pub query_string: Option<String>,
    /// Names in lower case. `cf-aig-*` among them configure this step and are not forwarded.
    pub headers: HeaderMap,
    pub config: EntryConfig,
    /// The body sent upstream: a slice of the request's own bytes, empty when the entry has none.
    pub body: Bytes,
}

/// The entry's `config`. Unknown members are ignored, as the original does.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EntryConfig {
    pub request_timeout: Option<f64>,
    pub max_attempts: Option<f64>,
    pub retry_delay: Option<f64>,
    pub backoff: Option<String>,
}

#[derive(Deserialize)]
struct Written<'b> {
    provider: Option<String>,
    endpoint: Option<String>,
    #[serde(borrow, default)]
    headers: Option<&'b RawValue>,
    #[serde(borrow, default)]
    query: Option<&'b RawValue>,
    #[serde(default)]
    config: Option<EntryConfig>,
    /// Oldest form of the credential.
    authorization: Option<String>,
}

/// An array of entries, or one entry alone.
pub fn universal(body: &Bytes) -> Result<Vec<Entry>, GatewayError> {
    let text = std::str::from_utf8(body).map_err(|error| {
        bad(format!(
            "the body is not valid UTF-8 at byte {}",
            error.valid_up_to()
        ))
    })?;
    let written: Vec<Written<'_>> = match text.trim_start().as_bytes().first() {
        Some(b'[') => read(text),
        Some(b'{') => read(text).map(|one| vec![one]),
        Some(_) => {
            return Err(bad(
                "the body is neither a JSON array of steps nor one step object".into(),
            ));
        }
        None => return Err(bad("the body is empty; send a JSON array of steps".into())),
    }
    .map_err(|fault| bad(format!("the body is not a list of steps: {fault}")))?;
    if written.is_empty() {
        return Err(bad("the list of steps is empty".into()));
    }
    if written.len() > MAX_STEPS {
        return Err(bad(format!(
            "{} steps are too many, at most {MAX_STEPS}",
            written.len()
        )));
    }
    written
        .into_iter()
        .enumerate()
        .map(|(index, entry)| resolve(body, index, entry))
        .collect()
}

/// Faults name the place in the body, `[1].headers` for example.
fn read<'b, T: Deserialize<'b>>(text: &'b str) -> Result<T, String> {
    let mut json = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let what = without_values(error.inner());
        match error.path().to_string().as_str() {
            "." => what,
            path => format!("`{}`: {what}", shown(path)),
        }
    })?;
    json.end().map_err(|error| error.to_string())?;
    Ok(value)
}

/// What was expected and where. The parser's own words quote what it found, which may be a megabyte
/// long or a credential.
fn without_values(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match (error.classify(), text.rfind("expected ")) {
        (Category::Data, Some(at)) => text[at..].to_owned(),
        (Category::Data, None) => {
            format!(
                "not of the form expected at line {} column {}",
                error.line(),
                error.column()
            )
        }
        _ => text,
    }
}

fn resolve(whole: &Bytes, index: usize, written: Written<'_>) -> Result<Entry, GatewayError> {
    let missing = |field: &str| bad(format!("step {index} has no `{field}`"));
    let provider = written
        .provider
        .filter(|slug| !slug.is_empty())
        .ok_or_else(|| missing("provider"))?;
    let endpoint = written.endpoint.ok_or_else(|| missing("endpoint"))?;
    let (endpoint, query_string) = match endpoint.split_once('?') {
        Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
        None => (endpoint, None),
    };
    let mut headers = match written.headers {
        Some(raw) => entry_headers(index, raw)?,
        None => HeaderMap::new(),
    };
    if let Some(credential) = written.authorization
        && !headers.contains_key(http::header::AUTHORIZATION)
    {
        headers.insert(
            http::header::AUTHORIZATION,
            header_value(index, "authorization", &credential)?,
        );
    }
    let body = match written.query {
        Some(raw) if raw.get() != "null" => whole.slice_ref(raw.get().as_bytes()),
        _ => Bytes::new(),
    };
    Ok(Entry {
        provider,
        endpoint: endpoint.trim_start_matches('/').to_owned(),
        query_string,
        headers,
        config: written.config.unwrap_or_default(),
        body,
    })
}

/// Headers from JSON become HTTP headers, so they are held to HTTP's grammar: a line break in a
/// value would otherwise smuggle a second request.
fn entry_headers(index: usize, raw: &RawValue) -> Result<HeaderMap, GatewayError> {
    let parsed: serde_json::Value = serde_json::from_str(raw.get())
        .map_err(|error| bad(format!("step {index}: `headers`: {error}")))?;
    let map = match parsed {
        serde_json::Value::Object(map) => map,
        serde_json::Value::Null => return Ok(HeaderMap::new()),
        _ => return Err(bad(format!("step {index}: `headers` is not an object"))),
    };
    if map.len() > MAX_ENTRY_HEADERS {
        return Err(bad(format!(
            "step {index}: {} headers are too many, at most {MAX_ENTRY_HEADERS}",
            map.len()
        )));
    }
    map.iter()
        // A serialised `Headers` object arrives empty or with null members.
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
                bad(format!(
                    "step {index}: `{}` is not a header name",
                    crate::identify::shown(name)
                ))
            })?;
            let text = match value {
                serde_json::Value::String(text) => text.clone(),
                serde_json::Value::Number(_) | serde_json::Value::Bool(_) => value.to_string(),
                // Some clients write metadata as an object instead of as its JSON text.
                other => other.to_string(),
            };
            let value = header_value(index, name.as_str(), &text)?;
            Ok((name, value))
        })
        .collect()
}

fn header_value(index: usize, name: &str, text: &str) -> Result<HeaderValue, GatewayError> {
    HeaderValue::from_str(text)
        .or_else(|_| HeaderValue::from_bytes(text.as_bytes()))
        .map_err(|_| {
            bad(format!(
                "step {index}: the value of header `{name}` holds control characters"
            ))
        })
}

fn bad(message: String) -> GatewayError {
    GatewayError::new(Kind::BadRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Entry {
        universal(&Bytes::copy_from_slice(text.as_bytes()))
            .expect("valid")
            .remove(0)
    }

    #[test]
    fn the_query_keeps_its_bytes() {
        let entry = one(
            r#"[{"provider":"openai","endpoint":"/chat/completions?x=1","query":{"b": 1.0,"a":"\u00e9"}}]"#,
        );
        assert_eq!(&entry.body[..], br#"{"b": 1.0,"a":"\u00e9"}"#);
        assert_eq!(entry.endpoint, "chat/completions");
        assert_eq!(entry.query_string.as_deref(), Some("x=1"));
    }

    #[test]
    fn one_object_is_a_list_of_one() {
        let entry = one(
            r#" {"provider":"openai","endpoint":"e","headers":{"Authorization":"Bearer x"},"config":{"maxAttempts":3}}"#,
        );
        assert_eq!(entry.headers["authorization"], "Bearer x");
        assert_eq!(entry.config.max_attempts, Some(3.0));
        assert!(entry.body.is_empty());
    }

    #[test]
    fn the_oldest_credential_form_becomes_a_header() {
        let entry = one(r#"{"provider":"openai","endpoint":"e","authorization":"Bearer y"}"#);
        assert_eq!(entry.headers["authorization"], "Bearer y");
    }

    #[test]
    fn an_error_does_not_repeat_what_it_was_sent() {
        let secret = "sk-canary".repeat(1000);
        for body in [
            format!(r#"[{{"provider":"openai","endpoint":"e","config":"{secret}"}}]"#),
            format!(r#"[{{"{secret}":1,"provider":7}}]"#),
            format!(r#"[{{"provider":"openai","endpoint":"e","headers":"{secret}"}}]"#),
            format!("[{secret}]"),
        ] {
            let error = universal(&Bytes::from(body)).expect_err("not a list of steps");
            assert!(!error.message.contains("sk-canary"), "{}", error.message);
            assert!(error.message.len() < 400);
        }
    }

    #[test]
    fn bad_bodies_say_what_is_wrong_and_where() {
        for (body, says) in [
            ("", "empty"),
            ("7", "neither"),
            ("[]", "empty"),
            ("[{}]", "step 0 has no `provider`"),
            (r#"[{"provider":7}]"#, "not a list of steps"),
            (
                r#"[{"provider":"openai","endpoint":"e","headers":[]}]"#,
                "`headers` is not an object",
            ),
            (
                r#"[{"provider":"openai","endpoint":"e","headers":{"a b":"c"}}]"#,
                "`a b` is not a header name",
            ),
            (
                r#"[{"provider":"openai","endpoint":"e","headers":{"a":"b\r\nc: d"}}]"#,
                "control characters",
            ),
            (r#"[{"provider":"openai""#, "not a list of steps"),
        ] {
            let error = universal(&Bytes::from_static(body.as_bytes())).expect_err(body);
            assert!(error.message.contains(says), "{body}: {}", error.message);
            assert_eq!(error.status(false), 400);
        }
        assert!(
            universal(&Bytes::from_static(&[b'[', 0xff]))
                .expect_err("utf-8")
                .message
                .contains("UTF-8")
        );
    }
}
