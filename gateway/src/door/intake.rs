//! The caller's side of a connection, reading: the head first, the body only once admitted.
//!
//! The body is read here, never by the proxy framework, because the framework can replay at most
//! 64 KiB of it and a prompt is often longer.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header;
use pingora::protocols::http::ServerSession;

use crate::error::{GatewayError, Kind};
use crate::exchange::{Clock, Incoming};

/// Copies the head out of the session. Framing that two parsers could read in two ways is refused
/// here, before anything looks at it (RFC 9112 section 6.1).
pub fn head(session: &ServerSession) -> Result<Incoming, GatewayError> {
    let request = session.req_header();
    let raw_path = request.raw_path();
    let target = std::str::from_utf8(raw_path)
        .map_err(|_| GatewayError::new(Kind::BadRequest, "the request path is not valid UTF-8"))?;
    // An absolute-form target (`GET http://host/path`) is answered by its path.
    let target = match target.split_once("://") {
        Some(("http" | "https", rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        _ => target,
    };
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (target, None),
    };
    if !session.is_http2() {
        check_framing(session)?;
    }
    let mut headers = request.headers.clone();
    // HTTP/2 names the host apart; everything behind this looks for it in one place.
    if let Some(authority) = request.uri.authority()
        && session.is_http2()
        && let Ok(host) = authority.as_str().parse()
    {
        headers.insert(header::HOST, host);
    }
    Ok(Incoming {
        method: request.method.clone(),
        path: path.to_owned(),
        query,
        headers,
        client: session
            .client_addr()
            .and_then(|address| address.as_inet().copied()),
        is_http2: session.is_http2(),
        is_upgrade: session.is_upgrade_req(),
        clock: Clock::start(),
    })
}

fn check_framing(session: &ServerSession) -> Result<(), GatewayError> {
    let encodings = session
        .req_header()
        .headers
        .get_all(header::TRANSFER_ENCODING);
    let mut values = encodings.iter();
    let Some(first) = values.next() else {
        return Ok(());
    };
    if values.next().is_some() || !first.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Err(GatewayError::new(
            Kind::BadRequest,
            "transfer-encoding may be `chunked`, once, and nothing else",
        ));
    }
    if raw_names_content_length(&session.to_h1_raw()) {
        return Err(GatewayError::new(
            Kind::BadRequest,
            "a request may carry content-length or transfer-encoding, not both",
        ));
    }
    Ok(())
}

/// The framework drops `content-length` when both are there, so only the raw head still tells.
fn raw_names_content_length(raw: &[u8]) -> bool {
    raw.split(|byte| *byte == b'\n')
        .any(|line| line.len() > 15 && line[..15].eq_ignore_ascii_case(b"content-length:"))
}

/// What a body may cost us.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    pub max_bytes: u64,
    /// Longest wait for the next piece of the body.
    pub timeout: Duration,
}

/// Refuses by the announced length, before a byte of the body is read.
pub fn check_announced(
    incoming: &Incoming,
    limits: BodyLimits,
) -> Result<Option<u64>, GatewayError> {
    let Some(length) = incoming.header("content-length") else {
        return Ok(None);
    };
    let length: u64 = length.trim().parse().map_err(|_| {
        GatewayError::new(
            Kind::BadRequest,
            format!("content-length `{length}` is not a number"),
        )
    })?;
    if length > limits.max_bytes {
        return Err(too_large(limits.max_bytes));
    }
    Ok(Some(length))
}

/// Answers `Expect: 100-continue`, which callers with large bodies wait for.
pub async fn welcome_body(
    session: &mut ServerSession,
    incoming: &Incoming,
) -> Result<(), GatewayError> {
    let expects = incoming
        .header("expect")
        .is_some_and(|value| value.eq_ignore_ascii_case("100-continue"));
    if expects && !incoming.is_http2 {
        session.write_continue_response().await.map_err(gone)?;
    }
    Ok(())
}

/// The next piece of the body; `None` at its end.
pub async fn next_chunk(
    session: &mut ServerSession,
    limits: BodyLimits,
) -> Result<Option<Bytes>, GatewayError> {
    match tokio::time::timeout(limits.timeout, session.read_request_body()).await {
        Ok(Ok(chunk)) => Ok(chunk),
        Ok(Err(error)) => {
            Err(GatewayError::new(Kind::BadRequest, "the request body broke off").private(error))
        }
        Err(_) => Err(GatewayError::new(
            Kind::BodyTimeout,
            format!(
                "no more of the request body arrived within {} s",
                limits.timeout.as_secs()
            ),
        )),
    }
}

/// The whole body, up to the limit. The first piece is taken as it is when it is also the last.
pub async fn read_body(
    session: &mut ServerSession,
    limits: BodyLimits,
    announced: Option<u64>,
) -> Result<Bytes, GatewayError> {
    let Some(first) = next_chunk(session, limits).await? else {
        return Ok(Bytes::new());
    };
    if announced == Some(first.len() as u64) {
        return Ok(first);
    }
    // The announced length is a hint by a stranger: reserve a little, grow with what arrives.
    let reserve = announced.unwrap_or(0).min(1 << 20) as usize;
    let mut body = BytesMut::with_capacity(reserve.max(first.len() * 2));
    body.extend_from_slice(&first);
    while let Some(chunk) = next_chunk(session, limits).await? {
        if body.len() as u64 + chunk.len() as u64 > limits.max_bytes {
            return Err(too_large(limits.max_bytes));
        }
        body.extend_from_slice(&chunk);
    }
    if body.len() as u64 > limits.max_bytes {
        return Err(too_large(limits.max_bytes));
    }
    Ok(body.freeze())
}

pub fn too_large(max_bytes: u64) -> GatewayError {
    GatewayError::new(
        Kind::BodyTooLarge,
        format!("the request body is larger than {max_bytes} bytes (`server.max_body_bytes`)"),
    )
}

fn gone(error: Box<pingora::Error>) -> GatewayError {
    GatewayError::new(Kind::ClientGone, "the caller left").private(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_hidden_by_the_parser_is_still_seen() {
        assert!(raw_names_content_length(
            b"POST / HTTP/1.1\r\nCONTENT-LENGTH: 3\r\n\r\n"
        ));
        assert!(!raw_names_content_length(
            b"POST / HTTP/1.1\r\nX-Content-Length: 3\r\n\r\n"
        ));
    }
}
