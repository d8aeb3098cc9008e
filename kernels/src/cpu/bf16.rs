//! AVX-512 BF16: 16 columns a register, two products and their sum an instruction.

use super::pack::Bf16Pairs;
use crate::ops::matmul::Sums;
use std::arch::x86_64::*;

/// Rows of `x` (1, 2, 4 or 8, each two values a row of `weights`) times sixteen columns.
pub(crate) fn tile(x: &[u16], weights: &[Bf16Pairs], sums: &mut Sums) {
    let rows = x.len() / (2 * weights.len());
    assert_eq!(x.len(), rows * 2 * weights.len());
    // SAFETY: called only where AVX-512 with BF16 was detected; `x` holds `rows` rows of two values for each of them.
    unsafe {
        match rows {
            1 => pass::<1>(x, weights, sums),
            2 => pass::<2>(x, weights, sums),
            4 => pass::<4>(x, weights, sums),
            _ => pass::<8>(x, weights, sums),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn pass<const R: usize>(x: &[u16], weights: &[Bf16Pairs], sums: &mut Sums) {
    let pairs = weights.len();
    assert!(x.len() >= R * pairs * 2);
    let words: *const i32 = x.as_ptr().cast();
    let mut totals = [_mm512_setzero_ps(); R];
    for (i, row) in weights.iter().enumerate() {
        // SAFETY: a row is 64 aligned bytes of bf16 pairs.
        let weight: __m512bh =
            unsafe { std::mem::transmute(_mm512_load_si512(row.0.as_ptr().cast())) };
        for (r, total) in totals.iter_mut().enumerate() {
            // SAFETY: row r < R holds a pair for each row of weights.
            let word = unsafe { words.add(r * pairs + i).read_unaligned() };
            // SAFETY: both are 64 bytes of bf16 pairs.
            let x: __m512bh = unsafe { std::mem::transmute(_mm512_set1_epi32(word)) };
            *total = _mm512_dpbf16_ps(*total, weight, x);
        }
    }
    for (total, sums) in totals.iter().zip(sums) {
        // SAFETY: `sums` is sixteen f32.
        unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), *total) };
    }
}
