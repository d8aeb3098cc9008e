//! Activations in the forms the kernels read: norm, activation and rounding in one pass over a row.
//!
//! 8-bit rows are kept in passes: 8 rows, as many times as there are, then 4, 2 and 1 of the rest, which is how many
//! rows a kernel takes at once. Within a pass the blocks of its rows lie together:
//!
//! ```text
//! quants:  [pass][block of 32][row of the pass][32]
//! factors: [pass][block of 32][row of the pass]
//! ```

use super::{Activation, Input, Part, WeightKind};
use crate::cpu::lanes::{LANES, Lanes, at_level};
use crate::cpu::pack::TILE_K;
use crate::cpu::pool::{Disjoint, Pool};
use half::bf16;

/// Rows of a pass at most.
pub(crate) const MAX_ROWS: usize = 8;
/// Values a thread prepares at a time: one to three microseconds, more than a hand-out costs.
const ITEM_VALUES: usize = 4096;

/// What goes with a block of 32 8-bit values.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Factor {
    /// A value is `scale * quant`.
    pub scale: f32,
    /// scale * sum of the quants.
    pub sum: f32,
    /// -8 * sum of the first, and of the last, 16 quants: what an offset of 8 takes off their products.
    pub shift: [i32; 2],
}

/// Prepared activations; the buffers are kept between calls.
#[derive(Debug, Default)]
pub struct MatmulScratch {
    f32: Vec<f32>,
    bf16: Vec<u16>,
    quants: Vec<i8>,
    factors: Vec<Factor>,
}

/// The forms a call needs.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Needs {
    f32: bool,
    bf16: bool,
    quants: bool,
}

impl Needs {
    pub(super) fn of(parts: &[Part<'_>], input: &Input<'_>) -> Needs {
        let mut needs = Needs::default();
        for part in parts {
            match part.matrix.kind() {
                // Rows that stay as they are need no copy.
                WeightKind::F32 | WeightKind::F16 => needs.f32 |= !matches!(input, Input::Rows(_)),
                WeightKind::Bf16 => needs.bf16 = true,
                _ => needs.quants = true,
            }
        }
        needs
    }
}

/// The rows of one call.
pub(super) struct Prepared<'a> {
    pub rows: usize,
    pub k: usize,
    pub f32: &'a [f32],
    /// Rows of k rounded up to even, in bf16 bits.
    pub bf16: &'a [u16],
    quants: &'a [i8],
    factors: &'a [Factor],
}

/// The 8-bit rows a kernel takes at once: 8, 4, 2 or 1.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    pub rows: usize,
    pub quants: &'a [i8],
    pub factors: &'a [Factor],
}

/// Rows of the pass that begins when `left` rows remain.
pub(super) fn pass_rows(left: usize) -> usize {
    match left {
        8.. => 8,
        4.. => 4,
        2.. => 2,
        _ => 1,
    }
}

/// First row and rows of the pass that holds `row`.
fn pass_of(row: usize, rows: usize) -> (usize, usize) {
    let mut first = row / MAX_ROWS * MAX_ROWS;
    loop {
        let count = pass_rows(rows - first);
        if row < first + count {
            return (first, count);
        }
        first += count;
    }
}

impl Prepared<'_> {
    /// The pass that begins at row `first`, which is a multiple of eight or the end of another pass.
    pub(super) fn pass(&self, first: usize) -> Pass<'_> {
        let rows = pass_rows(self.rows - first);
        let blocks = self.k / TILE_K;
        Pass {
            rows,
            quants: &self.quants[first * self.k..][..rows * self.k],
            factors: &self.factors[first * blocks..][..rows * blocks],
        }
    }
}

impl MatmulScratch {
    pub(super) fn prepare<'a>(
        &'a mut self,
        level: crate::Level,
        pool: &Pool,
        input: Input<'a>,
        k: usize,
        needs: Needs,
    ) -> Prepared<'a> {
        let rows = input.rows(k);
        if needs.f32 {
            self.f32.resize(rows * k, 0.0);
        }
        if needs.bf16 {
            self.bf16.resize(rows * k.next_multiple_of(2), 0);
        }
        if needs.quants {
            assert!(k.is_multiple_of(TILE_K));
            self.quants.resize(rows * k, 0);
            self.factors.resize(rows * k / TILE_K, Factor::default());
        }
        if needs.f32 || needs.bf16 || needs.quants {
            let targets = Targets {
                rows,
                f32: needs.f32.then(|| Disjoint::new(&mut self.f32)),
                bf16: needs.bf16.then(|| Disjoint::new(&mut self.bf16)),
                quants: needs.quants.then(|| {
                    (
                        Disjoint::new(&mut self.quants),
                        Disjoint::new(&mut self.factors),
                    )
                }),
            };
            fill(level, pool, input, k, &targets);
        }
        let f32 = match input {
            Input::Rows(x) if !needs.f32 => x,
            _ => &self.f32,
        };
        Prepared {
            rows,
            k,
            f32,
            bf16: &self.bf16,
            quants: &self.quants,
            factors: &self.factors,
        }
    }
}

/// Only the f32 form, into `out`.
pub(super) fn prepare_f32(
    level: crate::Level,
    pool: &Pool,
    input: Input<'_>,
    k: usize,
    out: &mut [f32],
) {
    let rows = input.rows(k);
    assert_eq!(out.len(), rows * k);
    let targets = Targets {
        rows,
        f32: Some(Disjoint::new(out)),
        bf16: None,
        quants: None,
    };
    fill(level, pool, input, k, &targets);
}

/// Where the forms asked for go.
struct Targets<'a> {
    rows: usize,
    f32: Option<Disjoint<'a, f32>>,
    bf16: Option<Disjoint<'a, u16>>,
    quants: Option<(Disjoint<'a, i8>, Disjoint<'a, Factor>)>,
}

fn fill(level: crate::Level, pool: &Pool, input: Input<'_>, k: usize, targets: &Targets<'_>) {
    let rows = targets.rows;
    let per_item = (ITEM_VALUES / k).max(1);
    pool.run(rows.div_ceil(per_item), &|item| {
        for row in item * per_item..((item + 1) * per_item).min(rows) {
            fill_row(level, input, k, row, targets);
        }
    });
}

at_level!(fill_row = fill_row_body(input: Input<'_>, k: usize, row: usize, targets: &Targets<'_>));

/// One row, before it is rounded to anything.
enum Row<'a> {
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

#[inline(always)]
fn fill_row_body<V: Lanes>(input: Input<'_>, k: usize, row: usize, targets: &Targets<'_>) {
    let source = row_of::<V>(input, k, row);
    for start in (0..k).step_by(TILE_K) {
        let len = TILE_K.min(k - start);
        let values = chunk_of::<V>(&source, start, len);
        if let Some((quants, factors)) = &targets.quants {
            let (first, rows) = pass_of(row, targets.rows);
            let place = first * (k / TILE_K) + start / TILE_K * rows + (row - first);
            // SAFETY: every chunk of every row is filled once, by the item that owns the row, and the layout gives
            // each its own place.
            let (quants, factor) = unsafe {
                (
                    quants.slice(place * TILE_K, TILE_K),
                    factors.slice(place, 1),
                )
            };
            factor[0] = quantize(values, quants);
        }
        if targets.f32.is_none() && targets.bf16.is_none() {
            continue;
        }
        let mut chunk = [values.0.array(), values.1.array()];
        let chunk = chunk.as_flattened_mut();
        // An activation or a bias may have left something behind the end.
        chunk[len..].fill(0.0);
        if let Some(target) = &targets.f32 {
            // SAFETY: as above.
            let out = unsafe { target.slice(row * k + start, len) };
            out.copy_from_slice(&chunk[..len]);
        }
        if let Some(target) = &targets.bf16 {
            let width = k.next_multiple_of(2);
            // SAFETY: as above; the last chunk of an odd row takes its padding along.
            let out = unsafe { target.slice(row * width + start, TILE_K.min(width - start)) };
            for (out, value) in out.iter_mut().zip(chunk) {
                *out = bf16::from_f32(*value).to_bits();
            }
        }
    }
}

/// Scales 32 values to 127 and rounds them, ties to even.
#[inline(always)]
fn quantize<V: Lanes>(values: (V, V), quants: &mut [i8]) -> Factor {
    let minus = V::splat(-1.0);
    let sizes = (
        values.0.max(values.0.mul(minus)),
        values.1.max(values.1.mul(minus)),
    );
    let peak = sizes.0.max(sizes.1).highest();
    let scale = peak / 127.0;
    // A block of next to nothing is zero: its inverse would be infinite.
    let inverse = V::splat(if peak > 1e-36 { 127.0 / peak } else { 0.0 });
    let (halves, _) = quants.as_chunks_mut::<LANES>();
    let first = values.0.mul(inverse).round_i8(&mut halves[0]);
    let last = values.1.mul(inverse).round_i8(&mut halves[1]);
    Factor {
        scale,
        sum: scale * first.wrapping_add(last) as f32,
        shift: [first.wrapping_mul(-8), last.wrapping_mul(-8)],
    }
}

/// The row and what has to be known of all of it: mean and scale of a norm.
#[inline(always)]
fn row_of<V: Lanes>(input: Input<'_>, k: usize, row: usize) -> Row<'_> {
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
fn chunk_of<V: Lanes>(row: &Row<'_>, start: usize, len: usize) -> (V, V) {
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
