//! What a caller asks for, and what comes back.

use crate::error::EngineError;
use tokio::sync::mpsc;

/// One generation.
#[derive(Debug, Clone)]
pub struct GenerateRequest {
    pub model: String,
    pub prompt: Prompt,
    pub sampling: SamplingParams,
    /// Answer [`EngineError::Busy`] rather than wait for a running place.
    pub reject_if_busy: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// One text: as it is when `raw`, otherwise as the single user message of a chat.
    Text { text: String, raw: bool },
    /// A chat, put into the model's own template.
    Messages(Vec<Message>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub role: String,
    pub content: String,
}

/// How tokens are chosen and when to end.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// `None`: 256, or less where the prompt leaves less room.
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

/// Answer length when the caller gives none.
pub(crate) const DEFAULT_MAX_TOKENS: u32 = 256;
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
    /// Bounded: when it is full, this generation pauses until it is read; others go on. Closed without a `Done` or
    /// `Failed`: the engine gave the generation up, its caller having read nothing for a minute.
    pub events: mpsc::Receiver<TokenEvent>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenEvent {
    /// Whole characters, never empty.
    Text(String),
    /// The last event of a generation that went well.
    Done {
        stop: StopReason,
        /// Sampled tokens, the end token included.
        completion_tokens: u32,
    },
    /// The last event of one that did not.
    Failed(EngineError),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// The model's end token, or one of the caller's stop strings.
    Stop,
    /// `max_tokens` reached.
    Length,
}
