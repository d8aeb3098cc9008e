//! Plain-number weights: one multiply-add a weight, for several rows at once.
//!
//! Sums run over 128 values of k before they join their total, which keeps the rounding error of long rows small.

use super::lanes::{Lanes, at_level};
use super::pack::{Bf16Pairs, F16Row, F32Row};
use crate::ops::matmul::Sums;

/// Values of k that are summed before they join the total.
const RUN: usize = 128;

/// Rows of `x` (1, 2, 4 or 8, each as long as there are `weights`) times sixteen columns.
pub(crate) fn tile_f32(level: crate::Level, x: &[f32], weights: &[F32Row], sums: &mut Sums) {
    f32_at(level, x, weights, sums);
}

/// The same for half floats, given by their bits.
pub(crate) fn tile_f16(level: crate::Level, x: &[f32], weights: &[F16Row], sums: &mut Sums) {
    f16_at(level, x, weights, sums);
}

/// The same for bf16 pairs and bf16 rows, in f32 arithmetic: for machines without the instruction.
pub(crate) fn tile_bf16(level: crate::Level, x: &[u16], weights: &[Bf16Pairs], sums: &mut Sums) {
    bf16_at(level, x, weights, sums);
}

at_level!(f32_at = f32_body(x: &[f32], weights: &[F32Row], sums: &mut Sums));
at_level!(f16_at = f16_body(x: &[f32], weights: &[F16Row], sums: &mut Sums));
at_level!(bf16_at = bf16_body(x: &[u16], weights: &[Bf16Pairs], sums: &mut Sums));

#[inline(always)]
fn f32_body<V: Lanes>(x: &[f32], weights: &[F32Row], sums: &mut Sums) {
    some_rows::<V, _>(x, weights, |row| V::load(&row.0), sums);
}

#[inline(always)]
fn f16_body<V: Lanes>(x: &[f32], weights: &[F16Row], sums: &mut Sums) {
    some_rows::<V, _>(x, weights, |row| V::load_f16(&row.0), sums);
}

#[inline(always)]
fn some_rows<V: Lanes, W>(x: &[f32], weights: &[W], load: impl Fn(&W) -> V, sums: &mut Sums) {
    match x.len() / weights.len() {
        1 => rows::<V, W, 1>(x, weights, load, sums),
        2 => rows::<V, W, 2>(x, weights, load, sums),
        4 => rows::<V, W, 4>(x, weights, load, sums),
        _ => rows::<V, W, 8>(x, weights, load, sums),
    }
}

#[inline(always)]
fn rows<V: Lanes, W, const R: usize>(
    x: &[f32],
    weights: &[W],
    load: impl Fn(&W) -> V,
    sums: &mut Sums,
) {
    let k = weights.len();
    assert_eq!(x.len(), R * k);
    let mut totals = [V::splat(0.0); R];
    let mut start = 0;
    while start < k {
        let run = &weights[start..k.min(start + RUN)];
        let x: [&[f32]; R] = std::array::from_fn(|r| &x[r * k + start..][..run.len()]);
        let mut partial = [V::splat(0.0); R];
        for (i, weight) in run.iter().enumerate() {
            let weight = load(weight);
            for r in 0..R {
                partial[r] = V::splat(x[r][i]).mul_add(weight, partial[r]);
            }
        }
        for (total, partial) in totals.iter_mut().zip(partial) {
            *total = total.add(partial);
        }
        start += RUN;
    }
    for (sums, total) in sums.iter_mut().zip(totals) {
        *sums = total.array();
    }
}

#[inline(always)]
fn bf16_body<V: Lanes>(x: &[u16], weights: &[Bf16Pairs], sums: &mut Sums) {
    match x.len() / (2 * weights.len()) {
        1 => bf16_rows::<V, 1>(x, weights, sums),
        2 => bf16_rows::<V, 2>(x, weights, sums),
        4 => bf16_rows::<V, 4>(x, weights, sums),
        _ => bf16_rows::<V, 8>(x, weights, sums),
    }
}

#[inline(always)]
fn bf16_rows<V: Lanes, const R: usize>(x: &[u16], weights: &[Bf16Pairs], sums: &mut Sums) {
    let pairs = weights.len();
    assert_eq!(x.len(), R * pairs * 2);
    let x: [&[[u16; 2]]; R] = std::array::from_fn(|r| &x.as_chunks::<2>().0[r * pairs..][..pairs]);
    let wide = |bits: u16| V::splat(f32::from_bits(u32::from(bits) << 16));
    let mut totals = [V::splat(0.0); R];
    for (i, row) in weights.iter().enumerate() {
        let (first, second) = (V::load_bf16_low(&row.0), V::load_bf16_high(&row.0));
        for r in 0..R {
            totals[r] = wide(x[r][i][0]).mul_add(first, totals[r]);
            totals[r] = wide(x[r][i][1]).mul_add(second, totals[r]);
        }
    }
    for (sums, total) in sums.iter_mut().zip(totals) {
        *sums = total.array();
    }
}
