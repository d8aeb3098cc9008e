//! One answer → the caller, the usage reader, the record's copy, and the cache.
//!
//! Bytes go out as they came in. `fly` sends everything but the last byte, so that the record can
//! be appended and the answer stored before `land` releases it: whoever has a whole answer also has
//! its row. After the first byte there is never a second answer: what breaks off ends with its
//! dialect's error event and an unclean close.

pub mod capture;

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use http::header::HeaderName;

use crate::app::App;
use crate::attempt::Open;
use crate::backend::Piece;
use crate::backend::http_client::Broken;
use crate::cache::replay::Slot;
use crate::config::Records;
use crate::door::writer::{Gone, Headers, ReplyWriter, value};
use crate::error::Kind;
use crate::exchange::Ids;
use crate::trace::{Attempt, Decision};
use capture::Capture;

/// How an answer's way to the caller ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Whole,
    Cut,
    ClientGone,
}

/// Pieces of an answer that may be stored, while they fit.
pub struct Keep {
    pieces: Vec<Bytes>,
    bytes: usize,
    max_bytes: usize,
}

impl Keep {
    pub fn new(max_bytes: usize) -> Keep {
        Keep {
            pieces: Vec::new(),
            bytes: 0,
            max_bytes,
        }
    }

    fn push(&mut self, piece: &Bytes) {
        self.bytes += piece.len();
        match self.bytes <= self.max_bytes {
            true => self.pieces.push(piece.clone()),
            false => self.pieces = Vec::new(),
        }
    }

    /// The whole body, if it was small enough to keep.
    pub fn into_pieces(self) -> Option<Vec<Bytes>> {
        (self.bytes <= self.max_bytes).then_some(self.pieces)
    }
}

/// What the tee is told besides the answer itself.
pub struct Flight<'f> {
    pub app: &'f App,
    pub ids: &'f Ids,
    pub records: &'f Records,
    pub decision: Decision,
    /// Set when the answer may be stored.
    pub keep: Option<Keep>,
    /// Others may wait there for this answer, so that it goes on when its own caller leaves.
    pub slot: &'f Slot,
}

/// An answer that has arrived but for its last byte.
pub struct Flown {
    pub attempt: Attempt,
    pub ending: Ending,
    pub keep: Option<Keep>,
    last: Last,
}

/// What `land` still has to write.
enum Last {
    Piece(Option<Bytes>),
    ErrorFrame(Vec<u8>),
    Nothing,
}

/// Sends head and body up to the last byte.
pub async fn fly(flight: Flight<'_>, writer: &mut ReplyWriter<'_>, open: Box<Open>) -> Flown {
    let Flight {
        app,
        ids,
        records,
        decision,
        mut keep,
        slot,
    } = flight;
    let Open {
        mut reply,
        mut reader,
        mut attempt,
    } = *open;
    attempt.decision = decision;
    let captures =
        records.capture_bodies && attempt.settings.collect && attempt.settings.collect_payload;
    let mut copy = Capture::new(&app.capture_budget, records.max_body_bytes, captures);
    let mut is_here = writer
        .head(reply.status, &reply_headers(&reply.headers, &attempt, ids))
        .await
        .is_ok();

    let mut batch = Vec::new();
    let (ending, last) = loop {
        batch.clear();
        let next = tokio::select! {
            biased;
            next = reply.body.next_batch(&mut batch) => next,
            Gone = writer.gone(), if is_here => {
                is_here = false;
                app.metrics.callers_left.inc();
                continue;
            }
            () = slot.followers_left(), if !is_here => {
                reply.body.cancel().await;
                break (Ending::ClientGone, Last::Nothing);
            }
        };
        match next {
            Ok(()) if batch.is_empty() => break (Ending::Whole, Last::Piece(None)),
            Ok(()) => {
                attempt.first_byte.get_or_insert_with(Instant::now);
                for piece in &batch {
                    attempt.response_bytes += piece.bytes.len() as u64;
                    if !piece.was_held {
                        reader.push(&piece.bytes);
                    }
                    copy.push(&piece.bytes);
                    if let Some(keep) = &mut keep {
                        keep.push(&piece.bytes);
                    }
                }
                let bytes = join(&mut batch);
                if reply.body.is_done() {
                    break (Ending::Whole, Last::Piece(Some(bytes)));
                }
                is_here = is_here && writer.chunk(bytes).await.is_ok();
            }
            Err(broken) => {
                reply.body.cancel().await;
                let frame = break_off(&mut attempt, &reader, &broken, ids);
                break (Ending::Cut, Last::ErrorFrame(frame));
            }
        }
    };
    if ending == Ending::Whole {
        reply.body.release(app).await;
    }
    if ending == Ending::ClientGone {
        attempt.error = Some(Kind::ClientGone);
        attempt.decision = Decision::ClientGone;
    }
    attempt.ended = Instant::now();
    let (pieces, is_complete) = copy.take();
    attempt.response_body = pieces;
    attempt.response_complete = is_complete && ending == Ending::Whole;
    attempt.reading = Some(reader.finish(ending == Ending::Whole));
    let last = if is_here { last } else { Last::Nothing };
    Flown {
        attempt,
        ending,
        keep,
        last,
    }
}

/// Pieces that had arrived together go out together: one write instead of one each.
fn join(batch: &mut Vec<Piece>) -> Bytes {
    if batch.len() == 1
        && let Some(only) = batch.pop()
    {
        return only.bytes;
    }
    let mut joined = BytesMut::with_capacity(batch.iter().map(|piece| piece.bytes.len()).sum());
    for piece in batch.drain(..) {
        joined.extend_from_slice(&piece.bytes);
    }
    joined.freeze()
}

impl Flown {
    /// Takes the attempt out, to be recorded, and leaves what is still to be written.
    pub fn split(self) -> (Attempt, Ending, Option<Keep>, Landing) {
        (self.attempt, self.ending, self.keep, Landing(self.last))
    }
}

/// The last byte, or the error event and the abort.
pub struct Landing(Last);

impl Landing {
    /// True when the caller has a whole answer and the connection may go on.
    pub async fn land(self, writer: &mut ReplyWriter<'_>) -> bool {
        match self.0 {
            Last::Piece(piece) => {
                if let Some(bytes) = piece
                    && writer.chunk(bytes).await.is_err()
                {
                    return false;
                }
                writer.end().await.is_ok()
            }
            Last::ErrorFrame(frame) => {
                if writer.chunk(frame.into()).await.is_err() {
                    tracing::debug!("the caller left before the error event");
                }
                writer.abort().await;
                false
            }
            Last::Nothing => false,
        }
    }
}

/// The error event that makes this dialect's own SDK raise.
fn break_off(
    attempt: &mut Attempt,
    reader: &providers::ReplyReader,
    broken: &Broken,
    ids: &Ids,
) -> Vec<u8> {
    attempt.error = Some(broken.kind);
    attempt.decision = Decision::Failed;
    tracing::info!(
        provider = attempt.provider,
        error = broken.kind.slug(),
        cause = broken.cause,
        "an answer broke off after its first byte"
    );
    let message = format!(
        "the answer of provider `{}` broke off: {}",
        attempt.provider,
        match broken.kind {
            Kind::UpstreamIdle => "it stalled",
            _ => "its connection ended early",
        }
    );
    providers::error_frame(
        attempt.dialect,
        reader.framing(),
        reader.in_mid_event(),
        broken.kind.slug(),
        &message,
        &ids.request,
    )
}

/// The provider's headers less hop-by-hop ones, and ours.
fn reply_headers(upstream: &http::HeaderMap, attempt: &Attempt, ids: &Ids) -> Headers {
    let mut headers: Headers = Vec::with_capacity(upstream.len() + 8);
    for (name, value) in upstream {
        if providers::is_forwarded_response_header(name.as_str()) {
            headers.push((name.clone(), value.clone()));
        }
    }
    headers.push((
        HeaderName::from_static("cf-aig-cache-status"),
        HeaderValue::from_static("MISS"),
    ));
    answer_headers(&mut headers, attempt.step, &attempt.id, ids);
    headers
}

/// Ours on every answer of a provider, cached or not.
pub fn answer_headers(headers: &mut Headers, step: u32, log_id: &str, ids: &Ids) {
    headers.push((
        HeaderName::from_static("cf-aig-step"),
        HeaderValue::from(step),
    ));
    headers.push((HeaderName::from_static("cf-aig-log-id"), value(log_id)));
    headers.push((
        HeaderName::from_static("cf-aig-event-id"),
        value(&ids.event),
    ));
    headers.push((
        HeaderName::from_static("cf-aig-request-id"),
        value(&ids.request),
    ));
    headers.push((
        HeaderName::from_static("cf-aig-trace-id"),
        value(&ids.trace),
    ));
}
