//! Who may talk to an unprotected gateway: a page in a browser on the same machine may not.
//!
//! While no token exists (allowed on loopback only) any page the operator visits could send
//! requests to 127.0.0.1, directly or after its name was rebound to that address. So a `Host` or
//! `Origin` that is not of this machine is refused. Once tokens exist they are the protection.

use http::HeaderMap;

/// Whether host (with or without port) is a name of this machine.
pub fn is_local_name(host: &str) -> bool {
    let host = host.trim();
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// The foreign name, when there is one.
pub fn foreign(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(host) = text("host")
        && !is_local_name(host)
    {
        return Some(host.to_owned());
    }
    let origin = text("origin")?;
    let authority = origin
        .split_once("://")
        .map_or(origin, |(_, authority)| authority);
    (!is_local_name(authority)).then(|| origin.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine() {
        for local in [
            "localhost",
            "localhost:8787",
            "127.0.0.1",
            "127.9.9.9:1",
            "[::1]:8787",
            "LOCALHOST:1",
        ] {
            assert!(is_local_name(local), "{local}");
        }
        for foreign in [
            "evil.example",
            "evil.example:8787",
            "10.0.0.1:8787",
            "localhost.evil.example",
            "",
            "null",
        ] {
            assert!(!is_local_name(foreign), "{foreign}");
        }
    }

    #[test]
    fn a_pages_origin_is_foreign_even_when_the_host_is_not() {
        let mut headers = HeaderMap::new();
        headers.insert("host", "127.0.0.1:8787".parse().expect("header"));
        assert_eq!(foreign(&headers), None);
        headers.insert("origin", "https://evil.example".parse().expect("header"));
        assert_eq!(foreign(&headers).as_deref(), Some("https://evil.example"));
        headers.insert("origin", "http://localhost:3000".parse().expect("header"));
        assert_eq!(foreign(&headers), None);
    }
}
