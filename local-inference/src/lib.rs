//! The embedded engine: text in, text out, many callers at once, on this machine's CPU.
//!
//! [`Engine::start`] gives an [`EngineHandle`]; [`EngineHandle::generate`] turns a [`GenerateRequest`] into a bounded
//! channel of [`TokenEvent`]s. Between the two, one dedicated thread per model owns the weights, the
//! attention memory and every running sequence, and takes one step after another: each running
//! sequence gets its next token, prompts are read in chunks beside them.
//!
//! ```text
//! caller:        request -> prompt (template, tokenizer) -> bounded inbox
//! engine thread: inbox -> scheduler -> batch -> model -> kernels -> sample -> detokenizer -> outbox
//! ```
//!
//! A dropped receiver is a cancel, noticed within a step. A caller who reads slowly pauses only
//! itself. Nothing here opens a socket, and no failure in here ends the process: a model that cannot
//! load answers its error to each request.
//!
//! A sequence's tokens do not depend on its neighbours: every op of a step treats rows alone, so a seeded
//! request repeats bit by bit whatever else runs.

pub mod catalogue;
pub mod testing;

mod adapter;
mod answer;
mod backend;
mod batch;
mod config;
mod embed;
mod engine;
mod error;
mod front;
mod kv;
mod model;
mod outbox;
mod perplexity;
mod prompt;
mod request;
mod sample;
mod scheduler;
mod seat;
mod sequence;
mod stats;
mod step;
mod tools;
mod weights;

pub use adapter::{
    AdapterError, AdapterFiles, AdapterHash, AdapterLimits, AdapterRef, AdapterSource,
    AdapterSummary, merge_adapter,
};
pub use catalogue::CatalogueEntry;
pub use config::{BackendKind, EngineConfig, KvDtype};
pub use embed::{
    EmbedRequest, Embeddings, EncoderEntry, EncoderTask, Pooling, Ranking, RerankRequest, encoders,
};
pub use engine::{Engine, EngineHandle, ModelInfo};
pub use error::EngineError;
pub use perplexity::{Perplexity, perplexity};
pub use request::{
    GenerateRequest, Generation, Message, OutputFormat, Priority, Prompt, SamplingParams,
    StopReason, TokenEvent, TokenLogprob, Tool, ToolCall, ToolChoice,
};
pub use stats::Stats;
