//! out = act(x) * W^T (+ bias, + out): an input prepared once, times the matrices that share it.
//!
//! A call has two jobs for the pool. The first prepares the rows: norm or activation, and in the same pass the forms
//! the matrices need: 8-bit blocks for quantised kinds, bf16 for bf16, f32 for the others. The second multiplies, its
//! work cut along the columns. Few rows are prepared by the caller alone, since waking a thread would cost more.
//!
//! Quantised kinds: with w = scale_w * (u - offset) + min_w (u unsigned) and x = scale_x * q (q signed, 32 to a scale),
//! 32 products sum to `scale_w * scale_x * sum((u - offset) * q) + min_w * scale_x * sum(q)`. The first sum is exact in
//! integers, the second is made once per activation block. Bf16 weights meet activations rounded to bf16, on every
//! machine, and are summed in f32; F32 and F16 weights meet f32.
//!
//! Adapters ride along in both jobs, see [`lora`](crate::ops::lora).
//!
//! Whatever the number of rows, threads and matrices in the call: the products of one row and one column are added in
//! order of k. So a row's result is the same bits alone and among others.

mod kind;
mod matrix;
mod multiply;
mod prepare;
mod row;

pub use kind::WeightKind;
pub use matrix::Matrix;
pub use prepare::MatmulScratch;

pub(crate) use multiply::Sums;
pub(crate) use prepare::{Factor, Pass};

use crate::cpu::pool::Pool;
use crate::dispatch;
use crate::ops::lora::{Adapters, LoraRun, MAX_PARTS};

/// The rows to multiply, and what is done to them first.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// Rows of `k` values as they are.
    Rows(&'a [f32]),
    /// x / sqrt(mean(x^2) + epsilon) * weight, over rows of `k`.
    RmsNorm {
        x: &'a [f32],
        weight: &'a [f32],
        epsilon: f32,
    },
    /// (x - mean(x)) / sqrt(variance(x) + epsilon) * weight + bias, over rows of `k`.
    LayerNorm {
        x: &'a [f32],
        weight: &'a [f32],
        bias: Option<&'a [f32]>,
        epsilon: f32,
    },
    /// activation(gate) * up, from rows of `k` gates followed by `k` ups.
    Gated {
        gate_up: &'a [f32],
        activation: Activation,
    },
    /// activation(x), over rows of `k`.
    Activated {
        x: &'a [f32],
        activation: Activation,
    },
}

impl Input<'_> {
    /// Rows of `k` it holds.
    ///
    /// # Panics
    /// When it is not whole rows, or the norm's parameters are not `k` long.
    pub(crate) fn rows(&self, k: usize) -> usize {
        let (values, width) = match *self {
            Input::Rows(x) | Input::Activated { x, .. } => (x, k),
            Input::Gated { gate_up, .. } => (gate_up, 2 * k),
            Input::RmsNorm { x, weight, .. } => {
                assert_eq!(weight.len(), k);
                (x, k)
            }
            Input::LayerNorm {
                x, weight, bias, ..
            } => {
                assert_eq!(weight.len(), k);
                assert!(bias.is_none_or(|bias| bias.len() == k));
                (x, k)
            }
        };
        assert!(k > 0 && values.len().is_multiple_of(width));
        values.len() / width
    }
}

/// The non-linear functions of the feed-forward parts we run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x / (1 + e^-x)
    Silu,
    /// x / (1 + e^-2u), u = sqrt(2/pi) (x + 0.044715 x^3): the tanh form of GELU.
    GeluTanh,
    /// x/2 (1 + erf(x / sqrt(2)))
    GeluErf,
}

/// One matrix of a product.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    pub matrix: &'a Matrix,
    /// Added to its outputs; as long as the matrix has columns.
    pub bias: Option<&'a [f32]>,
    /// Where its outputs begin in a row of `out`.
    pub column: usize,
}

impl<'a> Part<'a> {
    /// A matrix without bias.
    pub fn new(matrix: &'a Matrix, column: usize) -> Part<'a> {
        Part {
            matrix,
            bias: None,
            column,
        }
    }
}

/// What becomes of the values that were in `out`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    Replace,
    /// Outputs are added to them: a residual connection.
    Add,
}

/// Multiplies the rows of `input` with every part; rows of `out` are `stride` wide.
///
/// # Panics
/// When `input` is not whole rows of `k`, a matrix has another k, or its columns do not fit a row of `out`.
pub fn matmul(
    pool: &Pool,
    scratch: &mut MatmulScratch,
    input: Input<'_>,
    k: usize,
    parts: &[Part<'_>],
    store: Store,
    out: &mut [f32],
    stride: usize,
) {
    let level = dispatch::level();
    matmul_at(level, pool, scratch, input, k, parts, store, out, stride);
}

/// The same at a chosen level; parity tests compare levels.
pub fn matmul_at(
    level: crate::Level,
    pool: &Pool,
    scratch: &mut MatmulScratch,
    input: Input<'_>,
    k: usize,
    parts: &[Part<'_>],
    store: Store,
    out: &mut [f32],
    stride: usize,
) {
    matmul_adapted_at(
        level,
        pool,
        scratch,
        input,
        k,
        parts,
        &[],
        store,
        out,
        stride,
    );
}

/// As [`matmul`], and adds to each run's rows what their adapter gives. Rows in no run have the bits `matmul` gives them.
///
/// # Panics
/// As [`matmul`]; and when runs are out of order or past the rows, a matrix of theirs does not fit its part, or they
/// come with more parts than [`MAX_PARTS`](crate::MAX_PARTS).
pub fn matmul_adapted(
    pool: &Pool,
    scratch: &mut MatmulScratch,
    input: Input<'_>,
    k: usize,
    parts: &[Part<'_>],
    runs: &[LoraRun<'_>],
    store: Store,
    out: &mut [f32],
    stride: usize,
) {
    let level = dispatch::level();
    matmul_adapted_at(
        level, pool, scratch, input, k, parts, runs, store, out, stride,
    );
}

/// The same at a chosen level; parity tests compare levels.
pub fn matmul_adapted_at(
    level: crate::Level,
    pool: &Pool,
    scratch: &mut MatmulScratch,
    input: Input<'_>,
    k: usize,
    parts: &[Part<'_>],
    runs: &[LoraRun<'_>],
    store: Store,
    out: &mut [f32],
    stride: usize,
) {
    assert!(runs.is_empty() || parts.len() <= MAX_PARTS);
    let adapters = Adapters::new(runs, k, |part, lora| {
        lora.columns() == parts[part].matrix.columns()
    });
    let needs = prepare::Needs::of(parts, &adapters, &input);
    let prepared = scratch.prepare(level, pool, input, k, needs, &adapters);
    multiply::multiply(level, pool, &prepared, parts, &adapters, store, out, stride);
}

/// Prepares rows as [`matmul`] does, without a product: `out` has rows of `k`.
///
/// # Panics
/// When `input` is not whole rows of `k`, or `out` holds another number of rows.
pub fn norm_rows(pool: &Pool, input: Input<'_>, k: usize, out: &mut [f32]) {
    norm_rows_at(dispatch::level(), pool, input, k, out);
}

/// The same at a chosen level; parity tests compare levels.
pub fn norm_rows_at(level: crate::Level, pool: &Pool, input: Input<'_>, k: usize, out: &mut [f32]) {
    prepare::prepare_f32(level, pool, input, k, out);
}
