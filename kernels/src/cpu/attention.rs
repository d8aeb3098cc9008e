//! The inner loops of paged attention, generic over registers and over what keys and values are stored as.
//!
//! Queries are taken in groups of up to eight that share each load of a key or value. Positions are taken in tiles of
//! [`TILE_BLOCKS`] blocks: all scores of a tile, one correction of the running maximum, then all its values. Groups and tiles
//! are cut at fixed places and every sum runs over positions in order, so no grouping changes a bit.

use super::lanes::{LANES, Lanes, at_level};
use crate::ops::exp;
use crate::ops::kv::{BLOCK_TOKENS, Bf16Cells, Cells, F32Cells, KvShape};
use crate::ops::paged_attention::AttentionSpec;
use std::cell::RefCell;
use std::ops::Range;

/// Blocks whose scores are computed before their values are read.
const TILE_BLOCKS: usize = 4;
/// Positions with a softmax of their own. Long enough that combining is nothing, short enough that one long
/// sequence keeps all threads busy.
pub(crate) const SPLIT_TOKENS: usize = 256;
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
    /// Results: for each query its highest score, its total weight and its weighted sums; see [`partial_len`].
    pub partial: &'a mut [f32],
}

/// Length of a query's partial result: a register that begins with highest score and total weight, then the sums.
pub(crate) fn partial_len(shape: &KvShape) -> usize {
    LANES + shape.padded_dim()
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

/// What a walk carries from tile to tile, query by query; kept, so that an item allocates nothing.
#[derive(Default)]
struct State {
    /// Queries times scale, group after group, within a group dimension by dimension.
    queries: Vec<f32>,
    /// Sums so far, `padded_dim` each.
    sums: Vec<f32>,
    /// Total weights so far, lane by lane.
    totals: Vec<[f32; LANES]>,
    /// Highest scores so far.
    tops: Vec<f32>,
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
    let count = queries.rows * queries.group;
    state.pack(&queries, shape.head_dim, spec.scale);
    clear(walk.partial, partial_len(&shape));
    let first_seen = spec.first_seen(queries.first_position);
    let last = queries.first_position + queries.rows - 1;
    for split in walk.splits {
        state.restart(count, width);
        let first_block = (split * SPLIT_BLOCKS).max(first_seen / BLOCK_TOKENS);
        let end_block = ((split + 1) * SPLIT_BLOCKS).min(last / BLOCK_TOKENS + 1);
        let mut block = first_block;
        while block < end_block {
            // Tiles begin at multiples of their length, whatever a window cuts off before.
            let tile_end = ((block / TILE_BLOCKS + 1) * TILE_BLOCKS).min(end_block);
            let mut tile = Tile::<C> {
                blocks: [(&[], &[]); TILE_BLOCKS],
                len: tile_end - block,
                first_position: block * BLOCK_TOKENS,
                filled: last + 1 - block * BLOCK_TOKENS,
                width,
                spec,
            };
            for (slot, index) in (block..tile_end).enumerate() {
                let start = (walk.blocks[index] as usize * shape.kv_heads + walk.kv_head)
                    * shape.head_words();
                let words = &walk.words[start..][..shape.head_words()];
                tile.blocks[slot] = words.split_at(shape.key_words());
            }
            let mut done = 0;
            while done < count {
                let len = group_len(count - done);
                let group = Group {
                    queries: &state.queries[done * shape.head_dim..][..len * shape.head_dim],
                    sums: &mut state.sums[done * width..][..len * width],
                    totals: &mut state.totals[done..][..len],
                    tops: &mut state.tops[done..][..len],
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
        state.merge_into(walk.partial, width);
    }
}

impl State {
    fn pack(&mut self, queries: &Queries<'_>, dim: usize, scale: f32) {
        let count = queries.rows * queries.group;
        self.queries.resize(count * dim, 0.0);
        let mut done = 0;
        while done < count {
            let len = group_len(count - done);
            let packed = &mut self.queries[done * dim..][..len * dim];
            for r in 0..len {
                let (row, head) = ((done + r) / queries.group, (done + r) % queries.group);
                let start =
                    (queries.first_row + row) * queries.stride + queries.column + head * dim;
                let query = &queries.qkv[start..][..dim];
                for (values, value) in packed.chunks_exact_mut(len).zip(query) {
                    values[r] = value * scale;
                }
            }
            done += len;
        }
    }

    fn restart(&mut self, count: usize, width: usize) {
        self.sums.clear();
        self.sums.resize(count * width, 0.0);
        self.totals.clear();
        self.totals.resize(count, [0.0; LANES]);
        self.tops.clear();
        self.tops.resize(count, f32::NEG_INFINITY);
    }

    fn merge_into(&self, partial: &mut [f32], width: usize) {
        let queries = self.tops.iter().zip(&self.totals);
        let sums = self.sums.chunks_exact(width);
        let partials = partial.chunks_exact_mut(LANES + width);
        for (((top, total), sums), into) in queries.zip(sums).zip(partials) {
            merge_one(*top, total.iter().sum(), sums, into);
        }
    }
}

/// Makes partial results those of no position at all.
pub(crate) fn clear(partial: &mut [f32], partial_len: usize) {
    partial.fill(0.0);
    for partial in partial.chunks_exact_mut(partial_len) {
        partial[0] = f32::NEG_INFINITY;
    }
}

/// Adds the partial results `part` of later positions to those in `into`.
pub(crate) fn merge(part: &[f32], partial_len: usize, into: &mut [f32]) {
    let parts = part.chunks_exact(partial_len);
    for (part, into) in parts.zip(into.chunks_exact_mut(partial_len)) {
        merge_one(part[0], part[1], &part[LANES..], into);
    }
}

fn merge_one(top: f32, total: f32, sums: &[f32], into: &mut [f32]) {
    // Nothing of this split is visible: a window has moved past it.
    if total == 0.0 {
        return;
    }
    let highest = into[0].max(top);
    let (old, new) = (exp(into[0] - highest), exp(top - highest));
    into[0] = highest;
    into[1] = into[1] * old + total * new;
    for (into, sum) in into[LANES..].iter_mut().zip(sums) {
        *into = *into * old + sum * new;
    }
}

/// Divides the sums of one row's heads by their totals.
pub(crate) fn write_out(partial: &[f32], dim: usize, partial_len: usize, out: &mut [f32]) {
    let heads = out.chunks_exact_mut(dim);
    for (out, partial) in heads.zip(partial.chunks_exact(partial_len)) {
        let scale = 1.0 / partial[1];
        for (out, sum) in out.iter_mut().zip(&partial[LANES..]) {
            *out = sum * scale;
        }
    }
}

/// One head's keys and values in a block.
type Block<'a, W> = (&'a [W], &'a [W]);

/// Up to [`TILE_BLOCKS`] blocks of one head.
struct Tile<'a, C: Cells> {
    blocks: [Block<'a, C::Word>; TILE_BLOCKS],
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
    sums: &'a mut [f32],
    totals: &'a mut [[f32; LANES]],
    tops: &'a mut [f32],
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
    for (slot, (keys, _)) in tile.blocks[..tile.len].iter().enumerate() {
        let mut scores = scores::<V, C, R>(keys, group.queries);
        if let Some(cap) = tile.spec.soft_cap {
            for score in &mut scores {
                *score = bent(*score, cap);
            }
        }
        let first = tile.first_position + slot * BLOCK_TOKENS;
        if first < seen_by_all.start || first + BLOCK_TOKENS > seen_by_all.end {
            for r in 0..R {
                // Another row's future, a slot never written, or what the window has passed.
                let mut score = scores[r].array();
                let begin = tile.spec.first_seen(positions[r]).saturating_sub(first);
                let end = (positions[r] + 1).saturating_sub(first);
                score[..begin.min(BLOCK_TOKENS)].fill(f32::NEG_INFINITY);
                score[end.min(BLOCK_TOKENS)..].fill(f32::NEG_INFINITY);
                scores[r] = V::load(&score);
            }
        }
        for r in 0..R {
            highest[r] = highest[r].max(scores[r]);
            weights[r][slot] = scores[r].array();
        }
    }
    let mut shrink = [1.0f32; R];
    for r in 0..R {
        let top = highest[r].highest().max(group.tops[r]);
        if top == f32::NEG_INFINITY {
            weights[r] = [[0.0; LANES]; TILE_BLOCKS];
            continue;
        }
        let mut total = V::splat(0.0);
        for weight in &mut weights[r][..tile.len] {
            let value = V::load(weight).add(V::splat(-top)).exp();
            total = total.add(value);
            *weight = value.array();
        }
        shrink[r] = exp(group.tops[r] - top);
        total = V::load(&group.totals[r]).mul_add(V::splat(shrink[r]), total);
        group.totals[r] = total.array();
        group.tops[r] = top;
    }
    let mut column = 0;
    while column < tile.width {
        let left = (tile.width - column) / LANES;
        if R <= 4 && left >= 4 {
            add_values::<V, C, R, 4>(tile, column, &weights, &shrink, group.sums);
            column += 4 * LANES;
        } else if left >= 2 {
            add_values::<V, C, R, 2>(tile, column, &weights, &shrink, group.sums);
            column += 2 * LANES;
        } else {
            add_values::<V, C, R, 1>(tile, column, &weights, &shrink, group.sums);
            column += LANES;
        }
    }
}

/// Sixteen positions' scores for each query.
#[inline(always)]
fn scores<V: Lanes, C: Cells, const R: usize>(keys: &[C::Word], queries: &[f32]) -> [V; R] {
    let mut scores = [V::splat(0.0); R];
    let words = keys.as_chunks::<LANES>().0;
    let queries = queries.as_chunks::<R>().0;
    if C::WORD_VALUES == 1 {
        for (words, query) in words.iter().zip(queries) {
            let key = C::low::<V>(words);
            for r in 0..R {
                scores[r] = V::splat(query[r]).mul_add(key, scores[r]);
            }
        }
    } else {
        for (words, [even, odd]) in words.iter().zip(queries.as_chunks::<2>().0) {
            let key = C::low::<V>(words);
            for r in 0..R {
                scores[r] = V::splat(even[r]).mul_add(key, scores[r]);
            }
            let key = C::high::<V>(words);
            for r in 0..R {
                scores[r] = V::splat(odd[r]).mul_add(key, scores[r]);
            }
        }
    }
    scores
}

/// `cap * tanh(score / cap)`, by e^x: tanh x = 1 - 2 / (e^2x + 1).
#[inline(always)]
fn bent<V: Lanes>(score: V, cap: f32) -> V {
    let twice = score.mul(V::splat(2.0 / cap)).exp();
    let below = twice.add(V::splat(1.0));
    let part = V::splat(2.0 * cap).div(below);
    V::splat(cap).add(part.mul(V::splat(-1.0)))
}

/// `N` registers of each query's sums, from `column` on: what was there shrunk, plus the tile's values by weight.
#[inline(always)]
fn add_values<V: Lanes, C: Cells, const R: usize, const N: usize>(
    tile: &Tile<'_, C>,
    column: usize,
    weights: &[Weights; R],
    shrink: &[f32; R],
    sums: &mut [f32],
) {
    let mut parts = [[V::splat(0.0); N]; R];
    for r in 0..R {
        let sums = sums[r * tile.width + column..].as_chunks::<LANES>().0;
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
        let sums = sums[r * tile.width + column..].as_chunks_mut::<LANES>().0;
        for n in 0..N {
            sums[n] = parts[r][n].array();
        }
    }
}
