//! v = a x: rows of k values to the ranks of an adapter.

use super::LoraMatrix;
use super::matrix::{Packed, TILE_RANKS};
use crate::Level;
use crate::cpu::lanes::{LANES, Lanes, at_level, prefetch};
use crate::cpu::pack::{Bf16Pairs, F32Row};

/// bf16 values of a line.
const PAIRS: usize = 2 * LANES;
/// Chunks of eight lines ahead of the one at work that are called into the cache.
const AHEAD: usize = 6;

/// Prepared rows, one after the other.
#[derive(Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// Rows of k.
    F32(&'a [f32]),
    /// Bits, rows of k rounded up to even.
    Bf16(&'a [u16]),
}

/// The rows' ranks, as many as the class of `lora` has, into every `stride` values of `out`.
pub(crate) fn shrink(level: Level, x: Rows<'_>, lora: &LoraMatrix, out: &mut [f32], stride: usize) {
    let k = lora.k();
    match (lora.packed(), x) {
        (Packed::F32 { a, .. }, Rows::F32(x)) => f32_at(level, x, k, a, out, stride),
        (Packed::Bf16 { a, .. }, Rows::Bf16(x)) => {
            #[cfg(target_arch = "x86_64")]
            if level == Level::Avx512 && crate::dispatch::has_bf16_products() {
                // SAFETY: both were detected.
                unsafe { bf16_pairs(x, k, a, out, stride) };
                return;
            }
            bf16_at(level, x, k, a, out, stride);
        }
        _ => unreachable!("rows are prepared in the form each adapter takes"),
    }
}

at_level!(f32_at = f32_body(x: &[f32], k: usize, a: &[F32Row], out: &mut [f32], stride: usize));
at_level!(bf16_at = bf16_body(x: &[u16], k: usize, a: &[Bf16Pairs], out: &mut [f32], stride: usize));

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,fma,f16c,avx512bf16")]
fn bf16_pairs(x: &[u16], k: usize, a: &[Bf16Pairs], out: &mut [f32], stride: usize) {
    bf16_body::<crate::cpu::lanes::Avx512Pairs>(x, k, a, out, stride);
}

/// Two rows at a time, or one with half the ranks where registers are few: how many share a pass changes no sum.
#[inline(always)]
fn f32_body<V: Lanes>(x: &[f32], k: usize, a: &[F32Row], out: &mut [f32], stride: usize) {
    let chunks = k.div_ceil(LANES);
    let rows = x.len() / k;
    for (tile, a) in a.chunks_exact(chunks * TILE_RANKS).enumerate() {
        let a = a.as_chunks::<TILE_RANKS>().0;
        let mut row = 0;
        while row < rows {
            let two = V::MANY && rows - row > 1;
            let out = &mut out[row * stride + tile * TILE_RANKS..];
            if two {
                f32_tile::<V, TILE_RANKS, 2>(&x[row * k..], k, a, 0, out, stride);
            } else if V::MANY {
                f32_tile::<V, TILE_RANKS, 1>(&x[row * k..], k, a, 0, out, stride);
            } else {
                f32_tile::<V, 4, 1>(&x[row * k..], k, a, 0, out, stride);
                f32_tile::<V, 4, 1>(&x[row * k..], k, a, 4, out, stride);
            }
            row += 1 + usize::from(two);
        }
    }
}

#[inline(always)]
fn f32_tile<V: Lanes, const RANKS: usize, const ROWS: usize>(
    x: &[f32],
    k: usize,
    a: &[[F32Row; TILE_RANKS]],
    first: usize,
    out: &mut [f32],
    stride: usize,
) {
    let mut sums = [[V::splat(0.0); RANKS]; ROWS];
    let mut rows: [&[[f32; LANES]]; ROWS] = [&[]; ROWS];
    let mut ends = [[0.0f32; LANES]; ROWS];
    for r in 0..ROWS {
        let (whole, rest) = x[r * k..][..k].as_chunks::<LANES>();
        rows[r] = whole;
        ends[r][..rest.len()].copy_from_slice(rest);
    }
    let whole = k / LANES;
    for (chunk, lines) in a.iter().enumerate() {
        if first == 0 {
            ahead(lines);
        }
        let mut values = [V::splat(0.0); ROWS];
        for r in 0..ROWS {
            values[r] = V::load(if chunk < whole {
                &rows[r][chunk]
            } else {
                &ends[r]
            });
        }
        for i in 0..RANKS {
            let line = V::load(&lines[first + i].0);
            for r in 0..ROWS {
                sums[r][i] = values[r].mul_add(line, sums[r][i]);
            }
        }
    }
    store(&sums, &mut out[first..], stride);
}

#[inline(always)]
fn bf16_body<V: Lanes>(x: &[u16], k: usize, a: &[Bf16Pairs], out: &mut [f32], stride: usize) {
    let chunks = k.div_ceil(PAIRS);
    let width = k.next_multiple_of(2);
    let rows = x.len() / width;
    for (tile, a) in a.chunks_exact(chunks * TILE_RANKS).enumerate() {
        let a = a.as_chunks::<TILE_RANKS>().0;
        let mut row = 0;
        while row < rows {
            let two = V::MANY && rows - row > 1;
            let out = &mut out[row * stride + tile * TILE_RANKS..];
            let x = &x[row * width..];
            if two {
                bf16_tile::<V, TILE_RANKS, 2>(x, width, a, 0, out, stride);
            } else if V::MANY {
                bf16_tile::<V, TILE_RANKS, 1>(x, width, a, 0, out, stride);
            } else {
                bf16_tile::<V, 4, 1>(x, width, a, 0, out, stride);
                bf16_tile::<V, 4, 1>(x, width, a, 4, out, stride);
            }
            row += 1 + usize::from(two);
        }
    }
}

#[inline(always)]
fn bf16_tile<V: Lanes, const RANKS: usize, const ROWS: usize>(
    x: &[u16],
    width: usize,
    a: &[[Bf16Pairs; TILE_RANKS]],
    first: usize,
    out: &mut [f32],
    stride: usize,
) {
    let mut sums = [[V::splat(0.0); RANKS]; ROWS];
    let mut rows: [&[[u16; PAIRS]]; ROWS] = [&[]; ROWS];
    let mut ends = [[0u16; PAIRS]; ROWS];
    for r in 0..ROWS {
        let (whole, rest) = x[r * width..][..width].as_chunks::<PAIRS>();
        rows[r] = whole;
        ends[r][..rest.len()].copy_from_slice(rest);
    }
    let whole = width / PAIRS;
    for (chunk, lines) in a.iter().enumerate() {
        if first == 0 {
            ahead(lines);
        }
        let mut pairs = [[0u32; LANES]; ROWS];
        let mut values = [(V::splat(0.0), V::splat(0.0)); ROWS];
        for r in 0..ROWS {
            pairs[r] = words(if chunk < whole {
                &rows[r][chunk]
            } else {
                &ends[r]
            });
            if !V::HAS_PAIRS {
                values[r] = (V::load_bf16_low(&pairs[r]), V::load_bf16_high(&pairs[r]));
            }
        }
        for i in 0..RANKS {
            let line = &lines[first + i].0;
            if V::HAS_PAIRS {
                for r in 0..ROWS {
                    sums[r][i] = sums[r][i].add_words(&pairs[r], line);
                }
                continue;
            }
            let (low, high) = (V::load_bf16_low(line), V::load_bf16_high(line));
            for r in 0..ROWS {
                let sum = values[r].0.mul_add(low, sums[r][i]);
                sums[r][i] = values[r].1.mul_add(high, sum);
            }
        }
    }
    store(&sums, &mut out[first..], stride);
}

#[inline(always)]
fn store<V: Lanes, const RANKS: usize, const ROWS: usize>(
    sums: &[[V; RANKS]; ROWS],
    out: &mut [f32],
    stride: usize,
) {
    for r in 0..ROWS {
        let out = &mut out[r * stride..][..RANKS];
        for i in 0..RANKS {
            out[i] = sums[r][i].sum();
        }
    }
}

/// Past the end it asks for what lies there, of no use but for nothing.
#[inline(always)]
fn ahead<L>(lines: &[L; TILE_RANKS]) {
    let start = lines.as_ptr().wrapping_add(AHEAD * TILE_RANKS);
    for line in 0..TILE_RANKS {
        prefetch(start.wrapping_add(line));
    }
}

/// Neighbours together, the first of two in the low half.
#[inline(always)]
fn words(values: &[u16; PAIRS]) -> [u32; LANES] {
    if cfg!(target_endian = "big") {
        return std::array::from_fn(|i| {
            u32::from(values[2 * i]) | u32::from(values[2 * i + 1]) << 16
        });
    }
    // SAFETY: the same 64 bytes, in which the first of two is the low half.
    unsafe { values.as_ptr().cast::<[u32; LANES]>().read_unaligned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LoraDtype;
    use half::bf16;

    /// On a machine with the instruction the dispatch never comes to the loops for those without.
    #[test]
    fn bf16_rows_without_the_instruction_shrink_to_the_same() {
        for (rank, k) in [(3, 1), (8, 31), (13, 70), (40, 96), (70, 576)] {
            let wave = |count: usize, step: f32| -> Vec<f32> {
                (0..count).map(|i| (i as f32 * step).sin()).collect()
            };
            let (a, b) = (wave(rank * k, 0.7), wave(rank, 1.3));
            let lora = LoraMatrix::pack(rank, k, 1, &a, &b, 1.0, LoraDtype::Bf16).expect("fits");
            let Packed::Bf16 { a, .. } = lora.packed() else {
                unreachable!("packed as asked")
            };
            let (rows, width) = (3, k.next_multiple_of(2));
            let mut x = vec![0u16; rows * width];
            for (x, values) in x.chunks_exact_mut(width).zip(wave(rows * k, 0.3).chunks(k)) {
                for (x, value) in x.iter_mut().zip(values) {
                    *x = bf16::from_f32(*value).to_bits();
                }
            }
            let class = lora.class();
            for level in crate::dispatch::levels() {
                let mut found = vec![f32::NAN; rows * class];
                bf16_at(level, &x, k, a, &mut found, class);
                let mut expected = vec![f32::NAN; rows * class];
                shrink(level, Rows::Bf16(&x), &lora, &mut expected, class);
                for (found, expected) in found.iter().zip(&expected) {
                    let size = (k as f32).sqrt();
                    assert!(
                        (found - expected).abs() <= 2e-6 * size,
                        "{level:?} rank {rank} of {k}: {found} {expected}"
                    );
                }
            }
        }
    }
}
