//! Each variant against its plain twin, over odd shapes, at every level this machine has.

use kernels::dispatch::levels;
use kernels::ops::{quant_matmul, rms_norm, swiglu};
use kernels::{Level, Pool, QuantKind, QuantMatrix, QuantRows};

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

/// Sums of up to a few thousand products of numbers near 1: two orders of addition differ by this much.
fn assert_close(actual: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(actual.len(), expected.len());
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        assert!(
            (a - e).abs() <= tolerance * (1.0 + e.abs()),
            "{what}: value {i} is {a}, twin says {e}"
        );
    }
}

#[test]
fn rms_norm_agrees_with_its_twin() {
    let mut random = Random(1);
    for width in [1, 7, 16, 33, 64, 576] {
        let (x, weight) = (random.values(3 * width), random.values(width));
        let mut expected = vec![0.0; x.len()];
        rms_norm::plain(&x, &weight, 1e-5, &mut expected);
        for level in levels() {
            let mut out = vec![0.0; x.len()];
            rms_norm::rms_norm_at(level, &x, &weight, 1e-5, &mut out);
            assert_close(&out, &expected, 1e-5, &format!("{level:?} width {width}"));
        }
    }
}

#[test]
fn swiglu_agrees_with_its_twin() {
    let mut random = Random(2);
    for width in [1, 5, 16, 100, 1536] {
        let x: Vec<f32> = random
            .values(2 * 2 * width)
            .iter()
            .map(|v| v * 30.0)
            .collect();
        let mut expected = vec![0.0; 2 * width];
        swiglu::plain(&x, width, &mut expected);
        for level in levels() {
            let mut out = vec![0.0; 2 * width];
            swiglu::swiglu_at(level, &Pool::new(2), &x, width, &mut out);
            assert_close(&out, &expected, 1e-6, &format!("{level:?} width {width}"));
        }
    }
}

/// Random blocks as a file would hold them, and the weights they mean.
fn random_blocks(
    kind: QuantKind,
    columns: usize,
    k: usize,
    random: &mut Random,
) -> (Vec<u8>, Vec<f32>) {
    let mut bytes = Vec::new();
    let mut weights = Vec::new();
    for _ in 0..columns * k / 32 {
        let scale = half::f16::from_f32(random.value() * 0.1);
        bytes.extend(scale.to_le_bytes());
        match kind {
            QuantKind::Q4_1 => {
                let minimum = half::f16::from_f32(random.value());
                bytes.extend(minimum.to_le_bytes());
                let pairs: Vec<u8> = (0..16).map(|_| random.next() as u8).collect();
                let value = |q: u8| scale.to_f32() * f32::from(q) + minimum.to_f32();
                weights.extend(pairs.iter().map(|pair| value(pair & 15)));
                weights.extend(pairs.iter().map(|pair| value(pair >> 4)));
                bytes.extend(pairs);
            }
            QuantKind::Q8_0 => {
                let quants: Vec<i8> = (0..32).map(|_| random.next() as i8).collect();
                weights.extend(quants.iter().map(|q| scale.to_f32() * f32::from(*q)));
                bytes.extend(quants.iter().map(|q| *q as u8));
            }
        }
    }
    (bytes, weights)
}

fn quantized(level: Level, pool: &Pool, x: &[f32], k: usize) -> QuantRows {
    let mut rows = QuantRows::default();
    rows.quantize_at(level, pool, x, k);
    rows
}

#[test]
fn packed_rows_read_back_as_the_file_meant() {
    let mut random = Random(4);
    for kind in [QuantKind::Q4_1, QuantKind::Q8_0] {
        for (columns, k) in [(1, 32), (15, 64), (16, 96), (33, 576)] {
            let (bytes, weights) = random_blocks(kind, columns, k, &mut random);
            let matrix =
                QuantMatrix::from_blocks(kind, columns, k, &bytes).expect("a whole matrix");
            for column in 0..columns {
                let mut row = vec![0.0; k];
                matrix.row(column, &mut row);
                assert_close(
                    &row,
                    &weights[column * k..][..k],
                    1e-5,
                    &format!("{kind:?} row {column}"),
                );
            }
        }
    }
}

#[test]
fn quant_matmul_agrees_with_its_twin_and_with_plain_arithmetic() {
    let mut random = Random(5);
    for kind in [QuantKind::Q4_1, QuantKind::Q8_0] {
        for (columns, k) in [(1, 32), (17, 64), (48, 576), (100, 1536)] {
            let (bytes, weights) = random_blocks(kind, columns, k, &mut random);
            let matrix =
                QuantMatrix::from_blocks(kind, columns, k, &bytes).expect("a whole matrix");
            for rows in [1, 2, 3, 7, 8, 9, 31] {
                let x = random.values(rows * k);
                let serial = Pool::new(1);
                let mut expected = vec![0.0; rows * columns];
                let plain_x = quantized(Level::Plain, &serial, &x, k);
                quant_matmul::quant_matmul_at(
                    Level::Plain,
                    &serial,
                    &plain_x,
                    &[(&matrix, 0)],
                    &mut expected,
                    columns,
                );
                // Against unquantised activations: an 8-bit step is 1/127 of the block's peak, errors average out
                // over k. The weights' own size sets the scale.
                for (i, value) in expected.iter().enumerate() {
                    let (row, column) = (i / columns, i % columns);
                    let pairs = x[row * k..][..k].iter().zip(&weights[column * k..][..k]);
                    let exact: f32 = pairs.clone().map(|(a, b)| a * b).sum();
                    let size: f32 = pairs.map(|(_, b)| b * b).sum::<f32>().sqrt();
                    assert!(
                        (value - exact).abs() < 0.02 * size + 1e-3,
                        "{kind:?} {value} against {exact}"
                    );
                }
                for level in levels() {
                    for threads in [1, 3] {
                        let pool = Pool::new(threads);
                        let rows_x = quantized(level, &pool, &x, k);
                        let mut out = vec![0.0; rows * columns];
                        quant_matmul::quant_matmul_at(
                            level,
                            &pool,
                            &rows_x,
                            &[(&matrix, 0)],
                            &mut out,
                            columns,
                        );
                        assert_close(
                            &out,
                            &expected,
                            2e-4,
                            &format!("{level:?} {kind:?} {columns}x{k}, {rows} rows"),
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn extreme_quants_do_not_saturate() {
    let k = 64;
    for kind in [QuantKind::Q4_1, QuantKind::Q8_0] {
        let mut bytes = Vec::new();
        for _ in 0..16 * k / 32 {
            bytes.extend(half::f16::from_f32(1.0).to_le_bytes());
            match kind {
                QuantKind::Q4_1 => bytes.extend([0, 0].into_iter().chain([0xff; 16])),
                QuantKind::Q8_0 => bytes.extend([0x80; 32]),
            }
        }
        let matrix = QuantMatrix::from_blocks(kind, 16, k, &bytes).expect("a whole matrix");
        let exact = if kind == QuantKind::Q4_1 {
            15.0 * k as f32
        } else {
            -128.0 * k as f32
        };
        for level in levels() {
            let pool = Pool::new(1);
            let x = quantized(level, &pool, &vec![1.0; k], k);
            let mut out = vec![0.0; 16];
            quant_matmul::quant_matmul_at(level, &pool, &x, &[(&matrix, 0)], &mut out, 16);
            assert_close(&out, &[exact; 16], 1e-5, &format!("{level:?} {kind:?}"));
        }
    }
}

#[test]
fn a_row_is_the_same_bits_alone_and_among_others() {
    let mut random = Random(6);
    let (columns, k, rows) = (50, 576, 23);
    for kind in [QuantKind::Q4_1, QuantKind::Q8_0] {
        let (bytes, _) = random_blocks(kind, columns, k, &mut random);
        let matrix = QuantMatrix::from_blocks(kind, columns, k, &bytes).expect("a whole matrix");
        let x = random.values(rows * k);
        for level in levels() {
            let pool = Pool::new(2);
            let mut together = vec![0.0; rows * columns];
            quant_matmul::quant_matmul_at(
                level,
                &pool,
                &quantized(level, &pool, &x, k),
                &[(&matrix, 0)],
                &mut together,
                columns,
            );
            for row in 0..rows {
                let alone_x = quantized(level, &pool, &x[row * k..][..k], k);
                let mut alone = vec![0.0; columns];
                quant_matmul::quant_matmul_at(
                    level,
                    &pool,
                    &alone_x,
                    &[(&matrix, 0)],
                    &mut alone,
                    columns,
                );
                assert_eq!(
                    alone,
                    together[row * columns..][..columns],
                    "{level:?} row {row}"
                );
            }
        }
    }
}

#[test]
fn several_matrices_in_one_call_equal_several_calls() {
    let mut random = Random(7);
    let k = 96;
    let shapes = [
        (QuantKind::Q4_1, 40),
        (QuantKind::Q8_0, 16),
        (QuantKind::Q4_1, 3),
    ];
    let matrices: Vec<QuantMatrix> = shapes
        .iter()
        .map(|(kind, columns)| {
            let (bytes, _) = random_blocks(*kind, *columns, k, &mut random);
            QuantMatrix::from_blocks(*kind, *columns, k, &bytes).expect("a whole matrix")
        })
        .collect();
    let pool = Pool::new(2);
    let x = quantized(kernels::dispatch::level(), &pool, &random.values(5 * k), k);
    let stride = 59;
    let offsets = [0, 40, 56];
    let parts: Vec<(&QuantMatrix, usize)> = matrices.iter().zip(offsets).collect();
    let mut fused = vec![0.0; 5 * stride];
    kernels::quant_matmul(&pool, &x, &parts, &mut fused, stride);
    let mut single = vec![0.0; 5 * stride];
    for part in parts {
        kernels::quant_matmul(&pool, &x, &[part], &mut single, stride);
    }
    assert_eq!(fused, single);
}

#[test]
fn matrices_of_wrong_size_are_refused() {
    assert!(QuantMatrix::from_blocks(QuantKind::Q8_0, 1, 33, &[0; 34]).is_err());
    assert!(QuantMatrix::from_blocks(QuantKind::Q8_0, 1, 32, &[0; 33]).is_err());
    assert!(QuantMatrix::from_blocks(QuantKind::Q4_1, usize::MAX, 32, &[0; 20]).is_err());
}
