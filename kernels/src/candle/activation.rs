//! x = activation(x + bias), rows of one width.

use super::{over_rows, values, values_mut};
use crate::cpu::lanes::{LANES, Lanes, at_level};
use crate::{Activation, dispatch};
use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor, bail};

/// `x`: rows x width; `bias`: width.
///
/// # Errors
/// Shapes that do not fit, tensors that are not contiguous f32, a device without the op.
pub fn bias_activation_(x: &Tensor, bias: &Tensor, activation: Activation) -> Result<()> {
    x.inplace_op2(bias, &BiasActivation(activation))
}

struct BiasActivation(Activation);

impl InplaceOp2 for BiasActivation {
    fn name(&self) -> &'static str {
        "bias-activation"
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        x_at: &Layout,
        bias: &CpuStorage,
        bias_at: &Layout,
    ) -> Result<()> {
        let x = values_mut(x, x_at)?;
        let bias = values(bias, bias_at)?;
        if bias.is_empty() || !x.len().is_multiple_of(bias.len()) {
            bail!("{} values and a bias of {}", x.len(), bias.len());
        }
        let level = dispatch::level();
        over_rows(x, bias.len(), |_, rows| match self.0 {
            Activation::GeluErf => gelu_erf(level, rows, bias),
            Activation::GeluTanh => gelu_tanh(level, rows, bias),
            Activation::Silu => silu(level, rows, bias),
        });
        Ok(())
    }
}

at_level!(gelu_erf = gelu_erf_body(rows: &mut [f32], bias: &[f32]));
at_level!(silu = silu_body(rows: &mut [f32], bias: &[f32]));
at_level!(gelu_tanh = gelu_tanh_body(rows: &mut [f32], bias: &[f32]));

#[inline(always)]
fn gelu_erf_body<V: Lanes>(rows: &mut [f32], bias: &[f32]) {
    over_lanes(rows, bias, |x| {
        let z = x.map(|x| x * std::f32::consts::FRAC_1_SQRT_2);
        let below = V::load(&z.map(|z| -z * z)).exp().array();
        std::array::from_fn(|i| 0.5 * x[i] * (1.0 + erf(z[i], below[i])))
    });
}

/// Abramowitz and Stegun, 7.1.26: within 1.5e-7 of the error function. `below` is e^(-z^2).
#[inline(always)]
fn erf(z: f32, below: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.327_591_1 * z.abs());
    let sum = ((((1.061_405_4 * t - 1.453_152_1) * t) + 1.421_413_8) * t - 0.284_496_74) * t
        + 0.254_829_6;
    (1.0 - sum * t * below).copysign(z)
}

#[inline(always)]
fn gelu_tanh_body<V: Lanes>(rows: &mut [f32], bias: &[f32]) {
    // sqrt(2 / pi), and the cubic term's weight.
    const SLOPE: f32 = 0.797_884_6;
    const CUBIC: f32 = 0.044_715;
    over_lanes(rows, bias, |x| {
        // (1 + tanh y) / 2 is 1 / (1 + e^(-2y)).
        let y = x.map(|x| -2.0 * SLOPE * (x + CUBIC * x * x * x));
        let below = V::load(&y).exp().array();
        std::array::from_fn(|i| x[i] / (1.0 + below[i]))
    });
}

#[inline(always)]
fn silu_body<V: Lanes>(rows: &mut [f32], bias: &[f32]) {
    over_lanes(rows, bias, |x| {
        let below = V::load(&x.map(|x| -x)).exp().array();
        std::array::from_fn(|i| x[i] / (1.0 + below[i]))
    });
}

/// `f` over sixteen values of x + bias at a time; a rest is filled up with zeros.
#[inline(always)]
fn over_lanes(rows: &mut [f32], bias: &[f32], f: impl Fn([f32; LANES]) -> [f32; LANES]) {
    for row in rows.chunks_exact_mut(bias.len()) {
        for (x, bias) in row.chunks_mut(LANES).zip(bias.chunks(LANES)) {
            let mut sums = [0.0; LANES];
            for (sum, (x, bias)) in sums.iter_mut().zip(x.iter().zip(bias)) {
                *sum = x + bias;
            }
            x.copy_from_slice(&f(sums)[..x.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn check(activation: Activation, width: usize, expected: impl Fn(f64) -> f64) {
        let x: Vec<f32> = (0..7 * width)
            .map(|i| (i as f32 * 0.37).sin() * 6.0)
            .collect();
        let bias: Vec<f32> = (0..width).map(|i| i as f32 * 0.05 - 1.0).collect();
        let tensor = Tensor::from_slice(&x, (7, width), &Device::Cpu).expect("a tensor");
        let bias_tensor = Tensor::from_slice(&bias, width, &Device::Cpu).expect("a tensor");
        bias_activation_(&tensor, &bias_tensor, activation).expect("fitting shapes");
        let found: Vec<f32> = tensor.flatten_all().and_then(|t| t.to_vec1()).expect("f32");
        for (i, found) in found.iter().enumerate() {
            let expected = expected(f64::from(x[i] + bias[i % width]));
            assert!(
                (f64::from(*found) - expected).abs() < 2e-6,
                "{activation:?} {width} {i}: {found} {expected}"
            );
        }
    }

    /// Simpson's rule over the definition's integral.
    fn erf_integral(z: f64) -> f64 {
        const PARTS: u32 = 2000;
        let step = z / f64::from(PARTS);
        let sum: f64 = (0..=PARTS)
            .map(|i| {
                let weight = match i {
                    0 | PARTS => 1.0,
                    i if i.is_multiple_of(2) => 2.0,
                    _ => 4.0,
                };
                weight * (-(f64::from(i) * step).powi(2)).exp()
            })
            .sum();
        sum * step / 3.0 * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn activations_are_their_definitions_over_odd_widths() {
        for width in [1, 15, 16, 33, 100] {
            check(Activation::GeluErf, width, |x| {
                0.5 * x * (1.0 + erf_integral(x / std::f64::consts::SQRT_2))
            });
            check(Activation::GeluTanh, width, |x| {
                0.5 * x
                    * (1.0
                        + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
            });
            check(Activation::Silu, width, |x| x / (1.0 + (-x).exp()));
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let x = Tensor::zeros((2, 3), candle_core::DType::F32, &Device::Cpu).expect("a tensor");
        let bias = Tensor::zeros(4, candle_core::DType::F32, &Device::Cpu).expect("a tensor");
        assert!(bias_activation_(&x, &bias, Activation::Silu).is_err());
        let bias = Tensor::zeros(2, candle_core::DType::F32, &Device::Cpu).expect("a tensor");
        let turned = x.t().expect("two dimensions");
        assert!(bias_activation_(&turned, &bias, Activation::Silu).is_err());
    }
}
