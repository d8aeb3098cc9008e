//! Causal attention of query rows over paged keys and values, heads grouped.
//!
//! An item of work is (run, up to some rows, kv head): its queries are the group's heads of each row, and what they attend to
//! is read once for all of them. Positions are taken in splits of `SPLIT_TOKENS` at fixed places; each has an online softmax
//! of its own, and a row's splits are combined in their order. Hence a row's sums depend on its position and nothing else:
//! whether splits are walked by one thread (a prompt) or by several (one row over a long context) changes no bit,
//! nor do the rows it is computed with.

use super::attend_prepare::QkvLayout;
use super::kv::{BLOCK_TOKENS, Bf16Cells, F32Cells, KvDtype, KvMemory};
use crate::cpu::attention::plan::{Plan, Tile};
use crate::cpu::attention::{Queries, Walk, Walked, merge, partial_len, write_out};
use crate::cpu::pool::{Disjoint, Pool};
use crate::dispatch;
use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

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

impl Step<'_> {
    fn run<C: Walked>(&self, pool: &Pool, runs: &[AttentionRows<'_>], out: &mut [f32]) {
        let kv_heads = self.layout.kv_heads;
        let group = self.layout.heads / kv_heads;
        let plan = Plan::new(runs, self.spec, group, kv_heads, pool.threads());
        let len = partial_len(&self.kv.shape());
        let finished: Vec<AtomicUsize> = (0..plan.tiles.len() * kv_heads)
            .map(|_| AtomicUsize::new(0))
            .collect();
        let out = Disjoint::new(out);
        WAITING.with_borrow_mut(|waiting| {
            if waiting.len() < plan.waiting * len {
                waiting.resize(plan.waiting * len, 0.0);
            }
            let waiting = Disjoint::new(waiting);
            pool.run(plan.items.len() * kv_heads, &|index| {
                let (item, kv_head) = (&plan.items[index / kv_heads], index % kv_heads);
                let tile = &plan.tiles[item.tile];
                let queries = self.queries(tile, kv_head);
                let walk = |splits, partial: &mut [f32]| {
                    let walk = Walk {
                        words: self.kv.layer::<C>(self.layer),
                        shape: self.kv.shape(),
                        kv_head,
                        blocks: tile.rows.blocks,
                        spec: self.spec,
                        queries,
                        splits,
                        partial,
                    };
                    C::walk(self.level, walk);
                };
                let queries_len = queries.rows * group * len;
                if tile.items == 1 {
                    PARTIAL.with_borrow_mut(|partial| {
                        partial.resize(queries_len, 0.0);
                        walk(item.splits.clone(), partial);
                        // SAFETY: this item is the tile's only one for this kv head.
                        unsafe { self.store(&queries, partial, &out) };
                    });
                    return;
                }
                let start =
                    (tile.waiting + kv_head * tile.splits.len() * queries.rows * group) * len;
                for split in item.splits.clone() {
                    let offset = (split - tile.splits.start) * queries_len;
                    // SAFETY: each (tile, kv head, split) has a part of its own, and is in one item.
                    let partial = unsafe { waiting.slice(start + offset, queries_len) };
                    walk(split..split + 1, partial);
                }
                // Whoever comes last combines. Released by each, acquired by the last: it sees all parts.
                let before =
                    finished[item.tile * kv_heads + kv_head].fetch_add(1, Ordering::AcqRel);
                if before + 1 == tile.items {
                    let parts_len = tile.splits.len() * queries_len;
                    // SAFETY: the items that wrote these parts are done with them.
                    let parts = unsafe { waiting.slice(start, parts_len) };
                    let (first, later) = parts.split_at_mut(queries_len);
                    for part in later.chunks_exact(queries_len) {
                        merge(self.level, part, len, first);
                    }
                    // SAFETY: only the last of the tile's items for this kv head comes here.
                    unsafe { self.store(&queries, first, &out) };
                }
            });
        });
    }

    fn queries(&self, tile: &Tile<'_>, kv_head: usize) -> Queries<'_> {
        let group = self.layout.heads / self.layout.kv_heads;
        Queries {
            qkv: self.qkv,
            stride: self.layout.stride,
            column: kv_head * group * self.layout.head_dim,
            group,
            first_row: tile.rows.first_row,
            rows: tile.rows.rows,
            first_position: tile.rows.first_position,
        }
    }

    /// Writes the finished results of one tile and kv head.
    ///
    /// # Safety
    /// No other thread may store the same tile and kv head. (Runs do not overlap, so no other tile has its rows.)
    unsafe fn store(&self, queries: &Queries<'_>, partial: &[f32], out: &Disjoint<'_, f32>) {
        let QkvLayout {
            heads, head_dim, ..
        } = self.layout;
        let len = partial_len(&self.kv.shape());
        for row in 0..queries.rows {
            let start = (queries.first_row + row) * heads * head_dim + queries.column;
            // SAFETY: this row's part for this kv head, which the caller alone writes.
            let out = unsafe { out.slice(start, queries.group * head_dim) };
            let partial = &partial[row * queries.group * len..];
            write_out(self.level, partial, head_dim, len, out);
        }
    }
}

thread_local! {
    /// An item's results before they are divided by their totals.
    static PARTIAL: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    /// Results of single splits, on the thread that calls. As large as the longest contexts of a step ask for: 1 in
    /// `SPLIT_TOKENS` of their keys and values in a layer, for each head of a group.
    static WAITING: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
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
