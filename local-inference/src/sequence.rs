//! The state of one generation: one choice of one request.

use crate::adapter::registry::{Lease, LeaseState};
use crate::adapter::{AdapterHash, LoadedAdapter};
use crate::answer::Answer;
use crate::error::EngineError;
use crate::prompt::tokenizer::Tokenizer;
use crate::request::{GenerateRequest, Priority, StopReason};
use crate::sample::grammar::Grammar;
use crate::sample::{Buffers, Sampler, logprobs};
use crate::seat::Seat;
use std::sync::Arc;

pub(crate) struct Sequence {
    /// Prompt, then answer.
    pub tokens: Vec<u32>,
    pub tenant: Arc<str>,
    pub priority: Priority,
    /// Prompt tokens that were there already; told at the end.
    pub cached_tokens: usize,
    prompt_tokens: usize,
    max_tokens: usize,
    ignore_eos: bool,
    /// Likeliest tokens to tell beside each one; `None`: no log-probabilities at all.
    top_logprobs: Option<usize>,
    sampler: Sampler,
    grammar: Option<Grammar>,
    answer: Answer,
    /// Of all choices of a request.
    adapter: Option<Arc<Lease>>,
    /// Given back last: by then the model may be unloaded.
    _seat: Seat,
}

impl Sequence {
    /// Choice number `choice` of `request`, whose prompt and bound on the answer are given in tokens.
    pub(crate) fn new(
        prompt: Vec<u32>,
        max_tokens: usize,
        request: &GenerateRequest,
        choice: u32,
        grammar: Option<Grammar>,
        answer: Answer,
        seat: Seat,
    ) -> Sequence {
        let params = &request.sampling;
        Sequence {
            tenant: request.tenant.as_str().into(),
            priority: request.priority,
            cached_tokens: 0,
            prompt_tokens: prompt.len(),
            max_tokens,
            ignore_eos: params.ignore_eos,
            top_logprobs: request.top_logprobs.map(|count| count as usize),
            sampler: Sampler::new(params, &prompt, choice),
            grammar,
            answer,
            adapter: None,
            tokens: prompt,
            _seat: seat,
        }
    }

    /// The same, answered with an adapter. It may still be on its way.
    pub(crate) fn with_adapter(self, adapter: Option<Arc<Lease>>) -> Sequence {
        Sequence { adapter, ..self }
    }

    /// The most positions it will ever fill.
    pub(crate) fn max_positions(&self) -> usize {
        self.prompt_tokens + self.max_tokens
    }

    pub(crate) fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    pub(crate) fn completion_tokens(&self) -> usize {
        self.tokens.len() - self.prompt_tokens
    }

    pub(crate) fn adapter_hash(&self) -> Option<AdapterHash> {
        self.adapter.as_ref().map(|lease| lease.hash())
    }

    /// The adapter, once it is there.
    pub(crate) fn adapter(&self) -> Option<&Arc<LoadedAdapter>> {
        match self.adapter.as_ref()?.state() {
            LeaseState::Ready(adapter) => Some(adapter),
            _ => None,
        }
    }

    /// Its adapter is on its way.
    pub(crate) fn waits_for_adapter(&self) -> bool {
        let lease = self.adapter.as_ref();
        lease.is_some_and(|lease| matches!(lease.state(), LeaseState::Loading))
    }

    /// It computes no more.
    pub(crate) fn give_adapter_back(&mut self) {
        self.adapter = None;
    }

    /// Why its adapter will not come.
    pub(crate) fn adapter_failure(&self) -> Option<EngineError> {
        match self.adapter.as_ref()?.state() {
            LeaseState::Failed(error) => Some(error),
            _ => None,
        }
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.answer.is_abandoned()
    }

    pub(crate) fn has_room(&mut self) -> bool {
        self.answer.outbox().has_room()
    }

    /// A finished one may still have something to tell; true when it has not.
    pub(crate) fn is_told(&mut self) -> bool {
        self.answer.outbox().flush()
    }

    pub(crate) fn fail(&mut self, error: EngineError) {
        self.answer.fail(error);
    }

    /// Chooses the next token, sends what it means, and says whether that was the end.
    pub(crate) fn advance(
        &mut self,
        logits: &mut [f32],
        tokenizer: &Tokenizer,
        buffers: &mut Buffers,
    ) -> bool {
        let advanced = self.try_advance(logits, tokenizer, buffers);
        advanced.unwrap_or_else(|error| {
            self.fail(error);
            true
        })
    }

    fn try_advance(
        &mut self,
        logits: &mut [f32],
        tokenizer: &Tokenizer,
        buffers: &mut Buffers,
    ) -> Result<bool, EngineError> {
        let top_logprobs = self.top_logprobs;
        let raw = top_logprobs.map(|top| logprobs::Row::new(logits, top));
        if let Some(grammar) = &mut self.grammar {
            grammar.mask(logits)?;
        }
        let token = self.sampler.choose(logits, self.tokens.len(), buffers);
        self.tokens.push(token);
        let is_end = tokenizer.is_end(token) && !self.ignore_eos;
        if !is_end {
            let logprob = raw.map(|row| row.tell(token, tokenizer));
            if self.answer.say(token, logprob, tokenizer) {
                let (completion, cached) = self.usage();
                self.answer.end_at_stop(completion, cached);
                return Ok(true);
            }
            if let Some(grammar) = &mut self.grammar {
                grammar.accept(token)?;
            }
        }
        let is_complete = self.grammar.as_ref().is_some_and(Grammar::is_complete);
        let reason = match is_end || is_complete {
            true => StopReason::Stop,
            false => StopReason::Length,
        };
        let is_over = reason == StopReason::Stop || self.completion_tokens() >= self.max_tokens;
        if is_over {
            let (completion, cached) = self.usage();
            self.answer.end(reason, completion, cached);
        }
        Ok(is_over)
    }

    fn usage(&self) -> (u32, u32) {
        (self.completion_tokens() as u32, self.cached_tokens as u32)
    }
}
