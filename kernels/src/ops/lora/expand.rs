//! out += b v: an adapter's ranks to a column group, on top of the sums of the weights.

use super::matrix::Packed;
use super::{Adapters, common};
use crate::cpu::lanes::{Lanes, at_level};
use crate::cpu::pack::{Bf16Pairs, F32Row, TILE_COLUMNS};
use std::ops::Range;

/// Adds to `sums`, those of `rows` over column group `group` of part `part`, what the rows' adapters give. `shrunk` begins
/// with the first of `rows`.
pub(crate) fn expand(
    level: crate::Level,
    adapters: &Adapters<'_>,
    shrunk: &[f32],
    part: usize,
    rows: Range<usize>,
    group: usize,
    sums: &mut [[f32; TILE_COLUMNS]],
) {
    expand_at(level, adapters, shrunk, part, rows, group, sums);
}

at_level!(expand_at = expand_body(
    adapters: &Adapters<'_>,
    shrunk: &[f32],
    part: usize,
    rows: Range<usize>,
    group: usize,
    sums: &mut [[f32; TILE_COLUMNS]],
));

#[inline(always)]
fn expand_body<V: Lanes>(
    adapters: &Adapters<'_>,
    shrunk: &[f32],
    part: usize,
    rows: Range<usize>,
    group: usize,
    sums: &mut [[f32; TILE_COLUMNS]],
) {
    for run in adapters.from(rows.start) {
        if run.rows.start >= rows.end {
            return;
        }
        let Some(lora) = run.parts[part] else {
            continue;
        };
        let shared = common(&run.rows, &rows);
        let class = lora.class();
        let mut row = shared.start;
        while row < shared.end {
            let count = match shared.end - row {
                8.. if V::MANY => 8,
                4.. => 4,
                2.. => 2,
                _ => 1,
            };
            let v = &shrunk[adapters.place(row - rows.start, part)..];
            let sums = &mut sums[row - rows.start..][..count];
            match lora.packed() {
                Packed::F32 { b, .. } => {
                    let b = &b[group * class..][..class];
                    match count {
                        1 => f32_rows::<V, 1>(v, adapters.width, b, sums),
                        2 => f32_rows::<V, 2>(v, adapters.width, b, sums),
                        4 => f32_rows::<V, 4>(v, adapters.width, b, sums),
                        _ => f32_rows::<V, 8>(v, adapters.width, b, sums),
                    }
                }
                Packed::Bf16 { b, .. } => {
                    let b = &b[group * class / 2..][..class / 2];
                    match count {
                        1 => bf16_rows::<V, 1>(v, adapters.width, b, sums),
                        2 => bf16_rows::<V, 2>(v, adapters.width, b, sums),
                        4 => bf16_rows::<V, 4>(v, adapters.width, b, sums),
                        _ => bf16_rows::<V, 8>(v, adapters.width, b, sums),
                    }
                }
            }
            row += count;
        }
    }
}

#[inline(always)]
fn f32_rows<V: Lanes, const ROWS: usize>(
    v: &[f32],
    stride: usize,
    b: &[F32Row],
    sums: &mut [[f32; TILE_COLUMNS]],
) {
    let mut totals = [V::splat(0.0); ROWS];
    let mut rows: [&[f32]; ROWS] = [&[]; ROWS];
    for r in 0..ROWS {
        totals[r] = V::load(&sums[r]);
        rows[r] = &v[r * stride..][..b.len()];
    }
    for (i, line) in b.iter().enumerate() {
        let line = V::load(&line.0);
        for r in 0..ROWS {
            totals[r] = V::splat(rows[r][i]).mul_add(line, totals[r]);
        }
    }
    for r in 0..ROWS {
        sums[r] = totals[r].array();
    }
}

/// The ranks of a row stay f32: what is rounded is only what is kept.
#[inline(always)]
fn bf16_rows<V: Lanes, const ROWS: usize>(
    v: &[f32],
    stride: usize,
    b: &[Bf16Pairs],
    sums: &mut [[f32; TILE_COLUMNS]],
) {
    let mut totals = [V::splat(0.0); ROWS];
    let mut rows: [&[[f32; 2]]; ROWS] = [&[]; ROWS];
    for r in 0..ROWS {
        totals[r] = V::load(&sums[r]);
        rows[r] = &v[r * stride..][..2 * b.len()].as_chunks::<2>().0[..b.len()];
    }
    for (i, line) in b.iter().enumerate() {
        let (low, high) = (V::load_bf16_low(&line.0), V::load_bf16_high(&line.0));
        for r in 0..ROWS {
            totals[r] = V::splat(rows[r][i][0]).mul_add(low, totals[r]);
            totals[r] = V::splat(rows[r][i][1]).mul_add(high, totals[r]);
        }
    }
    for r in 0..ROWS {
        sums[r] = totals[r].array();
    }
}
