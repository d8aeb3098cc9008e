//! Which variant of an op runs here: the CPU is asked once.

use std::sync::OnceLock;

/// What the machine can do, from the plain loops upwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Portable loops: the reference, and what any other machine runs.
    Plain,
    /// AVX2 with FMA and half-precision conversion.
    Avx2,
    /// AVX-512 (F, BW, VL) with VNNI.
    Avx512,
}

/// The best level of this machine.
pub fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(detect)
}

/// Every level this machine can run, lowest first. Parity tests walk it.
pub fn levels() -> impl Iterator<Item = Level> {
    [Level::Plain, Level::Avx2, Level::Avx512]
        .into_iter()
        .filter(|candidate| *candidate <= level())
}

/// Whether an AVX-512 machine also multiplies bf16 pairs (`vdpbf16ps`).
pub(crate) fn has_bf16_products() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Level {
    let avx2 = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    let avx512 = avx2
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni");
    match (avx512, avx2) {
        (true, _) => Level::Avx512,
        (false, true) => Level::Avx2,
        (false, false) => Level::Plain,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Level {
    Level::Plain
}
