//! The inner loops of paged attention: scores of a tile, their softmax, and its values by weight.
//!
//! Queries come in groups of up to eight that share each load of a key or value. Positions come in tiles of
//! [`TILE_BLOCKS`] blocks: all scores of a tile, one correction of the running maximum, then all its values. Groups and tiles
//! are cut at fixed places and every sum runs over positions in order, so no grouping changes a bit.

use super::{SUMS, TILE_BLOCKS, TOTALS, UNIT};
use crate::cpu::lanes::{LANES, Lanes, prefetch};
use crate::ops::kv::{BLOCK_TOKENS, Cells};
use crate::ops::paged_attention::AttentionSpec;

/// One head's keys and values in a block.
pub(super) type Block<'a, W> = (&'a [W], &'a [W]);

/// Up to [`TILE_BLOCKS`] blocks of one head.
pub(super) struct Tile<'a, C: Cells> {
    pub blocks: [Block<'a, C::Word>; TILE_BLOCKS],
    /// What comes after them: blocks lie anywhere, and the machine's own foresight ends with each.
    pub ahead: [Block<'a, C::Word>; TILE_BLOCKS],
    pub len: usize,
    pub first_position: usize,
    /// Positions from there on that hold something the item's rows may see; may be more than the tile has.
    pub filled: usize,
    pub width: usize,
    pub spec: AttentionSpec,
}

/// Up to eight queries and their state.
pub(super) struct Group<'a> {
    pub queries: &'a [f32],
    pub partial: &'a mut [f32],
    /// Number of its first query in the item, the item's first position, and the queries of a row: they give positions.
    pub first: usize,
    pub position: usize,
    pub heads: usize,
}

/// What each position of a tile weighs for one query: as f32, or rounded to bf16 in pairs where those are multiplied.
#[derive(Clone, Copy)]
struct Weights {
    values: [[f32; LANES]; TILE_BLOCKS],
    pairs: [[u32; LANES / 2]; TILE_BLOCKS],
}

#[inline(always)]
pub(super) fn step<V: Lanes, C: Cells, const R: usize>(tile: &Tile<'_, C>, group: Group<'_>) {
    let mut weights = [Weights {
        values: [[0.0; LANES]; TILE_BLOCKS],
        pairs: [[0; LANES / 2]; TILE_BLOCKS],
    }; R];
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
                weights[r].values[slot] = values;
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
        let Weights { values, pairs } = &mut weights[r];
        for (weight, pair) in values.iter_mut().zip(pairs).take(tile.len) {
            let mut value = V::load(weight).add(top).exp2();
            if has_pairs::<V, C>() {
                // The total is that of the rounded weights: their rounding shifts an average, and scales nothing.
                (*pair, value) = value.round_pairs();
            } else {
                *weight = value.array();
            }
            total = total.add(value);
        }
        let totals = partial[TOTALS..]
            .first_chunk_mut()
            .expect("before the sums");
        *totals = V::load(totals).mul_add(V::splat(shrink[r]), total).array();
    }
    let values = Values {
        weights: &weights,
        shrink: &shrink,
        is_first: group.first == 0,
    };
    let mut column = 0;
    while column < tile.width {
        let left = (tile.width - column) / LANES;
        if R <= 4 && left >= 4 {
            values.add::<V, C, 4>(tile, column, group.partial);
            column += 4 * LANES;
        } else if left >= 2 {
            values.add::<V, C, 2>(tile, column, group.partial);
            column += 2 * LANES;
        } else {
            values.add::<V, C, 1>(tile, column, group.partial);
            column += LANES;
        }
    }
}

/// Whether values are added by products of bf16 pairs. Weights are rounded for it, to as many bits as the values have
/// already: what that adds to the error is no more than was there. Scores stay products of f32 queries, since what rounds
/// a query goes through a power.
#[inline(always)]
fn has_pairs<V: Lanes, C: Cells>() -> bool {
    V::HAS_PAIRS && C::WORD_VALUES == 2
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

/// How much of a tile's values goes into each query's sums.
struct Values<'a, const R: usize> {
    weights: &'a [Weights; R],
    /// Factors of what is there already.
    shrink: &'a [f32; LANES],
    is_first: bool,
}

impl<const R: usize> Values<'_, R> {
    /// Adds to `N` registers of each query's sums, from `column` on.
    #[inline(always)]
    fn add<V: Lanes, C: Cells, const N: usize>(
        &self,
        tile: &Tile<'_, C>,
        column: usize,
        partial: &mut [f32],
    ) {
        let sums = |r: usize| r * (SUMS + tile.width) + SUMS + column..;
        let mut parts = [[V::splat(0.0); N]; R];
        for r in 0..R {
            let sums = partial[sums(r)].as_chunks::<LANES>().0;
            for n in 0..N {
                parts[r][n] = V::load(&sums[n]).mul(V::splat(self.shrink[r]));
            }
        }
        for (slot, (_, values)) in tile.blocks[..tile.len].iter().enumerate() {
            let filled = (tile.filled - slot * BLOCK_TOKENS).min(BLOCK_TOKENS);
            let rows = values.chunks_exact(tile.width).enumerate();
            for (j, row) in rows.take(filled.div_ceil(C::WORD_VALUES)) {
                let words = row[column..].as_chunks::<LANES>().0;
                if self.is_first {
                    for n in 0..N {
                        let ahead = tile.ahead[slot].1.as_ptr();
                        prefetch(ahead.wrapping_add(j * tile.width + column + n * LANES));
                    }
                }
                // The odd position of the last pair may never have been written; not even its product with 0 is safe.
                let is_whole = (j + 1) * C::WORD_VALUES <= filled;
                self.add_row::<V, C, N>(slot, j, words, is_whole, &mut parts);
            }
        }
        for r in 0..R {
            let sums = partial[sums(r)].as_chunks_mut::<LANES>().0;
            for n in 0..N {
                sums[n] = parts[r][n].array();
            }
        }
    }

    /// Adds one row of words: a position, or a pair of them of which the second counts only when it `is_whole`.
    #[inline(always)]
    fn add_row<V: Lanes, C: Cells, const N: usize>(
        &self,
        slot: usize,
        j: usize,
        words: &[[C::Word; LANES]],
        is_whole: bool,
        parts: &mut [[V; N]; R],
    ) {
        if has_pairs::<V, C>() {
            for n in 0..N {
                let masked;
                let mut pairs = C::pairs(&words[n]);
                if !is_whole {
                    masked = pairs.map(|pair| pair & 0xffff);
                    pairs = &masked;
                }
                for r in 0..R {
                    let weight = self.weights[r].pairs[slot][j];
                    parts[r][n] = parts[r][n].add_pairs(weight, pairs);
                }
            }
            return;
        }
        let position = j * C::WORD_VALUES;
        for n in 0..N {
            let value = C::low::<V>(&words[n]);
            for r in 0..R {
                let weight = V::splat(self.weights[r].values[slot][position]);
                parts[r][n] = weight.mul_add(value, parts[r][n]);
            }
        }
        if C::WORD_VALUES == 2 && is_whole {
            for n in 0..N {
                let value = C::high::<V>(&words[n]);
                for r in 0..R {
                    let weight = V::splat(self.weights[r].values[slot][position + 1]);
                    parts[r][n] = weight.mul_add(value, parts[r][n]);
                }
            }
        }
    }
}
