//! One model's adapters: fetched and loaded when first asked for, once for all who ask, and kept while there is room.
//!
//! Who asks gets a [`Lease`] at once; the engine's thread looks at it and is woken when it becomes ready or fails. What is to
//! happen when is decided by the [`ledger`]; here it is done: files are fetched on the runtime of the one who asked first, and
//! made into an adapter on a thread that may block. A lease keeps its adapter, also when requests name another hash by now.
//!
//! Memory: ready adapters take at most `adapter_cache_mib`; up to eight more are being fetched, loaded, or waiting for room. When
//! all room is leased a newcomer waits, in order, until running answers end.

mod ledger;
#[cfg(test)]
mod tests;

use super::{AdapterHash, AdapterLoader, AdapterRef, AdapterSource, LoadedAdapter};
use crate::error::EngineError;
use crate::stats::Counters;
use ledger::{Acquired, Flight, Ledger, Order};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

/// A source that takes longer has failed: whoever waits is told, and others get its place.
const MAX_FETCH: Duration = Duration::from_secs(30);
/// Loads that compute at once; they take cores from the steps.
const LOADS_AT_ONCE: usize = 2;

/// Written once: what came of a flight.
type Outcome = Arc<OnceLock<Result<Arc<LoadedAdapter>, String>>>;

/// How the engine's thread is told to look again.
pub(crate) type Wake = Box<dyn Fn() + Send + Sync>;

pub(crate) struct Registry {
    source: Arc<dyn AdapterSource>,
    loader: Arc<dyn AdapterLoader>,
    loads: Arc<Semaphore>,
    wake: Wake,
    counters: Arc<Counters>,
    started: Instant,
    state: Mutex<State>,
}

struct State {
    ledger: Ledger,
    flights: HashMap<Flight, Flying>,
}

/// What belongs to a flight, from its being asked for to its eviction.
struct Flying {
    adapter: AdapterRef,
    outcome: Outcome,
    asked: Duration,
    /// Of the one who asked.
    runtime: Handle,
    task: Option<AbortHandle>,
    loaded: Option<Arc<LoadedAdapter>>,
}

/// The right to use an adapter, now or soon. While one is held the adapter stays; when the last is dropped before the
/// adapter is there, its fetch is cancelled.
pub(crate) struct Lease {
    adapter: AdapterRef,
    flight: Flight,
    outcome: Outcome,
    registry: Arc<Registry>,
}

pub(crate) enum LeaseState<'a> {
    Loading,
    Ready(&'a Arc<LoadedAdapter>),
    Failed(EngineError),
}

impl Lease {
    pub(crate) fn hash(&self) -> AdapterHash {
        self.adapter.hash
    }

    pub(crate) fn state(&self) -> LeaseState<'_> {
        match self.outcome.get() {
            None => LeaseState::Loading,
            Some(Ok(adapter)) => LeaseState::Ready(adapter),
            Some(Err(reason)) => LeaseState::Failed(failure(&self.adapter, reason)),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let (registry, flight) = (&self.registry, self.flight);
        registry.change(|ledger, now, orders| ledger.release(flight, now, orders));
    }
}

impl Registry {
    pub(crate) fn new(
        source: Arc<dyn AdapterSource>,
        loader: Arc<dyn AdapterLoader>,
        capacity_bytes: usize,
        wake: Wake,
        counters: Arc<Counters>,
    ) -> Arc<Registry> {
        Arc::new(Registry {
            source,
            loader,
            loads: Arc::new(Semaphore::new(LOADS_AT_ONCE)),
            wake,
            counters,
            started: Instant::now(),
            state: Mutex::new(State {
                ledger: Ledger::new(capacity_bytes),
                flights: HashMap::new(),
            }),
        })
    }

    /// Waits for nothing; must be called within a runtime.
    ///
    /// # Errors
    /// `Adapter` when it failed a moment ago; the back-off doubles with each failure, up to a minute.
    pub(crate) fn acquire(
        self: &Arc<Registry>,
        adapter: &AdapterRef,
    ) -> Result<Lease, EngineError> {
        let now = self.started.elapsed();
        let mut orders = Vec::new();
        let mut state = self.state();
        let acquired = state.ledger.acquire(adapter.hash, now, &mut orders);
        let flight = match acquired {
            Acquired::Hit(flight) => {
                Counters::add(&self.counters.adapter_hits, 1);
                flight
            }
            Acquired::Joined(flight) => flight,
            Acquired::New(flight) => {
                let flying = Flying {
                    adapter: adapter.clone(),
                    outcome: Outcome::default(),
                    asked: now,
                    runtime: Handle::current(),
                    task: None,
                    loaded: None,
                };
                state.flights.insert(flight, flying);
                flight
            }
            Acquired::Refused(reason) => return Err(failure(adapter, &reason)),
        };
        let outcome = Arc::clone(&state.flights[&flight].outcome);
        self.carry_out(state, orders);
        Ok(Lease {
            adapter: adapter.clone(),
            flight,
            outcome,
            registry: Arc::clone(self),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(self: &Arc<Registry>, change: impl FnOnce(&mut Ledger, Duration, &mut Vec<Order>)) {
        let mut orders = Vec::new();
        let mut state = self.state();
        change(&mut state.ledger, self.started.elapsed(), &mut orders);
        self.carry_out(state, orders);
    }

    /// What touches the books is done under their lock; what runs foreign code (tasks, drops, wakes) after it.
    fn carry_out(self: &Arc<Registry>, mut state: MutexGuard<'_, State>, orders: Vec<Order>) {
        let mut starting = Vec::new();
        let mut leaving = Vec::new();
        let mut is_news = false;
        for order in orders {
            match order {
                Order::Start(flight) => starting.extend(
                    (state.flights.get(&flight))
                        .map(|flying| (flight, flying.adapter.clone(), flying.runtime.clone())),
                ),
                Order::Cancel(flight) => leaving.extend(state.flights.remove(&flight)),
                Order::Ready(flight) => {
                    self.set_ready(&mut state, flight);
                    is_news = true;
                }
                Order::Failed(flight, reason) => {
                    if let Some(flying) = state.flights.remove(&flight) {
                        let id = &flying.adapter.id;
                        tracing::warn!(adapter = %id, %reason, "adapter not loaded");
                        // Only this lock's holder writes outcomes, each once.
                        let _ = flying.outcome.set(Err(reason));
                        leaving.push(flying);
                    }
                    Counters::add(&self.counters.adapter_failures, 1);
                    is_news = true;
                }
                Order::Evict(flight) => {
                    Counters::add(&self.counters.adapter_evictions, 1);
                    leaving.extend(state.flights.remove(&flight));
                }
            }
        }
        self.publish_gauges(&state);
        drop(state);
        for flying in leaving {
            flying.task.iter().for_each(AbortHandle::abort);
        }
        for (flight, adapter, runtime) in starting {
            self.start(flight, adapter, &runtime);
        }
        if is_news {
            (self.wake)();
        }
    }

    fn set_ready(&self, state: &mut State, flight: Flight) {
        let Some(flying) = state.flights.get_mut(&flight) else {
            return;
        };
        let loaded = flying.loaded.clone();
        let loaded = loaded.expect("it is there before the ledger hears of it");
        let waited = self.started.elapsed().saturating_sub(flying.asked);
        tracing::debug!(adapter = %flying.adapter.id, bytes = loaded.bytes, ?waited, "adapter ready");
        Counters::add(&self.counters.adapter_loads, 1);
        let micros = waited.as_micros() as u64;
        Counters::add(&self.counters.adapter_wait_micros, micros);
        let _ = flying.outcome.set(Ok(loaded));
    }

    fn publish_gauges(&self, state: &State) {
        let is_ready = |flying: &&Flying| matches!(flying.outcome.get(), Some(Ok(_)));
        let ready = state.flights.values().filter(is_ready).count();
        Counters::set(&self.counters.adapters, ready);
        Counters::set(&self.counters.adapter_bytes, state.ledger.used());
    }

    fn start(self: &Arc<Registry>, flight: Flight, adapter: AdapterRef, runtime: &Handle) {
        let ending = Ending {
            registry: Some(Arc::downgrade(self)),
            flight,
        };
        let source = Arc::clone(&self.source);
        let loader = Arc::clone(&self.loader);
        let loads = Arc::clone(&self.loads);
        let task = runtime.spawn(async move {
            let files = match tokio::time::timeout(MAX_FETCH, source.fetch(&adapter)).await {
                Ok(Ok(files)) => files,
                Ok(Err(reason)) => return ending.tell(Err(reason)),
                Err(_) => {
                    let reason = format!("its files did not come within {} s", MAX_FETCH.as_secs());
                    return ending.tell(Err(reason));
                }
            };
            let Ok(permit) = loads.acquire_owned().await else {
                return;
            };
            // On its way it cannot be called back: whether it is still wanted shows at its end.
            tokio::task::spawn_blocking(move || {
                let loaded = loader.load(&files).map_err(|error| error.to_string());
                drop((permit, files));
                ending.tell(loaded);
            });
        });
        let mut state = self.state();
        match state.flights.get_mut(&flight) {
            Some(flying) => flying.task = Some(task.abort_handle()),
            // Cancelled between the order and its being carried out.
            None => {
                drop(state);
                task.abort();
            }
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        Counters::set(&self.counters.adapters, 0);
        Counters::set(&self.counters.adapter_bytes, 0);
    }
}

/// Tells the ledger that a flight has ended, also when its task is aborted or panics. It does not keep the registry: a model
/// is let go while a load nobody waits for is still computing.
struct Ending {
    /// `None`: it is told.
    registry: Option<Weak<Registry>>,
    flight: Flight,
}

impl Ending {
    fn tell(mut self, result: Result<LoadedAdapter, String>) {
        self.end(result);
    }

    fn end(&mut self, result: Result<LoadedAdapter, String>) {
        let Some(registry) = self.registry.take().and_then(|weak| weak.upgrade()) else {
            return;
        };
        let flight = self.flight;
        let mut orders = Vec::new();
        let mut state = registry.state();
        let result = result.map(|loaded| {
            let bytes = loaded.bytes;
            if let Some(flying) = state.flights.get_mut(&flight) {
                flying.loaded = Some(Arc::new(loaded));
            }
            bytes
        });
        let now = registry.started.elapsed();
        state.ledger.ended(flight, result, now, &mut orders);
        registry.carry_out(state, orders);
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.end(Err("loading it was broken off".to_owned()));
    }
}

fn failure(adapter: &AdapterRef, reason: &str) -> EngineError {
    EngineError::Adapter {
        id: adapter.id.to_string(),
        reason: reason.to_owned(),
    }
}
