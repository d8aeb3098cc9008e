//! Sixteen f32 side by side, in whatever registers the machine has.
//!
//! For loops the compiler will not widen by itself: those whose sums must stay in registers. A body generic over [`Lanes`]
//! is compiled once per kind, inside a function that turns the kind's features on; only there do these types appear.

#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512, Avx512Pairs};

pub(crate) const LANES: usize = 16;

pub(crate) trait Lanes: Copy {
    fn splat(value: f32) -> Self;
    fn load(values: &[f32; LANES]) -> Self;
    /// Half floats, given by their bits.
    fn load_f16(bits: &[u16; LANES]) -> Self;
    fn array(self) -> [f32; LANES];
    /// `self * b + c`, fused where the machine fuses.
    fn mul_add(self, b: Self, c: Self) -> Self;
    fn mul(self, b: Self) -> Self;
    fn div(self, b: Self) -> Self;
    /// e^x by the polynomial of [`crate::ops::exp`].
    fn exp(self) -> Self;
    /// 2^x by the polynomial of [`crate::ops::exp2`].
    fn exp2(self) -> Self;
    fn add(self, b: Self) -> Self;
    fn max(self, b: Self) -> Self;
    /// The highest of the sixteen.
    fn highest(self) -> f32;
    /// The sum of the sixteen, in an order of its own that never changes.
    fn sum(self) -> f32;
    /// Whether 32 of them fit the registers; else a body makes do with eight.
    const MANY: bool = false;
    /// The sixteen rounded, ties to even, and the sum of what came out. They lie within -128 and 127.
    fn round_i8(self, out: &mut [i8; LANES]) -> i32;
    /// bf16 values in the low halves of sixteen words, as f32.
    fn load_bf16_low(words: &[u32; LANES]) -> Self;
    /// The same of the high halves.
    fn load_bf16_high(words: &[u32; LANES]) -> Self;
    /// Whether the two methods below exist: products of bf16 pairs at twice the speed of f32.
    const HAS_PAIRS: bool = false;
    /// Rounded to bf16, neighbours together in a word; and what the rounded values are as f32.
    fn round_pairs(self) -> ([u32; LANES / 2], Self) {
        unreachable!("asked only where `HAS_PAIRS`")
    }
    /// `self` plus, in each lane, low times low half and high times high half of `pair` and the lane's word.
    fn add_pairs(self, _pair: u32, _words: &[u32; LANES]) -> Self {
        unreachable!("asked only where `HAS_PAIRS`")
    }
    /// The same with a pair of its own for each lane.
    fn add_words(self, _pairs: &[u32; LANES], _words: &[u32; LANES]) -> Self {
        unreachable!("asked only where `HAS_PAIRS`")
    }
}

/// Asks for the cache line at `address`, which may be anywhere, to be brought near.
#[inline(always)]
pub(crate) fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint that reads nothing and cannot fault; every x86-64 machine has it.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Writes the function that runs a body generic over [`Lanes`] at the level asked for.
macro_rules! at_level {
    ($(#[$doc:meta])* $name:ident = $body:ident ( $($arg:ident : $ty:ty),* $(,)? )) => {
        $(#[$doc])*
        fn $name(level: crate::Level, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,fma,f16c")]
            fn avx512($($arg: $ty),*) {
                $body::<crate::cpu::lanes::Avx512>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($arg: $ty),*) {
                $body::<crate::cpu::lanes::Avx2>($($arg),*)
            }
            match level {
                // SAFETY: `Level::Avx512` is only ever made by `dispatch::detect` after it saw these features.
                #[cfg(target_arch = "x86_64")]
                crate::Level::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: as above, for AVX2 and FMA.
                #[cfg(target_arch = "x86_64")]
                crate::Level::Avx2 => unsafe { avx2($($arg),*) },
                _ => $body::<crate::cpu::lanes::Portable>($($arg),*),
            }
        }
    };
}
pub(crate) use at_level;

#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; LANES]);

impl Lanes for Portable {
    #[inline(always)]
    fn splat(value: f32) -> Portable {
        Portable([value; LANES])
    }
    #[inline(always)]
    fn load(values: &[f32; LANES]) -> Portable {
        Portable(*values)
    }
    #[inline(always)]
    fn load_f16(bits: &[u16; LANES]) -> Portable {
        Portable(bits.map(|bits| half::f16::from_bits(bits).to_f32()))
    }
    #[inline(always)]
    fn array(self) -> [f32; LANES] {
        self.0
    }
    #[inline(always)]
    fn mul_add(self, b: Portable, c: Portable) -> Portable {
        Portable(std::array::from_fn(|i| self.0[i] * b.0[i] + c.0[i]))
    }
    #[inline(always)]
    fn mul(self, b: Portable) -> Portable {
        Portable(std::array::from_fn(|i| self.0[i] * b.0[i]))
    }
    #[inline(always)]
    fn div(self, b: Portable) -> Portable {
        Portable(std::array::from_fn(|i| self.0[i] / b.0[i]))
    }
    #[inline(always)]
    fn exp(self) -> Portable {
        Portable(self.0.map(crate::ops::exp))
    }
    #[inline(always)]
    fn exp2(self) -> Portable {
        Portable(self.0.map(crate::ops::exp2))
    }
    #[inline(always)]
    fn add(self, b: Portable) -> Portable {
        Portable(std::array::from_fn(|i| self.0[i] + b.0[i]))
    }
    #[inline(always)]
    fn max(self, b: Portable) -> Portable {
        Portable(std::array::from_fn(|i| self.0[i].max(b.0[i])))
    }
    #[inline(always)]
    fn highest(self) -> f32 {
        self.0.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        let mut values = self.0;
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                values[i] += values[i + half];
            }
        }
        values[0]
    }
    #[inline(always)]
    fn round_i8(self, out: &mut [i8; LANES]) -> i32 {
        let mut sum = 0;
        for (out, value) in out.iter_mut().zip(self.0) {
            let rounded = value.round_ties_even() as i32;
            *out = rounded as i8;
            sum += rounded;
        }
        sum
    }
    #[inline(always)]
    fn load_bf16_low(words: &[u32; LANES]) -> Portable {
        Portable(words.map(|word| f32::from_bits(word << 16)))
    }
    #[inline(always)]
    fn load_bf16_high(words: &[u32; LANES]) -> Portable {
        Portable(words.map(|word| f32::from_bits(word & 0xffff_0000)))
    }
}
