//! The arithmetic of the local engine: slices in, slices out.
//!
//! | op | what | fast variants |
//! | --- | --- | --- |
//! | [`quant_matmul`] | activations (8 bit) x packed weights (Q4_1, Q8_0) -> f32 | AVX-512 VNNI, AVX2 |
//! | [`paged_attention`] | causal grouped-head attention over a paged key/value pool, f32 | AVX-512, AVX2 |
//! | [`kv_write`] | one position's keys and values into its block | none: it is a copy |
//! | [`rms_norm`] | root-mean-square norm of rows | AVX-512, AVX2 |
//! | [`rope`] | rotary position embedding, neighbouring pairs | none: 1 in 2,000 of a step |
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
pub use ops::kv_write::{BLOCK_TOKENS, KvShape, kv_write};
pub use ops::paged_attention::{AttentionIo, AttentionRows, paged_attention};
pub use ops::quant_matmul::{QuantKind, QuantMatrix, QuantRows, quant_matmul};
pub use ops::rms_norm::rms_norm;
pub use ops::rope::{RopeTable, rope};
pub use ops::swiglu::swiglu;
