//! One op a file: the function the engine calls, its preconditions, and its plain twin.

pub mod kv_write;
pub mod paged_attention;
pub mod quant_matmul;
pub mod rms_norm;
pub mod rope;
pub mod swiglu;

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

/// e^x as a polynomial that vectorises; relative error below 2e-7, 0 far below, infinity never.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts, so that the reduction below keeps its low bits.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = x.clamp(-87.3, 88.3);
    let whole = (clamped * LOG2_E + 0.5).floor();
    let rest = clamped - whole * LN2_HIGH - whole * LN2_LOW;
    let mut sum = 1.987_569_1e-4;
    for coefficient in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        5e-1,
    ] {
        sum = mul_add::<FMA>(sum, rest, coefficient);
    }
    let mantissa = mul_add::<FMA>(sum, rest * rest, rest + 1.0);
    let scale = f32::from_bits((((whole as i32) + 127) << 23) as u32);
    if x < -87.3 { 0.0 } else { mantissa * scale }
}

#[cfg(test)]
mod tests {
    #[test]
    fn exp_is_close_to_the_library_over_its_range() {
        let mut x = -87.0f32;
        while x < 88.0 {
            let ours = super::exp::<false>(x);
            let theirs = x.exp();
            assert!(
                (ours - theirs).abs() <= theirs * 4e-7,
                "exp({x}): {ours} against {theirs}"
            );
            x += 0.0137;
        }
        assert_eq!(super::exp::<false>(f32::NEG_INFINITY), 0.0);
        assert_eq!(super::exp::<false>(0.0), 1.0);
    }
}
