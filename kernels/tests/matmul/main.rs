//! Matrix products: each kind and variant against its plain twin and against exact arithmetic, over odd shapes.

mod input;

use kernels::dispatch::levels;
use kernels::ops::matmul::{matmul_at, norm_rows_at};
use kernels::{
    Activation, Input, KernelError, Level, MatmulScratch, Matrix, Part, Pool, Store, WeightKind,
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

    fn value(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.value()).collect()
    }
}

/// Where the half floats of a block stand.
fn halves(kind: WeightKind) -> &'static [usize] {
    match kind {
        WeightKind::F32 | WeightKind::F16 | WeightKind::Bf16 => &[],
        WeightKind::Q4_0 | WeightKind::Q5_0 | WeightKind::Q8_0 => &[0],
        WeightKind::Q4_1 | WeightKind::Q5_1 | WeightKind::Q4K | WeightKind::Q5K => &[0, 2],
        WeightKind::Q6K => &[208],
    }
}

/// A matrix as a file would hold it.
fn random_bytes(kind: WeightKind, columns: usize, k: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..columns * k / kind.block_len() {
        match kind {
            WeightKind::F32 => bytes.extend(random.value().to_le_bytes()),
            WeightKind::F16 => bytes.extend(half::f16::from_f32(random.value()).to_le_bytes()),
            WeightKind::Bf16 => bytes.extend(half::bf16::from_f32(random.value()).to_le_bytes()),
            _ => {
                let start = bytes.len();
                bytes.extend((0..kind.block_bytes()).map(|_| random.next() as u8));
                for at in halves(kind) {
                    let value = half::f16::from_f32(random.value() * 0.1).to_le_bytes();
                    bytes[start + at..][..2].copy_from_slice(&value);
                }
            }
        }
    }
    bytes
}

fn random_matrix(kind: WeightKind, columns: usize, k: usize, random: &mut Random) -> Matrix {
    let bytes = random_bytes(kind, columns, k, random);
    Matrix::pack(kind, columns, k, &bytes).expect("a whole matrix")
}

/// Row lengths worth trying: odd ones where the kind allows.
fn lengths(kind: WeightKind) -> &'static [usize] {
    match kind.block_len() {
        1 => &[1, 31, 33, 96, 576, 1001],
        32 => &[32, 96, 576, 896],
        _ => &[256, 768, 2304],
    }
}

fn product(level: Level, threads: usize, x: &[f32], matrix: &Matrix) -> Vec<f32> {
    let (k, columns) = (matrix.k(), matrix.columns());
    let mut out = vec![f32::NAN; x.len() / k * columns];
    let mut scratch = MatmulScratch::default();
    matmul_at(
        level,
        &Pool::new(threads),
        &mut scratch,
        Input::Rows(x),
        k,
        &[Part::new(matrix, 0)],
        Store::Replace,
        &mut out,
        columns,
    );
    out
}

/// The product in f64 with the weights as they read back, and beside it the length of each weight row: the size of an error.
fn exact(x: &[f32], matrix: &Matrix) -> Vec<(f64, f64)> {
    let k = matrix.k();
    let mut weights = vec![vec![0.0; k]; matrix.columns()];
    for (column, row) in weights.iter_mut().enumerate() {
        matrix.row(column, row);
    }
    let mut out = Vec::new();
    for x in x.chunks_exact(k) {
        for weights in &weights {
            let pairs = x.iter().zip(weights);
            let pairs = pairs.map(|(a, b)| (f64::from(*a), f64::from(*b)));
            let sum = pairs.clone().map(|(a, b)| a * b).sum();
            let size = pairs.map(|(_, b)| b * b).sum::<f64>().sqrt();
            out.push((sum, size));
        }
    }
    out
}

#[test]
fn blocks_read_back_as_ggml_defines_them() {
    let mut lines = include_str!("../gguf/blocks.txt").lines();
    let mut seen = 0;
    while let (Some(name), Some(block), Some(values)) = (lines.next(), lines.next(), lines.next()) {
        let kind = WeightKind::ALL
            .into_iter()
            .find(|kind| format!("{kind:?}") == name.replace("_K", "K"))
            .expect("a kind of that name");
        let block: Vec<u8> = (0..block.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&block[i..i + 2], 16).expect("two hex digits"))
            .collect();
        let values: Vec<f32> = values
            .split(' ')
            .map(|value| value.parse().expect("a number"))
            .collect();
        assert_eq!(block.len(), kind.block_bytes());
        assert_eq!(values.len(), kind.block_len());
        // As the 19th row of 20 and the second of three blocks, so that places are tried too.
        let k = 3 * kind.block_len();
        let mut bytes = random_bytes(kind, 20, k, &mut Random(1));
        bytes[(18 * 3 + 1) * kind.block_bytes()..][..block.len()].copy_from_slice(&block);
        let matrix = Matrix::pack(kind, 20, k, &bytes).expect("a whole matrix");
        let mut row = vec![0.0; k];
        matrix.row(18, &mut row);
        assert_eq!(
            row[kind.block_len()..][..kind.block_len()],
            values,
            "{kind:?}"
        );
        seen += 1;
    }
    assert_eq!(seen, 8);
}

#[test]
fn plain_numbers_read_back_as_they_were() {
    let mut random = Random(2);
    for k in [1, 7, 64] {
        let values = random.values(19 * k);
        for kind in [WeightKind::F32, WeightKind::F16, WeightKind::Bf16] {
            let (bytes, expected): (Vec<u8>, Vec<f32>) = match kind {
                WeightKind::F32 => (
                    values.iter().flat_map(|v| v.to_le_bytes()).collect(),
                    values.clone(),
                ),
                WeightKind::F16 => {
                    let rounded = values.iter().map(|v| half::f16::from_f32(*v));
                    (
                        rounded.clone().flat_map(|v| v.to_le_bytes()).collect(),
                        rounded.map(f32::from).collect(),
                    )
                }
                _ => {
                    let rounded = values.iter().map(|v| half::bf16::from_f32(*v));
                    (
                        rounded.clone().flat_map(|v| v.to_le_bytes()).collect(),
                        rounded.map(f32::from).collect(),
                    )
                }
            };
            let matrix = Matrix::pack(kind, 19, k, &bytes).expect("a whole matrix");
            for (column, expected) in expected.chunks_exact(k).enumerate() {
                let mut row = vec![0.0; k];
                matrix.row(column, &mut row);
                assert_eq!(row, expected, "{kind:?} row {column}");
            }
        }
    }
}

#[test]
fn packed_size_stays_close_to_the_file() {
    let mut random = Random(3);
    for kind in WeightKind::ALL {
        let bytes = random_bytes(kind, 64, 512, &mut random);
        let matrix = Matrix::pack(kind, 64, 512, &bytes).expect("a whole matrix");
        // K-quants: 6-bit sub-scales take a byte.
        assert!(
            matrix.bytes() <= bytes.len() * 103 / 100,
            "{kind:?}: {} of {}",
            matrix.bytes(),
            bytes.len()
        );
    }
}

#[test]
fn every_variant_agrees_with_its_twin_and_with_exact_arithmetic() {
    let mut random = Random(5);
    for kind in WeightKind::ALL {
        // Activations in 8 bits are off by a 254th of their block's peak at most, in bf16 by a 256th of themselves; over
        // a row the errors average out.
        let tolerance = match kind {
            WeightKind::F32 | WeightKind::F16 => 3e-6,
            WeightKind::Bf16 => 0.01,
            _ => 0.02,
        };
        for &k in lengths(kind) {
            for columns in [1, 16, 33] {
                let matrix = random_matrix(kind, columns, k, &mut random);
                for rows in [1, 2, 3, 7, 8, 13, 17] {
                    let x = random.values(rows * k);
                    let twin = product(Level::Plain, 1, &x, &matrix);
                    let exact = exact(&x, &matrix);
                    for (value, (exact, size)) in twin.iter().zip(&exact) {
                        assert!(
                            (f64::from(*value) - exact).abs() <= tolerance * size + 1e-6,
                            "{kind:?} {rows} rows of {k}: {value} against {exact}, row length {size}"
                        );
                    }
                    for level in levels() {
                        for (i, value) in product(level, 3, &x, &matrix).iter().enumerate() {
                            let limit = 2e-6 * exact[i].1 as f32 + 1e-6;
                            assert!(
                                (value - twin[i]).abs() <= limit,
                                "{level:?} {kind:?} {rows} rows of {k}, {columns} columns: value {i} is {value}, twin says {}",
                                twin[i]
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn rounded_activations_keep_the_direction_of_the_outputs() {
    let mut random = Random(6);
    for kind in WeightKind::ALL {
        let matrix = random_matrix(kind, 300, 768, &mut random);
        let x = random.values(768);
        let exact = exact(&x, &matrix);
        for level in levels() {
            let out = product(level, 1, &x, &matrix);
            let (mut dot, mut ours, mut theirs) = (0.0, 0.0, 0.0);
            for (a, (b, _)) in out.iter().map(|v| f64::from(*v)).zip(&exact) {
                dot += a * b;
                ours += a * a;
                theirs += b * b;
            }
            let cosine = dot / (ours * theirs).sqrt();
            let least = if kind.is_quantized() {
                0.9999
            } else {
                0.999_99
            };
            assert!(cosine >= least, "{level:?} {kind:?}: cosine {cosine}");
        }
    }
}

#[test]
fn extreme_quants_do_not_saturate() {
    for kind in WeightKind::ALL
        .into_iter()
        .filter(|kind| kind.is_quantized())
    {
        for fill in [0u8, 0x80, 0x7f, 0xff] {
            let mut block = vec![fill; kind.block_bytes()];
            for at in halves(kind) {
                block[*at..][..2].copy_from_slice(&half::f16::from_f32(0.5).to_le_bytes());
            }
            let k = 2 * kind.block_len();
            let bytes = block.repeat(2 * 16);
            let matrix = Matrix::pack(kind, 16, k, &bytes).expect("a whole matrix");
            for sign in [1.0, -1.0] {
                let x = vec![sign; k];
                let exact = exact(&x, &matrix);
                for level in levels() {
                    for (value, (exact, _)) in product(level, 1, &x, &matrix).iter().zip(&exact) {
                        assert!(
                            (f64::from(*value) - exact).abs() <= 1e-5 * (1.0 + exact.abs()),
                            "{level:?} {kind:?} of bytes {fill:#x}: {value} against {exact}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_is_the_same_bits_alone_and_among_others() {
    let mut random = Random(7);
    for kind in WeightKind::ALL {
        let k = if kind.block_len() == 1 { 301 } else { 768 };
        let matrix = random_matrix(kind, 50, k, &mut random);
        let x = random.values(23 * k);
        for level in levels() {
            let together = product(level, 2, &x, &matrix);
            for row in 0..23 {
                let alone = product(level, 1, &x[row * k..][..k], &matrix);
                assert_eq!(
                    alone,
                    together[row * 50..][..50],
                    "{level:?} {kind:?} row {row}"
                );
            }
        }
    }
}

#[test]
fn parts_biases_and_stores_go_where_they_should() {
    let mut random = Random(8);
    let (k, rows, stride) = (256, 11, 131);
    let shapes = [
        (WeightKind::Q4_1, 40, 2),
        (WeightKind::F32, 16, 42),
        (WeightKind::Q6K, 3, 60),
        (WeightKind::Bf16, 65, 65),
    ];
    let matrices = shapes.map(|(kind, columns, _)| random_matrix(kind, columns, k, &mut random));
    let biases = shapes.map(|(_, columns, _)| random.values(columns));
    let x = random.values(rows * k);
    let before = random.values(rows * stride);
    for (level, store) in levels().flat_map(|l| [(l, Store::Replace), (l, Store::Add)]) {
        let parts: Vec<Part<'_>> = (0..shapes.len())
            .map(|i| Part {
                matrix: &matrices[i],
                bias: (i % 2 == 0).then_some(biases[i].as_slice()),
                column: shapes[i].2,
            })
            .collect();
        let mut out = before.clone();
        let mut scratch = MatmulScratch::default();
        let input = Input::Rows(&x);
        let pool = Pool::new(2);
        matmul_at(
            level,
            &pool,
            &mut scratch,
            input,
            k,
            &parts,
            store,
            &mut out,
            stride,
        );
        let mut expected = before.clone();
        for part in &parts {
            let columns = part.matrix.columns();
            let single = product(level, 1, &x, part.matrix);
            for (i, value) in single.iter().enumerate() {
                let (row, column) = (i / columns, i % columns);
                let biased = value + part.bias.map_or(0.0, |bias| bias[column]);
                let out = &mut expected[row * stride + part.column + column];
                *out = match store {
                    Store::Replace => biased,
                    Store::Add => *out + biased,
                };
            }
        }
        assert_eq!(out, expected, "{level:?} {store:?}");
    }
}

#[test]
fn activations_far_from_zero_stay_finite() {
    let x = [-1e30, -200.0, -89.0, -10.0, 0.0, 10.0, 89.0, 200.0, 1e6];
    for activation in [Activation::Silu, Activation::GeluTanh, Activation::GeluErf] {
        for level in levels() {
            let mut out = [f32::NAN; 9];
            let input = Input::Activated { x: &x, activation };
            norm_rows_at(level, &Pool::new(1), input, 9, &mut out);
            for (value, x) in out.iter().zip(x) {
                let expected = x.max(0.0);
                let near = (value - expected).abs() <= 1e-3 * (1.0 + expected);
                assert!(near, "{level:?} {activation:?}({x}) = {value}");
            }
        }
    }
}

#[test]
fn matrices_of_wrong_size_are_refused() {
    let row = Matrix::pack(WeightKind::Q8_0, 1, 33, &[0; 34]);
    assert_eq!(
        row.err(),
        Some(KernelError::RowLength {
            columns: 1,
            k: 33,
            block: 32
        })
    );
    assert!(Matrix::pack(WeightKind::Q4K, 1, 128, &[0; 72]).is_err());
    assert!(Matrix::pack(WeightKind::F32, 1, 0, &[]).is_err());
    assert!(Matrix::pack(WeightKind::Q8_0, 1, 32, &[0; 33]).is_err());
    assert!(Matrix::pack(WeightKind::Q4_1, usize::MAX, 32, &[0; 20]).is_err());
}
