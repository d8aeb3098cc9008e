//! The arithmetic of the local engine: slices in, slices out.
//!
//! | op | what | fast variants |
//! | --- | --- | --- |
//! | [`quant_matmul`] | activations (8 bit) x packed weights (Q4_1, Q8_0) -> f32 | AVX-512 VNNI, AVX2 |
//! | [`attend_prepare`] | head norms, rotation, keys and values into their blocks | AVX-512, AVX2 |
//! | [`paged_attention`] | causal grouped-head attention over paged keys and values (f32, bf16) | AVX-512, AVX2 |
//! | [`rms_norm`] | root-mean-square norm of rows | AVX-512, AVX2 |
//! | [`swiglu`] | silu(gate) * up | AVX-512, AVX2 |
//!
//! Each op stands beside the plain loop it replaces (`<op>::plain`), and `tests/parity.rs` holds the
//! two together over odd shapes. Which variant runs is decided once, from what the CPU can do
//! ([`dispatch`]). Every op keeps one promise the engine is built on: a row's result does not depend
//! on the other rows of the call, so neither batching nor the number of threads changes an answer.
//!
//! This crate knows no model, no file format and no sockets. It is where `unsafe` lives.

#![allow(
    clippy::needless_range_loop,
    clippy::too_many_arguments,
    reason = "several slices walk by one index, and an op takes what it takes"
)]

#[cfg(feature = "candle")]
pub mod candle;
pub mod dispatch;
mod error;
pub mod ops;

mod cpu;

pub use cpu::pool::Pool;
pub use cpu::priority::lower_thread_priority;
pub use dispatch::Level;
pub use error::KernelError;
pub use ops::attend_prepare::{HeadNorm, QkvLayout, attend_prepare};
pub use ops::kv::{BLOCK_TOKENS, KvDtype, KvMemory, KvShape};
pub use ops::paged_attention::{AttentionRows, AttentionSpec, paged_attention};
pub use ops::quant_matmul::{QuantKind, QuantMatrix, QuantRows, quant_matmul};
pub use ops::rms_norm::rms_norm;
pub use ops::rope::{RopeLayout, RopeScaling, RopeSpec, RopeTable};
pub use ops::swiglu::swiglu;
