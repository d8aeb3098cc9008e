//! A configured model's place: not loaded, on its way, loaded, or failed a while ago.

use super::ModelInfo;
use crate::catalogue::CatalogueEntry;
use crate::error::EngineError;
use crate::front::{Command, ModelFront};
use crate::stats::Counters;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Between two tries to load a model that does not: doubled each time up to a minute, so that a flood of requests is no flood
/// of loads.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const MAX_RETRY: Duration = Duration::from_secs(60);

pub(crate) type Loading = watch::Receiver<Option<Result<Arc<ModelFront>, EngineError>>>;

pub(crate) struct ModelSlot {
    pub entry: &'static CatalogueEntry,
    pub counters: Arc<Counters>,
    state: Mutex<State>,
}

struct State {
    /// `None`: not loaded. Dropping it lets the model's thread end once its sequences have.
    loading: Option<Loading>,
    /// Of the last load; the memory is free when it has ended.
    thread: Option<JoinHandle<()>>,
    failure: Option<Failure>,
    last_used: Instant,
}

struct Failure {
    error: EngineError,
    at: Instant,
    wait: Duration,
}

impl ModelSlot {
    pub(crate) fn new(entry: &'static CatalogueEntry) -> ModelSlot {
        ModelSlot {
            entry,
            counters: Arc::default(),
            state: Mutex::new(State {
                loading: None,
                thread: None,
                failure: None,
                last_used: Instant::now(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The model, if it is loaded or on its way; counts as a use.
    pub(super) fn usable(&self) -> Option<Loading> {
        let mut state = self.state();
        state.last_used = Instant::now();
        state.loading.clone().filter(is_usable)
    }

    /// The last failure's error, while it is too early to try again.
    pub(super) fn may_try(&self) -> Result<(), EngineError> {
        match &self.state().failure {
            Some(failure) if failure.at.elapsed() < failure.wait => Err(failure.error.clone()),
            _ => Ok(()),
        }
    }

    pub(super) fn set_loading(&self, loading: &Loading, thread: JoinHandle<()>) {
        let mut state = self.state();
        state.loading = Some(loading.clone());
        state.thread = Some(thread);
    }

    pub(super) fn set_loaded(&self, bytes: usize) {
        self.state().failure = None;
        Counters::set(&self.counters.memory_bytes, bytes);
        Counters::add(&self.counters.loads, 1);
    }

    pub(super) fn set_failed(&self, error: &EngineError) {
        Counters::set(&self.counters.memory_bytes, 0);
        Counters::add(&self.counters.load_failures, 1);
        let mut state = self.state();
        let wait = match &state.failure {
            // A file that is not there costs nothing to look for, and comes when it comes.
            _ if matches!(error, EngineError::NotPulled { .. }) => Duration::ZERO,
            Some(failure) => (2 * failure.wait).clamp(FIRST_RETRY, MAX_RETRY),
            None => FIRST_RETRY,
        };
        state.failure = Some(Failure {
            error: error.clone(),
            at: Instant::now(),
            wait,
        });
    }

    /// When it was last used, if it holds memory that nobody needs now.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let state = self.state();
        let is_loaded = state.loading.as_ref().is_some_and(is_loaded);
        (is_loaded && self.admitted() == 0).then_some(state.last_used)
    }

    /// Lets an idle model go. A request takes its seat before it looks for the model, under the same lock, so none is lost.
    pub(super) fn unload_if_idle(&self) -> bool {
        let mut state = self.state();
        let may_go = state.loading.as_ref().is_some_and(is_loaded) && self.admitted() == 0;
        if may_go {
            state.loading = None;
            Counters::set(&self.counters.memory_bytes, 0);
            Counters::add(&self.counters.unloads, 1);
            tracing::info!(model = %self.entry.id, "model unloaded");
        }
        may_go
    }

    /// The thread of a model that was let go and may still hold its memory.
    pub(super) fn leaving(&self) -> Option<JoinHandle<()>> {
        let mut state = self.state();
        match &state.loading {
            Some(loading) if is_usable(loading) => None,
            _ => state.thread.take(),
        }
    }

    pub(super) fn wake(&self) {
        if let Some(loading) = &self.state().loading
            && let Some(Ok(front)) = &*loading.borrow()
        {
            // A thread that ended already needs no waking.
            let _ = front.inbox.send(Command::Wake);
        }
    }

    pub(super) fn info(&self, model_dir: &Path) -> ModelInfo {
        let state = self.state();
        let is_usable = state.loading.as_ref().is_some_and(is_usable);
        let is_loaded = state.loading.as_ref().is_some_and(is_loaded);
        ModelInfo {
            entry: self.entry,
            is_pulled: self.entry.is_in(model_dir),
            is_loaded,
            is_loading: is_usable && !is_loaded,
            failure: state.failure.as_ref().map(|failure| failure.error.clone()),
        }
    }

    fn admitted(&self) -> u64 {
        self.counters.admitted.load(Ordering::SeqCst)
    }
}

/// Loaded, or on its way.
fn is_usable(loading: &Loading) -> bool {
    match &*loading.borrow() {
        Some(result) => result.is_ok(),
        None => loading.has_changed().is_ok(),
    }
}

fn is_loaded(loading: &Loading) -> bool {
    matches!(&*loading.borrow(), Some(Ok(_)))
}
