//! A family turns a model's header into a [`DecoderSpec`] and says which names its tensors have.
//!
//! [`base`] reads what all headers say alike; each family changes what is its own. Values a `config.json` leaves out are
//! those Transformers would take.

mod falcon;
mod gemma;
mod llama;
mod phi;
mod qwen;
mod rope;

use super::LoadError;
use super::header::{Header, Key, key};
use super::names::{GGUF, LLAMA, Names};
use super::spec::{DecoderSpec, LayerSpec, NormSpec, NormType};
use crate::weights::ModelFiles;
use kernels::{Activation, RopeLayout};
use serde_json::Value;

const LAYERS: Key = key("num_hidden_layers", "block_count");
const HIDDEN: Key = key("hidden_size", "embedding_length");
const FEED_FORWARD: Key = key("intermediate_size", "feed_forward_length");
const HEADS: Key = key("num_attention_heads", "attention.head_count");
const KV_HEADS: Key = key("num_key_value_heads", "attention.head_count_kv");
const HEAD_DIM: Key = key("head_dim", "attention.key_length");
const RMS_EPSILON: Key = key("rms_norm_eps", "attention.layer_norm_rms_epsilon");
const WINDOW: Key = key("sliding_window", "attention.sliding_window");
/// The longest head of a published model is 256.
const MAX_HEAD_DIM: usize = 512;
/// No published model comes near; a header that claims more is refused before anything is made of it.
const MAX_LAYERS: usize = 1024;

/// What a family knows of one model.
pub(super) struct Described {
    pub spec: DecoderSpec,
    /// What its files call the tensors.
    pub names: &'static Names,
    /// What Transformers calls them: the names adapters use.
    pub original_names: &'static Names,
}

/// Spec and names, or which architecture is not supported.
pub(super) fn read(files: &ModelFiles) -> Result<Described, LoadError> {
    let header = Header::read(files)?;
    let (spec, names) = match header.architecture() {
        "llama" | "mistral" => (llama::read(&header, files)?, &LLAMA),
        "qwen2" | "qwen3" => (qwen::read(&header)?, &LLAMA),
        "gemma" | "gemma2" | "gemma3" | "gemma3_text" => gemma::read(&header)?,
        "phi" | "phi2" => (phi::read(&header)?, &super::names::PHI),
        "falcon" | "RefinedWebModel" => (falcon::read(&header)?, &super::names::FALCON),
        other => return Err(LoadError::Unsupported(format!("architecture `{other}`"))),
    };
    check(&header, &spec)?;
    Ok(Described {
        spec,
        names: if header.is_gguf() { &GGUF } else { names },
        original_names: names,
    })
}

/// What the model's header calls its architecture.
pub(super) fn architecture(files: &ModelFiles) -> Result<String, LoadError> {
    Ok(Header::read(files)?.architecture().to_owned())
}

/// What a header leaves out, family by family; `None` where it may not.
#[derive(Default)]
struct Defaults {
    heads: Option<usize>,
    kv_heads: Option<usize>,
    head_dim: Option<usize>,
    feed_forward: Option<usize>,
}

/// A decoder as Llama is one: RMS norms, gated feed-forward, every position seen.
fn base(header: &Header<'_>, epsilon: Key, defaults: &Defaults) -> Result<DecoderSpec, LoadError> {
    let need = |key: Key, default: Option<usize>| -> Result<usize, LoadError> {
        header
            .size(key)?
            .or(default)
            .ok_or_else(|| LoadError::Key(header.name(key)))
    };
    let hidden = header.need_size(HIDDEN)?;
    let heads = need(HEADS, defaults.heads)?;
    let kv_heads = header
        .size(KV_HEADS)?
        .or(defaults.kv_heads)
        .unwrap_or(heads);
    let head_dim = match header.size(HEAD_DIM)?.or(defaults.head_dim) {
        Some(length) => length,
        None => hidden / heads,
    };
    let layers = header.need_size(LAYERS)?;
    if layers > MAX_LAYERS {
        return Err(header.wrong(LAYERS));
    }
    let epsilon_value = header.float(epsilon)?;
    Ok(DecoderSpec {
        hidden,
        feed_forward: need(FEED_FORWARD, defaults.feed_forward)?,
        heads,
        kv_heads,
        head_dim,
        norm: NormSpec {
            epsilon: epsilon_value.ok_or_else(|| LoadError::Key(header.name(epsilon)))?,
            kind: NormType::Rms,
        },
        activation: Activation::Silu,
        is_gated: true,
        is_parallel: false,
        has_post_norms: false,
        has_head_norms: false,
        is_tied: header.flag("tie_word_embeddings") == Some(true),
        embedding_scale: 1.0,
        attention_scale: 1.0 / (head_dim as f32).sqrt(),
        attention_soft_cap: None,
        logit_soft_cap: None,
        ropes: vec![rope::read(header, head_dim, RopeLayout::Halves, 10_000.0)?],
        layers: vec![
            LayerSpec {
                window: None,
                rope: 0,
            };
            layers
        ],
    })
}

/// Numbers that fit no kernel or not each other.
fn check(header: &Header<'_>, spec: &DecoderSpec) -> Result<(), LoadError> {
    if !spec.heads.is_multiple_of(spec.kv_heads) {
        return Err(header.wrong(KV_HEADS));
    }
    if spec.head_dim < 2 || spec.head_dim > MAX_HEAD_DIM || !spec.head_dim.is_multiple_of(2) {
        return Err(header.wrong(HEAD_DIM));
    }
    Ok(())
}

/// Which layers look through a window, where `config.json` lists them.
fn listed_windows(header: &Header<'_>, layers: usize) -> Result<Option<Vec<bool>>, LoadError> {
    const KEY: Key = key("layer_types", "");
    let Some(value) = header.config(KEY.config) else {
        return Ok(None);
    };
    let list = value.as_array().filter(|list| list.len() == layers);
    let is_windowed = |value: &Value| match value.as_str() {
        Some("sliding_attention") => Some(true),
        Some("full_attention") => Some(false),
        _ => None,
    };
    list.and_then(|list| list.iter().map(is_windowed).collect())
        .map(Some)
        .ok_or_else(|| header.wrong(KEY))
}
