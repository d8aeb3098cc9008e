//! From tokens to what the reader is told: bytes, whole characters, stop strings, tool calls, events.
//!
//! ```text
//! token -> detokenizer -> stop strings -> tool reader (where there are tools) -> outbox
//! ```

use crate::error::EngineError;
use crate::outbox::Outbox;
use crate::prompt::detokenizer::Detokenizer;
use crate::prompt::stop::StopMatcher;
use crate::prompt::tokenizer::Tokenizer;
use crate::request::{StopReason, TokenEvent, TokenLogprob};
use crate::tools::{Markers, ToolFormat, ToolPiece, ToolReader, call_id};
use std::sync::Arc;

/// One choice's text on its way out.
pub(crate) struct Answer {
    choice: u32,
    detokenizer: Detokenizer,
    stop: StopMatcher,
    calls: Option<Calls>,
    /// Of tokens whose text has not been sent yet.
    logprobs: Vec<TokenLogprob>,
    outbox: Outbox,
}

/// Where an answer may hold tool calls.
pub(crate) struct Calls {
    reader: ToolReader,
    format: ToolFormat,
    markers: Arc<Markers>,
    /// A call has begun and not ended.
    is_open: bool,
    pieces: Vec<ToolPiece>,
}

impl Calls {
    pub(crate) fn new(reader: ToolReader, format: ToolFormat, markers: Arc<Markers>) -> Calls {
        Calls {
            reader,
            format,
            markers,
            is_open: false,
            pieces: Vec::new(),
        }
    }
}

impl Answer {
    pub(crate) fn new(
        choice: u32,
        detokenizer: Detokenizer,
        stop: &[String],
        calls: Option<Calls>,
        outbox: Outbox,
    ) -> Answer {
        Answer {
            choice,
            detokenizer,
            stop: StopMatcher::new(stop),
            calls,
            logprobs: Vec::new(),
            outbox,
        }
    }

    pub(crate) fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.outbox.is_abandoned()
    }

    /// Says what `token` writes; true when a stop string was met.
    pub(crate) fn say(
        &mut self,
        token: u32,
        logprob: Option<TokenLogprob>,
        tokenizer: &Tokenizer,
    ) -> bool {
        self.logprobs.extend(logprob);
        // A marker that is a control token writes nothing of its own; the reader of calls wants to see it.
        let marker = self
            .calls
            .as_ref()
            .and_then(|calls| calls.markers.text(token));
        let bytes = marker.map_or_else(|| tokenizer.token_bytes(token), str::as_bytes);
        let mut text = String::new();
        self.detokenizer.push(bytes, &mut text);
        let (text, is_stopped) = self.stop.push(&text);
        self.tell(&text);
        is_stopped
    }

    /// The end. `reason` as the tokens have it: a stop string in what was held back, and calls, change it.
    pub(crate) fn end(&mut self, reason: StopReason, completion_tokens: u32, cached_tokens: u32) {
        let mut rest = String::new();
        self.detokenizer.finish(&mut rest);
        let (rest, is_stopped) = self.stop.push(&rest);
        self.tell(&rest);
        let held = match is_stopped {
            true => String::new(),
            false => self.stop.finish(),
        };
        self.tell(&held);
        let stop = match is_stopped {
            true => StopReason::Stop,
            false => reason,
        };
        self.finish(stop, completion_tokens, cached_tokens);
    }

    /// The end at a stop string: what was held back is dropped with it.
    pub(crate) fn end_at_stop(&mut self, completion_tokens: u32, cached_tokens: u32) {
        self.finish(StopReason::Stop, completion_tokens, cached_tokens);
    }

    pub(crate) fn fail(&mut self, error: EngineError) {
        self.outbox.send(TokenEvent::Failed(error));
    }

    fn finish(&mut self, stop: StopReason, completion_tokens: u32, cached_tokens: u32) {
        let mut reason = stop;
        if let Some(mut calls) = self.calls.take() {
            let was_cut = calls.is_open && stop == StopReason::Length;
            calls.reader.finish(&mut calls.pieces);
            self.tell_pieces(&mut calls);
            if calls.reader.calls() > 0 && !was_cut {
                reason = StopReason::ToolCalls;
            }
        }
        // Of tokens that wrote nothing, or nothing yet.
        if !self.logprobs.is_empty() {
            self.send_text(String::new());
        }
        self.outbox.send(TokenEvent::Done {
            choice: self.choice,
            stop: reason,
            completion_tokens,
            cached_tokens,
        });
    }

    fn tell(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        match self.calls.take() {
            None => self.send_text(text.to_owned()),
            Some(mut calls) => {
                calls.reader.push(text, &mut calls.pieces);
                self.tell_pieces(&mut calls);
                self.calls = Some(calls);
            }
        }
    }

    fn tell_pieces(&mut self, calls: &mut Calls) {
        let choice = self.choice;
        for piece in calls.pieces.drain(..) {
            match piece {
                ToolPiece::Text(text) => self.send_text(text),
                ToolPiece::CallStart { index, name } => {
                    calls.is_open = true;
                    let id = call_id(calls.format);
                    self.outbox.send(TokenEvent::ToolCallStart {
                        choice,
                        index,
                        id,
                        name,
                    });
                }
                ToolPiece::Arguments { index, text } => {
                    self.outbox.send(TokenEvent::ToolCallArguments {
                        choice,
                        index,
                        text,
                    });
                }
                ToolPiece::CallEnd { .. } => calls.is_open = false,
            }
        }
    }

    fn send_text(&mut self, text: String) {
        let logprobs = std::mem::take(&mut self.logprobs);
        self.outbox.send(TokenEvent::Text {
            choice: self.choice,
            text,
            logprobs,
        });
    }
}
