//! What the fast variants share: the tile format, the worker pool, and the intrinsics.

pub(crate) mod attention;
pub(crate) mod dense;
pub(crate) mod huge;
pub(crate) mod lanes;
pub(crate) mod pack;
pub mod pool;
pub(crate) mod portable;
pub(crate) mod priority;

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod bf16;
#[cfg(target_arch = "x86_64")]
pub(crate) mod vnni;
