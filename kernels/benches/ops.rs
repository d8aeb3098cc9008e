//! The products of one model step, weights only: SmolLM2-135M's shapes, 30 layers and an 8-bit head.
//!
//! `cargo bench -p kernels --bench ops [-- THREADS ROWS.. KIND..]`: all cores, 1 to 512 rows, and Q4_1 and Q4_0 of
//! `WeightKind` if not said otherwise. Prints tokens a second, the median of several sweeps and the best, with the weights
//! read and the products done in the median time. Machines that do other work at the same time give figures many times
//! too low: run it in the real-time class there (`chrt -f 10`).

use kernels::{Activation, Input, MatmulScratch, Matrix, Part, Pool, Store, WeightKind, matmul};
use std::time::{Duration, Instant};

const LAYERS: usize = 30;
const HIDDEN: usize = 576;
const QUERY: usize = 576;
const KEYS: usize = 192;
const INNER: usize = 1536;
const VOCABULARY: usize = 49152;
/// Time spent on one figure.
const PATIENCE: Duration = Duration::from_millis(1500);

struct Layer {
    norm: Vec<f32>,
    qkv: [Matrix; 3],
    output: Matrix,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

struct Model {
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
    fn new(kind: WeightKind) -> Model {
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

    fn bytes(&self) -> usize {
        let layers = self.layers.iter().flat_map(|l| {
            let [q, k, v] = &l.qkv;
            [q, k, v, &l.output, &l.gate, &l.up, &l.down]
        });
        layers.chain([&self.head]).map(Matrix::bytes).sum()
    }

    /// One step: the head sees `logit_rows` of them.
    fn step(&self, pool: &Pool, buffers: &mut Buffers, logit_rows: usize) {
        let Buffers {
            scratch: s,
            x,
            qkv,
            gate_up,
            logits,
        } = buffers;
        let rows = x.len() / HIDDEN;
        for layer in &self.layers {
            let [q, k, v] = &layer.qkv;
            let parts = [
                Part::new(q, 0),
                Part::new(k, QUERY),
                Part::new(v, QUERY + KEYS),
            ];
            let stride = QUERY + 2 * KEYS;
            matmul(
                pool,
                s,
                rms_norm(x, &layer.norm),
                HIDDEN,
                &parts,
                Store::Replace,
                qkv,
                stride,
            );
            let parts = [Part::new(&layer.output, 0)];
            let attended = Input::Rows(&qkv[..rows * QUERY]);
            matmul(pool, s, attended, QUERY, &parts, Store::Add, x, HIDDEN);
            let parts = [Part::new(&layer.gate, 0), Part::new(&layer.up, INNER)];
            matmul(
                pool,
                s,
                rms_norm(x, &layer.norm),
                HIDDEN,
                &parts,
                Store::Replace,
                gate_up,
                2 * INNER,
            );
            let parts = [Part::new(&layer.down, 0)];
            let gated = Input::Gated {
                gate_up,
                activation: Activation::Silu,
            };
            matmul(pool, s, gated, INNER, &parts, Store::Replace, x, HIDDEN);
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

struct Buffers {
    scratch: MatmulScratch,
    x: Vec<f32>,
    qkv: Vec<f32>,
    gate_up: Vec<f32>,
    logits: Vec<f32>,
}

/// Median and fastest.
fn seconds(mut job: impl FnMut()) -> (f64, f64) {
    let start = Instant::now();
    let mut times = Vec::new();
    while times.len() < 3 || start.elapsed() < PATIENCE {
        let begun = Instant::now();
        job();
        times.push(begun.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[0])
}

fn main() {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let (numbers, names): (Vec<_>, Vec<_>) = wanted
        .iter()
        .partition(|word| word.parse::<usize>().is_ok());
    let numbers: Vec<usize> = numbers
        .iter()
        .filter_map(|word| word.parse().ok())
        .collect();
    let all_cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = numbers.first().copied().unwrap_or_else(all_cores);
    let counts = match numbers.get(1..) {
        Some(counts) if !counts.is_empty() => counts,
        _ => &[1, 4, 8, 16, 512],
    };
    let pool = Pool::new(threads);
    println!("{threads} threads, {:?}", kernels::dispatch::level());
    for kind in WeightKind::ALL {
        let name = format!("{kind:?}");
        let is_default = matches!(kind, WeightKind::Q4_1 | WeightKind::Q4_0);
        if !(names.contains(&&name) || names.is_empty() && is_default) {
            continue;
        }
        let model = Model::new(kind);
        for &rows in counts {
            let logit_rows = if rows > 16 { 1 } else { rows };
            let mut buffers = Buffers {
                scratch: MatmulScratch::default(),
                x: (0..rows * HIDDEN).map(|i| (i % 71) as f32 - 35.0).collect(),
                qkv: vec![0.0; rows * (QUERY + 2 * KEYS)],
                gate_up: vec![0.0; rows * 2 * INNER],
                logits: vec![0.0; logit_rows * VOCABULARY],
            };
            let (seconds, fastest) = seconds(|| model.step(&pool, &mut buffers, logit_rows));
            let products = LAYERS * rows * HIDDEN * (QUERY + 2 * KEYS + QUERY + 3 * INNER)
                + logit_rows * HIDDEN * VOCABULARY;
            println!(
                "{name:5} {rows:4} rows: {:5.0} tok/s, at best {:5.0}; {:5.1} GB/s of weights, {:6.1} G products/s",
                rows as f64 / seconds,
                rows as f64 / fastest,
                model.bytes() as f64 / seconds / 1e9,
                products as f64 / seconds / 1e9,
            );
        }
    }
}
