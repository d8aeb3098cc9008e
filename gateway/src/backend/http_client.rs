//! The pingora connector: pool, TLS, name resolution, timeouts, and a byte stream of the answer.
//!
//! Opens sockets to providers and knows HTTP; knows nothing of providers or of policy.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use moka::sync::Cache;
use pingora::connectors::ConnectorOptions;
use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use pingora::protocols::ALPN;
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType};
use providers::Upstream;

use crate::error::Kind;

/// Idle upstream connections kept, over all providers; past it the oldest is closed.
const MAX_IDLE_CONNECTIONS: usize = 1024;
/// How long an idle upstream connection is kept.
const IDLE_CONNECTION: Duration = Duration::from_secs(60);
/// How long a resolved address is believed. Providers move slowly; a dead one fails the connect.
const NAME_TTL: Duration = Duration::from_secs(30);
const MAX_NAMES: u64 = 1024;
/// Addresses of one name that are tried before it counts as unreachable.
const MAX_ADDRESSES: usize = 3;
/// Streams on one HTTP/2 connection to a provider.
const MAX_STREAMS: usize = 100;

pub struct HttpClient {
    connector: Connector,
    names: Cache<String, Arc<[SocketAddr]>>,
}

/// How long each phase may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    pub connect: Duration,
    /// From the request's last byte to the answer's head; a request timeout shortens it.
    pub head: Duration,
    /// Between two pieces of the answer.
    pub idle: Duration,
}

/// Why no answer came, or why it broke off.
#[derive(Debug)]
pub struct Broken {
    pub kind: Kind,
    pub cause: String,
}

/// A request ready to be sent.
pub struct Outgoing<'r> {
    pub method: &'r http::Method,
    pub upstream: &'r Upstream,
    pub headers: &'r http::HeaderMap,
}

/// An answer whose head has been read.
pub struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: AnswerBody,
}

pub struct AnswerBody {
    session: Option<Box<HttpSession>>,
    peer: Box<HttpPeer>,
}

/// A connection on which the request's head was sent.
pub struct Opened {
    session: Box<HttpSession>,
    peer: Box<HttpPeer>,
    pub is_reused: bool,
}

impl HttpClient {
    pub fn new() -> HttpClient {
        let options = ConnectorOptions::new(MAX_IDLE_CONNECTIONS);
        let names = Cache::builder()
            .max_capacity(MAX_NAMES)
            .time_to_live(NAME_TTL)
            .build();
        HttpClient {
            connector: Connector::new(Some(options)),
            names,
        }
    }

    async fn resolve(&self, upstream: &Upstream) -> Result<Arc<[SocketAddr]>, Broken> {
        let host = upstream.host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(Arc::new([SocketAddr::new(address, upstream.port)]));
        }
        let name = format!("{host}:{}", upstream.port);
        if let Some(addresses) = self.names.get(&name) {
            return Ok(addresses);
        }
        let failed = |cause: String| Broken {
            kind: Kind::UpstreamConnect,
            cause,
        };
        let found: Arc<[SocketAddr]> = tokio::net::lookup_host(name.as_str())
            .await
            .map_err(|error| failed(format!("resolving {host}: {error}")))?
            .take(MAX_ADDRESSES)
            .collect();
        if found.is_empty() {
            return Err(failed(format!("{host} has no address")));
        }
        self.names.insert(name, found.clone());
        Ok(found)
    }

    /// The peers of a provider, one for each of its addresses, in the order they are tried.
    pub async fn peers(
        &self,
        upstream: &Upstream,
        timeouts: Timeouts,
        http1_only: bool,
    ) -> Result<impl Iterator<Item = HttpPeer> + use<>, Broken> {
        let addresses = tokio::time::timeout(timeouts.connect, self.resolve(upstream))
            .await
            .map_err(|_| Broken {
                kind: Kind::UpstreamConnect,
                cause: format!("resolving {} timed out", upstream.host),
            })??;
        let (host, is_tls) = (upstream.host.clone(), upstream.tls);
        Ok((0..addresses.len()).map(move |index| {
            let mut peer = HttpPeer::new(addresses[index], is_tls, host.clone());
            peer.options.connection_timeout = Some(timeouts.connect);
            peer.options.total_connection_timeout = Some(timeouts.connect);
            peer.options.read_timeout = Some(timeouts.idle);
            peer.options.idle_timeout = Some(IDLE_CONNECTION);
            peer.options.max_h2_streams = MAX_STREAMS;
            if is_tls && !http1_only {
                peer.options.alpn = ALPN::H2H1;
            }
            peer
        }))
    }

    /// A session on the first address that takes one.
    async fn connect(
        &self,
        upstream: &Upstream,
        timeouts: Timeouts,
    ) -> Result<(Box<HttpSession>, bool, Box<HttpPeer>), Broken> {
        let mut last = None;
        for peer in self.peers(upstream, timeouts, false).await? {
            // On the heap: a pooled connection should not carry the size of making one.
            match Box::pin(self.connector.get_http_session(&peer)).await {
                Ok((session, is_reused)) => {
                    return Ok((Box::new(session), is_reused, Box::new(peer)));
                }
                Err(error) => last = Some(error),
            }
        }
        let cause = last.map_or_else(
            || format!("{} has no address", upstream.host),
            |error| describe(&error),
        );
        Err(Broken {
            kind: Kind::UpstreamConnect,
            cause,
        })
    }

    /// Connects and sends the head.
    pub async fn open(&self, request: &Outgoing<'_>, timeouts: Timeouts) -> Result<Opened, Broken> {
        let (mut session, is_reused, peer) = self.connect(request.upstream, timeouts).await?;
        let head =
            build_head(request, matches!(*session, HttpSession::H2(_))).map_err(|error| {
                Broken {
                    kind: Kind::Internal,
                    cause: describe(&error),
                }
            })?;
        session.set_read_timeout(Some(timeouts.idle));
        session.set_write_timeout(Some(timeouts.idle));
        session
            .write_request_header(Box::new(head))
            .await
            .map_err(|error| reset(&error))?;
        Ok(Opened {
            session,
            peer,
            is_reused,
        })
    }

    /// Sends a request whose body we hold and reads the answer's head.
    ///
    /// A pooled connection may have died while it was idle; that says nothing about the provider,
    /// so such a failure gets one fresh connection, which is not another attempt.
    pub async fn send(
        &self,
        request: &Outgoing<'_>,
        body: &Bytes,
        timeouts: Timeouts,
    ) -> Result<Answer, Broken> {
        loop {
            let opened = match self.open(request, timeouts).await {
                Ok(opened) => opened,
                // The head itself could not be written: the pooled connection was dead.
                Err(broken) if broken.kind == Kind::UpstreamReset => {
                    self.open(request, timeouts).await?
                }
                Err(broken) => return Err(broken),
            };
            let was_reused = opened.is_reused;
            match opened.exchange(body, timeouts).await {
                Err(broken) if was_reused && broken.kind == Kind::UpstreamReset => continue,
                other => return other,
            }
        }
    }

    /// Gives a connection back whose answer was read to its end.
    pub async fn release(&self, mut body: AnswerBody) {
        if let Some(session) = body.session.take() {
            self.connector
                .release_http_session(*session, &*body.peer, Some(IDLE_CONNECTION))
                .await;
        }
    }
}

impl Default for HttpClient {
    fn default() -> Self {
        HttpClient::new()
    }
}

impl Opened {
    async fn exchange(mut self, body: &Bytes, timeouts: Timeouts) -> Result<Answer, Broken> {
        if !body.is_empty() {
            self.send_chunk(body.clone(), true).await?;
        }
        self.finish(timeouts).await
    }

    pub async fn send_chunk(&mut self, chunk: Bytes, is_last: bool) -> Result<(), Broken> {
        self.session
            .write_request_body(chunk, is_last)
            .await
            .map_err(|error| reset(&error))
    }

    /// Ends the request and waits for the answer's head.
    pub async fn finish(mut self, timeouts: Timeouts) -> Result<Answer, Broken> {
        self.session
            .finish_request_body()
            .await
            .map_err(|error| reset(&error))?;
        self.read_head(timeouts).await
    }

    /// Waits for the answer's head without ending the request: a provider may refuse early.
    pub async fn read_head(mut self, timeouts: Timeouts) -> Result<Answer, Broken> {
        self.session.set_read_timeout(None);
        let read = async {
            loop {
                self.session.read_response_header().await?;
                let status = self
                    .session
                    .response_header()
                    .map_or(0, |head| head.status.as_u16());
                if !(100..200).contains(&status) {
                    return Ok::<u16, Box<Error>>(status);
                }
            }
        };
        let status = match tokio::time::timeout(timeouts.head, read).await {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => return Err(reset(&error)),
            Err(_) => {
                self.session.shutdown().await;
                return Err(Broken {
                    kind: Kind::UpstreamTimeout,
                    cause: format!("no answer within {} ms", timeouts.head.as_millis()),
                });
            }
        };
        self.session.set_read_timeout(Some(timeouts.idle));
        let headers = self
            .session
            .response_header()
            .map(|head| head.headers.clone())
            .unwrap_or_default();
        Ok(Answer {
            status,
            headers,
            body: AnswerBody {
                session: Some(self.session),
                peer: self.peer,
            },
        })
    }
}

impl AnswerBody {
    /// The next piece, as it came off the wire; `None` at a clean end. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        let Some(session) = self.session.as_mut() else {
            return Ok(None);
        };
        session.read_response_body().await.map_err(|error| {
            let kind = match error.etype() {
                ErrorType::ReadTimedout => Kind::UpstreamIdle,
                _ => Kind::UpstreamCut,
            };
            Broken {
                kind,
                cause: describe(&error),
            }
        })
    }

    /// Whether the last piece has been read, known without waiting for the end of a chunked body.
    pub fn is_done(&mut self) -> bool {
        self.session
            .as_mut()
            .is_none_or(|session| session.response_done())
    }

    /// Stops the provider: closes the connection or resets the stream at once.
    pub async fn cancel(&mut self) {
        if let Some(mut session) = self.session.take() {
            session.shutdown().await;
        }
    }
}

fn build_head(request: &Outgoing<'_>, is_http2: bool) -> pingora::Result<RequestHeader> {
    let path = request.upstream.path_and_query.as_bytes();
    let mut head = RequestHeader::build_no_case(
        request.method.clone(),
        path,
        Some(request.headers.len() + 2),
    )?;
    let authority = authority(request.upstream);
    if is_http2 {
        head.set_version(http::Version::HTTP_2);
        let scheme = if request.upstream.tls {
            "https"
        } else {
            "http"
        };
        let uri = http::Uri::builder()
            .scheme(scheme)
            .authority(authority.as_str())
            .path_and_query(request.upstream.path_and_query.as_str())
            .build()
            .map_err(|error| {
                Error::because(
                    ErrorType::InvalidHTTPHeader,
                    "building the request uri",
                    error,
                )
            })?;
        head.set_uri(uri);
    } else {
        head.insert_header("host", authority)?;
    }
    for (name, value) in request.headers {
        head.append_header(name, value)?;
    }
    Ok(head)
}

/// Host with the port unless it is the scheme's own.
pub fn authority(upstream: &Upstream) -> String {
    match (upstream.tls, upstream.port) {
        (true, 443) | (false, 80) => upstream.host.clone(),
        (_, port) => format!("{}:{port}", upstream.host),
    }
}

fn reset(error: &Error) -> Broken {
    Broken {
        kind: Kind::UpstreamReset,
        cause: describe(error),
    }
}

/// Type and cause, without the context strings that may quote bytes of a message.
fn describe(error: &Error) -> String {
    match error.root_cause().downcast_ref::<std::io::Error>() {
        Some(io) => format!("{}: {io}", error.etype().as_str()),
        None => error.etype().as_str().to_owned(),
    }
}
