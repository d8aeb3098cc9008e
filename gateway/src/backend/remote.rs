//! A provider over HTTP: sends one prepared request, gives its `Reply`.

use bytes::Bytes;

use super::http_client::{Broken, HttpClient, Opened, Outgoing, Timeouts};
use super::{Reply, ReplyBody};
use crate::door::intake::{self, BodyLimits};
use crate::error::{GatewayError, Kind};
use crate::route::RemoteTarget;
use pingora::protocols::http::ServerSession;

fn outgoing(target: &RemoteTarget) -> Outgoing<'_> {
    Outgoing {
        method: &target.method,
        upstream: &target.upstream,
        headers: &target.headers,
    }
}

/// Sends a request whose body is in memory.
pub async fn send(
    client: &HttpClient,
    target: &RemoteTarget,
    body: &Bytes,
    timeouts: Timeouts,
) -> Result<Reply, Broken> {
    let answer = client.send(&outgoing(target), body, timeouts).await?;
    Ok(Reply {
        status: answer.status,
        headers: answer.headers,
        body: ReplyBody::http(answer.body),
        is_status_report: false,
    })
}

/// Why a streamed request failed: the provider's fault or the caller's.
pub enum StreamFailure {
    Upstream(Broken),
    Caller(GatewayError),
}

/// Sends a request whose body passes through in pieces, and is therefore sent once.
///
/// `keep` sees every piece. A provider that answers before it has read everything (413, 401) is
/// heard: a failed write is followed by one look for its answer.
pub async fn send_streamed(
    client: &HttpClient,
    target: &RemoteTarget,
    session: &mut ServerSession,
    limits: BodyLimits,
    timeouts: Timeouts,
    mut keep: impl FnMut(&Bytes),
) -> Result<Reply, StreamFailure> {
    let mut opened: Opened = client
        .open(&outgoing(target), timeouts)
        .await
        .map_err(StreamFailure::Upstream)?;
    let mut seen: u64 = 0;
    loop {
        match intake::next_chunk(session, limits)
            .await
            .map_err(StreamFailure::Caller)?
        {
            None => break,
            Some(chunk) => {
                seen += chunk.len() as u64;
                if seen > limits.max_bytes {
                    return Err(StreamFailure::Caller(intake::too_large(limits.max_bytes)));
                }
                keep(&chunk);
                if let Err(broken) = opened.send_chunk(chunk, false).await {
                    tracing::debug!(
                        cause = broken.cause,
                        "the provider stopped reading the request"
                    );
                    return into_reply(opened.read_head(timeouts).await);
                }
            }
        }
    }
    into_reply(opened.finish(timeouts).await)
}

fn into_reply(answer: Result<super::http_client::Answer, Broken>) -> Result<Reply, StreamFailure> {
    let answer = answer.map_err(StreamFailure::Upstream)?;
    Ok(Reply {
        status: answer.status,
        headers: answer.headers,
        body: ReplyBody::http(answer.body),
        is_status_report: false,
    })
}

/// What a broken exchange is called towards the caller.
pub fn fault(broken: &Broken, provider: &str) -> GatewayError {
    let message = match broken.kind {
        Kind::UpstreamConnect => {
            format!("failed to get a response from provider `{provider}`: could not connect")
        }
        Kind::UpstreamTimeout => {
            format!("failed to get a response from provider `{provider}`: no answer in time")
        }
        Kind::FirstTokenTimeout => {
            format!("failed to get a response from provider `{provider}`: no content in time")
        }
        Kind::Internal => "internal server error".to_owned(),
        _ => format!("failed to get a response from provider `{provider}`: the connection broke"),
    };
    GatewayError::new(broken.kind, message).private(&broken.cause)
}
