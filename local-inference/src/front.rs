//! The caller's side of a loaded model: from a request to a sequence, before the queue.

use crate::error::EngineError;
use crate::outbox::Outbox;
use crate::prompt::chat_template::ChatTemplate;
use crate::prompt::tokenizer::Tokenizer;
use crate::request::{
    DEFAULT_MAX_TOKENS, GenerateRequest, Generation, Message, Prompt, SamplingParams, Tool,
    ToolChoice,
};
use crate::sample::random_seed;
use crate::seat::Seat;
use crate::sequence::Sequence;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// Below this a prompt is tokenised in less time than a thread takes to wake.
const MAX_INLINE_PROMPT_BYTES: usize = 4096;

/// What goes to the engine thread. The channel is bounded by the seats, of which each sequence holds one.
pub(crate) enum Command {
    /// The choices of one request.
    Run(Vec<Sequence>),
    /// Look at the stop flag.
    Wake,
}

/// What requests share of a loaded model.
pub(crate) struct ModelFront {
    pub tokenizer: Arc<Tokenizer>,
    pub template: ChatTemplate,
    /// Prompt and answer together, in tokens.
    pub window: usize,
    pub inbox: Sender<Command>,
}

impl ModelFront {
    /// Puts the request into the engine's queue, one sequence for each seat.
    pub(crate) async fn submit(
        self: &Arc<ModelFront>,
        mut request: GenerateRequest,
        seats: Vec<Seat>,
    ) -> Result<Generation, EngineError> {
        let prompt = std::mem::replace(&mut request.prompt, Prompt::Tokens(Vec::new()));
        let tools = match request.tool_choice {
            ToolChoice::None => Vec::new(),
            _ => request.tools.clone(),
        };
        let options = std::mem::take(&mut request.template_options);
        let tokens = match prompt_bytes(&prompt) {
            0..=MAX_INLINE_PROMPT_BYTES => self.tokens(prompt, &tools, &options)?,
            _ => {
                let front = Arc::clone(self);
                tokio::task::spawn_blocking(move || front.tokens(prompt, &tools, &options))
                    .await
                    .map_err(|error| EngineError::Internal(error.to_string()))??
            }
        };
        let max_tokens = self.answer_tokens(tokens.len(), &request.sampling)?;
        // Drawn once: choices differ by their number, not by chance alone.
        request.sampling.seed.get_or_insert_with(random_seed);
        let (outboxes, events) = Outbox::new(seats.len());
        let prompt_tokens = tokens.len() as u32;
        let sequences = outboxes
            .into_iter()
            .zip(seats)
            .zip(0..)
            .map(|((outbox, seat), choice)| {
                Sequence::new(tokens.clone(), max_tokens, &request, choice, outbox, seat)
            })
            .collect();
        self.inbox
            .send(Command::Run(sequences))
            .map_err(|_| EngineError::Internal("the model's thread has ended".to_owned()))?;
        Ok(Generation {
            prompt_tokens,
            events,
        })
    }

    fn tokens(
        &self,
        prompt: Prompt,
        tools: &[Tool],
        options: &Map<String, Value>,
    ) -> Result<Vec<u32>, EngineError> {
        let render = |messages: &[Message]| self.template.render(messages, tools, options);
        let (text, field) = match prompt {
            Prompt::Text { text, raw: true } => (text, "prompt"),
            Prompt::Text { text, raw: false } => (render(&self.template.chat_of(text))?, "prompt"),
            Prompt::Tokens(tokens) => return self.checked(tokens),
            Prompt::Messages(messages) => (render(&messages)?, "messages"),
        };
        let fewest = self.tokenizer.fewest_tokens(text.len());
        if fewest > self.window {
            return Err(self.too_long(fewest));
        }
        let tokens = self
            .tokenizer
            .encode_prompt(&text)
            .map_err(|cause| EngineError::Internal(format!("tokenizer failed: {cause}")))?;
        if tokens.is_empty() {
            let reason = "holds nothing to go on from".to_owned();
            return Err(EngineError::Invalid { field, reason });
        }
        Ok(tokens)
    }

    /// Token ids of the caller's own.
    fn checked(&self, tokens: Vec<u32>) -> Result<Vec<u32>, EngineError> {
        let invalid = |reason: String| EngineError::Invalid {
            field: "prompt",
            reason,
        };
        if tokens.is_empty() {
            return Err(invalid("holds nothing to go on from".to_owned()));
        }
        let vocabulary = self.tokenizer.vocabulary();
        match tokens.iter().find(|token| **token as usize >= vocabulary) {
            Some(token) => Err(invalid(format!(
                "holds token {token}, the vocabulary has {vocabulary}"
            ))),
            None => Ok(tokens),
        }
    }

    /// How long the answer may be. A length the caller named must fit; the default takes what is left.
    fn answer_tokens(
        &self,
        prompt: usize,
        sampling: &SamplingParams,
    ) -> Result<usize, EngineError> {
        let left = self.window.saturating_sub(prompt);
        let wanted = sampling.max_tokens.map(|tokens| tokens as usize);
        let named_or_least = wanted.unwrap_or(1);
        if named_or_least > left {
            return Err(self.too_long(prompt + named_or_least));
        }
        Ok(wanted.unwrap_or((DEFAULT_MAX_TOKENS as usize).min(left)))
    }

    fn too_long(&self, requested: usize) -> EngineError {
        EngineError::ContextTooLong {
            requested: requested as u64,
            window: self.window as u64,
        }
    }
}

fn prompt_bytes(prompt: &Prompt) -> usize {
    match prompt {
        Prompt::Text { text, .. } => text.len(),
        Prompt::Tokens(_) => 0,
        Prompt::Messages(messages) => messages.iter().map(|message| message.content.len()).sum(),
    }
}
