//! Single flight: equal requests at the same time make one upstream call.
//!
//! The first to ask for a key leads, the others follow and get its reply when it is whole. A leader
//! that ends without a storable reply, in whatever way, releases its followers to go alone. A
//! follower waits [`MAX_WAIT`] at most, then goes alone too. Flights and followers are requests in
//! flight and bounded as such; [`MAX_FLIGHTS`] is a second rope: past it a request goes alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::{Key, StoredReply};

/// Longest a follower waits for its leader.
pub const MAX_WAIT: Duration = Duration::from_secs(30);

/// Keys with a leader at one time.
const MAX_FLIGHTS: usize = 100_000;

#[derive(Default)]
pub struct Flights {
    flights: Arc<Mutex<HashMap<Key, Arc<watch::Sender<Stage>>>>>,
}

#[derive(Clone)]
enum Stage {
    Flying,
    Landed(Arc<StoredReply>),
    Failed,
}

/// What a request is to its key.
pub enum Role {
    Leader(LeaderGuard),
    Follower(Follower),
    /// Too many flights: call upstream, and nobody follows.
    Alone,
}

/// Held by the one request that goes upstream. Dropping it releases the followers to go alone.
pub struct LeaderGuard {
    key: Key,
    flights: Arc<Mutex<HashMap<Key, Arc<watch::Sender<Stage>>>>>,
    sender: Arc<watch::Sender<Stage>>,
}

pub struct Follower(watch::Receiver<Stage>);

/// How a follower's wait ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Landing {
    Reply(Arc<StoredReply>),
    /// No reply to share: ask upstream, counted like any request.
    GoAlone,
}

impl Flights {
    pub fn join(&self, key: Key) -> Role {
        let mut flights = lock(&self.flights);
        if let Some(sender) = flights.get(&key) {
            return Role::Follower(Follower(sender.subscribe()));
        }
        if flights.len() >= MAX_FLIGHTS {
            return Role::Alone;
        }
        let sender = Arc::new(watch::Sender::new(Stage::Flying));
        flights.insert(key, sender.clone());
        Role::Leader(LeaderGuard {
            key,
            flights: self.flights.clone(),
            sender,
        })
    }

    /// Keys with a leader now.
    pub fn len(&self) -> usize {
        lock(&self.flights).len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl LeaderGuard {
    pub fn key(&self) -> Key {
        self.key
    }

    /// Whether anybody waits: reason to go on when the leader's own client has left.
    pub fn has_followers(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    /// Returns once nobody waits any more (at once when nobody does).
    pub async fn followers_left(&self) {
        self.sender.closed().await;
    }

    /// Hands the reply to all followers. Store it first, or a request that comes in between calls
    /// upstream again.
    pub fn land(self, reply: Arc<StoredReply>) {
        self.end(Stage::Landed(reply));
    }

    fn end(&self, stage: Stage) {
        // Out of the map before the news: whoever joins after it starts a flight of its own.
        lock(&self.flights).remove(&self.key);
        self.sender.send_if_modified(|current| {
            let is_first = matches!(current, Stage::Flying);
            if is_first {
                *current = stage;
            }
            is_first
        });
    }
}

impl Drop for LeaderGuard {
    fn drop(&mut self) {
        if matches!(*self.sender.borrow(), Stage::Flying) {
            self.end(Stage::Failed);
        }
    }
}

impl Follower {
    pub async fn wait(mut self) -> Landing {
        let ended = self.0.wait_for(|stage| !matches!(stage, Stage::Flying));
        match tokio::time::timeout(MAX_WAIT, ended).await {
            Ok(Ok(stage)) => match &*stage {
                Stage::Landed(reply) => Landing::Reply(reply.clone()),
                Stage::Flying | Stage::Failed => Landing::GoAlone,
            },
            Ok(Err(_)) | Err(_) => Landing::GoAlone,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::testing::{key, reply};

    fn leader(flights: &Flights, name: &str) -> LeaderGuard {
        match flights.join(key(name)) {
            Role::Leader(guard) => guard,
            _ => panic!("somebody leads `{name}` already"),
        }
    }

    fn follower(flights: &Flights, name: &str) -> Follower {
        match flights.join(key(name)) {
            Role::Follower(follower) => follower,
            _ => panic!("nobody leads `{name}`"),
        }
    }

    #[tokio::test]
    async fn followers_get_the_leaders_reply() {
        let flights = Flights::default();
        let guard = leader(&flights, "a");
        assert!(!guard.has_followers());
        let waits: Vec<_> = (0..64)
            .map(|_| tokio::spawn(follower(&flights, "a").wait()))
            .collect();
        assert!(guard.has_followers());
        let _other = leader(&flights, "b");
        let stored = reply("x", 0, Duration::from_secs(1));
        guard.land(stored.clone());
        for wait in waits {
            assert_eq!(wait.await.unwrap(), Landing::Reply(stored.clone()));
        }
        assert_eq!(flights.len(), 1);
        leader(&flights, "a");
    }

    #[tokio::test]
    async fn a_leader_that_ends_without_a_reply_lets_them_go() {
        let flights = Flights::default();
        let guard = leader(&flights, "a");
        let waiting = follower(&flights, "a");
        drop(guard);
        assert_eq!(waiting.wait().await, Landing::GoAlone);
        assert!(flights.is_empty());

        let guard = leader(&flights, "a");
        let waiting = tokio::spawn(follower(&flights, "a").wait());
        let task = tokio::spawn(async move {
            let _guard = guard;
            panic!("the leader's task fails");
        });
        assert!(task.await.is_err());
        assert_eq!(waiting.await.unwrap(), Landing::GoAlone);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let flights = Flights::default();
        let _guard = leader(&flights, "a");
        let started = tokio::time::Instant::now();
        assert_eq!(follower(&flights, "a").wait().await, Landing::GoAlone);
        assert_eq!(started.elapsed(), MAX_WAIT);
    }

    #[tokio::test]
    async fn the_leader_hears_when_the_last_follower_left() {
        let flights = Flights::default();
        let guard = leader(&flights, "a");
        guard.followers_left().await;
        let (one, two) = (follower(&flights, "a"), follower(&flights, "a"));
        drop(one);
        assert!(guard.has_followers());
        let task = tokio::spawn(async move { guard.followers_left().await });
        drop(two);
        task.await.unwrap();
    }
}
