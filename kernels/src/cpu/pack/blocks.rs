//! From the blocks of a GGUF tensor to tiles.
//!
//! Field by field as ggml defines its blocks; nothing is rounded, so a packed matrix means exactly what its file means.

use super::{QuantTiles, SUPER_TILES, Scales, TILE_COLUMNS, TILE_K, TileForm, set_quant};
use crate::ops::matmul::WeightKind;

/// Packs `columns` rows of `k` values. The caller has checked that `bytes` is exactly that many blocks.
pub(crate) fn pack_quants(
    kind: WeightKind,
    form: TileForm,
    columns: usize,
    k: usize,
    bytes: &[u8],
) -> QuantTiles {
    let blocks = k / TILE_K;
    let mut tiles = QuantTiles::zeroed(form, columns, blocks);
    let row_bytes = k / kind.block_len() * kind.block_bytes();
    let tiles_per_block = kind.block_len() / TILE_K;
    for (column, row) in bytes.chunks_exact(row_bytes).enumerate() {
        for (index, block) in row.chunks_exact(kind.block_bytes()).enumerate() {
            let first = index * tiles_per_block;
            let mut place = Place {
                tiles: &mut tiles,
                column,
                first,
            };
            match kind {
                WeightKind::Q4_0 => nibbles(&mut place, block, 2, None),
                WeightKind::Q4_1 => nibbles(&mut place, block, 4, None),
                WeightKind::Q5_0 => nibbles(&mut place, block, 6, Some(2)),
                WeightKind::Q5_1 => nibbles(&mut place, block, 8, Some(4)),
                WeightKind::Q8_0 => {
                    place.half(0, [block[0], block[1]]);
                    for (i, value) in block[2..].iter().enumerate() {
                        place.quant(i, value ^ 0x80);
                    }
                }
                WeightKind::Q4K => q4_k(&mut place, block),
                WeightKind::Q5K => q5_k(&mut place, block),
                WeightKind::Q6K => q6_k(&mut place, block),
                WeightKind::F32 | WeightKind::F16 | WeightKind::Bf16 => {
                    unreachable!("dense kinds have no tile form")
                }
            }
        }
    }
    tiles
}

/// One column of the tiles a file block covers.
struct Place<'a> {
    tiles: &'a mut QuantTiles,
    column: usize,
    first: usize,
}

impl Place<'_> {
    fn lane(&self) -> usize {
        self.column % TILE_COLUMNS
    }

    /// Stores value `i` of the block.
    fn quant(&mut self, i: usize, value: u8) {
        let form = self.tiles.form;
        let tile = self.column / TILE_COLUMNS * self.tiles.blocks + self.first + i / TILE_K;
        let lane = self.lane();
        let lines = &mut self.tiles.lines[tile * form.lines()..][..form.lines()];
        set_quant(form.bits, lines, lane, i % TILE_K, value);
    }

    /// Scale row `row` of tile `tile` of the block, or of its factors.
    fn scale_row(&mut self, tile: usize, row: usize, is_factor: bool) -> &mut super::ScaleRow {
        let form = self.tiles.form;
        let (own, outer) = form.scale_place(self.first + tile);
        let group = self.column / TILE_COLUMNS * form.scale_rows(self.tiles.blocks);
        let start = if is_factor { outer } else { own };
        &mut self.tiles.scales[group + start + row]
    }

    /// Stores an f16 of a 32-block: row 0 its scale, row 1 its minimum.
    fn half(&mut self, row: usize, bytes: [u8; 2]) {
        let lane = self.lane();
        self.scale_row(0, row, false).set_half(lane, bytes);
    }

    /// Stores an f16 factor of a 256-block.
    fn factor(&mut self, row: usize, bytes: [u8; 2]) {
        let lane = self.lane();
        self.scale_row(0, row, true).set_half(lane, bytes);
    }

    /// Stores the two bytes of a tile of a 256-block.
    fn sub(&mut self, tile: usize, first: u8, second: u8) {
        let lane = self.lane();
        let row = self.scale_row(tile, 0, false);
        row.0[lane] = first;
        row.0[TILE_COLUMNS + lane] = second;
    }
}

/// The four 32-blocks below 8 bits: scale, minimum where the form has one, fifth bits, nibble pairs (i, 16+i).
fn nibbles(place: &mut Place<'_>, block: &[u8], pairs_at: usize, fifth_at: Option<usize>) {
    place.half(0, [block[0], block[1]]);
    if place.tiles.form.scales == Scales::HalfMin {
        place.half(1, [block[2], block[3]]);
    }
    let fifth = fifth_at.map_or(0, |at| {
        u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
    });
    for (i, pair) in block[pairs_at..].iter().enumerate() {
        let bit = |i: usize| ((fifth >> i) & 1) as u8;
        place.quant(i, pair & 15 | bit(i) << 4);
        place.quant(16 + i, pair >> 4 | bit(16 + i) << 4);
    }
}

/// d, dmin, twelve bytes of 6-bit scales and minima: the head of Q4_K and Q5_K.
fn sub_scales(place: &mut Place<'_>, block: &[u8]) {
    place.factor(0, [block[0], block[1]]);
    // The minimum is subtracted: turn its sign once, here.
    place.factor(1, [block[2], block[3] ^ 0x80]);
    let packed = &block[4..16];
    for tile in 0..SUPER_TILES {
        let (scale, minimum) = if tile < 4 {
            (packed[tile] & 63, packed[tile + 4] & 63)
        } else {
            let low = packed[tile + 4];
            (
                low & 15 | packed[tile - 4] >> 6 << 4,
                low >> 4 | packed[tile] >> 6 << 4,
            )
        };
        place.sub(tile, scale, minimum);
    }
}

fn q4_k(place: &mut Place<'_>, block: &[u8]) {
    sub_scales(place, block);
    for (index, pair) in block[16..].iter().enumerate() {
        let (chunk, i) = (index / 32, index % 32);
        place.quant(64 * chunk + i, pair & 15);
        place.quant(64 * chunk + 32 + i, pair >> 4);
    }
}

fn q5_k(place: &mut Place<'_>, block: &[u8]) {
    sub_scales(place, block);
    let (fifth, pairs) = block[16..].split_at(32);
    for (index, pair) in pairs.iter().enumerate() {
        let (chunk, i) = (index / 32, index % 32);
        let bit = |tile: usize| ((fifth[i] >> tile) & 1) << 4;
        place.quant(64 * chunk + i, pair & 15 | bit(2 * chunk));
        place.quant(64 * chunk + 32 + i, pair >> 4 | bit(2 * chunk + 1));
    }
}

fn q6_k(place: &mut Place<'_>, block: &[u8]) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (scales, factor) = rest.split_at(16);
    place.factor(0, [factor[0], factor[1]]);
    for tile in 0..SUPER_TILES {
        place.sub(tile, scales[2 * tile], scales[2 * tile + 1]);
    }
    for half in 0..2 {
        let (low, high) = (&low[64 * half..][..64], &high[32 * half..][..32]);
        for quarter in 0..4 {
            for i in 0..32 {
                let nibble = (low[quarter % 2 * 32 + i] >> (quarter / 2 * 4)) & 15;
                let top = (high[i] >> (2 * quarter)) & 3;
                place.quant(128 * half + 32 * quarter + i, nibble | top << 4);
            }
        }
    }
}
