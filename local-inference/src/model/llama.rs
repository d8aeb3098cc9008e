//! The Llama family: grouped heads, rotary positions, gated feed-forward, no biases.

use super::CausalModel;
use crate::batch::StepBatch;
use crate::weights::gguf::{Gguf, GgufError, tensor_type};
use kernels::{
    Activation, AttentionRows, AttentionSpec, Input, KvDtype, KvMemory, KvShape, MatmulScratch,
    Matrix, Part, Pool, QkvLayout, RopeLayout, RopeScaling, RopeSpec, RopeTable, Store, WeightKind,
    matmul,
};

#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    File(#[from] GgufError),
    #[error("tensor `{name}`: {source}")]
    Tensor {
        name: String,
        source: kernels::KernelError,
    },
    #[error("tensor `{name}` has shape {actual:?}, expected {expected:?}")]
    Shape {
        name: String,
        actual: Vec<u64>,
        expected: Vec<u64>,
    },
    #[error("tensor `{name}` has type number {kind}, of which no kernel exists (Q4_1 and Q8_0 do)")]
    Type { name: String, kind: u32 },
    #[error("key `{key}` holds {value}, which cannot be")]
    Value { key: String, value: i64 },
    #[error("architecture `{0}` is not supported (llama is)")]
    Architecture(String),
}

/// The numbers of the header that shape the model.
struct Dimensions {
    layers: usize,
    hidden: usize,
    feed_forward: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    vocabulary: usize,
    norm_epsilon: f32,
    rope_base: f32,
}

struct Layer {
    attention_norm: Vec<f32>,
    query: Matrix,
    key: Matrix,
    value: Matrix,
    attention_output: Matrix,
    feed_forward_norm: Vec<f32>,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

/// A loaded model and the buffers of its step.
pub(crate) struct Llama {
    dimensions: Dimensions,
    embedding: Matrix,
    layers: Vec<Layer>,
    output_norm: Vec<f32>,
    /// `None`: the embedding serves as head too.
    head: Option<Matrix>,
    rope: RopeTable,
    kv: KvMemory,
    pool: Pool,
    scratch: Scratch,
}

/// Activations of a step; kept, so that a step allocates nothing once it has seen its largest batch.
#[derive(Default)]
struct Scratch {
    x: Vec<f32>,
    matmul: MatmulScratch,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    projected: Vec<f32>,
    gate_up: Vec<f32>,
}

impl Llama {
    /// Packs the weights of `file`; `bytes` are not needed afterwards.
    pub(crate) fn load(
        file: &Gguf,
        bytes: &[u8],
        max_positions: usize,
        pool: Pool,
    ) -> Result<Llama, LoadError> {
        let dimensions = Dimensions::read(file)?;
        let d = &dimensions;
        let loader = Loader { file, bytes };
        let query_width = d.heads * d.head_dim;
        let kv_width = d.kv_heads * d.head_dim;
        let layers = (0..d.layers)
            .map(|index| {
                let matrix = |name: &str, columns, k| {
                    loader.matrix(&format!("blk.{index}.{name}.weight"), columns, k)
                };
                let vector =
                    |name: &str| loader.vector(&format!("blk.{index}.{name}.weight"), d.hidden);
                Ok(Layer {
                    attention_norm: vector("attn_norm")?,
                    query: matrix("attn_q", query_width, d.hidden)?,
                    key: matrix("attn_k", kv_width, d.hidden)?,
                    value: matrix("attn_v", kv_width, d.hidden)?,
                    attention_output: matrix("attn_output", d.hidden, query_width)?,
                    feed_forward_norm: vector("ffn_norm")?,
                    gate: matrix("ffn_gate", d.feed_forward, d.hidden)?,
                    up: matrix("ffn_up", d.feed_forward, d.hidden)?,
                    down: matrix("ffn_down", d.hidden, d.feed_forward)?,
                })
            })
            .collect::<Result<Vec<Layer>, LoadError>>()?;
        let head = match file.has_tensor("output.weight") {
            true => Some(loader.matrix("output.weight", d.vocabulary, d.hidden)?),
            false => None,
        };
        Ok(Llama {
            embedding: loader.matrix("token_embd.weight", d.vocabulary, d.hidden)?,
            layers,
            output_norm: loader.vector("output_norm.weight", d.hidden)?,
            head,
            rope: RopeTable::new(
                max_positions,
                RopeSpec {
                    rotary_dim: d.head_dim,
                    base: d.rope_base,
                    layout: RopeLayout::Pairs,
                    scaling: RopeScaling::None,
                },
            ),
            kv: KvMemory::new(d.kv_shape(), 0),
            pool,
            scratch: Scratch::default(),
            dimensions,
        })
    }

    /// Memory held by packed matrices.
    pub(crate) fn weight_bytes(&self) -> usize {
        let layers = self.layers.iter().flat_map(|layer| {
            let Layer {
                query,
                key,
                value,
                attention_output,
                gate,
                up,
                down,
                ..
            } = layer;
            [query, key, value, attention_output, gate, up, down]
        });
        layers
            .chain([&self.embedding])
            .chain(&self.head)
            .map(Matrix::bytes)
            .sum()
    }
}

impl CausalModel for Llama {
    fn kv_block_bytes(&self) -> usize {
        self.kv.shape().block_bytes()
    }

    fn reserve_kv(&mut self, blocks: usize) {
        self.kv = KvMemory::new(self.kv.shape(), blocks);
    }

    fn vocabulary(&self) -> usize {
        self.dimensions.vocabulary
    }

    fn forward(&mut self, batch: &StepBatch, logits: &mut Vec<f32>) {
        let kv = &mut self.kv;
        let d = &self.dimensions;
        let (pool, s) = (&self.pool, &mut self.scratch);
        let rows = batch.tokens.len();
        let query_width = d.heads * d.head_dim;
        let kv_width = d.kv_heads * d.head_dim;
        let qkv_width = query_width + 2 * kv_width;
        s.x.resize(rows * d.hidden, 0.0);
        s.qkv.resize(rows * qkv_width, 0.0);
        s.attended.resize(rows * query_width, 0.0);
        s.projected.resize(rows * d.hidden, 0.0);
        s.gate_up.resize(rows * 2 * d.feed_forward, 0.0);

        let attention: Vec<AttentionRows<'_>> = batch
            .runs
            .iter()
            .map(|run| AttentionRows {
                first_row: run.rows.start,
                rows: run.rows.len(),
                first_position: run.first_position,
                blocks: &batch.blocks[run.blocks.clone()],
            })
            .collect();
        let layout = QkvLayout {
            heads: d.heads,
            kv_heads: d.kv_heads,
            head_dim: d.head_dim,
            stride: qkv_width,
        };
        let spec = AttentionSpec {
            scale: 1.0 / (d.head_dim as f32).sqrt(),
            window: None,
            soft_cap: None,
        };
        for (token, row) in batch.tokens.iter().zip(s.x.chunks_exact_mut(d.hidden)) {
            self.embedding.row(*token as usize, row);
        }
        for (index, layer) in self.layers.iter().enumerate() {
            let parts = [
                Part::new(&layer.query, 0),
                Part::new(&layer.key, query_width),
                Part::new(&layer.value, query_width + kv_width),
            ];
            let input = rms_norm(&s.x, &layer.attention_norm, d.norm_epsilon);
            let (hidden, inner) = (d.hidden, d.feed_forward);
            let (replace, add) = (Store::Replace, Store::Add);
            let m = &mut s.matmul;
            matmul(
                pool, m, input, hidden, &parts, replace, &mut s.qkv, qkv_width,
            );
            let qkv = &mut s.qkv[..];
            let rope = Some(&self.rope);
            kernels::attend_prepare(pool, kv, index, &attention, qkv, layout, None, rope);
            let out = &mut s.attended[..];
            kernels::paged_attention(pool, kv, index, &attention, qkv, layout, spec, out);
            let parts = [Part::new(&layer.attention_output, 0)];
            let input = Input::Rows(&s.attended);
            matmul(pool, m, input, query_width, &parts, add, &mut s.x, hidden);

            let parts = [Part::new(&layer.gate, 0), Part::new(&layer.up, inner)];
            let input = rms_norm(&s.x, &layer.feed_forward_norm, d.norm_epsilon);
            matmul(
                pool,
                m,
                input,
                hidden,
                &parts,
                replace,
                &mut s.gate_up,
                2 * inner,
            );
            let parts = [Part::new(&layer.down, 0)];
            let input = Input::Gated {
                gate_up: &s.gate_up,
                activation: Activation::Silu,
            };
            matmul(pool, m, input, inner, &parts, add, &mut s.x, hidden);
        }

        // The head is a fifth of the model: only rows somebody samples from go through it.
        let mut wanted = 0;
        for row in batch.logit_rows() {
            let source = row * d.hidden..(row + 1) * d.hidden;
            s.projected[wanted * d.hidden..][..d.hidden].copy_from_slice(&s.x[source]);
            wanted += 1;
        }
        let last = &s.projected[..wanted * d.hidden];
        let input = rms_norm(last, &self.output_norm, d.norm_epsilon);
        logits.resize(wanted * d.vocabulary, 0.0);
        let parts = [Part::new(self.head.as_ref().unwrap_or(&self.embedding), 0)];
        let (m, width) = (&mut s.matmul, d.vocabulary);
        matmul(
            pool,
            m,
            input,
            d.hidden,
            &parts,
            Store::Replace,
            logits,
            width,
        );
    }
}

fn rms_norm<'a>(x: &'a [f32], weight: &'a [f32], epsilon: f32) -> Input<'a> {
    Input::RmsNorm { x, weight, epsilon }
}

impl Dimensions {
    fn kv_shape(&self) -> KvShape {
        KvShape {
            layers: self.layers,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            dtype: KvDtype::F32,
        }
    }

    fn read(file: &Gguf) -> Result<Dimensions, LoadError> {
        let architecture = file.text("general.architecture")?;
        if architecture != "llama" {
            return Err(LoadError::Architecture(architecture.to_owned()));
        }
        // Above any real model and far below what could overflow a product of three.
        let number = |key: &str| -> Result<usize, LoadError> {
            let value = file.integer(key)?;
            usize::try_from(value)
                .ok()
                .filter(|value| (1..=1 << 20).contains(value))
                .ok_or_else(|| LoadError::Value {
                    key: key.to_owned(),
                    value,
                })
        };
        let heads = number("llama.attention.head_count")?;
        let kv_heads = number("llama.attention.head_count_kv").unwrap_or(heads);
        let hidden = number("llama.embedding_length")?;
        let head_dim = number("llama.rope.dimension_count").unwrap_or(hidden / heads);
        let refuse = |key: &str, value: usize| {
            Err(LoadError::Value {
                key: key.to_owned(),
                value: value as i64,
            })
        };
        if !heads.is_multiple_of(kv_heads) {
            return refuse("llama.attention.head_count_kv", kv_heads);
        }
        if head_dim * heads != hidden || !head_dim.is_multiple_of(2) {
            return refuse("llama.rope.dimension_count", head_dim);
        }
        Ok(Dimensions {
            layers: number("llama.block_count")?,
            hidden,
            feed_forward: number("llama.feed_forward_length")?,
            heads,
            kv_heads,
            head_dim,
            vocabulary: file.texts("tokenizer.ggml.tokens")?.len(),
            norm_epsilon: file.float("llama.attention.layer_norm_rms_epsilon")? as f32,
            rope_base: file.float("llama.rope.freq_base").unwrap_or(10_000.0) as f32,
        })
    }
}

struct Loader<'a> {
    file: &'a Gguf,
    bytes: &'a [u8],
}

impl Loader<'_> {
    fn expect_shape(&self, name: &str, expected: &[u64]) -> Result<u32, LoadError> {
        let info = self.file.tensor(name)?;
        if info.shape == expected {
            return Ok(info.kind);
        }
        Err(LoadError::Shape {
            name: name.to_owned(),
            actual: info.shape.clone(),
            expected: expected.to_vec(),
        })
    }

    fn matrix(&self, name: &str, columns: usize, k: usize) -> Result<Matrix, LoadError> {
        let kind = match self.expect_shape(name, &[k as u64, columns as u64])? {
            tensor_type::Q4_1 => WeightKind::Q4_1,
            tensor_type::Q8_0 => WeightKind::Q8_0,
            kind => {
                return Err(LoadError::Type {
                    name: name.to_owned(),
                    kind,
                });
            }
        };
        let length = (columns * k / 32 * kind.block_bytes()) as u64;
        let bytes = self.file.tensor_bytes(self.bytes, name, length)?;
        Matrix::pack(kind, columns, k, bytes).map_err(|source| LoadError::Tensor {
            name: name.to_owned(),
            source,
        })
    }

    fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>, LoadError> {
        match self.expect_shape(name, &[length as u64])? {
            tensor_type::F32 => {}
            kind => {
                return Err(LoadError::Type {
                    name: name.to_owned(),
                    kind,
                });
            }
        }
        let bytes = self
            .file
            .tensor_bytes(self.bytes, name, 4 * length as u64)?;
        Ok(bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|value| f32::from_le_bytes(*value))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue;
    use crate::testing::model_dir_or_skip;

    /// Prompt tokens, and the five likeliest next tokens with their logits as plain f32 arithmetic over the dequantised
    /// weights gives them (a separate program, matrix by matrix from the model's definition).
    type Reference = (&'static [u32], [(usize, f32); 5]);
    const REFERENCES: [Reference; 5] = [
        (
            &[504, 3575, 282, 4649, 314],
            [
                (7042, 17.371),
                (260, 14.889),
                (4528, 13.245),
                (2250, 13.009),
                (1315, 12.952),
            ],
        ),
        (
            &[1604, 803, 24, 81, 28, 278, 727, 472, 1003],
            [
                (253, 20.375),
                (2822, 16.857),
                (365, 15.78),
                (278, 15.559),
                (476, 15.393),
            ],
        ),
        (
            &[6403, 1980, 253, 655, 28, 665, 436, 253, 1838],
            [
                (8180, 17.551),
                (3102, 17.058),
                (6560, 15.064),
                (5432, 14.988),
                (7706, 14.952),
            ],
        ),
        (
            &[33, 216, 34, 216, 35, 216, 36, 216, 37, 216, 38, 216, 39],
            [
                (216, 24.377),
                (198, 20.86),
                (256, 20.322),
                (28, 19.996),
                (25, 19.799),
            ],
        ),
        (
            &[12615, 36411, 418, 216, 33, 32, 32, 5027],
            [
                (20590, 23.718),
                (21391, 20.563),
                (28, 19.331),
                (30, 18.426),
                (265, 18.242),
            ],
        ),
    ];

    #[test]
    fn logits_are_those_of_plain_arithmetic_up_to_the_rounding_of_activations() {
        let Some(directory) = model_dir_or_skip("logits against the reference") else {
            return;
        };
        let path = directory.join(catalogue::all()[0].file);
        let bytes = std::fs::read(path).expect("the file was just seen");
        let file = Gguf::parse(&bytes).expect("a valid file");
        let mut model = Llama::load(&file, &bytes, 64, Pool::new(2)).expect("a known model");
        model.reserve_kv(4);
        let mut logits = Vec::new();
        let mut error = 0.0f32;
        for (tokens, top) in REFERENCES {
            let mut batch = StepBatch::default();
            batch.push(tokens, 0, &[2, 0], true);
            model.forward(&batch, &mut logits);
            for (token, expected) in top {
                println!("{token}: {} {expected}", logits[token]);
                error = error.max((logits[token] - expected).abs());
            }
        }
        // 8-bit activations; the tokens' logits lie between 13 and 25.
        assert!(error < 0.6, "largest difference {error}");
    }
}
