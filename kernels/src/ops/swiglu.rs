//! out = silu(gate) * up, where each row holds all gates and then all ups.

use super::{exp, widened};
use crate::dispatch;

/// `gate_up` rows are `2 * width` long (gate first); `out` rows are `width` long.
///
/// # Panics
/// When the two do not hold the same number of whole rows.
pub fn swiglu(gate_up: &[f32], width: usize, out: &mut [f32]) {
    swiglu_at(dispatch::level(), gate_up, width, out);
}

/// The same at a chosen level; parity tests compare levels.
pub fn swiglu_at(level: crate::Level, gate_up: &[f32], width: usize, out: &mut [f32]) {
    assert_eq!(gate_up.len(), 2 * out.len());
    assert_eq!(out.len() % width, 0);
    rows(level, gate_up, width, out);
}

widened!(rows = rows_body(gate_up: &[f32], width: usize, out: &mut [f32]));

#[inline(always)]
fn rows_body<const FMA: bool>(gate_up: &[f32], width: usize, out: &mut [f32]) {
    for (row, out) in gate_up
        .chunks_exact(2 * width)
        .zip(out.chunks_exact_mut(width))
    {
        let (gate, up) = row.split_at(width);
        for i in 0..width {
            out[i] = gate[i] / (1.0 + exp::<FMA>(-gate[i])) * up[i];
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
