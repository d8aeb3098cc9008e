//! Where a model can be adapted: the projections of its layers by the names Transformers gives them.

use crate::model::names::Names;
use crate::model::spec::DecoderSpec;
use kernels::RopeLayout;
use std::ops::Range;

/// Which of a layer's projections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    Qkv,
    AttentionOutput,
    GateUp,
    Down,
}

impl Place {
    pub(crate) const ALL: [Place; 4] = [
        Place::Qkv,
        Place::AttentionOutput,
        Place::GateUp,
        Place::Down,
    ];
}

/// One matrix of Transformers' model.
#[derive(Debug, Clone)]
pub(crate) struct Module {
    /// Behind the layer's number: `self_attn.q_proj`.
    pub path: &'static str,
    pub place: Place,
    /// Its outputs within the projection's.
    pub columns: Range<usize>,
    /// Its inputs.
    pub k: usize,
    /// The base's rows of this matrix were reordered head by head, so that values that turn together stand side by side.
    pub is_paired: bool,
}

/// A model's modules, the same in each layer.
#[derive(Debug, Clone)]
pub(crate) struct Targets {
    pub layers: usize,
    /// What stands before a layer's number, `layers.`.
    pub prefix: &'static str,
    pub modules: Vec<Module>,
    pub head_dim: usize,
}

impl Targets {
    /// `names` are Transformers', whatever the base's file calls its tensors.
    pub(crate) fn new(spec: &DecoderSpec, names: &'static Names) -> Targets {
        let (query, key) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let is_paired = spec
            .ropes
            .iter()
            .any(|rope| rope.layout == RopeLayout::Pairs);
        let mut modules = Vec::new();
        let mut add = |path: &'static str, place, columns: Range<usize>, k, is_paired| {
            if !path.is_empty() {
                modules.push(Module {
                    path,
                    place,
                    columns,
                    k,
                    is_paired,
                });
            }
        };
        let (hidden, wide) = (spec.hidden, spec.feed_forward);
        let all = query + 2 * key;
        add(names.qkv.fused, Place::Qkv, 0..all, hidden, false);
        add(names.qkv.query, Place::Qkv, 0..query, hidden, is_paired);
        add(
            names.qkv.key,
            Place::Qkv,
            query..query + key,
            hidden,
            is_paired,
        );
        add(names.qkv.value, Place::Qkv, query + key..all, hidden, false);
        let output = names.attention_output;
        add(output, Place::AttentionOutput, 0..hidden, query, false);
        let up = if spec.is_gated {
            wide..2 * wide
        } else {
            0..wide
        };
        add(names.gate, Place::GateUp, 0..wide, hidden, false);
        add(names.up, Place::GateUp, up, hidden, false);
        add(names.down, Place::Down, 0..hidden, wide, false);
        Targets {
            layers: spec.layers.len(),
            prefix: names.layers,
            modules,
            head_dim: spec.head_dim,
        }
    }

    /// `q_proj, k_proj, ...`
    pub(crate) fn names(&self) -> String {
        let names: Vec<&str> = self.modules.iter().map(Module::name).collect();
        names.join(", ")
    }
}

impl Module {
    /// The last part of its path.
    pub(crate) fn name(&self) -> &'static str {
        self.path.rsplit('.').next().unwrap_or(self.path)
    }
}
