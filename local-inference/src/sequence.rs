//! The state of one generation: one choice of one request.

use crate::error::EngineError;
use crate::outbox::Outbox;
use crate::prompt::detokenizer::Detokenizer;
use crate::prompt::stop::StopMatcher;
use crate::prompt::tokenizer::Tokenizer;
use crate::request::{GenerateRequest, Priority, StopReason, TokenEvent, TokenLogprob};
use crate::sample::{Sampler, logprobs};
use crate::seat::Seat;
use std::sync::Arc;

pub(crate) struct Sequence {
    /// Prompt, then answer.
    pub tokens: Vec<u32>,
    pub tenant: Arc<str>,
    pub priority: Priority,
    /// Prompt tokens that were there already; told at the end.
    pub cached_tokens: usize,
    choice: u32,
    prompt_tokens: usize,
    max_tokens: usize,
    ignore_eos: bool,
    /// Likeliest tokens to tell beside each one; `None`: no log-probabilities at all.
    top_logprobs: Option<usize>,
    /// Of tokens whose text has not been sent yet.
    logprobs: Vec<TokenLogprob>,
    sampler: Sampler,
    detokenizer: Detokenizer,
    stop: StopMatcher,
    outbox: Outbox,
    _seat: Seat,
}

impl Sequence {
    /// `request` without its prompt, whose tokens are given.
    pub(crate) fn new(
        prompt: Vec<u32>,
        max_tokens: usize,
        request: &GenerateRequest,
        choice: u32,
        outbox: Outbox,
        seat: Seat,
    ) -> Sequence {
        let params = &request.sampling;
        Sequence {
            tenant: request.tenant.as_str().into(),
            priority: request.priority,
            cached_tokens: 0,
            choice,
            prompt_tokens: prompt.len(),
            max_tokens,
            ignore_eos: params.ignore_eos,
            top_logprobs: request.top_logprobs.map(|count| count as usize),
            logprobs: Vec::new(),
            sampler: Sampler::new(params, &prompt, choice),
            detokenizer: Detokenizer::default(),
            stop: StopMatcher::new(&params.stop),
            outbox,
            tokens: prompt,
            _seat: seat,
        }
    }

    /// The most positions it will ever fill.
    pub(crate) fn max_positions(&self) -> usize {
        self.prompt_tokens + self.max_tokens
    }

    pub(crate) fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.outbox.is_abandoned()
    }

    pub(crate) fn has_room(&mut self) -> bool {
        self.outbox.has_room()
    }

    /// A finished one may still have something to tell; true when it has not.
    pub(crate) fn is_told(&mut self) -> bool {
        self.outbox.flush()
    }

    /// Chooses the next token, sends what it means, and says whether that was the end.
    pub(crate) fn advance(&mut self, logits: &mut [f32], tokenizer: &Tokenizer) -> bool {
        let raw = self.top_logprobs.map(|top| logprobs::Row::new(logits, top));
        let token = self.sampler.choose(logits, self.tokens.len());
        self.tokens.push(token);
        let is_end = tokenizer.is_end(token) && !self.ignore_eos;
        if !is_end {
            if let Some(row) = raw {
                self.logprobs.push(row.tell(token, tokenizer));
            }
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
        let reason = match self.say(&rest) || is_end {
            true => StopReason::Stop,
            false => StopReason::Length,
        };
        let held = self.stop.finish();
        self.send_text(held);
        self.finish(reason);
        true
    }

    pub(crate) fn fail(&mut self, error: EngineError) {
        // No room: the reader sees the channel close without an end, which says the same.
        self.outbox.send(TokenEvent::Failed(error));
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

    fn send_text(&mut self, text: String) {
        if !text.is_empty() {
            let logprobs = std::mem::take(&mut self.logprobs);
            let choice = self.choice;
            self.outbox.send(TokenEvent::Text {
                choice,
                text,
                logprobs,
            });
        }
    }

    fn finish(&mut self, stop: StopReason) {
        // Of tokens that wrote nothing, or nothing that was let out.
        if stop == StopReason::Length && !self.logprobs.is_empty() {
            let logprobs = std::mem::take(&mut self.logprobs);
            self.outbox.send(TokenEvent::Text {
                choice: self.choice,
                text: String::new(),
                logprobs,
            });
        }
        self.outbox.send(TokenEvent::Done {
            choice: self.choice,
            stop,
            completion_tokens: self.completion_tokens() as u32,
            cached_tokens: self.cached_tokens as u32,
        });
    }
}
