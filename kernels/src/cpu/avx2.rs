//! AVX2: the same tiles, eight columns at a time.
//!
//! `maddubs` multiplies unsigned by signed bytes into saturating 16-bit pairs, so pairs are widened before they can
//! reach 2^15: after four groups of 4- or 5-bit weights (15,240 and 31,496 at most), after two of 6-bit ones (32,004). 8-bit
//! weights take the sign trick, |w| times x with w's sign, and are widened at once (32,512).

use super::pack::{GroupTiles, Line, SUPER_TILES, ScaleRow, Scales, TILE_K};
use crate::ops::matmul::{Factor, Pass, Sums};
use std::arch::x86_64::*;

const HALF: u8 = Scales::Half as u8;
const HALF_MIN: u8 = Scales::HalfMin as u8;
const SUB: u8 = Scales::Sub as u8;
const SUB_PAIR: u8 = Scales::SubPair as u8;

/// All rows of a pass over a whole column group.
pub(crate) fn tile(pass: &Pass<'_>, tiles: &GroupTiles<'_>, sums: &mut Sums) {
    let form = tiles.form;
    let blocks = tiles.blocks;
    assert_eq!(pass.quants.len(), blocks * pass.rows * TILE_K);
    assert_eq!(pass.factors.len(), blocks * pass.rows);
    assert_eq!(tiles.lines.len(), blocks * form.lines());
    assert_eq!(tiles.scales.len(), form.scale_rows(blocks));
    // SAFETY: called only where AVX2, FMA and F16C were detected; the lengths the pass relies on are asserted above.
    unsafe {
        match (form.bits, form.scales) {
            (4, Scales::Half) => some_rows::<4, HALF>(pass, tiles, sums),
            (4, Scales::HalfMin) => some_rows::<4, HALF_MIN>(pass, tiles, sums),
            (5, Scales::Half) => some_rows::<5, HALF>(pass, tiles, sums),
            (5, Scales::HalfMin) => some_rows::<5, HALF_MIN>(pass, tiles, sums),
            (8, Scales::Half) => some_rows::<8, HALF>(pass, tiles, sums),
            (4, Scales::Sub) => some_rows::<4, SUB>(pass, tiles, sums),
            (5, Scales::Sub) => some_rows::<5, SUB>(pass, tiles, sums),
            (6, Scales::SubPair) => some_rows::<6, SUB_PAIR>(pass, tiles, sums),
            _ => unreachable!("`TileForm::of` makes no other"),
        }
    }
}

/// Rows are taken four at a time: sums, pairs and totals of four fill the sixteen registers.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn some_rows<const BITS: usize, const SCALES: u8>(
    x: &Pass<'_>,
    tiles: &GroupTiles<'_>,
    sums: &mut Sums,
) {
    for columns in 0..2 {
        // SAFETY: the caller's promises, passed on; rows first..first + R lie inside the pass.
        unsafe {
            match x.rows {
                8 => {
                    pass::<BITS, SCALES, 4>(x, 0, tiles, columns, sums);
                    pass::<BITS, SCALES, 4>(x, 4, tiles, columns, sums);
                }
                4 => pass::<BITS, SCALES, 4>(x, 0, tiles, columns, sums),
                2 => pass::<BITS, SCALES, 2>(x, 0, tiles, columns, sums),
                _ => pass::<BITS, SCALES, 1>(x, 0, tiles, columns, sums),
            }
        }
    }
}

/// Group `g` of a tile's quants for eight columns: unsigned, but signed for 8 bits.
///
/// # Safety
/// `line` begins a tile of BITS lines, moved on by 32 bytes for the last eight columns.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn unpack<const BITS: usize>(line: *const Line, g: usize) -> __m256i {
    // SAFETY: half a line of the caller's tile, 32 aligned bytes.
    let load = |index: usize| unsafe { _mm256_load_si256(line.add(index).cast()) };
    if BITS == 8 {
        return _mm256_xor_si256(load(g), _mm256_set1_epi8(-128));
    }
    let right = |bits: __m256i, by: usize| _mm256_srl_epi16(bits, _mm_cvtsi32_si128(by as i32));
    let left = |bits: __m256i, by: usize| _mm256_sll_epi16(bits, _mm_cvtsi32_si128(by as i32));
    let pairs = load(g % 4);
    let moved = if g < 4 { pairs } else { right(pairs, 4) };
    let nibbles = _mm256_and_si256(moved, _mm256_set1_epi8(15));
    let (top, mask) = match BITS {
        4 => return nibbles,
        5 => {
            let plane = load(4);
            let moved = if g < 4 {
                left(plane, 4 - g)
            } else {
                right(plane, g - 4)
            };
            (moved, 0x10)
        }
        _ => {
            let plane = load(4 + g / 4);
            let moved = match g % 4 {
                0 => left(plane, 4),
                1 => left(plane, 2),
                2 => plane,
                _ => right(plane, 2),
            };
            (moved, 0x30)
        }
    };
    _mm256_or_si256(nibbles, _mm256_and_si256(top, _mm256_set1_epi8(mask)))
}

/// Eight half floats.
///
/// # Safety
/// `row` is a row of scales; `columns` is 0 or 1.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn halves(row: *const ScaleRow, columns: usize) -> __m256 {
    let eight: *const __m128i = row.cast();
    // SAFETY: a row is 32 aligned bytes.
    _mm256_cvtph_ps(unsafe { _mm_load_si128(eight.add(columns)) })
}

/// Scales of both halves of k, and minimum.
///
/// # Safety
/// `own` begins the tile's rows of scales; `columns` is 0 or 1.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn scales_of<const SCALES: u8>(
    own: *const ScaleRow,
    columns: usize,
    factor: __m256,
    minimum_factor: __m256,
) -> ([__m256; 2], __m256) {
    let bytes: *const u8 = own.cast();
    let zero = _mm256_setzero_ps();
    // SAFETY: a row is 32 bytes, two of sixteen; HALF_MIN has two rows.
    unsafe {
        let eight = |index: usize| _mm_loadl_epi64(bytes.add(16 * index + 8 * columns).cast());
        match SCALES {
            HALF => ([halves(own, columns); 2], zero),
            HALF_MIN => ([halves(own, columns); 2], halves(own.add(1), columns)),
            SUB => {
                let scale = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(eight(0)));
                let minimum = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(eight(1)));
                (
                    [_mm256_mul_ps(scale, factor); 2],
                    _mm256_mul_ps(minimum, minimum_factor),
                )
            }
            _ => {
                let part = |index| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight(index)));
                let scales = [0, 1].map(|index| _mm256_mul_ps(part(index), factor));
                (scales, zero)
            }
        }
    }
}

/// Rows `first..first + R` of the pass times eight columns.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn pass<const BITS: usize, const SCALES: u8, const R: usize>(
    x: &Pass<'_>,
    first: usize,
    tiles: &GroupTiles<'_>,
    columns: usize,
    sums: &mut Sums,
) {
    let has_minimum = SCALES == HALF_MIN || SCALES == SUB;
    let has_offset = !has_minimum && BITS < 8;
    let widen_every = match BITS {
        4 | 5 => 4,
        6 => 2,
        _ => 1,
    };
    let ones = _mm256_set1_epi16(1);
    let mut scale_row = tiles.scales.as_ptr();
    let mut totals = [_mm256_setzero_ps(); R];
    let (mut outer, mut outer_minimum) = (_mm256_setzero_ps(), _mm256_setzero_ps());
    for block in 0..tiles.blocks {
        // SAFETY: `tile` asserted that lines, scales, quants and factors hold `blocks` tiles of all rows of the pass.
        unsafe {
            if SCALES >= SUB && block % SUPER_TILES == 0 {
                outer = halves(scale_row, columns);
                scale_row = scale_row.add(1);
                if SCALES == SUB {
                    outer_minimum = halves(scale_row, columns);
                    scale_row = scale_row.add(1);
                }
            }
            let (scales, minimum) = scales_of::<SCALES>(scale_row, columns, outer, outer_minimum);
            scale_row = scale_row.add(if SCALES == HALF_MIN { 2 } else { 1 });
            let line = tiles
                .lines
                .as_ptr()
                .add(block * BITS)
                .byte_add(32 * columns);
            let place = block * x.rows + first;
            let words: *const i32 = x.quants.as_ptr().add(place * TILE_K).cast();
            let factors: *const Factor = x.factors.as_ptr().add(place);
            let mut dots = [_mm256_setzero_si256(); R];
            for half in 0..2 {
                if has_offset {
                    for (r, dot) in dots.iter_mut().enumerate() {
                        let shift = (*factors.add(r)).shift[half] << (BITS - 4);
                        *dot = _mm256_add_epi32(*dot, _mm256_set1_epi32(shift));
                    }
                }
                let mut pairs = [_mm256_setzero_si256(); R];
                for j in 0..4 {
                    let g = 4 * half + j;
                    let weight = unpack::<BITS>(line, g);
                    for r in 0..R {
                        let word = _mm256_set1_epi32(words.add(8 * r + g).read_unaligned());
                        let product = if BITS == 8 {
                            let signed = _mm256_sign_epi8(word, weight);
                            _mm256_maddubs_epi16(_mm256_abs_epi8(weight), signed)
                        } else {
                            _mm256_maddubs_epi16(weight, word)
                        };
                        pairs[r] = if j % widen_every == 0 {
                            product
                        } else {
                            _mm256_add_epi16(pairs[r], product)
                        };
                        if (j + 1) % widen_every == 0 {
                            let wide = _mm256_madd_epi16(pairs[r], ones);
                            dots[r] = _mm256_add_epi32(dots[r], wide);
                        }
                    }
                }
                if SCALES != SUB_PAIR && half == 0 {
                    continue;
                }
                for r in 0..R {
                    let factor = &*factors.add(r);
                    let scale = _mm256_mul_ps(scales[half], _mm256_set1_ps(factor.scale));
                    totals[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[r]), scale, totals[r]);
                    if has_minimum {
                        let sum = _mm256_set1_ps(factor.sum);
                        totals[r] = _mm256_fmadd_ps(minimum, sum, totals[r]);
                    }
                    dots[r] = _mm256_setzero_si256();
                }
            }
        }
    }
    for (total, sums) in totals.iter().zip(&mut sums[first..]) {
        // SAFETY: `sums` is sixteen f32, of which this is one half.
        unsafe { _mm256_storeu_ps(sums.as_mut_ptr().add(8 * columns), *total) };
    }
}
