//! First-event inspection: a stream that begins with its dialect's error frame is a failed try.
//!
//! The head and the first pieces are held until an event with content was seen, while another try
//! or step remains (or a time bound on the first byte or token must hold). Bounded in events, in
//! bytes and in time; past a bound the stream is believed.

use std::time::{Duration, Instant};

use bytes::Bytes;
use providers::{Failure, Framing, Progress};

use super::Open;
use crate::backend::http_client::Broken;
use crate::error::Kind;
use crate::route::TrySettings;

/// Events looked at before the stream is believed.
const MAX_EVENTS: u64 = 64;
/// Lines looked at before the stream is believed: comments are no events, and are not waited for
/// for ever either.
const MAX_LINES: usize = 2 * MAX_EVENTS as usize;
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
    let mut seen = Seen::default();
    open.reply.body.held().for_each(|piece| seen.add(piece));
    loop {
        match open.reader.progress() {
            Progress::Content => return Ok(None),
            Progress::Error(failure) => return Ok(Some(failure)),
            Progress::NothingYet | Progress::StartOnly => {}
        }
        if open.reader.events() >= MAX_EVENTS || seen.lines >= MAX_LINES || seen.bytes >= MAX_BYTES
        {
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
            Some(piece) => seen.add(&piece),
            None => return Ok(None),
        }
    }
}

#[derive(Default)]
struct Seen {
    lines: usize,
    bytes: usize,
}

impl Seen {
    fn add(&mut self, piece: &Bytes) {
        self.lines += piece.iter().filter(|byte| **byte == b'\n').count();
        self.bytes += piece.len();
    }
}

async fn read(open: &mut Open) -> Result<Option<Bytes>, Broken> {
    let Some(piece) = open.reply.body.peek_next().await? else {
        return Ok(None);
    };
    open.attempt.first_byte.get_or_insert_with(Instant::now);
    open.reader.push(&piece);
    Ok(Some(piece))
}

async fn first_token(open: &mut Open, left: Duration) -> Result<Option<Bytes>, Broken> {
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
