//! The one list of ops every family runs, over any backend.

use super::families::Described;
use super::layers::{Layer, Loader};
use super::names::{Names, NamesInFile};
use super::spec::DecoderSpec;
use super::{CausalModel, LoadError, LoadOptions, families};
use crate::adapter::AdapterLoader;
use crate::adapter::load::{BasePart, DecoderAdapter, Loader as AdapterMaker};
use crate::adapter::target::{Place, Targets};
use crate::backend::{AdaptedRows, Attention, Backend, Input, Norm, Part, Projection, Store};
use crate::batch::StepBatch;
use crate::weights::ModelFiles;
use kernels::{KvDtype, KvShape, QkvLayout};
use std::ops::Range;
use std::sync::Arc;

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
    adapters: Arc<AdapterMaker<B>>,
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
        let Described {
            spec,
            names,
            original_names,
        } = families::read(files)?;
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
        let adapters = Arc::new(adapters(&backend, &spec, original_names, layers.first()));
        Ok(Decoder {
            adapters,
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

    fn adapter_loader(&self) -> Option<Arc<dyn AdapterLoader>> {
        Some(Arc::clone(&self.adapters) as Arc<dyn AdapterLoader>)
    }

    fn forward(&mut self, batch: &StepBatch, logits: &mut Vec<f32>) {
        let (b, spec) = (&mut self.backend, &self.spec);
        let adapted = adapted_rows::<B>(batch);
        let beside = |layer: usize, place: Place| -> Vec<AdaptedRows<'_, B>> {
            let rows = adapted.iter().map(|(rows, adapter)| AdaptedRows {
                rows: rows.clone(),
                parts: adapter.parts(layer, place),
            });
            rows.collect()
        };
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
            let lora = beside(index, Place::Qkv);
            b.matmul(normed, &layer.qkv, &lora, Store::Replace, qkv);
            b.attend(&step, index, attention, qkv, attended);
            if spec.is_parallel {
                // Before attention's result is added: both read the same rows.
                let normed = Input::Normed(x, &layer.attention_norm);
                let lora = beside(index, Place::GateUp);
                b.matmul(normed, &layer.gate_up, &lora, Store::Replace, gate_up);
            }
            let post_norm = layer.attention_post_norm.as_ref();
            let input = Input::Rows(attended);
            let lora = beside(index, Place::AttentionOutput);
            let output = &layer.attention_output;
            add_projected(b, input, output, &lora, post_norm, aside, x);
            if let Some(norm) = &layer.feed_forward_norm {
                let normed = Input::Normed(x, norm);
                let lora = beside(index, Place::GateUp);
                b.matmul(normed, &layer.gate_up, &lora, Store::Replace, gate_up);
            }
            let post_norm = layer.feed_forward_post_norm.as_ref();
            let input = match spec.is_gated {
                true => Input::Gated(gate_up, spec.activation),
                false => Input::Activated(gate_up, spec.activation),
            };
            let lora = beside(index, Place::Down);
            add_projected(b, input, &layer.down, &lora, post_norm, aside, x);
        }
        // The head is a fifth of a small model: only rows somebody samples from go through it.
        b.keep_logit_rows(&step, x, aside);
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        let normed = Input::Normed(aside, &self.output_norm);
        b.matmul(normed, head, &[], Store::Replace, scores);
        b.read(scores, logits);
        if let Some(cap) = spec.logit_soft_cap {
            logits
                .iter_mut()
                .for_each(|logit| *logit = cap * (*logit / cap).tanh());
        }
    }
}

/// What makes adapters for a decoder whose layers are all like this one.
fn adapters<B: Backend>(
    backend: &B,
    spec: &DecoderSpec,
    names: &'static Names,
    layer: Option<&Layer<B>>,
) -> AdapterMaker<B> {
    let parts = Place::ALL.map(|place| {
        let projection = layer.map(|layer| match place {
            Place::Qkv => &layer.qkv,
            Place::AttentionOutput => &layer.attention_output,
            Place::GateUp => &layer.gate_up,
            Place::Down => &layer.down,
        });
        let parts = projection.into_iter().flat_map(|projection| {
            let ends = projection.parts.iter().skip(1).map(|part| part.column);
            let ends = ends.chain([projection.width]);
            projection.parts.iter().zip(ends)
        });
        let part = |(part, end): (&Part<B>, usize)| BasePart {
            columns: part.column..end,
            form: backend.adapter_form(&part.matrix),
        };
        parts.map(part).collect()
    });
    AdapterMaker {
        targets: Targets::new(spec, names),
        parts,
    }
}

/// The step's rows that have an adapter, neighbours with the same one together.
fn adapted_rows<B: Backend>(batch: &StepBatch) -> Vec<(Range<usize>, &DecoderAdapter<B>)> {
    let mut adapted: Vec<(Range<usize>, &DecoderAdapter<B>)> = Vec::new();
    for run in &batch.runs {
        let Some(adapter) = &run.adapter else {
            continue;
        };
        let adapter = adapter
            .matrices
            .downcast_ref::<DecoderAdapter<B>>()
            .expect("a model's adapters come from its own loader");
        match adapted.last_mut() {
            Some((rows, last)) if rows.end == run.rows.start && std::ptr::eq(*last, adapter) => {
                rows.end = run.rows.end;
            }
            _ => adapted.push((run.rows.clone(), adapter)),
        }
    }
    adapted
}

/// `x += norm(input x projection)`, the norm where the family has one.
fn add_projected<B: Backend>(
    backend: &mut B,
    input: Input<'_, B>,
    projection: &Projection<B>,
    adapted: &[AdaptedRows<'_, B>],
    post_norm: Option<&Norm<B>>,
    aside: &mut B::Buffer,
    x: &mut B::Buffer,
) {
    match post_norm {
        None => backend.matmul(input, projection, adapted, Store::Add, x),
        Some(norm) => {
            backend.matmul(input, projection, adapted, Store::Replace, aside);
            backend.add_normed(aside, norm, x);
        }
    }
}
