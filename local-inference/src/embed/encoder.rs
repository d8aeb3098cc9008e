//! The encoder itself: token ids in, token vectors out, then one row a text.
//!
//! Rows of all texts lie one behind the other. Shapes below: T rows, h hidden, H heads, d = h / H.

use super::Pooling;
use super::batch::runs;
use super::files::{FilesError, Head, Spec, Weights};
use super::worker::Task;
use candle_core::{D, Result, Tensor};
use kernels::Pool;
use kernels::candle::{Weight, Workspace, add_norm_, bias_activation_, linear, softmax_};

/// Attention scores held at a time, in floats (64 MB). More texts or longer ones are done in parts.
const MAX_SCORES: usize = 16 * 1024 * 1024;

/// A tokenised text.
#[derive(Debug, Clone, Default)]
pub(super) struct Input {
    pub ids: Vec<u32>,
    /// Which half of a pair a token belongs to.
    pub types: Vec<u32>,
}

pub(super) struct Encoder {
    spec: Spec,
    workspace: Workspace,
    words: Tensor,
    positions: Tensor,
    types: Tensor,
    /// Zeros, weight, bias: see [`add_norm_`].
    norm: Tensor,
    layers: Vec<Layer>,
    classifier: Option<Classifier>,
}

struct Layer {
    /// 3h x h.
    qkv: Weight,
    qkv_bias: Tensor,
    out: Weight,
    out_norm: Tensor,
    up: Weight,
    up_bias: Tensor,
    down: Weight,
    down_norm: Tensor,
}

struct Classifier {
    dense: Weight,
    dense_bias: Tensor,
    out: Weight,
    out_bias: Tensor,
}

impl Encoder {
    pub(super) fn new(
        spec: &Spec,
        weights: &Weights<'_>,
        pool: Pool,
    ) -> std::result::Result<Encoder, FilesError> {
        let h = spec.hidden;
        let embedding = |name: &str, rows: usize| {
            weights.get(&format!("embeddings.{name}_embeddings.weight"), &[rows, h])
        };
        let words = embedding("word", spec.vocabulary)?;
        let norm = norm_params(
            weights,
            "embeddings.LayerNorm",
            words.narrow(0, 0, 1)?.zeros_like()?,
        )?;
        let classifier = match spec.head {
            Head::Pool { .. } => None,
            Head::Score => Some(Classifier {
                dense: Weight::new(&weights.load("classifier.dense.weight", &[h, h])?)?,
                dense_bias: weights.load("classifier.dense.bias", &[h])?,
                out: Weight::new(&weights.load("classifier.out_proj.weight", &[1, h])?)?,
                out_bias: weights.load("classifier.out_proj.bias", &[1])?,
            }),
        };
        Ok(Encoder {
            positions: embedding("position", spec.positions)?,
            types: embedding("token_type", spec.types)?,
            words,
            norm,
            layers: (0..spec.layers)
                .map(|layer| Layer::new(spec, weights, layer))
                .collect::<std::result::Result<_, _>>()?,
            classifier,
            spec: spec.clone(),
            workspace: Workspace::new(pool),
        })
    }

    /// A row for each text: its vector, or its score alone. `None` when `is_cancelled` said so, which is asked at each layer.
    pub(super) fn encode(
        &self,
        inputs: &[&Input],
        task: Task,
        is_cancelled: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<Vec<f32>>>> {
        let lengths: Vec<usize> = inputs.iter().map(|input| input.ids.len()).collect();
        let runs = runs(&lengths);
        let mut x = self.embed(inputs)?;
        for layer in &self.layers {
            if is_cancelled() {
                return Ok(None);
            }
            x = layer.forward(&self.workspace, &self.spec, x, &runs)?;
        }
        let starts = lengths.iter().scan(0, |next, length| {
            let start = *next;
            *next += length;
            Some(start)
        });
        let rows = match task {
            Task::Embed(Pooling::Mean) => {
                let means = starts
                    .zip(&lengths)
                    .map(|(start, length)| x.narrow(0, start, *length)?.mean_keepdim(0))
                    .collect::<Result<Vec<_>>>()?;
                Tensor::cat(&means, 0)?
            }
            Task::Embed(Pooling::Cls) | Task::Score => {
                let starts: Vec<u32> = starts.map(|start| start as u32).collect();
                let starts = Tensor::new(starts, x.device())?;
                x.index_select(&starts, 0)?
            }
        };
        let rows = match (task, &self.classifier, self.spec.head) {
            (Task::Score, Some(classifier), _) => classifier.forward(&self.workspace, &rows)?,
            (
                Task::Embed(_),
                _,
                Head::Pool {
                    normalise: true, ..
                },
            ) => unit_rows(&rows)?,
            _ => rows,
        };
        Ok(Some(rows.to_vec2()?))
    }

    /// T x h: words, positions and types added and normed.
    fn embed(&self, inputs: &[&Input]) -> Result<Tensor> {
        let device = self.words.device();
        let (mut ids, mut positions, mut types) = (vec![], vec![], Vec::<u32>::new());
        for input in inputs {
            ids.extend(&input.ids);
            types.extend(&input.types);
            match self.spec.position_padding {
                None => positions.extend(0..input.ids.len() as u32),
                Some(padding) => {
                    let mut last = padding;
                    positions.extend(input.ids.iter().map(|id| {
                        if *id == padding {
                            return padding;
                        }
                        last += 1;
                        last
                    }));
                }
            }
        }
        let rows =
            |table: &Tensor, rows: Vec<u32>| table.index_select(&Tensor::new(rows, device)?, 0);
        // Models of one type were trained on texts whose tokenizer may still tell two.
        let kinds = self.spec.types as u32;
        types
            .iter_mut()
            .for_each(|kind| *kind = (*kind).min(kinds - 1));
        let x = (rows(&self.words, ids)? + rows(&self.types, types)?)?;
        let positions = rows(&self.positions, positions)?;
        add_norm_(&x, &positions, &self.norm, self.spec.norm_epsilon)?;
        Ok(x)
    }
}

impl Layer {
    fn new(
        spec: &Spec,
        weights: &Weights<'_>,
        layer: usize,
    ) -> std::result::Result<Layer, FilesError> {
        let h = spec.hidden;
        let get = |name: &str, shape: &[usize]| {
            weights.get(&format!("encoder.layer.{layer}.{name}"), shape)
        };
        let three = |end: &str, shape: &[usize]| -> std::result::Result<Tensor, FilesError> {
            let parts = ["query", "key", "value"]
                .into_iter()
                .map(|part| get(&format!("attention.self.{part}.{end}"), shape))
                .collect::<std::result::Result<Vec<_>, _>>()?;
            Ok(Tensor::cat(&parts, 0)?)
        };
        let norm = |place: &str| {
            let bias = get(&format!("{place}.dense.bias"), &[h])?.reshape((1, h))?;
            norm_params(
                weights,
                &format!("encoder.layer.{layer}.{place}.LayerNorm"),
                bias,
            )
        };
        let wide = spec.intermediate;
        Ok(Layer {
            qkv: Weight::new(&three("weight", &[h, h])?)?,
            qkv_bias: three("bias", &[h])?,
            out: Weight::new(&get("attention.output.dense.weight", &[h, h])?)?,
            out_norm: norm("attention.output")?,
            up: Weight::new(&get("intermediate.dense.weight", &[wide, h])?)?,
            up_bias: get("intermediate.dense.bias", &[wide])?,
            down: Weight::new(&get("output.dense.weight", &[h, wide])?)?,
            down_norm: norm("output")?,
        })
    }

    fn forward(
        &self,
        workspace: &Workspace,
        spec: &Spec,
        x: Tensor,
        runs: &[(usize, usize)],
    ) -> Result<Tensor> {
        let epsilon = spec.norm_epsilon;
        let qkv = linear(workspace, &x, &self.qkv)?.broadcast_add(&self.qkv_bias)?;
        let attended = linear(workspace, &attend(&qkv, spec.heads, runs)?, &self.out)?;
        add_norm_(&attended, &x, &self.out_norm, epsilon)?;
        let wide = linear(workspace, &attended, &self.up)?;
        bias_activation_(&wide, &self.up_bias, spec.activation)?;
        let x = linear(workspace, &wide, &self.down)?;
        add_norm_(&x, &attended, &self.down_norm, epsilon)?;
        Ok(x)
    }
}

/// Every token of a text attends to every token of it. `qkv`: T x 3h; gives T x h. `runs`: lengths of texts and how many
/// of that length follow one another.
fn attend(qkv: &Tensor, heads: usize, runs: &[(usize, usize)]) -> Result<Tensor> {
    let (rows, width) = qkv.dims2()?;
    let size = width / 3 / heads;
    let scale = 1.0 / (size as f32).sqrt();
    let mut parts = Vec::new();
    let mut start = 0;
    for (length, count) in runs {
        let (length, mut left) = (*length, *count);
        let texts = (MAX_SCORES / (heads * length * length)).max(1);
        while left > 0 {
            let texts = texts.min(left);
            let all = qkv
                .narrow(0, start, texts * length)?
                .reshape((texts, length, 3, heads, size))?
                .permute((2, 0, 3, 1, 4))?
                .contiguous()?;
            let (q, k, v) = (all.get(0)?, all.get(1)?.t()?, all.get(2)?);
            // Texts above the bound are alone here and their rows go in parts.
            let some = (MAX_SCORES / (texts * heads * length)).clamp(1, length);
            let mut pieces = Vec::new();
            for first in (0..length).step_by(some) {
                let q = q.narrow(2, first, some.min(length - first))?.contiguous()?;
                let weights = q.matmul(&k)?;
                softmax_(&weights, scale)?;
                pieces.push(weights.matmul(&v)?.transpose(1, 2)?);
            }
            let whole = match pieces.len() {
                1 => pieces.remove(0),
                _ => Tensor::cat(&pieces, 1)?,
            };
            parts.push(whole.reshape((texts * length, heads * size))?);
            start += texts * length;
            left -= texts;
        }
    }
    debug_assert_eq!(start, rows);
    match parts.len() {
        1 => Ok(parts.remove(0)),
        _ => Tensor::cat(&parts, 0),
    }
}

impl Classifier {
    /// First tokens' vectors (n x h) to scores between 0 and 1 (n x 1).
    fn forward(&self, workspace: &Workspace, first: &Tensor) -> Result<Tensor> {
        let dense = linear(workspace, first, &self.dense)?
            .broadcast_add(&self.dense_bias)?
            .tanh()?;
        let logits = linear(workspace, &dense, &self.out)?.broadcast_add(&self.out_bias)?;
        (logits.neg()?.exp()? + 1.0)?.recip()
    }
}

/// 3 x h: the bias before a norm, its weight and its bias.
fn norm_params(
    weights: &Weights<'_>,
    name: &str,
    bias: Tensor,
) -> std::result::Result<Tensor, FilesError> {
    let width = bias.elem_count();
    let row = |end: &str| -> std::result::Result<Tensor, FilesError> {
        let row = weights.get(&format!("{name}.{end}"), &[width])?;
        Ok(row.reshape((1, width))?)
    };
    Ok(Tensor::cat(&[bias, row("weight")?, row("bias")?], 0)?)
}

fn unit_rows(rows: &Tensor) -> Result<Tensor> {
    let lengths = rows.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
    // As in PyTorch: a row of zeros stays one.
    rows.broadcast_div(&lengths.maximum(1e-12)?)
}
