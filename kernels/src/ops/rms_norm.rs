//! out = x / sqrt(mean(x^2) + epsilon) * weight, row by row.

use super::{mul_add, widened};
use crate::dispatch;

/// Normalises each row of `x` (`weight.len()` wide) into `out`.
///
/// # Panics
/// When `x` and `out` differ in length or are not whole rows.
pub fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    rms_norm_at(dispatch::level(), x, weight, epsilon, out);
}

/// The same at a chosen level; parity tests compare levels.
pub fn rms_norm_at(level: crate::Level, x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    assert_eq!(x.len() % weight.len(), 0);
    rows(level, x, weight, epsilon, out);
}

widened!(rows = rows_body(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]));

/// Sixteen running sums: a fixed order of additions that every vector width can follow.
const LANES: usize = 16;

#[inline(always)]
fn rows_body<const FMA: bool>(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let width = weight.len();
    for (row, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let mut sums = [0.0f32; LANES];
        let whole = row.chunks_exact(LANES);
        let rest: f32 = whole.remainder().iter().map(|v| v * v).sum();
        for chunk in whole {
            for lane in 0..LANES {
                sums[lane] = mul_add::<FMA>(chunk[lane], chunk[lane], sums[lane]);
            }
        }
        let sum: f32 = sums.iter().sum::<f32>() + rest;
        let scale = 1.0 / (sum / width as f32 + epsilon).sqrt();
        for ((out, value), weight) in out.iter_mut().zip(row).zip(weight) {
            *out = value * scale * weight;
        }
    }
}

/// The definition, word for word.
pub fn plain(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let width = weight.len();
    for (row, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let sum: f32 = row.iter().map(|value| value * value).sum();
        let scale = 1.0 / (sum / width as f32 + epsilon).sqrt();
        for i in 0..width {
            out[i] = row[i] * scale * weight[i];
        }
    }
}
