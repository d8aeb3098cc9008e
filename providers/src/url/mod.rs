//! From the path after the slug to the host and path upstream.
//!
//! Three rules hold for every provider:
//! 1. **The remainder is not rewritten.** What the caller wrote after the slug goes out byte for byte,
//!    percent-encoding included (a client-signed Bedrock request signs exactly these bytes), except for the
//!    leading segments that a template consumes.
//! 2. **A version is never doubled.** When the remainder begins with a version segment (`v1`, `v1beta`) and the
//!    base path ends with one, the remainder's replaces the base's. So `…/openai` and `…/openai/v1` both work,
//!    and `v2/chat` leaves a `/v1` base. Callers who repeat the provider's whole base path
//!    (`groq/openai/v1/…`) are understood too.
//! 3. **A configured `base_url` replaces scheme, host and base path**, nothing else. For the providers whose host
//!    is a template (Azure, Bedrock, Vertex, Baseten's `model/`, fal's target header) there is no base path: the
//!    path after the override's own is the one the real host would see:
//!
//! | request after the slug | `base_url` | path upstream |
//! | --- | --- | --- |
//! | openai `v1/chat/completions` or `chat/completions` | `http://h/v1` | `/v1/chat/completions` |
//! | groq `chat/completions` | `http://h` | `/chat/completions` |
//! | azure-openai `res/dep/chat/completions` | `http://h` | `/openai/deployments/dep/chat/completions` |
//! | aws-bedrock `bedrock-runtime/us-east-1/model/m/converse` | `http://h` | `/model/m/converse` |
//! | google-vertex-ai `v1/projects/p/locations/r/…` | `http://h` | `/v1/projects/p/locations/r/…` |
//! | baseten `model/abc` | `http://h` | `/production/predict` |
//! | fal, target `https://queue.fal.run/a/b` | `http://h` | `/a/b` |
//! | workers-ai `@cf/m/n` | `http://h/ai/run` | `/ai/run/@cf/m/n` |

mod base;
mod template;

use percent_encoding::percent_decode_str;
use thiserror::Error;

use crate::registry::{Layout, ProviderSpec};
use base::Base;

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    pub tls: bool,
    /// Name or address; an IPv6 address has its brackets.
    pub host: String,
    pub port: u16,
    /// Starts with `/`; percent-encoding as the caller wrote it.
    pub path_and_query: String,
    /// What a signature must be made for; Bedrock only.
    pub aws: Option<AwsScope>,
}

impl Upstream {
    /// The value of the `host` header: the port only when it is not the scheme's own.
    pub fn authority(&self) -> String {
        let default_port = if self.tls { 443 } else { 80 };
        if self.port == default_port {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    pub fn path(&self) -> &str {
        self.path_and_query.split('?').next().unwrap_or_default()
    }
}

/// Service and region of an AWS signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsScope {
    pub service: &'static str,
    pub region: String,
}

/// Why a path leads nowhere. All of these are the caller's to mend, except the two about the base URL.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PathError {
    #[error("the path steps upwards (`..`); write the path it leads to")]
    StepsUp,
    #[error("the path has an empty segment (`//`); write one slash")]
    EmptySegment,
    #[error("the path holds {0:?}; percent-encode it")]
    BadCharacter(char),
    #[error("provider `{provider}` wants its path as {shape}")]
    Shape {
        provider: &'static str,
        shape: &'static str,
    },
    #[error("{what} `{value}` may hold only a-z, 0-9 and `-`, 1 to 63 of them")]
    Template { what: &'static str, value: String },
    #[error(
        "`{0}` is no Bedrock service; use bedrock-runtime, bedrock-mantle or bedrock-agent-runtime"
    )]
    BedrockService(String),
    #[error(
        "x-fal-target-url must be an https URL on fal.run, queue.fal.run or another fal host, not `{0}`"
    )]
    FalTarget(String),
    #[error("provider `{0}` has no upstream of its own; set its base_url")]
    NoBaseUrl(&'static str),
    #[error("base_url `{url}`: {reason}")]
    BaseUrl { url: String, reason: &'static str },
}

/// Finds host and path for `rest`, the raw path after the slug without a leading slash.
///
/// `base_url` is the configuration's override; `header` looks a request header up by lower-case name.
pub fn upstream(
    spec: &ProviderSpec,
    rest: &str,
    query: Option<&str>,
    base_url: Option<&str>,
    header: &dyn Fn(&str) -> Option<String>,
) -> Result<Upstream, PathError> {
    check_remainder(rest)?;
    let query = query.unwrap_or_default();
    check_characters(query)?;
    let target = match spec.layout {
        Layout::Plain | Layout::Custom => template::plain(spec, rest, query),
        Layout::Azure => template::azure(rest, query)?,
        Layout::Bedrock => template::bedrock(rest, query)?,
        Layout::Vertex => template::vertex(rest, query)?,
        Layout::Baseten => template::baseten(spec, rest, query)?,
        Layout::Fal => template::fal(spec, rest, query, header)?,
        Layout::WorkersAi => template::workers_ai(rest, query),
    };
    let base = match base_url {
        Some(url) => {
            let mut base = Base::parse(url)?;
            if spec.layout == Layout::WorkersAi {
                base.drop_last_segment("run");
            }
            base
        }
        None if target.host.is_empty() => return Err(PathError::NoBaseUrl(spec.slug)),
        None => Base::https(&target.host, target.base_path),
    };
    let mut path_and_query = base.join(&target.remainder, spec.beside_version);
    if !target.query.is_empty() {
        path_and_query.push('?');
        path_and_query.push_str(&target.query);
    }
    Ok(Upstream {
        tls: base.tls,
        host: base.host,
        port: base.port,
        path_and_query,
        aws: target.aws,
    })
}

/// A request target after templating, before an override.
struct Target {
    host: String,
    base_path: &'static str,
    remainder: String,
    query: String,
    aws: Option<AwsScope>,
}

fn check_remainder(rest: &str) -> Result<(), PathError> {
    check_characters(rest)?;
    if let Some(character) = rest.chars().find(|c| matches!(c, '?' | '\\')) {
        return Err(PathError::BadCharacter(character));
    }
    if rest.starts_with('/') || rest.contains("//") {
        return Err(PathError::EmptySegment);
    }
    if has_upward_step(rest) {
        return Err(PathError::StepsUp);
    }
    Ok(())
}

/// Refuses what could end a request line early or hide a fragment. Bytes past ASCII pass: they are the
/// provider's business.
fn check_characters(text: &str) -> Result<(), PathError> {
    match text
        .chars()
        .find(|c| c.is_ascii_control() || matches!(c, ' ' | '#'))
    {
        Some(character) => Err(PathError::BadCharacter(character)),
        None => Ok(()),
    }
}

/// Looks at the decoded form, in which an encoded slash separates too.
fn has_upward_step(rest: &str) -> bool {
    if !rest.contains("..") && !rest.contains('%') {
        return false;
    }
    let decoded = percent_decode_str(rest).collect::<Vec<u8>>();
    decoded
        .split(|byte| matches!(byte, b'/' | b'\\'))
        .any(|segment| segment == b"..")
}

/// `v1`, `v2`, `v1beta`, `v1beta1`, `v1alpha`.
pub(crate) fn is_version(segment: &str) -> bool {
    let Some(digits) = segment.strip_prefix('v') else {
        return false;
    };
    let tail = digits.trim_start_matches(|c: char| c.is_ascii_digit());
    let stage = tail.trim_end_matches(|c: char| c.is_ascii_digit());
    tail.len() < digits.len() && matches!(stage, "" | "alpha" | "beta")
}

#[cfg(test)]
mod tests;
