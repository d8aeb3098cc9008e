//! One reader per format, behind one door.

use crate::Dialect;
use crate::eventstream::Frame;

use super::anthropic::Anthropic;
use super::bedrock::{BedrockConverse, BedrockInvoke};
use super::chat::Chat;
use super::cohere::Cohere;
use super::gemini::{Gemini, Interactions};
use super::hosted::{Ollama, Replicate, Tgi};
use super::media::Media;
use super::notes::Notes;
use super::responses::Responses;

#[expect(
    clippy::large_enum_variant,
    reason = "one lives in each reader, never in a list; a box would cost an allocation a request"
)]
#[derive(Debug)]
pub(super) enum Shape {
    Chat(Chat),
    Responses(Responses),
    Anthropic(Anthropic),
    Gemini(Gemini),
    Interactions(Interactions),
    BedrockConverse(BedrockConverse),
    BedrockInvoke(BedrockInvoke),
    Cohere(Cohere),
    Tgi(Tgi),
    Ollama(Ollama),
    Replicate(Replicate),
    Media(Media),
    Opaque,
}

impl Shape {
    pub fn of(dialect: Dialect) -> Shape {
        match dialect {
            Dialect::OpenAiChat
            | Dialect::Perplexity
            | Dialect::OpenRouter
            | Dialect::WorkersAi => Shape::Chat(Chat::default()),
            Dialect::OpenAiResponses => Shape::Responses(Responses::default()),
            Dialect::Anthropic => Shape::Anthropic(Anthropic::default()),
            Dialect::Gemini => Shape::Gemini(Gemini::default()),
            Dialect::GeminiInteractions => Shape::Interactions(Interactions::default()),
            Dialect::BedrockConverse => Shape::BedrockConverse(BedrockConverse::default()),
            Dialect::BedrockInvoke => Shape::BedrockInvoke(BedrockInvoke::default()),
            Dialect::CohereV2 | Dialect::CohereV1 => Shape::Cohere(Cohere::default()),
            Dialect::Tgi => Shape::Tgi(Tgi::default()),
            Dialect::Ollama => Shape::Ollama(Ollama::default()),
            Dialect::Replicate => Shape::Replicate(Replicate::default()),
            Dialect::OpenAiMedia
            | Dialect::Mistral
            | Dialect::Elevenlabs
            | Dialect::Deepgram
            | Dialect::Cartesia
            | Dialect::Fal
            | Dialect::Ideogram => Shape::Media(Media::default()),
            Dialect::Opaque => Shape::Opaque,
        }
    }

    /// An SSE event, a JSON line (without a name) or an array element (likewise).
    pub fn event(&mut self, notes: &mut Notes, name: &[u8], data: &[u8]) {
        notes.events += 1;
        match self {
            Shape::Chat(shape) => shape.event(notes, name, data),
            Shape::Responses(shape) => shape.event(notes, name, data),
            Shape::Anthropic(shape) => shape.event(notes, name, data),
            Shape::Gemini(shape) => shape.event(notes, data),
            Shape::Interactions(shape) => shape.event(notes, data),
            Shape::Cohere(shape) => shape.event(notes, name, data),
            Shape::Tgi(shape) => shape.event(notes, data),
            Shape::Ollama(shape) => shape.event(notes, data),
            Shape::Replicate(shape) => shape.event(notes, name, data),
            Shape::Media(shape) => shape.event(notes, name, data),
            Shape::BedrockConverse(_) | Shape::BedrockInvoke(_) | Shape::Opaque => {
                notes.stage_content();
            }
        }
    }

    pub fn frame(&mut self, notes: &mut Notes, frame: Frame<'_>) {
        notes.events += 1;
        match self {
            Shape::BedrockConverse(shape) => shape.frame(notes, frame),
            Shape::BedrockInvoke(shape) => shape.frame(notes, frame),
            _ => notes.stage_content(),
        }
    }

    /// A whole JSON body. True when it is a complete answer.
    pub fn document(&mut self, notes: &mut Notes, body: &[u8]) -> bool {
        match self {
            Shape::Chat(shape) => shape.document(notes, body),
            Shape::Responses(shape) => shape.document(notes, body),
            Shape::Anthropic(shape) => shape.document(notes, body),
            Shape::Gemini(shape) => shape.document(notes, body),
            Shape::Interactions(shape) => shape.document(notes, body),
            Shape::BedrockConverse(shape) => shape.document(notes, body),
            Shape::BedrockInvoke(shape) => shape.document(notes, body),
            Shape::Cohere(shape) => shape.document(notes, body),
            Shape::Tgi(shape) => shape.document(notes, body),
            Shape::Ollama(shape) => shape.document(notes, body),
            Shape::Replicate(shape) => shape.document(notes, body),
            Shape::Media(shape) => shape.document(notes, body),
            Shape::Opaque => true,
        }
    }

    /// Nothing more comes: the numbers gathered become the notes' usage.
    pub fn settle(&mut self, notes: &mut Notes) {
        match self {
            Shape::Chat(shape) => shape.settle(notes),
            Shape::Responses(shape) => shape.settle(notes),
            Shape::Anthropic(shape) => shape.settle(notes),
            Shape::Gemini(shape) => shape.settle(notes),
            Shape::Interactions(shape) => shape.settle(notes),
            Shape::BedrockConverse(shape) => shape.settle(notes),
            Shape::BedrockInvoke(shape) => shape.settle(notes),
            Shape::Cohere(shape) => shape.settle(notes),
            Shape::Tgi(shape) => shape.settle(notes),
            Shape::Ollama(shape) => shape.settle(notes),
            Shape::Replicate(shape) => shape.settle(notes),
            Shape::Media(shape) => shape.settle(notes),
            Shape::Opaque => {}
        }
    }
}
