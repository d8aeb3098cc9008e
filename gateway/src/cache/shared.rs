//! The second level of the cache: replies in Redis, where other instances find them.
//!
//! Asked by the one request that leads for its key, after memory; a reply found is kept in memory
//! for the rest of its time. Redis forgets by itself (`PX`), and a Redis that is gone is a miss.
//! Bodies stand there as they are: who may read that server may read them.
//!
//! ```text
//! value:  version (1 byte) | head length (4, big-endian) | head, JSON | body
//! ```

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Key, StoredReply};
use crate::redis::Redis;

/// Raised when the value's format changes; another version is a miss.
const VERSION: u8 = 1;

const HEAD_OFFSET: usize = 5;

#[derive(Serialize, Deserialize)]
struct Head {
    status: u16,
    headers: Vec<(String, String)>,
    about: String,
    stored_at_us: i64,
    ttl_ms: u64,
    /// How the body is cut into pieces.
    chunk_bytes: Vec<usize>,
}

pub(super) struct SharedReplies(Arc<Redis>);

impl SharedReplies {
    pub(super) fn new(redis: Arc<Redis>) -> SharedReplies {
        SharedReplies(redis)
    }

    pub(super) async fn get(&self, key: Key, now_us: i64) -> Option<Arc<StoredReply>> {
        let name = self.0.key("reply", &key.to_hex());
        let value: Option<Vec<u8>> = self.0.command(::redis::cmd("GET").arg(name)).await.ok()?;
        let reply = decode(value?)?;
        reply.remaining(now_us).map(|_| Arc::new(reply))
    }

    pub(super) async fn put(&self, key: Key, reply: &StoredReply) {
        let name = self.0.key("reply", &key.to_hex());
        let mut command = ::redis::cmd("SET");
        command
            .arg(name)
            .arg(encode(reply))
            .arg("PX")
            .arg(reply.ttl.as_millis().max(1) as u64);
        // Not stored is not found: nothing to do about it here, and it was counted.
        let _ = self.0.command::<()>(&command).await;
    }
}

fn encode(reply: &StoredReply) -> Vec<u8> {
    let head = Head {
        status: reply.status,
        headers: reply.headers.clone(),
        about: reply.about.clone(),
        stored_at_us: reply.stored_at_us,
        ttl_ms: reply.ttl.as_millis() as u64,
        chunk_bytes: reply.chunks.iter().map(Bytes::len).collect(),
    };
    let head = serde_json::to_vec(&head).expect("plain fields always serialise");
    let mut value = Vec::with_capacity(HEAD_OFFSET + head.len() + reply.body_bytes());
    value.push(VERSION);
    value.extend((head.len() as u32).to_be_bytes());
    value.extend(head);
    for chunk in &reply.chunks {
        value.extend_from_slice(chunk);
    }
    value
}

/// `None` for what we did not write.
fn decode(value: Vec<u8>) -> Option<StoredReply> {
    let value = Bytes::from(value);
    let (version, rest) = value.split_first()?;
    let (length, _) = rest.split_first_chunk::<4>()?;
    if *version != VERSION {
        return None;
    }
    let body_offset = HEAD_OFFSET.checked_add(u32::from_be_bytes(*length) as usize)?;
    let head: Head = serde_json::from_slice(value.get(HEAD_OFFSET..body_offset)?).ok()?;
    let mut rest = value.slice(body_offset..);
    let mut chunks = Vec::with_capacity(head.chunk_bytes.len());
    for bytes in head.chunk_bytes {
        if bytes > rest.len() {
            return None;
        }
        chunks.push(rest.split_to(bytes));
    }
    rest.is_empty().then_some(StoredReply {
        status: head.status,
        headers: head.headers,
        chunks,
        about: head.about,
        stored_at_us: head.stored_at_us,
        ttl: Duration::from_millis(head.ttl_ms),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::testing::{key, reply};
    use crate::redis::testing::{TestServer, eventually};

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let stored = StoredReply {
            status: 201,
            headers: vec![("content-type".into(), "text/event-stream".into())],
            chunks: vec![
                Bytes::from_static(b"data: 1\n\n"),
                Bytes::new(),
                Bytes::from_static(b"\xff\0"),
            ],
            about: "{}".into(),
            stored_at_us: 7,
            ttl: Duration::from_secs(60),
        };
        let value = encode(&stored);
        assert_eq!(decode(value.clone()), Some(stored));
        for cut in 0..value.len() {
            assert_eq!(decode(value[..cut].to_vec()), None, "cut at {cut}");
        }
        let mut longer = value.clone();
        longer.push(0);
        assert_eq!(decode(longer), None);
        let mut other_version = value;
        other_version[0] = 2;
        assert_eq!(decode(other_version), None);
        assert_eq!(decode(vec![VERSION, 255, 255, 255, 255]), None);
    }

    #[tokio::test]
    async fn replies_are_found_by_others_until_they_expire_or_redis_dies() {
        let Some(mut server) = TestServer::start("cache::shared") else {
            return;
        };
        let redis = server.open().await;
        let (one, other) = (
            SharedReplies::new(redis.clone()),
            SharedReplies::new(server.open().await),
        );
        let stored = reply("hello", 0, Duration::from_secs(3_600));
        one.put(key("a"), &stored).await;
        assert_eq!(other.get(key("a"), 1).await, Some(stored.clone()));
        assert_eq!(
            other.get(key("a"), 3_600_000_000).await,
            None,
            "past its time by our clock"
        );
        assert_eq!(other.get(key("b"), 1).await, None);

        let short = reply("short", 0, Duration::from_millis(1));
        one.put(key("short"), &short).await;
        let expired = async {
            while other.get(key("short"), 0).await.is_some() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), expired)
            .await
            .expect("Redis forgets it");

        server.kill();
        assert_eq!(one.get(key("a"), 1).await, None);
        one.put(key("a"), &stored).await;
        server.restart();
        eventually("Redis is found again", || redis.is_up()).await;
        one.put(key("a"), &stored).await;
        assert_eq!(one.get(key("a"), 1).await, Some(stored));
    }
}
