//! Activations in the forms the kernels read: norm, activation and rounding in one pass over a row.
//!
//! 8-bit rows are kept in passes: 8 rows, as many times as there are, then 4, 2 and 1 of the rest, which is how many
//! rows a kernel takes at once. Within a pass the blocks of its rows lie together:
//!
//! ```text
//! quants:  [pass][block of 32][row of the pass][32]
//! factors: [pass][block of 32][row of the pass]
//! ```

use super::row::{chunk_of, row_of};
use super::{Input, Part, WeightKind};
use crate::cpu::lanes::{LANES, Lanes, at_level};
use crate::cpu::pack::TILE_K;
use crate::cpu::pool::{Disjoint, Pool};
use crate::ops::lora::{self, Adapters, LoraDtype};
use std::ops::Range;

/// Rows of a pass at most.
pub(crate) const MAX_ROWS: usize = 8;
/// Values a thread prepares at a time: one to three microseconds, more than a hand-out costs.
const ITEM_VALUES: usize = 4096;
/// Rows at most that an item shrinks.
const SHRINK_ROWS: usize = 16;

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
    /// Rows shrunk by their adapters.
    shrunk: Vec<f32>,
}

/// The forms a call needs.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Needs {
    f32: bool,
    bf16: bool,
    quants: bool,
}

impl Needs {
    pub(super) fn of(parts: &[Part<'_>], adapters: &Adapters<'_>, input: &Input<'_>) -> Needs {
        // Rows that stay as they are need no copy.
        let f32_is_made = !matches!(input, Input::Rows(_));
        let mut needs = Needs {
            f32: f32_is_made && adapters.has(LoraDtype::F32),
            bf16: adapters.has(LoraDtype::Bf16),
            quants: false,
        };
        for part in parts {
            match part.matrix.kind() {
                WeightKind::F32 | WeightKind::F16 => needs.f32 |= f32_is_made,
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
    /// As [`Adapters`] places them.
    pub shrunk: &'a [f32],
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
        adapters: &Adapters<'_>,
    ) -> Prepared<'a> {
        let rows = input.rows(k);
        assert!(adapters.end() <= rows);
        self.shrunk.resize(rows * adapters.width, 0.0);
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
        if needs.f32 || needs.bf16 || needs.quants || !adapters.is_empty() {
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
                shrunk: (!adapters.is_empty()).then(|| (adapters, Disjoint::new(&mut self.shrunk))),
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
            shrunk: &self.shrunk,
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
        shrunk: None,
    };
    fill(level, pool, input, k, &targets);
}

/// Where the forms asked for go.
struct Targets<'a> {
    rows: usize,
    f32: Option<Disjoint<'a, f32>>,
    bf16: Option<Disjoint<'a, u16>>,
    quants: Option<(Disjoint<'a, i8>, Disjoint<'a, Factor>)>,
    shrunk: Option<(&'a Adapters<'a>, Disjoint<'a, f32>)>,
}

fn fill(level: crate::Level, pool: &Pool, input: Input<'_>, k: usize, targets: &Targets<'_>) {
    let rows = targets.rows;
    let mut per_item = (ITEM_VALUES / k).max(1);
    if targets.shrunk.is_some() {
        // Shrinking is most of the work: enough items for the threads to finish together, of rows that share a reading of
        // their adapter where they are many.
        per_item = (rows / (4 * pool.threads())).clamp(1, SHRINK_ROWS);
    }
    pool.run(rows.div_ceil(per_item), &|item| {
        let rows = item * per_item..((item + 1) * per_item).min(rows);
        if let Some((adapters, _)) = &targets.shrunk {
            adapters.prefetch_shrink(&rows);
        }
        for row in rows.clone() {
            fill_row(level, input, k, row, targets);
        }
        if let Some((adapters, shrunk)) = &targets.shrunk {
            shrink_rows(level, input, k, rows, targets, adapters, shrunk);
        }
    });
}

/// Shrinks those of `rows`, which this item has just filled, that have an adapter.
fn shrink_rows(
    level: crate::Level,
    input: Input<'_>,
    k: usize,
    rows: Range<usize>,
    targets: &Targets<'_>,
    adapters: &Adapters<'_>,
    shrunk: &Disjoint<'_, f32>,
) {
    for run in adapters.from(rows.start) {
        let rows = lora::common(&run.rows, &rows);
        if rows.is_empty() {
            continue;
        }
        for (part, lora) in run.parts.iter().enumerate() {
            let Some(lora) = lora else { continue };
            let x = match (lora.dtype(), &targets.f32, &targets.bf16) {
                (LoraDtype::F32, Some(target), _) => {
                    // SAFETY: rows of this item, whose forms nobody else reads or writes before the job ends.
                    lora::Rows::F32(unsafe { target.slice(rows.start * k, rows.len() * k) })
                }
                (LoraDtype::Bf16, _, Some(target)) => {
                    let width = k.next_multiple_of(2);
                    // SAFETY: as above.
                    lora::Rows::Bf16(unsafe {
                        target.slice(rows.start * width, rows.len() * width)
                    })
                }
                _ => match input {
                    Input::Rows(x) => lora::Rows::F32(&x[rows.start * k..rows.end * k]),
                    _ => unreachable!("`Needs` asks for the form of each adapter"),
                },
            };
            let place = adapters.place(rows.start, part);
            let len = (rows.len() - 1) * adapters.width + lora.class();
            // SAFETY: shrunk rows of this item, and one part at a time.
            let out = unsafe { shrunk.slice(place, len) };
            lora::shrink(level, x, lora, out, adapters.width);
        }
    }
}

at_level!(fill_row = fill_row_body(input: Input<'_>, k: usize, row: usize, targets: &Targets<'_>));

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
                *out = bf16_bits(*value);
            }
        }
    }
}

/// Rounded, ties to even: without a branch, for loops to be widened.
#[inline(always)]
fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    // Not a number stays one: rounding could carry it over into infinity or a sign.
    let quiet = bits >> 16 | 0x40;
    (if value.is_nan() { quiet } else { rounded }) as u16
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

#[cfg(test)]
mod tests {
    use super::bf16_bits;

    #[test]
    fn rounding_to_bf16_is_the_librarys() {
        let rounded = |bits: u32| half::bf16::from_f32(f32::from_bits(bits)).to_bits();
        for high in 0..=0xffff_u32 {
            for low in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let bits = high << 16 | low;
                assert_eq!(bf16_bits(f32::from_bits(bits)), rounded(bits), "{bits:#x}");
            }
        }
    }
}
