//! Who answers: a provider over HTTP (`remote`) or the engine inside this process (`local`).
//!
//! Both give the same thing, a `Reply`: a head, and a body that comes in pieces.

pub mod http_client;
#[cfg(feature = "local")]
pub mod local;
pub mod remote;
pub mod vertex;

use std::collections::VecDeque;

use bytes::Bytes;
use http::HeaderMap;

use crate::app::App;
#[cfg(feature = "local")]
use crate::error::Kind;
use http_client::{AnswerBody, Broken};

/// An answer whose head is known and whose body is still to be read.
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: ReplyBody,
    /// Says how something stands now: no answer to be stored or counted.
    pub is_status_report: bool,
}

/// Bytes that go out in one write at the most.
const MAX_BATCH_BYTES: usize = 64 * 1024;

/// Pieces held back while we looked at them, then whatever the source still has.
pub struct ReplyBody {
    held: VecDeque<Bytes>,
    source: Source,
    /// The source said so.
    is_over: bool,
    /// A break found while looking ahead, told in its turn.
    broken: Option<Broken>,
}

/// A piece of an answer. One that was held has been seen by the reader already.
pub struct Piece {
    pub bytes: Bytes,
    pub was_held: bool,
}

enum Source {
    Http(AnswerBody),
    #[cfg(feature = "local")]
    Engine {
        pieces: tokio::sync::mpsc::Receiver<local::Piece>,
    },
    /// A body that is whole in memory.
    Full(Option<Bytes>),
    Nothing,
}

impl ReplyBody {
    pub fn http(body: AnswerBody) -> ReplyBody {
        ReplyBody {
            held: VecDeque::new(),
            source: Source::Http(body),
            is_over: false,
            broken: None,
        }
    }

    #[cfg(feature = "local")]
    pub fn engine(pieces: tokio::sync::mpsc::Receiver<local::Piece>) -> ReplyBody {
        ReplyBody {
            held: VecDeque::new(),
            source: Source::Engine { pieces },
            is_over: false,
            broken: None,
        }
    }

    pub fn full(bytes: Bytes) -> ReplyBody {
        let source = Source::Full(Some(bytes).filter(|bytes| !bytes.is_empty()));
        ReplyBody {
            held: VecDeque::new(),
            source,
            is_over: false,
            broken: None,
        }
    }

    /// Reads the next piece and keeps it to be read again.
    pub async fn peek_next(&mut self) -> Result<Option<Bytes>, Broken> {
        let piece = self.read_source().await?;
        if let Some(bytes) = &piece {
            self.held.push_back(bytes.clone());
        }
        Ok(piece)
    }

    /// The next piece; `None` at a clean end. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Piece>, Broken> {
        match self.held.pop_front() {
            Some(bytes) => Ok(Some(Piece {
                bytes,
                was_held: true,
            })),
            None => Ok(self.read_source().await?.map(|bytes| Piece {
                bytes,
                was_held: false,
            })),
        }
    }

    /// The next piece and whatever else is already there, up to a bound; nothing at a clean end. A
    /// piece that is alone is not held up for company. Cancel-safe.
    pub async fn next_batch(&mut self, batch: &mut Vec<Piece>) -> Result<(), Broken> {
        if let Some(broken) = self.broken.take() {
            return Err(broken);
        }
        let Some(first) = self.next().await? else {
            return Ok(());
        };
        let mut bytes = first.bytes.len();
        batch.push(first);
        while bytes < MAX_BATCH_BYTES && !self.is_done() {
            // Looks without waiting: there is no point at which a cancel could lose a piece.
            let ready = tokio::select! {
                biased;
                next = self.next() => Some(next),
                () = std::future::ready(()) => None,
            };
            match ready {
                Some(Ok(Some(piece))) => {
                    bytes += piece.bytes.len();
                    batch.push(piece);
                }
                // What came before the break still goes out first.
                Some(Err(broken)) => {
                    self.broken = Some(broken);
                    break;
                }
                Some(Ok(None)) | None => break,
            }
        }
        Ok(())
    }

    /// What is held, to be looked at.
    pub fn held(&self) -> impl Iterator<Item = &Bytes> {
        self.held.iter()
    }

    async fn read_source(&mut self) -> Result<Option<Bytes>, Broken> {
        if self.is_over {
            return Ok(None);
        }
        let piece = match &mut self.source {
            Source::Http(body) => body.next().await?,
            #[cfg(feature = "local")]
            Source::Engine { pieces } => match pieces.recv().await {
                Some(local::Piece::Bytes(bytes)) => Some(bytes),
                Some(local::Piece::Failed(cause)) => {
                    return Err(Broken {
                        kind: Kind::UpstreamCut,
                        cause,
                    });
                }
                None => None,
            },
            Source::Full(bytes) => bytes.take(),
            Source::Nothing => None,
        };
        self.is_over = piece.is_none();
        Ok(piece)
    }

    /// Whether nothing more will come, as far as that is known without waiting.
    pub fn is_done(&mut self) -> bool {
        if !self.held.is_empty() || self.broken.is_some() {
            return false;
        }
        match &mut self.source {
            Source::Http(body) => self.is_over || body.is_done(),
            #[cfg(feature = "local")]
            Source::Engine { .. } => self.is_over,
            Source::Full(bytes) => bytes.is_none(),
            Source::Nothing => true,
        }
    }

    /// Whether the source ended cleanly, held pieces or not.
    pub fn is_drained(&mut self) -> bool {
        match &mut self.source {
            Source::Http(body) => self.is_over || body.is_done(),
            Source::Full(bytes) => bytes.is_none(),
            _ => self.is_over,
        }
    }

    /// Gives the connection back to the pool; call after the clean end only.
    pub async fn release(self, app: &App) {
        if let Source::Http(body) = self.source {
            app.http.release(body).await;
        }
    }

    /// Stops whoever is still producing.
    pub async fn cancel(&mut self) {
        match &mut self.source {
            Source::Http(body) => body.cancel().await,
            #[cfg(feature = "local")]
            Source::Engine { pieces } => pieces.close(),
            Source::Full(_) | Source::Nothing => {}
        }
        self.source = Source::Nothing;
        self.is_over = true;
        self.held.clear();
    }
}
