//! First-event inspection: a stream that begins with its dialect's error frame is a failed try.
//!
//! The head and the first pieces are held until an event with content was seen, while another try
//! or step remains (or a time bound on the first byte or token must hold). Bounded in events, in
//! bytes and in time; past a bound the stream is believed.

use std::time::{Duration, Instant};

use providers::{Failure, Framing, Progress};

use super::Open;
use crate::backend::http_client::Broken;
use crate::error::Kind;
use crate::route::TrySettings;

/// Events looked at before the stream is believed.
const MAX_EVENTS: u64 = 64;
/// Bytes held before the stream is believed.
const MAX_BYTES: usize = 256 * 1024;

/// `Ok(None)`: nothing speaks against this answer.
pub async fn inspect(
    open: &mut Open,
    tries: &TrySettings,
    may_go_on: bool,
) -> Result<Option<Failure>, Broken> {
    let is_stream = matches!(
        open.reader.framing(),
        Framing::Sse | Framing::EventStream | Framing::JsonLines | Framing::JsonArray
    );
    if let Some(limit) = tries.first_byte {
        let left = limit.saturating_sub(open.attempt.started.elapsed());
        let Some(()) = first_piece(open, left, Kind::UpstreamTimeout).await? else {
            return Ok(None);
        };
    }
    if !is_stream || !(may_go_on || tries.first_token.is_some()) {
        return Ok(None);
    }
    let deadline = tries
        .first_token
        .map(|limit| Instant::now() + limit.saturating_sub(open.attempt.started.elapsed()));
    let mut held: usize = open.reply.body.held().map(|piece| piece.len()).sum();
    loop {
        match open.reader.progress() {
            Progress::Content => return Ok(None),
            Progress::Error(failure) => return Ok(Some(failure)),
            Progress::NothingYet | Progress::StartOnly => {}
        }
        if open.reader.events() >= MAX_EVENTS || held >= MAX_BYTES {
            return Ok(None);
        }
        let next = match deadline {
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                first_token(open, left).await?
            }
            None => read(open).await?,
        };
        match next {
            Some(bytes) => held += bytes,
            None => return Ok(None),
        }
    }
}

async fn read(open: &mut Open) -> Result<Option<usize>, Broken> {
    let Some(piece) = open.reply.body.peek_next().await? else {
        return Ok(None);
    };
    open.attempt.first_byte.get_or_insert_with(Instant::now);
    open.reader.push(&piece);
    Ok(Some(piece.len()))
}

async fn first_token(open: &mut Open, left: Duration) -> Result<Option<usize>, Broken> {
    match tokio::time::timeout(left, read(open)).await {
        Ok(read) => read,
        Err(_) => Err(Broken {
            kind: Kind::FirstTokenTimeout,
            cause: "no content within the first-token timeout".into(),
        }),
    }
}

async fn first_piece(open: &mut Open, left: Duration, kind: Kind) -> Result<Option<()>, Broken> {
    if open.reply.body.held().next().is_some() || open.reply.body.is_done() {
        return Ok(Some(()));
    }
    match tokio::time::timeout(left, read(open)).await {
        Ok(Ok(piece)) => Ok(piece.map(|_| ())),
        Ok(Err(broken)) => Err(broken),
        Err(_) => Err(Broken {
            kind,
            cause: "no part of the answer within the request timeout".into(),
        }),
    }
}
