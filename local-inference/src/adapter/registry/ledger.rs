//! Who has which adapter, what is on its way, and who gives way: numbers alone, no clock and no IO, so equal calls give equal
//! [`Order`]s.
//!
//! ```text
//! absent -> queued -> working (fetched, then loaded) -> holding (loaded, waits for room) -> ready -> evicted
//!                        |                                                                    |
//!                        +-> failed: refused for a while, twice as long each time             +-> retired: ends with its leases
//! ```
//!
//! A way from absent to ready or failed is a [`Flight`]; everybody who asks meanwhile joins it. Without anybody left it ends early.
//!
//! Ready adapters together take at most the capacity. A leased one stays; of the others the least used go, those used
//! within [`KEEP`] last. Where that does not make enough room, the newcomer waits for leases to end, the one asked for first
//! first. Adapters that are never without leases would keep it out for ever: past [`PATIENCE`] enough of them are retired, so
//! that their next callers queue behind it.

use crate::adapter::AdapterHash;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

/// Adapters being fetched, loaded or waiting for room at once; more wait in order. They are what memory may be held beyond the
/// capacity.
pub(super) const MAX_AT_ONCE: usize = 8;
/// An adapter used so recently goes only when all others are leased: its caller's next request is likely on its way.
const KEEP: Duration = Duration::from_secs(10);
/// Uses count half as much after so long.
const HALF_LIFE: Duration = Duration::from_secs(60);
/// How long a newcomer waits for leases to end by themselves.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two tries of one that failed: doubled each time up to a minute.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const MAX_RETRY: Duration = Duration::from_secs(60);
/// Failures remembered; past it the one that may be tried again soonest is forgotten.
const MAX_FAILURES: usize = 1024;

const MIB: usize = 1 << 20;

/// One try to have an adapter ready, and what came of it. Later ones have larger numbers.
pub(super) type Flight = u64;

/// What has to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Order {
    /// Fetch and load it; its end is to be told whatever happens.
    Start(Flight),
    /// Nobody waits for it any more: end it soon.
    Cancel(Flight),
    Ready(Flight),
    Failed(Flight, String),
    /// Let the loaded adapter go.
    Evict(Flight),
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Acquired {
    /// It is there.
    Hit(Flight),
    /// It is on its way.
    Joined(Flight),
    /// The first to ask.
    New(Flight),
    /// It failed a moment ago, by this reason.
    Refused(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Queued,
    Working,
    /// Still working, for nobody.
    Cancelled,
    Holding {
        bytes: usize,
        since: Duration,
    },
    Ready {
        bytes: usize,
        is_retired: bool,
    },
}

struct Entry {
    hash: AdapterHash,
    state: State,
    leases: usize,
    last_used: Duration,
    /// Uses, each worth half after [`HALF_LIFE`]; as of `last_used`.
    uses: f64,
}

struct Failure {
    until: Duration,
    wait: Duration,
    reason: String,
}

pub(super) struct Ledger {
    /// Bytes of ready adapters.
    capacity: usize,
    used: usize,
    next: Flight,
    /// What a new caller gets.
    current: HashMap<AdapterHash, Flight>,
    entries: HashMap<Flight, Entry>,
    queue: VecDeque<Flight>,
    /// Working or cancelled and not ended.
    at_work: usize,
    /// In the order they were asked for.
    holding: BTreeMap<Flight, usize>,
    failures: HashMap<AdapterHash, Failure>,
}

impl Ledger {
    pub(super) fn new(capacity: usize) -> Ledger {
        Ledger {
            capacity,
            used: 0,
            next: 0,
            current: HashMap::new(),
            entries: HashMap::new(),
            queue: VecDeque::new(),
            at_work: 0,
            holding: BTreeMap::new(),
            failures: HashMap::new(),
        }
    }

    /// Bytes of ready adapters.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Takes a lease, unless refused.
    pub(super) fn acquire(
        &mut self,
        hash: AdapterHash,
        now: Duration,
        orders: &mut Vec<Order>,
    ) -> Acquired {
        self.retire_for_the_first(now);
        if let Some(flight) = self.current.get(&hash).copied() {
            let entry = self.entries.get_mut(&flight).expect("current ones are");
            entry.leases += 1;
            entry.uses = entry.uses_at(now) + 1.0;
            entry.last_used = now;
            return match entry.state {
                State::Ready { .. } => Acquired::Hit(flight),
                _ => Acquired::Joined(flight),
            };
        }
        if let Some(failure) = self.failures.get(&hash)
            && now < failure.until
        {
            return Acquired::Refused(failure.reason.clone());
        }
        self.next += 1;
        let flight = self.next;
        self.current.insert(hash, flight);
        let entry = Entry {
            hash,
            state: State::Queued,
            leases: 1,
            last_used: now,
            uses: 1.0,
        };
        self.entries.insert(flight, entry);
        self.queue.push_back(flight);
        self.settle(now, orders);
        Acquired::New(flight)
    }

    /// Gives a lease of `flight` back. One that failed has none left.
    pub(super) fn release(&mut self, flight: Flight, now: Duration, orders: &mut Vec<Order>) {
        let Some(entry) = self.entries.get_mut(&flight) else {
            return;
        };
        debug_assert!(entry.leases > 0, "a lease is given back once");
        entry.leases -= 1;
        if entry.leases > 0 {
            return;
        }
        let hash = entry.hash;
        match entry.state {
            State::Queued => {
                self.queue.retain(|queued| *queued != flight);
                self.forget(flight, hash);
            }
            State::Working => {
                entry.state = State::Cancelled;
                self.current.remove(&hash);
                orders.push(Order::Cancel(flight));
            }
            State::Cancelled => {}
            State::Holding { .. } => {
                self.holding.remove(&flight);
                self.forget(flight, hash);
                orders.push(Order::Cancel(flight));
            }
            State::Ready { is_retired, .. } => {
                let passed = entry.uses_at(now);
                (entry.uses, entry.last_used) = (passed, now);
                if is_retired {
                    self.evict(flight, orders);
                }
            }
        }
        self.settle(now, orders);
    }

    /// A started flight has ended: with an adapter of so many bytes, or for this reason.
    pub(super) fn ended(
        &mut self,
        flight: Flight,
        result: Result<usize, String>,
        now: Duration,
        orders: &mut Vec<Order>,
    ) {
        let Some(entry) = self.entries.get_mut(&flight) else {
            return;
        };
        let hash = entry.hash;
        self.at_work -= 1;
        if entry.state == State::Cancelled {
            self.entries.remove(&flight);
            return self.settle(now, orders);
        }
        match result.and_then(|bytes| fitting(bytes, self.capacity)) {
            Ok(bytes) => {
                let since = now;
                entry.state = State::Holding { bytes, since };
                self.holding.insert(flight, bytes);
                self.failures.remove(&hash);
            }
            Err(reason) => {
                self.forget(flight, hash);
                self.remember_failure(hash, &reason, now);
                orders.push(Order::Failed(flight, reason));
            }
        }
        self.settle(now, orders);
    }

    /// Gives room to those who wait for it, in order, then starts what may start.
    fn settle(&mut self, now: Duration, orders: &mut Vec<Order>) {
        while let Some((&flight, &bytes)) = self.holding.first_key_value() {
            if !self.make_room(bytes, now, orders) {
                break;
            }
            self.holding.pop_first();
            self.used += bytes;
            let entry = self.entries.get_mut(&flight).expect("it holds");
            let is_retired = false;
            entry.state = State::Ready { bytes, is_retired };
            orders.push(Order::Ready(flight));
        }
        while self.at_work + self.holding.len() < MAX_AT_ONCE {
            let Some(flight) = self.queue.pop_front() else {
                break;
            };
            let entry = self.entries.get_mut(&flight).expect("it is queued");
            entry.state = State::Working;
            self.at_work += 1;
            orders.push(Order::Start(flight));
        }
    }

    /// Evicts none unless that makes enough room.
    fn make_room(&mut self, bytes: usize, now: Duration, orders: &mut Vec<Order>) -> bool {
        let mut missing = (self.used + bytes).saturating_sub(self.capacity);
        if missing == 0 {
            return true;
        }
        let idle = self.by_worth(now, |entry| entry.leases == 0);
        if idle.iter().map(|(_, bytes)| bytes).sum::<usize>() < missing {
            return false;
        }
        for (flight, freed) in idle {
            if missing == 0 {
                break;
            }
            missing = missing.saturating_sub(freed);
            self.evict(flight, orders);
        }
        true
    }

    /// Where the first of those who wait for room has waited too long: no new leases for as many as it takes.
    fn retire_for_the_first(&mut self, now: Duration) {
        let Some((first, &bytes)) = self.holding.first_key_value() else {
            return;
        };
        let entry = &self.entries[first];
        let State::Holding { since, .. } = entry.state else {
            return;
        };
        if now.saturating_sub(since) < PATIENCE {
            return;
        }
        let coming = |entry: &Entry| match entry.state {
            State::Ready { bytes, is_retired } if is_retired || entry.leases == 0 => bytes,
            _ => 0,
        };
        let coming: usize = self.entries.values().map(coming).sum();
        let mut missing = (self.used + bytes).saturating_sub(self.capacity + coming);
        for (flight, freed) in self.by_worth(now, |entry| entry.leases > 0) {
            if missing == 0 {
                return;
            }
            missing = missing.saturating_sub(freed);
            let entry = self.entries.get_mut(&flight).expect("it was just listed");
            let is_retired = true;
            entry.state = State::Ready {
                bytes: freed,
                is_retired,
            };
            self.current.remove(&entry.hash);
        }
    }

    /// Ready ones that may be had again, with their bytes: what goes first comes first.
    fn by_worth(&self, now: Duration, is_wanted: fn(&Entry) -> bool) -> Vec<(Flight, usize)> {
        let ready = self
            .entries
            .iter()
            .filter_map(|(flight, entry)| match entry.state {
                State::Ready { bytes, is_retired } if !is_retired && is_wanted(entry) => {
                    let is_recent = now.saturating_sub(entry.last_used) < KEEP;
                    Some((is_recent, entry.uses_at(now), *flight, bytes))
                }
                _ => None,
            });
        let mut ready: Vec<(bool, f64, Flight, usize)> = ready.collect();
        ready.sort_unstable_by(|left, right| {
            (left.0.cmp(&right.0))
                .then(left.1.total_cmp(&right.1))
                .then(left.2.cmp(&right.2))
        });
        ready
            .into_iter()
            .map(|(.., flight, bytes)| (flight, bytes))
            .collect()
    }

    fn evict(&mut self, flight: Flight, orders: &mut Vec<Order>) {
        let Some(entry) = self.entries.get(&flight) else {
            return;
        };
        debug_assert_eq!(entry.leases, 0);
        if let State::Ready { bytes, .. } = entry.state {
            self.used -= bytes;
        }
        self.forget(flight, entry.hash);
        orders.push(Order::Evict(flight));
    }

    fn forget(&mut self, flight: Flight, hash: AdapterHash) {
        self.entries.remove(&flight);
        if self.current.get(&hash) == Some(&flight) {
            self.current.remove(&hash);
        }
    }

    fn remember_failure(&mut self, hash: AdapterHash, reason: &str, now: Duration) {
        let earlier = self.failures.remove(&hash);
        let wait = match earlier {
            // Of long ago: it begins anew.
            Some(failure) if now < failure.until + MAX_RETRY => (failure.wait * 2).min(MAX_RETRY),
            _ => FIRST_RETRY,
        };
        if self.failures.len() >= MAX_FAILURES {
            let failures = self.failures.iter();
            let soonest = failures.min_by_key(|(hash, failure)| (failure.until, hash.0));
            if let Some(soonest) = soonest.map(|(hash, _)| *hash) {
                self.failures.remove(&soonest);
            }
        }
        let failure = Failure {
            until: now + wait,
            wait,
            reason: reason.to_owned(),
        };
        self.failures.insert(hash, failure);
    }
}

impl Entry {
    fn uses_at(&self, now: Duration) -> f64 {
        let idle = now.saturating_sub(self.last_used).as_secs_f64();
        self.uses * (-idle / HALF_LIFE.as_secs_f64()).exp2()
    }
}

fn fitting(bytes: usize, capacity: usize) -> Result<usize, String> {
    match bytes <= capacity {
        true => Ok(bytes),
        false => Err(format!(
            "takes {} MiB of memory, all adapters of a model together may take {} (`adapter_cache_mib`)",
            bytes.div_ceil(MIB),
            capacity / MIB
        )),
    }
}
