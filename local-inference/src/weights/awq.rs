//! 4-bit AWQ weights (the "gemm" packing), rearranged into Q4_1 blocks.
//!
//! Three tensors stand for one matrix of `columns` outputs and `k` inputs:
//!
//! ```text
//! qweight  i32 [k, columns / 8]      eight columns of one input in a word
//! qzeros   i32 [groups, columns / 8] the same, one row a group of inputs
//! scales   f16 [groups, columns]
//! ```
//!
//! A word's nibbles, lowest first, belong to its columns 0 2 4 6 1 3 5 7. A weight is `(q - zero) * scale`, which is a
//! Q4_1 block's `q * scale + minimum` with `minimum = -zero * scale`; groups are whole blocks of 32 inputs.

use super::safetensors::{Folder, View};
use super::{RawTensor, WeightsError};
use ::safetensors::tensor::Dtype;
use half::f16;
use kernels::WeightKind;
use serde_json::Value;
use std::borrow::Cow;

/// Which of a word's eight columns each nibble holds, lowest nibble first.
const NIBBLE_COLUMNS: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
/// Inputs a Q4_1 block covers.
const BLOCK: usize = 32;
/// Its bytes: scale, minimum, nibbles.
const BLOCK_BYTES: usize = 2 + 2 + BLOCK / 2;

/// Whether the weight of that name is there in packed form.
pub(super) fn has_tensor(folder: &Folder, name: &str) -> bool {
    packed_name(name).is_some_and(|prefix| folder.has_tensor(&format!("{prefix}qweight")))
}

fn packed_name(name: &str) -> Option<&str> {
    name.strip_suffix("weight")
        .filter(|prefix| prefix.ends_with('.'))
}

/// The weight `name` as Q4_1 blocks.
pub(super) fn tensor<'a>(folder: &'a Folder, name: &str) -> Result<RawTensor<'a>, WeightsError> {
    let fault = |cause: String| WeightsError::Tensor {
        name: name.to_owned(),
        cause,
    };
    check_config(folder).map_err(fault)?;
    let prefix = packed_name(name).ok_or_else(|| WeightsError::Missing(name.to_owned()))?;
    let weights = folder.view(&format!("{prefix}qweight"))?;
    let zeros = folder.view(&format!("{prefix}qzeros"))?;
    let scales = folder.view(&format!("{prefix}scales"))?;
    let packed = Packed::new(&weights, &zeros, &scales).map_err(fault)?;
    Ok(RawTensor {
        kind: WeightKind::Q4_1,
        shape: vec![packed.columns, packed.k],
        bytes: Cow::Owned(packed.blocks()),
    })
}

/// Refuses packings this file does not describe; what is not said has its usual value.
fn check_config(folder: &Folder) -> Result<(), String> {
    let config = folder.config.get("quantization_config");
    let text = |key: &str, usual: &str| {
        let value = config.and_then(|config| config.get(key));
        let value = value.and_then(Value::as_str).unwrap_or(usual);
        value.to_ascii_lowercase()
    };
    let bits = config
        .and_then(|config| config.get("bits").or_else(|| config.get("w_bit")))
        .and_then(Value::as_u64)
        .unwrap_or(4);
    match (
        text("quant_method", "").as_str(),
        text("version", "gemm").as_str(),
        bits,
    ) {
        ("awq", "gemm", 4) => Ok(()),
        (method, version, bits) => Err(format!(
            "is packed by `{method}` {version} at {bits} bits; 4-bit awq gemm is known"
        )),
    }
}

pub(super) struct Packed<'a> {
    columns: usize,
    k: usize,
    /// Inputs that share a scale.
    group: usize,
    weights: &'a [[u8; 4]],
    zeros: &'a [[u8; 4]],
    scales: &'a [[u8; 2]],
}

impl<'a> Packed<'a> {
    pub(super) fn new(
        weights: &View<'a>,
        zeros: &View<'a>,
        scales: &View<'a>,
    ) -> Result<Self, String> {
        let (&[k, words], &[groups, columns]) = (weights.shape, scales.shape) else {
            return Err("has parts that are no matrices".to_owned());
        };
        let is_consistent = weights.dtype == Dtype::I32
            && zeros.dtype == Dtype::I32
            && scales.dtype == Dtype::F16
            && columns.is_multiple_of(8)
            && words == columns / 8
            && zeros.shape == [groups, words]
            && groups > 0
            && k.is_multiple_of(groups)
            && (k / groups).is_multiple_of(BLOCK)
            && k > 0;
        if !is_consistent {
            return Err(format!(
                "has qweight {:?}, qzeros {:?} and scales {:?}, which do not fit together in groups of whole {BLOCK}s",
                weights.shape, zeros.shape, scales.shape
            ));
        }
        Ok(Packed {
            columns,
            k,
            group: k / groups,
            weights: weights.bytes.as_chunks().0,
            zeros: zeros.bytes.as_chunks().0,
            scales: scales.bytes.as_chunks().0,
        })
    }

    /// Rows of blocks, one row a column of the packing.
    fn blocks(&self) -> Vec<u8> {
        let words = self.columns / 8;
        let row_bytes = self.k / BLOCK * BLOCK_BYTES;
        let mut out = vec![0; self.columns * row_bytes];
        for (word, rows) in out.chunks_exact_mut(8 * row_bytes).enumerate() {
            for (block, first) in (0..self.k).step_by(BLOCK).enumerate() {
                // The words lie a row apart: each is fetched once for its eight columns.
                let inputs: [u32; BLOCK] = std::array::from_fn(|i| {
                    u32::from_le_bytes(self.weights[(first + i) * words + word])
                });
                let group = first / self.group;
                let zeros = u32::from_le_bytes(self.zeros[group * words + word]);
                for (nibble, column) in NIBBLE_COLUMNS.into_iter().enumerate() {
                    let scale = self.scales[group * self.columns + word * 8 + column];
                    let start = column * row_bytes + block * BLOCK_BYTES;
                    let bytes = &mut rows[start..][..BLOCK_BYTES];
                    write_block(&inputs, zeros, nibble, f16::from_le_bytes(scale), bytes);
                }
            }
        }
        out
    }
}

/// One column's block, out of the words of its inputs and zero point.
fn write_block(inputs: &[u32; BLOCK], zeros: u32, nibble: usize, scale: f16, out: &mut [u8]) {
    let pick = |word: u32| (word >> (4 * nibble)) as u8 & 15;
    let minimum = f16::from_f32(-f32::from(pick(zeros)) * scale.to_f32());
    out[..2].copy_from_slice(&scale.to_le_bytes());
    out[2..4].copy_from_slice(&minimum.to_le_bytes());
    let (low, high) = inputs.split_at(BLOCK / 2);
    for ((byte, low), high) in out[4..].iter_mut().zip(low).zip(high) {
        *byte = pick(*low) | pick(*high) << 4;
    }
}
