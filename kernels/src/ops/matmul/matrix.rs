//! A packed weight matrix.

use super::WeightKind;
use crate::cpu::huge::Buffer;
use crate::cpu::pack::{
    Bf16Pairs, F16Row, F32Row, GroupTiles, QuantTiles, TILE_COLUMNS, TILE_K, TileForm, pack_bf16,
    pack_f16, pack_f32, pack_quants, quant,
};
use crate::error::KernelError;
use half::{bf16, f16};

/// A weight matrix in the form its kernel reads: `columns` outputs, each a row of `k` weights in the file.
pub struct Matrix {
    kind: WeightKind,
    columns: usize,
    k: usize,
    packed: Packed,
}

enum Packed {
    Quant(QuantTiles),
    F32(Buffer<F32Row>),
    F16(Buffer<F16Row>),
    Bf16(Buffer<Bf16Pairs>),
}

/// Sixteen columns of a matrix.
pub(super) enum Group<'a> {
    Quant(GroupTiles<'a>),
    F32(&'a [F32Row]),
    F16(&'a [F16Row]),
    Bf16(&'a [Bf16Pairs]),
}

impl Matrix {
    /// Packs a tensor as its file holds it, row after row; the bytes are not needed afterwards.
    ///
    /// # Errors
    /// When `k` is no multiple of the kind's block, or the bytes are not exactly the matrix.
    pub fn pack(
        kind: WeightKind,
        columns: usize,
        k: usize,
        bytes: &[u8],
    ) -> Result<Matrix, KernelError> {
        let block = kind.block_len();
        if k == 0 || !k.is_multiple_of(block) {
            return Err(KernelError::RowLength { columns, k, block });
        }
        let expected = columns
            .checked_mul(k / block)
            .and_then(|count| count.checked_mul(kind.block_bytes()))
            .unwrap_or(usize::MAX);
        if bytes.len() != expected {
            return Err(KernelError::ByteLength {
                columns,
                k,
                expected,
                actual: bytes.len(),
            });
        }
        let packed = match (kind, TileForm::of(kind)) {
            (_, Some(form)) => Packed::Quant(pack_quants(kind, form, columns, k, bytes)),
            (WeightKind::F32, None) => Packed::F32(pack_f32(columns, k, bytes)),
            (WeightKind::F16, None) => Packed::F16(pack_f16(columns, k, bytes)),
            (_, None) => Packed::Bf16(pack_bf16(columns, k, bytes)),
        };
        Ok(Matrix {
            kind,
            columns,
            k,
            packed,
        })
    }

    /// Outputs of a product with this matrix.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Inputs of a product with this matrix.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The format of the file it came from.
    pub fn kind(&self) -> WeightKind {
        self.kind
    }

    /// Memory held.
    pub fn bytes(&self) -> usize {
        match &self.packed {
            Packed::Quant(tiles) => tiles.bytes(),
            Packed::F32(rows) => size_of_val(&**rows),
            Packed::F16(rows) => size_of_val(&**rows),
            Packed::Bf16(rows) => size_of_val(&**rows),
        }
    }

    /// Row `column` of the file as f32: an embedding look-up.
    ///
    /// # Panics
    /// When there is no such row or `out` is not `k` long.
    pub fn row(&self, column: usize, out: &mut [f32]) {
        assert!(column < self.columns && out.len() == self.k);
        let lane = column % TILE_COLUMNS;
        match self.group(column / TILE_COLUMNS) {
            Group::Quant(tiles) => {
                let offset = tiles.form.offset();
                for (block, out) in out.chunks_exact_mut(TILE_K).enumerate() {
                    let scale = tiles.scale(block, lane);
                    let tile = tiles.tile(block);
                    for (i, out) in out.iter_mut().enumerate() {
                        let value = i32::from(quant(tiles.form.bits, tile, lane, i)) - offset;
                        *out = scale.scale[i / 16] * value as f32 + scale.minimum;
                    }
                }
            }
            Group::F32(rows) => {
                for (out, row) in out.iter_mut().zip(rows) {
                    *out = row.0[lane];
                }
            }
            Group::F16(rows) => {
                for (out, row) in out.iter_mut().zip(rows) {
                    *out = f16::from_bits(row.0[lane]).to_f32();
                }
            }
            Group::Bf16(pairs) => {
                for (i, out) in out.iter_mut().enumerate() {
                    let pair = pairs[i / 2].0[lane];
                    *out = bf16::from_bits((pair >> (16 * (i % 2))) as u16).to_f32();
                }
            }
        }
    }

    pub(super) fn groups(&self) -> usize {
        self.columns.div_ceil(TILE_COLUMNS)
    }

    pub(super) fn group(&self, group: usize) -> Group<'_> {
        match &self.packed {
            Packed::Quant(tiles) => Group::Quant(tiles.group(group)),
            Packed::F32(rows) => Group::F32(&rows[group * self.k..][..self.k]),
            Packed::F16(rows) => Group::F16(&rows[group * self.k..][..self.k]),
            Packed::Bf16(rows) => {
                let pairs = self.k.div_ceil(2);
                Group::Bf16(&rows[group * pairs..][..pairs])
            }
        }
    }
}
