//! The ops a model may name, and who computes them.
//!
//! A model ([`Decoder`](crate::model::decoder::Decoder)) is one list of these ops per layer, written once. [`cpu`] runs
//! them with our kernels on plain slices, [`candle`] with candle tensors. A backend owns its attention memory and whatever device it needs; weights and
//! activations are its own types, which a model only passes on.
//!
//! Activations are rows of f32, one row a token of the step, in [`Backend::Buffer`]s that the model keeps between steps.
//! Every op gives a row the same result whatever the other rows are.

pub(crate) mod candle;
pub(crate) mod cpu;

use crate::adapter::load::LowRank;
use crate::batch::StepBatch;
use crate::weights::RawTensor;
use kernels::{Activation, KvShape, QkvLayout, RopeSpec};
use std::ops::Range;

/// Why a backend cannot hold a weight.
pub(crate) type BackendError = Box<dyn std::error::Error + Send + Sync>;

pub(crate) trait Backend: Send + Sized + 'static {
    /// A weight matrix: `columns` outputs of `k` inputs each.
    type Matrix: Send;
    /// A norm's weight or a bias.
    type Vector: Send;
    /// Cosines and sines of every position.
    type Rope: Send;
    /// Rows of activations. An op that fills one sets its size.
    type Buffer: Default + Send;
    /// Matrices of an adapter beside one of the model's.
    type Adapter: Send + Sync + 'static;
    /// What has to be known of the backend and of a matrix to make an adapter's beside it, on any thread.
    type AdapterForm: Send + Sync + 'static;
    /// What all layers of a step share: positions, block tables, rows whose logits are wanted.
    type Step<'a>;

    /// Takes a matrix of shape `[columns, k]` from its file's bytes.
    fn load_matrix(&self, tensor: &RawTensor<'_>) -> Result<Self::Matrix, BackendError>;
    fn load_vector(&self, values: Vec<f32>) -> Result<Self::Vector, BackendError>;
    fn load_rope(&self, max_positions: usize, spec: RopeSpec) -> Result<Self::Rope, BackendError>;
    /// Memory a matrix takes.
    fn matrix_bytes(matrix: &Self::Matrix) -> usize;

    fn adapter_form(&self, beside: &Self::Matrix) -> Self::AdapterForm;
    fn load_adapter(
        form: &Self::AdapterForm,
        matrices: &LowRank,
    ) -> Result<Self::Adapter, BackendError>;
    /// Memory it takes.
    fn adapter_bytes(adapter: &Self::Adapter) -> usize;

    /// Makes room for `blocks` blocks of attention memory; called once, before the first step.
    fn reserve_kv(&mut self, shape: KvShape, blocks: usize);

    fn begin<'a>(&mut self, batch: &'a StepBatch) -> Self::Step<'a>;

    /// `out[row] = scale * table[token of the row]`.
    fn embed(
        &mut self,
        step: &Self::Step<'_>,
        table: &Self::Matrix,
        scale: f32,
        out: &mut Self::Buffer,
    );

    /// `out = input x projection` or `out += ...`, bias included, and in the rows of `adapted` their adapters' products
    /// too; `out` becomes `projection.width` wide.
    fn matmul(
        &mut self,
        input: Input<'_, Self>,
        projection: &Projection<Self>,
        adapted: &[AdaptedRows<'_, Self>],
        store: Store,
        out: &mut Self::Buffer,
    );

    /// `out += norm(x)`.
    fn add_normed(&mut self, x: &Self::Buffer, norm: &Norm<Self>, out: &mut Self::Buffer);

    /// Norms the heads of `qkv` where asked, turns queries and keys to their positions, keeps keys and values in layer
    /// `layer`'s blocks, and attends: `out` rows are `heads * head_dim` wide. `qkv` may be changed.
    fn attend(
        &mut self,
        step: &Self::Step<'_>,
        layer: usize,
        attention: Attention<'_, Self>,
        qkv: &mut Self::Buffer,
        out: &mut Self::Buffer,
    );

    /// The rows of `x` whose logits are wanted, in order.
    fn keep_logit_rows(&mut self, step: &Self::Step<'_>, x: &Self::Buffer, out: &mut Self::Buffer);

    /// The logits as numbers. `logits` may be left with anything.
    fn read(&mut self, logits: &mut Self::Buffer, out: &mut Vec<f32>);
}

/// An adapter's matrices beside the parts of one projection; `None` where it leaves the model alone.
pub(crate) type PartAdapters<B> = [Option<<B as Backend>::Adapter>; MAX_PARTS];

/// Consecutive rows with one adapter. Those of a call are in order and do not overlap.
pub(crate) struct AdaptedRows<'a, B: Backend> {
    pub rows: Range<usize>,
    pub parts: &'a PartAdapters<B>,
}

/// What a product reads.
pub(crate) enum Input<'a, B: Backend> {
    Rows(&'a B::Buffer),
    /// The norm of each row.
    Normed(&'a B::Buffer, &'a Norm<B>),
    /// Rows of a gate and an up half: `activation(gate) * up`.
    Gated(&'a B::Buffer, Activation),
    Activated(&'a B::Buffer, Activation),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    Replace,
    /// Onto what is there: the residual.
    Add,
}

pub(crate) struct Norm<B: Backend> {
    pub weight: B::Vector,
    pub epsilon: f32,
    pub kind: NormKind<B>,
}

pub(crate) enum NormKind<B: Backend> {
    /// Root mean square.
    Rms,
    /// Mean and variance.
    Layer { bias: Option<B::Vector> },
}

/// Matrices that read the same rows; their outputs stand side by side.
pub(crate) struct Projection<B: Backend> {
    pub parts: Vec<Part<B>>,
    /// Inputs of each part.
    pub k: usize,
    /// Outputs of all parts.
    pub width: usize,
}

pub(crate) struct Part<B: Backend> {
    pub matrix: B::Matrix,
    pub bias: Option<B::Vector>,
    /// Where its outputs begin.
    pub column: usize,
}

/// Query, key and value of one projection: the most parts there are.
pub(crate) const MAX_PARTS: usize = 3;

pub(crate) struct Attention<'a, B: Backend> {
    pub layout: QkvLayout,
    pub rope: &'a B::Rope,
    pub head_norm: Option<&'a HeadNorm<B>>,
    pub scale: f32,
    /// Positions a row sees, its own included; `None` for all before it.
    pub window: Option<usize>,
    /// Scores pass through `cap * tanh(score / cap)`.
    pub soft_cap: Option<f32>,
}

/// Root-mean-square norm of each query and key head before its rotation.
pub(crate) struct HeadNorm<B: Backend> {
    pub query: B::Vector,
    pub key: B::Vector,
    pub epsilon: f32,
}
