//! Who of the waiting is let in, and in what order.
//!
//! Between tenants by deficit round-robin: each in turn earns a quantum of positions and spends on a sequence the most
//! positions it may fill, so a tenant with many or long requests does not crowd out one with few. Within a
//! tenant its adapters take turns, a sequence each (the base alone counts as one), and an adapter's go by order of arrival. A
//! sequence that cannot start yet (its beginning is being computed by another, its blocks do not fit, it is not
//! ready) is passed over; after [`MAX_SKIPS`] turns in which others were let in before it, one place and its blocks are held for it.
//! One that waits for its adapter or its reader earns no such claim: a fetch or a reader that is slow keeps nobody else waiting.

use super::{Entry, Readiness, Scheduler};
use crate::adapter::AdapterHash;
use crate::kv::{Kv, Owner};
use std::collections::VecDeque;
use std::sync::Arc;

/// Positions a tenant earns a round: a short chat.
const QUANTUM: usize = 512;
const MAX_SKIPS: u32 = 16;

/// The waiting, by tenant. The first tenant is the one being served.
pub(super) struct Waiting<S> {
    tenants: VecDeque<Tenant<S>>,
}

struct Tenant<S> {
    name: Arc<str>,
    /// Positions earned and not spent. A tenant with nobody waiting is forgotten, and its deficit with it.
    deficit: usize,
    queue: VecDeque<Entry<S>>,
    /// The adapters of those in the queue, each once; whose turn it is first.
    turns: VecDeque<Option<AdapterHash>>,
}

/// What is held for a sequence that was passed over too often.
#[derive(Clone, Copy)]
struct Reservation {
    owner: Owner,
    blocks: usize,
}

impl<S> Default for Waiting<S> {
    fn default() -> Waiting<S> {
        Waiting {
            tenants: VecDeque::new(),
        }
    }
}

impl<S> Waiting<S> {
    pub(super) fn push_back(&mut self, entry: Entry<S>) {
        let tenant = self.tenant(&entry.tenant);
        if !tenant.turns.contains(&entry.adapter) {
            tenant.turns.push_back(entry.adapter);
        }
        tenant.queue.push_back(entry);
    }

    /// At the head of all.
    pub(super) fn push_front(&mut self, entry: Entry<S>) {
        let name = Arc::clone(&entry.tenant);
        let tenant = self.tenant(&name);
        tenant.turns.retain(|adapter| *adapter != entry.adapter);
        tenant.turns.push_front(entry.adapter);
        tenant.queue.push_front(entry);
        let index = self.tenants.iter().position(|tenant| tenant.name == name);
        if let Some(tenant) = index.and_then(|index| self.tenants.remove(index)) {
            self.tenants.push_front(tenant);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.tenants.iter().map(|tenant| tenant.queue.len()).sum()
    }

    pub(super) fn remove(&mut self, is_gone: &mut dyn FnMut(&mut S) -> bool, gone: &mut Vec<S>) {
        for tenant in &mut self.tenants {
            for index in (0..tenant.queue.len()).rev() {
                if is_gone(&mut tenant.queue[index].sequence) {
                    gone.extend(tenant.queue.remove(index).map(|entry| entry.sequence));
                }
            }
            let Tenant { queue, turns, .. } = tenant;
            turns.retain(|adapter| queue.iter().any(|entry| entry.adapter == *adapter));
        }
        self.tenants.retain(|tenant| !tenant.queue.is_empty());
    }

    /// A new one is served last.
    fn tenant(&mut self, name: &Arc<str>) -> &mut Tenant<S> {
        let known = self.tenants.iter().position(|tenant| tenant.name == *name);
        let index = known.unwrap_or_else(|| {
            self.tenants.push_back(Tenant {
                name: Arc::clone(name),
                deficit: 0,
                queue: VecDeque::new(),
                turns: VecDeque::new(),
            });
            self.tenants.len() - 1
        });
        &mut self.tenants[index]
    }

    pub(super) fn entries(&mut self) -> impl Iterator<Item = &mut Entry<S>> {
        self.tenants.iter_mut().flat_map(|tenant| &mut tenant.queue)
    }

    /// The oldest of those passed over too often. One at a time: more would leave places empty.
    fn reservation(&mut self) -> Option<Reservation> {
        self.entries()
            .filter(|entry| entry.skips >= MAX_SKIPS && entry.is_ready())
            .min_by_key(|entry| entry.owner)
            .map(|entry| Reservation {
                owner: entry.owner,
                blocks: Kv::blocks_for(entry.known),
            })
    }

    /// Whose turn it is: the place in the first tenant's queue, that tenant having earned enough. `None`: everybody was
    /// passed over.
    fn next(&mut self) -> Option<usize> {
        let mut exhausted = 0;
        while exhausted < self.tenants.len() {
            let tenant = self.tenants.front_mut()?;
            let Some(index) = tenant.next() else {
                exhausted += 1;
                self.tenants.rotate_left(1);
                continue;
            };
            if tenant.deficit >= tenant.queue[index].cost() {
                return Some(index);
            }
            exhausted = 0;
            tenant.deficit += QUANTUM;
            self.tenants.rotate_left(1);
        }
        None
    }

    /// In the queue of the tenant being served.
    fn candidate(&mut self, index: usize) -> &mut Entry<S> {
        &mut self.tenants[0].queue[index]
    }

    fn take(&mut self, index: usize) -> Option<Entry<S>> {
        let tenant = self.tenants.front_mut()?;
        let entry = tenant.queue.remove(index)?;
        tenant.deficit = tenant.deficit.saturating_sub(entry.cost());
        tenant.turns.retain(|adapter| *adapter != entry.adapter);
        let mut left = tenant.queue.iter();
        if left.any(|other| other.adapter == entry.adapter) {
            tenant.turns.push_back(entry.adapter);
        }
        if tenant.queue.is_empty() {
            self.tenants.pop_front();
        }
        Some(entry)
    }
}

impl<S> Tenant<S> {
    /// The place of the oldest, of the adapter whose turn it is, that was not passed over.
    fn next(&self) -> Option<usize> {
        self.turns.iter().find_map(|adapter| {
            let mut queue = self.queue.iter();
            queue.position(|entry| entry.adapter == *adapter && !entry.was_passed_over)
        })
    }
}

impl<S> Scheduler<S> {
    /// Lets in as many as have a place and blocks; says how many.
    pub(super) fn admit(
        &mut self,
        kv: &mut Kv,
        readiness: &mut dyn FnMut(&mut S) -> Readiness,
    ) -> usize {
        if self.running.len() >= self.max_running {
            return 0;
        }
        let reservation = self.waiting.reservation();
        let mut admitted = 0;
        while self.running.len() < self.max_running {
            let Some(index) = self.waiting.next() else {
                break;
            };
            let held = reservation.filter(|held| self.waiting.candidate(index).owner != held.owner);
            if self.running.len() + usize::from(held.is_some()) >= self.max_running {
                self.waiting.candidate(index).was_passed_over = true;
                continue;
            }
            let spare = self.running.len() + held.map_or(0, |held| held.blocks);
            if !self.may_start(index, spare, kv, readiness) {
                self.waiting.candidate(index).was_passed_over = true;
                continue;
            }
            let mut entry = self
                .waiting
                .take(index)
                .expect("the candidate of this round");
            entry.cached.get_or_insert(entry.computed);
            entry.skips = 0;
            let place = self
                .running
                .partition_point(|other| other.rank() < entry.rank());
            self.running.insert(place, entry);
            admitted += 1;
        }
        for entry in self.waiting.entries() {
            entry.skips += u32::from(entry.was_passed_over && entry.is_ready() && admitted > 0);
            entry.was_passed_over = false;
        }
        admitted
    }

    /// Gives the candidate its blocks, if it is ready and they fit. `spare` stay free: one for each that runs, for the
    /// boundary it crosses next, and what is held for another.
    fn may_start(
        &mut self,
        index: usize,
        spare: usize,
        kv: &mut Kv,
        readiness: &mut dyn FnMut(&mut S) -> Readiness,
    ) -> bool {
        let entry = self.waiting.candidate(index);
        entry.readiness = readiness(&mut entry.sequence);
        if !entry.is_ready() {
            return false;
        }
        // Waiting is worth while only if the one waited for goes on.
        if let Some(twin) = kv.twin(&entry.table, entry.known) {
            let mut running = self.running.iter();
            if running.any(|other| other.owner == twin && other.is_ready()) {
                return false;
            }
        }
        let entry = self.waiting.candidate(index);
        let Some(cached) = kv.admit(&mut entry.table, entry.known, entry.owner, spare) else {
            return false;
        };
        entry.computed = cached;
        true
    }
}
