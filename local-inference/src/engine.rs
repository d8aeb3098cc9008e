//! The engine's handle and its threads: one for each model that was asked for.

use crate::catalogue::{self, CatalogueEntry};
use crate::config::EngineConfig;
use crate::embed::Encoders;
use crate::error::EngineError;
use crate::front::{Command, ModelFront};
use crate::model::CausalModel;
use crate::model::llama::Llama;
use crate::prompt::chat_template::ChatTemplate;
use crate::prompt::tokenizer::Tokenizer;
use crate::request::{GenerateRequest, Generation};
use crate::sequence::Seat;
use crate::stats::{Counters, Stats};
use crate::step::{Runner, Turn};
use crate::weights::gguf::Gguf;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often the engine looks whether a paused reader has made room, when it has nothing else to do.
const PAUSE_POLL: Duration = Duration::from_millis(2);

/// Starts engines.
pub struct Engine;

impl Engine {
    /// Never fails and loads nothing: a model is loaded by its first request, and one that cannot load answers its error.
    pub fn start(config: EngineConfig) -> EngineHandle {
        let mut models = Vec::new();
        for id in &config.models {
            match catalogue::find(id) {
                Some(entry) => models.push(ModelSlot::new(entry)),
                None if Encoders::is_known(id) => {}
                None => tracing::warn!(model = id, "unknown model in the engine's configuration"),
            }
        }
        let load: Load = {
            let config = config.clone();
            Arc::new(move |entry| load_file(entry, &config))
        };
        EngineHandle::new(config, models, load)
    }
}

/// What a model's thread needs to begin.
pub(crate) struct Loaded {
    pub model: Box<dyn CausalModel>,
    pub tokenizer: Tokenizer,
    pub template: ChatTemplate,
    pub window: usize,
}

pub(crate) type Load = Arc<dyn Fn(&CatalogueEntry) -> Result<Loaded, EngineError> + Send + Sync>;

/// The way to the engine. Clones share it; when the last is dropped its threads end.
#[derive(Clone)]
pub struct EngineHandle {
    inner: Arc<Inner>,
}

struct Inner {
    config: EngineConfig,
    models: Vec<ModelSlot>,
    encoders: Encoders,
    load: Load,
    is_stopping: Arc<AtomicBool>,
}

type Loading = watch::Receiver<Option<Result<Arc<ModelFront>, EngineError>>>;

pub(crate) struct ModelSlot {
    entry: &'static CatalogueEntry,
    counters: Arc<Counters>,
    /// `None` until first asked for. A load that failed is tried again by the next request: the file may have come since.
    loading: Mutex<Option<Loading>>,
}

impl ModelSlot {
    pub(crate) fn new(entry: &'static CatalogueEntry) -> ModelSlot {
        ModelSlot {
            entry,
            counters: Arc::default(),
            loading: Mutex::new(None),
        }
    }

    fn is_loaded(&self) -> bool {
        let loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        loading
            .as_ref()
            .is_some_and(|state| matches!(&*state.borrow(), Some(Ok(_))))
    }
}

/// A model requests may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    pub entry: &'static CatalogueEntry,
    /// Its file is in the model directory.
    pub is_pulled: bool,
    pub is_loaded: bool,
}

impl EngineHandle {
    pub(crate) fn new(config: EngineConfig, models: Vec<ModelSlot>, load: Load) -> EngineHandle {
        let is_stopping = Arc::default();
        EngineHandle {
            inner: Arc::new(Inner {
                encoders: Encoders::new(&config),
                config,
                models,
                load,
                is_stopping,
            }),
        }
    }

    /// Queues a request and gives its events. Waits while the model loads, not while others run.
    ///
    /// # Errors
    /// Everything that is known before the first token. Later failures come as an event.
    pub async fn generate(&self, request: GenerateRequest) -> Result<Generation, EngineError> {
        let slot = self
            .inner
            .models
            .iter()
            .find(|slot| slot.entry.id.eq_ignore_ascii_case(&request.model))
            .ok_or_else(|| EngineError::UnknownModel {
                model: request.model.clone(),
            })?;
        request.sampling.check()?;
        let config = &self.inner.config;
        let limit = match request.reject_if_busy {
            true => config.max_running,
            false => config.max_running.saturating_add(config.max_waiting),
        };
        // Before any work is done for it: what waits for a load or is being tokenised is bounded too.
        let seat = Seat::take(&slot.counters, limit.max(1) as u64).ok_or(EngineError::Busy)?;
        let front = self.front(slot).await?;
        front.submit(request, seat).await
    }

    pub(crate) fn encoders(&self) -> &Encoders {
        &self.inner.encoders
    }

    /// The configured models.
    pub fn models(&self) -> Vec<ModelInfo> {
        let is_pulled = |slot: &ModelSlot| {
            let path = self.inner.config.model_dir.join(slot.entry.file);
            path.metadata()
                .is_ok_and(|file| file.len() == slot.entry.bytes)
        };
        self.inner
            .models
            .iter()
            .map(|slot| ModelInfo {
                entry: slot.entry,
                is_pulled: is_pulled(slot),
                is_loaded: slot.is_loaded(),
            })
            .collect()
    }

    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        for slot in &self.inner.models {
            slot.counters.read_into(&mut stats);
        }
        stats
    }

    /// Ends every generation with an error and the threads with it. For a clean end, wait until none is running first.
    pub fn stop(&self) {
        self.inner.is_stopping.store(true, Ordering::SeqCst);
        self.inner.encoders.stop();
        for slot in &self.inner.models {
            let loading = slot.loading.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(state) = &*loading
                && let Some(Ok(front)) = &*state.borrow()
            {
                // A thread that ended already needs no waking.
                let _ = front.inbox.send(Command::Wake);
            }
        }
    }

    /// The loaded model; loads it on first use, once for all who wait.
    async fn front(&self, slot: &ModelSlot) -> Result<Arc<ModelFront>, EngineError> {
        if self.inner.is_stopping.load(Ordering::SeqCst) {
            return Err(EngineError::Internal("the engine is stopping".to_owned()));
        }
        let mut state = {
            let mut loading = slot.loading.lock().unwrap_or_else(PoisonError::into_inner);
            match &*loading {
                Some(state) if is_usable(state) => state.clone(),
                _ => loading.insert(self.spawn(slot)?).clone(),
            }
        };
        match state.wait_for(Option::is_some).await {
            Ok(result) => result.clone().expect("waited until it is there"),
            Err(_) => Err(EngineError::Load(
                "the model's thread ended while loading".to_owned(),
            )),
        }
    }

    fn spawn(&self, slot: &ModelSlot) -> Result<Loading, EngineError> {
        let (publish, loading) = watch::channel(None);
        let load = Arc::clone(&self.inner.load);
        let entry = slot.entry;
        let counters = Arc::clone(&slot.counters);
        let is_stopping = Arc::clone(&self.inner.is_stopping);
        let max_running = self.inner.config.max_running.max(1);
        std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || {
                kernels::lower_thread_priority();
                let started = Instant::now();
                let loaded = catch_unwind(AssertUnwindSafe(|| {
                    let loaded = load(entry)?;
                    let (inbox, commands) = channel();
                    let front = Arc::new(ModelFront {
                        tokenizer: Arc::new(loaded.tokenizer),
                        template: loaded.template,
                        window: loaded.window,
                        inbox,
                    });
                    let tokenizer = Arc::clone(&front.tokenizer);
                    let runner = Runner::new(
                        loaded.model,
                        tokenizer,
                        loaded.window,
                        max_running,
                        counters,
                    );
                    Ok((front, runner, commands))
                }));
                let loaded = loaded
                    .unwrap_or_else(|_| Err(EngineError::Load("loading panicked".to_owned())));
                let (runner, commands) = match loaded {
                    Ok((front, runner, commands)) => {
                        let load_ms = started.elapsed().as_millis() as u64;
                        tracing::info!(model = entry.id, load_ms, "model loaded");
                        publish.send_replace(Some(Ok(front)));
                        (runner, commands)
                    }
                    Err(error) => {
                        tracing::warn!(model = entry.id, %error, "model not loaded");
                        publish.send_replace(Some(Err(error)));
                        return;
                    }
                };
                // The sender would keep the published front, and with it the inbox, alive for ever.
                drop(publish);
                run(runner, &commands, &is_stopping);
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

/// The engine thread: commands in, steps, until told to stop or nobody is left who could ask.
fn run(mut runner: Runner, commands: &Receiver<Command>, is_stopping: &AtomicBool) {
    let mut last = Turn::Idle;
    loop {
        let mut command = match last {
            Turn::Idle => commands.recv().map_err(|_| TryRecvError::Disconnected),
            Turn::Paused => commands
                .recv_timeout(PAUSE_POLL)
                .map_err(|error| match error {
                    RecvTimeoutError::Timeout => TryRecvError::Empty,
                    RecvTimeoutError::Disconnected => TryRecvError::Disconnected,
                }),
            Turn::Worked => commands.try_recv(),
        };
        while let Ok(received) = command {
            if let Command::Run(sequence) = received {
                runner.enqueue(*sequence);
            }
            command = commands.try_recv();
        }
        if is_stopping.load(Ordering::SeqCst) {
            runner.fail_all(&EngineError::Internal("the engine is stopping".to_owned()));
            return;
        }
        let is_last = last == Turn::Idle && matches!(command, Err(TryRecvError::Disconnected));
        last = catch_unwind(AssertUnwindSafe(|| runner.turn())).unwrap_or_else(|_| {
            tracing::error!("a step panicked; its sequences are failed and the engine goes on");
            runner.fail_all(&EngineError::Internal(
                "a step of the engine failed".to_owned(),
            ));
            Turn::Idle
        });
        if is_last && last == Turn::Idle {
            return;
        }
    }
}

fn load_file(entry: &CatalogueEntry, config: &EngineConfig) -> Result<Loaded, EngineError> {
    let path = config.model_dir.join(entry.file);
    if !path.exists() {
        return Err(EngineError::NotPulled {
            model: entry.id.to_owned(),
            how: format!("run `ai-gateway model pull {}`", entry.id),
        });
    }
    read_model(entry, &path, config)
        .map_err(|error| EngineError::Load(format!("`{}`: {error}", entry.file)))
}

fn read_model(
    entry: &CatalogueEntry,
    path: &Path,
    config: &EngineConfig,
) -> Result<Loaded, Box<dyn std::error::Error>> {
    let file = std::fs::File::open(path)?;
    let size = file.metadata()?.len();
    if size != entry.bytes {
        return Err(format!("has {size} bytes instead of {}, pull it again", entry.bytes).into());
    }
    let bytes = crate::weights::map(&file)?;
    let header = Gguf::parse(&bytes)?;
    let tokenizer = Tokenizer::from_gguf(&header)?;
    let token_text = |key: &str| {
        let id = header
            .integer(key)
            .ok()
            .and_then(|id| usize::try_from(id).ok());
        let tokens = header.texts("tokenizer.ggml.tokens").unwrap_or_default();
        id.and_then(|id| tokens.get(id).copied())
            .unwrap_or_default()
    };
    let bos = token_text("tokenizer.ggml.bos_token_id");
    let eos = token_text("tokenizer.ggml.eos_token_id");
    let template = ChatTemplate::new(header.text("tokenizer.chat_template")?, bos, eos)?;
    let window = match config.max_context {
        0 => entry.context as usize,
        bound => bound.min(entry.context as usize),
    };
    let pool = kernels::Pool::with_setup(config.thread_count(), kernels::lower_thread_priority);
    let model = Llama::load(&header, &bytes, window, pool)?;
    if tokenizer.vocabulary() != model.vocabulary() {
        return Err("tokenizer and weights differ in their vocabulary".into());
    }
    tracing::debug!(weight_bytes = model.weight_bytes(), "weights packed");
    Ok(Loaded {
        model: Box::new(model),
        tokenizer,
        template,
        window,
    })
}
