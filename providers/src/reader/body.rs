//! Which framing a body has, and its bytes through that framing into a shape. The declared type is a hint; the
//! first byte that means anything decides, since errors come as JSON under a stream's type and the reverse.

use serde::Deserialize;

use crate::eventstream;
use crate::jsonlines::{Elements, Lines};
use crate::{Dialect, Failure, sse};

use super::Framing;
use super::lenient::Raw;
use super::notes::{Notes, Stage};
use super::shape::Shape;

/// JSON body bytes kept for the end. A longer body is passed on without being understood.
const MAX_JSON_BYTES: usize = 16 << 20;
/// How much of an error answer is kept to class it by; the rest tells nothing more.
const MAX_REFUSAL_BYTES: usize = 64 << 10;
/// A body that begins with an error is read early while it is this small: errors are. The bound also limits how
/// much a sender can make us read again by sending single bytes.
const MAX_EARLY_BYTES: usize = 8 << 10;

#[derive(Debug)]
pub(super) enum Body {
    /// No byte that decides has come.
    Undecided {
        declared: Framing,
        /// Text that is neither JSON nor events is data of its own.
        may_be_text: bool,
        dialect: Dialect,
        is_stream_wanted: bool,
    },
    Sse(sse::Decoder),
    Json(Vec<u8>),
    JsonArray(Elements),
    JsonLines(Lines),
    EventStream(eventstream::Decoder),
    Binary,
    /// An answer with an error status: the beginning is kept to class it.
    Refusal(Vec<u8>),
    /// Past understanding.
    Stopped(Framing),
}

impl Body {
    pub fn of_head(dialect: Dialect, is_stream_wanted: bool, content_type: Option<&str>) -> Body {
        let essence = content_type.unwrap_or_default();
        let essence = essence.split(';').next().unwrap_or_default();
        let essence = essence.trim().to_ascii_lowercase();
        let undecided = |declared, may_be_text| Body::Undecided {
            declared,
            may_be_text,
            dialect,
            is_stream_wanted,
        };
        if dialect == Dialect::Opaque {
            return Body::Binary;
        }
        match essence.as_str() {
            "application/vnd.amazon.eventstream" => {
                Body::EventStream(eventstream::Decoder::default())
            }
            "text/event-stream" => undecided(Framing::Sse, false),
            "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/x-jsonlines"
            | "application/stream+json" => Body::JsonLines(Lines::default()),
            json if json.ends_with("/json") || json.ends_with("+json") => {
                undecided(Framing::Json, false)
            }
            "" | "text/plain" => undecided(Framing::Binary, true),
            _ => Body::Binary,
        }
    }

    pub fn framing(&self) -> Framing {
        match self {
            Body::Undecided { declared, .. } => *declared,
            Body::Sse(_) => Framing::Sse,
            Body::Json(_) => Framing::Json,
            Body::JsonArray(_) => Framing::JsonArray,
            Body::JsonLines(_) => Framing::JsonLines,
            Body::EventStream(_) => Framing::EventStream,
            Body::Binary | Body::Refusal(_) => Framing::Binary,
            Body::Stopped(framing) => *framing,
        }
    }

    pub fn is_mid_event(&self) -> bool {
        match self {
            Body::Sse(decoder) => decoder.is_mid_event(),
            Body::Json(body) => !body.is_empty(),
            Body::JsonArray(elements) => elements.is_mid_element(),
            Body::JsonLines(lines) => lines.is_mid_line(),
            Body::EventStream(decoder) => decoder.is_mid_frame(),
            Body::Undecided { .. } | Body::Binary | Body::Refusal(_) => false,
            // Nobody knows; the careful answer.
            Body::Stopped(_) => true,
        }
    }

    pub fn push(&mut self, bytes: &[u8], shape: &mut Shape, notes: &mut Notes) {
        match self {
            Body::Undecided { .. } => {
                // Some providers send blank lines while a request waits; a byte order mark may lead.
                let is_blank =
                    |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, 0xef | 0xbb | 0xbf);
                let Some(start) = bytes.iter().position(|byte| !is_blank(byte)) else {
                    return;
                };
                self.decide(bytes[start]);
                self.push(&bytes[start..], shape, notes);
            }
            Body::Sse(decoder) => {
                decoder.push(bytes, &mut |event| {
                    shape.event(notes, event.name, event.data);
                });
                if decoder.is_stopped() {
                    self.stop();
                    notes.malformed();
                }
            }
            Body::Json(body) => {
                if body.len() + bytes.len() > MAX_JSON_BYTES {
                    self.stop();
                    notes.malformed();
                    return;
                }
                body.extend_from_slice(bytes);
                if matches!(notes.stage, Stage::NothingYet) {
                    look_early(body, notes);
                }
            }
            Body::JsonArray(elements) => {
                elements.push(bytes, &mut |element| shape.event(notes, b"", element));
                if elements.is_stopped() {
                    self.stop();
                    notes.malformed();
                }
            }
            Body::JsonLines(lines) => {
                lines.push(bytes, &mut |line| shape.event(notes, b"", line));
                if lines.is_stopped() {
                    self.stop();
                    notes.malformed();
                }
            }
            Body::EventStream(decoder) => {
                decoder.push(bytes, &mut |frame| shape.frame(notes, frame));
                if decoder.fault().is_some() {
                    self.stop();
                    notes.malformed();
                }
            }
            Body::Binary | Body::Stopped(_) => {
                if !bytes.is_empty() {
                    notes.stage_content();
                }
            }
            Body::Refusal(body) => {
                let room = MAX_REFUSAL_BYTES - body.len();
                body.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
        }
    }

    /// Nothing more is understood, and nothing more is kept.
    pub fn stop(&mut self) {
        *self = Body::Stopped(self.framing());
    }

    /// The body is over. False when it was not understood to its end.
    pub fn finish(&mut self, shape: &mut Shape, notes: &mut Notes, clean_end: bool) -> bool {
        match self {
            Body::Sse(decoder) => {
                let stray = decoder.stray_lines();
                notes.malformed_events += stray;
                // Bare JSON in the middle is how Gemini may report that it broke off.
                if stray > 0 && notes.dialect == Dialect::Gemini && !notes.is_whole() {
                    let text = "the stream holds text outside of any event";
                    notes.fail(Failure::in_band(notes.dialect, "", "", text));
                }
            }
            Body::Json(body) => {
                let malformed_events = notes.malformed_events;
                let is_answer = shape.document(notes, body.trim_ascii());
                if clean_end && is_answer {
                    notes.whole();
                }
                // A document that was cut is not the provider's bad JSON.
                if !clean_end {
                    notes.malformed_events = malformed_events;
                }
            }
            Body::JsonArray(elements) => {
                if !elements.is_closed() {
                    notes.not_whole();
                }
            }
            Body::JsonLines(lines) => {
                if clean_end {
                    lines.finish(&mut |line| shape.event(notes, b"", line));
                    // Timed speech has no last line of its own.
                    if notes.dialect == Dialect::Elevenlabs {
                        notes.whole();
                    }
                }
            }
            Body::EventStream(_) => {}
            Body::Binary | Body::Refusal(_) => {
                if clean_end {
                    notes.whole();
                }
            }
            Body::Undecided { declared, .. } => {
                if clean_end && *declared == Framing::Binary {
                    notes.whole();
                }
            }
            Body::Stopped(_) => return false,
        }
        true
    }

    fn decide(&mut self, first: u8) {
        let Body::Undecided {
            declared,
            may_be_text,
            dialect,
            is_stream_wanted,
        } = *self
        else {
            return;
        };
        // The first letters of the format's fields, and a comment; no JSON document begins so.
        let may_be_event = matches!(first, b'd' | b'e' | b'i' | b'r' | b':');
        let has_lines = matches!(
            dialect,
            Dialect::CohereV1 | Dialect::Ollama | Dialect::Elevenlabs
        );
        *self = match first {
            b'[' if dialect == Dialect::Gemini => Body::JsonArray(Elements::default()),
            b'{' if has_lines && is_stream_wanted => Body::JsonLines(Lines::default()),
            b'{' | b'[' => Body::Json(Vec::new()),
            _ if declared == Framing::Sse => Body::Sse(sse::Decoder::default()),
            _ if may_be_event && (is_stream_wanted || !may_be_text) => {
                Body::Sse(sse::Decoder::default())
            }
            _ if may_be_text => Body::Binary,
            _ => Body::Json(Vec::new()),
        };
    }
}

/// Tells a document that is an answer from one that is an error, before it is all there. What it finds is for
/// progress only; the reading waits for the whole document.
fn look_early(body: &[u8], notes: &mut Notes) {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Outcome<'a> {
        #[serde(borrow)]
        error: Raw<'a>,
    }
    const ERROR: &[u8] = b"\"error\"";
    let inside = body.strip_prefix(b"{").map(<[u8]>::trim_ascii_start);
    let may_be_error =
        inside.is_some_and(|inside| inside.starts_with(ERROR) || ERROR.starts_with(inside));
    if !may_be_error || body.len() > MAX_EARLY_BYTES {
        notes.stage_content();
        return;
    }
    if body.trim_ascii_end().ends_with(b"}")
        && let Ok(outcome) = serde_json::from_slice::<Outcome<'_>>(body)
    {
        if outcome.error.is_truthy() {
            notes.stage_early_error(body);
        } else {
            notes.stage_content();
        }
    }
}
