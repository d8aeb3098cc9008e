//! What to do about a failed try: the caller gets it, the same target again, or the next step. Pure.

use std::time::Duration;

use providers::{Failure, FailureClass};

use super::backoff::MAX_OBEYED_RETRY_AFTER;
use crate::error::Kind;

/// What is known about a try that did not answer well.
#[derive(Debug)]
pub struct Failed<'f> {
    /// The provider's status; `None` when it never answered.
    pub status: Option<u16>,
    pub error: Option<Kind>,
    pub failure: Option<&'f Failure>,
}

/// What remains to be tried.
#[derive(Debug, Clone, Copy)]
pub struct Remaining {
    pub attempts_here: u32,
    pub has_next_step: bool,
    /// A universal request moves on for any answer that is not a success.
    pub is_universal: bool,
    pub fallback_on_content_filter: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The caller gets this outcome.
    Stop,
    /// The same target again; the provider may have said when.
    Again(Option<Duration>),
    Next,
}

/// Statuses that another try may cure.
pub fn is_retryable(status: u16) -> bool {
    matches!(status, 408 | 409 | 425 | 429) || status >= 500
}

pub fn judge(failed: &Failed<'_>, remaining: Remaining) -> Verdict {
    let class = failed.failure.map(|failure| failure.class);
    if class == Some(FailureClass::ContentPolicy) && !remaining.fallback_on_content_filter {
        return Verdict::Stop;
    }
    let next_or_stop = if remaining.has_next_step {
        Verdict::Next
    } else {
        Verdict::Stop
    };
    let retryable = match (failed.error, failed.status) {
        // Silence is not tried again while somebody else may answer.
        (Some(Kind::UpstreamTimeout | Kind::FirstTokenTimeout), _) if remaining.has_next_step => {
            false
        }
        (Some(_), _) => true,
        (None, Some(status)) => is_retryable(status),
        (None, None) => true,
    };
    if !retryable {
        return if remaining.is_universal {
            next_or_stop
        } else {
            Verdict::Stop
        };
    }
    if class == Some(FailureClass::QuotaGone) {
        return next_or_stop;
    }
    let asked = failed.failure.and_then(|failure| failure.retry_after);
    match asked {
        _ if remaining.attempts_here == 0 => next_or_stop,
        Some(wait) if wait > MAX_OBEYED_RETRY_AFTER => next_or_stop,
        wait => Verdict::Again(wait),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MORE: Remaining = Remaining {
        attempts_here: 1,
        has_next_step: true,
        is_universal: true,
        fallback_on_content_filter: false,
    };

    fn status(status: u16, failure: Option<Failure>, remaining: Remaining) -> Verdict {
        judge(
            &Failed {
                status: Some(status),
                error: None,
                failure: failure.as_ref(),
            },
            remaining,
        )
    }

    fn failure(class: FailureClass, retry_after_s: Option<u64>) -> Option<Failure> {
        Some(Failure {
            class,
            retry_after: retry_after_s.map(Duration::from_secs),
            message: String::new(),
        })
    }

    #[test]
    fn a_server_error_is_tried_again_and_then_left() {
        assert_eq!(status(503, None, MORE), Verdict::Again(None));
        assert_eq!(
            status(
                503,
                None,
                Remaining {
                    attempts_here: 0,
                    ..MORE
                }
            ),
            Verdict::Next
        );
        assert_eq!(
            status(
                503,
                None,
                Remaining {
                    attempts_here: 0,
                    has_next_step: false,
                    ..MORE
                }
            ),
            Verdict::Stop
        );
    }

    #[test]
    fn retry_after_is_obeyed_up_to_thirty_seconds() {
        let asked = |seconds| status(429, failure(FailureClass::RateLimit, Some(seconds)), MORE);
        assert_eq!(asked(1), Verdict::Again(Some(Duration::from_secs(1))));
        assert_eq!(asked(31), Verdict::Next);
    }

    #[test]
    fn a_refusal_for_content_is_final_unless_the_gateway_says_otherwise() {
        let refused = failure(FailureClass::ContentPolicy, None);
        assert_eq!(status(400, refused.clone(), MORE), Verdict::Stop);
        assert_eq!(
            status(
                400,
                refused,
                Remaining {
                    fallback_on_content_filter: true,
                    ..MORE
                }
            ),
            Verdict::Next
        );
    }

    #[test]
    fn a_bad_request_moves_a_universal_request_on_and_ends_a_single_one() {
        assert_eq!(status(400, None, MORE), Verdict::Next);
        assert_eq!(
            status(
                400,
                None,
                Remaining {
                    is_universal: false,
                    has_next_step: false,
                    ..MORE
                }
            ),
            Verdict::Stop
        );
    }

    #[test]
    fn silence_is_not_repeated_while_another_step_waits() {
        let silent = Failed {
            status: None,
            error: Some(Kind::UpstreamTimeout),
            failure: None,
        };
        assert_eq!(judge(&silent, MORE), Verdict::Next);
        assert_eq!(
            judge(
                &silent,
                Remaining {
                    has_next_step: false,
                    ..MORE
                }
            ),
            Verdict::Again(None)
        );
    }

    #[test]
    fn an_empty_purse_is_not_tried_again() {
        assert_eq!(
            status(429, failure(FailureClass::QuotaGone, None), MORE),
            Verdict::Next
        );
    }
}
