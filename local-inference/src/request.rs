//! What a caller asks for, and what comes back.

use crate::adapter::AdapterRef;
use crate::error::EngineError;
use tokio::sync::mpsc;

/// One request: one prompt, one or several answers.
#[derive(Debug, Clone)]
pub struct GenerateRequest {
    pub model: String,
    pub prompt: Prompt,
    pub sampling: SamplingParams,
    /// What form the text must have.
    pub format: OutputFormat,
    /// Functions the model may ask for.
    pub tools: Vec<Tool>,
    pub tool_choice: ToolChoice,
    /// Answers to the same prompt, each with its own choice number from 0; at least 1.
    pub choices: u32,
    /// With each token its log-probability and this many of the likeliest alternatives; `None`: neither.
    pub top_logprobs: Option<u32>,
    /// Further variables for the model's chat template, `enable_thinking` for one.
    pub template_options: serde_json::Map<String, serde_json::Value>,
    /// Who shares: running places are handed out fairly between tenants, and prompt prefixes are reused within one.
    pub tenant: String,
    /// Who gives way when attention memory runs out.
    pub priority: Priority,
    /// Answer [`EngineError::Busy`] rather than wait for a running place.
    pub reject_if_busy: bool,
    /// The adapter the model answers with; `None`: the base alone.
    pub adapter: Option<AdapterRef>,
}

/// How soon a request's sequences give way to others. It does not change who is let in first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Nobody waits for it: batch work.
    Background,
    #[default]
    Normal,
}

impl GenerateRequest {
    /// The plain request: one answer of free text.
    pub fn new(model: impl Into<String>, prompt: Prompt) -> GenerateRequest {
        GenerateRequest {
            model: model.into(),
            prompt,
            sampling: SamplingParams::default(),
            format: OutputFormat::Text,
            tools: Vec::new(),
            tool_choice: ToolChoice::Auto,
            choices: 1,
            top_logprobs: None,
            template_options: serde_json::Map::new(),
            tenant: String::new(),
            priority: Priority::Normal,
            reject_if_busy: false,
            adapter: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// One text: as it is when `raw`, otherwise as the single user message of a chat.
    Text { text: String, raw: bool },
    /// A chat, put into the model's own template.
    Messages(Vec<Message>),
    /// Token ids, as they are.
    Tokens(Vec<u32>),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    pub role: String,
    /// Empty where a message holds nothing but tool calls.
    pub content: String,
    /// The function a `tool` message answers for, where the caller says.
    pub name: Option<String>,
    /// What the assistant asked for in this message.
    pub tool_calls: Vec<ToolCall>,
    /// The call a `tool` message answers. Many callers send none.
    pub tool_call_id: Option<String>,
}

impl Message {
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message {
            role: role.into(),
            content: content.into(),
            ..Message::default()
        }
    }
}

/// A function the model may ask for.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    pub name: String,
    pub description: Option<String>,
    /// JSON Schema of the arguments; null when the function takes none.
    pub parameters: serde_json::Value,
}

/// One call the model asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    /// JSON text of an object.
    pub arguments: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolChoice {
    /// The model decides.
    Auto,
    /// No call, whatever the tools.
    None,
    /// At least one call.
    Required,
    /// A call of this function.
    Named(String),
}

/// What form an answer must have. All but `Text` hold token by token: what is finished is valid.
#[derive(Debug, Clone, PartialEq)]
pub enum OutputFormat {
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON by this schema.
    JsonSchema(serde_json::Value),
}

/// How tokens are chosen and when to end.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// `None`: what the catalogue says of the model, or less where the prompt leaves less room.
    pub max_tokens: Option<u32>,
    /// 0 takes the likeliest token each time.
    pub temperature: f32,
    /// Keep the likeliest tokens that together reach this probability; 1 keeps all.
    pub top_p: f32,
    /// Keep this many of the likeliest tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep tokens at least this fraction as likely as the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Divides (multiplies, when negative) the logits of tokens seen in prompt or answer; 1 does nothing.
    pub repetition_penalty: f32,
    /// Taken off per occurrence in the answer.
    pub frequency_penalty: f32,
    /// Taken off once for a token that occurs in the answer.
    pub presence_penalty: f32,
    /// Equal seeds, prompts and settings give equal answers, whatever else is running.
    pub seed: Option<u64>,
    /// The answer ends before the first of these; at most 16.
    pub stop: Vec<String>,
    /// Do not end at the model's own end token.
    pub ignore_eos: bool,
}

const MAX_STOPS: usize = 16;

impl Default for SamplingParams {
    fn default() -> SamplingParams {
        SamplingParams {
            max_tokens: None,
            temperature: 0.6,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            seed: None,
            stop: Vec::new(),
            ignore_eos: false,
        }
    }
}

impl SamplingParams {
    /// Refuses what cannot be computed with; tighter bounds of an API are the API's to check.
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        let in_range = |field, value: f32, low: f32, high: f32| {
            if value.is_finite() && (low..=high).contains(&value) {
                return Ok(());
            }
            let reason = format!("must be between {low} and {high}, got {value}");
            Err(EngineError::Invalid { field, reason })
        };
        in_range("temperature", self.temperature, 0.0, 100.0)?;
        in_range("top_p", self.top_p, 0.0, 2.0)?;
        in_range("min_p", self.min_p, 0.0, 1.0)?;
        in_range("repetition_penalty", self.repetition_penalty, 0.0, 10.0)?;
        in_range("frequency_penalty", self.frequency_penalty, -10.0, 10.0)?;
        in_range("presence_penalty", self.presence_penalty, -10.0, 10.0)?;
        if self.max_tokens == Some(0) {
            return Err(EngineError::Invalid {
                field: "max_tokens",
                reason: "must be at least 1".to_owned(),
            });
        }
        if self.stop.len() > MAX_STOPS {
            let reason = format!(
                "has {} entries, at most {MAX_STOPS} are allowed",
                self.stop.len()
            );
            return Err(EngineError::Invalid {
                field: "stop",
                reason,
            });
        }
        Ok(())
    }
}

/// A running generation. Dropping `events` cancels it within one step.
#[derive(Debug)]
pub struct Generation {
    pub prompt_tokens: u32,
    /// Bounded: when it is full, this generation pauses until it is read; others go on. Closed without a `Done` for each
    /// choice or a `Failed`: the engine gave the generation up, its caller having read nothing for a minute.
    pub events: mpsc::Receiver<TokenEvent>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum TokenEvent {
    /// Whole characters; empty only where it carries log-probabilities of a token that wrote none yet.
    Text {
        choice: u32,
        text: String,
        /// Of the tokens since the last event, where they were asked for.
        logprobs: Vec<TokenLogprob>,
    },
    /// A tool call begins. Calls of a choice are numbered from 0 by `index`.
    ToolCallStart {
        choice: u32,
        index: u32,
        id: String,
        name: String,
    },
    /// The next piece of the JSON text of a call's arguments.
    ToolCallArguments {
        choice: u32,
        index: u32,
        text: String,
    },
    /// The last event of a choice that went well.
    Done {
        choice: u32,
        stop: StopReason,
        /// Sampled tokens, the end token included.
        completion_tokens: u32,
        /// Prompt tokens that were not computed again, an earlier request having left their keys and values.
        cached_tokens: u32,
    },
    /// The last event of a generation that did not go well, whatever its other choices.
    Failed(EngineError),
}

/// A token as it was chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    pub token: u32,
    /// The token's bytes; part of a character, possibly.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability before temperature, filters and penalties.
    pub logprob: f32,
    /// The likeliest tokens at this place, likeliest first; as many as asked for.
    pub top: Vec<(u32, Vec<u8>, f32)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// The model's end token, or one of the caller's stop strings.
    Stop,
    /// `max_tokens` reached.
    Length,
    /// The model asked for tools.
    ToolCalls,
}
