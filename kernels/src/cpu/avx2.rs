//! AVX2: the same tiles in two halves of 8 columns.
//!
//! `maddubs` multiplies unsigned by signed bytes into saturating 16-bit pairs. Nibbles stay far below the bound
//! (eight groups sum to 30,480 at most); 8-bit weights take the sign trick, |w| times x with w's sign, whose
//! pairs reach 32,512.

use super::pack::{Line, TILE_COLUMNS, TILE_K};
use crate::ops::quant_matmul::{MAX_ROWS, QuantKind, QuantRows};
use std::arch::x86_64::*;

type Sums = [[f32; TILE_COLUMNS]; MAX_ROWS];

/// As many rows from `row` on as one pass takes (2 or 1 of the `left`), over a whole column group.
pub(crate) fn tile(
    kind: QuantKind,
    x: &QuantRows,
    row: usize,
    left: usize,
    lines: &[Line],
    scales: &[[u16; TILE_COLUMNS]],
    sums: &mut Sums,
) -> usize {
    let blocks = x.k / TILE_K;
    assert!(row + left <= x.rows && x.quants.len() >= x.rows * x.k);
    assert!(x.scales.len() >= x.rows * blocks && x.sums.len() >= x.rows * blocks);
    assert_eq!(lines.len(), blocks * kind.tile_lines());
    assert_eq!(scales.len(), blocks * kind.tile_scales());
    // SAFETY: called only where AVX2, FMA and F16C were detected; the lengths the pass relies on are asserted above.
    unsafe {
        match (kind, left) {
            (QuantKind::Q4_1, 2..) => pass::<false, 2>(x, row, lines, scales, sums),
            (QuantKind::Q4_1, _) => pass::<false, 1>(x, row, lines, scales, sums),
            (QuantKind::Q8_0, 2..) => pass::<true, 2>(x, row, lines, scales, sums),
            (QuantKind::Q8_0, _) => pass::<true, 1>(x, row, lines, scales, sums),
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn pass<const WIDE: bool, const R: usize>(
    x: &QuantRows,
    row: usize,
    lines: &[Line],
    scales: &[[u16; TILE_COLUMNS]],
    sums: &mut Sums,
) -> usize {
    let blocks = x.k / TILE_K;
    let nibble = _mm256_set1_epi8(15);
    let ones = _mm256_set1_epi16(1);
    for half in 0..2 {
        let mut totals = [_mm256_setzero_ps(); R];
        for block in 0..blocks {
            // SAFETY: `tile` asserted that lines and scales hold `blocks` tiles, and that rows hold `k` quants.
            unsafe {
                let line = |index: usize| -> __m256i {
                    let start: *const u8 = lines.as_ptr().add(index).cast();
                    _mm256_load_si256(start.add(32 * half).cast())
                };
                let half_floats = |index: usize| -> __m256 {
                    let start: *const u16 = scales.as_ptr().add(index).cast();
                    _mm256_cvtph_ps(_mm_loadu_si128(start.add(8 * half).cast()))
                };
                let (scale, minimum) = if WIDE {
                    (half_floats(block), _mm256_setzero_ps())
                } else {
                    (half_floats(block * 2), half_floats(block * 2 + 1))
                };
                for r in 0..R {
                    let quants: *const i32 = x
                        .quants
                        .as_ptr()
                        .add((row + r) * x.k + block * TILE_K)
                        .cast();
                    let word = |g: usize| _mm256_set1_epi32(quants.add(g).read_unaligned());
                    let mut dot = _mm256_setzero_si256();
                    if WIDE {
                        let shift = _mm256_set1_epi8(-128);
                        for g in 0..8 {
                            let weight = _mm256_xor_si256(line(block * 8 + g), shift);
                            let signed = _mm256_sign_epi8(word(g), weight);
                            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weight), signed);
                            dot = _mm256_add_epi32(dot, _mm256_madd_epi16(pairs, ones));
                        }
                    } else {
                        let mut pairs = _mm256_setzero_si256();
                        for g in 0..4 {
                            let both = line(block * 4 + g);
                            let low = _mm256_and_si256(both, nibble);
                            let high = _mm256_and_si256(_mm256_srli_epi16::<4>(both), nibble);
                            pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(low, word(g)));
                            pairs =
                                _mm256_add_epi16(pairs, _mm256_maddubs_epi16(high, word(g + 4)));
                        }
                        dot = _mm256_madd_epi16(pairs, ones);
                    }
                    let index = (row + r) * blocks + block;
                    let scale_x = _mm256_set1_ps(*x.scales.get_unchecked(index));
                    let dot = _mm256_cvtepi32_ps(dot);
                    totals[r] = _mm256_fmadd_ps(dot, _mm256_mul_ps(scale, scale_x), totals[r]);
                    if !WIDE {
                        let sum_x = _mm256_set1_ps(*x.sums.get_unchecked(index));
                        totals[r] = _mm256_fmadd_ps(minimum, sum_x, totals[r]);
                    }
                }
            }
        }
        for (total, sums) in totals.iter().zip(sums.iter_mut()) {
            // SAFETY: `sums` is sixteen f32, of which this is one half.
            unsafe { _mm256_storeu_ps(sums.as_mut_ptr().add(8 * half), *total) };
        }
    }
    R
}
