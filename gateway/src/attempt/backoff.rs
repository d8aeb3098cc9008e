//! How long to wait before trying the same target again. Pure.

use std::time::Duration;

use crate::config::Backoff;

/// Longest wait that a provider may ask of us before we go on to the next step instead.
pub const MAX_OBEYED_RETRY_AFTER: Duration = Duration::from_secs(30);
/// Longest wait of our own making.
const MAX_DELAY: Duration = Duration::from_secs(60);

/// The wait after the `failures`-th failure (from 1): the delay, its multiple, or doubled each time.
pub fn wait(backoff: Backoff, delay: Duration, failures: u32) -> Duration {
    let failures = failures.max(1);
    let wait = match backoff {
        Backoff::Constant => delay,
        Backoff::Linear => delay.saturating_mul(failures),
        Backoff::Exponential => {
            delay.saturating_mul(1u32.checked_shl(failures - 1).unwrap_or(u32::MAX))
        }
    };
    wait.min(MAX_DELAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shape_grows_as_its_name_says() {
        let delay = Duration::from_millis(100);
        let waits = |backoff| {
            (1..=4)
                .map(|n| wait(backoff, delay, n).as_millis())
                .collect::<Vec<_>>()
        };
        assert_eq!(waits(Backoff::Constant), [100, 100, 100, 100]);
        assert_eq!(waits(Backoff::Linear), [100, 200, 300, 400]);
        assert_eq!(waits(Backoff::Exponential), [100, 200, 400, 800]);
        assert_eq!(
            wait(Backoff::Exponential, Duration::from_secs(5), 40),
            MAX_DELAY
        );
    }
}
