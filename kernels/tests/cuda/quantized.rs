//! Products with quantised weights under emulation, against f64 with the weights as the crate's own matrices read them.

use crate::emulation::{Arg, Device, Library, SEEDS, library, sources};
use crate::numbers::{Element, Random, bits, check_error};
use half::{bf16, f16};
use kernels::{Matrix, WeightKind};

const FORMATS: [(WeightKind, &str, &[usize]); 8] = [
    (WeightKind::Q4_0, "q4_0", &[0]),
    (WeightKind::Q4_1, "q4_1", &[0, 2]),
    (WeightKind::Q5_0, "q5_0", &[0]),
    (WeightKind::Q5_1, "q5_1", &[0, 2]),
    (WeightKind::Q8_0, "q8_0", &[0]),
    (WeightKind::Q4K, "q4_k", &[0, 2]),
    (WeightKind::Q5K, "q5_k", &[0, 2]),
    (WeightKind::Q6K, "q6_k", &[208]),
];

/// Blocks of any bits, with half floats that are numbers where the format has them.
fn random_bytes(kind: WeightKind, halves: &[usize], count: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..count / kind.block_len() * kind.block_bytes())
        .map(|_| random.next() as u8)
        .collect();
    for block in bytes.chunks_exact_mut(kind.block_bytes()) {
        for at in halves {
            let value = f16::from_f32(random.value() * 0.1).to_le_bytes();
            block[*at..][..2].copy_from_slice(&value);
        }
    }
    bytes
}

fn weights(kind: WeightKind, columns: usize, k: usize, bytes: &[u8]) -> Vec<f32> {
    let matrix = Matrix::pack(kind, columns, k, bytes).expect("a whole matrix");
    let mut weights = vec![0.0; columns * k];
    for (column, row) in weights.chunks_exact_mut(k).enumerate() {
        matrix.row(column, row);
    }
    weights
}

/// How a launch covers rows and columns.
struct Family {
    file: &'static str,
    rows: usize,
    columns: usize,
}

const ROWS: Family = Family {
    file: "quantized_rows",
    rows: 4,
    columns: 4,
};
const MATMUL: Family = Family {
    file: "quantized_matmul",
    rows: 32,
    columns: 64,
};

impl Family {
    fn library(&self) -> Option<&'static Library> {
        library(&sources().join(format!("{}.cu", self.file)))
    }

    fn product<T: Element>(
        &self,
        format: &str,
        x: &[T],
        k: usize,
        bytes: &[u8],
        columns: usize,
        seed: u64,
    ) -> Option<Device<T>> {
        let rows = x.len() / k;
        let (x, bytes) = (Device::new(x), Device::new(bytes));
        let y = Device::new(&vec![T::from_f32(f32::NAN); rows * columns]);
        let [rows_arg, columns_arg, k] = [rows, columns, k].map(|value| Arg::Int(value as i32));
        self.library()?.launch(
            &format!("{}_{format}_{}", self.file, T::NAME),
            [columns.div_ceil(self.columns), rows.div_ceil(self.rows), 1],
            128,
            seed,
            &[
                y.arg(),
                x.arg(),
                bytes.arg(),
                rows_arg,
                columns_arg,
                k,
                k,
                columns_arg,
            ],
        );
        Some(y)
    }

    fn check<T: Element>(&self, rows: usize, columns: usize, blocks: usize) {
        for (kind, format, halves) in FORMATS {
            let k = blocks * kind.block_len();
            let mut random = Random(k as u64 + rows as u64);
            let bytes = random_bytes(kind, halves, columns * k, &mut random);
            let weights = weights(kind, columns, k, &bytes);
            let x = random.values::<T>(rows * k);
            let mut wanted = Vec::new();
            for x in x.chunks_exact(k) {
                for weights in weights.chunks_exact(k) {
                    let terms = x.iter().zip(weights);
                    wanted.push(terms.map(|(x, w)| x.to_f64() * f64::from(*w)).sum::<f64>());
                }
            }
            let mut first = Vec::new();
            for seed in SEEDS {
                let Some(y) = self.product(format, &x, k, &bytes, columns, seed) else {
                    return;
                };
                if seed == 0 {
                    let name = format!("{}_{format}_{}", self.file, T::NAME);
                    check_error(&name, &y, &wanted, 3e-6);
                    first = bits(&y);
                }
                assert_eq!(bits(&y), first, "{}, {format}, seed {seed}", self.file);
            }
            // The engine's law: the last row alone gets the same sums.
            let last = self.product(format, &x[(rows - 1) * k..], k, &bytes, columns, 0);
            let last = last.expect("built before");
            assert_eq!(bits(&last), first[(rows - 1) * columns..]);
        }
    }
}

#[test]
fn a_few_rows_meet_every_format() {
    ROWS.check::<f32>(5, 6, 3);
    ROWS.check::<f16>(1, 5, 2);
    ROWS.check::<bf16>(4, 3, 2);
}

#[test]
fn many_rows_meet_every_format() {
    MATMUL.check::<f32>(33, 70, 1);
    MATMUL.check::<f16>(5, 7, 3);
    MATMUL.check::<bf16>(2, 65, 2);
}

/// The numbers are those the Python `gguf` package reads in the same blocks, and f32 holds them without error.
#[test]
fn blocks_read_as_ggml_defines_them() {
    let mut lines = include_str!("../gguf/blocks.txt").lines();
    let mut seen = 0;
    while let (Some(name), Some(block), Some(values)) = (lines.next(), lines.next(), lines.next()) {
        let format = name.to_lowercase();
        let digits = (0..block.len()).step_by(2);
        let bytes: Vec<u8> = digits
            .map(|i| u8::from_str_radix(&block[i..i + 2], 16).expect("two hex digits"))
            .collect();
        let values: Vec<f32> = values
            .split(' ')
            .map(|value| value.parse().expect("a number"))
            .collect();
        let len = values.len();
        // Rows of the unit matrix pick single weights.
        let mut unit = vec![0.0f32; len * len];
        for i in 0..len {
            unit[i * len + i] = 1.0;
        }
        let Some(y) = MATMUL.product(&format, &unit, len, &bytes, 1, 0) else {
            return;
        };
        for (i, (got, wanted)) in y.iter().zip(&values).enumerate() {
            assert!(
                (got - wanted).abs() <= wanted.abs() * 3e-7,
                "{name}, value {i}: {got} against {wanted}"
            );
        }
        seen += 1;
    }
    assert_eq!(seen, FORMATS.len());
}
