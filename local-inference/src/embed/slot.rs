//! The configured encoders, each loaded on first use, and the caller's side of them.

use super::Pooling;
use super::encoder::{Encoder, Input};
use super::entries::{self, EncoderEntry};
use super::files::{Folder, Head};
use super::worker::{self, Job, Task};
use crate::config::EngineConfig;
use crate::error::EngineError;
use candle_core::Device;
use kernels::Pool;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokenizers::{EncodeInput, Tokenizer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

/// All encoders of an engine.
pub(crate) struct Encoders {
    slots: Vec<Slot>,
    is_stopping: Arc<AtomicBool>,
}

impl Encoders {
    /// Those of the configured models that are encoders; loads nothing.
    pub(crate) fn new(config: &EngineConfig) -> Encoders {
        let is_stopping = Arc::default();
        let slots = config
            .models
            .iter()
            .filter_map(|id| entries::find(id))
            .map(|entry| Slot::new(entry, config, &is_stopping))
            .collect();
        Encoders { slots, is_stopping }
    }

    pub(crate) fn is_known(id: &str) -> bool {
        entries::find(id).is_some()
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &'static EncoderEntry> {
        self.slots.iter().map(|slot| slot.entry)
    }

    pub(super) fn find(&self, model: &str) -> Result<&Slot, EngineError> {
        self.slots
            .iter()
            .find(|slot| slot.entry.id.eq_ignore_ascii_case(model))
            .ok_or_else(|| EngineError::UnknownModel {
                model: model.to_owned(),
            })
    }

    /// Running requests end with an error after their batch, the threads with them.
    pub(crate) fn stop(&self) {
        self.is_stopping.store(true, Ordering::SeqCst);
        for slot in &self.slots {
            *slot.loading.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

/// What requests share of a loaded encoder.
struct Front {
    tokenizer: Tokenizer,
    usual_pooling: Option<Pooling>,
    inbox: Sender<Job>,
}

type Loading = watch::Receiver<Option<Result<Arc<Front>, EngineError>>>;

pub(super) struct Slot {
    entry: &'static EncoderEntry,
    config: EngineConfig,
    is_stopping: Arc<AtomicBool>,
    /// A place for each request, running or waiting.
    seats: Arc<Semaphore>,
    /// `None` until first asked for. A load that failed is tried again by the next request.
    loading: Mutex<Option<Loading>>,
}

impl Slot {
    pub(super) fn new(
        entry: &'static EncoderEntry,
        config: &EngineConfig,
        is_stopping: &Arc<AtomicBool>,
    ) -> Slot {
        let seats = config.max_waiting.saturating_add(1);
        Slot {
            entry,
            config: config.clone(),
            is_stopping: Arc::clone(is_stopping),
            seats: Arc::new(Semaphore::new(seats.min(Semaphore::MAX_PERMITS))),
            loading: Mutex::new(None),
        }
    }

    pub(super) fn entry(&self) -> &'static EncoderEntry {
        self.entry
    }

    #[cfg(test)]
    pub(super) fn free_seats(&self) -> usize {
        self.seats.available_permits()
    }

    /// A vector for each text, and the tokens read.
    pub(super) async fn embed(
        &self,
        texts: Vec<String>,
        pooling: Option<Pooling>,
    ) -> Result<(Vec<Vec<f32>>, u32), EngineError> {
        let texts = texts.into_iter().map(EncodeInput::from).collect();
        self.run(texts, |front| {
            let usual = self.entry.pooling.or(front.usual_pooling);
            Task::Embed(pooling.or(usual).unwrap_or(Pooling::Mean))
        })
        .await
    }

    /// A score for each context, and the tokens read.
    pub(super) async fn score(
        &self,
        query: String,
        contexts: Vec<String>,
    ) -> Result<(Vec<f32>, u32), EngineError> {
        let pair = |context| EncodeInput::from((query.clone(), context));
        let texts = contexts.into_iter().map(pair).collect();
        let (scores, prompt_tokens) = self.run(texts, |_| Task::Score).await?;
        Ok((scores.into_iter().flatten().collect(), prompt_tokens))
    }

    async fn run(
        &self,
        texts: Vec<EncodeInput<'static>>,
        task: impl FnOnce(&Front) -> Task,
    ) -> Result<(Vec<Vec<f32>>, u32), EngineError> {
        // Before any work is done for it: what waits for a load or is being tokenised is bounded too.
        let seat = self.seat()?;
        let front = self.front().await?;
        let task = task(&front);
        let inputs = {
            let front = Arc::clone(&front);
            tokio::task::spawn_blocking(move || tokenise(&front.tokenizer, texts))
                .await
                .map_err(|error| EngineError::Internal(error.to_string()))??
        };
        let prompt_tokens = inputs.iter().map(|input| input.ids.len()).sum::<usize>();
        let (reply, answer) = oneshot::channel();
        let job = Job::new(inputs, task, reply, seat);
        let ended = |_| EngineError::Internal("the model's thread has ended".to_owned());
        front
            .inbox
            .send(job)
            .map_err(|_| EngineError::Internal("the model's thread has ended".to_owned()))?;
        drop(front);
        let rows = answer.await.map_err(ended)??;
        Ok((rows, u32::try_from(prompt_tokens).unwrap_or(u32::MAX)))
    }

    fn seat(&self) -> Result<OwnedSemaphorePermit, EngineError> {
        Arc::clone(&self.seats)
            .try_acquire_owned()
            .map_err(|_| EngineError::Busy)
    }

    /// The loaded model; loads it on first use, once for all who wait.
    async fn front(&self) -> Result<Arc<Front>, EngineError> {
        if self.is_stopping.load(Ordering::SeqCst) {
            return Err(EngineError::Internal("the engine is stopping".to_owned()));
        }
        let mut state = {
            let mut loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
            match &*loading {
                Some(state) if is_usable(state) => state.clone(),
                _ => loading.insert(self.spawn()?).clone(),
            }
        };
        match state.wait_for(Option::is_some).await {
            Ok(result) => result.clone().expect("waited until it is there"),
            Err(_) => Err(EngineError::Load(
                "the model's thread ended while loading".to_owned(),
            )),
        }
    }

    fn spawn(&self) -> Result<Loading, EngineError> {
        let (publish, loading) = watch::channel(None);
        let (entry, config) = (self.entry, self.config.clone());
        let is_stopping = Arc::clone(&self.is_stopping);
        std::thread::Builder::new()
            .name("encoder".to_owned())
            .spawn(move || {
                kernels::lower_thread_priority();
                let started = Instant::now();
                let loaded = catch_unwind(AssertUnwindSafe(|| load(entry, &config)))
                    .unwrap_or_else(|_| Err(EngineError::Load("loading panicked".to_owned())));
                match loaded {
                    Ok(loaded) => {
                        let load_ms = started.elapsed().as_millis() as u64;
                        tracing::info!(model = entry.id, load_ms, "model loaded");
                        let (inbox, jobs) = channel();
                        let front = Front {
                            tokenizer: loaded.tokenizer,
                            usual_pooling: loaded.usual_pooling,
                            inbox,
                        };
                        publish.send_replace(Some(Ok(Arc::new(front))));
                        // The sender would keep the published front, and with it the inbox, alive for ever.
                        drop(publish);
                        worker::run(&loaded.encoder, &loaded.threads, &jobs, &is_stopping);
                    }
                    Err(error) => {
                        tracing::warn!(model = entry.id, %error, "model not loaded");
                        publish.send_replace(Some(Err(error)));
                    }
                }
            })
            .map_err(|error| EngineError::Internal(format!("no thread for the model: {error}")))?;
        Ok(loading)
    }
}

/// Loaded, or on its way.
fn is_usable(state: &Loading) -> bool {
    match &*state.borrow() {
        Some(result) => result.is_ok(),
        None => state.has_changed().is_ok(),
    }
}

struct Loaded {
    encoder: Encoder,
    tokenizer: Tokenizer,
    usual_pooling: Option<Pooling>,
    threads: rayon::ThreadPool,
}

fn load(entry: &EncoderEntry, config: &EngineConfig) -> Result<Loaded, EngineError> {
    let path = config.model_dir.join(entry.folder);
    if !path.exists() {
        return Err(EngineError::NotPulled {
            model: entry.id.to_owned(),
            how: format!("run `ai-gateway model pull {}`", entry.id),
        });
    }
    read(entry, &path, config)
        .map_err(|error| EngineError::Load(format!("`{}`: {error}", entry.folder)))
}

fn read(
    entry: &EncoderEntry,
    path: &Path,
    config: &EngineConfig,
) -> Result<Loaded, Box<dyn std::error::Error>> {
    let folder = Folder::open(path)?;
    let usual_pooling = match (folder.spec.head, entry.task) {
        (Head::Pool { usual, .. }, entries::EncoderTask::Embed) => Some(usual),
        (Head::Score, entries::EncoderTask::Rank) => None,
        (Head::Pool { .. }, _) => return Err("holds an encoder without a classifier".into()),
        (Head::Score, _) => return Err("holds a classifier and not an embedding model".into()),
    };
    let tokenizer = folder.tokenizer()?;
    let encoder = folder.with_weights(&Device::Cpu, |weights| {
        let pool = Pool::with_setup(config.thread_count(), kernels::lower_thread_priority);
        Encoder::new(&folder.spec, weights, pool)
    })?;
    let threads = rayon::ThreadPoolBuilder::new()
        .num_threads(config.thread_count())
        .thread_name(|number| format!("encoder-{number}"))
        .start_handler(|_| kernels::lower_thread_priority())
        .build()?;
    Ok(Loaded {
        encoder,
        tokenizer,
        usual_pooling,
        threads,
    })
}

fn tokenise(
    tokenizer: &Tokenizer,
    texts: Vec<EncodeInput<'static>>,
) -> Result<Vec<Input>, EngineError> {
    texts
        .into_iter()
        .map(|text| {
            let encoding = tokenizer
                .encode_fast(text, true)
                .map_err(|error| EngineError::Internal(format!("tokenizer: {error}")))?;
            Ok(Input {
                ids: encoding.get_ids().to_vec(),
                types: encoding.get_type_ids().to_vec(),
            })
        })
        .collect()
}
