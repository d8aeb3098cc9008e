//! Which headers travel through the gateway, and what must be blanked before a path is written down.
//!
//! Everything travels except what is listed here: framing (it belongs to one connection), the gateway's own
//! settings, what an edge in front of us added, and what speaks about this host rather than the provider's.

use percent_encoding::percent_decode_str;

/// Query parameters that carry credentials, in lower case, decoded.
const CREDENTIAL_QUERY: &[&str] = &[
    "key",
    "api_key",
    "api-key",
    "apikey",
    "xi-api-key",
    "x-api-key",
    "access_token",
    "token",
    "auth",
    "authorization",
    "cf-aig-authorization",
    "fal_jwt_token",
    "subscription-key",
    "signature",
    "x-amz-signature",
    "x-amz-credential",
    "x-amz-security-token",
    "x-goog-signature",
    "x-goog-credential",
];

/// Prefixes of `sec-websocket-protocol` entries that carry credentials: browsers can set no other header.
const CREDENTIAL_SUBPROTOCOLS: &[&str] = &[
    "cf-aig-authorization.",
    "openai-insecure-api-key.",
    "xi-api-key.",
    "fal-api-key.",
    "api-key.",
    "bearer.",
];

const REDACTED: &str = "REDACTED";

/// Whether a request header, named in lower case, goes upstream. The caller also drops whatever `connection`
/// names.
pub fn is_forwarded_request_header(name: &str) -> bool {
    let is_ours_or_edge = name.starts_with("cf-") || name.starts_with("x-forwarded-");
    !is_ours_or_edge
        && !is_hop_by_hop(name)
        && !matches!(
            name,
            // Written anew for the upstream connection.
            "host" | "content-length" | "expect"
            // Read by us.
            | "x-fal-target-url"
            // Added by proxies in front of us; who called is nobody else's business.
            | "forwarded" | "x-real-ip" | "true-client-ip" | "cdn-loop" | "via"
        )
}

/// Whether a response header, named in lower case, goes back to the caller. `content-length` does: the body is
/// not changed.
pub fn is_forwarded_response_header(name: &str) -> bool {
    !is_hop_by_hop(name)
        && !name.starts_with("cf-aig-")
        // Promises about the provider's host that would bind ours.
        && !name.starts_with("access-control-")
        && !matches!(name, "strict-transport-security" | "alt-svc" | "nel" | "report-to")
}

fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

/// The path and query with the value of every credential parameter replaced, for logs and records.
pub fn redact_path(path_and_query: &str) -> String {
    let Some((path, query)) = path_and_query.split_once('?') else {
        return path_and_query.to_owned();
    };
    let mut redacted = String::with_capacity(path_and_query.len());
    redacted.push_str(path);
    // A second question mark, or a semicolon, separates for some servers: treat them as separators too.
    let mut separator = '?';
    let mut rest = query;
    loop {
        let end = rest.find(['&', ';', '?']).unwrap_or(rest.len());
        let pair = &rest[..end];
        redacted.push(separator);
        match pair.split_once('=') {
            Some((name, value)) if !value.is_empty() && is_credential_parameter(name) => {
                redacted.push_str(name);
                redacted.push('=');
                redacted.push_str(REDACTED);
            }
            _ => redacted.push_str(pair),
        }
        let Some(next) = rest[end..].chars().next() else {
            break;
        };
        separator = next;
        rest = &rest[end + 1..];
    }
    redacted
}

/// The same for a `sec-websocket-protocol` value.
pub fn redact_subprotocols(value: &str) -> String {
    let entries = value.split(',').map(|entry| {
        let entry = entry.trim();
        let lower = entry.to_ascii_lowercase();
        match CREDENTIAL_SUBPROTOCOLS
            .iter()
            .find(|prefix| lower.starts_with(**prefix))
        {
            Some(prefix) => format!("{}{REDACTED}", &entry[..prefix.len()]),
            None => entry.to_owned(),
        }
    });
    entries.collect::<Vec<_>>().join(", ")
}

fn is_credential_parameter(raw_name: &str) -> bool {
    let name = percent_decode_str(raw_name)
        .decode_utf8_lossy()
        .to_ascii_lowercase();
    CREDENTIAL_QUERY.contains(&name.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_framing_and_edge_headers_stay_here() {
        for name in [
            "cf-aig-authorization",
            "cf-aig-metadata",
            "cf-cache-ttl",
            "cf-skip-cache",
            "cf-connecting-ip",
            "cf-ray",
            "cf-access-jwt-assertion",
            "x-forwarded-for",
            "x-real-ip",
            "host",
            "connection",
            "transfer-encoding",
            "content-length",
            "te",
            "upgrade",
            "expect",
            "proxy-authorization",
            "x-fal-target-url",
        ] {
            assert!(!is_forwarded_request_header(name), "{name}");
        }
        for name in [
            "authorization",
            "x-api-key",
            "anthropic-beta",
            "anthropic-version",
            "openai-organization",
            "openai-beta",
            "x-stainless-retry-count",
            "idempotency-key",
            "content-type",
            "content-encoding",
            "accept",
            "accept-encoding",
            "user-agent",
            "x-amz-date",
            "traceparent",
            "cartesia-version",
        ] {
            assert!(is_forwarded_request_header(name), "{name}");
        }
    }

    #[test]
    fn answers_keep_what_the_provider_said_about_the_answer() {
        for name in [
            "content-type",
            "content-length",
            "content-encoding",
            "retry-after",
            "x-ratelimit-remaining-tokens",
            "anthropic-ratelimit-requests-reset",
            "x-request-id",
            "cf-ray",
            "server",
            "x-should-retry",
        ] {
            assert!(is_forwarded_response_header(name), "{name}");
        }
        for name in [
            "connection",
            "transfer-encoding",
            "keep-alive",
            "cf-aig-step",
            "alt-svc",
            "strict-transport-security",
            "access-control-allow-origin",
        ] {
            assert!(!is_forwarded_response_header(name), "{name}");
        }
    }

    #[test]
    fn credential_parameters_are_blanked() {
        let cases = [
            ("/v1/models", "/v1/models"),
            (
                "/v1/models?alt=sse&key=SECRET",
                "/v1/models?alt=sse&key=REDACTED",
            ),
            ("/x?api_key=SECRET&a=b", "/x?api_key=REDACTED&a=b"),
            ("/x?%6Bey=SECRET", "/x?%6Bey=REDACTED"),
            ("/x?KEY=SECRET", "/x?KEY=REDACTED"),
            ("/x?a=1;key=SECRET", "/x?a=1;key=REDACTED"),
            ("/x?a=1?key=SECRET", "/x?a=1?key=REDACTED"),
            ("/x?key=SE=CR=ET", "/x?key=REDACTED"),
            ("/x?key=&monkey=1", "/x?key=&monkey=1"),
            ("/x?", "/x?"),
            ("/x?X-Amz-Signature=SECRET", "/x?X-Amz-Signature=REDACTED"),
        ];
        for (path, expected) in cases {
            assert_eq!(redact_path(path), expected);
        }
    }

    #[test]
    fn credential_subprotocols_are_blanked() {
        assert_eq!(
            redact_subprotocols("realtime,openai-insecure-api-key.SECRET, openai-beta.realtime-v1"),
            "realtime, openai-insecure-api-key.REDACTED, openai-beta.realtime-v1"
        );
        assert_eq!(
            redact_subprotocols("CF-AIG-Authorization.SECRET"),
            "CF-AIG-Authorization.REDACTED"
        );
    }
}
