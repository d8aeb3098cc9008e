//! Gemma 1 to 3: scaled embeddings, norms of one plus their weight, a feed-forward gated by GELU.
//!
//! From the second on a layer norms its results too and most layers look through a window. The second caps its scores
//! and logits; the third norms its heads and turns windowed layers by a base of their own.

use super::{Defaults, RMS_EPSILON, WINDOW, base, listed_windows, rope};
use crate::model::LoadError;
use crate::model::header::{Header, key};
use crate::model::names::{LLAMA, Names, POST_NORMED};
use crate::model::spec::{DecoderSpec, LayerSpec, NormType};
use kernels::{Activation, RopeLayout, RopeScaling, RopeSpec};
use serde_json::Value;

/// The base of windowed layers in Gemma 3, where a header does not say it.
const LOCAL_BASE: f32 = 10_000.0;
const GLOBAL_BASE: f32 = 1_000_000.0;
/// The layers of Gemma 3 27B, the only one of its generation whose scores are scaled by another length than the head's;
/// GGUF does not say so.
const LAYERS_OF_27B: usize = 62;

pub(super) fn read(header: &Header<'_>) -> Result<(DecoderSpec, &'static Names), LoadError> {
    match header.architecture() {
        "gemma" => Ok((first(header, &Defaults::default())?, &LLAMA)),
        "gemma2" => Ok((second(header)?, &POST_NORMED)),
        _ => Ok((third(header)?, &POST_NORMED)),
    }
}

fn first(header: &Header<'_>, defaults: &Defaults) -> Result<DecoderSpec, LoadError> {
    let mut spec = base(header, RMS_EPSILON, defaults)?;
    // GGUF files hold one plus the weight.
    if !header.is_gguf() {
        spec.norm.kind = NormType::RmsPlusOne;
    }
    spec.activation = Activation::GeluTanh;
    spec.embedding_scale = (spec.hidden as f32).sqrt();
    // Always tied; some files repeat the embedding as head.
    spec.is_tied = true;
    Ok(spec)
}

fn second(header: &Header<'_>) -> Result<DecoderSpec, LoadError> {
    let mut spec = first(header, &Defaults::default())?;
    spec.has_post_norms = true;
    spec.attention_scale = attention_scale(header, &spec)?;
    spec.attention_soft_cap = soft_cap(header, "attn_logit_softcapping")?;
    spec.logit_soft_cap = soft_cap(header, "final_logit_softcapping")?;
    let window = header.size(WINDOW)?;
    let listed = listed_windows(header, spec.layers.len())?;
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        let is_windowed = match &listed {
            Some(listed) => listed[index],
            None => index.is_multiple_of(2),
        };
        layer.window = window.filter(|_| is_windowed);
    }
    Ok(spec)
}

fn third(header: &Header<'_>) -> Result<DecoderSpec, LoadError> {
    // The larger models' files leave out what equals the class's defaults.
    let defaults = match header.is_gguf() {
        true => Defaults::default(),
        false => Defaults {
            heads: Some(8),
            kv_heads: Some(4),
            head_dim: Some(256),
            feed_forward: Some(9216),
        },
    };
    let mut spec = first(header, &defaults)?;
    spec.has_post_norms = true;
    spec.has_head_norms = true;
    spec.attention_scale = attention_scale(header, &spec)?;
    spec.attention_soft_cap = soft_cap(header, "attn_logit_softcapping")?;
    spec.logit_soft_cap = soft_cap(header, "final_logit_softcapping")?;
    let (global, local) = ropes(header, spec.head_dim)?;
    spec.ropes = vec![global, local];
    let default_window = (!header.is_gguf()).then_some(4096);
    let window = header.size(WINDOW)?.or(default_window);
    let every = header
        .size(key(
            "sliding_window_pattern",
            "attention.sliding_window_pattern",
        ))?
        .unwrap_or(6);
    let listed = listed_windows(header, spec.layers.len())?;
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        let is_windowed = match &listed {
            Some(listed) => listed[index],
            None => !(index + 1).is_multiple_of(every),
        };
        *layer = match window.filter(|_| is_windowed) {
            None => LayerSpec {
                window: None,
                rope: 0,
            },
            window => LayerSpec { window, rope: 1 },
        };
    }
    Ok(spec)
}

/// The rotations of layers that see everything, and of those that look through a window.
fn ropes(header: &Header<'_>, head_dim: usize) -> Result<(RopeSpec, RopeSpec), LoadError> {
    let layout = RopeLayout::Halves;
    let parameters = header.config("rope_parameters").and_then(Value::as_object);
    let of = |kind: &str| {
        parameters
            .and_then(|p| p.get(kind))
            .and_then(Value::as_object)
    };
    if let (Some(global), Some(local)) = (of("full_attention"), of("sliding_attention")) {
        return Ok((
            rope::read_from(header, Some(global), head_dim, layout, GLOBAL_BASE)?,
            rope::read_from(header, Some(local), head_dim, layout, LOCAL_BASE)?,
        ));
    }
    let global = rope::read(header, head_dim, layout, GLOBAL_BASE)?;
    let local_base = header.float(key("rope_local_base_freq", "rope.freq_base_swa"))?;
    let local = RopeSpec {
        base: local_base.unwrap_or(LOCAL_BASE),
        scaling: RopeScaling::None,
        ..global.clone()
    };
    Ok((global, local))
}

/// Scores are divided by the root of a length the header may set apart from the head's.
fn attention_scale(header: &Header<'_>, spec: &DecoderSpec) -> Result<f32, LoadError> {
    let stated = header.float(key("query_pre_attn_scalar", ""))?;
    let length = match stated {
        Some(length) if length > 0.0 => length,
        Some(_) => return Err(header.wrong(key("query_pre_attn_scalar", ""))),
        None if header.is_gguf() && spec.layers.len() == LAYERS_OF_27B => {
            (spec.hidden / spec.heads) as f32
        }
        None if header.is_gguf() => spec.head_dim as f32,
        None => 256.0,
    };
    Ok(1.0 / length.sqrt())
}

/// Both forms name it alike; zero and null mean none.
fn soft_cap(header: &Header<'_>, name: &'static str) -> Result<Option<f32>, LoadError> {
    Ok(header.float(key(name, name))?.filter(|cap| *cap > 0.0))
}
