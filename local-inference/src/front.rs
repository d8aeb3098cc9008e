//! The caller's side of a loaded model: from a request to sequences, before the queue.

use crate::adapter::registry::{Lease, Registry};
use crate::answer::{Answer, Calls};
use crate::error::EngineError;
use crate::outbox::Outbox;
use crate::prompt::chat_template::ChatTemplate;
use crate::prompt::detokenizer::Detokenizer;
use crate::prompt::tokenizer::Tokenizer;
use crate::request::{
    GenerateRequest, Generation, Message, OutputFormat, Prompt, SamplingParams, Tool, ToolChoice,
};
use crate::sample::grammar::{Constraint, Grammar, GrammarFactory};
use crate::sample::random_seed;
use crate::seat::Seat;
use crate::sequence::Sequence;
use crate::tools::{Markers, ToolFormat, ToolReader};
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// Below this a prompt is tokenised in less time than a thread takes to wake.
const MAX_INLINE_PROMPT_BYTES: usize = 4096;

/// What goes to the engine thread. The channel is bounded by the seats, of which each sequence holds one.
pub(crate) enum Command {
    /// The choices of one request.
    Run(Vec<Sequence>),
    /// Look again: at the stop flag, at adapters.
    Wake,
}

/// What requests share of a loaded model.
pub(crate) struct ModelFront {
    pub inbox: Sender<Command>,
    tokenizer: Arc<Tokenizer>,
    template: ChatTemplate,
    /// Prompt and answer together, in tokens.
    window: usize,
    /// Answer length when the caller gives none.
    usual_max_tokens: usize,
    tool_format: ToolFormat,
    markers: Arc<Markers>,
    grammars: GrammarFactory,
    adapters: Adapters,
}

/// The adapters a model can be asked with, or why with none.
pub(crate) type Adapters = Result<Arc<Registry>, &'static str>;

/// A request as the engine thread needs it.
struct Read {
    tokens: Vec<u32>,
    max_tokens: usize,
    grammar: Option<Grammar>,
}

impl ModelFront {
    pub(crate) fn new(
        tokenizer: Arc<Tokenizer>,
        template: ChatTemplate,
        window: usize,
        usual_max_tokens: usize,
        adapters: Adapters,
        inbox: Sender<Command>,
    ) -> ModelFront {
        let markers = Markers::new(|text| tokenizer.control_token(text));
        ModelFront {
            inbox,
            tool_format: template.tool_format(&tokenizer),
            grammars: GrammarFactory::new(Arc::clone(&tokenizer), markers.clone()),
            markers: Arc::new(markers),
            tokenizer,
            template,
            window,
            usual_max_tokens,
            adapters,
        }
    }

    /// Puts the request into the engine's queue, one sequence for each seat. What takes longer than a thread takes to wake is
    /// done on a thread that may block.
    pub(crate) async fn submit(
        self: &Arc<ModelFront>,
        mut request: GenerateRequest,
        seats: Vec<Seat>,
    ) -> Result<Generation, EngineError> {
        // First of all: it is fetched while the prompt is read.
        let lease = self.lease(&request)?.map(Arc::new);
        let is_short = prompt_bytes(&request.prompt) <= MAX_INLINE_PROMPT_BYTES;
        let is_free = request.format == OutputFormat::Text && callable(&request).is_empty();
        let read = match is_short && is_free {
            true => self.read(&request)?,
            false => {
                let front = Arc::clone(self);
                let reading = tokio::task::spawn_blocking(move || {
                    front.read(&request).map(|read| (request, read))
                });
                let (given_back, read) = reading
                    .await
                    .map_err(|error| EngineError::Internal(error.to_string()))??;
                request = given_back;
                read
            }
        };
        let prompt_tokens = read.tokens.len() as u32;
        // Drawn once: choices differ by their number, not by chance alone.
        request.sampling.seed.get_or_insert_with(random_seed);
        let (outboxes, events) = Outbox::new(seats.len());
        let sequences = outboxes
            .into_iter()
            .zip(seats)
            .zip(0..)
            .map(|((outbox, seat), choice)| {
                let lease = lease.clone();
                self.sequence(&request, &read, choice, outbox, seat)
                    .with_adapter(lease)
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

    fn sequence(
        &self,
        request: &GenerateRequest,
        read: &Read,
        choice: u32,
        outbox: Outbox,
        seat: Seat,
    ) -> Sequence {
        // The continuation of a text keeps the space that an answer of its own does not begin with.
        let is_chat = match request.prompt {
            Prompt::Text { raw, .. } => !raw,
            Prompt::Messages(_) => true,
            Prompt::Tokens(_) => false,
        };
        let detokenizer = Detokenizer::of_answer(is_chat && self.tokenizer.has_space_prefix());
        let tools = callable(request);
        let calls = (!tools.is_empty()).then(|| {
            let reader = ToolReader::new(self.tool_format, tools);
            Calls::new(reader, self.tool_format, Arc::clone(&self.markers))
        });
        let stop = &request.sampling.stop;
        let answer = Answer::new(choice, detokenizer, stop, calls, outbox);
        let grammar = read.grammar.as_ref().map(Grammar::fork);
        let tokens = read.tokens.clone();
        Sequence::new(
            tokens,
            read.max_tokens,
            request,
            choice,
            grammar,
            answer,
            seat,
        )
    }

    fn lease(&self, request: &GenerateRequest) -> Result<Option<Lease>, EngineError> {
        let Some(adapter) = &request.adapter else {
            return Ok(None);
        };
        match &self.adapters {
            Ok(registry) => registry.acquire(adapter).map(Some),
            Err(reason) => Err(EngineError::Adapter {
                id: adapter.id.to_string(),
                reason: (*reason).to_owned(),
            }),
        }
    }

    fn read(&self, request: &GenerateRequest) -> Result<Read, EngineError> {
        let tools = callable(request);
        let constraint = Constraint::of(
            &request.format,
            tools,
            &request.tool_choice,
            self.tool_format,
        )?;
        let tokens = self.tokens(request, tools)?;
        let max_tokens = self.answer_tokens(tokens.len(), &request.sampling)?;
        let compile = |constraint| self.grammars.compile(constraint);
        Ok(Read {
            tokens,
            max_tokens,
            grammar: constraint.as_ref().map(compile).transpose()?,
        })
    }

    fn tokens(&self, request: &GenerateRequest, tools: &[Tool]) -> Result<Vec<u32>, EngineError> {
        let options = &request.template_options;
        let render = |messages: &[Message]| self.template.render(messages, tools, options);
        let (text, field) = match &request.prompt {
            Prompt::Text { text, raw: true } => (text.clone(), "prompt"),
            Prompt::Text { text, raw: false } => {
                (render(&self.template.chat_of(text.clone()))?, "prompt")
            }
            Prompt::Tokens(tokens) => return self.checked(tokens),
            Prompt::Messages(messages) => (render(messages)?, "messages"),
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
    fn checked(&self, tokens: &[u32]) -> Result<Vec<u32>, EngineError> {
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
            None => Ok(tokens.to_vec()),
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
        Ok(wanted.unwrap_or(self.usual_max_tokens.clamp(1, left)))
    }

    fn too_long(&self, requested: usize) -> EngineError {
        EngineError::ContextTooLong {
            requested: requested as u64,
            window: self.window as u64,
        }
    }
}

/// The tools an answer may call.
fn callable(request: &GenerateRequest) -> &[Tool] {
    match request.tool_choice {
        ToolChoice::None => &[],
        _ => &request.tools,
    }
}

fn prompt_bytes(prompt: &Prompt) -> usize {
    match prompt {
        Prompt::Text { text, .. } => text.len(),
        Prompt::Tokens(_) => 0,
        Prompt::Messages(messages) => messages.iter().map(|message| message.content.len()).sum(),
    }
}
