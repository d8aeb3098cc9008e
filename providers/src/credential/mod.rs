//! A stored key, put on a request the way its provider wants it.
//!
//! Nothing here prints a secret: [`Credential`] has no serialisation and its `Debug` shows nothing.
//!
//! - `sigv4`: AWS signatures for Bedrock
//! - `vertex`: the signed assertion a Google service account trades for an access key

mod sigv4;
pub mod vertex;

use std::fmt;

use thiserror::Error;

use crate::registry::{Layout, ProviderSpec, Scheme};
use crate::url::Upstream;
use sigv4::AwsKeys;

/// What clients send in place of a key they do not have.
const PLACEHOLDERS: &[&str] = &["undefined", "null", "none"];
/// Left by a client library that expects the gateway to hold the key; it stands anywhere in the value.
const PLACEHOLDER_PART: &str = "CF_TEMP_TOKEN";

/// A secret of a provider: a key, or a JSON document holding one.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential(String);

impl Credential {
    pub fn new(secret: impl Into<String>) -> Credential {
        Credential(secret.into())
    }

    /// The secret itself, for hashing into a cache key. Never write it down.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(..)")
    }
}

/// Why a stored key cannot be used. No variant holds any part of it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CredentialError {
    #[error("the stored key for `{0}` is empty")]
    Empty(&'static str),
    #[error(
        "the stored key for `{0}` holds a character that no header may hold; store it again on one line"
    )]
    NotAHeaderValue(&'static str),
    #[error(
        "the stored AWS key must be a Bedrock API key or JSON with accessKeyId and secretAccessKey"
    )]
    AwsKeys,
    #[error("the stored key is a Google service account; trade it for an access key first")]
    NeedsExchange,
    #[error("the Google service account {0}")]
    ServiceAccount(&'static str),
}

/// Replaces every credential header of `headers` by the stored key's.
///
/// For a Bedrock key pair this signs the request, so it must come last: `headers`, `body` and the path are
/// final. `now_unix` is the signing time; AWS refuses one more than five minutes off.
pub fn apply_credential(
    spec: &ProviderSpec,
    credential: &Credential,
    method: &str,
    upstream: &Upstream,
    body: &[u8],
    headers: &mut Vec<(String, String)>,
    now_unix: u64,
) -> Result<(), CredentialError> {
    let secret = credential.0.trim();
    if secret.is_empty() {
        return Err(CredentialError::Empty(spec.slug));
    }
    let added = match spec.scheme {
        Scheme::Aws if secret.starts_with('{') => {
            let keys = AwsKeys::parse(secret).ok_or(CredentialError::AwsKeys)?;
            remove(
                headers,
                &[
                    "authorization",
                    "x-api-key",
                    "x-amz-date",
                    "x-amz-security-token",
                ],
            );
            remove(headers, &["x-amz-content-sha256"]);
            sigv4::sign(&keys, method, upstream, headers, body, now_unix)
        }
        _ if spec.layout == Layout::Vertex && vertex::ServiceAccount::read(secret).is_some() => {
            return Err(CredentialError::NeedsExchange);
        }
        _ if !secret.bytes().all(|byte| (0x20..0x7f).contains(&byte)) => {
            return Err(CredentialError::NotAHeaderValue(spec.slug));
        }
        scheme => vec![plain_header(scheme, upstream.path(), secret)],
    };
    remove(headers, spec.credential_headers);
    headers.extend(added);
    Ok(())
}

/// The key a caller brought along, in any of the places this provider reads. Empty values and placeholders
/// count as absent: they would only defeat a stored key.
pub fn presented_credential(
    spec: &ProviderSpec,
    header: &dyn Fn(&str) -> Option<String>,
    query: Option<&str>,
) -> Option<Credential> {
    let in_header = spec.credential_headers.iter().find_map(|name| {
        let value = header(name)?;
        real(without_scheme_word(&value)).map(Credential::new)
    });
    let in_query = || {
        query?.split('&').find_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            let is_credential = spec
                .credential_query
                .iter()
                .any(|known| name.eq_ignore_ascii_case(known));
            is_credential
                .then(|| real(value).map(Credential::new))
                .flatten()
        })
    };
    let in_subprotocol = || {
        const PREFIXES: &[&str] = &["openai-insecure-api-key.", "xi-api-key.", "fal-api-key."];
        header("sec-websocket-protocol")?
            .split(',')
            .find_map(|entry| {
                let key = PREFIXES
                    .iter()
                    .find_map(|prefix| entry.trim().strip_prefix(prefix))?;
                real(key).map(Credential::new)
            })
    };
    in_header.or_else(in_query).or_else(in_subprotocol)
}

/// `Bearer x` → `x`; a value without one of the known words, such as an AWS signature, stays whole.
fn without_scheme_word(value: &str) -> &str {
    let value = value.trim();
    let (word, rest) = value.split_once(' ').unwrap_or((value, ""));
    let is_word = ["bearer", "token", "key", "api-key"]
        .iter()
        .any(|known| word.eq_ignore_ascii_case(known));
    if is_word { rest.trim() } else { value }
}

fn real(value: &str) -> Option<String> {
    let value = value.trim();
    let is_placeholder = value.contains(PLACEHOLDER_PART)
        || PLACEHOLDERS
            .iter()
            .any(|word| value.eq_ignore_ascii_case(word));
    (!value.is_empty() && !is_placeholder).then(|| value.to_owned())
}

fn plain_header(scheme: Scheme, path: &str, secret: &str) -> (String, String) {
    // Some vendors serve another vendor's API beside their own, with that vendor's header.
    let is_anthropic_path = path.contains("/anthropic/");
    let is_openai_path = path.contains("/openai/");
    let (name, value) = match scheme {
        Scheme::Anthropic if secret.starts_with("sk-ant-oat") => bearer("Bearer", secret),
        Scheme::Anthropic => ("x-api-key", secret.to_owned()),
        Scheme::Google if is_openai_path || secret.starts_with("ya29.") => bearer("Bearer", secret),
        Scheme::Google => ("x-goog-api-key", secret.to_owned()),
        Scheme::Aws | Scheme::Authorization("Bearer") if is_anthropic_path => {
            ("x-api-key", secret.to_owned())
        }
        Scheme::Aws => bearer("Bearer", secret),
        Scheme::Authorization(word) => bearer(word, secret),
        Scheme::Header(name) => (name, secret.to_owned()),
    };
    (name.to_owned(), value)
}

fn bearer(word: &str, secret: &str) -> (&'static str, String) {
    ("authorization", format!("{word} {secret}"))
}

fn remove(headers: &mut Vec<(String, String)>, names: &[&str]) {
    headers.retain(|(name, _)| !names.iter().any(|gone| name.eq_ignore_ascii_case(gone)));
}

#[cfg(test)]
mod tests;
