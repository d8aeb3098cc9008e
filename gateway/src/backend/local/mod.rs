//! The engine in this process, spoken to in the bytes of the Workers AI API.
//!
//! Bytes in ([`Local::serve`]), bytes out ([`LocalReply`]): the native form (`run/{model}`), and OpenAI's chat completions,
//! completions and responses. Knows no sockets and no gateway settings. Reading is lenient, as the original's clients need it:
//! unknown fields are ignored, known ones that cannot be honoured are refused by name.

mod adapters;
pub mod batch;
mod embed;
mod endpoint;
mod events;
mod fault;
mod input;
pub mod listing;
pub mod meter;
mod reply;
mod stream;
mod values;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use local_inference::catalogue::{self, CatalogueEntry, Task, Template};
use local_inference::{BackendKind, EngineConfig, EngineHandle, KvDtype};

use super::{Reply, ReplyBody};
use crate::config;
use crate::finetunes::{Finetunes, Source};
use batch::{Batches, OnBatched};
pub use endpoint::{LocalEndpoint, endpoint};
use events::Events;
pub use events::Tally;
use fault::Fault;
use input::{Asked, Generate, Ground};
use meter::Meter;
pub use meter::Took;
use reply::{Answer, Padding};
pub use stream::{LocalStream, Piece};

/// The longest body read. The largest window holds a hundredth of it.
const MAX_BODY_BYTES: usize = 10 * 1024 * 1024;
/// Longer bodies are parsed away from the proxy's threads.
const MAX_INLINE_BODY_BYTES: usize = 64 * 1024;

/// Where the request came in; errors look different there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// `/client/v4/accounts/{account}/ai/...`
    Rest,
    /// `/v1/{account}/{gateway}/workers-ai/...`
    Gateway,
}

/// A request as it came in.
#[derive(Debug, Clone, Copy)]
pub struct Call<'c> {
    pub host: Host,
    pub caller: &'c Caller,
    /// The path after `workers-ai/` or `/ai/`, still percent-encoded.
    pub rest: &'c str,
    pub query: Option<&'c str>,
    pub body: &'c Bytes,
}

impl Call<'_> {
    /// The caller comes back for the answer.
    fn is_queued(&self) -> bool {
        let query = self.query.unwrap_or_default();
        query.split('&').any(|pair| pair == "queueRequest=true")
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Shares the engine fairly with other accounts, and has its own allowance.
    pub account: Arc<str>,
    pub gateway: Arc<str>,
    /// Label of the token, for records.
    pub label: Arc<str>,
}

/// An answer whose status is known.
pub struct LocalReply {
    pub status: u16,
    pub content_type: &'static str,
    pub retry_after_s: Option<u64>,
    /// Clients that would try again are told not to.
    pub is_final: bool,
    /// Known of whole answers. A stream's is known too late for its head.
    pub took: Option<Took>,
    /// Says how something stands now: no answer to be stored or counted.
    pub is_status_report: bool,
    pub body: LocalBody,
}

pub enum LocalBody {
    Full(Bytes),
    Stream(Box<LocalStream>),
}

/// The engine and what stands around it.
pub struct Local {
    engine: EngineHandle,
    meter: Arc<Meter>,
    batches: Batches,
    finetunes: Arc<Finetunes>,
    /// What is configured, the same for the engine's life.
    offered: Vec<&'static CatalogueEntry>,
    is_padded: bool,
}

impl Local {
    /// Starts the engine of the configuration.
    pub fn start(
        config: &config::Engine,
        finetunes: Arc<Finetunes>,
        on_batched: OnBatched,
    ) -> Arc<Local> {
        let engine_config = EngineConfig {
            model_dir: config.model_dir.clone(),
            models: config.models.clone(),
            custom_models: config.custom_models.iter().map(custom).collect(),
            backend: match config.backend {
                config::EngineBackend::Cpu => BackendKind::Cpu,
                config::EngineBackend::Candle => BackendKind::Candle,
            },
            threads: config.threads,
            max_running: config.max_running,
            max_waiting: config.max_waiting,
            max_context: config.max_context,
            preload: config.preload.clone(),
            max_step_tokens: config.max_step_tokens,
            target_step_ms: config.target_step_ms,
            kv_cache_mib: config.kv_cache_mib,
            kv_dtype: match config.kv_dtype {
                config::KvDtype::F32 => KvDtype::F32,
                config::KvDtype::Bf16 => KvDtype::Bf16,
            },
            share_prefixes: config.share_prefixes,
            adapter_cache_mib: config.adapter_cache_mib,
            memory_budget_mib: config.memory_budget_mib,
            idle_unload_s: config.idle_unload_s,
        };
        let source = Arc::new(Source(Arc::clone(&finetunes)));
        let engine = local_inference::Engine::start_with_adapters(engine_config, source);
        Local::around(engine, config, finetunes, on_batched)
    }

    fn around(
        engine: EngineHandle,
        config: &config::Engine,
        finetunes: Arc<Finetunes>,
        on_batched: OnBatched,
    ) -> Arc<Local> {
        let models = engine.models().into_iter().map(|model| model.entry);
        let encoders = engine.encoder_models().into_iter();
        let encoders = encoders.filter_map(|encoder| catalogue::find(encoder.id));
        Arc::new(Local {
            offered: models.chain(encoders).collect(),
            finetunes,
            engine,
            meter: Meter::new(config),
            batches: Batches::new(config.max_running, on_batched),
            is_padded: config.padding,
        })
    }

    pub fn engine(&self) -> &EngineHandle {
        &self.engine
    }

    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Answers one request. Every failure that is known before the first token has its own status; later ones end the stream.
    pub async fn serve(self: &Arc<Local>, call: Call<'_>) -> LocalReply {
        let Some(endpoint) = endpoint(call.rest) else {
            return Fault::no_route(call.rest).reply(call.host, call.rest.contains("v1/"));
        };
        match self.answer(call, &endpoint).await {
            Ok(reply) => reply,
            Err(fault) => fault.reply(call.host, endpoint.is_openai()),
        }
    }

    async fn answer(
        self: &Arc<Local>,
        call: Call<'_>,
        endpoint: &LocalEndpoint,
    ) -> Result<LocalReply, Fault> {
        if *endpoint == LocalEndpoint::Models {
            return Ok(self.models());
        }
        let caller = call.caller;
        let account: &str = &caller.account;
        let mut asked = read(endpoint, call).await?;
        if let Asked::Generate(asked) = &mut asked {
            self.adapt(account, asked)?;
        }
        if let Some((task, model)) = asked.work() {
            check_task(task, model)?;
            self.meter.admit(account, task, model)?;
        }
        match asked {
            Asked::Generate(asked) => self.generate(account, *asked).await,
            Asked::Embed(asked) => self.embed(account, asked).await,
            Asked::Rerank(asked) => self.rerank(account, asked).await,
            Asked::Queue(queue) => {
                self.enqueue(caller, queue.model, queue.requests, call.body.len())
            }
            Asked::Poll(id) => self.poll(account, &id),
        }
    }

    /// OpenAI's list of what is offered.
    fn models(&self) -> LocalReply {
        let data: Vec<_> = self
            .listing(false)
            .iter()
            .map(listing::Listed::openai)
            .collect();
        let list = serde_json::json!({"object": "list", "data": data});
        LocalReply::json(200, list.to_string().into_bytes())
    }

    async fn generate(&self, account: &str, asked: Generate) -> Result<LocalReply, Fault> {
        let Generate {
            requests,
            form,
            is_stream,
            max_calls,
            lora: _,
        } = asked;
        let Some(first) = requests.first() else {
            return Err(Fault::internal("a request without a prompt"));
        };
        let (model, choices) = (first.model.clone(), first.choices);
        let all = choices * requests.len() as u32;
        let faulty = |error| Fault::engine(error, &model);
        let mut generations = Vec::with_capacity(requests.len());
        for request in requests {
            generations.push(self.engine.generate(request).await.map_err(faulty)?);
        }
        let mut events = Events::new(generations, choices, max_calls);
        let bill = self.meter.bill(account, &model, events.tally());
        // The status waits for the first event, so that a failure before any text is an error and no broken answer.
        events.begin().await.map_err(faulty)?;
        let answer = Answer::new(form, &model, all);
        if is_stream {
            let stream = answer.stream(Padding::new(self.is_padded));
            return Ok(LocalReply {
                content_type: "text/event-stream",
                ..LocalReply::new(
                    200,
                    LocalBody::Stream(Box::new(LocalStream::new(stream, events, bill))),
                )
            });
        }
        let whole = events::gather(&mut events, all as usize)
            .await
            .map_err(faulty)?;
        let body = answer.whole(&whole, events.tally());
        Ok(LocalReply {
            took: Some(bill.settle(events.tally())),
            ..LocalReply::json(200, body)
        })
    }
}

/// An operator's model, as the engine knows models.
fn custom(model: &config::CustomModel) -> CatalogueEntry {
    let path = model.path.to_string_lossy().into_owned();
    let mut entry = CatalogueEntry::custom(model.name.clone(), path);
    entry.context = model.context;
    if let Some(form) = &model.template {
        entry.template = Template::Named(form.clone().into());
    }
    entry
}

/// A body of the wrong kind for the model, told as the model's own schema would tell it.
fn check_task(asked: Task, model: &str) -> Result<(), Fault> {
    let Some(entry) = catalogue::find(model) else {
        return Ok(());
    };
    let writes = |task| task == Task::TextGeneration;
    match (writes(entry.task), writes(asked)) {
        (true, false) => Err(input::neither()),
        (false, true) => {
            let field = match entry.task {
                Task::TextClassification => "query,contexts",
                _ => "text",
            };
            Err(input::missing(field))
        }
        _ => Ok(()),
    }
}

async fn read(endpoint: &LocalEndpoint, call: Call<'_>) -> Result<Asked, Fault> {
    let ground = Ground {
        endpoint,
        tenant: &call.caller.account,
        is_queued: call.is_queued(),
    };
    if call.body.len() <= MAX_INLINE_BODY_BYTES {
        return input::read(ground, call.body);
    }
    if call.body.len() > MAX_BODY_BYTES {
        return Err(Fault::too_large(MAX_BODY_BYTES));
    }
    let (endpoint, tenant) = (endpoint.clone(), Arc::clone(&call.caller.account));
    let is_queued = call.is_queued();
    let body = call.body.clone();
    let read = tokio::task::spawn_blocking(move || {
        let ground = Ground {
            endpoint: &endpoint,
            tenant: &tenant,
            is_queued,
        };
        input::read(ground, &body)
    });
    read.await
        .unwrap_or_else(|error| Err(Fault::internal(&error.to_string())))
}

impl LocalReply {
    fn new(status: u16, body: LocalBody) -> LocalReply {
        LocalReply {
            status,
            content_type: "application/json",
            retry_after_s: None,
            is_final: false,
            took: None,
            is_status_report: false,
            body,
        }
    }

    fn json(status: u16, body: Vec<u8>) -> LocalReply {
        LocalReply::new(status, LocalBody::Full(body.into()))
    }

    /// In the pipeline's own terms.
    fn into_reply(self) -> Reply {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.is_final {
            let name = HeaderName::from_static("x-should-retry");
            headers.insert(name, HeaderValue::from_static("false"));
        }
        if let Some(Took { neurons, .. }) = self.took
            && let Ok(value) = HeaderValue::from_str(&format!("{neurons:.4}"))
        {
            headers.insert(HeaderName::from_static("cf-ai-neurons"), value);
        }
        let body = match self.body {
            LocalBody::Full(bytes) => ReplyBody::full(bytes),
            LocalBody::Stream(stream) => ReplyBody::engine(stream.into_channel()),
        };
        Reply {
            status: self.status,
            headers,
            body,
            is_status_report: self.is_status_report,
        }
    }
}

/// The pipeline's way in.
pub async fn reply(local: Option<&Arc<Local>>, call: Call<'_>) -> Reply {
    match local {
        Some(local) => local.serve(call).await,
        None => Fault::no_engine().reply(call.host, call.rest.contains("v1/")),
    }
    .into_reply()
}
