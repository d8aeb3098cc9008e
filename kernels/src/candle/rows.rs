//! What happens to rows between products: our kernels' norms and gates as ops.

use super::{Workspace, values};
use crate::{Activation, Input, norm_rows};
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};

/// Rows of `x` over their root mean square, times `weight`.
///
/// # Errors
/// Shapes that do not fit, tensors that are not contiguous f32, a device without the op.
pub fn rms_norm(
    workspace: &Workspace,
    x: &Tensor,
    weight: &Tensor,
    epsilon: f32,
) -> Result<Tensor> {
    x.apply_op2_no_bwd(weight, &RmsNorm { workspace, epsilon })
}

/// `gate_up`: rows of gates followed by as many ups; gives rows of activation(gate) * up.
///
/// # Errors
/// An odd width, a tensor that is not contiguous f32, a device without the op.
pub fn gated(workspace: &Workspace, gate_up: &Tensor, activation: Activation) -> Result<Tensor> {
    gate_up.apply_op1_no_bwd(&Gated {
        workspace,
        activation,
    })
}

struct RmsNorm<'a> {
    workspace: &'a Workspace,
    epsilon: f32,
}

impl CustomOp2 for RmsNorm<'_> {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_at: &Layout,
        weight: &CpuStorage,
        weight_at: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, width) = x_at.shape().dims2()?;
        let (x, weight) = (values(x, x_at)?, values(weight, weight_at)?);
        if width == 0 || weight.len() != width {
            bail!("rows of {width} and a weight of {}", weight.len());
        }
        let mut out = vec![0.0; x.len()];
        let input = Input::RmsNorm {
            x,
            weight,
            epsilon: self.epsilon,
        };
        norm_rows(&self.workspace.lock().pool, input, width, &mut out);
        Ok((CpuStorage::F32(out), x_at.shape().clone()))
    }
}

struct Gated<'a> {
    workspace: &'a Workspace,
    activation: Activation,
}

impl CustomOp1 for Gated<'_> {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn cpu_fwd(&self, gate_up: &CpuStorage, gate_up_at: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = gate_up_at.shape().dims2()?;
        if width == 0 || !width.is_multiple_of(2) {
            bail!("rows of {width} have no two halves");
        }
        let gate_up = values(gate_up, gate_up_at)?;
        let mut out = vec![0.0; rows * width / 2];
        let input = Input::Gated {
            gate_up,
            activation: self.activation,
        };
        norm_rows(&self.workspace.lock().pool, input, width / 2, &mut out);
        Ok((CpuStorage::F32(out), (rows, width / 2).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pool;
    use candle_core::Device;

    fn check(found: Result<Tensor>, expected: &[&[f32]]) {
        let found: Vec<Vec<f32>> = found.and_then(|out| out.to_vec2()).expect("fitting shapes");
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found
            .iter()
            .flatten()
            .zip(expected.iter().copied().flatten())
        {
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
    }

    #[test]
    fn rows_are_normed_and_gated() {
        let workspace = Workspace::new(Pool::new(1));
        let x =
            Tensor::new(&[[3.0f32, 4.0], [0.0, 0.0], [-1.0, 1.0]], &Device::Cpu).expect("a tensor");
        let weight = Tensor::new(&[1.0f32, 2.0], &Device::Cpu).expect("a tensor");
        let root = 12.5f32.sqrt();
        check(
            rms_norm(&workspace, &x, &weight, 1e-6),
            &[&[3.0 / root, 8.0 / root], &[0.0, 0.0], &[-1.0, 2.0]],
        );
        let silu = |x: f32| x / (1.0 + (-x).exp());
        check(
            gated(&workspace, &x, Activation::Silu),
            &[&[silu(3.0) * 4.0], &[0.0], &[-silu(-1.0) * -1.0]],
        );
        let long = Tensor::new(&[1.0f32, 2.0, 3.0], &Device::Cpu).expect("a tensor");
        assert!(rms_norm(&workspace, &x, &long, 1e-6).is_err());
        assert!(
            gated(
                &workspace,
                &x.narrow(1, 0, 1).expect("a column"),
                Activation::Silu
            )
            .is_err()
        );
    }
}
