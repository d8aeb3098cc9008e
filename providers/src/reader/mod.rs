//! Listens to a reply while the gateway passes it on untouched: which model answered, what it used, why it
//! stopped, whether it is whole, and what went wrong inside a success.
//!
//! ```text
//! bytes ─► inflate ─► framing (sse, eventstream, jsonlines, …) ─► shape (one per dialect) ─► Notes ─► Reading
//! ```
//! A reader never fails and never holds more than one event or document (16 MiB). Past that, or after damage it
//! cannot step over, it stops understanding: no usage, ending [`Ending::Unknown`]. The bytes themselves go on.
//!
//! Shapes: [`chat`] for OpenAI's format and its many speakers, [`responses`], [`anthropic`], [`gemini`],
//! [`bedrock`], [`cohere`], [`hosted`] for servers of open models, [`media`] for everything that is not text.
//! [`lenient`] holds the field types they parse into, [`scan`] the glance that spares most parsing.

mod anthropic;
mod bedrock;
mod body;
mod chat;
mod cohere;
mod gemini;
mod headers;
mod hosted;
mod inflate;
mod lenient;
mod media;
mod notes;
mod openai_usage;
mod responses;
mod scan;
mod shape;

use std::fmt;
use std::time::Duration;

use crate::{Dialect, Failure, Usage, UsageSource, classify};

use body::Body;
use headers::HeaderFacts;
use inflate::Inflate;
use notes::{Notes, Stage};
use shape::Shape;

/// The head of a reply, as far as reading the rest needs it. Header names are asked for in lower case.
pub struct ReplyHead<'a> {
    pub status: u16,
    pub content_type: Option<&'a str>,
    pub content_encoding: Option<&'a str>,
    pub header: &'a dyn Fn(&str) -> Option<String>,
}

/// How a body is cut into events, and so what may be written behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Framing {
    Sse,
    Json,
    /// One array that grows while it is sent.
    JsonArray,
    JsonLines,
    EventStream,
    /// Bytes without events, and bodies in a content encoding: nothing can be written behind them.
    Binary,
}

/// How far a reply has come, for first-event inspection.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    NothingYet,
    /// Events that carry nothing yet: another try would not show.
    StartOnly,
    Content,
    /// The provider reported a failure before any content.
    Error(Failure),
}

/// How a reply ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// The dialect's own proof of the end came, and no failure.
    Whole,
    /// Ended in good order without that proof, or with a failure in the body, or past understanding.
    Unknown,
    /// The transport broke before any proof came.
    Cut,
}

impl Ending {
    pub fn as_str(self) -> &'static str {
        match self {
            Ending::Whole => "whole",
            Ending::Unknown => "unknown",
            Ending::Cut => "cut",
        }
    }
}

/// Everything a reply told.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// `None` when the provider did not say, which is never zero.
    pub usage: Option<Usage>,
    /// The usage in the provider's own JSON, the last object of it.
    pub usage_raw: Option<String>,
    pub model: Option<String>,
    pub response_id: Option<String>,
    /// The provider's word for why it stopped.
    pub finish: Option<String>,
    pub ending: Ending,
    /// A failure told by the body. `ContentPolicy` and `ContextTooLong` beside `Ending::Whole` are answers in
    /// good order that a caller will not like.
    pub failure: Option<Failure>,
    /// Events, lines and documents that are not in the dialect.
    pub malformed_events: u64,
    pub events: u64,
    /// Decoded text the caller was sent, for estimates where usage is missing.
    pub delivered_text_bytes: u64,
}

/// Reads one reply. See the module's page.
pub struct ReplyReader {
    dialect: Dialect,
    inflate: Option<Inflate>,
    body: Body,
    shape: Shape,
    notes: Notes,
    facts: HeaderFacts,
    refusal: Option<Refusal>,
}

/// What the head of an error status told, for classing it with the body.
struct Refusal {
    status: u16,
    retry_after: Option<Duration>,
    amazon_type: Option<String>,
}

impl ReplyReader {
    /// `streamed_request`: the caller asked for a stream. What came back is told by the reply itself.
    pub fn new(dialect: Dialect, streamed_request: bool, head: &ReplyHead<'_>) -> ReplyReader {
        let refusal = (head.status >= 400).then(|| Refusal {
            status: head.status,
            retry_after: classify(dialect, head.status, head.header, b"")
                .and_then(|failure| failure.retry_after),
            amazon_type: (head.header)("x-amzn-errortype"),
        });
        let body = if refusal.is_some() {
            Body::Refusal(Vec::new())
        } else {
            Body::of_head(dialect, streamed_request, head.content_type)
        };
        ReplyReader {
            dialect,
            inflate: Inflate::new(head.content_encoding),
            body,
            shape: Shape::of(dialect),
            notes: Notes::new(dialect),
            facts: HeaderFacts::read(dialect, head),
            refusal,
        }
    }

    /// Takes the next bytes, in any cut.
    pub fn push(&mut self, bytes: &[u8]) {
        let ReplyReader {
            inflate,
            body,
            shape,
            notes,
            ..
        } = self;
        match inflate {
            None => body.push(bytes, shape, notes),
            Some(inflate) => {
                if !inflate.push(bytes, &mut |plain| body.push(plain, shape, notes)) {
                    body.stop();
                    notes.malformed();
                }
            }
        }
    }

    /// How far the reply has come.
    pub fn progress(&self) -> Progress {
        match self.notes.stage {
            Stage::NothingYet => Progress::NothingYet,
            Stage::StartOnly => Progress::StartOnly,
            Stage::Content => Progress::Content,
            Stage::Error => {
                let failure = self.notes.failure.as_ref();
                let failure = failure.or(self.notes.early_failure.as_ref());
                failure.cloned().map_or(Progress::Content, Progress::Error)
            }
        }
    }

    /// Events, lines or frames seen.
    pub fn events(&self) -> u64 {
        self.notes.events
    }

    /// Whether the caller holds bytes of an event that has not ended.
    pub fn in_mid_event(&self) -> bool {
        self.body.is_mid_event()
    }

    /// Whether the proof of the end has come: whatever follows is not read by the caller.
    pub fn is_whole(&self) -> bool {
        self.notes.is_whole()
    }

    /// What may be written behind the bytes so far.
    pub fn framing(&self) -> Framing {
        if self.inflate.is_some() {
            return Framing::Binary;
        }
        self.body.framing()
    }

    /// The body is over. `clean_end`: its framing was met; false after a reset, a timeout, or a client that left.
    pub fn finish(mut self, clean_end: bool) -> Reading {
        let is_understood = self
            .body
            .finish(&mut self.shape, &mut self.notes, clean_end);
        self.shape.settle(&mut self.notes);
        let notes = self.notes;
        let is_whole = is_understood && notes.is_whole();
        let ending = match (is_whole, clean_end) {
            (true, _) => Ending::Whole,
            (false, true) => Ending::Unknown,
            (false, false) => Ending::Cut,
        };
        let is_final = notes.is_usage_final();
        let told = notes.usage.filter(|_| is_understood);
        let is_told = told.is_some();
        let response_id = notes.response_id.or(self.facts.response_id.take());
        let model = notes.model.or(self.facts.model.take());
        let mut usage = self.facts.join(self.dialect, told);
        if let Some(usage) = &mut usage {
            match usage.source {
                _ if !is_told => usage.source = UsageSource::Header,
                UsageSource::Final if !is_final => usage.source = UsageSource::Partial,
                _ => {}
            }
        }
        let refused = match (&self.refusal, &self.body) {
            (Some(refusal), Body::Refusal(body)) => refusal.failure(self.dialect, body),
            _ => None,
        };
        Reading {
            usage,
            usage_raw: Some(notes.usage_raw).filter(|raw| is_told && !raw.is_empty()),
            model,
            response_id,
            finish: notes.finish,
            ending,
            failure: notes.failure.or(refused),
            malformed_events: notes.malformed_events,
            events: notes.events,
            delivered_text_bytes: notes.text_bytes,
        }
    }
}

impl Refusal {
    fn failure(&self, dialect: Dialect, body: &[u8]) -> Option<Failure> {
        let header = |name: &str| match name {
            "x-amzn-errortype" => self.amazon_type.clone(),
            _ => None,
        };
        let mut failure = classify(dialect, self.status, &header, body)?;
        failure.retry_after = self.retry_after.or(failure.retry_after);
        Some(failure)
    }
}

impl fmt::Debug for ReplyReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplyReader")
            .field("dialect", &self.dialect)
            .field("framing", &self.framing())
            .field("notes", &self.notes)
            .finish_non_exhaustive()
    }
}
