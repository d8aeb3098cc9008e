//! One row of an input as f32: norm or activation, 32 values at a time.

use super::{Activation, Input};
use crate::cpu::lanes::{LANES, Lanes};
use crate::cpu::pack::TILE_K;

/// One row, before it is rounded to anything.
pub(super) enum Row<'a> {
    Plain(&'a [f32]),
    Rms {
        x: &'a [f32],
        weight: &'a [f32],
        scale: f32,
    },
    Layer {
        x: &'a [f32],
        weight: &'a [f32],
        bias: Option<&'a [f32]>,
        mean: f32,
        scale: f32,
    },
    Gated {
        gate: &'a [f32],
        up: &'a [f32],
        activation: Activation,
    },
    Activated {
        x: &'a [f32],
        activation: Activation,
    },
}

/// The row and what has to be known of all of it: mean and scale of a norm.
#[inline(always)]
pub(super) fn row_of<V: Lanes>(input: Input<'_>, k: usize, row: usize) -> Row<'_> {
    match input {
        Input::Rows(x) => Row::Plain(&x[row * k..][..k]),
        Input::RmsNorm { x, weight, epsilon } => {
            let x = &x[row * k..][..k];
            let scale = 1.0 / (squares::<V>(x, 0.0) / k as f32 + epsilon).sqrt();
            Row::Rms { x, weight, scale }
        }
        Input::LayerNorm {
            x,
            weight,
            bias,
            epsilon,
        } => {
            let x = &x[row * k..][..k];
            let mean = total::<V>(x) / k as f32;
            let scale = 1.0 / (squares::<V>(x, mean) / k as f32 + epsilon).sqrt();
            Row::Layer {
                x,
                weight,
                bias,
                mean,
                scale,
            }
        }
        Input::Gated {
            gate_up,
            activation,
        } => {
            let (gate, up) = gate_up[2 * row * k..][..2 * k].split_at(k);
            Row::Gated {
                gate,
                up,
                activation,
            }
        }
        Input::Activated { x, activation } => Row::Activated {
            x: &x[row * k..][..k],
            activation,
        },
    }
}

/// Sum of (x - mean)^2: sixteen running sums, a fixed order that every vector width can follow.
#[inline(always)]
fn squares<V: Lanes>(x: &[f32], mean: f32) -> f32 {
    let (whole, rest) = x.as_chunks::<LANES>();
    let below = V::splat(-mean);
    let mut sums = V::splat(0.0);
    for chunk in whole {
        let value = V::load(chunk).add(below);
        sums = value.mul_add(value, sums);
    }
    let rest: f32 = rest.iter().map(|v| (v - mean) * (v - mean)).sum();
    sums.array().iter().sum::<f32>() + rest
}

#[inline(always)]
fn total<V: Lanes>(x: &[f32]) -> f32 {
    let (whole, rest) = x.as_chunks::<LANES>();
    let mut sums = V::splat(0.0);
    for chunk in whole {
        sums = sums.add(V::load(chunk));
    }
    sums.array().iter().sum::<f32>() + rest.iter().sum::<f32>()
}

/// `len` values of the row from `start` on; what follows them is of no use.
#[inline(always)]
pub(super) fn chunk_of<V: Lanes>(row: &Row<'_>, start: usize, len: usize) -> (V, V) {
    // Both halves are written out: a closure handed to `array::map` would be compiled without the level's registers.
    match *row {
        Row::Plain(x) => load::<V>(x, start, len),
        Row::Rms { x, weight, scale } => {
            let scale = V::splat(scale);
            let (x, weight) = (load::<V>(x, start, len), load::<V>(weight, start, len));
            (x.0.mul(scale).mul(weight.0), x.1.mul(scale).mul(weight.1))
        }
        Row::Layer {
            x,
            weight,
            bias,
            mean,
            scale,
        } => {
            let (scale, below) = (V::splat(scale), V::splat(-mean));
            let (x, weight) = (load::<V>(x, start, len), load::<V>(weight, start, len));
            let bias = match bias {
                Some(bias) => load::<V>(bias, start, len),
                None => (V::splat(0.0), V::splat(0.0)),
            };
            (
                x.0.add(below).mul(scale).mul_add(weight.0, bias.0),
                x.1.add(below).mul(scale).mul_add(weight.1, bias.1),
            )
        }
        Row::Gated {
            gate,
            up,
            activation,
        } => {
            let (gate, up) = (load::<V>(gate, start, len), load::<V>(up, start, len));
            (
                activate(activation, gate.0).mul(up.0),
                activate(activation, gate.1).mul(up.1),
            )
        }
        Row::Activated { x, activation } => {
            let x = load::<V>(x, start, len);
            (activate(activation, x.0), activate(activation, x.1))
        }
    }
}

/// `len` values from `start` on, and zeros.
#[inline(always)]
fn load<V: Lanes>(values: &[f32], start: usize, len: usize) -> (V, V) {
    let part = &values[start..][..len];
    if let Some(whole) = part.first_chunk::<TILE_K>() {
        let halves = whole.as_chunks::<LANES>().0;
        return (V::load(&halves[0]), V::load(&halves[1]));
    }
    let mut padded = [[0.0f32; LANES]; 2];
    padded.as_flattened_mut()[..len].copy_from_slice(part);
    (V::load(&padded[0]), V::load(&padded[1]))
}

#[inline(always)]
fn activate<V: Lanes>(activation: Activation, x: V) -> V {
    let one = V::splat(1.0);
    match activation {
        Activation::Silu => x.div(one.add(x.mul(V::splat(-1.0)).exp())),
        Activation::GeluTanh => {
            const TWICE: f32 = -2.0 * 0.797_884_6;
            let cubic = x.mul(x).mul_add(V::splat(0.044_715), one);
            x.div(one.add(x.mul(cubic).mul(V::splat(TWICE)).exp()))
        }
        Activation::GeluErf => gelu_erf(x),
    }
}

/// max(x, 0) - |x| * tail, where tail = (1 - erf(|x| / sqrt 2)) / 2 by Abramowitz and Stegun 7.1.26 (error below 1e-7).
#[inline(always)]
fn gelu_erf<V: Lanes>(x: V) -> V {
    let one = V::splat(1.0);
    let size = x.max(x.mul(V::splat(-1.0)));
    let z = size.mul(V::splat(std::f32::consts::FRAC_1_SQRT_2));
    let t = one.div(z.mul_add(V::splat(0.327_591_1), one));
    let mut sum = V::splat(1.061_405_4);
    for coefficient in [-1.453_152_1, 1.421_413_8, -0.284_496_72, 0.254_829_6] {
        sum = sum.mul_add(t, V::splat(coefficient));
    }
    let falling = z.mul(z).mul(V::splat(-1.0)).exp();
    let tail = sum.mul(t).mul(falling).mul(V::splat(-0.5));
    size.mul_add(tail, x.max(V::splat(0.0)))
}
