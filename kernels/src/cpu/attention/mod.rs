//! The walk of paged attention: queries over the blocks they see, tile by tile, and what becomes of partial results.
//!
//! All is generic over registers and over what keys and values are stored as. [`plan`] says who walks what, [`step`] holds the
//! inner loops.

pub(crate) mod plan;
mod step;

use super::lanes::{LANES, Lanes, at_level};
use crate::ops::kv::{BLOCK_TOKENS, Bf16Cells, Cells, F32Cells, KvShape};
use crate::ops::paged_attention::AttentionSpec;
use crate::ops::{exp2, widened};
use std::cell::RefCell;
use std::ops::Range;
use step::{Block, Group, Tile, step};

/// Blocks whose scores are computed before their values are read.
const TILE_BLOCKS: usize = 4;
/// Positions with a softmax of their own. Long enough that combining is nothing, short enough that one long
/// sequence keeps all threads busy.
pub(crate) const SPLIT_TOKENS: usize = 256;
/// Scores are kept in units of ln 2, so that a weight is 2 to the score: a cheaper power.
const UNIT: f32 = std::f32::consts::LOG2_E;
const SPLIT_BLOCKS: usize = SPLIT_TOKENS / BLOCK_TOKENS;
const _: () = assert!(SPLIT_BLOCKS.is_multiple_of(TILE_BLOCKS));

/// The query vectors of an item: `group` heads of each of its rows.
#[derive(Clone, Copy)]
pub(crate) struct Queries<'a> {
    pub qkv: &'a [f32],
    pub stride: usize,
    /// Where the group's first head begins in a row.
    pub column: usize,
    pub group: usize,
    pub first_row: usize,
    pub rows: usize,
    /// Position of the first row.
    pub first_position: usize,
}

/// One item: queries over some splits of their sequence.
pub(crate) struct Walk<'a, C: Cells> {
    /// The layer's memory.
    pub words: &'a [C::Word],
    pub shape: KvShape,
    pub kv_head: usize,
    pub blocks: &'a [u32],
    pub spec: AttentionSpec,
    pub queries: Queries<'a>,
    pub splits: Range<usize>,
    /// Results of all queries, [`partial_len`] each.
    pub partial: &'a mut [f32],
}

/// Where a query's result holds its total weight (lane by lane) and its weighted sums; a register that begins with its
/// highest score comes before.
const TOTALS: usize = LANES;
const SUMS: usize = 2 * LANES;

/// Length of a query's result.
pub(crate) fn partial_len(shape: &KvShape) -> usize {
    SUMS + shape.padded_dim()
}

/// Element types with a walk at each level.
pub(crate) trait Walked: Cells + Sized {
    fn walk(level: crate::Level, walk: Walk<'_, Self>);
}

// The state is borrowed out here: a closure inside would be compiled without the level's features.
impl Walked for F32Cells {
    fn walk(level: crate::Level, walk: Walk<'_, F32Cells>) {
        STATE.with_borrow_mut(|state| walk_f32(level, walk, state));
    }
}

impl Walked for Bf16Cells {
    fn walk(level: crate::Level, walk: Walk<'_, Bf16Cells>) {
        STATE.with_borrow_mut(|state| {
            #[cfg(target_arch = "x86_64")]
            if level == crate::Level::Avx512 && crate::dispatch::has_bf16_products() {
                // SAFETY: the level was detected, and so was the feature it does not include.
                return unsafe { walk_bf16_pairs(walk, state) };
            }
            walk_bf16(level, walk, state);
        });
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,fma,f16c")]
fn walk_bf16_pairs(walk: Walk<'_, Bf16Cells>, state: &mut State) {
    walk_body::<super::lanes::Avx512Pairs, Bf16Cells>(walk, state);
}

at_level!(walk_f32 = walk_body_f32(walk: Walk<'_, F32Cells>, state: &mut State));
at_level!(walk_bf16 = walk_body_bf16(walk: Walk<'_, Bf16Cells>, state: &mut State));

#[inline(always)]
fn walk_body_f32<V: Lanes>(walk: Walk<'_, F32Cells>, state: &mut State) {
    walk_body::<V, F32Cells>(walk, state);
}

#[inline(always)]
fn walk_body_bf16<V: Lanes>(walk: Walk<'_, Bf16Cells>, state: &mut State) {
    walk_body::<V, Bf16Cells>(walk, state);
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

/// Kept, so that an item allocates nothing.
#[derive(Default)]
struct State {
    /// Queries times scale, group after group; within a group register by register, so that sixteen dimensions of each
    /// query lie together.
    queries: Vec<f32>,
    /// Results of a split that is not the walk's first.
    split: Vec<f32>,
}

/// How many of the `left` queries go together: 8, 4, 3, 2 or 1.
#[inline(always)]
fn group_len(left: usize) -> usize {
    match left {
        8.. => 8,
        4.. => 4,
        left => left,
    }
}

#[inline(always)]
fn walk_body<V: Lanes, C: Cells>(walk: Walk<'_, C>, state: &mut State) {
    let Walk {
        shape,
        spec,
        queries,
        ..
    } = walk;
    let width = shape.padded_dim();
    let partial_len = SUMS + width;
    let count = queries.rows * queries.group;
    state.pack(&queries, shape.head_dim, spec.scale * UNIT);
    let first_seen = spec.first_seen(queries.first_position);
    let last = queries.first_position + queries.rows - 1;
    for (index, split) in walk.splits.enumerate() {
        let partial = match index {
            0 => &mut *walk.partial,
            _ => {
                state.split.resize(count * partial_len, 0.0);
                &mut state.split[..]
            }
        };
        clear(partial, partial_len);
        let first_block = (split * SPLIT_BLOCKS).max(first_seen / BLOCK_TOKENS);
        let end_block = ((split + 1) * SPLIT_BLOCKS).min(last / BLOCK_TOKENS + 1);
        let head_at = |index: usize| -> Block<'_, C::Word> {
            let start =
                (walk.blocks[index] as usize * shape.kv_heads + walk.kv_head) * shape.head_words();
            walk.words[start..][..shape.head_words()].split_at(shape.key_words())
        };
        let mut block = first_block;
        while block < end_block {
            // Tiles begin at multiples of their length, whatever a window cuts off before.
            let tile_end = ((block / TILE_BLOCKS + 1) * TILE_BLOCKS).min(end_block);
            let mut tile = Tile::<C> {
                blocks: [(&[], &[]); TILE_BLOCKS],
                ahead: [(&[], &[]); TILE_BLOCKS],
                len: tile_end - block,
                first_position: block * BLOCK_TOKENS,
                filled: last + 1 - block * BLOCK_TOKENS,
                width,
                spec,
            };
            for (slot, index) in (block..tile_end).enumerate() {
                tile.blocks[slot] = head_at(index);
                // Past the last block: its own, which is here already.
                let ahead = index + TILE_BLOCKS;
                tile.ahead[slot] = head_at(if ahead <= last / BLOCK_TOKENS {
                    ahead
                } else {
                    index
                });
            }
            let mut done = 0;
            while done < count {
                let len = group_len(count - done);
                let group = Group {
                    queries: &state.queries[done * width..][..len * width],
                    partial: &mut partial[done * partial_len..][..len * partial_len],
                    first: done,
                    position: queries.first_position,
                    heads: queries.group,
                };
                match len {
                    8 => step::<V, C, 8>(&tile, group),
                    4 => step::<V, C, 4>(&tile, group),
                    3 => step::<V, C, 3>(&tile, group),
                    2 => step::<V, C, 2>(&tile, group),
                    _ => step::<V, C, 1>(&tile, group),
                }
                done += len;
            }
            block = tile_end;
        }
        if index > 0 {
            merge_body::<true>(&state.split, partial_len, walk.partial);
        }
    }
}

impl State {
    #[inline(always)]
    fn pack(&mut self, queries: &Queries<'_>, dim: usize, scale: f32) {
        let width = dim.next_multiple_of(LANES);
        let count = queries.rows * queries.group;
        self.queries.resize(count * width, 0.0);
        let mut done = 0;
        while done < count {
            let len = group_len(count - done);
            let packed = &mut self.queries[done * width..][..len * width];
            for r in 0..len {
                let (row, head) = ((done + r) / queries.group, (done + r) % queries.group);
                let start =
                    (queries.first_row + row) * queries.stride + queries.column + head * dim;
                let query = &queries.qkv[start..][..dim];
                for (i, values) in query.chunks(LANES).enumerate() {
                    let packed = &mut packed[(i * len + r) * LANES..][..values.len()];
                    for (packed, value) in packed.iter_mut().zip(values) {
                        *packed = value * scale;
                    }
                }
            }
            done += len;
        }
    }
}

/// Makes results those of no position at all.
#[inline(always)]
fn clear(partial: &mut [f32], partial_len: usize) {
    partial.fill(0.0);
    for partial in partial.chunks_exact_mut(partial_len) {
        partial[0] = f32::NEG_INFINITY;
    }
}

widened!(
    /// Adds the results `part`, those of later positions, to those in `into`.
    merge_at = merge_body(part: &[f32], partial_len: usize, into: &mut [f32])
);

pub(crate) fn merge(level: crate::Level, part: &[f32], partial_len: usize, into: &mut [f32]) {
    merge_at(level, part, partial_len, into);
}

#[inline(always)]
fn merge_body<const FMA: bool>(part: &[f32], partial_len: usize, into: &mut [f32]) {
    let parts = part.chunks_exact(partial_len);
    for (part, into) in parts.zip(into.chunks_exact_mut(partial_len)) {
        // Nothing of one of them is visible: a window has moved past it, or a row is not there yet.
        if part[0] <= f32::MIN {
            continue;
        }
        if into[0] <= f32::MIN {
            into.copy_from_slice(part);
            continue;
        }
        let highest = into[0].max(part[0]);
        let (old, new) = (exp2(into[0] - highest), exp2(part[0] - highest));
        into[0] = highest;
        for (into, part) in into[TOTALS..].iter_mut().zip(&part[TOTALS..]) {
            *into = *into * old + part * new;
        }
    }
}

widened!(
    /// Divides the sums of one row's heads by their totals.
    write_out_at = write_out_body(partial: &[f32], dim: usize, partial_len: usize, out: &mut [f32])
);

pub(crate) fn write_out(
    level: crate::Level,
    partial: &[f32],
    dim: usize,
    partial_len: usize,
    out: &mut [f32],
) {
    write_out_at(level, partial, dim, partial_len, out);
}

#[inline(always)]
fn write_out_body<const FMA: bool>(
    partial: &[f32],
    dim: usize,
    partial_len: usize,
    out: &mut [f32],
) {
    let heads = out.chunks_exact_mut(dim);
    for (out, partial) in heads.zip(partial.chunks_exact(partial_len)) {
        let scale = 1.0 / partial[TOTALS..SUMS].iter().sum::<f32>();
        for (out, sum) in out.iter_mut().zip(&partial[SUMS..]) {
            *out = sum * scale;
        }
    }
}
