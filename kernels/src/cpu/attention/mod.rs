//! The inner loops of paged attention, generic over registers and over what keys and values are stored as.
//!
//! Queries are taken in groups of up to eight that share each load of a key or value. Positions are taken in tiles of
//! [`TILE_BLOCKS`] blocks: all scores of a tile, one correction of the running maximum, then all its values. Groups and tiles
//! are cut at fixed places and every sum runs over positions in order, so no grouping changes a bit.

pub(crate) mod plan;

use super::lanes::{LANES, Lanes, at_level, prefetch};
use crate::ops::kv::{BLOCK_TOKENS, Bf16Cells, Cells, F32Cells, KvShape};
use crate::ops::paged_attention::AttentionSpec;
use crate::ops::{exp2, widened};
use std::cell::RefCell;
use std::ops::Range;

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
        STATE.with_borrow_mut(|state| walk_bf16(level, walk, state));
    }
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

/// One head's keys and values in a block.
type Block<'a, W> = (&'a [W], &'a [W]);

/// Up to [`TILE_BLOCKS`] blocks of one head.
struct Tile<'a, C: Cells> {
    blocks: [Block<'a, C::Word>; TILE_BLOCKS],
    /// What comes after them: blocks lie anywhere, and the machine's own foresight ends with each.
    ahead: [Block<'a, C::Word>; TILE_BLOCKS],
    len: usize,
    first_position: usize,
    /// Positions from there on that hold something the item's rows may see; may be more than the tile has.
    filled: usize,
    width: usize,
    spec: AttentionSpec,
}

/// Up to eight queries and their state.
struct Group<'a> {
    queries: &'a [f32],
    partial: &'a mut [f32],
    /// Number of its first query in the item, the item's first position, and the queries of a row: they give positions.
    first: usize,
    position: usize,
    heads: usize,
}

type Weights = [[f32; LANES]; TILE_BLOCKS];

#[inline(always)]
fn step<V: Lanes, C: Cells, const R: usize>(tile: &Tile<'_, C>, group: Group<'_>) {
    let mut weights = [[[0.0f32; LANES]; TILE_BLOCKS]; R];
    let mut highest = [V::splat(f32::NEG_INFINITY); R];
    let positions: [usize; R] =
        std::array::from_fn(|r| group.position + (group.first + r) / group.heads);
    let seen_by_all = tile.spec.first_seen(positions[R - 1])..positions[0] + 1;
    let mut slot = 0;
    while slot < tile.len {
        // Two blocks together, where there are two, need each query's value in a register only once.
        let len = 2.min(tile.len - slot);
        let scores = match len {
            2 => scores::<V, C, R, 2>(tile, slot, group.first == 0, group.queries),
            _ => {
                let [scores] = scores::<V, C, R, 1>(tile, slot, group.first == 0, group.queries);
                [scores; 2]
            }
        };
        for (scores, slot) in scores.into_iter().zip(slot..slot + len) {
            let first = tile.first_position + slot * BLOCK_TOKENS;
            let is_seen = first >= seen_by_all.start && first + BLOCK_TOKENS <= seen_by_all.end;
            for r in 0..R {
                let mut score = scores[r];
                if let Some(cap) = tile.spec.soft_cap {
                    score = bent(score, cap);
                }
                let mut values = score.array();
                if !is_seen {
                    // Another row's future, a slot never written, or what the window has passed.
                    let begin = tile.spec.first_seen(positions[r]).saturating_sub(first);
                    let end = (positions[r] + 1).saturating_sub(first);
                    values[..begin.min(BLOCK_TOKENS)].fill(f32::NEG_INFINITY);
                    values[end.min(BLOCK_TOKENS)..].fill(f32::NEG_INFINITY);
                }
                weights[r][slot] = values;
                highest[r] = highest[r].max(V::load(&values));
            }
        }
        slot += len;
    }
    let partials = group.partial.chunks_exact_mut(SUMS + tile.width);
    let mut tops = [0.0f32; R];
    let mut shrink = [0.0f32; LANES];
    for (r, partial) in partials.enumerate().take(R) {
        // Nothing seen yet: every distance from this top is minus infinity, every weight 0.
        tops[r] = highest[r].highest().max(partial[0]).max(f32::MIN);
        shrink[r] = partial[0] - tops[r];
        partial[0] = tops[r];
    }
    let shrink = V::load(&shrink).exp2().array();
    let partials = group.partial.chunks_exact_mut(SUMS + tile.width);
    for (r, partial) in partials.enumerate().take(R) {
        let top = V::splat(-tops[r]);
        let mut total = V::splat(0.0);
        for weight in &mut weights[r][..tile.len] {
            let value = V::load(weight).add(top).exp2();
            total = total.add(value);
            *weight = value.array();
        }
        let totals = partial[TOTALS..]
            .first_chunk_mut()
            .expect("before the sums");
        *totals = V::load(totals).mul_add(V::splat(shrink[r]), total).array();
    }
    let mut column = 0;
    while column < tile.width {
        let left = (tile.width - column) / LANES;
        if R <= 4 && left >= 4 {
            add_values::<V, C, R, 4>(
                tile,
                column,
                &weights,
                &shrink,
                group.first == 0,
                group.partial,
            );
            column += 4 * LANES;
        } else if left >= 2 {
            add_values::<V, C, R, 2>(
                tile,
                column,
                &weights,
                &shrink,
                group.first == 0,
                group.partial,
            );
            column += 2 * LANES;
        } else {
            add_values::<V, C, R, 1>(
                tile,
                column,
                &weights,
                &shrink,
                group.first == 0,
                group.partial,
            );
            column += LANES;
        }
    }
}

/// The scores of `B` blocks from `slot` on, for each query.
#[inline(always)]
fn scores<V: Lanes, C: Cells, const R: usize, const B: usize>(
    tile: &Tile<'_, C>,
    slot: usize,
    is_first: bool,
    queries: &[f32],
) -> [[V; R]; B] {
    let mut scores = [[V::splat(0.0); R]; B];
    // Sixteen dimensions at a time: their words of each block's keys, and their values of each query.
    let step = LANES / C::WORD_VALUES;
    let mut keys: [_; B] =
        std::array::from_fn(|b| tile.blocks[slot + b].0.as_chunks::<LANES>().0.chunks(step));
    let queries = queries.as_chunks::<LANES>().0.as_chunks::<R>().0;
    for (chunk, query) in queries.iter().enumerate() {
        let keys: [&[[C::Word; LANES]]; B] = std::array::from_fn(|b| keys[b].next().unwrap_or(&[]));
        let words = keys.iter().map(|keys| keys.len()).min().unwrap_or(0);
        for i in 0..words.min(step) {
            if is_first {
                for b in 0..B {
                    let ahead = tile.ahead[slot + b].0.as_ptr();
                    prefetch(ahead.wrapping_add((chunk * step + i) * LANES));
                }
            }
            let key: [V; B] = std::array::from_fn(|b| C::low(&keys[b][i]));
            for r in 0..R {
                let query = V::splat(query[r][C::WORD_VALUES * i]);
                for b in 0..B {
                    scores[b][r] = query.mul_add(key[b], scores[b][r]);
                }
            }
            if C::WORD_VALUES == 2 {
                let key: [V; B] = std::array::from_fn(|b| C::high(&keys[b][i]));
                for r in 0..R {
                    let query = V::splat(query[r][2 * i + 1]);
                    for b in 0..B {
                        scores[b][r] = query.mul_add(key[b], scores[b][r]);
                    }
                }
            }
        }
    }
    scores
}

/// `cap * tanh(score / cap)`, by powers: tanh x = 1 - 2 / (e^2x + 1).
#[inline(always)]
fn bent<V: Lanes>(score: V, cap: f32) -> V {
    let twice = score.mul(V::splat(2.0 / cap)).exp2();
    let below = twice.add(V::splat(1.0));
    let part = V::splat(-2.0 * cap * UNIT).div(below);
    V::splat(cap * UNIT).add(part)
}

/// `N` registers of each query's sums, from `column` on: what was there shrunk, plus the tile's values by weight.
#[inline(always)]
fn add_values<V: Lanes, C: Cells, const R: usize, const N: usize>(
    tile: &Tile<'_, C>,
    column: usize,
    weights: &[Weights; R],
    shrink: &[f32; LANES],
    is_first: bool,
    partial: &mut [f32],
) {
    let sums = |r: usize| r * (SUMS + tile.width) + SUMS + column..;
    let mut parts = [[V::splat(0.0); N]; R];
    for r in 0..R {
        let sums = partial[sums(r)].as_chunks::<LANES>().0;
        for n in 0..N {
            parts[r][n] = V::load(&sums[n]).mul(V::splat(shrink[r]));
        }
    }
    for (slot, (_, values)) in tile.blocks[..tile.len].iter().enumerate() {
        let filled = (tile.filled - slot * BLOCK_TOKENS).min(BLOCK_TOKENS);
        for (j, row) in values.chunks_exact(tile.width).enumerate() {
            let position = j * C::WORD_VALUES;
            if position >= filled {
                break;
            }
            let words = row[column..].as_chunks::<LANES>().0;
            if is_first {
                for n in 0..N {
                    let ahead = tile.ahead[slot].1.as_ptr();
                    prefetch(ahead.wrapping_add(j * tile.width + column + n * LANES));
                }
            }
            for n in 0..N {
                let value = C::low::<V>(&words[n]);
                for r in 0..R {
                    parts[r][n] = V::splat(weights[r][slot][position]).mul_add(value, parts[r][n]);
                }
            }
            // The odd position of the last pair may never have been written; not even its product with 0 is safe.
            if C::WORD_VALUES == 2 && position + 1 < filled {
                for n in 0..N {
                    let value = C::high::<V>(&words[n]);
                    for r in 0..R {
                        let weight = V::splat(weights[r][slot][position + 1]);
                        parts[r][n] = weight.mul_add(value, parts[r][n]);
                    }
                }
            }
        }
    }
    for r in 0..R {
        let sums = partial[sums(r)].as_chunks_mut::<LANES>().0;
        for n in 0..N {
            sums[n] = parts[r][n].array();
        }
    }
}
