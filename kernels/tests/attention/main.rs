//! From a row of queries, keys and values to what it attends to: against the definitions, and bit for bit whatever the rows
//! were computed with.

mod invariance;

use kernels::dispatch::levels;
use kernels::ops::attend_prepare::{self, attend_prepare_at};
use kernels::ops::paged_attention::{self, paged_attention_at};
use kernels::{
    AttentionRows, AttentionSpec, BLOCK_TOKENS, HeadNorm, KvDtype, KvMemory, KvShape, Level, Pool,
    QkvLayout, RopeLayout, RopeScaling, RopeSpec, RopeTable,
};

/// A small generator, so that a failure repeats.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count)
            .map(|_| (self.next() >> 40) as f32 / (1u32 << 23) as f32 - 1.0)
            .collect()
    }
}

/// Sums of up to a few thousand products of numbers near 1: two orders of addition differ by this much.
fn assert_close(actual: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(actual.len(), expected.len());
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        assert!(
            (a - e).abs() <= tolerance * (1.0 + e.abs()),
            "{what}: value {i} is {a}, should be {e}"
        );
    }
}

/// The attention of one model, and the rows of one sequence.
struct Case {
    layout: QkvLayout,
    dtype: KvDtype,
    spec: AttentionSpec,
    norm: Option<(Vec<f32>, Vec<f32>)>,
    rope: Option<RopeSpec>,
    /// The rows as the products leave them.
    rows: Vec<f32>,
    blocks: Vec<u32>,
}

const LAYERS: usize = 2;
const LAYER: usize = 1;
const EPSILON: f32 = 1e-5;

impl Case {
    fn new(heads: usize, kv_heads: usize, head_dim: usize, len: usize, seed: u64) -> Case {
        let mut random = Random(seed);
        let layout = QkvLayout {
            heads,
            kv_heads,
            head_dim,
            stride: (heads + 2 * kv_heads) * head_dim + 3,
        };
        // A scattered table.
        let mut blocks: Vec<u32> = (0..len.div_ceil(BLOCK_TOKENS) as u32).collect();
        for i in (1..blocks.len()).rev() {
            blocks.swap(i, random.below(i + 1));
        }
        Case {
            layout,
            dtype: KvDtype::F32,
            spec: AttentionSpec {
                scale: 1.0 / (head_dim as f32).sqrt(),
                window: None,
                soft_cap: None,
            },
            norm: None,
            rope: None,
            // Large enough that weights differ by orders of magnitude.
            rows: random
                .values(len * layout.stride)
                .iter()
                .map(|v| v * 3.0)
                .collect(),
            blocks,
        }
    }

    fn len(&self) -> usize {
        self.rows.len() / self.layout.stride
    }

    fn memory(&self) -> KvMemory {
        let shape = KvShape {
            layers: LAYERS,
            kv_heads: self.layout.kv_heads,
            head_dim: self.layout.head_dim,
            dtype: self.dtype,
        };
        KvMemory::new(shape, self.blocks.len())
    }

    fn norm(&self) -> Option<HeadNorm<'_>> {
        self.norm.as_ref().map(|(q, k)| HeadNorm {
            q,
            k,
            epsilon: EPSILON,
        })
    }

    /// The outputs of all rows, the sequence fed in chunks of these lengths.
    fn run(&self, level: Level, pool: &Pool, kv: &mut KvMemory, chunks: &[usize]) -> Vec<f32> {
        let table = self
            .rope
            .clone()
            .map(|spec| RopeTable::new(self.len(), spec));
        let width = self.layout.heads * self.layout.head_dim;
        let mut all = Vec::new();
        let mut position = 0;
        for rows in chunks {
            let run = [AttentionRows {
                first_row: 0,
                rows: *rows,
                first_position: position,
                blocks: &self.blocks,
            }];
            let stride = self.layout.stride;
            let mut qkv = self.rows[position * stride..][..rows * stride].to_vec();
            let mut out = vec![f32::NAN; rows * width];
            let (norm, rope) = (self.norm(), table.as_ref());
            attend_prepare_at(
                level,
                pool,
                kv,
                LAYER,
                &run,
                &mut qkv,
                self.layout,
                norm,
                rope,
            );
            paged_attention_at(
                level,
                pool,
                kv,
                LAYER,
                &run,
                &qkv,
                self.layout,
                self.spec,
                &mut out,
            );
            all.extend(out);
            position += rows;
        }
        assert_eq!(position, self.len());
        all
    }

    /// Rows after norms and rotation, by the definition.
    fn prepared(&self) -> Vec<f32> {
        let mut rows = self.rows.clone();
        for (position, row) in rows.chunks_exact_mut(self.layout.stride).enumerate() {
            attend_prepare::plain(row, position, self.layout, self.norm(), self.rope.as_ref());
        }
        rows
    }

    /// Attention by its definition in f64, over keys and values as they are stored.
    fn expected(&self) -> Vec<f32> {
        let QkvLayout {
            heads,
            kv_heads,
            head_dim,
            stride,
        } = self.layout;
        let rows = self.prepared();
        let stored = |value: f32| match self.dtype {
            KvDtype::F32 => f64::from(value),
            KvDtype::Bf16 => half::bf16::from_f32(value).to_f64(),
        };
        let mut out = Vec::new();
        for position in 0..self.len() {
            let first = self
                .spec
                .window
                .map_or(0, |window| (position + 1).saturating_sub(window));
            for head in 0..heads {
                let query = &rows[position * stride + head * head_dim..][..head_dim];
                let kv_head = head / (heads / kv_heads);
                let part = |p: usize, which: usize| {
                    &rows[p * stride + (heads + which * kv_heads + kv_head) * head_dim..]
                        [..head_dim]
                };
                let scores: Vec<f64> = (first..=position)
                    .map(|p| {
                        let pairs = query.iter().zip(part(p, 0));
                        let dot: f64 = pairs.map(|(q, k)| f64::from(*q) * stored(*k)).sum();
                        let score = dot * f64::from(self.spec.scale);
                        self.spec.soft_cap.map_or(score, |cap| {
                            f64::from(cap) * (score / f64::from(cap)).tanh()
                        })
                    })
                    .collect();
                let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
                let total: f64 = weights.iter().sum();
                out.extend((0..head_dim).map(|i| {
                    let values = (first..=position).map(|p| stored(part(p, 1)[i]));
                    let sum: f64 = weights.iter().zip(values).map(|(w, v)| w * v).sum();
                    (sum / total) as f32
                }));
            }
        }
        out
    }

    /// The outputs at every level, whole and on three threads, against the definition.
    fn check(&self, what: &str) {
        let expected = self.expected();
        for level in levels() {
            let out = self.run(level, &Pool::new(3), &mut self.memory(), &[self.len()]);
            let tolerance = match (self.dtype, level) {
                // Weights may be rounded to bf16: 1 in 512 of each, of averages within 3 and mostly far from it.
                (KvDtype::Bf16, Level::Avx512) => 4e-3,
                // 1e-5 of what is averaged, which lies within 3.
                _ => 2e-5,
            };
            assert_close(&out, &expected, tolerance, &format!("{what} {level:?}"));
        }
    }
}

fn rope(rotary_dim: usize, layout: RopeLayout, scaling: RopeScaling) -> Option<RopeSpec> {
    Some(RopeSpec {
        rotary_dim,
        base: 10_000.0,
        layout,
        scaling,
    })
}

#[test]
fn attention_is_its_definition_over_heads_dimensions_and_types() {
    for (heads, kv_heads, dim) in [
        (1, 1, 2),
        (2, 1, 16),
        (9, 3, 64),
        (10, 2, 40),
        (71, 1, 64),
        (4, 4, 80),
        (7, 1, 96),
        (2, 2, 128),
        (4, 1, 256),
        (14, 2, 10),
    ] {
        for dtype in [KvDtype::F32, KvDtype::Bf16] {
            let mut case = Case::new(heads, kv_heads, dim, 75, 1);
            case.dtype = dtype;
            case.check(&format!("{heads}/{kv_heads} heads of {dim}, {dtype:?}"));
        }
    }
}

#[test]
fn long_contexts_windows_and_caps_are_their_definitions() {
    for dtype in [KvDtype::F32, KvDtype::Bf16] {
        for (window, soft_cap) in [
            (None, None),
            (Some(1), None),
            (Some(16), None),
            (Some(37), Some(5.0)),
            (Some(300), None),
            (Some(5000), None),
            (None, Some(30.0)),
        ] {
            let mut case = Case::new(3, 1, 16, 570, 2);
            case.dtype = dtype;
            case.spec = AttentionSpec {
                scale: 0.7,
                window,
                soft_cap,
            };
            case.check(&format!("window {window:?}, cap {soft_cap:?}, {dtype:?}"));
        }
    }
}

#[test]
fn norms_and_rotations_are_their_definitions() {
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low: 1.0,
        high: 4.0,
        original: 256,
    };
    let divisors = RopeScaling::Frequencies((0..32).map(|i| 1.0 + i as f32 / 4.0).collect());
    for (dim, rope) in [
        (64, None),
        (64, rope(64, RopeLayout::Pairs, RopeScaling::None)),
        (64, rope(64, RopeLayout::Halves, llama3)),
        (64, rope(64, RopeLayout::Pairs, divisors)),
        (
            80,
            rope(32, RopeLayout::Halves, RopeScaling::Linear { factor: 4.0 }),
        ),
        (10, rope(6, RopeLayout::Pairs, RopeScaling::None)),
    ] {
        for is_normed in [false, true] {
            let mut case = Case::new(6, 2, dim, 90, 3);
            case.rope = rope.clone();
            let mut random = Random(4);
            case.norm = is_normed.then(|| (random.values(dim), random.values(dim)));
            case.check(&format!("dim {dim}, normed: {is_normed}, {rope:?}"));
        }
    }
}

#[test]
fn rows_are_prepared_in_place_and_nothing_else_is_touched() {
    let mut case = Case::new(6, 2, 80, 40, 5);
    case.rope = rope(32, RopeLayout::Halves, RopeScaling::None);
    let mut random = Random(6);
    case.norm = Some((random.values(80), random.values(80)));
    let table = RopeTable::new(40, case.rope.clone().expect("just set"));
    for level in levels() {
        let mut qkv = case.rows.clone();
        let run = [AttentionRows {
            first_row: 0,
            rows: 40,
            first_position: 0,
            blocks: &case.blocks,
        }];
        let mut memory = case.memory();
        attend_prepare_at(
            level,
            &Pool::new(2),
            &mut memory,
            LAYER,
            &run,
            &mut qkv,
            case.layout,
            case.norm(),
            Some(&table),
        );
        assert_close(&qkv, &case.prepared(), 2e-6, &format!("{level:?}"));
        let stride = case.layout.stride;
        let values = case.layout.value_column();
        for (row, before) in qkv.chunks_exact(stride).zip(case.rows.chunks_exact(stride)) {
            assert_eq!(row[values..], before[values..], "{level:?}");
        }
    }
}

#[test]
fn the_plain_twin_is_the_definition_over_what_was_stored() {
    for dtype in [KvDtype::F32, KvDtype::Bf16] {
        let mut case = Case::new(4, 2, 40, 50, 7);
        case.dtype = dtype;
        case.spec.window = Some(20);
        case.spec.soft_cap = Some(10.0);
        let mut memory = case.memory();
        case.run(Level::Plain, &Pool::new(1), &mut memory, &[50]);
        let expected = case.expected();
        for position in [0, 15, 16, 49] {
            for head in 0..4 {
                let query = &case.rows[position * case.layout.stride + head * 40..][..40];
                let mut out = vec![0.0; 40];
                paged_attention::plain(
                    &memory,
                    LAYER,
                    head / 2,
                    &case.blocks,
                    position,
                    query,
                    case.spec,
                    &mut out,
                );
                let expected = &expected[(position * 4 + head) * 40..][..40];
                assert_close(
                    &out,
                    expected,
                    1e-5,
                    &format!("{dtype:?} {position} {head}"),
                );
            }
        }
    }
}

#[test]
fn a_block_is_as_many_bytes_as_its_shape_says() {
    let mut shape = KvShape {
        layers: 30,
        kv_heads: 3,
        head_dim: 64,
        dtype: KvDtype::F32,
    };
    assert_eq!(shape.block_bytes(), 30 * 3 * 2 * 64 * 16 * 4);
    shape.dtype = KvDtype::Bf16;
    assert_eq!(shape.block_bytes(), 30 * 3 * 2 * 64 * 16 * 2);
    // Values of 40 take 48.
    shape.head_dim = 40;
    assert_eq!(shape.block_bytes(), 30 * 3 * (40 + 48) * 16 * 2);
}

fn prepare(runs: &[AttentionRows<'_>]) {
    let case = Case::new(1, 1, 8, 64, 30);
    let mut rows = case.rows.clone();
    let mut memory = case.memory();
    kernels::attend_prepare(
        &Pool::new(1),
        &mut memory,
        0,
        runs,
        &mut rows,
        case.layout,
        None,
        None,
    );
}

#[test]
#[should_panic(expected = "two runs write the same block")]
fn two_runs_may_not_write_one_block() {
    let run = |first_row, first_position| AttentionRows {
        first_row,
        rows: 2,
        first_position,
        blocks: &[2, 3],
    };
    prepare(&[run(0, 15), run(2, 18)]);
}

#[test]
#[should_panic(expected = "runs overlap")]
fn runs_may_not_overlap() {
    let run = |first_row, blocks| AttentionRows {
        first_row,
        rows: 2,
        first_position: 0,
        blocks,
    };
    prepare(&[run(0, &[0]), run(1, &[1])]);
}
