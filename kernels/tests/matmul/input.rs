//! What a product does to its input first: norms, activations, and their rounding.

use super::*;

/// erf by its series, whose terms cancel to 1e-9 below 4; above, it is 1 to 2e-8.
fn erf(x: f64) -> f64 {
    if x.abs() > 4.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        let n = f64::from(n);
        term *= -x * x / n;
        sum += term / (2.0 * n + 1.0);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + u.tanh())
        }
        Activation::GeluErf => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
    }
}

/// The definitions, word for word, in f64.
fn prepared_plainly(input: &Input<'_>, k: usize) -> Vec<f64> {
    let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|v| f64::from(*v)).collect() };
    let mut out = Vec::new();
    match *input {
        Input::Rows(x) => out = wide(x),
        Input::RmsNorm { x, weight, epsilon } => {
            for row in wide(x).chunks(k) {
                let mean = row.iter().map(|v| v * v).sum::<f64>() / k as f64;
                let scale = 1.0 / (mean + f64::from(epsilon)).sqrt();
                out.extend(
                    row.iter()
                        .zip(weight)
                        .map(|(v, w)| v * scale * f64::from(*w)),
                );
            }
        }
        Input::LayerNorm {
            x,
            weight,
            bias,
            epsilon,
        } => {
            for row in wide(x).chunks(k) {
                let mean = row.iter().sum::<f64>() / k as f64;
                let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / k as f64;
                let scale = 1.0 / (variance + f64::from(epsilon)).sqrt();
                for i in 0..k {
                    let bias = bias.map_or(0.0, |bias| f64::from(bias[i]));
                    out.push((row[i] - mean) * scale * f64::from(weight[i]) + bias);
                }
            }
        }
        Input::Gated {
            gate_up,
            activation,
        } => {
            for row in wide(gate_up).chunks(2 * k) {
                out.extend((0..k).map(|i| activate(activation, row[i]) * row[k + i]));
            }
        }
        Input::Activated { x, activation } => {
            out.extend(wide(x).into_iter().map(|v| activate(activation, v)));
        }
    }
    out
}

#[test]
fn rows_are_prepared_as_defined_and_products_see_them_so() {
    let mut random = Random(9);
    for k in [1, 32, 100, 576] {
        for rows in [1, 9] {
            let x: Vec<f32> = random
                .values(rows * 2 * k)
                .iter()
                .map(|v| v * 9.0)
                .collect();
            let half = &x[..rows * k];
            let (weight, bias) = (random.values(k), random.values(k));
            let activations = [Activation::Silu, Activation::GeluTanh, Activation::GeluErf];
            let epsilon = 1e-5;
            let weight = weight.as_slice();
            let mut inputs = vec![
                Input::Rows(half),
                Input::RmsNorm {
                    x: half,
                    weight,
                    epsilon,
                },
            ];
            for bias in [None, Some(bias.as_slice())] {
                inputs.push(Input::LayerNorm {
                    x: half,
                    weight,
                    bias,
                    epsilon,
                });
            }
            for activation in activations {
                inputs.push(Input::Activated {
                    x: half,
                    activation,
                });
                inputs.push(Input::Gated {
                    gate_up: &x,
                    activation,
                });
            }
            for input in inputs {
                let expected = prepared_plainly(&input, k);
                for level in levels() {
                    let pool = Pool::new(2);
                    let mut out = vec![f32::NAN; rows * k];
                    norm_rows_at(level, &pool, input, k, &mut out);
                    for (value, expected) in out.iter().zip(&expected) {
                        assert!(
                            (f64::from(*value) - expected).abs() <= 2e-6 * (1.0 + expected.abs()),
                            "{level:?} {k}: {value}, defined as {expected}"
                        );
                    }
                    for kind in [WeightKind::F32, WeightKind::Bf16, WeightKind::Q8_0] {
                        if !k.is_multiple_of(kind.block_len()) {
                            continue;
                        }
                        let matrix = random_matrix(kind, 5, k, &mut random);
                        let mut fused = vec![0.0; rows * 5];
                        let mut scratch = MatmulScratch::default();
                        let parts = [Part::new(&matrix, 0)];
                        let store = Store::Replace;
                        matmul_at(
                            level,
                            &pool,
                            &mut scratch,
                            input,
                            k,
                            &parts,
                            store,
                            &mut fused,
                            5,
                        );
                        assert_eq!(
                            fused,
                            product(level, 1, &out, &matrix),
                            "{level:?} {kind:?}"
                        );
                    }
                }
            }
        }
    }
}
