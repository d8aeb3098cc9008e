//! The headers a provider gets: what the caller sent, less what is ours, less what could smuggle.

use http::HeaderMap;
use http::header::{CONNECTION, HeaderName};
use providers::ProviderSpec;

use crate::auth;

/// A gateway token stops here, wherever it stood. A header that `Connection` names is hop-by-hop
/// (RFC 9110 section 7.6.1). An empty or placeholder credential counts as none, or it would beat a
/// stored key and lose to the provider.
pub fn forward(spec: &ProviderSpec, headers: &HeaderMap) -> HeaderMap {
    let named: Vec<&str> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .collect();
    let is_named = |name: &HeaderName| {
        named
            .iter()
            .any(|token| token.eq_ignore_ascii_case(name.as_str()))
    };
    let mut out = HeaderMap::with_capacity(headers.len() + 4);
    for (name, value) in headers {
        if !providers::is_forwarded_request_header(name.as_str()) || is_named(name) {
            continue;
        }
        if is_credential(spec, name) {
            let Ok(text) = value.to_str() else { continue };
            if auth::is_placeholder(text) || auth::is_gateway_token(text) {
                continue;
            }
            let mut value = value.clone();
            // No debug print of a header shows it.
            value.set_sensitive(true);
            out.append(name.clone(), value);
            continue;
        }
        out.append(name.clone(), value.clone());
    }
    out
}

fn is_credential(spec: &ProviderSpec, name: &HeaderName) -> bool {
    spec.credential_headers.contains(&name.as_str())
        || auth::SHARED_HEADERS.contains(&name.as_str())
}

/// What tells two callers' answers apart in the cache: the credentials as they are sent.
pub fn credentials<'h>(spec: &ProviderSpec, headers: &'h HeaderMap) -> Vec<&'h str> {
    let named = headers.iter().filter(|(name, _)| is_credential(spec, name));
    let mut values: Vec<(&str, &str)> = named
        .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
        .collect();
    values.sort_unstable();
    values
        .into_iter()
        .flat_map(|(name, value)| [name, value])
        .collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v)))
            .collect()
    }

    fn names(forwarded: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = forwarded.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn hop_by_hop_and_our_own_headers_stop_here() {
        let headers = map(&[
            ("connection", "x-private, close"),
            ("x-private", "1"),
            ("cf-aig-cache-ttl", "60"),
            ("transfer-encoding", "chunked"),
            ("openai-beta", "a"),
            ("authorization", "Bearer sk"),
        ]);
        let spec = providers::find("openai").expect("built in");
        let forwarded = forward(spec, &headers);
        assert_eq!(names(&forwarded), ["authorization", "openai-beta"]);
        assert!(!format!("{forwarded:?}").contains("Bearer sk"));
    }

    #[test]
    fn a_placeholder_is_no_credential() {
        let spec = providers::find("openai").expect("built in");
        for value in ["Bearer ", "Bearer CF_TEMP_TOKEN", "Bearer undefined"] {
            let headers = map(&[("authorization", value)]);
            let forwarded = forward(spec, &headers);
            assert!(forwarded.is_empty(), "{value}");
        }
    }

    #[test]
    fn a_gateway_token_never_goes_upstream() {
        let token = auth::api_key::generate();
        let spec = providers::find("anthropic").expect("built in");
        let mut headers = HeaderMap::new();
        headers.insert(
            "x-api-key",
            HeaderValue::from_str(token.expose()).expect("ascii"),
        );
        headers.insert(
            "authorization",
            HeaderValue::from_str(&format!("Bearer {}", token.expose())).expect("ascii"),
        );
        let forwarded = forward(spec, &headers);
        assert!(forwarded.is_empty());
    }
}
