//! Stored replies: [`policy`] says whether, [`key`] says which, [`memory`] keeps them, [`flight`] lets
//! equal requests share one call. A cache that fails answers "miss"; it never fails a request.
//!
//! ```text
//! policy::decide ─► KeyParts::key ─► ReplyCache::look_up ─► Hit      replay it
//!                                                        ├► Lead     call upstream, then `finish`
//!                                                        ├► Follow   wait for the leader's reply
//!                                                        └► Alone    call upstream, store if whole
//! ```

pub mod flight;
pub mod key;
pub mod memory;
pub mod policy;
pub mod replay;
mod shared;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use flight::{Follower, Landing, LeaderGuard};
pub use key::{Content, Key, KeyParts, Payer};
pub use memory::StoredReply;
pub use policy::CachePolicy;

use crate::config;
use crate::redis::Redis;
use flight::{Flights, Role};
use memory::Memory;
use shared::SharedReplies;

/// All levels of the cache and the flights towards it.
pub struct ReplyCache {
    memory: Memory,
    shared: Option<SharedReplies>,
    flights: Flights,
    max_request_bytes: usize,
    counters: Counters,
}

/// What a look-up came to.
pub enum Lookup {
    Hit(Arc<StoredReply>),
    /// A miss, and others with the same key wait for this request. Give the guard to
    /// [`ReplyCache::finish`], or drop it to let them go alone.
    Lead(LeaderGuard),
    Follow(Follower),
    /// A miss without single flight; a whole reply may be stored by [`ReplyCache::put`].
    Alone,
}

#[derive(Default)]
struct Counters {
    hits: AtomicU64,
    shared_hits: AtomicU64,
    misses: AtomicU64,
    stored: AtomicU64,
    too_large: AtomicU64,
}

/// Counts since start, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheStats {
    pub hits: u64,
    /// Hits that came from the shared level (also in `hits`).
    pub shared_hits: u64,
    pub misses: u64,
    pub stored: u64,
    /// Replies not stored for their size.
    pub too_large: u64,
    /// Held now.
    pub entries: u64,
    pub bytes: u64,
    /// Keys with a leader now.
    pub flights: u64,
}

impl ReplyCache {
    pub fn new(config: &config::Cache) -> ReplyCache {
        ReplyCache::with_shared(config, None)
    }

    /// With a second level that other instances use too.
    pub fn with_shared(config: &config::Cache, redis: Option<Arc<Redis>>) -> ReplyCache {
        ReplyCache {
            memory: Memory::new(config),
            shared: redis.map(SharedReplies::new),
            flights: Flights::default(),
            max_request_bytes: config.max_request_bytes,
            counters: Counters::default(),
        }
    }

    /// Whether a request of this size may be cached at all.
    pub fn takes_request(&self, body_bytes: usize) -> bool {
        body_bytes <= self.max_request_bytes
    }

    /// `policy` must apply. Followers count as hits once they got their reply, see
    /// [`ReplyCache::landed`].
    pub async fn look_up(&self, key: Key, policy: &CachePolicy, now_us: i64) -> Lookup {
        debug_assert!(policy.applies());
        if !policy.read {
            self.counters.misses.fetch_add(1, Ordering::Relaxed);
            return Lookup::Alone;
        }
        if let Some(reply) = self.memory.get(&key, now_us) {
            return self.hit(reply);
        }
        let guard = match self.flights.join(key) {
            Role::Leader(guard) => guard,
            Role::Follower(follower) => return Lookup::Follow(follower),
            Role::Alone => {
                self.counters.misses.fetch_add(1, Ordering::Relaxed);
                return Lookup::Alone;
            }
        };
        // A leader may have landed between the look and the join: its reply is stored by now.
        let found = match self.memory.get(&key, now_us) {
            Some(reply) => Some(reply),
            None => self.look_up_shared(key, now_us).await,
        };
        if let Some(reply) = found {
            guard.land(reply.clone());
            return self.hit(reply);
        }
        self.counters.misses.fetch_add(1, Ordering::Relaxed);
        Lookup::Lead(guard)
    }

    /// Says how a follower's wait ended, for the counters.
    pub fn landed(&self, landing: &Landing) {
        let counter = match landing {
            Landing::Reply(_) => &self.counters.hits,
            Landing::GoAlone => &self.counters.misses,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The leader's whole, storable reply: stored, then handed to the followers. A reply too large
    /// to store still reaches them.
    pub async fn finish(&self, guard: LeaderGuard, reply: Arc<StoredReply>) {
        let key = guard.key();
        let is_taken = self.put_in_memory(key, reply.clone());
        guard.land(reply.clone());
        if is_taken {
            self.put_shared(key, &reply).await;
        }
    }

    /// Returns whether the reply was taken.
    pub async fn put(&self, key: Key, reply: Arc<StoredReply>) -> bool {
        let is_taken = self.put_in_memory(key, reply.clone());
        if is_taken {
            self.put_shared(key, &reply).await;
        }
        is_taken
    }

    async fn look_up_shared(&self, key: Key, now_us: i64) -> Option<Arc<StoredReply>> {
        let reply = self.shared.as_ref()?.get(key, now_us).await?;
        self.counters.shared_hits.fetch_add(1, Ordering::Relaxed);
        self.memory.put(key, reply.clone());
        Some(reply)
    }

    async fn put_shared(&self, key: Key, reply: &StoredReply) {
        if let Some(shared) = &self.shared {
            shared.put(key, reply).await;
        }
    }

    fn put_in_memory(&self, key: Key, reply: Arc<StoredReply>) -> bool {
        let is_taken = self.memory.put(key, reply);
        let counter = if is_taken {
            &self.counters.stored
        } else {
            &self.counters.too_large
        };
        counter.fetch_add(1, Ordering::Relaxed);
        is_taken
    }

    pub fn stats(&self) -> CacheStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (entries, bytes) = self.memory.size();
        CacheStats {
            hits: read(&self.counters.hits),
            shared_hits: read(&self.counters.shared_hits),
            misses: read(&self.counters.misses),
            stored: read(&self.counters.stored),
            too_large: read(&self.counters.too_large),
            entries,
            bytes,
            flights: self.flights.len() as u64,
        }
    }

    fn hit(&self, reply: Arc<StoredReply>) -> Lookup {
        self.counters.hits.fetch_add(1, Ordering::Relaxed);
        Lookup::Hit(reply)
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use std::time::Duration;

    use bytes::Bytes;
    use http::HeaderMap;

    use super::*;

    pub(crate) fn key(name: &str) -> Key {
        let parts = KeyParts {
            account: "a",
            gateway: "g",
            generation: 0,
            provider: "p",
            method: "POST",
            url: "https://h/",
            payer: Payer::Caller(None),
            headers: &HeaderMap::new(),
            content: Content::Body(name.as_bytes()),
            is_stream: false,
            local_model: None,
        };
        parts.key()
    }

    pub(crate) fn reply(body: &str, stored_at_us: i64, ttl: Duration) -> Arc<StoredReply> {
        Arc::new(StoredReply {
            status: 200,
            headers: vec![("content-type".into(), "application/json".into())],
            chunks: vec![Bytes::copy_from_slice(body.as_bytes())],
            about: String::new(),
            stored_at_us,
            ttl,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use super::testing::{key, reply};
    use super::*;

    const POLICY: CachePolicy = CachePolicy {
        read: true,
        write: true,
        ttl: Duration::from_secs(60),
        custom_key: None,
    };

    fn cache() -> Arc<ReplyCache> {
        Arc::new(ReplyCache::new(&config::Cache {
            max_bytes: 1 << 20,
            max_entry_bytes: 1 << 10,
            max_request_bytes: 100,
        }))
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn equal_requests_make_one_upstream_call() {
        let cache = cache();
        let calls = Arc::new(AtomicUsize::new(0));
        let stored = reply("x", 0, Duration::from_secs(60));
        let tasks: Vec<_> = (0..64)
            .map(|_| {
                let (cache, calls, stored) = (cache.clone(), calls.clone(), stored.clone());
                tokio::spawn(async move {
                    match cache.look_up(key("a"), &POLICY, 0).await {
                        Lookup::Hit(reply) => reply,
                        Lookup::Lead(guard) => {
                            calls.fetch_add(1, Ordering::Relaxed);
                            tokio::task::yield_now().await;
                            cache.finish(guard, stored.clone()).await;
                            stored
                        }
                        Lookup::Follow(follower) => {
                            let landing = follower.wait().await;
                            cache.landed(&landing);
                            match landing {
                                Landing::Reply(reply) => reply,
                                Landing::GoAlone => panic!("the leader landed"),
                            }
                        }
                        Lookup::Alone => panic!("there is room for flights"),
                    }
                })
            })
            .collect();
        for task in tasks {
            assert_eq!(task.await.unwrap(), stored);
        }
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        let stats = cache.stats();
        assert_eq!(
            (stats.hits, stats.misses, stats.stored, stats.flights),
            (63, 1, 1, 0)
        );
    }

    #[tokio::test]
    async fn a_reply_too_large_to_store_still_reaches_the_followers() {
        let cache = cache();
        let Lookup::Lead(guard) = cache.look_up(key("a"), &POLICY, 0).await else {
            panic!("first")
        };
        let Lookup::Follow(follower) = cache.look_up(key("a"), &POLICY, 0).await else {
            panic!("second")
        };
        let large = reply(&"x".repeat(2_000), 0, Duration::from_secs(60));
        cache.finish(guard, large.clone()).await;
        assert_eq!(follower.wait().await, Landing::Reply(large));
        assert!(matches!(
            cache.look_up(key("a"), &POLICY, 0).await,
            Lookup::Lead(_)
        ));
        assert_eq!(cache.stats().too_large, 1);
    }

    #[tokio::test]
    async fn another_instance_answers_from_the_shared_level() {
        let Some(server) = crate::redis::testing::TestServer::start("cache shared level") else {
            return;
        };
        let config = config::Cache {
            max_bytes: 1 << 20,
            max_entry_bytes: 1 << 10,
            max_request_bytes: 100,
        };
        let instance = async || ReplyCache::with_shared(&config, Some(server.open().await));
        let (one, other) = (instance().await, instance().await);
        let Lookup::Lead(guard) = one.look_up(key("a"), &POLICY, 0).await else {
            panic!("first")
        };
        let stored = reply("x", 0, Duration::from_secs(60));
        one.finish(guard, stored.clone()).await;
        for expected_shared_hits in [1, 1] {
            let Lookup::Hit(found) = other.look_up(key("a"), &POLICY, 0).await else {
                panic!("shared")
            };
            assert_eq!(found, stored);
            assert_eq!(
                other.stats().shared_hits,
                expected_shared_hits,
                "then from memory"
            );
        }
        assert_eq!(other.stats().flights, 0);
    }
}
