//! Rows of x = softmax(scale * x): attention scores into weights.

use super::{over_rows, values_mut};
use crate::cpu::lanes::{LANES, Lanes, at_level};
use crate::dispatch;
use crate::ops::exp;
use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Tensor};

/// Over the last dimension; `scale` is positive.
///
/// # Errors
/// A tensor that is not contiguous f32, a device without the op.
pub fn softmax_(x: &Tensor, scale: f32) -> Result<()> {
    x.inplace_op1(&Softmax { scale })
}

struct Softmax {
    scale: f32,
}

impl InplaceOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, x_at: &Layout) -> Result<()> {
        let width = x_at.dims().last().copied().unwrap_or(0).max(1);
        let x = values_mut(x, x_at)?;
        let level = dispatch::level();
        over_rows(x, width, |_, rows| {
            softmax_rows(level, rows, width, self.scale)
        });
        Ok(())
    }
}

at_level!(softmax_rows = softmax_body(rows: &mut [f32], width: usize, scale: f32));

#[inline(always)]
fn softmax_body<V: Lanes>(rows: &mut [f32], width: usize, scale: f32) {
    for row in rows.chunks_exact_mut(width) {
        let highest = row.iter().fold(f32::NEG_INFINITY, |high, x| high.max(*x));
        let mut sums = [0.0f32; LANES];
        let (whole, rest) = row.as_chunks_mut::<LANES>();
        for chunk in whole {
            *chunk = V::load(&chunk.map(|x| (x - highest) * scale)).exp().array();
            for (sum, x) in sums.iter_mut().zip(chunk) {
                *sum += *x;
            }
        }
        for (sum, x) in sums.iter_mut().zip(rest) {
            *x = exp((*x - highest) * scale);
            *sum += *x;
        }
        let share = 1.0 / sums.iter().sum::<f32>();
        row.iter_mut().for_each(|x| *x *= share);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn rows_sum_to_one_and_follow_the_exponential() {
        for width in [1, 7, 16, 45, 513] {
            let rows = 40;
            let x: Vec<f32> = (0..rows * width)
                .map(|i| (i as f32 * 0.61).sin() * 30.0)
                .collect();
            let tensor =
                Tensor::from_slice(&x, (2, rows / 2, width), &Device::Cpu).expect("a tensor");
            softmax_(&tensor, 0.25).expect("contiguous f32");
            let found: Vec<f32> = tensor.flatten_all().and_then(|t| t.to_vec1()).expect("f32");
            for (x, found) in x.chunks(width).zip(found.chunks(width)) {
                let sum: f64 = x.iter().map(|x| (f64::from(*x) * 0.25).exp()).sum();
                for (x, found) in x.iter().zip(found) {
                    let expected = (f64::from(*x) * 0.25).exp() / sum;
                    assert!(
                        (f64::from(*found) - expected).abs() < 1e-6,
                        "{width}: {found} {expected}"
                    );
                }
            }
        }
    }
}
