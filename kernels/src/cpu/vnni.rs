//! AVX-512 VNNI: 16 columns a register, four products and their sum an instruction.
//!
//! Two running sums a row, the first and the last 16 values of k: one chain of eight would wait for itself. They begin at what
//! the format's offset takes off (`Factor::shift`), so that formats without minimum pay nothing for being unsigned.

use super::pack::{GroupTiles, Line, SUPER_TILES, ScaleRow, Scales, TILE_K};
use crate::ops::matmul::{Factor, Pass, Sums};
use std::arch::x86_64::*;

/// Bytes ahead of the tile at work that are called into the cache: the hardware follows the stream too, but stops at every page.
const PREFETCH: usize = 1536;

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
    // SAFETY: called only at `Level::Avx512`, which was detected; the lengths the pass relies on are asserted above.
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

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma,f16c")]
unsafe fn some_rows<const BITS: usize, const SCALES: u8>(
    x: &Pass<'_>,
    tiles: &GroupTiles<'_>,
    sums: &mut Sums,
) {
    // SAFETY: the caller's promises, passed on.
    unsafe {
        match x.rows {
            8 => pass::<BITS, SCALES, 8>(x, tiles, sums),
            4 => pass::<BITS, SCALES, 4>(x, tiles, sums),
            2 => pass::<BITS, SCALES, 2>(x, tiles, sums),
            _ => pass::<BITS, SCALES, 1>(x, tiles, sums),
        }
    }
}

/// The unsigned quants of a tile, group by group of four values of k.
///
/// # Safety
/// `line` begins a tile of BITS lines.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma,f16c")]
unsafe fn unpack<const BITS: usize>(line: *const Line) -> [__m512i; 8] {
    let mut weights = [_mm512_setzero_si512(); 8];
    // SAFETY: lines 0..BITS are the caller's tile, each 64 aligned bytes.
    let load = |index: usize| unsafe { _mm512_load_si512(line.add(index).cast()) };
    if BITS == 8 {
        for (g, weight) in weights.iter_mut().enumerate() {
            *weight = load(g);
        }
        return weights;
    }
    let nibble = _mm512_set1_epi8(15);
    for g in 0..4 {
        let pairs = load(g);
        weights[g] = _mm512_and_si512(pairs, nibble);
        weights[g + 4] = _mm512_and_si512(_mm512_srli_epi16::<4>(pairs), nibble);
    }
    if BITS == 5 {
        let plane = load(4);
        let bit = _mm512_set1_epi8(16);
        let shifted = [
            _mm512_slli_epi16::<4>(plane),
            _mm512_slli_epi16::<3>(plane),
            _mm512_slli_epi16::<2>(plane),
            _mm512_slli_epi16::<1>(plane),
            plane,
            _mm512_srli_epi16::<1>(plane),
            _mm512_srli_epi16::<2>(plane),
            _mm512_srli_epi16::<3>(plane),
        ];
        for (weight, shifted) in weights.iter_mut().zip(shifted) {
            *weight = or_masked(*weight, shifted, bit);
        }
    }
    if BITS == 6 {
        let bits = _mm512_set1_epi8(0x30);
        for p in 0..2 {
            let plane = load(4 + p);
            let shifted = [
                _mm512_slli_epi16::<4>(plane),
                _mm512_slli_epi16::<2>(plane),
                plane,
                _mm512_srli_epi16::<2>(plane),
            ];
            for (weight, shifted) in weights[4 * p..].iter_mut().zip(shifted) {
                *weight = or_masked(*weight, shifted, bits);
            }
        }
    }
    weights
}

/// weight | (bits & mask)
#[inline]
#[target_feature(enable = "avx512f")]
fn or_masked(weight: __m512i, bits: __m512i, mask: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<0xf8>(weight, bits, mask)
}

/// The two f32 vectors of a tile's scales: scale and minimum, or for SUB_PAIR the scales of both halves.
///
/// # Safety
/// `own` begins the tile's rows of scales.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma,f16c")]
unsafe fn scales_of<const SCALES: u8>(
    own: *const ScaleRow,
    factor: __m512,
    minimum_factor: __m512,
) -> (__m512, __m512) {
    let bytes: *const __m128i = own.cast();
    // SAFETY: a row is 32 bytes; HALF_MIN has two of them.
    unsafe {
        match SCALES {
            HALF => (halves(own), _mm512_setzero_ps()),
            HALF_MIN => (halves(own), halves(own.add(1))),
            SUB => {
                let scale = _mm512_cvtepu8_epi32(_mm_load_si128(bytes));
                let minimum = _mm512_cvtepu8_epi32(_mm_load_si128(bytes.add(1)));
                (
                    _mm512_mul_ps(_mm512_cvtepi32_ps(scale), factor),
                    _mm512_mul_ps(_mm512_cvtepi32_ps(minimum), minimum_factor),
                )
            }
            _ => {
                let first = _mm512_cvtepi8_epi32(_mm_load_si128(bytes));
                let last = _mm512_cvtepi8_epi32(_mm_load_si128(bytes.add(1)));
                (
                    _mm512_mul_ps(_mm512_cvtepi32_ps(first), factor),
                    _mm512_mul_ps(_mm512_cvtepi32_ps(last), factor),
                )
            }
        }
    }
}

/// Sixteen half floats.
///
/// # Safety
/// `row` is a row of scales.
#[inline]
#[target_feature(enable = "avx512f,f16c")]
unsafe fn halves(row: *const ScaleRow) -> __m512 {
    // SAFETY: a row is 32 aligned bytes.
    _mm512_cvtph_ps(unsafe { _mm256_load_si256(row.cast()) })
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma,f16c")]
unsafe fn pass<const BITS: usize, const SCALES: u8, const R: usize>(
    x: &Pass<'_>,
    tiles: &GroupTiles<'_>,
    sums: &mut Sums,
) {
    let has_offset = SCALES == HALF || SCALES == SUB_PAIR;
    let mut line = tiles.lines.as_ptr();
    let mut scale_row = tiles.scales.as_ptr();
    let mut words: *const i32 = x.quants.as_ptr().cast();
    let mut factors: *const Factor = x.factors.as_ptr();
    let mut totals = [_mm512_setzero_ps(); R];
    let (mut outer, mut outer_minimum) = (_mm512_setzero_ps(), _mm512_setzero_ps());
    for block in 0..tiles.blocks {
        // SAFETY: `tile` asserted that lines, scales, quants and factors hold `blocks` tiles of R rows, and the four
        // pointers step from one tile to the next.
        unsafe {
            if SCALES >= SUB && block % SUPER_TILES == 0 {
                outer = halves(scale_row);
                scale_row = scale_row.add(1);
                if SCALES == SUB {
                    outer_minimum = halves(scale_row);
                    scale_row = scale_row.add(1);
                }
            }
            for ahead in 0..BITS {
                let address = line.wrapping_byte_add(PREFETCH + 64 * ahead);
                _mm_prefetch::<_MM_HINT_T0>(address.cast());
            }
            let weights = unpack::<BITS>(line);
            let (scale, second) = scales_of::<SCALES>(scale_row, outer, outer_minimum);
            for r in 0..R {
                let factor = &*factors.add(r);
                let mut dots = [_mm512_setzero_si512(); 2];
                for (half, dot) in dots.iter_mut().enumerate() {
                    if has_offset {
                        *dot = _mm512_set1_epi32(factor.shift[half]);
                        match BITS {
                            4 => {}
                            5 => *dot = _mm512_slli_epi32::<1>(*dot),
                            6 => *dot = _mm512_slli_epi32::<2>(*dot),
                            _ => *dot = _mm512_slli_epi32::<4>(*dot),
                        }
                    }
                    for g in 4 * half..4 * half + 4 {
                        let word = words.add(8 * r + g).read_unaligned();
                        *dot = _mm512_dpbusd_epi32(*dot, weights[g], _mm512_set1_epi32(word));
                    }
                }
                let scale_x = _mm512_set1_ps(factor.scale);
                if SCALES == SUB_PAIR {
                    let first = _mm512_mul_ps(_mm512_cvtepi32_ps(dots[0]), scale);
                    let both = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[1]), second, first);
                    totals[r] = _mm512_fmadd_ps(both, scale_x, totals[r]);
                } else {
                    let dot = _mm512_cvtepi32_ps(_mm512_add_epi32(dots[0], dots[1]));
                    totals[r] = _mm512_fmadd_ps(dot, _mm512_mul_ps(scale, scale_x), totals[r]);
                }
                if !has_offset {
                    totals[r] = _mm512_fmadd_ps(second, _mm512_set1_ps(factor.sum), totals[r]);
                }
            }
            line = line.add(BITS);
            scale_row = scale_row.add(if SCALES == HALF_MIN { 2 } else { 1 });
            words = words.add(8 * R);
            factors = factors.add(R);
        }
    }
    for (total, sums) in totals.iter().zip(sums) {
        // SAFETY: `sums` is sixteen f32.
        unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), *total) };
    }
}
