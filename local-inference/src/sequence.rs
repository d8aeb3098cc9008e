//! The state of one generation.

use crate::error::EngineError;
use crate::prompt::detokenizer::Detokenizer;
use crate::prompt::stop::StopMatcher;
use crate::prompt::tokenizer::Tokenizer;
use crate::request::{SamplingParams, StopReason, TokenEvent};
use crate::sample::Sampler;
use crate::stats::Counters;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Events a reader may lag behind before its sequence pauses.
pub(crate) const OUTBOX_EVENTS: usize = 64;
/// What one token may bring: its text, the text held back for a stop string, the end.
const EVENTS_A_TOKEN: usize = 3;
/// A reader that takes nothing for so long loses its place to those who wait.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// A place in the engine, running or waiting; given back on drop.
pub(crate) struct Seat(Arc<Counters>);

impl Seat {
    /// A place if fewer than `limit` are taken.
    pub(crate) fn take(counters: &Arc<Counters>, limit: u64) -> Option<Seat> {
        let taken = counters
            .admitted
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                (taken < limit).then_some(taken + 1)
            });
        match taken {
            Ok(_) => Some(Seat(Arc::clone(counters))),
            Err(_) => {
                Counters::add(&counters.rejected, 1);
                None
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.admitted.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(crate) struct Sequence {
    /// Prompt, then answer.
    pub tokens: Vec<u32>,
    /// Tokens whose keys and values are in `blocks`.
    pub computed: usize,
    pub blocks: Vec<u32>,
    prompt_tokens: usize,
    max_tokens: usize,
    ignore_eos: bool,
    sampler: Sampler,
    detokenizer: Detokenizer,
    stop: StopMatcher,
    outbox: mpsc::Sender<TokenEvent>,
    paused_since: Option<Instant>,
    _seat: Seat,
}

impl Sequence {
    pub(crate) fn new(
        prompt: Vec<u32>,
        max_tokens: usize,
        params: &SamplingParams,
        outbox: mpsc::Sender<TokenEvent>,
        seat: Seat,
    ) -> Sequence {
        Sequence {
            computed: 0,
            blocks: Vec::new(),
            prompt_tokens: prompt.len(),
            max_tokens,
            ignore_eos: params.ignore_eos,
            sampler: Sampler::new(params, &prompt),
            detokenizer: Detokenizer::default(),
            stop: StopMatcher::new(&params.stop),
            outbox,
            paused_since: None,
            tokens: prompt,
            _seat: seat,
        }
    }

    /// The most positions it will ever fill.
    pub(crate) fn max_positions(&self) -> usize {
        self.prompt_tokens + self.max_tokens
    }

    pub(crate) fn unseen(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Its caller has gone, or has read nothing for too long.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.outbox.is_closed()
            || self
                .paused_since
                .is_some_and(|since| since.elapsed() > MAX_PAUSE)
    }

    /// Whether the reader has room for one more token. Only this thread fills the outbox, so room does not shrink by itself.
    pub(crate) fn has_room(&mut self) -> bool {
        let has_room = self.outbox.capacity() >= EVENTS_A_TOKEN;
        match has_room {
            true => self.paused_since = None,
            false => _ = self.paused_since.get_or_insert_with(Instant::now),
        }
        has_room
    }

    /// Chooses the next token, sends what it means, and says whether that was the end.
    pub(crate) fn advance(&mut self, logits: &mut [f32], tokenizer: &Tokenizer) -> bool {
        let token = self.sampler.choose(logits, self.tokens.len());
        self.tokens.push(token);
        let is_end = tokenizer.is_end(token) && !self.ignore_eos;
        if !is_end {
            let mut text = String::new();
            self.detokenizer
                .push(tokenizer.token_bytes(token), &mut text);
            if self.say(&text) {
                self.finish(StopReason::Stop);
                return true;
            }
        }
        let is_full = self.completion_tokens() >= self.max_tokens;
        if !is_end && !is_full {
            return false;
        }
        let mut rest = String::new();
        self.detokenizer.finish(&mut rest);
        let reason = match is_end || self.say(&rest) {
            true => StopReason::Stop,
            false => StopReason::Length,
        };
        let held = self.stop.finish();
        self.send_text(held);
        self.finish(reason);
        true
    }

    pub(crate) fn fail(&self, error: EngineError) {
        // No room: the reader sees the channel close without an end, which says the same.
        let _ = self.outbox.try_send(TokenEvent::Failed(error));
    }

    pub(crate) fn completion_tokens(&self) -> usize {
        self.tokens.len() - self.prompt_tokens
    }

    /// Sends what may be sent of `text`; true when a stop string was met.
    fn say(&mut self, text: &str) -> bool {
        let (text, is_stopped) = self.stop.push(text);
        self.send_text(text);
        is_stopped
    }

    fn send_text(&self, text: String) {
        if !text.is_empty() {
            self.send(TokenEvent::Text {
                choice: 0,
                text,
                logprobs: Vec::new(),
            });
        }
    }

    fn finish(&self, stop: StopReason) {
        let completion_tokens = self.completion_tokens() as u32;
        self.send(TokenEvent::Done {
            choice: 0,
            stop,
            completion_tokens,
            cached_tokens: 0,
        });
    }

    fn send(&self, event: TokenEvent) {
        let result = self.outbox.try_send(event);
        // Closed is the reader's choice and noticed at the next step.
        debug_assert!(
            !matches!(result, Err(mpsc::error::TrySendError::Full(_))),
            "a step ran a sequence without room"
        );
    }
}
