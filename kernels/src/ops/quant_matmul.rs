//! out = x * W^T, x quantised to 8 bits by 32, W packed as in [`crate::cpu::pack`].
//!
//! With w = scale_w * u + min_w (u unsigned) and x = scale_x * q (q signed), a block of 32 gives
//! `scale_w * scale_x * sum(u*q) + min_w * scale_x * sum(q)`: the inner sum is exact in integers, and the second
//! factor is computed once per activation block. Q8_0 is stored shifted by 128, so its minimum is -128 scales.
//! Blocks are added in order of k, whatever the number of rows.

use super::widened;
use crate::cpu::pack::{Line, Packed, TILE_COLUMNS, TILE_K, pack};
use crate::cpu::pool::{Disjoint, Pool};
use crate::dispatch;
use crate::error::KernelError;
use half::f16;

/// The weight formats with a kernel, by their GGUF names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuantKind {
    /// 4 bits, scale and minimum per 32.
    Q4_1,
    /// 8 bits, scale per 32.
    Q8_0,
}

impl QuantKind {
    /// Bytes of a block of 32 values in the file.
    pub fn block_bytes(self) -> usize {
        match self {
            QuantKind::Q4_1 => 20,
            QuantKind::Q8_0 => 34,
        }
    }

    pub(crate) fn tile_lines(self) -> usize {
        match self {
            QuantKind::Q4_1 => 4,
            QuantKind::Q8_0 => 8,
        }
    }

    pub(crate) fn tile_scales(self) -> usize {
        match self {
            QuantKind::Q4_1 => 2,
            QuantKind::Q8_0 => 1,
        }
    }
}

/// A packed weight matrix: `columns` outputs, each a row of `k` weights in the file.
pub struct QuantMatrix {
    kind: QuantKind,
    columns: usize,
    k: usize,
    packed: Packed,
}

impl QuantMatrix {
    /// Packs the blocks of a GGUF tensor; the bytes are not needed afterwards.
    ///
    /// # Errors
    /// When `k` is no multiple of 32 or the bytes are not exactly the matrix.
    pub fn from_blocks(
        kind: QuantKind,
        columns: usize,
        k: usize,
        bytes: &[u8],
    ) -> Result<QuantMatrix, KernelError> {
        let packed = pack(kind, columns, k, bytes)?;
        Ok(QuantMatrix {
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

    /// Memory held.
    pub fn bytes(&self) -> usize {
        self.packed.lines.len() * size_of::<Line>()
            + self.packed.scales.len() * size_of::<[u16; TILE_COLUMNS]>()
    }

    /// Row `column` of the file as f32: an embedding look-up.
    ///
    /// # Panics
    /// When there is no such row or `out` is not `k` long.
    pub fn row(&self, column: usize, out: &mut [f32]) {
        assert!(column < self.columns && out.len() == self.k);
        let (group, lane) = (column / TILE_COLUMNS, column % TILE_COLUMNS);
        for (block, out) in out.chunks_exact_mut(TILE_K).enumerate() {
            let (lines, scales) = self.tiles(group, block);
            let (scale, minimum) = self.scale(scales, lane);
            for (i, out) in out.iter_mut().enumerate() {
                *out = scale * f32::from(self.quant(lines, lane, i)) + minimum;
            }
        }
    }

    fn blocks(&self) -> usize {
        self.k / TILE_K
    }

    fn groups(&self) -> usize {
        self.columns.div_ceil(TILE_COLUMNS)
    }

    /// Quants and scales of a column group from block `block` on.
    fn tiles(&self, group: usize, block: usize) -> (&[Line], &[[u16; TILE_COLUMNS]]) {
        let first = group * self.blocks() + block;
        let end = (group + 1) * self.blocks();
        let (lines, scales) = (self.kind.tile_lines(), self.kind.tile_scales());
        (
            &self.packed.lines[first * lines..end * lines],
            &self.packed.scales[first * scales..end * scales],
        )
    }

    fn scale(&self, scales: &[[u16; TILE_COLUMNS]], lane: usize) -> (f32, f32) {
        let scale = f16::from_bits(scales[0][lane]).to_f32();
        match self.kind {
            QuantKind::Q4_1 => (scale, f16::from_bits(scales[1][lane]).to_f32()),
            QuantKind::Q8_0 => (scale, scale * -128.0),
        }
    }

    fn quant(&self, lines: &[Line], lane: usize, i: usize) -> u8 {
        match self.kind {
            QuantKind::Q4_1 => lines[i % 16 / 4].0[4 * lane + i % 4] >> (i / 16 * 4) & 15,
            QuantKind::Q8_0 => lines[i / 4].0[4 * lane + i % 4],
        }
    }
}

/// Activations as 8-bit blocks; the buffers are kept between steps.
#[derive(Debug, Default)]
pub struct QuantRows {
    pub(crate) rows: usize,
    pub(crate) k: usize,
    pub(crate) quants: Vec<i8>,
    pub(crate) scales: Vec<f32>,
    /// scale * sum of the quants, per block.
    pub(crate) sums: Vec<f32>,
}

impl QuantRows {
    /// Replaces the content by the rows of `x`, each `k` wide.
    ///
    /// # Panics
    /// When `k` is no multiple of 32 or `x` is not whole rows.
    pub fn quantize(&mut self, pool: &Pool, x: &[f32], k: usize) {
        self.quantize_at(dispatch::level(), pool, x, k);
    }

    /// The same at a chosen level; parity tests compare levels.
    pub fn quantize_at(&mut self, level: crate::Level, pool: &Pool, x: &[f32], k: usize) {
        assert!(k.is_multiple_of(TILE_K) && x.len().is_multiple_of(k));
        let blocks = x.len() / TILE_K;
        self.rows = x.len() / k;
        self.k = k;
        self.quants.resize(x.len(), 0);
        self.scales.resize(blocks, 0.0);
        self.sums.resize(blocks, 0.0);
        /// Rows an item takes: 8 rows of a thousand values are some microseconds.
        const ROWS: usize = 8;
        let quants = Disjoint::new(&mut self.quants);
        let scales = Disjoint::new(&mut self.scales);
        let sums = Disjoint::new(&mut self.sums);
        let row_blocks = k / TILE_K;
        pool.run(self.rows.div_ceil(ROWS), &|item| {
            let (first, count) = (item * ROWS, ROWS.min(x.len() / k - item * ROWS));
            let (first_block, blocks) = (first * row_blocks, count * row_blocks);
            // SAFETY: items cover disjoint rows, so these parts overlap with no other item's.
            let (quants, scales, sums) = unsafe {
                (
                    quants.slice(first * k, count * k),
                    scales.slice(first_block, blocks),
                    sums.slice(first_block, blocks),
                )
            };
            quantize_blocks(level, &x[first * k..][..count * k], quants, scales, sums);
        });
    }

    /// Rows held.
    pub fn rows(&self) -> usize {
        self.rows
    }
}

widened!(quantize_blocks = quantize_blocks_body(x: &[f32], quants: &mut [i8], scales: &mut [f32], sums: &mut [f32]));

#[inline(always)]
fn quantize_blocks_body<const FMA: bool>(
    x: &[f32],
    quants: &mut [i8],
    scales: &mut [f32],
    sums: &mut [f32],
) {
    let x = x.as_chunks::<TILE_K>().0;
    let quants = quants.as_chunks_mut::<TILE_K>().0;
    for (((x, quants), scale), sum) in x.iter().zip(quants).zip(scales).zip(sums) {
        let mut peak = 0.0f32;
        for value in x {
            peak = peak.max(value.abs());
        }
        *scale = peak / 127.0;
        let inverse = if peak > 0.0 { 127.0 / peak } else { 0.0 };
        let mut total = 0i32;
        for (quant, value) in quants.iter_mut().zip(x) {
            let rounded = (value * inverse).round_ties_even() as i32;
            *quant = rounded as i8;
            total += rounded;
        }
        *sum = *scale * total as f32;
    }
}

/// Multiplies all rows of `x` with each matrix; matrix m's outputs begin at its column offset in each
/// row of `out`, rows being `stride` wide. Several matrices in one call share one hand-out of work.
///
/// # Panics
/// When a matrix has another k than `x`, or its columns do not fit a row of `out`.
pub fn quant_matmul(
    pool: &Pool,
    x: &QuantRows,
    matrices: &[(&QuantMatrix, usize)],
    out: &mut [f32],
    stride: usize,
) {
    quant_matmul_at(dispatch::level(), pool, x, matrices, out, stride);
}

/// The same at a chosen level; parity tests compare levels.
pub fn quant_matmul_at(
    level: crate::Level,
    pool: &Pool,
    x: &QuantRows,
    matrices: &[(&QuantMatrix, usize)],
    out: &mut [f32],
    stride: usize,
) {
    assert!(out.len() >= x.rows * stride);
    let mut groups = 0;
    for (matrix, offset) in matrices {
        assert!(matrix.k == x.k && offset + matrix.columns <= stride);
        groups += matrix.groups();
    }
    // Enough items that a thread which lost its core costs little, each long enough to be worth handing out.
    let per_item = (groups / (pool.threads() * 8)).max(1);
    let out = Disjoint::new(out);
    pool.run(groups.div_ceil(per_item), &|item| {
        for group in item * per_item..((item + 1) * per_item).min(groups) {
            let mut local = group;
            for (matrix, offset) in matrices {
                if local < matrix.groups() {
                    column_group(level, x, matrix, local, *offset, &out, stride);
                    break;
                }
                local -= matrix.groups();
            }
        }
    });
}

/// All rows times one group of 16 columns.
fn column_group(
    level: crate::Level,
    x: &QuantRows,
    matrix: &QuantMatrix,
    group: usize,
    offset: usize,
    out: &Disjoint<'_, f32>,
    stride: usize,
) {
    let column = group * TILE_COLUMNS;
    let width = TILE_COLUMNS.min(matrix.columns - column);
    let mut row = 0;
    while row < x.rows {
        let mut sums = [[0.0f32; TILE_COLUMNS]; MAX_ROWS];
        let rows = tile_rows(level, x, row, matrix, group, &mut sums);
        for (i, sums) in sums.iter().enumerate().take(rows) {
            // SAFETY: this (row, column group) is visited once, by one item.
            let out = unsafe { out.slice((row + i) * stride + offset + column, width) };
            out.copy_from_slice(&sums[..width]);
        }
        row += rows;
    }
}

/// Rows that share one pass over a tile.
pub(crate) const MAX_ROWS: usize = 8;

/// Computes some rows from `row` on and says how many.
fn tile_rows(
    level: crate::Level,
    x: &QuantRows,
    row: usize,
    matrix: &QuantMatrix,
    group: usize,
    sums: &mut [[f32; TILE_COLUMNS]; MAX_ROWS],
) -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        let (lines, scales) = matrix.tiles(group, 0);
        let left = x.rows - row;
        match level {
            crate::Level::Avx512 => {
                return crate::cpu::vnni::tile(matrix.kind, x, row, left, lines, scales, sums);
            }
            crate::Level::Avx2 => {
                return crate::cpu::avx2::tile(matrix.kind, x, row, left, lines, scales, sums);
            }
            crate::Level::Plain => {}
        }
    }
    let _ = level;
    tile_plain(x, row, matrix, group, &mut sums[0]);
    1
}

/// The plain twin: one row, one column after the other.
fn tile_plain(
    x: &QuantRows,
    row: usize,
    matrix: &QuantMatrix,
    group: usize,
    sums: &mut [f32; TILE_COLUMNS],
) {
    for (lane, sum) in sums.iter_mut().enumerate() {
        *sum = 0.0;
        for block in 0..matrix.blocks() {
            let (lines, scales) = matrix.tiles(group, block);
            let quants = &x.quants[row * x.k + block * TILE_K..][..TILE_K];
            let mut dot = 0i32;
            for (i, quant) in quants.iter().enumerate() {
                dot += i32::from(matrix.quant(lines, lane, i)) * i32::from(*quant);
            }
            let (scale, minimum) = matrix.scale(scales, lane);
            let index = row * matrix.blocks() + block;
            *sum += dot as f32 * (scale * x.scales[index]) + minimum * x.sums[index];
        }
    }
}
