//! Adapters beside a product: each variant against exact arithmetic and its plain twin, and what they leave alone.

use half::bf16;
use kernels::dispatch::levels;
use kernels::ops::matmul::{matmul_adapted_at, matmul_at, norm_rows_at};
use kernels::{
    Activation, Input, Level, LoraDtype, LoraMatrix, LoraRun, MatmulScratch, Matrix, Part, Pool,
    Store, WeightKind,
};
use std::ops::Range;

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

    fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count)
            .map(|_| (self.next() >> 40) as f32 / (1u32 << 23) as f32 - 1.0)
            .collect()
    }
}

fn random_matrix(kind: WeightKind, columns: usize, k: usize, random: &mut Random) -> Matrix {
    let values = random.values(columns * k);
    let bytes: Vec<u8> = match kind {
        WeightKind::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        WeightKind::Bf16 => values
            .iter()
            .flat_map(|v| bf16::from_f32(*v).to_le_bytes())
            .collect(),
        _ => {
            let mut bytes: Vec<u8> = (0..columns * k / kind.block_len() * kind.block_bytes())
                .map(|_| random.next() as u8)
                .collect();
            for block in bytes.chunks_exact_mut(kind.block_bytes()) {
                block[..2].copy_from_slice(&half::f16::from_f32(0.01).to_le_bytes());
                if kind == WeightKind::Q4_1 {
                    block[2..4].copy_from_slice(&half::f16::from_f32(-0.05).to_le_bytes());
                }
            }
            bytes
        }
    };
    Matrix::pack(kind, columns, k, &bytes).expect("a whole matrix")
}

/// An adapter as it came, and packed.
struct Adapter {
    a: Vec<f32>,
    b: Vec<f32>,
    scale: f32,
    packed: LoraMatrix,
}

impl Adapter {
    fn random(
        rank: usize,
        k: usize,
        columns: usize,
        dtype: LoraDtype,
        random: &mut Random,
    ) -> Adapter {
        let (a, b) = (random.values(rank * k), random.values(columns * rank));
        let scale = 0.7;
        let packed =
            LoraMatrix::pack(rank, k, columns, &a, &b, scale, dtype).expect("fitting slices");
        Adapter {
            a,
            b,
            scale,
            packed,
        }
    }

    /// What it adds to each column for row `x`, in f64 of the values the dtype keeps; and the size of its terms.
    fn exact(&self, x: &[f32]) -> Vec<(f64, f64)> {
        let kept = |value: f32| match self.packed.dtype() {
            LoraDtype::F32 => f64::from(value),
            LoraDtype::Bf16 => f64::from(bf16::from_f32(value).to_f32()),
        };
        let dots = self.a.chunks_exact(x.len()).map(|a| {
            let terms = a.iter().zip(x).map(|(a, x)| kept(*a) * kept(*x));
            let size = terms.clone().map(|t| t * t).sum::<f64>().sqrt();
            (terms.sum::<f64>(), size)
        });
        let v: Vec<(f64, f64)> = dots.collect();
        let columns = self.b.chunks_exact(self.packed.rank());
        columns
            .map(|b| {
                let b = b.iter().map(|b| kept(self.scale * b));
                b.zip(&v).fold((0.0, 0.0), |(sum, size), (b, v)| {
                    (sum + b * v.0, size + (b * v.1).abs())
                })
            })
            .collect()
    }
}

/// A product of three parts at most.
struct Call<'a> {
    input: Input<'a>,
    k: usize,
    matrices: &'a [Matrix],
    before: &'a [f32],
    store: Store,
    stride: usize,
}

impl Call<'_> {
    fn parts(&self) -> Vec<Part<'_>> {
        let mut column = 1;
        let mut part = |matrix| {
            let part = Part::new(matrix, column);
            column += matrix.columns() + 2;
            part
        };
        self.matrices.iter().map(&mut part).collect()
    }

    fn base(&self, level: Level) -> Vec<f32> {
        let mut out = self.before.to_vec();
        matmul_at(
            level,
            &Pool::new(2),
            &mut MatmulScratch::default(),
            self.input,
            self.k,
            &self.parts(),
            self.store,
            &mut out,
            self.stride,
        );
        out
    }

    fn adapted(&self, level: Level, threads: usize, runs: &[LoraRun<'_>]) -> Vec<f32> {
        let mut out = self.before.to_vec();
        matmul_adapted_at(
            level,
            &Pool::new(threads),
            &mut MatmulScratch::default(),
            self.input,
            self.k,
            &self.parts(),
            runs,
            self.store,
            &mut out,
            self.stride,
        );
        out
    }
}

fn stride(columns: &[usize]) -> usize {
    columns.iter().map(|columns| columns + 2).sum::<usize>() + 1
}

/// Adds the runs' exact products to what the call gives without them and holds every level to it.
fn check(call: &Call<'_>, x: &[f32], runs: &[(Range<usize>, [Option<&Adapter>; 3])], what: &str) {
    let packed: Vec<LoraRun<'_>> = runs
        .iter()
        .map(|(rows, parts)| LoraRun {
            rows: rows.clone(),
            parts: parts.map(|adapter| adapter.map(|adapter| &adapter.packed)),
        })
        .collect();
    for level in levels() {
        let base = call.base(level);
        let mut expected: Vec<(f64, f64)> = base
            .iter()
            .map(|value| (f64::from(*value), f64::from(value.abs())))
            .collect();
        let mut is_adapted = vec![false; base.len()];
        for (rows, parts) in runs {
            for row in rows.clone() {
                let x = &x[row * call.k..][..call.k];
                for (part, adapter) in call.parts().iter().zip(parts) {
                    let Some(adapter) = adapter else { continue };
                    for (i, (sum, size)) in adapter.exact(x).into_iter().enumerate() {
                        let at = row * call.stride + part.column + i;
                        expected[at].0 += sum;
                        expected[at].1 += size;
                        is_adapted[at] = true;
                    }
                }
            }
        }
        for threads in [1, 3] {
            let found = call.adapted(level, threads, &packed);
            for (i, value) in found.iter().enumerate() {
                let (row, column) = (i / call.stride, i % call.stride);
                if !is_adapted[i] {
                    assert_eq!(value.to_bits(), base[i].to_bits(), "{what} row {row}");
                    continue;
                }
                // Rounding in f32: a few units of the last place of the terms.
                let (exact, size) = expected[i];
                assert!(
                    (f64::from(*value) - exact).abs() <= 4e-6 * (size + 0.1),
                    "{level:?} {what} row {row} column {column}: {value} against {exact}, terms of {size}"
                );
            }
        }
    }
}

#[test]
fn every_variant_adds_what_the_adapters_say_over_odd_shapes() {
    let mut random = Random(1);
    let shapes: [(WeightKind, &[usize]); 4] = [
        (WeightKind::F32, &[1, 15, 16, 31, 33, 64, 301]),
        (WeightKind::Bf16, &[1, 17, 62, 95, 96]),
        (WeightKind::Q8_0, &[32, 96]),
        (WeightKind::Q4_1, &[64, 576]),
    ];
    for (kind, lengths) in shapes {
        for &k in lengths {
            for rank in [1, 5, 8, 13, 32, 40, 64, 70] {
                for dtype in [LoraDtype::F32, LoraDtype::Bf16] {
                    let columns = [1, 16, 43];
                    let matrices = columns.map(|c| random_matrix(kind, c, k, &mut random));
                    let [a, b, c, d] = [0, 1, 2, 2]
                        .map(|part| Adapter::random(rank, k, columns[part], dtype, &mut random));
                    // Beside each other, of the other type and another rank.
                    let other = match dtype {
                        LoraDtype::F32 => LoraDtype::Bf16,
                        LoraDtype::Bf16 => LoraDtype::F32,
                    };
                    let e = Adapter::random(3, k, columns[1], other, &mut random);
                    let x = random.values(23 * k);
                    let before = random.values(23 * stride(&columns));
                    for store in [Store::Replace, Store::Add] {
                        let call = Call {
                            input: Input::Rows(&x),
                            k,
                            matrices: &matrices,
                            before: &before,
                            store,
                            stride: stride(&columns),
                        };
                        let runs = [
                            (1..2, [Some(&a), Some(&b), Some(&c)]),
                            (2..5, [None, Some(&e), Some(&d)]),
                            (5..5, [Some(&a), None, None]),
                            (7..8, [None, None, None]),
                            (9..22, [Some(&a), None, Some(&c)]),
                        ];
                        let what = format!("{kind:?} {k} {dtype:?} rank {rank} {store:?}");
                        check(&call, &x, &runs, &what);
                    }
                }
            }
        }
    }
}

#[test]
fn adapters_see_the_prepared_row() {
    let mut random = Random(2);
    for (kind, k) in [
        (WeightKind::Q4_1, 96),
        (WeightKind::F32, 77),
        (WeightKind::Bf16, 33),
    ] {
        for dtype in [LoraDtype::F32, LoraDtype::Bf16] {
            let matrices = [random_matrix(kind, 20, k, &mut random)];
            let adapter = Adapter::random(8, k, 20, dtype, &mut random);
            let (rows, wide) = (9, random.values(9 * 2 * k));
            let (weight, bias) = (random.values(k), random.values(k));
            let x = &wide[..rows * k];
            let inputs = [
                Input::RmsNorm {
                    x,
                    weight: &weight,
                    epsilon: 1e-5,
                },
                Input::LayerNorm {
                    x,
                    weight: &weight,
                    bias: Some(&bias),
                    epsilon: 1e-5,
                },
                Input::Gated {
                    gate_up: &wide,
                    activation: Activation::Silu,
                },
                Input::Activated {
                    x,
                    activation: Activation::GeluTanh,
                },
            ];
            for input in inputs {
                let mut prepared = vec![0.0; rows * k];
                let level = kernels::dispatch::level();
                norm_rows_at(level, &Pool::new(1), input, k, &mut prepared);
                let call = Call {
                    input,
                    k,
                    matrices: &matrices,
                    before: &vec![0.0; rows * stride(&[20])],
                    store: Store::Replace,
                    stride: stride(&[20]),
                };
                let runs = [LoraRun {
                    rows: 2..9,
                    parts: [Some(&adapter.packed), None, None],
                }];
                let (base, found) = (call.base(level), call.adapted(level, 2, &runs));
                for row in 0..rows {
                    let exact = adapter.exact(&prepared[row * k..][..k]);
                    for (i, (sum, size)) in exact.into_iter().enumerate() {
                        let at = row * call.stride + 1 + i;
                        let sum = if row < 2 { 0.0 } else { sum };
                        let difference = f64::from(found[at]) - f64::from(base[at]) - sum;
                        assert!(
                            difference.abs() <= 4e-6 * (size + f64::from(base[at].abs()) + 0.1),
                            "{kind:?} {dtype:?} row {row}: off by {difference}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_is_the_same_bits_alone_and_among_others() {
    let mut random = Random(3);
    for (kind, k) in [
        (WeightKind::Q4_1, 160),
        (WeightKind::F32, 101),
        (WeightKind::Bf16, 101),
    ] {
        for (dtype, rank) in [
            (LoraDtype::F32, 8),
            (LoraDtype::Bf16, 8),
            (LoraDtype::Bf16, 40),
            (LoraDtype::F32, 70),
        ] {
            let columns = [24, 35];
            let matrices = columns.map(|c| random_matrix(kind, c, k, &mut random));
            let many = columns.map(|c| Adapter::random(rank, k, c, dtype, &mut random));
            let wider = Adapter::random(128, k, columns[0], LoraDtype::F32, &mut random);
            let parts = [Some(&many[0].packed), Some(&many[1].packed), None];
            let x = random.values(37 * k);
            let before = random.values(37 * stride(&columns));
            let call = |rows: Range<usize>| Call {
                input: Input::Rows(&x[rows.start * k..rows.end * k]),
                k,
                matrices: &matrices,
                before: &before[rows.start * stride(&columns)..rows.end * stride(&columns)],
                store: Store::Add,
                stride: stride(&columns),
            };
            let other = [Some(&wider.packed), None, None];
            for level in levels() {
                let alone: Vec<f32> = (0..37)
                    .flat_map(|row| call(row..row + 1).adapted(level, 1, &[run(0..1, parts)]))
                    .collect();
                let all = call(0..37).adapted(level, 3, &[run(0..37, parts)]);
                assert_eq!(alone, all, "{level:?} {kind:?} {dtype:?} one run");
                let cut = [
                    run(0..1, parts),
                    run(1..8, parts),
                    run(8..11, other),
                    run(13..37, parts),
                ];
                let mixed = call(0..37).adapted(level, 2, &cut);
                for row in (0..8).chain(13..37) {
                    let at = row * stride(&columns)..(row + 1) * stride(&columns);
                    assert_eq!(alone[at.clone()], mixed[at], "{level:?} {kind:?} row {row}");
                }
            }
        }
    }
}

fn run<'a>(rows: Range<usize>, parts: [Option<&'a LoraMatrix>; 3]) -> LoraRun<'a> {
    LoraRun { rows, parts }
}

#[test]
fn runs_that_overlap_or_leave_the_rows_panic() {
    let mut random = Random(4);
    let matrices = [random_matrix(WeightKind::F32, 4, 8, &mut random)];
    let adapter = Adapter::random(2, 8, 4, LoraDtype::F32, &mut random);
    let narrow = Adapter::random(2, 8, 3, LoraDtype::F32, &mut random);
    let x = random.values(24);
    let call = Call {
        input: Input::Rows(&x),
        k: 8,
        matrices: &matrices,
        before: &[0.0; 21],
        store: Store::Replace,
        stride: 7,
    };
    let fitting = [Some(&adapter.packed), None, None];
    let beyond = [None, Some(&adapter.packed), None];
    for runs in [
        vec![run(0..2, fitting), run(1..3, fitting)],
        vec![run(0..4, fitting)],
        vec![run(0..1, [Some(&narrow.packed), None, None])],
        vec![run(0..1, beyond)],
    ] {
        let attempt = std::panic::AssertUnwindSafe(|| call.adapted(Level::Plain, 1, &runs));
        assert!(std::panic::catch_unwind(attempt).is_err());
    }
    assert_eq!(
        call.adapted(Level::Plain, 1, &[run(0..3, fitting)]).len(),
        21
    );
}
