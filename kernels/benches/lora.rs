//! What adapters cost a model step: SmolLM2-135M's products in Q4_1 with an 8-bit head, and adapters on all seven matrices of a layer.
//!
//! `cargo bench -p kernels --bench lora [-- THREADS RANK ROWS..]`: all cores, rank 8, and 16, 1 and 256 rows if not said
//! otherwise. Rows without adapter, rows of one adapter and rows each of another take turns, so that a machine that slows
//! down for a while slows them all; prints tokens a second, the medians, and what is left of the first. Machines that do
//! other work at the same time: run it in the real-time class there (`chrt -f 10`).

mod shapes;

use kernels::{LoraDtype, LoraMatrix, LoraRun, Pool, WeightKind};
use shapes::{Buffers, HIDDEN, INNER, KEYS, LAYERS, Model, QUERY};
use std::time::{Duration, Instant};

/// Time spent on one number of rows.
const PATIENCE: Duration = Duration::from_millis(4000);

/// Columns and k of the seven, in the order of a layer's products.
const TARGETS: [&[(usize, usize)]; 4] = [
    &[(QUERY, HIDDEN), (KEYS, HIDDEN), (KEYS, HIDDEN)],
    &[(HIDDEN, QUERY)],
    &[(INNER, HIDDEN), (INNER, HIDDEN)],
    &[(HIDDEN, INNER)],
];

/// A layer's matrices, product by product.
type Layer = [Vec<LoraMatrix>; 4];

fn adapter(rank: usize, dtype: LoraDtype) -> Vec<Layer> {
    let of = |&(columns, k): &(usize, usize)| {
        let (a, b) = (vec![0.001; rank * k], vec![0.001; columns * rank]);
        LoraMatrix::pack(rank, k, columns, &a, &b, 1.0, dtype).expect("fitting slices")
    };
    (0..LAYERS)
        .map(|_| TARGETS.map(|targets| targets.iter().map(of).collect()))
        .collect()
}

/// The rows cut evenly among the adapters.
fn runs(adapters: &[Vec<Layer>], rows: usize) -> Vec<[Vec<LoraRun<'_>>; 4]> {
    let each = rows / adapters.len();
    let product = |layer: usize, product: usize| {
        let mut runs = Vec::new();
        for (i, adapter) in adapters.iter().enumerate() {
            let mut parts = [None; 3];
            for (part, matrix) in parts.iter_mut().zip(&adapter[layer][product]) {
                *part = Some(matrix);
            }
            let rows = i * each..(i + 1) * each;
            runs.push(LoraRun { rows, parts });
        }
        runs
    };
    (0..LAYERS)
        .map(|layer| std::array::from_fn(|i| product(layer, i)))
        .collect()
}

fn main() {
    let numbers: Vec<usize> = std::env::args()
        .skip(1)
        .filter_map(|word| word.parse().ok())
        .collect();
    let all_cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = numbers.first().copied().unwrap_or_else(all_cores);
    let rank = numbers.get(1).copied().unwrap_or(8);
    let counts = match numbers.get(2..) {
        Some(counts) if !counts.is_empty() => counts,
        _ => &[16, 1, 256],
    };
    let pool = Pool::new(threads);
    let model = Model::new(WeightKind::Q4_1);
    println!(
        "{threads} threads, {:?}, weights of {:.1} MB",
        kernels::dispatch::level(),
        model.bytes() as f64 / 1e6
    );
    for dtype in [LoraDtype::Bf16, LoraDtype::F32] {
        let most = counts.iter().copied().max().unwrap_or(1).min(16);
        let adapters: Vec<_> = (0..most).map(|_| adapter(rank, dtype)).collect();
        let bytes: usize = adapters[0]
            .iter()
            .flatten()
            .flatten()
            .map(LoraMatrix::bytes)
            .sum();
        println!("{dtype:?} rank {rank}: {:.1} MB each", bytes as f64 / 1e6);
        for &rows in counts {
            let logit_rows = if rows > 16 { 1 } else { rows };
            let mut buffers = Buffers::new(rows, logit_rows);
            let many = rows.min(16);
            let variants = [
                Vec::new(),
                runs(&adapters[..1], rows),
                runs(&adapters[..many], rows),
            ];
            let mut times: [Vec<f64>; 3] = Default::default();
            let start = Instant::now();
            while times[0].len() < 3 || start.elapsed() < PATIENCE {
                for (times, runs) in times.iter_mut().zip(&variants) {
                    let begun = Instant::now();
                    model.step(&pool, &mut buffers, logit_rows, runs);
                    times.push(begun.elapsed().as_secs_f64());
                }
            }
            let [base, one, each] = times.map(|mut times| {
                times.sort_by(f64::total_cmp);
                times[times.len() / 2]
            });
            let rate = |seconds: f64| rows as f64 / seconds;
            println!(
                "{rows:4} rows: {:6.0} tok/s without; {:6.0} of one adapter ({:4.1} %); {:6.0} of {many} ({:4.1} %)",
                rate(base),
                rate(one),
                100.0 * base / one,
                rate(each),
                100.0 * base / each,
            );
        }
    }
}
