//! Amazon Bedrock: Converse in its own JSON, invoke in the model maker's. Streams of both are event stream
//! frames; invoke wraps each native event as base64. Input numbers here leave cached tokens out.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::eventstream::Frame;
use crate::{Failure, Usage};

use super::anthropic::Anthropic;
use super::lenient::{List, Num, Obj, Raw, Text};
use super::notes::Notes;
use super::openai_usage::OpenAiUsage;
use super::scan;

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Wire<'a> {
    input_tokens: Num,
    output_tokens: Num,
    cache_read_input_tokens: Num,
    cache_write_input_tokens: Num,
    /// Nova's native spelling of the two.
    cache_read_input_token_count: Num,
    cache_write_input_token_count: Num,
    #[serde(borrow)]
    cache_details: List<Obj<CacheDetail<'a>>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct CacheDetail<'a> {
    #[serde(borrow)]
    ttl: Text<'a>,
    input_tokens: Num,
}

impl Wire<'_> {
    fn usage(&self) -> Option<Usage> {
        let with_ttl = |ttl: &str| {
            let details = self.cache_details.0.iter().flat_map(|detail| &detail.0);
            let counts = details
                .filter(|detail| detail.ttl.is(ttl))
                .filter_map(|detail| detail.input_tokens.0);
            counts.reduce(u64::saturating_add)
        };
        let read = self.cache_read_input_tokens.0;
        let written = self.cache_write_input_tokens.0;
        let usage = exclusive(
            self.input_tokens.0,
            self.output_tokens.0,
            read.or(self.cache_read_input_token_count.0),
            written.or(self.cache_write_input_token_count.0),
            [with_ttl("5m"), with_ttl("1h")],
        );
        (usage.in_total.is_some() || usage.out_total.is_some()).then_some(usage)
    }
}

/// Totals from numbers that stand side by side. `writes` are the parts of `written` by lifetime.
pub(super) fn exclusive(
    input: Option<u64>,
    output: Option<u64>,
    read: Option<u64>,
    written: Option<u64>,
    writes: [Option<u64>; 2],
) -> Usage {
    let split = writes.into_iter().flatten().fold(0, u64::saturating_add);
    let all_written = written.unwrap_or(split).max(split);
    let mut usage = Usage {
        in_total: input.map(|input| input + read.unwrap_or(0) + all_written),
        cache_read: read,
        cache_write_5m: writes[0],
        cache_write_1h: writes[1],
        cache_write_other: (all_written > split).then(|| all_written - split),
        out_total: output,
        ..Usage::default()
    };
    usage.fill_in_plain();
    usage
}

/// A Converse document, or the payload of one of its events.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Converse<'a> {
    #[serde(borrow)]
    stop_reason: Text<'a>,
    #[serde(borrow)]
    usage: Raw<'a>,
    #[serde(borrow)]
    trace: Obj<Trace<'a>>,
    #[serde(borrow)]
    service_tier: Obj<Tier<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Trace<'a> {
    #[serde(borrow)]
    prompt_router: Obj<Router<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Router<'a> {
    #[serde(borrow)]
    invoked_model_id: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Tier<'a> {
    #[serde(borrow)]
    r#type: Text<'a>,
}

/// Reads one Converse reply.
#[derive(Debug, Default)]
pub(super) struct BedrockConverse {
    usage: Option<Usage>,
    has_stopped: bool,
}

impl BedrockConverse {
    pub fn frame(&mut self, notes: &mut Notes, frame: Frame<'_>) {
        if let Some(failure) = failure(notes, frame) {
            notes.fail(failure);
            return;
        }
        match frame.header(":event-type").unwrap_or_default() {
            "messageStart" | "contentBlockStart" => notes.stage_start(),
            "contentBlockDelta" => {
                notes.text(scan::text_len(frame.payload(), &[b"text", b"input"]))
            }
            "messageStop" => {
                self.has_stopped = true;
                self.read(notes, frame.payload());
            }
            "metadata" => {
                self.read(notes, frame.payload());
                notes.usage_is_final();
                // The last frame of all. Without a stop before it something is missing.
                if self.has_stopped {
                    notes.whole();
                }
            }
            _ => notes.stage_content(),
        }
    }

    /// A whole JSON body. True when it is a complete answer.
    pub fn document(&mut self, notes: &mut Notes, body: &[u8]) -> bool {
        notes.text(scan::text_len(body, &[b"text"]));
        self.read(notes, body)
    }

    pub fn settle(&mut self, notes: &mut Notes) {
        notes.usage = self.usage.take();
    }

    fn read(&mut self, notes: &mut Notes, json: &[u8]) -> bool {
        let Ok(converse) = serde_json::from_slice::<Converse<'_>>(json) else {
            notes.malformed();
            return false;
        };
        notes.finish(&converse.stop_reason);
        let router = converse
            .trace
            .0
            .as_ref()
            .and_then(|trace| trace.prompt_router.0.as_ref());
        if let Some(router) = router {
            notes.model(&router.invoked_model_id);
        }
        if converse.usage.is_object()
            && let Some(mut usage) = converse
                .usage
                .read::<Wire<'_>>()
                .and_then(|wire| wire.usage())
        {
            let tier = converse.service_tier.0.as_ref();
            usage.tier = tier.and_then(|tier| tier.r#type.get()).map(str::to_owned);
            notes.usage_raw(converse.usage.0.unwrap_or_default());
            self.usage = Some(usage);
        }
        true
    }
}

/// The failure told by an exception or error frame.
fn failure(notes: &Notes, frame: Frame<'_>) -> Option<Failure> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Said<'a> {
        #[serde(borrow)]
        message: Text<'a>,
    }
    match frame.header(":message-type") {
        Some("exception") => {
            let kind = frame.header(":exception-type").unwrap_or_default();
            let said = serde_json::from_slice::<Said<'_>>(frame.payload()).unwrap_or_default();
            Some(Failure::in_band(
                notes.dialect,
                kind,
                "",
                said.message.or_empty(),
            ))
        }
        Some("error") => {
            let code = frame.header(":error-code").unwrap_or_default();
            let message = frame.header(":error-message").unwrap_or_default();
            Some(Failure::in_band(notes.dialect, "", code, message))
        }
        _ => None,
    }
}

/// Native JSON of any maker: a stream's event or a whole document.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Native<'a> {
    #[serde(borrow)]
    r#type: Text<'a>,
    #[serde(borrow)]
    usage: Raw<'a>,
    // Llama
    #[serde(borrow, rename = "stop_reason")]
    stop: Text<'a>,
    #[serde(rename = "prompt_token_count")]
    prompt_token_count: Num,
    #[serde(rename = "generation_token_count")]
    generation_token_count: Num,
    // Titan
    #[serde(borrow)]
    completion_reason: Text<'a>,
    input_text_token_count: Num,
    total_output_text_token_count: Num,
    #[serde(borrow)]
    results: List<Obj<TitanResult<'a>>>,
    // Mistral
    #[serde(borrow)]
    outputs: List<Obj<MistralOutput<'a>>>,
    // Cohere
    #[serde(borrow, rename = "finish_reason")]
    finish: Text<'a>,
    // Nova
    #[serde(borrow)]
    message_start: Raw<'a>,
    #[serde(borrow)]
    content_block_start: Raw<'a>,
    #[serde(borrow)]
    message_stop: Obj<NovaStop<'a>>,
    #[serde(borrow)]
    metadata: Obj<NovaMetadata<'a>>,
    #[serde(borrow)]
    stop_reason: Text<'a>,
    // Pictures
    #[serde(borrow)]
    images: List<Raw<'a>>,
    // All of them
    #[serde(rename = "amazon-bedrock-invocationMetrics")]
    metrics: Obj<Metrics>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct TitanResult<'a> {
    token_count: Num,
    #[serde(borrow)]
    completion_reason: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MistralOutput<'a> {
    #[serde(borrow)]
    stop_reason: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct NovaStop<'a> {
    #[serde(borrow)]
    stop_reason: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NovaMetadata<'a> {
    #[serde(borrow)]
    usage: Raw<'a>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metrics {
    input_token_count: Num,
    output_token_count: Num,
    cache_read_input_token_count: Num,
    cache_write_input_token_count: Num,
}

const NATIVE_TEXT: &[&[u8]] = &[
    b"text",
    b"generation",
    b"outputText",
    b"thinking",
    b"partial_json",
    b"content",
];

/// Reads one invoke reply: by its members, since the path's model does not tell who made it.
#[derive(Debug, Default)]
pub(super) struct BedrockInvoke {
    anthropic: Anthropic,
    openai: OpenAiUsage,
    native: Option<Usage>,
    metrics: Option<Usage>,
}

impl BedrockInvoke {
    pub fn frame(&mut self, notes: &mut Notes, frame: Frame<'_>) {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Chunk<'a> {
            #[serde(borrow)]
            bytes: Text<'a>,
        }
        if let Some(failure) = failure(notes, frame) {
            notes.fail(failure);
            return;
        }
        if frame.header(":event-type") != Some("chunk") {
            return;
        }
        let chunk = serde_json::from_slice::<Chunk<'_>>(frame.payload());
        let native = chunk
            .ok()
            .and_then(|chunk| STANDARD.decode(chunk.bytes.or_empty()).ok());
        match native {
            Some(native) => self.native_event(notes, &native),
            None => notes.malformed(),
        }
    }

    /// One event in the maker's JSON.
    fn native_event(&mut self, notes: &mut Notes, json: &[u8]) {
        let Ok(native) = serde_json::from_slice::<Native<'_>>(json) else {
            notes.malformed();
            return;
        };
        if native.r#type.get().is_some() {
            self.anthropic.event(notes, b"", json);
        } else if native.message_start.0.is_some() || native.content_block_start.0.is_some() {
            notes.stage_start();
        } else {
            notes.text(scan::text_len(json, NATIVE_TEXT));
            notes.stage_content();
        }
        self.read(notes, &native);
        if native.metrics.0.is_some() {
            notes.whole();
        }
    }

    /// A whole JSON body. True when it is a complete answer.
    pub fn document(&mut self, notes: &mut Notes, body: &[u8]) -> bool {
        let Ok(native) = serde_json::from_slice::<Native<'_>>(body) else {
            notes.malformed();
            return false;
        };
        if native.r#type.is("message") || native.r#type.is("error") {
            return self.anthropic.document(notes, body);
        }
        notes.text(scan::text_len(body, NATIVE_TEXT));
        self.read(notes, &native);
        true
    }

    /// The maker's own numbers win; Bedrock's fill what they leave out.
    pub fn settle(&mut self, notes: &mut Notes) {
        let anthropic = self.anthropic.usage.settle(notes.model.as_deref());
        let openai = self.openai.settle(notes.dialect);
        let native = anthropic.or(openai).or(self.native.take());
        notes.usage = match (native, self.metrics.take()) {
            (Some(mut native), Some(metrics)) => {
                native.fill_gaps(metrics);
                Some(native)
            }
            (native, metrics) => native.or(metrics),
        };
    }

    fn read(&mut self, notes: &mut Notes, native: &Native<'_>) {
        if let Some(metrics) = native.metrics.0 {
            self.metrics = Some(exclusive(
                metrics.input_token_count.0,
                metrics.output_token_count.0,
                metrics.cache_read_input_token_count.0,
                metrics.cache_write_input_token_count.0,
                [None, None],
            ));
        }
        if native.r#type.get().is_none() {
            let nova = native
                .metadata
                .0
                .as_ref()
                .map_or(Raw(None), |metadata| metadata.usage);
            let told = if nova.is_object() { nova } else { native.usage };
            match told.read::<Wire<'_>>().and_then(|wire| wire.usage()) {
                Some(usage) => {
                    notes.usage_raw(told.0.unwrap_or_default());
                    self.native = Some(usage);
                }
                None if self.openai.take(&told) => notes.usage_raw(told.0.unwrap_or_default()),
                None => {}
            }
        }
        self.plain_counts(native);
        notes.finish(&native.stop);
        notes.finish(&native.finish);
        notes.finish(&native.stop_reason);
        notes.finish(&native.completion_reason);
        if let Some(stop) = &native.message_stop.0 {
            notes.finish(&stop.stop_reason);
        }
        for result in native.results.0.iter().flat_map(|result| &result.0) {
            notes.finish(&result.completion_reason);
        }
        for output in native.outputs.0.iter().flat_map(|output| &output.0) {
            notes.finish(&output.stop_reason);
        }
    }

    /// Llama and Titan count at the top level, the last event last; pictures are counted by hand.
    fn plain_counts(&mut self, native: &Native<'_>) {
        let results = native.results.0.iter().flat_map(|result| &result.0);
        let of_results = results
            .filter_map(|result| result.token_count.0)
            .reduce(u64::saturating_add);
        let input = native
            .prompt_token_count
            .0
            .or(native.input_text_token_count.0);
        let output = native
            .generation_token_count
            .0
            .or(native.total_output_text_token_count.0)
            .or(of_results);
        let images = native.images.0.len() as u64;
        if input.is_none() && output.is_none() && images == 0 {
            return;
        }
        let usage = self.native.get_or_insert_default();
        usage.in_total = input.or(usage.in_total);
        usage.out_total = output.or(usage.out_total);
        if images > 0 {
            usage.images = Some(images);
        }
        usage.fill_in_plain();
    }
}
