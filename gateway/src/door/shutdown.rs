//! Leaving: stop accepting, let what is in flight finish, flush the records.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// Counts what is in flight, so that the end of the last request can be awaited.
#[derive(Debug, Default)]
pub struct Drain {
    in_flight: AtomicUsize,
    ended: Notify,
}

pub struct InFlight {
    drain: Arc<Drain>,
}

impl Drain {
    pub fn enter(self: &Arc<Drain>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight {
            drain: self.clone(),
        }
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Waits for the last request, at most `patience`. True when nothing was left behind.
    pub async fn wait(&self, patience: Duration) -> bool {
        let empty = async {
            loop {
                let ended = self.ended.notified();
                if self.in_flight() == 0 {
                    return;
                }
                ended.await;
            }
        };
        tokio::time::timeout(patience, empty).await.is_ok()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.drain.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.drain.ended.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_for_the_last_request_and_no_longer() {
        let drain = Arc::new(Drain::default());
        let first = drain.enter();
        assert!(!drain.wait(Duration::from_millis(1)).await);
        let waiting = tokio::spawn({
            let drain = drain.clone();
            async move { drain.wait(Duration::from_secs(30)).await }
        });
        tokio::task::yield_now().await;
        drop(first);
        assert!(waiting.await.expect("no panic"));
    }
}
