//! `App`: what all requests share, built once at start; and the life of the process around it.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use analytics::{LogRecord, Recorder, Store, WriterHandle};
use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use bytes::Bytes;
use providers::Catalog;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::auth::LiveTokens;
use crate::backend::Reply;
use crate::backend::http_client::HttpClient;
use crate::backend::vertex::Exchanges;
use crate::cache::ReplyCache;
use crate::config::{Config, LiveConfig};
use crate::door::listen::{self, Listeners};
use crate::door::shutdown::Drain;
use crate::limit::shared::SharedWindows;
use crate::limit::{Flood, InFlight};
use crate::redis::Redis;
use crate::route::LocalTarget;
use crate::state::State;
use crate::tee::capture::Budget;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::rooms;

/// How long the old process keeps accepting after it handed its listeners over.
const HAND_OVER_OVERLAP: Duration = Duration::from_secs(1);
/// Longest wait for connections to close once nothing is in flight on them: the last frames of an
/// HTTP/2 answer leave after its request has ended.
const CLOSING_PATIENCE: Duration = Duration::from_secs(2);
/// Longest wait for requests that were told to end.
const CUT_PATIENCE: Duration = Duration::from_secs(2);
/// Longest wait for the record writer at the end.
const FLUSH_PATIENCE: Duration = Duration::from_secs(10);

pub struct App {
    pub live: Arc<LiveConfig>,
    pub tokens: Arc<LiveTokens>,
    pub http: HttpClient,
    pub exchanges: Exchanges,
    pub cache: ReplyCache,
    pub limits: Limits,
    redis: Option<Arc<Redis>>,
    pub catalog: ArcSwap<Catalog>,
    pub recorder: Recorder,
    pub store: Store,
    pub metrics: Metrics,
    /// Requests in flight.
    pub drain: Arc<Drain>,
    /// Open connections of callers.
    pub connections: Arc<Drain>,
    pub capture_budget: Arc<Budget>,
    draining: AtomicBool,
    /// True once the drain timeout is over: replies in flight end, and are recorded as cut.
    pub cut: watch::Sender<bool>,
    #[cfg(feature = "local")]
    engine: Option<Arc<crate::backend::local::Local>>,
}

/// The guards of `limit`, each with its own bound.
pub struct Limits {
    pub flood: Option<Flood>,
    pub in_flight: InFlight,
    pub windows: Arc<SharedWindows>,
}

impl Limits {
    fn new(config: &Config, redis: Option<Arc<Redis>>) -> Limits {
        Limits {
            flood: config.flood.as_ref().map(Flood::new),
            in_flight: InFlight::new(config.server.max_in_flight),
            windows: Arc::new(SharedWindows::new(redis)),
        }
    }
}

impl App {
    /// Builds everything that can fail before a listener is bound.
    pub async fn open(live: LiveConfig) -> anyhow::Result<(Arc<App>, WriterHandle)> {
        let config = live.load();
        let state = Arc::new(State::open(&config.data.dir).context("opening the state file")?);
        let tokens = LiveTokens::open(Arc::clone(&state)).context("reading the tokens")?;
        let tokens = Arc::new(tokens);
        if !config.server.is_loopback() && tokens.load().is_empty() {
            bail!(
                "server.listen = `{}` can be reached from other machines, and no token exists. Make one first: \
                 ai-gateway token create --label admin",
                config.server.listen
            );
        }
        let redis = match &config.redis {
            Some(redis) => Some(Redis::open(redis).await.context("reading redis.url")?),
            None => None,
        };
        let catalog = catalog(&config)?;
        let (recorder, store, writer) = analytics::open(&config.analytics)
            .await
            .context("opening the log store")?;
        #[cfg(feature = "local")]
        let engine = match &config.engine {
            Some(engine) => {
                let finetunes = finetunes(&config, state).context("opening the fine-tunes")?;
                let on_batched = batch_records(&recorder);
                Some(crate::backend::local::Local::start(
                    engine, finetunes, on_batched,
                ))
            }
            None => None,
        };
        let app = App {
            tokens,
            http: HttpClient::new(),
            exchanges: Exchanges::new()
                .context("preparing the exchange of service accounts' keys")?,
            cache: ReplyCache::with_shared(&config.cache, redis.clone()),
            limits: Limits::new(&config, redis.clone()),
            redis,
            catalog: ArcSwap::from_pointee(catalog),
            recorder,
            store,
            metrics: Metrics::new(),
            drain: Arc::new(Drain::default()),
            connections: Arc::new(Drain::default()),
            capture_budget: Budget::new(config.records.body_memory_bytes),
            draining: AtomicBool::new(false),
            cut: watch::Sender::new(false),
            #[cfg(feature = "local")]
            engine,
            live: Arc::new(live),
        };
        let windows = app.limits.windows.clone();
        app.live.on_reload(move |config| {
            windows.retain(|account, id| config.gateway(account, id).is_ok())
        });
        Ok((Arc::new(app), writer))
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Appends a record to the spool. A record that finds no room is counted and told, and never
    /// fails its request.
    pub fn record(&self, record: &LogRecord) {
        if let Err(lost) = self.recorder.record(record) {
            self.metrics.records_lost.inc();
            tracing::error!(event_id = record.request.event_id, %lost, "a record was lost");
        }
    }

    pub fn render_metrics(&self) -> String {
        self.metrics.in_flight.set(self.drain.in_flight() as i64);
        let mut text = self.metrics.render();
        rooms::records(&mut text, &self.recorder.stats());
        rooms::cache(&mut text, &self.cache.stats());
        if let Some(redis) = &self.redis {
            rooms::redis(&mut text, &redis.stats(), self.limits.windows.fallbacks());
        }
        #[cfg(feature = "local")]
        if let Some(engine) = &self.engine {
            let models = engine.engine().model_stats();
            let models: Vec<_> = models
                .into_iter()
                .map(|(entry, stats)| (&*entry.id, stats))
                .collect();
            rooms::engine(&mut text, &models);
        }
        text
    }

    #[cfg(feature = "local")]
    pub fn has_engine(&self) -> bool {
        self.engine.is_some()
    }

    #[cfg(feature = "local")]
    pub async fn engine_reply(&self, target: &LocalTarget, body: &Bytes) -> Reply {
        use crate::backend::local::{self, Call, Caller, Host};
        let caller = Caller {
            account: Arc::clone(&target.account),
            gateway: Arc::clone(&target.gateway),
            label: Arc::clone(&target.caller),
        };
        let call = Call {
            host: if target.is_rest {
                Host::Rest
            } else {
                Host::Gateway
            },
            caller: &caller,
            rest: &target.endpoint,
            query: target.query.as_deref(),
            body,
        };
        local::reply(self.engine.as_ref(), call).await
    }

    /// What the engine computes an answer with: the model by its name, and the adapter's content.
    #[cfg(feature = "local")]
    pub fn local_model(&self, target: &LocalTarget, model: &str, body: &[u8]) -> String {
        let local = self.engine.as_ref();
        let adapter =
            local.and_then(|local| local.adapter_of(&target.account, &target.endpoint, body));
        adapter.map_or_else(|| model.to_owned(), |hash| format!("{model}#{hash}"))
    }

    #[cfg(not(feature = "local"))]
    pub fn local_model(&self, _target: &LocalTarget, model: &str, _body: &[u8]) -> String {
        model.to_owned()
    }

    #[cfg(feature = "local")]
    pub fn local(&self) -> Option<&Arc<crate::backend::local::Local>> {
        self.engine.as_ref()
    }

    /// The engine's work for this much of a model; `None` without an engine.
    #[cfg(feature = "local")]
    pub fn neurons(&self, model: &str, usage: &providers::Usage) -> Option<f64> {
        let rates = self.engine.as_ref()?.meter().rates(model);
        let cached = usage.cache_read.unwrap_or(0);
        Some(rates.neurons(usage.in_total?, cached, usage.out_total.unwrap_or(0)))
    }

    #[cfg(not(feature = "local"))]
    pub fn has_engine(&self) -> bool {
        false
    }

    #[cfg(not(feature = "local"))]
    pub fn neurons(&self, _model: &str, _usage: &providers::Usage) -> Option<f64> {
        None
    }

    #[cfg(not(feature = "local"))]
    pub async fn engine_reply(&self, _target: &LocalTarget, _body: &Bytes) -> Reply {
        unreachable!("planning refuses local targets when no engine is built in")
    }

    #[cfg(feature = "local")]
    fn watch_finetunes(&self, stopped: watch::Receiver<bool>) -> Option<JoinHandle<()>> {
        let finetunes = Arc::clone(self.engine.as_ref()?.finetunes());
        Some(tokio::spawn(finetunes.watch(stopped)))
    }

    #[cfg(not(feature = "local"))]
    fn watch_finetunes(&self, _stopped: watch::Receiver<bool>) -> Option<JoinHandle<()>> {
        None
    }

    fn stop_engine(&self) {
        #[cfg(feature = "local")]
        if let Some(engine) = &self.engine {
            engine.engine().stop();
        }
    }
}

/// Requests of a batch leave rows of their own, when they are done.
#[cfg(feature = "local")]
fn batch_records(recorder: &Recorder) -> crate::backend::local::batch::OnBatched {
    let recorder = recorder.clone();
    Box::new(move |batched| {
        if let Err(lost) = recorder.record(&crate::record::of_batched(&batched)) {
            tracing::error!(batch = %batched.request_id, %lost, "a record was lost");
        }
    })
}

#[cfg(feature = "local")]
fn finetunes(
    config: &Config,
    state: Arc<State>,
) -> anyhow::Result<Arc<crate::finetunes::Finetunes>> {
    use crate::finetunes::{Finetunes, Folder};
    let folder = Folder::open(&config.data.dir)?;
    Ok(Arc::new(Finetunes::open(state, folder)?))
}

fn catalog(config: &Config) -> anyhow::Result<Catalog> {
    match &config.catalog_overrides {
        Some(text) => {
            Catalog::with_overrides(text).context("reading the price table named by catalog.file")
        }
        None => Ok(Catalog::embedded()),
    }
}

/// What `serve` was asked on the command line.
#[derive(Debug, Clone, Default)]
pub struct ServeOptions {
    pub config: Option<PathBuf>,
    /// Take the listeners over from the running process instead of binding them.
    pub upgrade: bool,
}

/// Runs the process until a signal ends it.
pub async fn serve(options: ServeOptions) -> anyhow::Result<()> {
    let live = LiveConfig::open(options.config.as_deref())?;
    let config = live.load();
    crate::telemetry::tracing::init(&config.log);
    // Known before the running process is asked to leave.
    if let Some(tls) = &config.server.tls {
        listen::check_tls(tls)?;
    }
    let (app, writer) = App::open(live).await?;
    let listeners = match options.upgrade {
        true => {
            let socket = config.server.upgrade_socket.clone();
            tracing::info!(socket = %socket.display(), "waiting for the running process to hand over its listeners");
            tokio::task::spawn_blocking(move || Listeners::take_over(&socket)).await??
        }
        false => Listeners::bind(&config.server.listen, &config.admin.listen)?,
    };
    let (stop, stopped) = watch::channel(false);
    let mut services = listen::start(&app, listeners, stopped.clone())?;
    let mut watchers = vec![
        tokio::spawn(app.live.clone().watch(stopped.clone())),
        tokio::spawn(app.tokens.clone().watch(stopped.clone())),
    ];
    watchers.extend(app.watch_finetunes(stopped.clone()));
    let mut signals = Signals::install()?;
    announce(listeners);

    tokio::select! {
        ended = wait_for_the_end(&app, listeners, &mut signals) => ended?,
        () = any_ended(&mut services) => bail!("a listener ended by itself; its reason stands above"),
    }
    app.draining.store(true, Ordering::Relaxed);
    tracing::info!(
        in_flight = app.drain.in_flight(),
        "leaving: no new connections, finishing what is in flight"
    );
    stop.send_replace(true);
    let patience = app.live.load().server.drain_timeout;
    let drained = tokio::time::timeout(patience, async {
        for service in services {
            if let Err(error) = service.await {
                tracing::error!(%error, "a listener did not end well");
            }
        }
        app.drain.wait(patience).await
    });
    if drained.await == Ok(true) {
        app.connections.wait(CLOSING_PATIENCE).await;
    } else {
        tracing::warn!(
            in_flight = app.drain.in_flight(),
            "requests were still in flight when the drain timeout ended; they are cut"
        );
        app.cut.send_replace(true);
        if !app.drain.wait(CUT_PATIENCE).await {
            tracing::error!(
                in_flight = app.drain.in_flight(),
                "requests did not end; they leave no row"
            );
        }
    }
    app.stop_engine();
    for task in watchers {
        task.abort();
    }
    writer.drain(FLUSH_PATIENCE).await;
    tracing::info!("stopped");
    Ok(())
}

/// Resolves when one of the services is over, which none is before it was told.
async fn any_ended(services: &mut [JoinHandle<()>]) {
    std::future::poll_fn(|context| {
        let is_over = services
            .iter_mut()
            .any(|service| Pin::new(service).poll(context).is_ready());
        if is_over {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await
}

/// One line of JSON on stdout, for whoever started us.
fn announce(listeners: Listeners) {
    let (server, admin) = (listeners.server.address, listeners.admin.address);
    println!(
        "{}",
        serde_json::json!({"event": "listening", "server": server.to_string(), "admin": admin.to_string()})
    );
    tracing::info!(%server, %admin, "listening");
}

/// The signals we answer to, installed before anybody is told that we listen.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    quit: Signal,
}

impl Signals {
    fn install() -> anyhow::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
        })
    }
}

/// SIGHUP reloads; SIGQUIT hands the listeners over and ends; SIGTERM and SIGINT end.
async fn wait_for_the_end(
    app: &App,
    listeners: Listeners,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return Ok(()),
            _ = signals.interrupt.recv() => return Ok(()),
            _ = signals.hang_up.recv() => {
                let live = app.live.clone();
                tokio::task::spawn_blocking(move || live.reload_now()).await?;
            }
            _ = signals.quit.recv() => {
                let socket = app.live.load().server.upgrade_socket.clone();
                match tokio::task::spawn_blocking(move || listeners.hand_over(&socket)).await? {
                    Ok(()) => {
                        tracing::info!("listeners handed over");
                        tokio::time::sleep(HAND_OVER_OVERLAP).await;
                        return Ok(());
                    }
                    // Ending without a successor would drop every caller.
                    Err(error) => tracing::error!(%error, "the hand-over failed; staying"),
                }
            }
        }
    }
}
