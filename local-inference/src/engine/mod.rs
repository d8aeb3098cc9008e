//! The engine's handle: which models there are, which of them are loaded, and the way to each.

mod budget;
mod load;
mod slot;
mod thread;

#[cfg(test)]
mod tests;

pub(crate) use load::{Load, Loaded, load_file};
pub(crate) use slot::ModelSlot;

use crate::adapter::AdapterSource;
use crate::catalogue::{self, CatalogueEntry, Task};
use crate::config::EngineConfig;
use crate::embed::Encoders;
use crate::error::EngineError;
use crate::front::ModelFront;
use crate::request::{GenerateRequest, Generation};
use crate::seat::Seat;
use crate::stats::Stats;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Starts engines.
pub struct Engine;

impl Engine {
    /// Never fails and waits for nothing: models named in `preload` begin to load, others with their first request, and one that
    /// cannot load answers its error.
    /// Requests that name an adapter are refused.
    pub fn start(config: EngineConfig) -> EngineHandle {
        Engine::start_from(config, None)
    }

    /// As [`Engine::start`]; requests may name adapters, whose files `adapters` gives.
    pub fn start_with_adapters(
        config: EngineConfig,
        adapters: Arc<dyn AdapterSource>,
    ) -> EngineHandle {
        Engine::start_from(config, Some(adapters))
    }

    fn start_from(config: EngineConfig, adapters: Option<Arc<dyn AdapterSource>>) -> EngineHandle {
        let mut models = Vec::new();
        for id in &config.models {
            match catalogue::find(id) {
                Some(entry) if entry.task == Task::TextGeneration => {
                    models.push(ModelSlot::new(entry));
                }
                _ if Encoders::is_known(id) => {}
                Some(_) => tracing::warn!(model = id, "no part of the engine runs this model"),
                None => tracing::warn!(model = id, "unknown model in the engine's configuration"),
            }
        }
        for entry in &config.custom_models {
            // Once for each entry of the configuration: the rest of the engine's life.
            models.push(ModelSlot::new(Box::leak(Box::new(entry.clone()))));
        }
        let load: Load = {
            let config = config.clone();
            Arc::new(move |entry| load::load_file(entry, &config))
        };
        let handle = EngineHandle::new(config, models, load, adapters);
        handle.preload();
        handle
    }
}

/// The way to the engine. Clones share it; when the last is dropped its threads end.
#[derive(Clone)]
pub struct EngineHandle {
    inner: Arc<Inner>,
}

struct Inner {
    config: EngineConfig,
    models: Vec<Arc<ModelSlot>>,
    encoders: Encoders,
    load: Load,
    adapters: Option<Arc<dyn AdapterSource>>,
    /// Held while one model makes room for itself, so that no two take the same room.
    loading: Mutex<()>,
    is_stopping: Arc<AtomicBool>,
}

/// A model requests may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    pub entry: &'static CatalogueEntry,
    /// Its file is in the model directory.
    pub is_pulled: bool,
    pub is_loaded: bool,
    /// On its way; requests wait for it.
    pub is_loading: bool,
    /// Why it could not be loaded the last time.
    pub failure: Option<EngineError>,
}

impl EngineHandle {
    pub(crate) fn new(
        config: EngineConfig,
        models: Vec<ModelSlot>,
        load: Load,
        adapters: Option<Arc<dyn AdapterSource>>,
    ) -> EngineHandle {
        EngineHandle {
            inner: Arc::new(Inner {
                encoders: Encoders::new(&config),
                config,
                models: models.into_iter().map(Arc::new).collect(),
                load,
                adapters,
                loading: Mutex::new(()),
                is_stopping: Arc::default(),
            }),
        }
    }

    /// Queues a request and gives its events. Waits while the model loads, not while others run.
    ///
    /// # Errors
    /// Everything that is known before the first token. Later failures come as an event.
    pub async fn generate(&self, request: GenerateRequest) -> Result<Generation, EngineError> {
        self.refuse_if_stopping()?;
        let slot = self.slot(&request.model)?;
        request.sampling.check()?;
        let config = &self.inner.config;
        let choices = u64::from(request.choices);
        let most = config.max_seats() as u64;
        if !(1..=most).contains(&choices) {
            let reason = format!("must be between 1 and {most}, got {choices}");
            return Err(EngineError::Invalid { field: "n", reason });
        }
        let limit = match request.reject_if_busy {
            // More choices than running places have to take turns in any case.
            true => (config.max_running.max(1) as u64).max(choices),
            false => most,
        };
        // Before any work is done for it: what waits for a load or is being tokenised is bounded too.
        let seats = Seat::take(&slot.counters, choices, limit).ok_or(EngineError::Busy)?;
        let front = self.front(slot).await?;
        front.submit(request, seats).await
    }

    /// The configured models.
    pub fn models(&self) -> Vec<ModelInfo> {
        let models = self.inner.models.iter();
        models
            .map(|slot| slot.info(&self.inner.config.model_dir))
            .collect()
    }

    /// The sum over all models.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        for slot in &self.inner.models {
            stats += slot.counters.read();
        }
        stats
    }

    /// Each model's own, in the order of [`EngineHandle::models`].
    pub fn model_stats(&self) -> Vec<(&'static CatalogueEntry, Stats)> {
        let models = self.inner.models.iter();
        models
            .map(|slot| (slot.entry, slot.counters.read()))
            .collect()
    }

    /// Ends every generation with an error and the threads with it. For a clean end, wait until none is running first.
    pub fn stop(&self) {
        self.inner.is_stopping.store(true, Ordering::SeqCst);
        self.inner.encoders.stop();
        for slot in &self.inner.models {
            slot.wake();
        }
    }

    fn refuse_if_stopping(&self) -> Result<(), EngineError> {
        match self.inner.is_stopping.load(Ordering::SeqCst) {
            true => Err(EngineError::Internal("the engine is stopping".to_owned())),
            false => Ok(()),
        }
    }

    pub(crate) fn config(&self) -> &EngineConfig {
        &self.inner.config
    }

    pub(crate) fn encoders(&self) -> &Encoders {
        &self.inner.encoders
    }

    fn slot(&self, model: &str) -> Result<&Arc<ModelSlot>, EngineError> {
        let mut models = self.inner.models.iter();
        models
            .find(|slot| slot.entry.is_called(model))
            .ok_or_else(|| EngineError::UnknownModel {
                model: model.to_owned(),
            })
    }

    /// The loaded model; loads it on first use, once for all who wait.
    async fn front(&self, slot: &Arc<ModelSlot>) -> Result<Arc<ModelFront>, EngineError> {
        let mut state = match slot.usable() {
            Some(state) => state,
            None => self.begin_loading(slot)?,
        };
        match state.wait_for(Option::is_some).await {
            Ok(result) => result.clone().expect("waited until it is there"),
            Err(_) => Err(EngineError::Load(
                "the model's thread ended while loading".to_owned(),
            )),
        }
    }

    /// Makes room for the model and starts its thread; does not wait for it.
    fn begin_loading(&self, slot: &Arc<ModelSlot>) -> Result<slot::Loading, EngineError> {
        self.refuse_if_stopping()?;
        let inner = &self.inner;
        let _one_at_a_time = inner.loading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = slot.usable() {
            return Ok(state);
        }
        slot.may_try()?;
        let leaving =
            budget::make_room(slot, &inner.models, &inner.config, inner.adapters.is_some())?;
        let begun = thread::spawn(
            slot,
            leaving,
            Arc::clone(&inner.load),
            inner.adapters.clone(),
            inner.config.clone(),
            Arc::clone(&inner.is_stopping),
        );
        if let Err(error) = &begun {
            slot.set_failed(error);
        }
        begun
    }

    fn preload(&self) {
        for id in &self.inner.config.preload {
            let begun = self.slot(id).and_then(|slot| self.begin_loading(slot));
            if let Err(error) = begun {
                tracing::warn!(model = id, %error, "model not preloaded");
            }
        }
    }
}
