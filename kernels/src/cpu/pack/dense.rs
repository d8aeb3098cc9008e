//! From rows of plain numbers to column groups.

use super::super::huge::{Buffer, Plain};
use super::{Bf16Pairs, F16Row, F32Row, TILE_COLUMNS};

/// Calls `put(row of the packed form, lane, value)` for every value, `k` rows a group.
fn transpose<R: Plain, T>(
    columns: usize,
    k: usize,
    value: impl Fn(usize) -> T,
    put: impl Fn(&mut R, usize, T),
) -> Buffer<R> {
    let mut rows = Buffer::zeroed(columns.div_ceil(TILE_COLUMNS) * k);
    for column in 0..columns {
        let (group, lane) = (column / TILE_COLUMNS, column % TILE_COLUMNS);
        for (i, row) in rows[group * k..][..k].iter_mut().enumerate() {
            put(row, lane, value(column * k + i));
        }
    }
    rows
}

pub(crate) fn pack_f32(columns: usize, k: usize, bytes: &[u8]) -> Buffer<F32Row> {
    let values = bytes.as_chunks::<4>().0;
    let value = |i: usize| f32::from_le_bytes(values[i]);
    transpose(columns, k, value, |row: &mut F32Row, lane, value| {
        row.0[lane] = value
    })
}

pub(crate) fn pack_f16(columns: usize, k: usize, bytes: &[u8]) -> Buffer<F16Row> {
    let values = bytes.as_chunks::<2>().0;
    let value = |i: usize| u16::from_le_bytes(values[i]);
    transpose(columns, k, value, |row: &mut F16Row, lane, value| {
        row.0[lane] = value
    })
}

/// An odd k is padded by zero.
pub(crate) fn pack_bf16(columns: usize, k: usize, bytes: &[u8]) -> Buffer<Bf16Pairs> {
    let values = bytes.as_chunks::<2>().0;
    let half = |i: usize| u32::from(u16::from_le_bytes(values[i]));
    let pairs = k.div_ceil(2);
    let pair = |index: usize| {
        let (column, i) = (index / pairs, index % pairs * 2);
        let second = if i + 1 < k {
            half(column * k + i + 1)
        } else {
            0
        };
        half(column * k + i) | second << 16
    };
    transpose(columns, pairs, pair, |row: &mut Bf16Pairs, lane, pair| {
        row.0[lane] = pair
    })
}
