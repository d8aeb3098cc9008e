//! The thread that owns a loaded model: loads it, warms it up, and takes one step after another.

use super::load::{Load, Loaded};
use super::slot::{Loading, ModelSlot};
use crate::adapter::AdapterSource;
use crate::adapter::registry::Registry;
use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::front::{Adapters, Command, ModelFront};
use crate::stats::Counters;
use crate::step::{Runner, Turn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often the engine looks whether a paused reader has made room, when it has nothing else to do.
const PAUSE_POLL: Duration = Duration::from_millis(2);
/// How often it looks whether a caller has left, while all wait for adapters. It is woken when an adapter is there.
const ADAPTER_POLL: Duration = Duration::from_millis(50);

/// Starts the thread of `slot`'s model once the threads that are `leaving` have given their memory back.
pub(super) fn spawn(
    slot: &Arc<ModelSlot>,
    leaving: Vec<JoinHandle<()>>,
    load: Load,
    source: Option<Arc<dyn AdapterSource>>,
    config: EngineConfig,
    is_stopping: Arc<AtomicBool>,
) -> Result<Loading, EngineError> {
    let (publish, loading) = watch::channel(None);
    // The slot holds the way to this thread; held in turn it would never let go.
    let place = Arc::downgrade(slot);
    let entry = slot.entry;
    let counters = Arc::clone(&slot.counters);
    let thread = std::thread::Builder::new()
        .name("engine".to_owned())
        .spawn(move || {
            kernels::lower_thread_priority();
            for thread in leaving {
                // One that panicked has given its memory back all the same.
                let _ = thread.join();
            }
            tracing::info!(model = %entry.id, "model loading");
            let started = Instant::now();
            let loaded = catch_unwind(AssertUnwindSafe(|| {
                let loaded = load(entry)?;
                let (inbox, commands) = channel();
                let adapters = adapters(&loaded, source, &config, &inbox, &counters);
                // As much as they may come to take.
                let adapter_bytes = adapters
                    .as_ref()
                    .map_or(0, |_| config.adapter_cache_bytes());
                let tokenizer = Arc::new(loaded.tokenizer);
                let (mut runner, window) = Runner::new(
                    loaded.model,
                    Arc::clone(&tokenizer),
                    loaded.window,
                    &config,
                    counters,
                );
                runner.warm_up();
                let usual = entry.max_tokens as usize;
                let template = loaded.template;
                let front = ModelFront::new(tokenizer, template, window, usual, adapters, inbox);
                let bytes = loaded.weight_bytes + runner.kv_bytes() + adapter_bytes;
                Ok((Arc::new(front), runner, commands, bytes))
            }));
            let loaded =
                loaded.unwrap_or_else(|_| Err(EngineError::Load("loading panicked".to_owned())));
            let (runner, commands) = match loaded {
                Ok((front, runner, commands, bytes)) => {
                    let load_ms = started.elapsed().as_millis() as u64;
                    tracing::info!(model = %entry.id, load_ms, bytes, "model loaded");
                    if let Some(slot) = place.upgrade() {
                        slot.set_loaded(bytes);
                    }
                    publish.send_replace(Some(Ok(front)));
                    (runner, commands)
                }
                Err(error) => {
                    tracing::warn!(model = %entry.id, %error, "model not loaded");
                    if let Some(slot) = place.upgrade() {
                        slot.set_failed(&error);
                    }
                    publish.send_replace(Some(Err(error)));
                    return;
                }
            };
            // The sender would keep the published front, and with it the inbox, alive for ever.
            drop(publish);
            let idle_unload = Some(config.idle_unload_s)
                .filter(|seconds| *seconds > 0)
                .map(Duration::from_secs);
            run(runner, &commands, &is_stopping, &place, idle_unload);
        })
        .map_err(|error| EngineError::Internal(format!("no thread for the model: {error}")))?;
    slot.set_loading(&loading, thread);
    Ok(loading)
}

/// Commands in, steps, until told to stop or nobody is left who could ask.
fn run(
    mut runner: Runner,
    commands: &Receiver<Command>,
    is_stopping: &AtomicBool,
    slot: &Weak<ModelSlot>,
    idle_unload: Option<Duration>,
) {
    let mut last = Turn::Idle;
    loop {
        let mut command = match last {
            Turn::Idle => wait(commands, slot, idle_unload),
            Turn::Paused => wait_for(commands, PAUSE_POLL),
            Turn::Waiting => wait_for(commands, ADAPTER_POLL),
            Turn::Worked => commands.try_recv(),
        };
        while let Ok(received) = command {
            if let Command::Run(sequences) = received {
                for sequence in sequences {
                    runner.enqueue(sequence);
                }
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

fn adapters(
    loaded: &Loaded,
    source: Option<Arc<dyn AdapterSource>>,
    config: &EngineConfig,
    inbox: &Sender<Command>,
    counters: &Arc<Counters>,
) -> Adapters {
    let source = source.ok_or("no adapters are configured here")?;
    let loader = loaded.model.adapter_loader();
    let loader = loader.ok_or("this model takes no adapters")?;
    let inbox = inbox.clone();
    let wake = Box::new(move || {
        // A thread that ended already needs no waking.
        let _ = inbox.send(Command::Wake);
    });
    let capacity = config.adapter_cache_bytes();
    Ok(Registry::new(
        source,
        loader,
        capacity,
        wake,
        Arc::clone(counters),
    ))
}

fn wait_for(commands: &Receiver<Command>, patience: Duration) -> Result<Command, TryRecvError> {
    let command = commands.recv_timeout(patience);
    command.map_err(|error| match error {
        RecvTimeoutError::Timeout => TryRecvError::Empty,
        RecvTimeoutError::Disconnected => TryRecvError::Disconnected,
    })
}

/// Nothing to do: waits for a command, and lets the model go when none comes for so long.
fn wait(
    commands: &Receiver<Command>,
    slot: &Weak<ModelSlot>,
    idle_unload: Option<Duration>,
) -> Result<Command, TryRecvError> {
    let Some(patience) = idle_unload else {
        return commands.recv().map_err(|_| TryRecvError::Disconnected);
    };
    loop {
        match commands.recv_timeout(patience) {
            Ok(command) => return Ok(command),
            Err(RecvTimeoutError::Disconnected) => return Err(TryRecvError::Disconnected),
            Err(RecvTimeoutError::Timeout) => {
                if let Some(slot) = slot.upgrade() {
                    slot.unload_if_idle();
                }
            }
        }
    }
}
