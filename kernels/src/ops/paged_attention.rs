//! Causal attention of query rows over paged keys and values, heads grouped.
//!
//! An item of work is (run, up to some rows, kv head): its queries are the group's heads of each row, and what they attend to
//! is read once for all of them. Positions are taken in splits of [`SPLIT_TOKENS`] at fixed places; each has an online softmax
//! of its own, and a row's splits are combined in their order. Hence a row's sums depend on its position and nothing else:
//! whether splits are walked by one thread (a prompt) or by several (one row over a long context) changes no bit,
//! nor do the rows it is computed with.

use super::attend_prepare::QkvLayout;
use super::kv::{BLOCK_TOKENS, Bf16Cells, F32Cells, KvDtype, KvMemory};
use crate::cpu::attention::{Queries, SPLIT_TOKENS, Walk, Walked, merge, partial_len, write_out};
use crate::cpu::pool::{Disjoint, Pool};
use crate::dispatch;
use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Queries an item holds where a row's group is not larger by itself.
const ITEM_QUERIES: usize = 48;

/// Consecutive query rows of one sequence.
#[derive(Debug, Clone, Copy)]
pub struct AttentionRows<'a> {
    /// First of its rows in the step.
    pub first_row: usize,
    pub rows: usize,
    /// Position of that first row; row i sees positions up to `first_position + i`.
    pub first_position: usize,
    /// The sequence's block table, long enough for its last row.
    pub blocks: &'a [u32],
}

/// How scores become weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionSpec {
    /// Factor of query times key; usually one over the root of the head dimension.
    pub scale: f32,
    /// How many positions a row sees, its own included; all when `None`. At least 1.
    pub window: Option<usize>,
    /// Scores bent to `cap * tanh(score / cap)`.
    pub soft_cap: Option<f32>,
}

impl AttentionSpec {
    /// The first position a row at `position` sees.
    pub(crate) fn first_seen(&self, position: usize) -> usize {
        self.window
            .map_or(0, |window| (position + 1).saturating_sub(window))
    }
}

/// Attends all rows of all runs in layer `layer`. Queries are those of `qkv` (see [`QkvLayout`]); keys and values are read
/// from memory only. `out` rows are `heads * head_dim` wide.
///
/// # Panics
/// When the layout is not the memory's, runs overlap or are out of order, or a slice or block table is too short.
pub fn paged_attention(
    pool: &Pool,
    kv: &KvMemory,
    layer: usize,
    runs: &[AttentionRows<'_>],
    qkv: &[f32],
    layout: QkvLayout,
    spec: AttentionSpec,
    out: &mut [f32],
) {
    paged_attention_at(
        dispatch::level(),
        pool,
        kv,
        layer,
        runs,
        qkv,
        layout,
        spec,
        out,
    );
}

/// The same at a chosen level; parity tests compare levels.
pub fn paged_attention_at(
    level: crate::Level,
    pool: &Pool,
    kv: &KvMemory,
    layer: usize,
    runs: &[AttentionRows<'_>],
    qkv: &[f32],
    layout: QkvLayout,
    spec: AttentionSpec,
    out: &mut [f32],
) {
    layout.check(&kv.shape());
    let out_stride = layout.heads * layout.head_dim;
    check_runs(
        runs,
        (qkv.len() / layout.stride).min(out.len() / out_stride),
    );
    assert!(
        spec.window != Some(0),
        "a window in which nothing is visible"
    );
    let step = Step {
        level,
        kv,
        layer,
        qkv,
        layout,
        spec,
    };
    match kv.shape().dtype {
        KvDtype::F32 => step.run::<F32Cells>(pool, runs, out),
        KvDtype::Bf16 => step.run::<Bf16Cells>(pool, runs, out),
    }
}

/// Rows of runs must not overlap, since each is written by one thread alone.
pub(crate) fn check_runs(runs: &[AttentionRows<'_>], rows: usize) {
    let mut end = 0;
    for run in runs {
        assert!(run.first_row >= end, "runs overlap or are out of order");
        end = run.first_row + run.rows;
    }
    assert!(end <= rows, "a run's rows are past the step's");
}

/// What is the same for all items.
struct Step<'a> {
    level: crate::Level,
    kv: &'a KvMemory,
    layer: usize,
    qkv: &'a [f32],
    layout: QkvLayout,
    spec: AttentionSpec,
}

/// Some rows of a run, and the splits they see.
struct Tile<'a> {
    rows: AttentionRows<'a>,
    first_split: usize,
    splits: usize,
    /// Items of this tile and one kv head: one a split when partial results wait in the buffer, else one.
    items: usize,
    /// Items of the tiles before it, for one kv head.
    first_item: usize,
    /// Where its partial results begin in the buffer, for its first kv head.
    partials: usize,
}

impl Step<'_> {
    fn run<C: Walked>(&self, pool: &Pool, runs: &[AttentionRows<'_>], out: &mut [f32]) {
        let QkvLayout {
            heads,
            kv_heads,
            head_dim,
            ..
        } = self.layout;
        let group = heads / kv_heads;
        let partial_len = partial_len(&self.kv.shape());
        let mut tiles: Vec<Tile<'_>> = Vec::new();
        let mut items = 0;
        let mut partials = 0;
        for run in runs {
            let tile_rows = tile_rows(group);
            for first in (0..run.rows).step_by(tile_rows) {
                let rows = AttentionRows {
                    first_row: run.first_row + first,
                    rows: tile_rows.min(run.rows - first),
                    first_position: run.first_position + first,
                    blocks: run.blocks,
                };
                let first_split = self.spec.first_seen(rows.first_position) / SPLIT_TOKENS;
                let last = rows.first_position + rows.rows - 1;
                let splits = last / SPLIT_TOKENS + 1 - first_split;
                // A prompt has tiles enough for all threads; a single row over a long context has not.
                let is_split = run.rows <= tile_rows && splits > 1;
                let tile = Tile {
                    rows,
                    first_split,
                    splits,
                    items: if is_split { splits } else { 1 },
                    first_item: items,
                    partials,
                };
                items += tile.items;
                if is_split {
                    partials += kv_heads * splits * rows.rows * group * partial_len;
                }
                tiles.push(tile);
            }
        }
        let finished: Vec<AtomicUsize> = (0..tiles.len() * kv_heads)
            .map(|_| AtomicUsize::new(0))
            .collect();
        let out = Disjoint::new(out);
        PARTIALS.with_borrow_mut(|buffer| {
            if buffer.len() < partials {
                buffer.resize(partials, 0.0);
            }
            let buffer = Disjoint::new(buffer);
            pool.run(items * kv_heads, &|item| {
                // The last tiles of a prompt see most: they go first, so that no thread is left with one at the end.
                let (item, kv_head) = (items - 1 - item / kv_heads, item % kv_heads);
                let index = tiles.partition_point(|tile| tile.first_item <= item) - 1;
                let tile = &tiles[index];
                let queries = Queries {
                    qkv: self.qkv,
                    stride: self.layout.stride,
                    column: kv_head * group * head_dim,
                    group,
                    first_row: tile.rows.first_row,
                    rows: tile.rows.rows,
                    first_position: tile.rows.first_position,
                };
                let splits = match tile.items {
                    1 => tile.first_split..tile.first_split + tile.splits,
                    _ => {
                        let split = tile.first_split + item - tile.first_item;
                        split..split + 1
                    }
                };
                let walk = |partial: &mut [f32]| {
                    let walk = Walk {
                        words: self.kv.layer::<C>(self.layer),
                        shape: self.kv.shape(),
                        kv_head,
                        blocks: tile.rows.blocks,
                        spec: self.spec,
                        queries,
                        splits: splits.clone(),
                        partial,
                    };
                    C::walk(self.level, walk);
                };
                let store = |partial: &[f32]| {
                    for row in 0..queries.rows {
                        let start = (queries.first_row + row) * heads * head_dim + queries.column;
                        // SAFETY: runs do not overlap, so a row belongs to one tile; this thread is the only one that
                        // stores this tile and kv head.
                        let out = unsafe { out.slice(start, group * head_dim) };
                        let partial = &partial[row * group * partial_len..];
                        write_out(partial, head_dim, partial_len, out);
                    }
                };
                let len = queries.rows * group * partial_len;
                if tile.items == 1 {
                    PARTIAL.with_borrow_mut(|partial| {
                        partial.clear();
                        partial.resize(len, 0.0);
                        walk(partial);
                        store(partial);
                    });
                    return;
                }
                let start = tile.partials + kv_head * tile.splits * len;
                // SAFETY: each (tile, kv head, split) has a part of its own.
                walk(unsafe { buffer.slice(start + (item - tile.first_item) * len, len) });
                // Whoever comes last combines. Released by each, acquired by the last: it sees all parts.
                let before = finished[index * kv_heads + kv_head].fetch_add(1, Ordering::AcqRel);
                if before + 1 == tile.items {
                    // SAFETY: the items that wrote these parts are done with them.
                    let parts = unsafe { buffer.slice(start, tile.splits * len) };
                    PARTIAL.with_borrow_mut(|partial| {
                        partial.clear();
                        partial.resize(len, 0.0);
                        crate::cpu::attention::clear(partial, partial_len);
                        for part in parts.chunks_exact(len) {
                            merge(part, partial_len, partial);
                        }
                        store(partial);
                    });
                }
            });
        });
    }
}

thread_local! {
    /// An item's results before they are divided by their totals.
    static PARTIAL: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    /// Results of single splits, on the thread that calls. As large as the longest contexts of a step ask for: 1 in
    /// [`SPLIT_TOKENS`] of their keys and values in a layer, for each head of a group.
    static PARTIALS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Rows of an item: whole groups of eight where that is possible, since eight queries make a full step of the widest kernel.
fn tile_rows(group: usize) -> usize {
    match ITEM_QUERIES / group {
        0 => 1,
        rows @ 1..8 => rows,
        rows => rows / 8 * 8,
    }
}

/// The definition for one query vector: scores, softmax, weighted sum.
pub fn plain(
    kv: &KvMemory,
    layer: usize,
    kv_head: usize,
    blocks: &[u32],
    position: usize,
    query: &[f32],
    spec: AttentionSpec,
    out: &mut [f32],
) {
    let seen: Vec<(Vec<f32>, Vec<f32>)> = (spec.first_seen(position)..=position)
        .map(|p| kv.read(layer, blocks[p / BLOCK_TOKENS], kv_head, p % BLOCK_TOKENS))
        .collect();
    let score = |key: &[f32]| {
        let dot: f32 = query.iter().zip(key).map(|(q, k)| q * k).sum();
        match spec.soft_cap {
            Some(cap) => cap * (dot * spec.scale / cap).tanh(),
            None => dot * spec.scale,
        }
    };
    let scores: Vec<f32> = seen.iter().map(|(key, _)| score(key)).collect();
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> = scores.iter().map(|score| (score - highest).exp()).collect();
    let total: f32 = weights.iter().sum();
    for (i, out) in out.iter_mut().enumerate() {
        let values = weights
            .iter()
            .zip(&seen)
            .map(|(w, (_, value))| w * value[i]);
        *out = values.sum::<f32>() / total;
    }
}
