//! The arithmetic of the local engine: slices in, slices out.
//!
//! | op | what | fast variants |
//! | --- | --- | --- |
//! | [`matmul`] | rows, normed or activated on the way, x packed weights (every [`WeightKind`]) -> f32 | AVX-512 VNNI and BF16, AVX2 |
//! | [`matmul_adapted`] | the same, plus what each run of rows has from its low-rank adapter ([`LoraMatrix`]) | AVX-512 and BF16, AVX2 |
//! | [`norm_rows`] | the same preparation of rows without a product | AVX-512, AVX2 |
//! | [`attend_prepare`] | head norms, rotation, keys and values into their blocks | AVX-512, AVX2 |
//! | [`paged_attention`] | causal grouped-head attention over paged keys and values (f32, bf16) | AVX-512 and BF16, AVX2 |
//! | [`top_k`], [`argmax`], [`log_sum_exp`] | the likeliest tokens of a row of logits, and what all weigh | AVX-512, AVX2 |
//! | [`group_weights`] | the softmax of a row of logits, summed up by groups: what a draw needs | AVX-512, AVX2 |
//!
//! Each op stands beside the plain loops it replaces, and `tests/` holds the two together over odd
//! shapes. Which variant runs is decided once, from what the CPU can do
//! ([`dispatch`]). Every op keeps one promise the engine is built on: a row's result does not depend
//! on the other rows of the call, so neither batching nor the number of threads changes an answer.
//!
//! `cuda/` has kernels for GPUs, compiled and emulated in tests; feature `cuda` brings their launchers.
//!
//! This crate knows no model, no file format and no sockets. It is where `unsafe` lives.

#![allow(
    clippy::needless_range_loop,
    clippy::too_many_arguments,
    reason = "several slices walk by one index, and an op takes what it takes"
)]

#[cfg(feature = "candle")]
pub mod candle;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod dispatch;
mod error;
pub mod ops;

mod cpu;

pub use cpu::pool::Pool;
pub use cpu::priority::lower_thread_priority;
pub use dispatch::Level;
pub use error::KernelError;
pub use ops::attend_prepare::{HeadNorm, QkvLayout, attend_prepare};
pub use ops::group_weights::{GROUP, group_weights};
pub use ops::kv::{BLOCK_TOKENS, KvDtype, KvMemory, KvShape};
pub use ops::lora::{LoraDtype, LoraMatrix, LoraRun, MAX_PARTS, MAX_RANK};
pub use ops::matmul::{
    Activation, Input, MatmulScratch, Matrix, Part, Store, WeightKind, matmul, matmul_adapted,
    norm_rows,
};
pub use ops::paged_attention::{AttentionRows, AttentionSpec, paged_attention};
pub use ops::rope::{RopeLayout, RopeScaling, RopeSpec, RopeTable};
pub use ops::top_k::{argmax, log_sum_exp, top_k};
