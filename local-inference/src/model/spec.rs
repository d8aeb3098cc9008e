//! What sets one decoder apart from another, in numbers and switches.

use kernels::{Activation, RopeSpec};

/// Everything the op list of [`Decoder`](super::decoder::Decoder) depends on, besides the weights.
#[derive(Debug, Clone)]
pub(crate) struct DecoderSpec {
    pub hidden: usize,
    pub feed_forward: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub norm: NormSpec,
    pub activation: Activation,
    /// The feed-forward is `activation(gate) * up`, else `activation(up)`.
    pub is_gated: bool,
    /// Attention and feed-forward read the same normed row, and both are added to it.
    pub is_parallel: bool,
    /// Attention's and the feed-forward's results are normed before they are added.
    pub has_post_norms: bool,
    /// Query and key heads are normed before their rotation.
    pub has_head_norms: bool,
    /// The embedding serves as head, even if the files hold one.
    pub is_tied: bool,
    /// What an embedding row is multiplied by.
    pub embedding_scale: f32,
    pub attention_scale: f32,
    pub attention_soft_cap: Option<f32>,
    pub logit_soft_cap: Option<f32>,
    /// The rotations its layers use; `LayerSpec::rope` picks one.
    pub ropes: Vec<RopeSpec>,
    pub layers: Vec<LayerSpec>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LayerSpec {
    /// Positions a row sees, its own included; `None` for all before it.
    pub window: Option<usize>,
    /// Place in [`DecoderSpec::ropes`].
    pub rope: usize,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct NormSpec {
    pub epsilon: f32,
    pub kind: NormType,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NormType {
    /// Root mean square.
    Rms,
    /// Root mean square, times one plus the file's weight.
    RmsPlusOne,
    /// Mean and variance, with a bias if the file has one.
    Layer,
}
