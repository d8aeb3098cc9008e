//! One op a file: the function the engine calls, its preconditions, and its plain twin.

pub mod attend_prepare;
pub mod group_weights;
pub mod kv;
pub mod lora;
pub mod matmul;
pub mod paged_attention;
pub mod rope;
pub mod top_k;

/// Writes one function body as three: portable, AVX2 and AVX-512, chosen by level at the call.
///
/// The body is an `#[inline(always)]` function with a leading `const FMA: bool`; compiled under wider
/// target features, its loops become wider vectors. Nothing else changes, so the order of
/// additions within a row is that of the source.
macro_rules! widened {
    ($(#[$doc:meta])* $name:ident = $body:ident ( $($arg:ident : $ty:ty),* $(,)? )) => {
        $(#[$doc])*
        fn $name(level: crate::Level, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,fma")]
            fn avx512($($arg: $ty),*) {
                $body::<true>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) {
                $body::<true>($($arg),*)
            }
            match level {
                // SAFETY: `Level::Avx512` is only ever made by `dispatch::detect` after it saw these features.
                #[cfg(target_arch = "x86_64")]
                crate::Level::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: as above, for AVX2 and FMA.
                #[cfg(target_arch = "x86_64")]
                crate::Level::Avx2 => unsafe { avx2($($arg),*) },
                _ => $body::<false>($($arg),*),
            }
        }
    };
}
pub(crate) use widened;

/// `a * b + c`, in one rounding where the caller was compiled with FMA. A fused multiply-add without
/// the instruction is a library call, forty times slower.
#[inline(always)]
pub(crate) fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// The numbers of [`exp`], shared with its hand-widened forms.
pub(crate) mod exp_constants {
    /// Below this e^x is taken as 0, above [`HIGHEST`] as e^[`HIGHEST`].
    pub(crate) const LOWEST: f32 = -87.3;
    pub(crate) const HIGHEST: f32 = 88.3;
    /// ln 2 in two parts, so that the reduction keeps its low bits.
    pub(crate) const LN2_HIGH: f32 = 0.693_359_4;
    pub(crate) const LN2_LOW: f32 = -2.121_944_4e-4;
    pub(crate) const FIRST: f32 = 1.987_569_1e-4;
    pub(crate) const COEFFICIENTS: [f32; 5] = [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        5e-1,
    ];
}

/// e^x as a polynomial; relative error below 4e-7, 0 far below, infinity never.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    use exp_constants::{COEFFICIENTS, FIRST, HIGHEST, LN2_HIGH, LN2_LOW, LOWEST};
    let clamped = x.clamp(LOWEST, HIGHEST);
    let whole = (clamped * std::f32::consts::LOG2_E + 0.5).floor();
    let rest = clamped - whole * LN2_HIGH - whole * LN2_LOW;
    let mut sum = FIRST;
    for coefficient in COEFFICIENTS {
        sum = sum * rest + coefficient;
    }
    let mantissa = sum * (rest * rest) + (rest + 1.0);
    let scale = f32::from_bits((((whole as i32) + 127) << 23) as u32);
    if x < LOWEST { 0.0 } else { mantissa * scale }
}

/// 2^x as a polynomial; relative error below 2.5e-7, 0 far below, infinity never. Not a number counts as far below.
#[inline(always)]
pub(crate) fn exp2(x: f32) -> f32 {
    use exp2_constants::{COEFFICIENTS, HIGHEST, LOWEST};
    #[expect(
        clippy::manual_clamp,
        reason = "not a number becomes LOWEST here, as in the wider forms"
    )]
    let x = x.max(LOWEST).min(HIGHEST);
    let whole = x.round_ties_even();
    let rest = x - whole;
    let mut sum = COEFFICIENTS[0];
    for coefficient in &COEFFICIENTS[1..] {
        sum = sum * rest + coefficient;
    }
    sum * f32::from_bits(((whole as i32) + 127).cast_unsigned() << 23)
}

/// The numbers of [`exp2`], shared with its hand-widened forms.
pub(crate) mod exp2_constants {
    /// Here the exponent's bits are 0, and so is the power.
    pub(crate) const LOWEST: f32 = -127.0;
    pub(crate) const HIGHEST: f32 = 127.0;
    /// 2^r for |r| <= 1/2, highest power of r first.
    #[expect(clippy::approx_constant, reason = "fitted: close to ln 2, and not it")]
    pub(crate) const COEFFICIENTS: [f32; 6] = [
        0.001_326_472_7,
        0.009_671_513,
        0.055_507_336,
        0.240_222_42,
        0.693_147,
        1.0,
    ];
}

#[cfg(test)]
mod tests {
    #[test]
    fn exp_is_close_to_the_library_over_its_range() {
        let mut x = -87.0f32;
        while x < 88.0 {
            let ours = super::exp(x);
            let theirs = x.exp();
            assert!(
                (ours - theirs).abs() <= theirs * 4e-7,
                "exp({x}): {ours} against {theirs}"
            );
            x += 0.0137;
        }
        assert_eq!(super::exp2(f32::NEG_INFINITY), 0.0);
        assert_eq!(super::exp2(0.0), 1.0);
        let mut x = -126.0f32;
        while x < 126.0 {
            let (ours, theirs) = (super::exp2(x), f64::from(x).exp2());
            let error = (f64::from(ours) - theirs).abs() / theirs;
            assert!(error <= 2.5e-7, "exp2({x}): {ours} against {theirs}");
            x += 0.0137;
        }
        assert_eq!(super::exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(super::exp(0.0), 1.0);
    }
}
