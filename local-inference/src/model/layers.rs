//! A decoder's weights, taken from their files into a backend.

use super::LoadError;
use super::names::NamesInFile;
use super::spec::{DecoderSpec, NormType};
use crate::backend::{Backend, HeadNorm, Norm, NormKind, Part, Projection};
use crate::weights::{ModelFiles, RawTensor};

/// The largest published vocabularies have a quarter of it. A larger one is refused: token ids are 32 bits.
const MAX_VOCABULARY: usize = 1 << 20;

/// Everything between the embedding and the head.
pub(crate) struct Layer<B: Backend> {
    pub attention_norm: Norm<B>,
    pub qkv: Projection<B>,
    pub head_norm: Option<HeadNorm<B>>,
    pub attention_output: Projection<B>,
    pub attention_post_norm: Option<Norm<B>>,
    /// `None` in a parallel block.
    pub feed_forward_norm: Option<Norm<B>>,
    pub gate_up: Projection<B>,
    pub down: Projection<B>,
    pub feed_forward_post_norm: Option<Norm<B>>,
}

pub(crate) struct Loader<'a, B: Backend> {
    pub backend: &'a B,
    pub files: &'a ModelFiles,
    pub names: &'a NamesInFile,
    pub spec: &'a DecoderSpec,
}

impl<B: Backend> Loader<'_, B> {
    pub(crate) fn layer(&self, index: usize) -> Result<Layer<B>, LoadError> {
        let (spec, names) = (self.spec, self.names.names);
        let named = |name| self.names.in_layer(index, name);
        let norm = |name, is_there: bool| {
            is_there
                .then(|| self.norm(&named(name), spec.hidden))
                .transpose()
        };
        let gate_up = match spec.is_gated {
            true => vec![named(names.gate), named(names.up)],
            false => vec![named(names.up)],
        };
        let gate_up: Vec<(String, usize)> = gate_up
            .into_iter()
            .map(|name| (name, spec.feed_forward))
            .collect();
        let query_width = spec.heads * spec.head_dim;
        Ok(Layer {
            attention_norm: self.norm(&named(names.attention_norm), spec.hidden)?,
            qkv: self.qkv(index)?,
            head_norm: spec
                .has_head_norms
                .then(|| self.head_norm(index))
                .transpose()?,
            attention_output: self
                .projection(&[(named(names.attention_output), spec.hidden)], query_width)?,
            attention_post_norm: norm(names.attention_post_norm, spec.has_post_norms)?,
            feed_forward_norm: norm(names.feed_forward_norm, !spec.is_parallel)?,
            gate_up: self.projection(&gate_up, spec.hidden)?,
            down: self.projection(&[(named(names.down), spec.hidden)], spec.feed_forward)?,
            feed_forward_post_norm: norm(names.feed_forward_post_norm, spec.has_post_norms)?,
        })
    }

    /// Query, key and value: three matrices, or one that holds their rows in this order.
    fn qkv(&self, index: usize) -> Result<Projection<B>, LoadError> {
        let (spec, names) = (self.spec, &self.names.names.qkv);
        let named = |name| self.names.in_layer(index, name);
        let (query, key) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let fused = named(names.fused);
        if self.files.has_tensor(&format!("{fused}.weight")) {
            return self.projection(&[(fused, query + 2 * key)], spec.hidden);
        }
        let parts = [
            (named(names.query), query),
            (named(names.key), key),
            (named(names.value), key),
        ];
        self.projection(&parts, spec.hidden)
    }

    fn head_norm(&self, index: usize) -> Result<HeadNorm<B>, LoadError> {
        let (spec, names) = (self.spec, self.names.names);
        let weight = |name| self.norm_weight(&self.names.in_layer(index, name), spec.head_dim);
        Ok(HeadNorm {
            query: weight(names.query_norm)?,
            key: weight(names.key_norm)?,
            epsilon: spec.norm.epsilon,
        })
    }

    pub(crate) fn norm(&self, name: &str, length: usize) -> Result<Norm<B>, LoadError> {
        Ok(Norm {
            weight: self.norm_weight(name, length)?,
            epsilon: self.spec.norm.epsilon,
            kind: match self.spec.norm.kind {
                NormType::Rms | NormType::RmsPlusOne => NormKind::Rms,
                NormType::Layer => NormKind::Layer {
                    bias: self.bias(name, length)?,
                },
            },
        })
    }

    fn norm_weight(&self, name: &str, length: usize) -> Result<B::Vector, LoadError> {
        let name = format!("{name}.weight");
        let mut values = self.floats(&name, length)?;
        if self.spec.norm.kind == NormType::RmsPlusOne {
            values.iter_mut().for_each(|value| *value += 1.0);
        }
        self.vector(name, values)
    }

    /// Matrices of `(name, columns)` over the same `k` inputs, each with the bias that stands beside it, if one does.
    pub(crate) fn projection(
        &self,
        matrices: &[(String, usize)],
        k: usize,
    ) -> Result<Projection<B>, LoadError> {
        let mut parts = Vec::with_capacity(matrices.len());
        let mut width = 0;
        for (name, columns) in matrices {
            parts.push(Part {
                matrix: self.matrix(&format!("{name}.weight"), &[*columns, k])?,
                bias: self.bias(name, *columns)?,
                column: width,
            });
            width += columns;
        }
        Ok(Projection { parts, k, width })
    }

    /// Embedding or head: the tensor itself says how many tokens there are, unless `vocabulary` does.
    pub(crate) fn vocabulary_matrix(
        &self,
        name: &str,
        vocabulary: Option<usize>,
    ) -> Result<Projection<B>, LoadError> {
        let rows = match vocabulary {
            Some(rows) => rows,
            None => {
                let name = format!("{name}.weight");
                let tensor = self.files.tensor(&name)?;
                let rows = tensor.shape.first().copied().unwrap_or_default();
                if rows == 0 || rows > MAX_VOCABULARY {
                    return Err(LoadError::Tensor {
                        name,
                        source: format!("has {rows} tokens").into(),
                    });
                }
                rows
            }
        };
        self.projection(&[(name.to_owned(), rows)], self.spec.hidden)
    }

    fn matrix(&self, name: &str, shape: &[usize]) -> Result<B::Matrix, LoadError> {
        let tensor = self.tensor(name, shape)?;
        self.backend
            .load_matrix(&tensor)
            .map_err(|source| LoadError::Tensor {
                name: name.to_owned(),
                source,
            })
    }

    fn bias(&self, name: &str, length: usize) -> Result<Option<B::Vector>, LoadError> {
        let name = format!("{name}.bias");
        if !self.files.has_tensor(&name) {
            return Ok(None);
        }
        let values = self.floats(&name, length)?;
        self.vector(name, values).map(Some)
    }

    fn vector(&self, name: String, values: Vec<f32>) -> Result<B::Vector, LoadError> {
        self.backend
            .load_vector(values)
            .map_err(|source| LoadError::Tensor { name, source })
    }

    pub(crate) fn floats(&self, name: &str, length: usize) -> Result<Vec<f32>, LoadError> {
        let tensor = self.tensor(name, &[length])?;
        tensor.floats().ok_or_else(|| LoadError::Tensor {
            name: name.to_owned(),
            source: "is quantised, where plain numbers belong".into(),
        })
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<RawTensor<'_>, LoadError> {
        let tensor = self.files.tensor(name)?;
        match tensor.shape == shape {
            true => Ok(tensor),
            false => Err(LoadError::Shape {
                name: name.to_owned(),
                actual: tensor.shape,
                expected: shape.to_vec(),
            }),
        }
    }
}
