//! What each layout makes of a path remainder.

use percent_encoding::percent_decode_str;

use super::{AwsScope, PathError, Target, check_remainder, is_version};
use crate::registry::ProviderSpec;

/// Hosts that `x-fal-target-url` may name: exactly these, since a suffix test would trust every tenant of a
/// shared domain.
const FAL_HOSTS: &[&str] = &[
    "fal.run",
    "queue.fal.run",
    "ws.fal.run",
    "rest.fal.ai",
    "rest.alpha.fal.ai",
    "api.fal.ai",
];

pub(super) fn plain(spec: &ProviderSpec, rest: &str, query: &str) -> Target {
    let mut query = query.to_owned();
    let remainder = if rest.is_empty() && !spec.realtime_path.is_empty() {
        // The realtime socket of Google takes `key`; callers of the gateway write `api_key`.
        if spec.credential_query.contains(&"key") {
            query = rename_parameter(&query, "api_key", "key");
        }
        spec.realtime_path
    } else {
        without_own_base(spec.base_path, rest)
    };
    Target {
        host: spec.host.to_owned(),
        base_path: spec.base_path,
        remainder: remainder.to_owned(),
        query,
        aws: None,
    }
}

/// Drops the part of the provider's own base path that the caller repeated; a version stays, to replace the
/// base's.
fn without_own_base<'a>(base_path: &str, rest: &'a str) -> &'a str {
    let Some(base) = base_path.strip_prefix('/') else {
        return rest;
    };
    let repeats = rest
        .strip_prefix(base)
        .is_some_and(|tail| tail.is_empty() || tail.starts_with('/'));
    let own = match base.rsplit_once('/') {
        Some((head, last)) if is_version(last) => head,
        None if is_version(base) => "",
        _ => base,
    };
    if repeats {
        rest[own.len()..].trim_start_matches('/')
    } else {
        rest
    }
}

/// `{resource}/{deployment}/{operation}`; the newer `{resource}/openai/v1/…` and the full
/// `{resource}/openai/deployments/…` keep their path.
pub(super) fn azure(rest: &str, query: &str) -> Result<Target, PathError> {
    let shape = || PathError::Shape {
        provider: "azure-openai",
        shape: "{resource}/{deployment}/{operation}?api-version=…",
    };
    let (resource, after) = rest.split_once('/').ok_or_else(shape)?;
    let resource = template_value("Azure resource", resource)?;
    let is_full = after.starts_with("openai/v1/") || after.starts_with("openai/deployments/");
    let remainder = if is_full {
        after.to_owned()
    } else {
        let (deployment, operation) = after.split_once('/').ok_or_else(shape)?;
        if operation.is_empty() {
            return Err(shape());
        }
        format!("openai/deployments/{deployment}/{operation}")
    };
    Ok(Target {
        host: format!("{resource}.openai.azure.com"),
        base_path: "",
        remainder,
        query: query.to_owned(),
        aws: None,
    })
}

/// `{service}/{region}/{path}`; the path is what a client signed, so it is not touched.
pub(super) fn bedrock(rest: &str, query: &str) -> Result<Target, PathError> {
    let shape = || PathError::Shape {
        provider: "aws-bedrock",
        shape: "bedrock-runtime/{region}/model/{id}/{operation} (or bedrock-mantle, bedrock-agent-runtime)",
    };
    let (service, after) = rest.split_once('/').ok_or_else(shape)?;
    let (region, remainder) = after.split_once('/').ok_or_else(shape)?;
    let region = template_value("AWS region", region)?;
    let (host, signing_name) = match service {
        "bedrock-runtime" => (format!("bedrock-runtime.{region}.amazonaws.com"), "bedrock"),
        "bedrock-agent-runtime" => (
            format!("bedrock-agent-runtime.{region}.amazonaws.com"),
            "bedrock",
        ),
        "bedrock-mantle" => (format!("bedrock-mantle.{region}.api.aws"), "bedrock-mantle"),
        other => return Err(PathError::BedrockService(cut(other))),
    };
    Ok(Target {
        host,
        base_path: "",
        remainder: remainder.to_owned(),
        query: query.to_owned(),
        aws: Some(AwsScope {
            service: signing_name,
            region,
        }),
    })
}

/// The region stands after `locations/`; without one, or with `global`, the host has no region.
pub(super) fn vertex(rest: &str, query: &str) -> Result<Target, PathError> {
    let mut segments = rest.split('/');
    let location = segments
        .by_ref()
        .find(|segment| *segment == "locations")
        .and_then(|_| segments.next());
    let host = match location
        .map(|region| template_value("Vertex AI location", region))
        .transpose()?
    {
        None => "aiplatform.googleapis.com".to_owned(),
        Some(region) if region == "global" => "aiplatform.googleapis.com".to_owned(),
        Some(region) => format!("{region}-aiplatform.googleapis.com"),
    };
    Ok(Target {
        host,
        base_path: "",
        remainder: rest.to_owned(),
        query: query.to_owned(),
        aws: None,
    })
}

/// `model/{id}` is a deployed model with its own host, called at `production/predict` unless the caller
/// names another path after the id; the rest is the shared OpenAI-compatible host.
pub(super) fn baseten(spec: &ProviderSpec, rest: &str, query: &str) -> Result<Target, PathError> {
    let Some(after) = rest.strip_prefix("model/") else {
        return Ok(plain(spec, rest, query));
    };
    let (id, path) = after.split_once('/').unwrap_or((after, ""));
    let id = template_value("Baseten model", id)?;
    let path = if path.is_empty() {
        "production/predict"
    } else {
        path
    };
    Ok(Target {
        host: format!("model-{id}.api.baseten.co"),
        base_path: "",
        remainder: path.to_owned(),
        query: query.to_owned(),
        aws: None,
    })
}

/// The vendor's browser client sends its requests to one proxy address and names the true target in a header.
pub(super) fn fal(
    spec: &ProviderSpec,
    rest: &str,
    query: &str,
    header: &dyn Fn(&str) -> Option<String>,
) -> Result<Target, PathError> {
    let Some(url) = header("x-fal-target-url") else {
        return Ok(plain(spec, rest, query));
    };
    let foreign = || PathError::FalTarget(cut(&url));
    let after_scheme = url.strip_prefix("https://").ok_or_else(foreign)?;
    let end = after_scheme
        .find(['/', '?', '#', '\\'])
        .unwrap_or(after_scheme.len());
    let (authority, path_and_query) = after_scheme.split_at(end);
    let host = authority
        .strip_suffix(":443")
        .unwrap_or(authority)
        .to_ascii_lowercase();
    if !FAL_HOSTS.contains(&host.as_str()) {
        return Err(foreign());
    }
    let (path, query) = path_and_query
        .split_once('?')
        .unwrap_or((path_and_query, ""));
    let remainder = path.strip_prefix('/').unwrap_or(path);
    check_remainder(remainder)?;
    super::check_characters(query)?;
    Ok(Target {
        host,
        base_path: "",
        remainder: remainder.to_owned(),
        query: query.to_owned(),
        aws: None,
    })
}

/// `run/…` and `v1/…` as they are, a bare model name under `run/`.
pub(super) fn workers_ai(rest: &str, query: &str) -> Target {
    let first = rest.split('/').next().unwrap_or_default();
    let is_path = first == "run" || is_version(first);
    let remainder = if is_path {
        rest.to_owned()
    } else {
        format!("run/{rest}")
    };
    Target {
        host: String::new(),
        base_path: "",
        remainder,
        query: query.to_owned(),
        aws: None,
    }
}

/// A value that becomes part of a host name: one DNS label in lower case, after decoding.
fn template_value(what: &'static str, raw: &str) -> Result<String, PathError> {
    let decoded = percent_decode_str(raw).decode_utf8_lossy();
    let is_label = (1..=63).contains(&decoded.len())
        && decoded
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if is_label {
        Ok(decoded.into_owned())
    } else {
        Err(PathError::Template {
            what,
            value: cut(&decoded),
        })
    }
}

/// A caller's value short enough for a message.
fn cut(value: &str) -> String {
    value.chars().take(80).collect()
}

fn rename_parameter(query: &str, from: &str, to: &str) -> String {
    let renamed = query.split('&').map(|pair| match pair.split_once('=') {
        Some((name, value)) if name == from => format!("{to}={value}"),
        _ => pair.to_owned(),
    });
    renamed.collect::<Vec<_>>().join("&")
}
