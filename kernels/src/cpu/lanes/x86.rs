//! The lanes of x86-64: one register of AVX-512, two of AVX2.

use super::{LANES, Lanes};
use crate::ops::exp_constants::{COEFFICIENTS, FIRST, HIGHEST, LN2_HIGH, LN2_LOW, LOWEST};
use crate::ops::exp2_constants as exp2;
use std::arch::x86_64::*;
use std::f32::consts::LOG2_E;

#[derive(Clone, Copy)]
pub(crate) struct Avx512Lanes<const PAIRS: bool>(__m512);

pub(crate) type Avx512 = Avx512Lanes<false>;
/// With AVX512-BF16: where it is named, that feature is on too.
pub(crate) type Avx512Pairs = Avx512Lanes<true>;

// SAFETY (all blocks below): these types are named only in functions that enable the features they use, called only at
// the level that was detected; loads and stores are of whole arrays of sixteen.
impl<const PAIRS: bool> Lanes for Avx512Lanes<PAIRS> {
    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_set1_ps(value) })
    }
    #[inline(always)]
    fn load(values: &[f32; LANES]) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_loadu_ps(values.as_ptr()) })
    }
    #[inline(always)]
    fn load_f16(bits: &[u16; LANES]) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(bits.as_ptr().cast())) })
    }
    #[inline(always)]
    fn array(self) -> [f32; LANES] {
        let mut values = [0.0; LANES];
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(values.as_mut_ptr(), self.0) };
        values
    }
    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_fmadd_ps(self.0, b.0, c.0) })
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_mul_ps(self.0, b.0) })
    }
    #[inline(always)]
    fn div(self, b: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_div_ps(self.0, b.0) })
    }
    #[inline(always)]
    fn exp(self) -> Self {
        // SAFETY: see above.
        unsafe {
            let splat = |value: f32| _mm512_set1_ps(value);
            let x = _mm512_min_ps(_mm512_max_ps(self.0, splat(LOWEST)), splat(HIGHEST));
            let whole = _mm512_fmadd_ps(x, splat(LOG2_E), splat(0.5));
            let whole = _mm512_roundscale_ps::<{ _MM_FROUND_FLOOR | _MM_FROUND_NO_EXC }>(whole);
            let rest = _mm512_fnmadd_ps(whole, splat(LN2_HIGH), x);
            let rest = _mm512_fnmadd_ps(whole, splat(LN2_LOW), rest);
            let mut sum = splat(FIRST);
            for coefficient in COEFFICIENTS {
                sum = _mm512_fmadd_ps(sum, rest, splat(coefficient));
            }
            let square = _mm512_mul_ps(rest, rest);
            let mantissa = _mm512_fmadd_ps(sum, square, _mm512_add_ps(rest, splat(1.0)));
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(whole), _mm512_set1_epi32(127));
            let scale = _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent));
            let is_seen = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(self.0, splat(LOWEST));
            Self(_mm512_maskz_mul_ps(is_seen, mantissa, scale))
        }
    }
    #[inline(always)]
    fn exp2(self) -> Self {
        // SAFETY: see above.
        unsafe {
            let splat = |value: f32| _mm512_set1_ps(value);
            // So far below that `scalef` leaves nothing, not even a denormal number.
            let x = _mm512_max_ps(self.0, splat(2.0 * exp2::LOWEST));
            let x = _mm512_min_ps(x, splat(exp2::HIGHEST));
            let whole =
                _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
            let rest = _mm512_sub_ps(x, whole);
            let mut sum = splat(exp2::COEFFICIENTS[0]);
            for coefficient in &exp2::COEFFICIENTS[1..] {
                sum = _mm512_fmadd_ps(sum, rest, splat(*coefficient));
            }
            Self(_mm512_scalef_ps(sum, whole))
        }
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_add_ps(self.0, b.0) })
    }
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_max_ps(self.0, b.0) })
    }
    #[inline(always)]
    fn highest(self) -> f32 {
        // SAFETY: see above.
        unsafe { _mm512_reduce_max_ps(self.0) }
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: see above.
        unsafe { _mm512_reduce_add_ps(self.0) }
    }
    const MANY: bool = true;
    #[inline(always)]
    fn round_i8(self, out: &mut [i8; LANES]) -> i32 {
        // SAFETY: see above.
        unsafe {
            let rounded = _mm512_cvtps_epi32(self.0);
            _mm_storeu_si128(out.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(rounded));
            _mm512_reduce_add_epi32(rounded)
        }
    }
    #[inline(always)]
    fn load_bf16_low(words: &[u32; LANES]) -> Self {
        // SAFETY: see above.
        unsafe {
            let words = _mm512_loadu_si512(words.as_ptr().cast());
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(words)))
        }
    }
    #[inline(always)]
    fn load_bf16_high(words: &[u32; LANES]) -> Self {
        // SAFETY: see above.
        unsafe {
            let words = _mm512_loadu_si512(words.as_ptr().cast());
            let high = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            Self(_mm512_castsi512_ps(_mm512_and_si512(words, high)))
        }
    }
    const HAS_PAIRS: bool = PAIRS;
    #[inline(always)]
    fn round_pairs(self) -> ([u32; LANES / 2], Self) {
        // SAFETY: see above; a register of sixteen bf16 is eight words.
        unsafe {
            let pairs = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(self.0));
            let values = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(pairs));
            let words = std::mem::transmute::<__m256i, [u32; LANES / 2]>(pairs);
            (words, Self(_mm512_castsi512_ps(values)))
        }
    }
    #[inline(always)]
    fn add_pairs(self, pair: u32, words: &[u32; LANES]) -> Self {
        // SAFETY: see above; sixteen words are a register of bf16 pairs.
        unsafe {
            let pairs = |words| std::mem::transmute::<__m512i, __m512bh>(words);
            let pair = pairs(_mm512_set1_epi32(pair.cast_signed()));
            let words = pairs(_mm512_loadu_si512(words.as_ptr().cast()));
            Self(_mm512_dpbf16_ps(self.0, pair, words))
        }
    }
    #[inline(always)]
    fn add_words(self, pairs: &[u32; LANES], words: &[u32; LANES]) -> Self {
        // SAFETY: as in `add_pairs`.
        unsafe {
            let load = |words: &[u32; LANES]| {
                let words = _mm512_loadu_si512(words.as_ptr().cast());
                std::mem::transmute::<__m512i, __m512bh>(words)
            };
            Self(_mm512_dpbf16_ps(self.0, load(pairs), load(words)))
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256, __m256);

impl Avx2 {
    #[inline(always)]
    fn both(self, f: impl Fn(__m256) -> __m256) -> Avx2 {
        Avx2(f(self.0), f(self.1))
    }
}

impl Lanes for Avx2 {
    #[inline(always)]
    fn splat(value: f32) -> Avx2 {
        // SAFETY: see above.
        let half = unsafe { _mm256_set1_ps(value) };
        Avx2(half, half)
    }
    #[inline(always)]
    fn load(values: &[f32; LANES]) -> Avx2 {
        // SAFETY: see above.
        unsafe {
            Avx2(
                _mm256_loadu_ps(values.as_ptr()),
                _mm256_loadu_ps(values.as_ptr().add(8)),
            )
        }
    }
    #[inline(always)]
    fn load_f16(bits: &[u16; LANES]) -> Avx2 {
        // SAFETY: see above.
        unsafe {
            Avx2(
                _mm256_cvtph_ps(_mm_loadu_si128(bits.as_ptr().cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(bits.as_ptr().add(8).cast())),
            )
        }
    }
    #[inline(always)]
    fn array(self) -> [f32; LANES] {
        let mut values = [0.0; LANES];
        // SAFETY: see above.
        unsafe {
            _mm256_storeu_ps(values.as_mut_ptr(), self.0);
            _mm256_storeu_ps(values.as_mut_ptr().add(8), self.1);
        }
        values
    }
    #[inline(always)]
    fn mul_add(self, b: Avx2, c: Avx2) -> Avx2 {
        // SAFETY: see above.
        unsafe {
            Avx2(
                _mm256_fmadd_ps(self.0, b.0, c.0),
                _mm256_fmadd_ps(self.1, b.1, c.1),
            )
        }
    }
    #[inline(always)]
    fn mul(self, b: Avx2) -> Avx2 {
        // SAFETY: see above.
        unsafe { Avx2(_mm256_mul_ps(self.0, b.0), _mm256_mul_ps(self.1, b.1)) }
    }
    #[inline(always)]
    fn div(self, b: Avx2) -> Avx2 {
        // SAFETY: see above.
        unsafe { Avx2(_mm256_div_ps(self.0, b.0), _mm256_div_ps(self.1, b.1)) }
    }
    #[inline(always)]
    fn exp(self) -> Avx2 {
        // SAFETY: see above.
        self.both(|value| unsafe {
            let splat = |value: f32| _mm256_set1_ps(value);
            let x = _mm256_min_ps(_mm256_max_ps(value, splat(LOWEST)), splat(HIGHEST));
            let whole = _mm256_floor_ps(_mm256_fmadd_ps(x, splat(LOG2_E), splat(0.5)));
            let rest = _mm256_fnmadd_ps(whole, splat(LN2_HIGH), x);
            let rest = _mm256_fnmadd_ps(whole, splat(LN2_LOW), rest);
            let mut sum = splat(FIRST);
            for coefficient in COEFFICIENTS {
                sum = _mm256_fmadd_ps(sum, rest, splat(coefficient));
            }
            let square = _mm256_mul_ps(rest, rest);
            let mantissa = _mm256_fmadd_ps(sum, square, _mm256_add_ps(rest, splat(1.0)));
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127));
            let scale = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent));
            let is_seen = _mm256_cmp_ps::<_CMP_GE_OQ>(value, splat(LOWEST));
            _mm256_and_ps(_mm256_mul_ps(mantissa, scale), is_seen)
        })
    }
    #[inline(always)]
    fn exp2(self) -> Avx2 {
        // SAFETY: see above.
        self.both(|value| unsafe {
            let splat = |value: f32| _mm256_set1_ps(value);
            let x = _mm256_max_ps(value, splat(exp2::LOWEST));
            let x = _mm256_min_ps(x, splat(exp2::HIGHEST));
            let whole = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
            let rest = _mm256_sub_ps(x, whole);
            let mut sum = splat(exp2::COEFFICIENTS[0]);
            for coefficient in &exp2::COEFFICIENTS[1..] {
                sum = _mm256_fmadd_ps(sum, rest, splat(*coefficient));
            }
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127));
            _mm256_mul_ps(sum, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        })
    }
    #[inline(always)]
    fn add(self, b: Avx2) -> Avx2 {
        // SAFETY: see above.
        unsafe { Avx2(_mm256_add_ps(self.0, b.0), _mm256_add_ps(self.1, b.1)) }
    }
    #[inline(always)]
    fn max(self, b: Avx2) -> Avx2 {
        // SAFETY: see above.
        unsafe { Avx2(_mm256_max_ps(self.0, b.0), _mm256_max_ps(self.1, b.1)) }
    }
    #[inline(always)]
    fn highest(self) -> f32 {
        // SAFETY: see above.
        unsafe {
            let eight = _mm256_max_ps(self.0, self.1);
            let four = _mm_max_ps(
                _mm256_castps256_ps128(eight),
                _mm256_extractf128_ps::<1>(eight),
            );
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: see above.
        unsafe {
            let eight = _mm256_add_ps(self.0, self.1);
            let four = _mm_add_ps(
                _mm256_castps256_ps128(eight),
                _mm256_extractf128_ps::<1>(eight),
            );
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }
    #[inline(always)]
    fn round_i8(self, out: &mut [i8; LANES]) -> i32 {
        // SAFETY: see above.
        unsafe {
            let (low, high) = (_mm256_cvtps_epi32(self.0), _mm256_cvtps_epi32(self.1));
            // Packs within halves: 0-3 8-11 | 4-7 12-15, then set in order.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(low, high));
            let bytes = _mm_packs_epi16(
                _mm256_castsi256_si128(words),
                _mm256_extracti128_si256::<1>(words),
            );
            _mm_storeu_si128(out.as_mut_ptr().cast(), bytes);
            let eight = _mm256_add_epi32(low, high);
            let four = _mm_add_epi32(
                _mm256_castsi256_si128(eight),
                _mm256_extracti128_si256::<1>(eight),
            );
            let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
            let one = _mm_add_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two));
            _mm_cvtsi128_si32(one)
        }
    }
    #[inline(always)]
    fn load_bf16_low(words: &[u32; LANES]) -> Avx2 {
        // SAFETY: see above.
        unsafe {
            let half = |from: usize| {
                let words = _mm256_loadu_si256(words.as_ptr().add(from).cast());
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words))
            };
            Avx2(half(0), half(8))
        }
    }
    #[inline(always)]
    fn load_bf16_high(words: &[u32; LANES]) -> Avx2 {
        // SAFETY: see above.
        unsafe {
            let high = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            let half = |from: usize| {
                let words = _mm256_loadu_si256(words.as_ptr().add(from).cast());
                _mm256_castsi256_ps(_mm256_and_si256(words, high))
            };
            Avx2(half(0), half(8))
        }
    }
}
