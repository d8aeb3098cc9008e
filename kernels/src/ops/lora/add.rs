//! Adapters on top of outputs that are there already.

use super::{Adapters, LoraDtype, LoraMatrix, LoraRun, MAX_PARTS, Rows, common, expand, shrink};
use crate::Level;
use crate::cpu::pack::TILE_COLUMNS;
use crate::cpu::pool::{Disjoint, Pool};
use std::ops::Range;

/// Rows of an item of work.
const ITEM_ROWS: usize = 8;

/// Adds to rows of `out`, `stride` wide, what the adapters of `runs`, all in f32, make of the rows of `x`: to the bits of
/// [`matmul_adapted`](crate::matmul_adapted), had it made `out` without biases. Part i begins at column `columns[i]`.
///
/// # Panics
/// When runs are out of order or past the rows, a matrix fits neither `k` nor a row of `out`, or those of a part differ
/// in columns.
pub(crate) fn add_adapters(
    level: Level,
    pool: &Pool,
    x: &[f32],
    k: usize,
    columns: &[usize],
    runs: &[LoraRun<'_>],
    out: &mut [f32],
    stride: usize,
) {
    let fits = |part: usize, lora: &LoraMatrix| {
        lora.dtype() == LoraDtype::F32 && columns[part] + lora.columns() <= stride
    };
    let adapters = Adapters::new(runs, k, fits);
    let rows = adapters.end();
    assert!(x.len() >= rows * k && out.len() >= rows * stride);
    let mut shrunk = vec![0.0; rows * adapters.width];
    let (shrunk, out) = (Disjoint::new(&mut shrunk), Disjoint::new(out));
    pool.run(rows.div_ceil(ITEM_ROWS), &|item| {
        let rows = item * ITEM_ROWS..((item + 1) * ITEM_ROWS).min(rows);
        let (first, len) = (rows.start, rows.len());
        // SAFETY: the rows of this item, of either.
        let (shrunk, out) = unsafe {
            (
                shrunk.slice(first * adapters.width, len * adapters.width),
                out.slice(first * stride, len * stride),
            )
        };
        for part in 0..MAX_PARTS {
            let width = shrink_part(level, &adapters, x, k, part, &rows, shrunk);
            for group in 0..width.div_ceil(TILE_COLUMNS) {
                let start = columns[part] + group * TILE_COLUMNS;
                let place = start..(start + TILE_COLUMNS).min(columns[part] + width);
                let mut sums = [[0.0; TILE_COLUMNS]; ITEM_ROWS];
                for (sums, out) in sums.iter_mut().zip(out.chunks_exact(stride)) {
                    sums[..place.len()].copy_from_slice(&out[place.clone()]);
                }
                let sums = &mut sums[..len];
                expand(level, &adapters, shrunk, part, rows.clone(), group, sums);
                for (sums, out) in sums.iter().zip(out.chunks_exact_mut(stride)) {
                    out[place.clone()].copy_from_slice(&sums[..place.len()]);
                }
            }
        }
    });
}

/// Shrinks one part of `rows`, the first of which `shrunk` begins with; how many columns the part has, none without adapter.
fn shrink_part(
    level: Level,
    adapters: &Adapters<'_>,
    x: &[f32],
    k: usize,
    part: usize,
    rows: &Range<usize>,
    shrunk: &mut [f32],
) -> usize {
    let mut width = 0;
    for run in adapters.from(rows.start) {
        let shared = common(&run.rows, rows);
        let Some(lora) = run.parts[part] else {
            continue;
        };
        if shared.is_empty() {
            continue;
        }
        assert!(width == 0 || width == lora.columns());
        width = lora.columns();
        let x = Rows::F32(&x[shared.start * k..shared.end * k]);
        let start = adapters.place(shared.start - rows.start, part);
        shrink(level, x, lora, &mut shrunk[start..], adapters.width);
    }
    width
}
