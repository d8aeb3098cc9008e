//! One step of SmolLM2-135M: its shapes, with weights of any value.

use kernels::{
    Activation, Input, LoraRun, MatmulScratch, Matrix, Part, Pool, Store, WeightKind, matmul,
    matmul_adapted,
};

pub const LAYERS: usize = 30;
pub const HIDDEN: usize = 576;
pub const QUERY: usize = 576;
pub const KEYS: usize = 192;
pub const INNER: usize = 1536;
pub const VOCABULARY: usize = 49152;
struct Layer {
    norm: Vec<f32>,
    qkv: [Matrix; 3],
    output: Matrix,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

pub struct Model {
    layers: Vec<Layer>,
    head: Matrix,
}

/// Bytes of any value, with half-float fields small enough that sums stay finite.
fn matrix(kind: WeightKind, columns: usize, k: usize) -> Matrix {
    let count = columns * k / kind.block_len() * kind.block_bytes();
    let mut state = columns as u32;
    let mut bytes: Vec<u8> = (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    for block in bytes.chunks_exact_mut(kind.block_bytes()) {
        match kind {
            WeightKind::F32 => block.copy_from_slice(&0.01f32.to_le_bytes()),
            WeightKind::Bf16 => block.copy_from_slice(&half::bf16::from_f32(0.01).to_le_bytes()),
            _ => {
                let small = half::f16::from_f32(0.001).to_le_bytes();
                block[..2].copy_from_slice(&small);
                if kind == WeightKind::Q6K {
                    block[208..].copy_from_slice(&small);
                } else if block.len() > 3 {
                    block[2..4].copy_from_slice(&small);
                }
            }
        }
    }
    Matrix::pack(kind, columns, k, &bytes).expect("a whole matrix")
}

impl Model {
    pub fn new(kind: WeightKind) -> Model {
        // As quantisers do: what 256 does not divide falls back to a kind of 32.
        let fitting = |k: usize| match kind {
            _ if k.is_multiple_of(kind.block_len()) => kind,
            WeightKind::Q4K => WeightKind::Q5_0,
            WeightKind::Q5K => WeightKind::Q5_1,
            _ => WeightKind::Q8_0,
        };
        let of = |columns, k| matrix(fitting(k), columns, k);
        let layers = (0..LAYERS)
            .map(|_| Layer {
                norm: vec![1.0; HIDDEN],
                qkv: [of(QUERY, HIDDEN), of(KEYS, HIDDEN), of(KEYS, HIDDEN)],
                output: of(HIDDEN, QUERY),
                gate: of(INNER, HIDDEN),
                up: of(INNER, HIDDEN),
                down: of(HIDDEN, INNER),
            })
            .collect();
        let head = if kind.is_quantized() {
            WeightKind::Q8_0
        } else {
            kind
        };
        Model {
            layers,
            head: matrix(head, VOCABULARY, HIDDEN),
        }
    }

    /// Memory of the weights.
    pub fn bytes(&self) -> usize {
        let layers = self.layers.iter().flat_map(|l| {
            let [q, k, v] = &l.qkv;
            [q, k, v, &l.output, &l.gate, &l.up, &l.down]
        });
        layers.chain([&self.head]).map(Matrix::bytes).sum()
    }

    /// One step: the head sees `logit_rows` of them. `runs` are those of each layer's four products, or nothing.
    pub fn step(
        &self,
        pool: &Pool,
        buffers: &mut Buffers,
        logit_rows: usize,
        runs: &[[Vec<LoraRun<'_>>; 4]],
    ) {
        let Buffers {
            scratch: s,
            x,
            qkv,
            gate_up,
            logits,
        } = buffers;
        let rows = x.len() / HIDDEN;
        for (index, layer) in self.layers.iter().enumerate() {
            let [at_qkv, at_output, at_gate_up, at_down] =
                std::array::from_fn(|i| runs.get(index).map_or(&[][..], |runs| &runs[i]));
            let [q, k, v] = &layer.qkv;
            let parts = [
                Part::new(q, 0),
                Part::new(k, QUERY),
                Part::new(v, QUERY + KEYS),
            ];
            let stride = QUERY + 2 * KEYS;
            matmul_adapted(
                pool,
                s,
                rms_norm(x, &layer.norm),
                HIDDEN,
                &parts,
                at_qkv,
                Store::Replace,
                qkv,
                stride,
            );
            let parts = [Part::new(&layer.output, 0)];
            let attended = Input::Rows(&qkv[..rows * QUERY]);
            let (at, add) = (at_output, Store::Add);
            matmul_adapted(pool, s, attended, QUERY, &parts, at, add, x, HIDDEN);
            let parts = [Part::new(&layer.gate, 0), Part::new(&layer.up, INNER)];
            matmul_adapted(
                pool,
                s,
                rms_norm(x, &layer.norm),
                HIDDEN,
                &parts,
                at_gate_up,
                Store::Replace,
                gate_up,
                2 * INNER,
            );
            let parts = [Part::new(&layer.down, 0)];
            let gated = Input::Gated {
                gate_up,
                activation: Activation::Silu,
            };
            let (at, replace) = (at_down, Store::Replace);
            matmul_adapted(pool, s, gated, INNER, &parts, at, replace, x, HIDDEN);
        }
        let last = rms_norm(&x[..logit_rows * HIDDEN], &self.layers[0].norm);
        let parts = [Part::new(&self.head, 0)];
        matmul(
            pool,
            s,
            last,
            HIDDEN,
            &parts,
            Store::Replace,
            logits,
            VOCABULARY,
        );
    }
}

fn rms_norm<'a>(x: &'a [f32], weight: &'a [f32]) -> Input<'a> {
    Input::RmsNorm {
        x,
        weight,
        epsilon: 1e-5,
    }
}

pub struct Buffers {
    scratch: MatmulScratch,
    x: Vec<f32>,
    qkv: Vec<f32>,
    gate_up: Vec<f32>,
    logits: Vec<f32>,
}

impl Buffers {
    pub fn new(rows: usize, logit_rows: usize) -> Buffers {
        Buffers {
            scratch: MatmulScratch::default(),
            x: (0..rows * HIDDEN).map(|i| (i % 71) as f32 - 35.0).collect(),
            qkv: vec![0.0; rows * (QUERY + 2 * KEYS)],
            gate_up: vec![0.0; rows * 2 * INNER],
            logits: vec![0.0; logit_rows * VOCABULARY],
        }
    }
}
