//! A model that says what a test tells it to, behind the real engine: scheduler, attention memory, queues and threads.
//!
//! Its tokens are bytes (256 of them), [`MARKER`] (ends a chat prompt) and [`END`]. It keeps each sequence's tokens in the
//! engine's own attention memory and reads them back from there, so a step that mixed sequences up would show.

use crate::adapter::{AdapterError, AdapterFiles, AdapterLoader, AdapterSource, LoadedAdapter};
use crate::batch::StepBatch;
use crate::catalogue::{self, CatalogueEntry};
use crate::config::EngineConfig;
use crate::engine::{EngineHandle, Load, Loaded, ModelSlot, load_file};
use crate::error::EngineError;
use crate::model::CausalModel;
use crate::prompt::chat_template::ChatTemplate;
use crate::prompt::tokenizer::Tokenizer;
use kernels::BLOCK_TOKENS;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// The scripted model's name.
pub const MODEL: &str = "@cf/testing/scripted";
/// Stands after a chat prompt.
pub const MARKER: u32 = 256;
/// Ends an answer.
pub const END: u32 = 257;
const VOCABULARY: usize = 258;
const ENCODER_FOLDER: &str = "all-MiniLM-L6-v2";
/// A lead that no temperature up to the API's bound levels out.
const DECISIVE: f32 = 1000.0;

static ENTRY: LazyLock<CatalogueEntry> = LazyLock::new(|| CatalogueEntry {
    context: 512,
    ..CatalogueEntry::custom(MODEL, "scripted")
});

/// Where the real model's file is, for tests that need it: `AI_GATEWAY_TEST_MODEL_DIR`, or `models` in the target directory.
/// Says so, and why, when it is nowhere.
pub fn model_dir_or_skip(test: &str) -> Option<PathBuf> {
    let entry = &catalogue::all()[0];
    let found = model_dirs().find(|directory| directory.join(&*entry.file).exists());
    if found.is_none() {
        println!(
            "SKIPPED: {test}: `{}` is not here; set AI_GATEWAY_TEST_MODEL_DIR to a folder that `ai-gateway model pull` filled",
            entry.file
        );
    }
    found
}

/// Where the folder of the real encoder (all-MiniLM-L6-v2) is, for tests that need it: as [`model_dir_or_skip`].
pub fn encoder_dir_or_skip(test: &str) -> Option<PathBuf> {
    let found = model_dirs().find(|directory| directory.join(ENCODER_FOLDER).exists());
    if found.is_none() {
        println!(
            "SKIPPED: {test}: the folder `{ENCODER_FOLDER}` is not here; `scripts/test` fetches it, or set AI_GATEWAY_TEST_MODEL_DIR to a folder that holds it"
        );
    }
    found
}

/// Where test models may lie, best first.
fn model_dirs() -> impl Iterator<Item = PathBuf> {
    let named = std::env::var_os("AI_GATEWAY_TEST_MODEL_DIR").map(PathBuf::from);
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        PathBuf::from,
    );
    named.into_iter().chain([target.join("models")])
}

/// From a sequence's tokens so far to its next one. May block, and may panic: that is what tests want of it.
pub type Script = Box<dyn FnMut(&[u32]) -> u32 + Send>;

/// A script that answers every chat with `text`.
pub fn saying(text: &str) -> Script {
    let reply = text.as_bytes().to_vec();
    Box::new(move |tokens| next_of(&reply, tokens))
}

/// The next token of an answer that is `reply`.
fn next_of(reply: &[u8], tokens: &[u32]) -> u32 {
    let said = tokens
        .iter()
        .rev()
        .take_while(|token| **token != MARKER)
        .count();
    reply.get(said).map_or(END, |byte| u32::from(*byte))
}

/// An engine whose only model is [`MODEL`], which follows `script`.
pub fn scripted(config: EngineConfig, script: Script) -> EngineHandle {
    EngineHandle::new(
        config,
        vec![ModelSlot::new(&ENTRY)],
        scripted_load(script),
        None,
    )
}

/// As [`scripted`], with adapters: each answers every chat with the text its weights' file begins with, up to the first zero
/// byte, and takes as much memory as the file is long. An empty file does not load.
pub fn scripted_with_adapters(
    config: EngineConfig,
    script: Script,
    adapters: Arc<dyn AdapterSource>,
) -> EngineHandle {
    let slots = vec![ModelSlot::new(&ENTRY)];
    EngineHandle::new(config, slots, scripted_load(script), Some(adapters))
}

/// Loads a model that follows `script`, whatever its name.
pub(crate) fn scripted_load(script: Script) -> Load {
    let script = Arc::new(Mutex::new(script));
    Arc::new(move |entry| {
        Ok(Loaded {
            model: Box::new(ScriptedModel {
                script: Arc::clone(&script),
                kv: Vec::new(),
            }),
            tokenizer: byte_tokenizer()?,
            template: ChatTemplate::new(
                "{% for message in messages %}{{ message.content }}{% endfor %}<|marker|>",
                "",
                "",
            )
            .map_err(|error| EngineError::Load(error.to_string()))?,
            window: entry.context as usize,
            weight_bytes: entry.bytes.unwrap_or_default() as usize,
        })
    })
}

/// An engine whose only model is [`MODEL`], which does not load.
pub fn broken(cause: &str) -> EngineHandle {
    let cause = cause.to_owned();
    let load: Load = Arc::new(move |_| Err(EngineError::Load(cause.clone())));
    let slots = vec![ModelSlot::new(&ENTRY)];
    EngineHandle::new(EngineConfig::default(), slots, load, None)
}

/// An engine whose only model is the real one, under another chat template.
pub fn with_template(config: EngineConfig, template: &str) -> EngineHandle {
    let template = template.to_owned();
    let load: Load = {
        let config = config.clone();
        Arc::new(move |entry| {
            let loaded = load_file(entry, &config)?;
            let template = ChatTemplate::new(&template, "", "");
            let template = template.map_err(|error| EngineError::Load(error.to_string()))?;
            Ok(Loaded { template, ..loaded })
        })
    };
    let slots = vec![ModelSlot::new(&catalogue::all()[0])];
    EngineHandle::new(config, slots, load, None)
}

pub(crate) fn byte_tokenizer() -> Result<Tokenizer, EngineError> {
    let mut moved = 256u32;
    let mut tokens: Vec<String> = (0..=255u8)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte).to_string(),
            _ => {
                moved += 1;
                char::from_u32(moved - 1)
                    .expect("a letter of the byte alphabet")
                    .to_string()
            }
        })
        .collect();
    tokens.extend(["<|marker|>".to_owned(), "<|im_end|>".to_owned()]);
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let kinds: Vec<i64> = (0..VOCABULARY)
        .map(|id| if id < 256 { 1 } else { 3 })
        .collect();
    Tokenizer::new(&tokens, &[], &kinds, Some(END))
        .map_err(|error| EngineError::Load(error.to_string()))
}

/// Makes adapters of what [`scripted_with_adapters`] says.
struct ScriptedLoader;

impl AdapterLoader for ScriptedLoader {
    fn load(&self, files: &AdapterFiles) -> Result<LoadedAdapter, AdapterError> {
        let weights = &files.weights;
        if weights.is_empty() {
            return Err(AdapterError::Weights("is empty".to_owned()));
        }
        let text = weights.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(LoadedAdapter {
            bytes: weights.len(),
            matrices: Box::new(text.to_vec()),
        })
    }
}

struct ScriptedModel {
    script: Arc<Mutex<Script>>,
    /// The tokens themselves, in place of keys and values.
    kv: Vec<u32>,
}

impl CausalModel for ScriptedModel {
    fn kv_block_bytes(&self) -> usize {
        BLOCK_TOKENS * size_of::<u32>()
    }

    fn reserve_kv(&mut self, blocks: usize) {
        self.kv = vec![0; blocks * BLOCK_TOKENS];
    }

    fn vocabulary(&self) -> usize {
        VOCABULARY
    }

    fn adapter_loader(&self) -> Option<Arc<dyn AdapterLoader>> {
        Some(Arc::new(ScriptedLoader))
    }

    fn forward(&mut self, batch: &StepBatch, logits: &mut Vec<f32>) {
        logits.clear();
        assert_adjacent(batch);
        for run in &batch.runs {
            let blocks = &batch.blocks[run.blocks.clone()];
            let place = |position: usize| {
                let block = blocks[position / BLOCK_TOKENS] as usize;
                block * BLOCK_TOKENS + position % BLOCK_TOKENS
            };
            let end = run.first_position + run.rows.len();
            for (row, position) in run.rows.clone().zip(run.first_position..end) {
                self.kv[place(position)] = batch.tokens[row];
            }
            if !run.wants_logits {
                continue;
            }
            let tokens: Vec<u32> = (0..end).map(|position| self.kv[place(position)]).collect();
            let next = match &run.adapter {
                Some(adapter) => {
                    let reply = adapter.matrices.downcast_ref::<Vec<u8>>();
                    next_of(reply.expect("made by this model's loader"), &tokens)
                }
                None => {
                    // A script that panicked poisons its lock; the next request may still use it.
                    let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
                    script(&tokens)
                }
            } as usize;
            logits.extend((0..VOCABULARY).map(|id| if id == next { DECISIVE } else { 0.0 }));
        }
    }
}

/// Rows of one adapter must lie together, or kernels would make several products of one.
fn assert_adjacent(batch: &StepBatch) {
    let adapters = batch.runs.iter().map(|run| {
        let adapter = run.adapter.as_ref();
        adapter.map_or(std::ptr::null(), Arc::as_ptr)
    });
    let mut segments: Vec<*const LoadedAdapter> = adapters.collect();
    segments.dedup();
    let count = segments.len();
    segments.sort_unstable();
    segments.dedup();
    assert_eq!(segments.len(), count, "an adapter's rows lie apart");
}
