//! The request window of a gateway across all instances: counted in Redis by a script, which runs
//! alone and by the server's clock, so that exactly the limit passes however many instances ask.
//!
//! Without Redis each instance counts for itself. It has noted what it let through before, so losing
//! Redis in the middle of a window does not open the window anew here; several instances together
//! may then let through up to the limit each. Requests counted locally are not told to Redis later.

use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::redis::Script;

use super::requests::{RequestWindows, Taken};
use super::{GatewayKey, RetryAfter};
use crate::config::{Gateway, RateLimit, Technique};
use crate::redis::{Redis, Unavailable};

/// Largest number a script counts without loss: its numbers are doubles.
const MAX_SCRIPT_NUMBER: u64 = 1 << 53;

/// KEYS[1] a hash {start, count}; ARGV: interval in µs, limit. Returns {1, start} or {0, wait in µs}.
/// As in `requests.rs`, a clock that steps back a little does not open a window again.
static TAKE_FIXED: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local time = redis.call('TIME')
        local now = time[1] * 1000000 + time[2]
        local interval, limit = tonumber(ARGV[1]), tonumber(ARGV[2])
        local start, count = now - now % interval, 0
        local held = redis.call('HMGET', KEYS[1], 'start', 'count')
        if held[1] then
            local held_start = tonumber(held[1])
            if held_start >= start and held_start - start <= interval then
                start, count = held_start, tonumber(held[2])
            end
        end
        if count >= limit then return {0, start + interval - now} end
        redis.call('HSET', KEYS[1], 'start', string.format('%.0f', start), 'count', string.format('%.0f', count + 1))
        redis.call('PEXPIRE', KEYS[1], math.ceil(interval / 1000) + 1000)
        return {1, start}",
    )
});

/// ARGV: the start that `TAKE_FIXED` returned.
static GIVE_BACK_FIXED: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local held = redis.call('HMGET', KEYS[1], 'start', 'count')
        if held[1] == ARGV[1] and tonumber(held[2]) > 0 then
            redis.call('HINCRBY', KEYS[1], 'count', -1)
        end",
    )
});

/// KEYS[1] a sorted set of requests by time; ARGV: interval in µs, limit, a name for this request.
/// Returns {1, 0} or {0, wait in µs}.
static TAKE_SLIDING: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local time = redis.call('TIME')
        local now = time[1] * 1000000 + time[2]
        local interval, limit = tonumber(ARGV[1]), tonumber(ARGV[2])
        redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - interval))
        local count = redis.call('ZCARD', KEYS[1])
        if count >= limit then
            local leaves = redis.call('ZRANGE', KEYS[1], count - limit, count - limit, 'WITHSCORES')
            return {0, tonumber(leaves[2]) + interval - now}
        end
        redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[3])
        redis.call('PEXPIRE', KEYS[1], math.ceil(interval / 1000) + 1000)
        return {1, 0}",
    )
});

/// The windows of this instance and, when there is a Redis, of all.
pub struct SharedWindows {
    local: RequestWindows,
    redis: Option<Arc<Redis>>,
    /// Begins the name of each request in a sliding window, so that no two instances' collide.
    instance: String,
    sequence: AtomicU64,
    fallbacks: AtomicU64,
}

/// A request that was counted. Dropping it keeps the count.
#[must_use = "holds what is needed to give the request back"]
pub struct Reserved(Place);

enum Place {
    Local(Taken),
    Shared {
        redis: Arc<Redis>,
        key: String,
        technique: Technique,
        receipt: String,
    },
}

impl SharedWindows {
    pub fn new(redis: Option<Arc<Redis>>) -> SharedWindows {
        SharedWindows {
            local: RequestWindows::default(),
            redis,
            instance: ulid::Ulid::generate().to_string(),
            sequence: AtomicU64::new(0),
            fallbacks: AtomicU64::new(0),
        }
    }

    /// Counts one request of this gateway, or says when there will be room again. `now_us` (Unix
    /// time, microseconds) is for counting here; Redis goes by its own clock.
    pub async fn take(&self, gateway: &Gateway, now_us: i64) -> Result<Reserved, RetryAfter> {
        if let (Some(redis), Some(limit)) = (&self.redis, gateway.rate_limit()) {
            match self.take_shared(redis, gateway, limit).await {
                Ok(Ok(place)) => {
                    self.local.note(gateway, now_us);
                    return Ok(Reserved(place));
                }
                Ok(Err(refused)) => return Err(refused),
                Err(Unavailable) => _ = self.fallbacks.fetch_add(1, Ordering::Relaxed),
            }
        }
        self.local
            .take(gateway, now_us)
            .map(|taken| Reserved(Place::Local(taken)))
    }

    /// Requests counted here although they should have been counted in Redis.
    pub fn fallbacks(&self) -> u64 {
        self.fallbacks.load(Ordering::Relaxed)
    }

    /// See [`RequestWindows::retain`].
    pub fn retain(&self, is_kept: impl Fn(&str, &str) -> bool) {
        self.local.retain(is_kept);
    }

    async fn take_shared(
        &self,
        redis: &Arc<Redis>,
        gateway: &Gateway,
        limit: RateLimit,
    ) -> Result<Result<Place, RetryAfter>, Unavailable> {
        let key = window_key(redis, gateway, limit);
        let name = format!(
            "{}-{}",
            self.instance,
            self.sequence.fetch_add(1, Ordering::Relaxed)
        );
        let script = match limit.technique {
            Technique::Fixed => &*TAKE_FIXED,
            Technique::Sliding => &*TAKE_SLIDING,
        };
        let (is_taken, number): (bool, i64) = redis
            .script(script, |call| {
                call.key(&key).arg(limit.interval.as_micros() as u64);
                call.arg(limit.limit.min(MAX_SCRIPT_NUMBER)).arg(&name);
            })
            .await?;
        if !is_taken {
            return Ok(Err(RetryAfter(Duration::from_micros(number.max(0) as u64))));
        }
        let receipt = match limit.technique {
            Technique::Fixed => number.to_string(),
            Technique::Sliding => name,
        };
        Ok(Ok(Place::Shared {
            redis: redis.clone(),
            key,
            technique: limit.technique,
            receipt,
        }))
    }
}

impl Reserved {
    /// Uncounts the request: it never reached a provider. Without Redis a shared count stays.
    pub async fn give_back(self) {
        match self.0 {
            Place::Local(taken) => taken.give_back(),
            Place::Shared {
                redis,
                key,
                technique,
                receipt,
            } => {
                let _ = match technique {
                    Technique::Fixed => {
                        let fill = |call: &mut ::redis::ScriptInvocation<'_>| {
                            _ = call.key(&key).arg(&receipt)
                        };
                        redis.script::<()>(&GIVE_BACK_FIXED, fill).await
                    }
                    Technique::Sliding => {
                        redis
                            .command::<()>(::redis::cmd("ZREM").arg(&key).arg(&receipt))
                            .await
                    }
                };
            }
        }
    }
}

/// A change of technique or interval is another window, as in this process.
fn window_key(redis: &Redis, gateway: &Gateway, limit: RateLimit) -> String {
    let GatewayKey { account, gateway } = GatewayKey::of(gateway);
    let technique = match limit.technique {
        Technique::Fixed => "fixed",
        Technique::Sliding => "sliding",
    };
    redis.key(
        "window",
        &format!(
            "{account}/{gateway}:{technique}:{}",
            limit.interval.as_secs()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Timeouts;
    use crate::redis::testing::{TestServer, eventually};

    /// A window long enough that no test runs into its end, and a fixed one that ends just as far
    /// from now: a year divides the clock rarely.
    const INTERVAL_S: u64 = 31_536_000;

    fn gateway(technique: Technique, limit: u64) -> Gateway {
        Gateway {
            rate_limiting_interval: Duration::from_secs(INTERVAL_S),
            rate_limiting_limit: limit,
            rate_limiting_technique: technique,
            ..Gateway::unconfigured("acct", "gw", &Timeouts::default())
        }
    }

    async fn count_passed(windows: &SharedWindows, gateway: &Gateway, calls: usize) -> u64 {
        let mut passed = 0;
        for _ in 0..calls {
            passed += u64::from(windows.take(gateway, 1).await.is_ok());
        }
        passed
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn exactly_the_limit_passes_across_instances() {
        let Some(server) = TestServer::start("limit::shared exactness") else {
            return;
        };
        for technique in [Technique::Fixed, Technique::Sliding] {
            let gateway = Arc::new(gateway(technique, 100));
            let mut tasks = Vec::new();
            for _ in 0..4 {
                let instance = Arc::new(SharedWindows::new(Some(server.open().await)));
                for _ in 0..16 {
                    let (instance, gateway) = (instance.clone(), gateway.clone());
                    tasks.push(tokio::spawn(async move {
                        count_passed(&instance, &gateway, 10).await
                    }));
                }
            }
            let mut passed = 0;
            for task in tasks {
                passed += task.await.unwrap();
            }
            assert_eq!(passed, 100, "{technique:?}");
        }
    }

    #[tokio::test]
    async fn a_request_given_back_makes_room_everywhere() {
        let Some(server) = TestServer::start("limit::shared give back") else {
            return;
        };
        for technique in [Technique::Fixed, Technique::Sliding] {
            let gateway = gateway(technique, 2);
            let one = SharedWindows::new(Some(server.open().await));
            let other = SharedWindows::new(Some(server.open().await));
            let first = one.take(&gateway, 1).await.ok().unwrap();
            let _second = one.take(&gateway, 1).await.ok().unwrap();
            let wait = other.take(&gateway, 1).await.err().unwrap();
            assert!(
                wait.0 > Duration::ZERO && wait.0 <= Duration::from_secs(INTERVAL_S),
                "{wait:?}"
            );
            first.give_back().await;
            assert_eq!(count_passed(&other, &gateway, 3).await, 1, "{technique:?}");
        }
    }

    #[tokio::test]
    async fn time_gives_room_back() {
        let Some(server) = TestServer::start("limit::shared time") else {
            return;
        };
        let windows = SharedWindows::new(Some(server.open().await));
        for technique in [Technique::Fixed, Technique::Sliding] {
            let second = Duration::from_secs(1);
            let gateway = Gateway {
                rate_limiting_interval: second,
                ..gateway(technique, 1)
            };
            let started = std::time::Instant::now();
            let mut passed = Vec::new();
            while passed.len() < 3 {
                match windows.take(&gateway, 1).await {
                    Ok(_reserved) => passed.push(started.elapsed()),
                    Err(RetryAfter(wait)) => assert!(wait <= second, "{wait:?}"),
                }
                assert!(started.elapsed() < Duration::from_secs(20), "{technique:?}");
            }
            // Three in two intervals would be one too many (less the time the answers took).
            let slack = Duration::from_millis(200);
            let least = if technique == Technique::Sliding {
                2 * second
            } else {
                second
            };
            assert!(
                passed[2] - passed[0] + slack >= least,
                "{technique:?} {passed:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_dead_redis_is_counted_around_and_used_again_when_back() {
        let Some(mut server) = TestServer::start("limit::shared death and return") else {
            return;
        };
        for technique in [Technique::Fixed, Technique::Sliding] {
            let redis = server.open().await;
            let windows = SharedWindows::new(Some(redis.clone()));
            let gateway = gateway(technique, 5);
            assert_eq!(count_passed(&windows, &gateway, 3).await, 3);
            assert_eq!(windows.fallbacks(), 0);

            server.kill();
            assert_eq!(
                count_passed(&windows, &gateway, 5).await,
                2,
                "what was let through before counts"
            );
            assert_eq!(windows.fallbacks(), 5);
            assert!(!redis.is_up() && redis.stats().errors >= 1);

            server.restart();
            eventually("Redis is found again", || redis.is_up()).await;
            assert_eq!(
                count_passed(&windows, &gateway, 7).await,
                5,
                "a new server counts from nothing"
            );
            assert_eq!(windows.fallbacks(), 5);
        }
    }

    #[tokio::test]
    async fn a_frozen_redis_costs_one_command_timeout() {
        let Some(server) = TestServer::start("limit::shared freeze") else {
            return;
        };
        let config = crate::config::Redis {
            command_timeout: Duration::from_millis(200),
            ..server.config()
        };
        let redis = Redis::open(&config).await.unwrap();
        let windows = SharedWindows::new(Some(redis.clone()));
        let gateway = gateway(Technique::Fixed, 1_000);
        assert_eq!(count_passed(&windows, &gateway, 1).await, 1);
        server.freeze();
        let started = std::time::Instant::now();
        assert_eq!(count_passed(&windows, &gateway, 100).await, 100);
        assert!(
            started.elapsed() < Duration::from_secs(2),
            "{:?}",
            started.elapsed()
        );
        assert!(redis.stats().skipped >= 90);
        server.thaw();
        eventually("Redis is found again", || redis.is_up()).await;
    }
}
