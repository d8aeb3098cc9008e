//! Llama 2 to 3.2 and TinyLlama, and Mistral 7B, which adds a window.

use super::{Defaults, RMS_EPSILON, WINDOW, base, rope};
use crate::model::LoadError;
use crate::model::header::Header;
use crate::model::spec::DecoderSpec;
use crate::weights::{ModelFiles, WeightsError};
use kernels::{RopeLayout, RopeScaling};

/// Divisors of Llama 3.1's rotation, one a pair; GGUF has them as a tensor.
const ROPE_DIVISORS: &str = "rope_freqs.weight";

pub(super) fn read(header: &Header<'_>, files: &ModelFiles) -> Result<DecoderSpec, LoadError> {
    let mut spec = base(header, RMS_EPSILON, &Defaults::default())?;
    if header.is_gguf() {
        // The query and key rows of these files are permuted for neighbouring pairs.
        spec.ropes = vec![rope::read(
            header,
            spec.head_dim,
            RopeLayout::Pairs,
            10_000.0,
        )?];
        if files.has_tensor(ROPE_DIVISORS) {
            let tensor = files.tensor(ROPE_DIVISORS)?;
            let pairs = spec.ropes[0].rotary_dim / 2;
            let divisors = tensor
                .floats()
                .filter(|divisors| divisors.len() == pairs && divisors.iter().all(|d| *d > 0.0))
                .ok_or_else(|| WeightsError::Tensor {
                    name: ROPE_DIVISORS.to_owned(),
                    cause: format!("is not {pairs} positive numbers"),
                })?;
            spec.ropes[0].scaling = RopeScaling::Frequencies(divisors);
        }
    }
    // Llama's header has no such key.
    let window = header.size(WINDOW)?;
    spec.layers
        .iter_mut()
        .for_each(|layer| layer.window = window);
    Ok(spec)
}
