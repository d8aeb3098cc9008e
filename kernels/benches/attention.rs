//! Attention of SmolLM2's shape (30 layers, 9 heads on 3 of 64) beside its plain twin: `cargo bench -p kernels --bench attention`.
//!
//! A figure is the best of several steps (others' work on the machine only adds), each over all layers, so that memory is as cold as in a real step. Bytes are
//! those of keys and values seen; the twin is timed on one query and multiplied.

use kernels::ops::paged_attention::plain;
use kernels::{
    AttentionRows, AttentionSpec, BLOCK_TOKENS, KvDtype, KvMemory, KvShape, Pool, QkvLayout,
    RopeLayout, RopeScaling, RopeSpec, RopeTable, attend_prepare, paged_attention,
};
use std::time::Instant;

const LAYERS: usize = 30;
const LAYOUT: QkvLayout = QkvLayout {
    heads: 9,
    kv_heads: 3,
    head_dim: 64,
    stride: 15 * 64,
};
const STEPS: usize = 7;

struct Shape {
    name: &'static str,
    sequences: usize,
    /// Positions before the step, and rows of the step, for each sequence.
    before: usize,
    rows: usize,
}

const SHAPES: [Shape; 5] = [
    Shape {
        name: "1 row at 512",
        sequences: 1,
        before: 511,
        rows: 1,
    },
    Shape {
        name: "1 row at 8192",
        sequences: 1,
        before: 8191,
        rows: 1,
    },
    Shape {
        name: "16 rows at 128",
        sequences: 16,
        before: 127,
        rows: 1,
    },
    Shape {
        name: "16 rows at 512",
        sequences: 16,
        before: 511,
        rows: 1,
    },
    Shape {
        name: "prompt of 512",
        sequences: 1,
        before: 0,
        rows: 512,
    },
];

fn main() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let pool = Pool::new(threads);
    println!("{threads} threads, {:?}", kernels::dispatch::level());
    println!(
        "{:<16} {:<5} {:>11} {:>11} {:>7} {:>7} {:>10}",
        "step", "kv", "prepare ms", "attend ms", "GB/s", "GMAC/s", "twin ms"
    );
    // Words after `--` choose steps by name.
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let is_wanted = |shape: &&Shape| {
        wanted.is_empty() || wanted.iter().any(|word| shape.name.contains(word.as_str()))
    };
    for shape in SHAPES.iter().filter(is_wanted) {
        for dtype in [KvDtype::F32, KvDtype::Bf16] {
            measure(&pool, shape, dtype);
        }
    }
}

fn measure(pool: &Pool, shape: &Shape, dtype: KvDtype) {
    let len = shape.before + shape.rows;
    let blocks_each = len.div_ceil(BLOCK_TOKENS);
    let kv_shape = KvShape {
        layers: LAYERS,
        kv_heads: LAYOUT.kv_heads,
        head_dim: LAYOUT.head_dim,
        dtype,
    };
    let mut kv = KvMemory::new(kv_shape, blocks_each * shape.sequences);
    let tables: Vec<Vec<u32>> = (0..shape.sequences)
        .map(|sequence| {
            let own = sequence..blocks_each * shape.sequences;
            own.step_by(shape.sequences).map(|b| b as u32).collect()
        })
        .collect();
    let rope = RopeTable::new(
        len,
        RopeSpec {
            rotary_dim: 64,
            base: 10_000.0,
            layout: RopeLayout::Pairs,
            scaling: RopeScaling::None,
        },
    );
    let fill = noise(len * LAYOUT.stride);
    for table in &tables {
        let runs = [AttentionRows {
            first_row: 0,
            rows: len,
            first_position: 0,
            blocks: table,
        }];
        for layer in 0..LAYERS {
            let mut qkv = fill.clone();
            attend_prepare(pool, &mut kv, layer, &runs, &mut qkv, LAYOUT, None, None);
        }
    }
    let runs: Vec<AttentionRows<'_>> = tables
        .iter()
        .enumerate()
        .map(|(i, blocks)| AttentionRows {
            first_row: i * shape.rows,
            rows: shape.rows,
            first_position: shape.before,
            blocks,
        })
        .collect();
    let rows = shape.rows * shape.sequences;
    let qkv = noise(rows * LAYOUT.stride);
    let mut out = vec![0.0; rows * LAYOUT.heads * LAYOUT.head_dim];
    let spec = AttentionSpec {
        scale: 0.125,
        window: None,
        soft_cap: None,
    };
    let mut prepared = qkv.clone();
    let prepare_ms = best(|| {
        for layer in 0..LAYERS {
            prepared.copy_from_slice(&qkv);
            let rope = Some(&rope);
            attend_prepare(
                pool,
                &mut kv,
                layer,
                &runs,
                &mut prepared,
                LAYOUT,
                None,
                rope,
            );
        }
    });
    let attend_ms = best(|| {
        for layer in 0..LAYERS {
            paged_attention(pool, &kv, layer, &runs, &qkv, LAYOUT, spec, &mut out);
        }
    });
    // Key-query pairs of one head, and positions whose keys and values are read once for each kv head.
    let pairs: usize = (0..shape.rows).map(|i| shape.before + i + 1).sum();
    let pairs = pairs * shape.sequences;
    let query_ms = best(|| {
        let mut out = vec![0.0; LAYOUT.head_dim];
        let position = shape.before + shape.rows / 2;
        let query = &qkv[..LAYOUT.head_dim];
        plain(&kv, 0, 0, &tables[0], position, query, spec, &mut out);
    });
    let twin_ms = query_ms * (rows * LAYOUT.heads * LAYERS) as f64;
    let bytes = len * shape.sequences * kv_shape.block_bytes() / BLOCK_TOKENS;
    let macs = pairs * LAYOUT.heads * 2 * LAYOUT.head_dim * LAYERS;
    println!(
        "{:<16} {:<5} {prepare_ms:>11.3} {attend_ms:>11.3} {:>7.1} {:>7.1} {twin_ms:>10.0}",
        shape.name,
        format!("{dtype:?}").to_lowercase(),
        bytes as f64 / attend_ms / 1e6,
        macs as f64 / attend_ms / 1e6,
    );
}

/// Milliseconds of the fastest.
fn best(mut step: impl FnMut()) -> f64 {
    let times = (0..STEPS).map(|_| {
        let start = Instant::now();
        step();
        start.elapsed().as_secs_f64() * 1e3
    });
    times.fold(f64::INFINITY, f64::min)
}

fn noise(count: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}
