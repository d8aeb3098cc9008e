//! The tile formats of packed weights.
//!
//! A quantised tile is 16 output columns x 32 values of k. Its quants are lines of 64 bytes; line g holds, for each of
//! the 16 columns in turn, four neighbouring values of k, which is what one 32-bit multiply-add lane eats. Quants are
//! stored unsigned (`u`), so a value is `scale * (u - offset)`, or `scale * u + minimum`.
//!
//! ```text
//! 8 bits: 8 lines; line g, byte 4c+i = u[column c][k 4g+i]
//! 4 bits: 4 lines; line g, byte 4c+i = u[c][4g+i] | u[c][16+4g+i] << 4
//! 5 bits: those 4 lines for the low nibbles, and line 4, byte 4c+i, bit g     = bit 4 of u[c][4g+i]
//! 6 bits: those 4 lines for the low nibbles, and line 4+p, byte 4c+i, bits 2j,2j+1 = bits 4,5 of u[c][16p+4j+i]
//! ```
//! Scales stand apart, in rows of 32 bytes:
//!
//! ```text
//! Half     a row a tile: 16 scales (f16)                                             Q4_0 Q5_0 Q8_0; offset 2^(bits-1)
//! HalfMin  two rows a tile: 16 scales, 16 minima (f16)                               Q4_1 Q5_1
//! Sub      per 8 tiles: 16 d, 16 -dmin (f16); then a row a tile: 16 scales, 16 minima (u8; times d, -dmin)  Q4_K Q5_K
//! SubPair  per 8 tiles: 16 d (f16); then a row a tile: 16 scales of k 0..16, 16 of k 16..32 (i8; times d)   Q6_K
//! ```
//! Tiles of one column group lie one behind the other along k, then the next group: a matrix is read front to back.
//! Columns past the last are zero, with zero scale. Bits per weight are those of the file, but for K-quants, where
//! 6-bit scales take a byte (1/8 bit a weight).
//!
//! Dense weights: f32 and f16 as `[group][k][16 columns]`; bf16 as `[group][k / 2][16 columns][2]`, the pair one
//! `vdpbf16ps` lane eats, an odd k padded by zero.

mod blocks;
mod dense;

pub(crate) use blocks::pack_quants;
pub(crate) use dense::{pack_bf16, pack_f16, pack_f32};

use super::huge::{Buffer, Plain};
use crate::ops::matmul::WeightKind;
use half::f16;

/// Columns in a tile.
pub(crate) const TILE_COLUMNS: usize = 16;
/// Values of k in a tile: the smaller block of the file formats.
pub(crate) const TILE_K: usize = 32;
/// Tiles that share the f16 factors of a K-quant.
pub(crate) const SUPER_TILES: usize = 8;

/// One cache line of quants.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line(pub [u8; 64]);

/// One row of scales.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct ScaleRow(pub [u8; 32]);

impl ScaleRow {
    fn half(&self, lane: usize) -> f32 {
        f16::from_le_bytes([self.0[2 * lane], self.0[2 * lane + 1]]).to_f32()
    }

    fn set_half(&mut self, lane: usize, bytes: [u8; 2]) {
        self.0[2 * lane..][..2].copy_from_slice(&bytes);
    }
}

/// One value of k of sixteen columns: a cache line, so that no load crosses two.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct F32Row(pub [f32; TILE_COLUMNS]);

/// The same in half floats, by their bits.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct F16Row(pub [u16; TILE_COLUMNS]);

/// Two values of k of sixteen columns in bf16, the first of a pair in the low half of its word.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Bf16Pairs(pub [u32; TILE_COLUMNS]);

// SAFETY: an array of numbers, aligned to a cache line at most.
unsafe impl Plain for Line {}
// SAFETY: as above.
unsafe impl Plain for ScaleRow {}
// SAFETY: as above.
unsafe impl Plain for F32Row {}
// SAFETY: as above.
unsafe impl Plain for F16Row {}
// SAFETY: as above.
unsafe impl Plain for Bf16Pairs {}

/// How the scales of a tile stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scales {
    Half,
    HalfMin,
    Sub,
    SubPair,
}

/// The tile format of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TileForm {
    pub bits: usize,
    pub scales: Scales,
}

impl TileForm {
    /// `None` for dense kinds.
    pub(crate) fn of(kind: WeightKind) -> Option<TileForm> {
        let (bits, scales) = match kind {
            WeightKind::F32 | WeightKind::F16 | WeightKind::Bf16 => return None,
            WeightKind::Q4_0 => (4, Scales::Half),
            WeightKind::Q4_1 => (4, Scales::HalfMin),
            WeightKind::Q5_0 => (5, Scales::Half),
            WeightKind::Q5_1 => (5, Scales::HalfMin),
            WeightKind::Q8_0 => (8, Scales::Half),
            WeightKind::Q4K => (4, Scales::Sub),
            WeightKind::Q5K => (5, Scales::Sub),
            WeightKind::Q6K => (6, Scales::SubPair),
        };
        Some(TileForm { bits, scales })
    }

    /// Lines of a tile.
    pub(crate) fn lines(self) -> usize {
        self.bits
    }

    /// What the unsigned quants of formats without minimum stand too high.
    pub(crate) fn offset(self) -> i32 {
        match self.scales {
            Scales::Half | Scales::SubPair => 1 << (self.bits - 1),
            Scales::HalfMin | Scales::Sub => 0,
        }
    }

    /// Scale rows of `blocks` tiles along k.
    pub(crate) fn scale_rows(self, blocks: usize) -> usize {
        match self.scales {
            Scales::Half => blocks,
            Scales::HalfMin => 2 * blocks,
            Scales::Sub => blocks + 2 * blocks.div_ceil(SUPER_TILES),
            Scales::SubPair => blocks + blocks.div_ceil(SUPER_TILES),
        }
    }

    /// Where the own rows of tile `block` begin in its column group, and where those of its K-quant factors.
    fn scale_place(self, block: usize) -> (usize, usize) {
        let outer = block / SUPER_TILES;
        match self.scales {
            Scales::Half => (block, 0),
            Scales::HalfMin => (2 * block, 0),
            Scales::Sub => (block + 2 * outer + 2, outer * (SUPER_TILES + 2)),
            Scales::SubPair => (block + outer + 1, outer * (SUPER_TILES + 1)),
        }
    }
}

/// A quantised matrix in tiles.
pub(crate) struct QuantTiles {
    pub form: TileForm,
    /// Tiles along k.
    pub blocks: usize,
    lines: Buffer<Line>,
    scales: Buffer<ScaleRow>,
}

/// One column group: `blocks` tiles and their scales.
#[derive(Clone, Copy)]
pub(crate) struct GroupTiles<'a> {
    pub form: TileForm,
    pub blocks: usize,
    pub lines: &'a [Line],
    pub scales: &'a [ScaleRow],
}

/// What the quants of one tile's column mean: `value = scale[k / 16] * (u - offset) + minimum`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ColumnScale {
    pub scale: [f32; 2],
    pub minimum: f32,
}

impl QuantTiles {
    fn zeroed(form: TileForm, columns: usize, blocks: usize) -> QuantTiles {
        let groups = columns.div_ceil(TILE_COLUMNS);
        QuantTiles {
            form,
            blocks,
            lines: Buffer::zeroed(groups * blocks * form.lines()),
            scales: Buffer::zeroed(groups * form.scale_rows(blocks)),
        }
    }

    /// Memory held.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.lines) + size_of_val(&*self.scales)
    }

    pub(crate) fn group(&self, group: usize) -> GroupTiles<'_> {
        let lines = self.blocks * self.form.lines();
        let rows = self.form.scale_rows(self.blocks);
        GroupTiles {
            form: self.form,
            blocks: self.blocks,
            lines: &self.lines[group * lines..][..lines],
            scales: &self.scales[group * rows..][..rows],
        }
    }
}

impl GroupTiles<'_> {
    /// The lines of one tile.
    pub(crate) fn tile(&self, block: usize) -> &[Line] {
        let lines = self.form.lines();
        &self.lines[block * lines..][..lines]
    }

    /// The scales of one tile's column.
    pub(crate) fn scale(&self, block: usize, lane: usize) -> ColumnScale {
        let (own, outer) = self.form.scale_place(block);
        let row = &self.scales[own];
        match self.form.scales {
            Scales::Half => ColumnScale {
                scale: [row.half(lane); 2],
                minimum: 0.0,
            },
            Scales::HalfMin => ColumnScale {
                scale: [row.half(lane); 2],
                minimum: self.scales[own + 1].half(lane),
            },
            Scales::Sub => {
                let factor = self.scales[outer].half(lane);
                let minimum = self.scales[outer + 1].half(lane);
                ColumnScale {
                    scale: [f32::from(row.0[lane]) * factor; 2],
                    minimum: f32::from(row.0[16 + lane]) * minimum,
                }
            }
            Scales::SubPair => {
                let factor = self.scales[outer].half(lane);
                let part = |index: usize| f32::from(row.0[index] as i8) * factor;
                ColumnScale {
                    scale: [part(lane), part(16 + lane)],
                    minimum: 0.0,
                }
            }
        }
    }
}

/// Value `i` of column `lane` of a tile, unsigned.
#[inline]
pub(crate) fn quant(bits: usize, tile: &[Line], lane: usize, i: usize) -> u8 {
    let (group, byte) = (i / 4, 4 * lane + i % 4);
    if bits == 8 {
        return tile[group].0[byte];
    }
    let nibble = (tile[group % 4].0[byte] >> (group / 4 * 4)) & 15;
    match bits {
        5 => nibble | ((tile[4].0[byte] >> group) & 1) << 4,
        6 => nibble | ((tile[4 + group / 4].0[byte] >> (group % 4 * 2)) & 3) << 4,
        _ => nibble,
    }
}

/// Puts an unsigned value where [`quant`] finds it; the place holds zero before.
fn set_quant(bits: usize, tile: &mut [Line], lane: usize, i: usize, value: u8) {
    let (group, byte) = (i / 4, 4 * lane + i % 4);
    if bits == 8 {
        tile[group].0[byte] = value;
        return;
    }
    tile[group % 4].0[byte] |= (value & 15) << (group / 4 * 4);
    match bits {
        5 => tile[4].0[byte] |= (value >> 4) << group,
        6 => tile[4 + group / 4].0[byte] |= (value >> 4) << (group % 4 * 2),
        _ => {}
    }
}
