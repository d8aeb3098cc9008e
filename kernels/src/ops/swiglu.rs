//! out = silu(gate) * up, where each row holds all gates and then all ups.

use super::exp;
use crate::cpu::lanes::{LANES, Lanes, at_level};
use crate::cpu::pool::{Disjoint, Pool};
use crate::dispatch;

/// Rows an item takes: some microseconds of work.
const ITEM_ROWS: usize = 4;

/// `gate_up` rows are `2 * width` long (gate first); `out` rows are `width` long.
///
/// # Panics
/// When the two do not hold the same number of whole rows.
pub fn swiglu(pool: &Pool, gate_up: &[f32], width: usize, out: &mut [f32]) {
    swiglu_at(dispatch::level(), pool, gate_up, width, out);
}

/// The same at a chosen level; parity tests compare levels.
pub fn swiglu_at(level: crate::Level, pool: &Pool, gate_up: &[f32], width: usize, out: &mut [f32]) {
    assert_eq!(gate_up.len(), 2 * out.len());
    assert_eq!(out.len() % width, 0);
    let total = out.len() / width;
    let out = Disjoint::new(out);
    pool.run(total.div_ceil(ITEM_ROWS), &|item| {
        let first = item * ITEM_ROWS;
        let count = ITEM_ROWS.min(total - first);
        // SAFETY: items cover disjoint rows.
        let out = unsafe { out.slice(first * width, count * width) };
        rows(
            level,
            &gate_up[2 * first * width..][..2 * count * width],
            width,
            out,
        );
    });
}

at_level!(rows = rows_body(gate_up: &[f32], width: usize, out: &mut [f32]));

#[inline(always)]
fn rows_body<V: Lanes>(gate_up: &[f32], width: usize, out: &mut [f32]) {
    let one = V::splat(1.0);
    for (row, out) in gate_up
        .chunks_exact(2 * width)
        .zip(out.chunks_exact_mut(width))
    {
        let (gate, up) = row.split_at(width);
        let (gates, gate_rest) = gate.as_chunks::<LANES>();
        let (ups, up_rest) = up.as_chunks::<LANES>();
        let (outs, out_rest) = out.as_chunks_mut::<LANES>();
        for ((gate, up), out) in gates.iter().zip(ups).zip(outs) {
            let gate = V::load(gate);
            let below = one.mul_add(one, gate.mul(V::splat(-1.0)).exp());
            *out = gate.div(below).mul(V::load(up)).array();
        }
        for ((gate, up), out) in gate_rest.iter().zip(up_rest).zip(out_rest) {
            *out = gate / (1.0 + exp(-gate)) * up;
        }
    }
}

/// The definition, with the library's exponential.
pub fn plain(gate_up: &[f32], width: usize, out: &mut [f32]) {
    for (row, out) in gate_up
        .chunks_exact(2 * width)
        .zip(out.chunks_exact_mut(width))
    {
        for i in 0..width {
            let gate = row[i];
            out[i] = gate / (1.0 + (-gate).exp()) * row[width + i];
        }
    }
}
