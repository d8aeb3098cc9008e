//! A streamed answer, rendered as it is pulled: no task and no buffer of its own.

use bytes::Bytes;
use local_inference::TokenEvent;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::fault::{Fault, gone};
use super::reply::Answer;

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
    answer: Answer,
    first: Option<TokenEvent>,
    events: mpsc::Receiver<TokenEvent>,
    is_over: bool,
    padding: Padding,
}

impl LocalStream {
    pub(super) fn new(
        answer: Answer,
        first: TokenEvent,
        events: mpsc::Receiver<TokenEvent>,
    ) -> LocalStream {
        LocalStream {
            answer,
            first: Some(first),
            events,
            is_over: false,
            padding: Padding::new(),
        }
    }

    /// The next piece; `None` after the clean end or after a failure. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Piece> {
        if self.is_over {
            return None;
        }
        let mut text = String::new();
        let event = match self.first.take() {
            Some(event) => {
                text += &self.answer.head_event(self.padding.next());
                event
            }
            None => self.events.recv().await.unwrap_or_else(gone),
        };
        match event {
            TokenEvent::Text { text: piece, .. } => {
                text += &self.answer.text_event(&piece, self.padding.next())
            }
            TokenEvent::Done {
                stop,
                completion_tokens,
                ..
            } => {
                self.is_over = true;
                text += &self
                    .answer
                    .end_events(stop, completion_tokens, self.padding.next());
            }
            TokenEvent::ToolCallStart { .. } | TokenEvent::ToolCallArguments { .. } => {}
            TokenEvent::Failed(error) => {
                self.is_over = true;
                return Some(Piece::Failed(Fault::engine(error, "").text));
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

/// Text of random length in every chunk, so that sizes on the wire do not tell which tokens went by.
struct Padding {
    state: u64,
}

const PADDING: &str = "abdefghijklmnoprstuvxyz1234567890abdefghijklmnoprstuvxyz1234567890";

impl Padding {
    fn new() -> Padding {
        Padding {
            state: Uuid::new_v4().as_u64_pair().0,
        }
    }

    fn next(&mut self) -> &'static str {
        // SplitMix64 from a secret start: an eavesdropper sees only sums of it and the text's length.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        &PADDING[..((z ^ (z >> 31)) % (PADDING.len() as u64 + 1)) as usize]
    }
}
