//! What the engine says, of one prompt or of several, as one sequence of events.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll};

use local_inference::{EngineError, Generation, StopReason, TokenEvent, TokenLogprob, ToolCall};
use tokio::sync::mpsc;

/// What an answer took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub prompt_tokens: u32,
    /// Prompt tokens that were not computed again.
    pub cached_tokens: u32,
    pub completion_tokens: u32,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.prompt_tokens += other.prompt_tokens;
        self.cached_tokens += other.cached_tokens;
        self.completion_tokens += other.completion_tokens;
    }
}

/// Generations side by side. Choices are numbered through: those of the first prompt, then those of the second.
pub(super) struct Events {
    sources: Vec<Source>,
    /// Whose turn it is: no prompt waits for another's end.
    turn: usize,
    /// Looked at already, and still to be told.
    ahead: VecDeque<TokenEvent>,
    tally: Tally,
    /// Calls told of each choice; what the model asks for beyond is left out.
    max_calls: u32,
}

struct Source {
    events: mpsc::Receiver<TokenEvent>,
    first_choice: u32,
    /// Choices that have not ended.
    left: u32,
}

impl Events {
    pub(super) fn new(generations: Vec<Generation>, choices: u32, max_calls: u32) -> Events {
        let mut tally = Tally::default();
        let mut sources = Vec::with_capacity(generations.len());
        for (index, generation) in generations.into_iter().enumerate() {
            tally.prompt_tokens += generation.prompt_tokens;
            sources.push(Source {
                events: generation.events,
                first_choice: index as u32 * choices,
                left: choices,
            });
        }
        Events {
            sources,
            turn: 0,
            ahead: VecDeque::new(),
            tally,
            max_calls,
        }
    }

    /// Prompt tokens from the beginning, the rest as choices end.
    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    /// Waits for the first event and keeps it to be told. A failure is told at once: it can still be a status.
    pub(super) async fn begin(&mut self) -> Result<(), EngineError> {
        match self.next().await {
            Some(TokenEvent::Failed(error)) => Err(error),
            Some(event) => {
                self.ahead.push_back(event);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The next event; `None` once every choice has ended. Nothing follows a failure. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<TokenEvent> {
        if let Some(event) = self.ahead.pop_front() {
            return Some(event);
        }
        loop {
            let event = poll_fn(|context| self.poll(context)).await?;
            match &event {
                TokenEvent::ToolCallStart { index, .. }
                | TokenEvent::ToolCallArguments { index, .. }
                    if *index >= self.max_calls => {}
                TokenEvent::Failed(_) => {
                    self.sources.clear();
                    return Some(event);
                }
                _ => return Some(event),
            }
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<TokenEvent>> {
        self.sources.retain(|source| source.left > 0);
        if self.sources.is_empty() {
            return Poll::Ready(None);
        }
        for step in 0..self.sources.len() {
            let at = (self.turn + step) % self.sources.len();
            if let Poll::Ready(event) = self.sources[at].events.poll_recv(context) {
                self.turn = at + 1;
                return Poll::Ready(Some(self.told(at, event.unwrap_or_else(gone))));
            }
        }
        Poll::Pending
    }

    /// Counts, and numbers the choice through.
    fn told(&mut self, at: usize, mut event: TokenEvent) -> TokenEvent {
        let source = &mut self.sources[at];
        match &mut event {
            TokenEvent::Text { choice, .. }
            | TokenEvent::ToolCallStart { choice, .. }
            | TokenEvent::ToolCallArguments { choice, .. } => *choice += source.first_choice,
            TokenEvent::Done {
                choice,
                completion_tokens,
                cached_tokens,
                ..
            } => {
                source.left = source.left.saturating_sub(1);
                self.tally.completion_tokens += *completion_tokens;
                // Its other choices share the prompt that the first one read.
                if *choice == 0 {
                    self.tally.cached_tokens += *cached_tokens;
                }
                *choice += source.first_choice;
            }
            TokenEvent::Failed(_) => {}
        }
        event
    }
}

/// What a channel closed without an end means.
fn gone() -> TokenEvent {
    TokenEvent::Failed(EngineError::Internal("the answer was given up".to_owned()))
}

/// One whole answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Choice {
    pub text: String,
    pub calls: Vec<ToolCall>,
    pub logprobs: Vec<TokenLogprob>,
    pub stop: StopReason,
}

/// All choices, whole.
pub(super) async fn gather(
    events: &mut Events,
    choices: usize,
) -> Result<Vec<Choice>, EngineError> {
    let empty = Choice {
        text: String::new(),
        calls: Vec::new(),
        logprobs: Vec::new(),
        stop: StopReason::Stop,
    };
    let mut whole = vec![empty; choices];
    let unknown =
        || EngineError::Internal("the engine told of a choice nobody asked for".to_owned());
    while let Some(event) = events.next().await {
        let choice = match &event {
            TokenEvent::Text { choice, .. }
            | TokenEvent::ToolCallStart { choice, .. }
            | TokenEvent::ToolCallArguments { choice, .. }
            | TokenEvent::Done { choice, .. } => *choice as usize,
            TokenEvent::Failed(error) => return Err(error.clone()),
        };
        let choice = whole.get_mut(choice).ok_or_else(unknown)?;
        match event {
            TokenEvent::Text { text, logprobs, .. } => {
                choice.text.push_str(&text);
                choice.logprobs.extend(logprobs);
            }
            TokenEvent::ToolCallStart { id, name, .. } => choice.calls.push(ToolCall {
                id,
                name,
                arguments: String::new(),
            }),
            TokenEvent::ToolCallArguments { index, text, .. } => {
                let call = choice.calls.get_mut(index as usize).ok_or_else(unknown)?;
                call.arguments.push_str(&text);
            }
            TokenEvent::Done { stop, .. } => choice.stop = stop,
            TokenEvent::Failed(error) => return Err(error),
        }
    }
    Ok(whole)
}
