//! AVX-512 VNNI: 16 columns a register, four products and their sum an instruction.

use super::pack::{Line, TILE_COLUMNS, TILE_K};
use crate::ops::quant_matmul::{MAX_ROWS, QuantKind, QuantRows};
use std::arch::x86_64::*;

type Sums = [[f32; TILE_COLUMNS]; MAX_ROWS];

/// As many rows from `row` on as one pass takes (8, 4, 2 or 1 of the `left`), over a whole column group.
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
    // SAFETY: called only at `Level::Avx512`, which was detected; the lengths the pass relies on are asserted above.
    unsafe {
        match (kind, left) {
            (QuantKind::Q4_1, 8..) => pass::<false, 8>(x, row, lines, scales, sums),
            (QuantKind::Q4_1, 4..) => pass::<false, 4>(x, row, lines, scales, sums),
            (QuantKind::Q4_1, 2..) => pass::<false, 2>(x, row, lines, scales, sums),
            (QuantKind::Q4_1, _) => pass::<false, 1>(x, row, lines, scales, sums),
            (QuantKind::Q8_0, 8..) => pass::<true, 8>(x, row, lines, scales, sums),
            (QuantKind::Q8_0, 4..) => pass::<true, 4>(x, row, lines, scales, sums),
            (QuantKind::Q8_0, 2..) => pass::<true, 2>(x, row, lines, scales, sums),
            (QuantKind::Q8_0, _) => pass::<true, 1>(x, row, lines, scales, sums),
        }
    }
}

/// `WIDE`: 8-bit weights (Q8_0), otherwise 4-bit with minima (Q4_1).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma,f16c")]
unsafe fn pass<const WIDE: bool, const R: usize>(
    x: &QuantRows,
    row: usize,
    lines: &[Line],
    scales: &[[u16; TILE_COLUMNS]],
    sums: &mut Sums,
) -> usize {
    let blocks = x.k / TILE_K;
    let nibble = _mm512_set1_epi8(15);
    let mut totals = [_mm512_setzero_ps(); R];
    for block in 0..blocks {
        let mut weights = [_mm512_setzero_si512(); 8];
        let (scale, minimum);
        // SAFETY: `tile` asserted that lines and scales hold `blocks` tiles; a line is 64 bytes, a scale row 32.
        unsafe {
            if WIDE {
                for (g, weight) in weights.iter_mut().enumerate() {
                    *weight = _mm512_load_si512(lines.as_ptr().add(block * 8 + g).cast());
                }
                scale = _mm512_cvtph_ps(_mm256_loadu_si256(scales.as_ptr().add(block).cast()));
                minimum = _mm512_mul_ps(scale, _mm512_set1_ps(-128.0));
            } else {
                for g in 0..4 {
                    let pairs = _mm512_load_si512(lines.as_ptr().add(block * 4 + g).cast());
                    weights[g] = _mm512_and_si512(pairs, nibble);
                    weights[g + 4] = _mm512_and_si512(_mm512_srli_epi16::<4>(pairs), nibble);
                }
                let scales = scales.as_ptr().add(block * 2);
                scale = _mm512_cvtph_ps(_mm256_loadu_si256(scales.cast()));
                minimum = _mm512_cvtph_ps(_mm256_loadu_si256(scales.add(1).cast()));
            }
        }
        for r in 0..R {
            // Two sums, since one chain of eight would wait for itself.
            let mut even = _mm512_setzero_si512();
            let mut odd = _mm512_setzero_si512();
            let (scale_x, sum_x);
            // SAFETY: row + R <= rows, and the quants hold `rows * k` values: eight words of four from here.
            unsafe {
                let quants: *const i32 = x
                    .quants
                    .as_ptr()
                    .add((row + r) * x.k + block * TILE_K)
                    .cast();
                for g in 0..4 {
                    let word = quants.add(g).read_unaligned();
                    even = _mm512_dpbusd_epi32(even, weights[g], _mm512_set1_epi32(word));
                    let word = quants.add(g + 4).read_unaligned();
                    odd = _mm512_dpbusd_epi32(odd, weights[g + 4], _mm512_set1_epi32(word));
                }
                let index = (row + r) * blocks + block;
                scale_x = _mm512_set1_ps(*x.scales.get_unchecked(index));
                sum_x = _mm512_set1_ps(*x.sums.get_unchecked(index));
            }
            let dot = _mm512_cvtepi32_ps(_mm512_add_epi32(even, odd));
            totals[r] = _mm512_fmadd_ps(dot, _mm512_mul_ps(scale, scale_x), totals[r]);
            totals[r] = _mm512_fmadd_ps(minimum, sum_x, totals[r]);
        }
    }
    for (total, sums) in totals.iter().zip(sums) {
        // SAFETY: `sums` is sixteen f32.
        unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), *total) };
    }
    R
}
