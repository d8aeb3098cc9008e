//! The engine's end of a generation's events.

use crate::request::TokenEvent;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{self, error::TrySendError};

/// Events of one choice a reader may lag behind before the generation pauses.
const EVENTS: usize = 64;
/// What one token commonly brings: its text, the text held back for a stop string, the end.
const EVENTS_A_TOKEN: usize = 3;
/// A reader that takes nothing for so long loses its place to those who wait.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// One choice's way to the reader. The choices of a request share the channel; each has its own outbox.
pub(crate) struct Outbox {
    events: mpsc::Sender<TokenEvent>,
    /// Room for what every choice may bring in one step.
    needed: usize,
    /// What did not fit: one token may end several tool calls. At most what one step brings, since nothing more is computed
    /// until it is gone.
    backlog: VecDeque<TokenEvent>,
    paused_since: Option<Instant>,
}

impl Outbox {
    /// One for each of `choices`.
    pub(crate) fn new(choices: usize) -> (Vec<Outbox>, mpsc::Receiver<TokenEvent>) {
        let (events, reader) = mpsc::channel(EVENTS * choices);
        let outbox = || Outbox {
            events: events.clone(),
            needed: EVENTS_A_TOKEN * choices,
            backlog: VecDeque::new(),
            paused_since: None,
        };
        ((0..choices).map(|_| outbox()).collect(), reader)
    }

    /// Whether the reader has room for one more token of every choice. Only this thread fills the channel, so room does not
    /// shrink by itself.
    pub(crate) fn has_room(&mut self) -> bool {
        let has_room = self.flush() && self.events.capacity() >= self.needed;
        match has_room {
            true => self.paused_since = None,
            false => _ = self.paused_since.get_or_insert_with(Instant::now),
        }
        has_room
    }

    /// The reader has gone, or has read nothing for too long.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.events.is_closed()
            || self
                .paused_since
                .is_some_and(|since| since.elapsed() > MAX_PAUSE)
    }

    pub(crate) fn send(&mut self, event: TokenEvent) {
        self.backlog.push_back(event);
        self.flush();
    }

    /// Sends what fits; true when nothing is left behind. What a closed channel refuses is nobody's any more.
    pub(crate) fn flush(&mut self) -> bool {
        while let Some(event) = self.backlog.pop_front() {
            if let Err(TrySendError::Full(event)) = self.events.try_send(event) {
                self.backlog.push_front(event);
                return false;
            }
        }
        true
    }
}
