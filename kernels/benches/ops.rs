//! The products of one model step, weights only: SmolLM2-135M's shapes, 30 layers and an 8-bit head.
//!
//! `cargo bench -p kernels --bench ops [-- THREADS ROWS.. KIND..]`: all cores, 1 to 512 rows, and Q4_1 and Q4_0 of
//! `WeightKind` if not said otherwise. Prints tokens a second, the median of several sweeps and the best, with the weights
//! read and the products done in the median time. Machines that do other work at the same time give figures many times
//! too low: run it in the real-time class there (`chrt -f 10`).

mod shapes;

use kernels::{Pool, WeightKind};
use shapes::{Buffers, HIDDEN, INNER, KEYS, LAYERS, Model, QUERY, VOCABULARY};
use std::time::{Duration, Instant};

/// Time spent on one figure.
const PATIENCE: Duration = Duration::from_millis(1500);

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
            let mut buffers = Buffers::new(rows, logit_rows);
            let (seconds, fastest) = seconds(|| model.step(&pool, &mut buffers, logit_rows, &[]));
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
