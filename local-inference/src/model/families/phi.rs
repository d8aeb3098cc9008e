//! Phi-2: attention and feed-forward side by side behind one layer norm, biases everywhere, part of each head rotated.

use super::{Defaults, base};
use crate::model::LoadError;
use crate::model::header::{Header, key};
use crate::model::spec::{DecoderSpec, NormType};
use kernels::Activation;

pub(super) fn read(header: &Header<'_>) -> Result<DecoderSpec, LoadError> {
    if header.flag("qk_layernorm") == Some(true) {
        return Err(LoadError::Unsupported("`qk_layernorm` of phi".to_owned()));
    }
    let epsilon = key("layer_norm_eps", "attention.layer_norm_epsilon");
    let mut spec = base(header, epsilon, &Defaults::default())?;
    if header.config("rope_parameters").is_none()
        && header.config("partial_rotary_factor").is_none()
    {
        // The class's default, which old files leave out.
        spec.ropes[0].rotary_dim = match header.is_gguf() {
            true => spec.ropes[0].rotary_dim,
            false => spec.head_dim / 2,
        };
    }
    spec.norm.kind = NormType::Layer;
    spec.activation = Activation::GeluTanh;
    spec.is_gated = false;
    spec.is_parallel = true;
    Ok(spec)
}
