//! Falcon-7B: one key/value head for all, attention and feed-forward side by side behind one layer norm.
//!
//! The larger Falcons (two norms, grouped heads) and the ones with linear biases instead of rotations are refused.

use super::{Defaults, HIDDEN, KV_HEADS, base};
use crate::model::LoadError;
use crate::model::header::{Header, key};
use crate::model::spec::{DecoderSpec, NormType};
use kernels::Activation;

pub(super) fn read(header: &Header<'_>) -> Result<DecoderSpec, LoadError> {
    let switches = [
        ("alibi", false),
        ("new_decoder_architecture", false),
        ("multi_query", true),
        ("parallel_attn", true),
    ];
    for (name, expected) in switches {
        // Absent, each is as expected.
        if header.flag(name).unwrap_or(expected) != expected {
            let fault = format!("`{name}` = {} of falcon", !expected);
            return Err(LoadError::Unsupported(fault));
        }
    }
    let hidden = header.need_size(HIDDEN)?;
    let defaults = Defaults {
        feed_forward: Some(match header.size(key("ffn_hidden_size", ""))? {
            Some(length) => length,
            None => 4 * hidden,
        }),
        kv_heads: Some(1),
        ..Defaults::default()
    };
    let epsilon = key("layer_norm_epsilon", "attention.layer_norm_epsilon");
    let mut spec = base(header, epsilon, &defaults)?;
    if spec.kv_heads != 1 {
        return Err(header.wrong(KV_HEADS));
    }
    spec.norm.kind = NormType::Layer;
    spec.activation = Activation::GeluErf;
    spec.is_gated = false;
    spec.is_parallel = true;
    Ok(spec)
}
