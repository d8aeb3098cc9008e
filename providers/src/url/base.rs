//! Scheme, host, port and base path: from the table, or from a configured `base_url`.

use super::{PathError, is_version};

pub(super) struct Base {
    pub tls: bool,
    pub host: String,
    pub port: u16,
    /// Empty, or `/…` without a trailing slash.
    path: String,
}

impl Base {
    pub fn https(host: &str, path: &str) -> Base {
        Base {
            tls: true,
            host: host.to_owned(),
            port: 443,
            path: path.to_owned(),
        }
    }

    /// `http://` or `https://`, a host, perhaps a port and a path; nothing else.
    pub fn parse(url: &str) -> Result<Base, PathError> {
        // The URL may hold credentials, which an error must not repeat: past an `@` nothing is shown before it.
        let shown = || match url.rsplit_once('@') {
            Some((_, after)) => format!("…@{after}"),
            None => url.to_owned(),
        };
        let fault = |reason| PathError::BaseUrl {
            url: shown(),
            reason,
        };
        let (tls, rest) = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            _ => return Err(fault("must begin with https:// or http://")),
        };
        if rest.contains(['?', '#']) {
            return Err(fault("may not have a query or fragment"));
        }
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        if authority.contains('@') {
            return Err(fault("may not hold a user name; use api_key"));
        }
        // The port's colon comes after the bracket of an IPv6 address.
        let bracket = authority.rfind(']').unwrap_or(0);
        let (host, port) = match authority[bracket..].find(':') {
            Some(colon) => {
                let (host, port) = authority.split_at(bracket + colon);
                (
                    host,
                    port[1..].parse().map_err(|_| fault("has a bad port"))?,
                )
            }
            None => (authority, if tls { 443 } else { 80 }),
        };
        let is_host = if let Some(inner) = host.strip_prefix('[') {
            inner
                .strip_suffix(']')
                .is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok())
        } else {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        };
        if !is_host || port == 0 {
            return Err(fault("has no usable host and port"));
        }
        if path
            .chars()
            .any(|c| c.is_ascii_control() || matches!(c, ' ' | '\\'))
        {
            return Err(fault(
                "has a character in its path that must be percent-encoded",
            ));
        }
        Ok(Base {
            tls,
            host: host.to_ascii_lowercase(),
            port,
            path: path.trim_end_matches('/').to_owned(),
        })
    }

    pub fn drop_last_segment(&mut self, segment: &str) {
        if let Some(shorter) = self.path.strip_suffix(segment)
            && let Some(shorter) = shorter.strip_suffix('/')
        {
            self.path.truncate(shorter.len());
        }
    }

    /// Base path and remainder as one path; the remainder's version replaces the base's.
    pub fn join(&self, remainder: &str, beside_version: &[&str]) -> String {
        let first = remainder.split('/').next().unwrap_or_default();
        let mut path = self.path.as_str();
        if (is_version(first) || beside_version.contains(&first))
            && let Some((shorter, last)) = path.rsplit_once('/')
            && is_version(last)
        {
            path = shorter;
        }
        if remainder.is_empty() && !path.is_empty() {
            return path.to_owned();
        }
        format!("{path}/{remainder}")
    }
}
