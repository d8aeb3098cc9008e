//! Causal attention of query rows over a paged key/value pool, heads grouped.
//!
//! One item of work is (sequence, up to [`TILE_ROWS`] rows, kv head): all query heads of the group
//! share what is read. Within an item, up to four query vectors walk the blocks together with an online
//! softmax. A row's sums run over its own blocks in order, whatever it is grouped with.

use super::kv_write::{BLOCK_TOKENS, KvShape};
use crate::cpu::lanes::{LANES, Lanes, at_level};
use crate::cpu::pool::{Disjoint, Pool};
use crate::dispatch;

/// Rows of one sequence in one item of work.
const TILE_ROWS: usize = 8;
/// The longest head the accumulators hold.
pub const MAX_HEAD_DIM: usize = 256;

/// Consecutive query rows of one sequence.
#[derive(Debug, Clone, Copy)]
pub struct AttentionRows<'a> {
    /// First of its rows in `q` and `out`.
    pub first_row: usize,
    pub rows: usize,
    /// Position of that first row; row i sees positions `0..=first_position + i`.
    pub first_position: usize,
    /// The sequence's block table, long enough for its last row.
    pub blocks: &'a [u32],
}

/// Where queries are and results go: `q` rows are `q_stride` wide and begin with the query heads,
/// `out` rows are `heads * head_dim` wide.
#[derive(Debug)]
pub struct AttentionIo<'a> {
    pub q: &'a [f32],
    pub q_stride: usize,
    pub heads: usize,
    pub out: &'a mut [f32],
}

/// Attends all rows of all sequences in layer `layer`.
///
/// # Panics
/// When `heads` is no multiple of the kv heads, the head dimension is above [`MAX_HEAD_DIM`], or a slice is too short.
pub fn paged_attention(
    pool: &Pool,
    kv: &[f32],
    shape: &KvShape,
    layer: usize,
    sequences: &[AttentionRows<'_>],
    io: AttentionIo<'_>,
) {
    paged_attention_at(dispatch::level(), pool, kv, shape, layer, sequences, io);
}

/// The same at a chosen level; parity tests compare levels.
pub fn paged_attention_at(
    level: crate::Level,
    pool: &Pool,
    kv: &[f32],
    shape: &KvShape,
    layer: usize,
    sequences: &[AttentionRows<'_>],
    io: AttentionIo<'_>,
) {
    assert!(shape.head_dim <= MAX_HEAD_DIM);
    assert_eq!(io.heads % shape.kv_heads, 0);
    let mut tiles = Vec::new();
    for sequence in sequences {
        let mut done = 0;
        while done < sequence.rows {
            let rows = TILE_ROWS.min(sequence.rows - done);
            tiles.push(AttentionRows {
                first_row: sequence.first_row + done,
                rows,
                first_position: sequence.first_position + done,
                blocks: sequence.blocks,
            });
            done += rows;
        }
    }
    let group = io.heads / shape.kv_heads;
    let out_stride = io.heads * shape.head_dim;
    let (q, q_stride) = (io.q, io.q_stride);
    let out = Disjoint::new(io.out);
    pool.run(tiles.len() * shape.kv_heads, &|item| {
        let tile = &tiles[item / shape.kv_heads];
        let kv_head = item % shape.kv_heads;
        let queries = tile.rows * group;
        let mut done = 0;
        while done < queries {
            let count = MAX_GROUP.min(queries - done);
            let mut work = Group {
                kv,
                shape,
                layer,
                kv_head,
                blocks: tile.blocks,
                positions: [0; MAX_GROUP],
                queries: [&[]; MAX_GROUP],
                outputs: Default::default(),
            };
            for slot in 0..count {
                let (row, head) = ((done + slot) / group, (done + slot) % group);
                let column = (kv_head * group + head) * shape.head_dim;
                let absolute_row = tile.first_row + row;
                work.positions[slot] = tile.first_position + row;
                work.queries[slot] = &q[absolute_row * q_stride + column..][..shape.head_dim];
                // SAFETY: each (row, head) belongs to one item and one slot of it, so no other
                // reference to this part of `out` exists while the job runs.
                work.outputs[slot] =
                    unsafe { out.slice(absolute_row * out_stride + column, shape.head_dim) };
            }
            attend_at(level, count, work);
            done += count;
        }
    });
}

/// Query vectors that walk the blocks together.
const MAX_GROUP: usize = 4;

struct Group<'a> {
    kv: &'a [f32],
    shape: &'a KvShape,
    layer: usize,
    kv_head: usize,
    blocks: &'a [u32],
    positions: [usize; MAX_GROUP],
    queries: [&'a [f32]; MAX_GROUP],
    outputs: [&'a mut [f32]; MAX_GROUP],
}

at_level!(attend_at = attend_some(count: usize, work: Group<'_>));

#[inline(always)]
fn attend_some<V: Lanes>(count: usize, work: Group<'_>) {
    match count {
        1 => attend::<V, 1>(work),
        2 => attend::<V, 2>(work),
        3 => attend::<V, 3>(work),
        _ => attend::<V, 4>(work),
    }
}

/// A block is as long as a register of lanes is wide: its scores are one register a query.
const B: usize = BLOCK_TOKENS;
const _: () = assert!(BLOCK_TOKENS == LANES);

#[inline(always)]
fn attend<V: Lanes, const R: usize>(work: Group<'_>) {
    let dim = work.shape.head_dim;
    let whole = dim / B * B;
    let scale = V::splat(1.0 / (dim as f32).sqrt());
    let last = work.positions[..R].iter().copied().max().unwrap_or(0);
    let mut sums = [[0.0f32; MAX_HEAD_DIM]; R];
    let mut top = [f32::NEG_INFINITY; R];
    let mut total = [0.0f32; R];

    for block_index in 0..=last / B {
        let start = work
            .shape
            .head_offset(work.blocks[block_index], work.layer, work.kv_head);
        let (keys, values) = work.kv[start..][..2 * dim * B].split_at(dim * B);
        let first = block_index * B;
        let filled = B.min(last + 1 - first);

        let mut scores = [V::splat(0.0); R];
        for (i, key) in keys.as_chunks::<B>().0.iter().enumerate() {
            let key = V::load(key);
            for r in 0..R {
                scores[r] = V::splat(work.queries[r][i]).mul_add(key, scores[r]);
            }
        }
        let mut weights = [[0.0f32; B]; R];
        let mut shrink = [0.0f32; R];
        for r in 0..R {
            let mut score = scores[r].mul(scale).array();
            // Past this row's own position: another row's future, or a slot never written.
            let visible = (work.positions[r] + 1).saturating_sub(first).min(B);
            score[visible..].fill(f32::NEG_INFINITY);
            let highest = score.iter().copied().fold(top[r], f32::max);
            let below = V::splat(1.0).mul_add(V::load(&score), V::splat(-highest));
            weights[r] = below.exp().array();
            shrink[r] = V::splat(top[r] - highest).exp().array()[0];
            total[r] = total[r] * shrink[r] + weights[r].iter().sum::<f32>();
            top[r] = highest;
        }
        let mut column = 0;
        while column < whole {
            let mut parts = [V::splat(0.0); R];
            for r in 0..R {
                let sums: &[f32; B] = sums[r][column..].first_chunk().expect("inside the head");
                parts[r] = V::load(sums).mul(V::splat(shrink[r]));
            }
            for j in 0..filled {
                let value = values[j * dim + column..]
                    .first_chunk()
                    .expect("inside the block");
                let value = V::load(value);
                for r in 0..R {
                    parts[r] = V::splat(weights[r][j]).mul_add(value, parts[r]);
                }
            }
            for r in 0..R {
                sums[r][column..column + B].copy_from_slice(&parts[r].array());
            }
            column += B;
        }
        for r in 0..R {
            for column in whole..dim {
                let mut part = sums[r][column] * shrink[r];
                for j in 0..filled {
                    part += weights[r][j] * values[j * dim + column];
                }
                sums[r][column] = part;
            }
        }
    }
    for r in 0..R {
        let scale = 1.0 / total[r];
        for (out, sum) in work.outputs[r].iter_mut().zip(&sums[r]) {
            *out = sum * scale;
        }
    }
}

/// The definition for one query vector: scores, softmax, weighted sum.
pub fn plain(
    kv: &[f32],
    shape: &KvShape,
    layer: usize,
    kv_head: usize,
    blocks: &[u32],
    position: usize,
    query: &[f32],
    out: &mut [f32],
) {
    let dim = shape.head_dim;
    let head = |p: usize| {
        let start = shape.head_offset(blocks[p / BLOCK_TOKENS], layer, kv_head);
        kv[start..][..shape.head_len()].split_at(dim * BLOCK_TOKENS)
    };
    let scores: Vec<f32> = (0..=position)
        .map(|p| {
            let (keys, slot) = (head(p).0, p % BLOCK_TOKENS);
            let dot: f32 = (0..dim)
                .map(|i| query[i] * keys[i * BLOCK_TOKENS + slot])
                .sum();
            dot / (dim as f32).sqrt()
        })
        .collect();
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> = scores.iter().map(|score| (score - highest).exp()).collect();
    let total: f32 = weights.iter().sum();
    for (i, out) in out.iter_mut().enumerate() {
        let sum: f32 = weights
            .iter()
            .enumerate()
            .map(|(p, weight)| weight * head(p).1[p % BLOCK_TOKENS * dim + i])
            .sum();
        *out = sum / total;
    }
}
