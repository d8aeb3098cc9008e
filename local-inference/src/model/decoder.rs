//! The one list of ops every family runs, over any backend.

use super::layers::{Layer, Loader};
use super::names::NamesInFile;
use super::spec::DecoderSpec;
use super::{CausalModel, LoadError, LoadOptions, families};
use crate::backend::{Attention, Backend, Input, Norm, Part, Projection, Store};
use crate::batch::StepBatch;
use crate::weights::ModelFiles;
use kernels::{KvDtype, KvShape, QkvLayout};

/// A loaded model and the buffers of its step.
pub(crate) struct Decoder<B: Backend> {
    backend: B,
    spec: DecoderSpec,
    kv_dtype: KvDtype,
    embedding: Projection<B>,
    layers: Vec<Layer<B>>,
    output_norm: Norm<B>,
    /// `None`: the embedding serves as head too.
    head: Option<Projection<B>>,
    ropes: Vec<B::Rope>,
    buffers: Buffers<B>,
}

/// Activations of a step; kept, so that a step allocates nothing once it has seen its largest batch.
struct Buffers<B: Backend> {
    /// The residual stream.
    x: B::Buffer,
    qkv: B::Buffer,
    attended: B::Buffer,
    gate_up: B::Buffer,
    /// A result on its way through a post-norm, and the rows that go through the head.
    aside: B::Buffer,
    logits: B::Buffer,
}

impl<B: Backend> Decoder<B> {
    /// Takes the weights of `files` into `backend`; the files are not needed afterwards.
    pub(crate) fn load(
        files: &ModelFiles,
        options: LoadOptions,
        backend: B,
    ) -> Result<Decoder<B>, LoadError> {
        let (spec, names) = families::read(files)?;
        let names = NamesInFile::find(names, files)?;
        let loader = Loader {
            backend: &backend,
            files,
            names: &names,
            spec: &spec,
        };
        let layers = (0..spec.layers.len())
            .map(|index| loader.layer(index))
            .collect::<Result<Vec<Layer<B>>, LoadError>>()?;
        let embedding = loader.vocabulary_matrix(&names.embedding(), None)?;
        let has_head = !spec.is_tied && files.has_tensor(&format!("{}.weight", names.head()));
        let head = match has_head {
            true => Some(loader.vocabulary_matrix(&names.head(), Some(embedding.width))?),
            false => None,
        };
        let output_norm = loader.norm(&names.output_norm(), spec.hidden)?;
        let rope = |rope: &kernels::RopeSpec| {
            backend
                .load_rope(options.max_positions, rope.clone())
                .map_err(|source| LoadError::Tensor {
                    name: "rope".to_owned(),
                    source,
                })
        };
        let ropes = spec.ropes.iter().map(rope).collect::<Result<_, _>>()?;
        Ok(Decoder {
            embedding,
            layers,
            output_norm,
            head,
            ropes,
            backend,
            spec,
            kv_dtype: options.kv_dtype,
            buffers: Buffers {
                x: B::Buffer::default(),
                qkv: B::Buffer::default(),
                attended: B::Buffer::default(),
                gate_up: B::Buffer::default(),
                aside: B::Buffer::default(),
                logits: B::Buffer::default(),
            },
        })
    }

    fn kv_shape(&self) -> KvShape {
        KvShape {
            layers: self.spec.layers.len(),
            kv_heads: self.spec.kv_heads,
            head_dim: self.spec.head_dim,
            dtype: self.kv_dtype,
        }
    }
}

impl<B: Backend> CausalModel for Decoder<B> {
    fn kv_block_bytes(&self) -> usize {
        self.kv_shape().block_bytes()
    }

    fn reserve_kv(&mut self, blocks: usize) {
        self.backend.reserve_kv(self.kv_shape(), blocks);
    }

    fn vocabulary(&self) -> usize {
        self.embedding.width
    }

    fn weight_bytes(&self) -> usize {
        let layers = self.layers.iter().flat_map(|layer| {
            [
                &layer.qkv,
                &layer.attention_output,
                &layer.gate_up,
                &layer.down,
            ]
        });
        layers
            .chain([&self.embedding])
            .chain(&self.head)
            .flat_map(|projection| &projection.parts)
            .map(|part: &Part<B>| B::matrix_bytes(&part.matrix))
            .sum()
    }

    fn forward(&mut self, batch: &StepBatch, logits: &mut Vec<f32>) {
        let (b, spec) = (&mut self.backend, &self.spec);
        let Buffers {
            x,
            qkv,
            attended,
            gate_up,
            aside,
            logits: scores,
        } = &mut self.buffers;
        let step = b.begin(batch);
        b.embed(
            &step,
            &self.embedding.parts[0].matrix,
            spec.embedding_scale,
            x,
        );
        for (index, (layer, kind)) in self.layers.iter().zip(&spec.layers).enumerate() {
            let attention = Attention {
                layout: QkvLayout {
                    heads: spec.heads,
                    kv_heads: spec.kv_heads,
                    head_dim: spec.head_dim,
                    stride: layer.qkv.width,
                },
                rope: &self.ropes[kind.rope],
                head_norm: layer.head_norm.as_ref(),
                scale: spec.attention_scale,
                window: kind.window,
                soft_cap: spec.attention_soft_cap,
            };
            let normed = Input::Normed(x, &layer.attention_norm);
            b.matmul(normed, &layer.qkv, Store::Replace, qkv);
            b.attend(&step, index, attention, qkv, attended);
            if spec.is_parallel {
                // Before attention's result is added: both read the same rows.
                let normed = Input::Normed(x, &layer.attention_norm);
                b.matmul(normed, &layer.gate_up, Store::Replace, gate_up);
            }
            let post_norm = layer.attention_post_norm.as_ref();
            let input = Input::Rows(attended);
            add_projected(b, input, &layer.attention_output, post_norm, aside, x);
            if let Some(norm) = &layer.feed_forward_norm {
                b.matmul(
                    Input::Normed(x, norm),
                    &layer.gate_up,
                    Store::Replace,
                    gate_up,
                );
            }
            let post_norm = layer.feed_forward_post_norm.as_ref();
            let input = match spec.is_gated {
                true => Input::Gated(gate_up, spec.activation),
                false => Input::Activated(gate_up, spec.activation),
            };
            add_projected(b, input, &layer.down, post_norm, aside, x);
        }
        // The head is a fifth of a small model: only rows somebody samples from go through it.
        b.keep_logit_rows(&step, x, aside);
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        let normed = Input::Normed(aside, &self.output_norm);
        b.matmul(normed, head, Store::Replace, scores);
        b.read(scores, logits);
        if let Some(cap) = spec.logit_soft_cap {
            logits
                .iter_mut()
                .for_each(|logit| *logit = cap * (*logit / cap).tanh());
        }
    }
}

/// `x += norm(input x projection)`, the norm where the family has one.
fn add_projected<B: Backend>(
    backend: &mut B,
    input: Input<'_, B>,
    projection: &Projection<B>,
    post_norm: Option<&Norm<B>>,
    aside: &mut B::Buffer,
    x: &mut B::Buffer,
) {
    match post_norm {
        None => backend.matmul(input, projection, Store::Add, x),
        Some(norm) => {
            backend.matmul(input, projection, Store::Replace, aside);
            backend.add_normed(aside, norm, x);
        }
    }
}
