//! The element types of the kernels, seeded values, and how errors are measured.

use crate::emulation::{Device, library};
use half::{bf16, f16};

/// A small generator, so that a failure repeats.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between -1 and 1.
    pub fn value(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    pub fn values<T: Element>(&mut self, count: usize) -> Vec<T> {
        (0..count).map(|_| T::from_f32(self.value())).collect()
    }
}

/// What kernels are compiled for.
pub trait Element: Copy + PartialEq + std::fmt::Debug {
    const NAME: &'static str;
    /// Half the distance between neighbours, relative: what one rounding costs.
    const ROUNDING: f64;
    fn from_f32(value: f32) -> Self;
    fn to_f64(self) -> f64;
    fn bits(self) -> u32;
}

impl Element for f32 {
    const NAME: &'static str = "f32";
    const ROUNDING: f64 = 1.0 / (1u32 << 24) as f64;
    fn from_f32(value: f32) -> f32 {
        value
    }
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    fn bits(self) -> u32 {
        self.to_bits()
    }
}

impl Element for f16 {
    const NAME: &'static str = "f16";
    const ROUNDING: f64 = 1.0 / (1u32 << 11) as f64;
    fn from_f32(value: f32) -> f16 {
        f16::from_f32(value)
    }
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    fn bits(self) -> u32 {
        u32::from(self.to_bits())
    }
}

impl Element for bf16 {
    const NAME: &'static str = "bf16";
    const ROUNDING: f64 = 1.0 / (1u32 << 8) as f64;
    fn from_f32(value: f32) -> bf16 {
        bf16::from_f32(value)
    }
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    fn bits(self) -> u32 {
        u32::from(self.to_bits())
    }
}

pub fn bits<T: Element>(values: &[T]) -> Vec<u32> {
    values.iter().map(|value| value.bits()).collect()
}

/// The largest error as a part of the largest value, held against what one rounding to `T` and sums in f32 (`sum_error`, about
/// 1e-6 for a few hundred terms) explain, and printed for the table of kernels/cuda/README.md.
#[track_caller]
pub fn check_error<T: Element>(kernel: &str, got: &[T], wanted: &[f64], sum_error: f64) {
    assert_eq!(got.len(), wanted.len());
    let size = wanted
        .iter()
        .fold(0.0f64, |size, value| size.max(value.abs()));
    let mut largest = 0.0f64;
    for (index, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        let got = got.to_f64();
        // Not a number must fail, and does not compare.
        let error = (got - wanted).abs();
        assert!(
            error <= wanted.abs() * T::ROUNDING * 1.01 + size * sum_error,
            "{kernel}, value {index}: {got} against {wanted}, of at most {size}"
        );
        largest = largest.max(error);
    }
    println!("emulated {kernel:<32} largest error {:.1e}", largest / size);
}

#[test]
fn the_hosts_conversions_are_those_of_the_half_crate() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda/numbers.cu");
    let Some(library) = library(&file) else {
        return;
    };
    let mut random = Random(1);
    // Every f16 there is, what lies halfway between two of them, and any bits at all.
    let mut inputs: Vec<f32> = (0..=u16::MAX)
        .map(|bits| f16::from_bits(bits).to_f32())
        .collect();
    let between: Vec<f32> = inputs
        .windows(2)
        .map(|pair| (pair[0] + pair[1]) / 2.0)
        .collect();
    inputs.extend(between);
    inputs.extend((0..200_000).map(|_| f32::from_bits(random.next() as u32)));
    inputs.truncate(inputs.len() / 128 * 128);
    let count = inputs.len();
    let input = Device::new(&inputs);
    let halves = Device::new(&vec![0u16; count]);
    let brains = Device::new(&vec![0u16; count]);
    let back = Device::new(&vec![0f32; count]);
    let args = [input.arg(), halves.arg(), brains.arg(), back.arg()];
    library.launch("convert", [count / 128, 1, 1], 128, 0, &args);
    for (i, input) in inputs.iter().enumerate() {
        if input.is_nan() {
            assert!(f16::from_bits(halves[i]).is_nan() && bf16::from_bits(brains[i]).is_nan());
            continue;
        }
        assert_eq!(
            halves[i],
            f16::from_f32(*input).to_bits(),
            "f16 of {input:e}"
        );
        assert_eq!(
            brains[i],
            bf16::from_f32(*input).to_bits(),
            "bf16 of {input:e}"
        );
        assert_eq!(
            back[i].to_bits(),
            f16::from_bits(halves[i]).to_f32().to_bits()
        );
    }
}
