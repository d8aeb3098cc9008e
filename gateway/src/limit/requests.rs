//! A gateway's request limit: so many requests in a window of time, counted exactly.
//!
//! - `fixed` windows are aligned to the Unix clock: 10 minutes means 12:00 to 12:10.
//! - `sliding` means never more than the limit in any trailing interval. It remembers the time of
//!   each request that counted, at most `limit` of them (8 bytes each; the configuration bounds it).
//!
//! One short lock for each gateway. Counters exist for gateways with a limit, so there are no more
//! than the configuration names; [`RequestWindows::retain`] drops those it no longer does.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use super::{GatewayKey, RetryAfter};
use crate::config::{Gateway, RateLimit, Technique};

/// Counters of this process.
#[derive(Default)]
pub struct RequestWindows {
    windows: RwLock<HashMap<GatewayKey, Arc<Mutex<Window>>>>,
}

/// A request that was counted. Dropping it keeps the count.
#[derive(Debug)]
#[must_use = "holds what is needed to give the request back"]
pub struct Taken {
    window: Option<(Arc<Mutex<Window>>, i64)>,
}

impl RequestWindows {
    /// Counts one request of this gateway at `now_us` (Unix time, microseconds), or says when there
    /// will be room again. A gateway without a limit always has room.
    pub fn take(&self, gateway: &Gateway, now_us: i64) -> Result<Taken, RetryAfter> {
        let Some(limit) = gateway.rate_limit() else {
            return Ok(Taken { window: None });
        };
        let window = self.window(gateway);
        let stamp_us = lock(&window).take(limit, now_us)?;
        Ok(Taken {
            window: Some((window, stamp_us)),
        })
    }

    /// Counts a request that was let through elsewhere, without asking whether there is room.
    pub(super) fn note(&self, gateway: &Gateway, now_us: i64) {
        if let Some(limit) = gateway.rate_limit() {
            lock(&self.window(gateway)).note(limit, now_us);
        }
    }

    /// Forgets counters of gateways for which `is_kept` says no, after a reload.
    pub fn retain(&self, is_kept: impl Fn(&str, &str) -> bool) {
        let mut windows = self.windows.write().unwrap_or_else(PoisonError::into_inner);
        windows.retain(|key, _| is_kept(&key.account, &key.gateway));
    }

    fn window(&self, gateway: &Gateway) -> Arc<Mutex<Window>> {
        let key = GatewayKey::of(gateway);
        let known = self.windows.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(window) = known.get(&key) {
            return window.clone();
        }
        drop(known);
        let mut windows = self.windows.write().unwrap_or_else(PoisonError::into_inner);
        windows.entry(key).or_default().clone()
    }
}

impl Taken {
    /// Uncounts the request: it never reached a provider.
    pub fn give_back(self) {
        if let Some((window, stamp_us)) = self.window {
            lock(&window).give_back(stamp_us);
        }
    }
}

fn lock(window: &Mutex<Window>) -> MutexGuard<'_, Window> {
    window.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The counter of one gateway. A change of the technique or the interval starts it anew; a change
/// of the limit keeps the count.
#[derive(Debug, Default)]
struct Window {
    counter: Option<(Technique, Duration, Counter)>,
}

#[derive(Debug)]
enum Counter {
    Fixed {
        start_us: i64,
        count: u64,
    },
    /// Oldest first.
    Sliding {
        stamps_us: VecDeque<i64>,
    },
}

impl Window {
    fn take(&mut self, limit: RateLimit, mut now_us: i64) -> Result<i64, RetryAfter> {
        let is_same = matches!(&self.counter, Some((technique, interval, _))
            if (*technique, *interval) == (limit.technique, limit.interval));
        if !is_same {
            let counter = match limit.technique {
                Technique::Fixed => Counter::Fixed {
                    start_us: i64::MIN,
                    count: 0,
                },
                Technique::Sliding => Counter::Sliding {
                    stamps_us: VecDeque::new(),
                },
            };
            self.counter = Some((limit.technique, limit.interval, counter));
        }
        let interval_us = limit.interval.as_micros() as i64;
        let (_, _, counter) = self.counter.as_mut().expect("it was set above");
        match counter {
            Counter::Fixed { start_us, count } => {
                let start_now_us = now_us - now_us.rem_euclid(interval_us);
                if is_new_time(start_now_us, *start_us, interval_us) {
                    (*start_us, *count) = (start_now_us, 0);
                }
                if *count >= limit.limit {
                    return Err(wait(*start_us + interval_us - now_us));
                }
                *count += 1;
                Ok(*start_us)
            }
            Counter::Sliding { stamps_us } => {
                if let Some(last) = stamps_us.back().copied()
                    && now_us < last
                {
                    if is_new_time(now_us, last, interval_us) {
                        stamps_us.clear();
                    } else {
                        now_us = last;
                    }
                }
                while stamps_us
                    .front()
                    .is_some_and(|oldest| now_us - oldest >= interval_us)
                {
                    stamps_us.pop_front();
                }
                let taken = stamps_us.len() as u64;
                if taken >= limit.limit {
                    // Room comes when so many have left that one fits; more than one has to leave
                    // when the limit was lowered.
                    let leaves_us = stamps_us[(taken - limit.limit) as usize];
                    return Err(wait(leaves_us + interval_us - now_us));
                }
                stamps_us.push_back(now_us);
                Ok(now_us)
            }
        }
    }

    /// A count may pass the limit here (another instance's clock), a list of times may not.
    fn note(&mut self, limit: RateLimit, now_us: i64) {
        if self.take(limit, now_us).is_ok() {
            return;
        }
        match &mut self.counter {
            Some((_, _, Counter::Fixed { count, .. })) => *count += 1,
            Some((_, _, Counter::Sliding { stamps_us })) => {
                let newest_us = stamps_us.back().map_or(now_us, |last| now_us.max(*last));
                stamps_us.pop_front();
                stamps_us.push_back(newest_us);
            }
            None => {}
        }
    }

    fn give_back(&mut self, stamp_us: i64) {
        match &mut self.counter {
            Some((_, _, Counter::Fixed { start_us, count })) if *start_us == stamp_us => {
                *count = count.saturating_sub(1);
            }
            Some((_, _, Counter::Sliding { stamps_us })) => {
                if let Ok(index) = stamps_us.binary_search(&stamp_us) {
                    stamps_us.remove(index);
                }
            }
            _ => {}
        }
    }
}

/// Whether a count made at `then_us` says nothing about `now_us`. Callers read the clock before they
/// get the lock, and clocks step back a little: that must not open a full window again. A clock that
/// stepped back further than the window was wrong before, and must not close the gateway until then.
fn is_new_time(now_us: i64, then_us: i64, interval_us: i64) -> bool {
    now_us > then_us || then_us.saturating_sub(now_us) > interval_us
}

fn wait(us: i64) -> RetryAfter {
    RetryAfter(Duration::from_micros(us.max(0) as u64))
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

    use super::*;
    use crate::config::Timeouts;

    const SECOND_US: i64 = 1_000_000;
    /// A round minute.
    const NOON_US: i64 = 1_800_000_000 * SECOND_US;

    fn gateway(technique: Technique, limit: u64, interval_s: u64) -> Gateway {
        Gateway {
            rate_limiting_interval: Duration::from_secs(interval_s),
            rate_limiting_limit: limit,
            rate_limiting_technique: technique,
            ..Gateway::unconfigured("acct", "gw", &Timeouts::default())
        }
    }

    fn passes(windows: &RequestWindows, gateway: &Gateway, at_us: i64) -> bool {
        windows.take(gateway, at_us).is_ok()
    }

    #[test]
    fn fixed_windows_follow_the_clock() {
        let windows = RequestWindows::default();
        let gateway = gateway(Technique::Fixed, 2, 60);
        let at = |seconds: i64| NOON_US + seconds * SECOND_US;
        assert!(passes(&windows, &gateway, at(50)) && passes(&windows, &gateway, at(59)));
        let refused = windows.take(&gateway, at(59)).unwrap_err();
        assert_eq!(refused, RetryAfter(Duration::from_secs(1)));
        assert!(passes(&windows, &gateway, at(60)) && passes(&windows, &gateway, at(61)));
        assert!(!passes(&windows, &gateway, at(119)));
        assert!(
            !passes(&windows, &gateway, at(30)),
            "a clock that steps back opens nothing"
        );
        assert!(passes(&windows, &gateway, at(120)));
    }

    #[test]
    fn a_clock_that_was_far_ahead_does_not_close_the_gateway() {
        for technique in [Technique::Fixed, Technique::Sliding] {
            let windows = RequestWindows::default();
            let gateway = gateway(technique, 1, 60);
            assert!(passes(&windows, &gateway, NOON_US + 86_400 * SECOND_US));
            assert!(passes(&windows, &gateway, NOON_US), "{technique:?}");
            assert!(!passes(&windows, &gateway, NOON_US + 1), "{technique:?}");
        }
    }

    #[test]
    fn sliding_windows_hold_in_every_trailing_interval() {
        let windows = RequestWindows::default();
        let gateway = gateway(Technique::Sliding, 5, 10);
        let interval_us = 10 * SECOND_US;
        let mut passed: Vec<i64> = Vec::new();
        let mut now_us = NOON_US;
        let mut seed = 7u64;
        for _ in 0..5_000 {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            now_us += (seed >> 33) as i64 % (2 * SECOND_US);
            let trailing = passed
                .iter()
                .filter(|stamp| now_us - **stamp < interval_us)
                .count();
            match windows.take(&gateway, now_us) {
                Ok(_taken) => {
                    assert!(trailing < 5);
                    passed.push(now_us);
                }
                Err(RetryAfter(wait)) => {
                    assert_eq!(trailing, 5, "refused with room left");
                    let free_us = now_us + wait.as_micros() as i64;
                    let then = passed
                        .iter()
                        .filter(|stamp| free_us - **stamp < interval_us)
                        .count();
                    assert_eq!(then, 4, "the wait told is the shortest that helps");
                }
            }
        }
        assert!(passed.len() > 1_000);
    }

    #[test]
    fn exactly_the_limit_passes_among_64_callers() {
        for technique in [Technique::Fixed, Technique::Sliding] {
            for limit in [1, 63, 64, 1_000] {
                let windows = RequestWindows::default();
                let gateway = gateway(technique, limit, 60);
                let (passed, clock) = (AtomicUsize::new(0), AtomicI64::new(NOON_US));
                let start = Barrier::new(64);
                std::thread::scope(|scope| {
                    for _ in 0..64 {
                        scope.spawn(|| {
                            start.wait();
                            for _ in 0..50 {
                                let now_us = clock.fetch_add(1, Ordering::Relaxed);
                                if passes(&windows, &gateway, now_us) {
                                    passed.fetch_add(1, Ordering::Relaxed);
                                }
                            }
                        });
                    }
                });
                assert_eq!(passed.into_inner() as u64, limit, "{technique:?}");
            }
        }
    }

    #[test]
    fn a_request_given_back_makes_room() {
        for technique in [Technique::Fixed, Technique::Sliding] {
            let windows = RequestWindows::default();
            let gateway = gateway(technique, 2, 60);
            let first = windows.take(&gateway, NOON_US).unwrap();
            let _second = windows.take(&gateway, NOON_US + 1).unwrap();
            assert!(!passes(&windows, &gateway, NOON_US + 2));
            first.give_back();
            let third = windows.take(&gateway, NOON_US + 3).unwrap();
            assert!(!passes(&windows, &gateway, NOON_US + 4));
            // Given back after its window: the new window is not touched.
            let later_us = NOON_US + 60 * SECOND_US + 10;
            assert!(passes(&windows, &gateway, later_us) && passes(&windows, &gateway, later_us));
            third.give_back();
            assert!(!passes(&windows, &gateway, later_us));
        }
    }

    #[test]
    fn gateways_are_counted_apart_and_settings_may_change() {
        let windows = RequestWindows::default();
        let one = gateway(Technique::Fixed, 1, 60);
        let other = Gateway {
            id: "other".into(),
            ..one.clone()
        };
        assert!(passes(&windows, &one, NOON_US) && passes(&windows, &other, NOON_US));
        let raised = Gateway {
            rate_limiting_limit: 2,
            ..one.clone()
        };
        assert!(passes(&windows, &raised, NOON_US));
        assert!(
            !passes(&windows, &raised, NOON_US),
            "the count outlives a new limit"
        );
        let open = Gateway {
            rate_limiting_limit: 0,
            ..one.clone()
        };
        assert!((0..10).all(|_| passes(&windows, &open, NOON_US)));
        windows.retain(|_, gateway| gateway != "gw");
        assert!(passes(&windows, &one, NOON_US));
    }
}
