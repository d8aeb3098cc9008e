//! The tile format of packed weights.
//!
//! A tile is 16 output columns x 32 values of k. Its quants are lines of 64 bytes: line g holds, for each of the
//! 16 columns in turn, four neighbouring values of k, which is what one 32-bit multiply-add lane eats.
//!
//! ```text
//! Q8_0: 8 lines; line g, byte 4c+i = value[column c][k 4g+i] + 128          (unsigned; -128 comes back as a minimum)
//! Q4_1: 4 lines; line g, byte 4c+i = value[c][4g+i] | value[c][16+4g+i] << 4
//! scales: 16 half floats a tile; Q4_1: 16 minima after them
//! ```
//! Tiles of one column group lie one behind the other along k, then the next group: a matrix is read
//! front to back. Columns past the last are zero, with zero scale. Bits per weight as in the file.

use crate::error::KernelError;
use crate::ops::quant_matmul::QuantKind;

/// Columns in a tile.
pub(crate) const TILE_COLUMNS: usize = 16;
/// Values of k in a tile: the block of the file formats.
pub(crate) const TILE_K: usize = 32;

/// One cache line of quants.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line(pub [u8; 64]);

pub(crate) struct Packed {
    pub lines: Vec<Line>,
    pub scales: Vec<[u16; TILE_COLUMNS]>,
}

/// Packs `columns` rows of a GGUF tensor, each `k` long.
pub(crate) fn pack(
    kind: QuantKind,
    columns: usize,
    k: usize,
    bytes: &[u8],
) -> Result<Packed, KernelError> {
    if k == 0 || !k.is_multiple_of(TILE_K) {
        return Err(KernelError::RowLength { columns, k });
    }
    let blocks = k / TILE_K;
    let block_bytes = kind.block_bytes();
    let expected = columns
        .checked_mul(blocks)
        .and_then(|count| count.checked_mul(block_bytes))
        .unwrap_or(usize::MAX);
    if bytes.len() != expected {
        return Err(KernelError::ByteLength {
            columns,
            k,
            expected,
            actual: bytes.len(),
        });
    }
    let tiles = columns.div_ceil(TILE_COLUMNS) * blocks;
    let mut packed = Packed {
        lines: vec![Line([0; 64]); tiles * kind.tile_lines()],
        scales: vec![[0; TILE_COLUMNS]; tiles * kind.tile_scales()],
    };
    for (index, block) in bytes.chunks_exact(block_bytes).enumerate() {
        let (column, k_block) = (index / blocks, index % blocks);
        let (group, lane) = (column / TILE_COLUMNS, column % TILE_COLUMNS);
        let tile = group * blocks + k_block;
        let scales = &mut packed.scales[tile * kind.tile_scales()..];
        let lines = &mut packed.lines[tile * kind.tile_lines()..];
        scales[0][lane] = u16::from_le_bytes([block[0], block[1]]);
        match kind {
            QuantKind::Q4_1 => {
                scales[1][lane] = u16::from_le_bytes([block[2], block[3]]);
                // The file already pairs value i with value 16+i in one byte.
                for (i, pair) in block[4..].iter().enumerate() {
                    lines[i / 4].0[4 * lane + i % 4] = *pair;
                }
            }
            QuantKind::Q8_0 => {
                for (i, value) in block[2..].iter().enumerate() {
                    lines[i / 4].0[4 * lane + i % 4] = value ^ 0x80;
                }
            }
        }
    }
    Ok(packed)
}
