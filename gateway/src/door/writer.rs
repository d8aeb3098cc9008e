//! `ReplyWriter`: the only thing that writes to a caller.
//!
//! A reply is a head, chunks, and an end. The end is a promise that the answer is whole, so a
//! reply that broke off is aborted instead: chunked framing without its last chunk on HTTP/1.1, a
//! stream reset on HTTP/2. Every client library raises on both.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_LENGTH, HeaderName};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use tokio::sync::watch;

use crate::error::{GatewayError, Kind};
use crate::exchange::Ids;

/// What an HTTP/2 caller is given to receive before its stream is reset: a reset overtakes what is
/// still queued.
const BEFORE_RESET: Duration = Duration::from_millis(250);

/// Headers of a reply, in order.
pub type Headers = Vec<(HeaderName, http::HeaderValue)>;

pub struct ReplyWriter<'s> {
    session: &'s mut ServerSession,
    /// HEAD, or a status that has no body: chunks are swallowed.
    is_bodiless: bool,
    state: State,
    is_gone: bool,
    /// Told when the process can wait no longer: then everybody counts as gone.
    cut: Option<watch::Receiver<bool>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Nothing,
    Head,
    Ended,
    Aborted,
}

/// The caller is no longer there to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

impl<'s> ReplyWriter<'s> {
    pub fn new(session: &'s mut ServerSession) -> ReplyWriter<'s> {
        ReplyWriter {
            session,
            is_bodiless: false,
            state: State::Nothing,
            is_gone: false,
            cut: None,
        }
    }

    /// Lets the end of the process end this reply, with its record.
    pub fn until(mut self, cut: watch::Receiver<bool>) -> ReplyWriter<'s> {
        self.cut = Some(cut);
        self
    }

    /// Sends the head. Without `content-length` the body is chunked (HTTP/1.1), never delimited by
    /// the close: only then can a caller see that it was cut.
    pub async fn head(&mut self, status: u16, headers: &Headers) -> Result<(), Gone> {
        debug_assert_eq!(self.state, State::Nothing, "one answer a request");
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
        let mut response = match ResponseHeader::build_no_case(status, Some(headers.len() + 2)) {
            Ok(response) => response,
            Err(_) => return Err(Gone),
        };
        let mut has_length = false;
        for (name, value) in headers {
            has_length |= *name == CONTENT_LENGTH;
            if response.append_header(name.clone(), value).is_err() {
                tracing::warn!(%name, "a reply header could not be written");
            }
        }
        let is_head = self.session.req_header().method == http::Method::HEAD;
        self.is_bodiless = is_head || matches!(status.as_u16(), 204 | 304);
        if !has_length && !self.is_bodiless && !self.session.is_http2() {
            let chunked = http::HeaderValue::from_static("chunked");
            if response
                .insert_header("transfer-encoding", chunked)
                .is_err()
            {
                return Err(Gone);
            }
        }
        self.state = State::Head;
        self.session
            .write_response_header(Box::new(response))
            .await
            .map_err(|_| Gone)
    }

    pub async fn chunk(&mut self, bytes: Bytes) -> Result<(), Gone> {
        debug_assert_eq!(self.state, State::Head);
        if bytes.is_empty() || self.is_bodiless {
            return Ok(());
        }
        self.session
            .write_response_body(bytes, false)
            .await
            .map_err(|_| Gone)
    }

    /// The answer is whole.
    pub async fn end(&mut self) -> Result<(), Gone> {
        debug_assert_eq!(self.state, State::Head);
        self.state = State::Ended;
        self.session
            .write_response_body(Bytes::new(), true)
            .await
            .map_err(|_| Gone)
    }

    /// The answer broke off: end the connection so that nobody takes it for whole.
    pub async fn abort(&mut self) {
        self.state = State::Aborted;
        if self.session.is_http2() && !self.is_gone {
            tokio::time::sleep(BEFORE_RESET).await;
        }
        self.session.shutdown().await;
    }

    /// Resolves when the caller leaves, never otherwise. Cancel-safe.
    pub async fn gone(&mut self) -> Gone {
        while !self.is_gone {
            let cut = self.cut.as_mut();
            self.is_gone = tokio::select! {
                idle = self.session.read_body_or_idle(true) => idle.is_err(),
                () = told(cut) => true,
            };
        }
        Gone
    }

    pub fn is_gone(&self) -> bool {
        self.is_gone
    }

    /// The body of the request, for the one backend that streams it through.
    pub fn session(&mut self) -> &mut ServerSession {
        self.session
    }

    /// A whole small reply.
    pub async fn full(
        &mut self,
        status: u16,
        mut headers: Headers,
        body: Bytes,
    ) -> Result<(), Gone> {
        headers.push((HeaderName::from_static("content-length"), body.len().into()));
        self.head(status, &headers).await?;
        self.chunk(body).await?;
        self.end().await
    }
}

/// Resolves when the signal comes; never without one.
async fn told(cut: Option<&mut watch::Receiver<bool>>) {
    if let Some(cut) = cut
        && cut.wait_for(|is_cut| *is_cut).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// A header value from text of ours; anything a header may not hold is dropped from it.
pub fn value(text: &str) -> http::HeaderValue {
    http::HeaderValue::from_str(text).unwrap_or_else(|_| {
        let clean: String = text
            .chars()
            .filter(|c| c.is_ascii_graphic() || *c == ' ')
            .collect();
        http::HeaderValue::from_str(&clean).expect("printable ascii is a header value")
    })
}

/// The headers every reply of the data plane carries, faults included.
pub fn id_headers(ids: &Ids) -> Headers {
    vec![
        (
            HeaderName::from_static("cf-aig-event-id"),
            value(&ids.event),
        ),
        (
            HeaderName::from_static("cf-aig-request-id"),
            value(&ids.request),
        ),
    ]
}

/// Answers with a fault of ours in the data plane's envelope.
pub async fn refuse(
    writer: &mut ReplyWriter<'_>,
    ids: &Ids,
    error: &GatewayError,
    cloudflare_statuses: bool,
    mut extra: Headers,
) -> Result<u16, Gone> {
    let status = error.status(cloudflare_statuses);
    let mut headers = id_headers(ids);
    headers.push((
        HeaderName::from_static("content-type"),
        http::HeaderValue::from_static("application/json"),
    ));
    if let Some(seconds) = error.retry_after_s {
        headers.push((
            HeaderName::from_static("retry-after"),
            value(&seconds.to_string()),
        ));
    }
    headers.append(&mut extra);
    // What is left of an unread body would be taken for the next request.
    if matches!(
        error.kind,
        Kind::BodyTooLarge | Kind::BodyTimeout | Kind::BadRequest | Kind::Busy
    ) {
        writer.session().set_keepalive(None);
    }
    writer
        .full(status, headers, error.envelope(cloudflare_statuses).into())
        .await?;
    Ok(status)
}
