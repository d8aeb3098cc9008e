//! Stored replies in memory, weighed by their bytes.
//!
//! Past `max_bytes` the least used leave; a reply above `max_entry_bytes` is not taken. Each entry
//! has its own time to live.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use moka::Expiry;
use moka::sync::Cache;

use super::Key;
use crate::config;

/// Bytes an entry costs besides its content: key, pointers, the map's own share.
const ENTRY_OVERHEAD_BYTES: usize = 512;

/// A whole reply, as it is replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredReply {
    pub status: u16,
    /// Only those of the allow-list, in the order they came.
    pub headers: Vec<(String, String)>,
    /// The body in the pieces it came in: a stored stream is replayed piece by piece.
    pub chunks: Vec<Bytes>,
    /// What the record of a hit needs to know (model, usage), in the words of whoever stored it.
    pub about: String,
    /// Unix time, microseconds.
    pub stored_at_us: i64,
    pub ttl: Duration,
}

impl StoredReply {
    pub fn body_bytes(&self) -> usize {
        self.chunks.iter().map(Bytes::len).sum()
    }

    /// What it costs to keep.
    pub fn weight(&self) -> usize {
        let headers: usize = self
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.len() + 48)
            .sum();
        ENTRY_OVERHEAD_BYTES
            + headers
            + self.about.len()
            + self.body_bytes()
            + 32 * self.chunks.len()
    }

    /// How much longer it may be used, `None` when no more.
    pub fn remaining(&self, now_us: i64) -> Option<Duration> {
        // A clock that stepped back makes an entry no older than new.
        let age = Duration::from_micros((now_us - self.stored_at_us).max(0) as u64);
        self.ttl.checked_sub(age).filter(|rest| !rest.is_zero())
    }
}

pub struct Memory {
    replies: Cache<Key, Arc<StoredReply>>,
    max_entry_bytes: usize,
}

impl Memory {
    pub fn new(config: &config::Cache) -> Memory {
        let weigh =
            |_: &Key, reply: &Arc<StoredReply>| u32::try_from(reply.weight()).unwrap_or(u32::MAX);
        let replies = Cache::builder()
            .max_capacity(config.max_bytes)
            .weigher(weigh)
            .expire_after(OwnTtl)
            .build();
        Memory {
            replies,
            max_entry_bytes: config.max_entry_bytes,
        }
    }

    pub fn get(&self, key: &Key, now_us: i64) -> Option<Arc<StoredReply>> {
        let reply = self.replies.get(key)?;
        // The wall clock has the last word: a reply taken from the shared level is not new here.
        reply.remaining(now_us).map(|_| reply)
    }

    /// Returns whether the reply was taken.
    pub fn put(&self, key: Key, reply: Arc<StoredReply>) -> bool {
        if reply.body_bytes() > self.max_entry_bytes {
            return false;
        }
        self.replies.insert(key, reply);
        true
    }

    pub fn remove(&self, key: &Key) {
        self.replies.invalidate(key);
    }

    /// Replies and bytes held, as far as bookkeeping has come.
    pub fn size(&self) -> (u64, u64) {
        (self.replies.entry_count(), self.replies.weighted_size())
    }
}

/// Frees memory in time; what may still be used is decided in [`Memory::get`].
struct OwnTtl;

impl Expiry<Key, Arc<StoredReply>> for OwnTtl {
    fn expire_after_create(
        &self,
        _: &Key,
        reply: &Arc<StoredReply>,
        _: Instant,
    ) -> Option<Duration> {
        Some(reply.ttl)
    }

    fn expire_after_update(
        &self,
        _: &Key,
        reply: &Arc<StoredReply>,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(reply.ttl)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::testing::{key, reply};

    fn memory(max_bytes: u64, max_entry_bytes: usize) -> Memory {
        Memory::new(&config::Cache {
            max_bytes,
            max_entry_bytes,
            max_request_bytes: 0,
        })
    }

    #[test]
    fn a_reply_lives_for_its_own_time() {
        let memory = memory(1 << 20, 1 << 20);
        let stored = reply("hello", 1_000_000, Duration::from_secs(60));
        assert!(memory.put(key("a"), stored.clone()));
        assert_eq!(
            memory.get(&key("a"), 1_000_000 + 59_999_999),
            Some(stored.clone())
        );
        assert_eq!(memory.get(&key("a"), 1_000_000 + 60_000_000), None);
        assert_eq!(memory.get(&key("a"), 0), Some(stored));
        assert_eq!(memory.get(&key("b"), 0), None);
        memory.remove(&key("a"));
        assert_eq!(memory.get(&key("a"), 0), None);
    }

    #[test]
    fn bytes_are_bounded() {
        let memory = memory(64 * 1024, 8 * 1024);
        let body = "x".repeat(8 * 1024);
        for index in 0..100 {
            assert!(memory.put(
                key(&index.to_string()),
                reply(&body, 0, Duration::from_secs(60))
            ));
            memory.replies.run_pending_tasks();
            assert!(memory.size().1 <= 64 * 1024);
        }
        let (count, _) = memory.size();
        assert!((1..=8).contains(&count), "{count}");
        let too_large = "x".repeat(8 * 1024 + 1);
        assert!(!memory.put(key("large"), reply(&too_large, 0, Duration::from_secs(60))));
        assert_eq!(memory.get(&key("large"), 0), None);
    }
}
