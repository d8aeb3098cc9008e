//! What a reply has told so far, whatever its dialect. Readers write here; [`super::ReplyReader`] turns it into
//! a [`super::Reading`] at the end.

use crate::{Dialect, Failure, FailureClass, Usage};

use super::lenient::Text;

/// Longest name, id or finish reason kept; a longer one is cut.
const MAX_WORD_BYTES: usize = 256;
/// Longest usage object kept in the provider's words; a longer one is left out, its numbers are still read.
const MAX_USAGE_RAW_BYTES: usize = 16 << 10;

/// How far a reply has come, for deciding whether another try is still possible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    #[default]
    NothingYet,
    StartOnly,
    Content,
    Error,
}

#[derive(Debug)]
pub(super) struct Notes {
    pub dialect: Dialect,
    pub usage: Option<Usage>,
    pub usage_raw: String,
    pub model: Option<String>,
    pub response_id: Option<String>,
    pub finish: Option<String>,
    pub failure: Option<Failure>,
    /// A failure seen before the document that tells it was over.
    pub early_failure: Option<Failure>,
    pub stage: Stage,
    pub malformed_events: u64,
    pub events: u64,
    pub text_bytes: u64,
    is_whole: bool,
    is_failed: bool,
    /// The numbers are the provider's last, whatever became of the rest.
    is_usage_final: bool,
}

impl Notes {
    pub fn new(dialect: Dialect) -> Notes {
        Notes {
            dialect,
            usage: None,
            usage_raw: String::new(),
            model: None,
            response_id: None,
            finish: None,
            failure: None,
            early_failure: None,
            stage: Stage::NothingYet,
            malformed_events: 0,
            events: 0,
            text_bytes: 0,
            is_whole: false,
            is_failed: false,
            is_usage_final: false,
        }
    }

    /// The first non-empty one stays: some senders leave it empty on events of their own making.
    pub fn model(&mut self, model: &Text<'_>) {
        keep_first(&mut self.model, model.get());
    }

    pub fn response_id(&mut self, id: &Text<'_>) {
        keep_first(&mut self.response_id, id.get());
    }

    pub fn usage_raw(&mut self, raw: &str) {
        self.usage_raw.clear();
        if raw.len() <= MAX_USAGE_RAW_BYTES {
            self.usage_raw.push_str(raw);
        }
    }

    /// The last reason wins: a late content filter overrides an earlier `stop`.
    pub fn finish(&mut self, reason: &Text<'_>) {
        let Some(reason) = reason.get() else { return };
        self.finish = Some(cut(reason).to_owned());
        let class = match reason {
            "content_filter"
            | "refusal"
            | "SAFETY"
            | "RECITATION"
            | "BLOCKLIST"
            | "PROHIBITED_CONTENT"
            | "SPII"
            | "MODEL_ARMOR"
            | "JAILBREAK"
            | "IMAGE_SAFETY"
            | "IMAGE_PROHIBITED_CONTENT"
            | "IMAGE_RECITATION"
            | "guardrail_intervened"
            | "content_filtered"
            | "ERROR_TOXIC" => FailureClass::ContentPolicy,
            "model_context_window_exceeded" => FailureClass::ContextTooLong,
            "insufficient_system_resource" => {
                return self.fail_with(FailureClass::Overloaded, reason);
            }
            "error" | "ERROR" | "TIMEOUT" | "ERROR_LIMIT" => {
                return self.fail_with(FailureClass::Server, reason);
            }
            _ => return self.stage_content(),
        };
        self.refuse(class, reason);
    }

    /// An event that carries nothing a caller could read.
    pub fn stage_start(&mut self) {
        if self.stage == Stage::NothingYet {
            self.stage = Stage::StartOnly;
        }
    }

    pub fn stage_content(&mut self) {
        if self.stage != Stage::Error {
            self.stage = Stage::Content;
        }
    }

    /// A document that is an error as far as it has come.
    pub fn stage_early_error(&mut self, body: &[u8]) {
        self.stage = Stage::Error;
        self.early_failure = Some(Failure::from_error_json(self.dialect, 200, body));
    }

    /// Text that went out to the caller, in decoded bytes. No text is no content.
    pub fn text(&mut self, bytes: u64) {
        if bytes > 0 {
            self.text_bytes += bytes;
            self.stage_content();
        } else {
            self.stage_start();
        }
    }

    /// The reply says that it failed. The first word on why is the best one.
    pub fn fail(&mut self, failure: Failure) {
        self.is_failed = true;
        if self.stage != Stage::Content {
            self.stage = Stage::Error;
        }
        self.failure.get_or_insert(failure);
    }

    /// The reply that `event` is part of failed, and `event` is the error's own JSON.
    pub fn fail_by(&mut self, event: &[u8]) {
        self.fail(Failure::from_error_json(self.dialect, 200, event));
    }

    pub fn fail_with(&mut self, class: FailureClass, reason: &str) {
        self.fail(Failure {
            class,
            retry_after: None,
            message: format!("the reply finished with `{}`", cut(reason)),
        });
    }

    /// The provider ended the reply in good order, but not with an answer.
    pub fn refuse(&mut self, class: FailureClass, reason: &str) {
        self.stage_content();
        self.failure.get_or_insert_with(|| Failure {
            class,
            retry_after: None,
            message: format!("the reply finished with `{}`", cut(reason)),
        });
    }

    /// The dialect's proof of the end came.
    pub fn whole(&mut self) {
        self.is_whole = true;
        self.stage_content();
    }

    /// The proof that came was not the last one needed.
    pub fn not_whole(&mut self) {
        self.is_whole = false;
    }

    pub fn is_whole(&self) -> bool {
        self.is_whole && !self.is_failed
    }

    pub fn usage_is_final(&mut self) {
        self.is_usage_final = true;
    }

    pub fn is_usage_final(&self) -> bool {
        self.is_usage_final || self.is_whole()
    }

    /// Something that is not in the dialect at all; the caller got it, so it is content.
    pub fn malformed(&mut self) {
        self.malformed_events += 1;
        self.stage_content();
    }
}

fn keep_first(slot: &mut Option<String>, word: Option<&str>) {
    if let (None, Some(word)) = (&slot, word) {
        *slot = Some(cut(word).to_owned());
    }
}

fn cut(word: &str) -> &str {
    &word[..word.floor_char_boundary(MAX_WORD_BYTES)]
}
