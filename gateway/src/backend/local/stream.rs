//! A streamed answer, rendered as it is pulled: no task and no buffer of its own.

use bytes::Bytes;
use local_inference::TokenEvent;
use tokio::sync::mpsc;

use super::events::Events;
use super::fault::Fault;
use super::meter::Bill;
use super::reply::Stream;

/// Part of a streamed answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Whole events.
    Bytes(Bytes),
    /// The answer broke off: nothing follows, least of all the mark of a whole stream. Whoever writes to the caller says so in
    /// the caller's dialect, as for any provider.
    Failed(String),
}

/// Pieces on their way to the pipeline: a few, so that the engine feels a slow reader soon.
const CHANNEL_PIECES: usize = 4;

/// Dropping it cancels the generation within one step.
pub struct LocalStream {
    stream: Stream,
    events: Events,
    bill: Bill,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Begun,
    Over,
}

impl LocalStream {
    pub(super) fn new(stream: Stream, events: Events, bill: Bill) -> LocalStream {
        LocalStream {
            stream,
            events,
            bill,
            state: State::New,
        }
    }

    /// The next piece; `None` after the clean end or after a failure. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Piece> {
        if self.state == State::Over {
            return None;
        }
        let mut text = String::new();
        // Some events have no bytes of their own in some forms.
        while text.is_empty() {
            let event = self.events.next().await;
            if self.state == State::New {
                self.state = State::Begun;
                self.stream.begin(&mut text);
            }
            match event {
                Some(TokenEvent::Failed(error)) => {
                    self.state = State::Over;
                    return Some(Piece::Failed(Fault::engine(error, "").text));
                }
                Some(event) => {
                    self.bill.count(&event, self.events.tally());
                    self.stream.event(&mut text, event);
                }
                None => {
                    self.state = State::Over;
                    self.stream.end(&mut text, self.events.tally());
                    break;
                }
            }
        }
        Some(Piece::Bytes(text.into()))
    }

    /// The same through a channel. The task in between ends with the answer or with the receiver, whichever is first.
    pub fn into_channel(mut self) -> mpsc::Receiver<Piece> {
        let (sender, receiver) = mpsc::channel(CHANNEL_PIECES);
        tokio::spawn(async move {
            loop {
                let piece = tokio::select! {
                    piece = self.recv() => piece,
                    () = sender.closed() => return,
                };
                let Some(piece) = piece else { return };
                if sender.send(piece).await.is_err() {
                    return;
                }
            }
        });
        receiver
    }
}
