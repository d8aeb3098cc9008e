//! x = layer_norm(x + bias + residual): the end of each half of an encoder layer.

use super::{over_rows, values, values_mut};
use crate::cpu::lanes::{LANES, Lanes, at_level};
use crate::dispatch;
use candle_core::{CpuStorage, InplaceOp3, Layout, Result, Tensor, bail};

/// `x` and `residual`: rows x width; `params`: 3 x width, which are the bias before the norm, the norm's weight and the
/// norm's bias.
///
/// # Errors
/// Shapes that do not fit, tensors that are not contiguous f32, a device without the op.
pub fn add_norm_(x: &Tensor, residual: &Tensor, params: &Tensor, epsilon: f64) -> Result<()> {
    x.inplace_op3(
        residual,
        params,
        &AddNorm {
            epsilon: epsilon as f32,
        },
    )
}

struct AddNorm {
    epsilon: f32,
}

impl InplaceOp3 for AddNorm {
    fn name(&self) -> &'static str {
        "add-norm"
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        x_at: &Layout,
        residual: &CpuStorage,
        residual_at: &Layout,
        params: &CpuStorage,
        params_at: &Layout,
    ) -> Result<()> {
        let x = values_mut(x, x_at)?;
        let residual = values(residual, residual_at)?;
        let params = values(params, params_at)?;
        let width = params.len() / 3;
        if params.len() != 3 * width
            || width == 0
            || x.len() != residual.len()
            || !x.len().is_multiple_of(width)
        {
            bail!(
                "{} values, {} of the residual, {} parameters",
                x.len(),
                residual.len(),
                params.len()
            );
        }
        let level = dispatch::level();
        over_rows(x, width, |first, rows| {
            let residual = &residual[first * width..][..rows.len()];
            norm(level, rows, residual, params, self.epsilon);
        });
        Ok(())
    }
}

at_level!(norm = norm_body(rows: &mut [f32], residual: &[f32], params: &[f32], epsilon: f32));

/// Sums of sixteen lanes, so that the order of additions is the same on every machine and whatever the rows beside.
#[inline(always)]
fn norm_body<V: Lanes>(rows: &mut [f32], residual: &[f32], params: &[f32], epsilon: f32) {
    let width = params.len() / 3;
    let (bias, norm) = params.split_at(width);
    let (weight, shift) = norm.split_at(width);
    for (row, residual) in rows
        .chunks_exact_mut(width)
        .zip(residual.chunks_exact(width))
    {
        for (x, (bias, residual)) in row.iter_mut().zip(bias.iter().zip(residual)) {
            *x += bias + residual;
        }
        let mean = lane_sum(row, |x| x) / width as f32;
        let variance = lane_sum(row, |x| (x - mean) * (x - mean)) / width as f32;
        let scale = 1.0 / (variance + epsilon).sqrt();
        for (x, (weight, shift)) in row.iter_mut().zip(weight.iter().zip(shift)) {
            *x = (*x - mean) * scale * weight + shift;
        }
    }
    // The kind of lanes only turns the machine's features on.
    let _ = V::splat(0.0);
}

#[inline(always)]
fn lane_sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (whole, rest) = row.as_chunks::<LANES>();
    for chunk in whole {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += f(*x);
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum += f(*x);
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn rows_become_the_norm_of_the_sum_over_odd_widths() {
        for width in [1, 5, 16, 37, 384] {
            let rows = 50;
            let wave = |count: usize, step: f32| -> Vec<f32> {
                (0..count).map(|i| (i as f32 * step).sin() + 0.3).collect()
            };
            let (x, residual, params) = (
                wave(rows * width, 0.7),
                wave(rows * width, 1.3),
                wave(3 * width, 0.9),
            );
            let on_cpu = |values: &[f32], rows: usize| {
                Tensor::from_slice(values, (rows, width), &Device::Cpu).expect("a tensor")
            };
            let tensor = on_cpu(&x, rows);
            add_norm_(&tensor, &on_cpu(&residual, rows), &on_cpu(&params, 3), 1e-5)
                .expect("fitting shapes");
            let found: Vec<f32> = tensor.flatten_all().and_then(|t| t.to_vec1()).expect("f32");
            for row in 0..rows {
                let sums: Vec<f64> = (0..width)
                    .map(|i| {
                        f64::from(x[row * width + i])
                            + f64::from(residual[row * width + i])
                            + f64::from(params[i])
                    })
                    .collect();
                let mean = sums.iter().sum::<f64>() / width as f64;
                let variance = sums.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
                for (i, sum) in sums.iter().enumerate() {
                    let expected = (sum - mean) / (variance + 1e-5).sqrt()
                        * f64::from(params[width + i])
                        + f64::from(params[2 * width + i]);
                    let found = f64::from(found[row * width + i]);
                    // A width of one has no variance: what is left of rounding is scaled up by 1 / sqrt(epsilon).
                    assert!(
                        (found - expected).abs() < 1e-4,
                        "{width} {row} {i}: {found} {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let zeros = |rows: usize| {
            Tensor::zeros((rows, 4), candle_core::DType::F32, &Device::Cpu).expect("a tensor")
        };
        assert!(add_norm_(&zeros(2), &zeros(3), &zeros(3), 1e-5).is_err());
        assert!(add_norm_(&zeros(2), &zeros(2), &zeros(2), 1e-5).is_err());
    }
}
