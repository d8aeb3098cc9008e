//! Who is calling: credentials in a request's head → [`Caller`].
//!
//! Clients put the gateway's token where their SDK lets them: the header of its own
//! (`cf-aig-authorization`), a WebSocket subprotocol, or the place of the provider's key. Wherever
//! ours is found, the caller's [`Caller`] says so, and it is taken out before anything goes upstream.
//! Auth fails closed; while no token exists at all, there is nothing to fail (allowed on loopback only).

pub mod api_key;
mod live;

use std::sync::Arc;

use http::HeaderMap;
use http::header::{HeaderName, SEC_WEBSOCKET_PROTOCOL};

pub use api_key::{ANY_ACCOUNT, Permission, Permissions, Token, TokenSet};
pub use live::LiveTokens;

use crate::config::Gateway;
use api_key::looks_like_token;

/// The gateway's own credential header. Never forwarded, like every `cf-aig-*`.
pub const OWN_HEADER: &str = "cf-aig-authorization";

/// Headers meant for a provider's key in which an SDK may have to put our token.
/// (`x-auth-key` is the management API's older form.)
pub const SHARED_HEADERS: [&str; 6] = [
    "authorization",
    "x-api-key",
    "x-goog-api-key",
    "api-key",
    "xi-api-key",
    "x-auth-key",
];

/// Query parameters of the same kind.
const SHARED_PARAMETERS: [&str; 2] = ["key", "api_key"];

/// Browsers cannot set headers on a WebSocket; they offer this subprotocol instead.
const SUBPROTOCOL_PREFIX: &str = "cf-aig-authorization.";

/// What SDKs send where nobody gave them a key.
const PLACEHOLDERS: [&str; 4] = ["", "undefined", "null", "none"];

/// The AI SDK's wrapper fills in this, or something around it.
const TEMPORARY: &str = "CF_TEMP_TOKEN";

/// Where a credential may stand in one request.
#[derive(Debug, Clone, Copy)]
pub struct Presented<'r> {
    pub headers: &'r HeaderMap,
    /// Raw query, for sockets and SDKs that put keys there.
    pub query: Option<&'r str>,
}

/// Who is calling.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// The token's id; `None` when nobody was recognised.
    pub key_id: Option<Arc<str>>,
    /// The token's label, empty when nobody was recognised.
    pub label: Arc<str>,
    /// A valid token was shown. Stored keys and the like need this, whatever the gateway asks for.
    pub is_authenticated: bool,
    /// Shared headers that carry a gateway token, to be stripped.
    pub token_headers: Vec<HeaderName>,
}

/// Why a caller was turned away. On the data plane all of them read the same (401), so that guessing
/// tells nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    #[error("no gateway token; send one as `cf-aig-authorization: Bearer <token>`")]
    Missing,
    #[error("the gateway token is not valid here")]
    Wrong,
    #[error("the gateway token lacks the permission `{}`", .0.as_str())]
    NotAllowed(Permission),
}

/// Checks a data-plane call. A gateway that needs no token takes every caller, and still recognises
/// one who shows a valid token.
pub fn check(
    gateway: &Gateway,
    presented: &Presented<'_>,
    tokens: &TokenSet,
) -> Result<Caller, AuthError> {
    let found = Found::read(presented);
    let scope = Scope {
        account: Some(&gateway.account),
        gateway: Some(&gateway.id),
    };
    found.caller(
        tokens,
        scope,
        Permission::GatewayRun,
        gateway.needs_token(!tokens.is_empty()),
    )
}

/// Checks a call of the REST surface: once a token exists, one with this permission is needed.
/// `account` is the one in the path, if there is one.
pub fn check_rest(
    account: Option<&str>,
    presented: &Presented<'_>,
    tokens: &TokenSet,
    permission: Permission,
) -> Result<Caller, AuthError> {
    let scope = Scope {
        account,
        gateway: None,
    };
    Found::read(presented).caller(tokens, scope, permission, !tokens.is_empty())
}

/// Like [`check_rest`] for one gateway's objects: a token scoped to another gateway is refused.
pub fn check_rest_gateway(
    account: &str,
    gateway: &str,
    presented: &Presented<'_>,
    tokens: &TokenSet,
    permission: Permission,
) -> Result<Caller, AuthError> {
    let scope = Scope {
        account: Some(account),
        gateway: Some(gateway),
    };
    Found::read(presented).caller(tokens, scope, permission, !tokens.is_empty())
}

impl Caller {
    /// Takes gateway tokens (and our subprotocol) out of headers that are about to go upstream.
    pub fn strip_headers(&self, headers: &mut HeaderMap) {
        for name in &self.token_headers {
            headers.remove(name);
        }
        strip_subprotocol(headers);
    }

    /// The query without parameters that carry a gateway token.
    pub fn strip_query<'q>(&self, query: &'q str) -> std::borrow::Cow<'q, str> {
        let is_ours = |pair: &str| {
            pair.split_once('=')
                .is_some_and(|(_, value)| looks_like_token(value))
        };
        // The query of a universal entry is not the one that was looked at for the caller.
        if !query.split('&').any(is_ours) {
            return query.into();
        }
        query
            .split('&')
            .filter(|pair| !is_ours(pair))
            .collect::<Vec<_>>()
            .join("&")
            .into()
    }
}

/// Whether a credential header's value is nobody's key: empty, a scheme without a key, or one of the
/// words SDKs send when they were given none. Such a value counts as absent.
pub fn is_placeholder(value: &str) -> bool {
    let key = without_scheme(value);
    PLACEHOLDERS
        .iter()
        .any(|word| key.eq_ignore_ascii_case(word))
        || key.contains(TEMPORARY)
}

/// Whether a credential header's value has the form of one of our tokens. Such a value is never
/// sent to a provider.
pub fn is_gateway_token(value: &str) -> bool {
    looks_like_token(without_scheme(value))
}

/// The subprotocol to echo when a browser showed its token that way and upstream chose none.
pub fn token_subprotocol(headers: &HeaderMap) -> Option<&str> {
    subprotocols(headers).find(|protocol| protocol.starts_with(SUBPROTOCOL_PREFIX))
}

/// Where a token has to be valid.
#[derive(Clone, Copy)]
struct Scope<'s> {
    account: Option<&'s str>,
    gateway: Option<&'s str>,
}

/// The credentials found in one head.
struct Found<'r> {
    /// Something stood in a place meant for us, valid or not.
    is_presented: bool,
    candidates: Vec<&'r str>,
    token_headers: Vec<HeaderName>,
}

impl<'r> Found<'r> {
    fn read(presented: &Presented<'r>) -> Found<'r> {
        let mut found = Found {
            is_presented: false,
            candidates: Vec::new(),
            token_headers: Vec::new(),
        };
        for value in values(presented.headers, OWN_HEADER) {
            found.is_presented = true;
            found.candidates.push(without_scheme(value));
        }
        if let Some(protocol) = token_subprotocol(presented.headers) {
            found.is_presented = true;
            found.candidates.push(&protocol[SUBPROTOCOL_PREFIX.len()..]);
        }
        for name in SHARED_HEADERS {
            for value in values(presented.headers, name) {
                found.is_presented = true;
                let key = without_scheme(value);
                if looks_like_token(key) {
                    found.candidates.push(key);
                    found.token_headers.push(HeaderName::from_static(name));
                }
            }
        }
        found.read_query(presented.query.unwrap_or_default());
        found
    }

    fn read_query(&mut self, query: &'r str) {
        // No decoding: a token has no character that would be encoded.
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            if looks_like_token(value) && SHARED_PARAMETERS.contains(&name) {
                self.is_presented = true;
                self.candidates.push(value);
            }
        }
    }

    fn caller(
        self,
        tokens: &TokenSet,
        scope: Scope<'_>,
        permission: Permission,
        is_needed: bool,
    ) -> Result<Caller, AuthError> {
        let mut caller = Caller {
            token_headers: self.token_headers,
            ..Caller::default()
        };
        let mut refusal = AuthError::Missing;
        for text in &self.candidates {
            match judge(text, tokens, scope, permission) {
                Ok(token) => {
                    caller.key_id = Some(token.id.clone());
                    caller.label = token.label.clone();
                    caller.is_authenticated = true;
                    return Ok(caller);
                }
                Err(reason) => refusal = refusal.or_closer(reason),
            }
        }
        // While no token exists any credential will do; a gateway that was told to ask still asks.
        if !is_needed || (tokens.is_empty() && self.is_presented) {
            return Ok(caller);
        }
        Err(refusal)
    }
}

impl AuthError {
    /// Of two refusals the one that says more about what to change.
    fn or_closer(self, other: AuthError) -> AuthError {
        match (self, other) {
            (AuthError::NotAllowed(_), _) => self,
            (AuthError::Wrong, AuthError::Missing) => self,
            _ => other,
        }
    }
}

fn judge<'t>(
    text: &str,
    tokens: &'t TokenSet,
    scope: Scope<'_>,
    permission: Permission,
) -> Result<&'t Arc<Token>, AuthError> {
    if is_placeholder(text) {
        return Err(AuthError::Missing);
    }
    let token = tokens.find(text).ok_or(AuthError::Wrong)?;
    let covers_account = scope
        .account
        .is_none_or(|account| token.covers_account(account));
    let own_gateway = token.gateway.as_deref();
    let covers_gateway = scope
        .gateway
        .is_none_or(|gateway| own_gateway.is_none_or(|own| own == gateway));
    if !covers_account || !covers_gateway {
        return Err(AuthError::Wrong);
    }
    if !token.permissions.allows(permission) {
        return Err(AuthError::NotAllowed(permission));
    }
    Ok(token)
}

/// The key in a credential header's value: `Bearer K`, `Token K`, `Key K`, `Api-Key K` or just `K`.
fn without_scheme(value: &str) -> &str {
    let value = value.trim();
    let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
    let is_scheme = ["bearer", "token", "key", "api-key"]
        .iter()
        .any(|known| scheme.eq_ignore_ascii_case(known));
    if is_scheme { rest.trim() } else { value }
}

fn values<'h>(headers: &'h HeaderMap, name: &str) -> impl Iterator<Item = &'h str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
}

fn subprotocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    values(headers, SEC_WEBSOCKET_PROTOCOL.as_str())
        .flat_map(|list| list.split(','))
        .map(str::trim)
}

fn strip_subprotocol(headers: &mut HeaderMap) {
    if token_subprotocol(headers).is_none() {
        return;
    }
    let others: Vec<_> = subprotocols(headers)
        .filter(|protocol| !protocol.starts_with(SUBPROTOCOL_PREFIX))
        .collect();
    let rest = others.join(", ").parse();
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    if let Ok(rest) = rest
        && !http::HeaderValue::is_empty(&rest)
    {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, rest);
    }
}

#[cfg(test)]
mod tests;
