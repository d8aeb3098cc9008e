//! What happens to queries, keys and values between their product and attention: head norms, rotation, and keys and values
//! into their blocks, in one pass over the rows.

use super::kv::{BLOCK_TOKENS, Bf16Cells, Cells, F32Cells, KvDtype, KvMemory, KvShape};
use super::paged_attention::{AttentionRows, check_runs};
use super::rope::{RopeTable, Turn};
use super::{mul_add, widened};
use crate::cpu::pool::{Disjoint, Pool};
use crate::dispatch;

/// How queries, keys and values lie in a row: `heads * head_dim` of queries, then `kv_heads * head_dim` of keys and as many
/// of values; what follows up to `stride` is not touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QkvLayout {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub stride: usize,
}

impl QkvLayout {
    pub(crate) fn key_column(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Where the values begin.
    pub fn value_column(&self) -> usize {
        (self.heads + self.kv_heads) * self.head_dim
    }

    pub(crate) fn check(&self, shape: &KvShape) {
        assert_eq!(self.head_dim, shape.head_dim);
        assert_eq!(self.kv_heads, shape.kv_heads);
        assert_eq!(
            self.heads % self.kv_heads,
            0,
            "heads that do not divide into groups"
        );
        assert!(self.stride >= (self.heads + 2 * self.kv_heads) * self.head_dim);
    }
}

/// A root-mean-square norm of every head of queries and keys, before rotation. Weights are `head_dim` long.
#[derive(Debug, Clone, Copy)]
pub struct HeadNorm<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub epsilon: f32,
}

/// Norms and turns queries and keys of all rows in place, and stores keys and values in layer `layer` of `kv`.
/// `rope` is `None` for models (and layers) that know no positions.
///
/// # Panics
/// When the layout is not the memory's, runs overlap or are out of order, two runs write the same block, a position is past
/// the table, or a slice is too short.
pub fn attend_prepare(
    pool: &Pool,
    kv: &mut KvMemory,
    layer: usize,
    runs: &[AttentionRows<'_>],
    qkv: &mut [f32],
    layout: QkvLayout,
    norm: Option<HeadNorm<'_>>,
    rope: Option<&RopeTable>,
) {
    let level = dispatch::level();
    attend_prepare_at(level, pool, kv, layer, runs, qkv, layout, norm, rope);
}

/// The same at a chosen level; parity tests compare levels.
pub fn attend_prepare_at(
    level: crate::Level,
    pool: &Pool,
    kv: &mut KvMemory,
    layer: usize,
    runs: &[AttentionRows<'_>],
    qkv: &mut [f32],
    layout: QkvLayout,
    norm: Option<HeadNorm<'_>>,
    rope: Option<&RopeTable>,
) {
    let shape = kv.shape();
    layout.check(&shape);
    check_runs(runs, qkv.len() / layout.stride);
    if let Some(norm) = norm {
        assert_eq!(norm.q.len(), layout.head_dim);
        assert_eq!(norm.k.len(), layout.head_dim);
    }
    assert!(rope.is_none_or(|rope| rope.rotary_dim() <= layout.head_dim));

    // An item is what lies in one block: no two threads write the same one, and a prompt has as many as it fills blocks.
    let parts: Vec<Part> = runs.iter().flat_map(Part::of).collect();
    let mut written: Vec<u32> = parts.iter().map(|part| part.block).collect();
    written.sort_unstable();
    assert!(
        written.windows(2).all(|pair| pair[0] != pair[1]),
        "two runs write the same block"
    );
    let step = Step {
        level,
        shape,
        layout,
        norm,
        rope,
    };
    match shape.dtype {
        KvDtype::F32 => step.run::<F32Cells>(pool, kv, layer, &parts, qkv),
        KvDtype::Bf16 => step.run::<Bf16Cells>(pool, kv, layer, &parts, qkv),
    }
}

/// Rows of one run that lie in one block.
struct Part {
    first_row: usize,
    rows: usize,
    first_position: usize,
    block: u32,
}

impl Part {
    fn of<'a>(run: &AttentionRows<'a>) -> impl Iterator<Item = Part> + use<'a> {
        let run = *run;
        let end = run.first_position + run.rows;
        let blocks = run.first_position / BLOCK_TOKENS..end.div_ceil(BLOCK_TOKENS);
        blocks.map(move |index| {
            let first_position = run.first_position.max(index * BLOCK_TOKENS);
            Part {
                first_row: run.first_row + first_position - run.first_position,
                rows: end.min((index + 1) * BLOCK_TOKENS) - first_position,
                first_position,
                block: run.blocks[index],
            }
        })
    }
}

/// What is the same for all parts.
struct Step<'a> {
    level: crate::Level,
    shape: KvShape,
    layout: QkvLayout,
    norm: Option<HeadNorm<'a>>,
    rope: Option<&'a RopeTable>,
}

impl Step<'_> {
    fn run<C: Stored>(
        &self,
        pool: &Pool,
        kv: &mut KvMemory,
        layer: usize,
        parts: &[Part],
        qkv: &mut [f32],
    ) {
        let (layer_words, stride) = (self.shape.layer_words(), self.layout.stride);
        let memory = Disjoint::new(kv.layer_mut::<C>(layer));
        let rows = Disjoint::new(qkv);
        pool.run(parts.len(), &|item| {
            let part = &parts[item];
            let start = part.block as usize * layer_words;
            // SAFETY: no block is in two parts, as asserted by the caller of this function.
            let block = unsafe { memory.slice(start, layer_words) };
            // SAFETY: a part's rows are its own: runs do not overlap, and a run's parts are consecutive.
            let rows = unsafe { rows.slice(part.first_row * stride, part.rows * stride) };
            C::part(
                self.level,
                Work {
                    step: self,
                    first_position: part.first_position,
                    rows,
                    block,
                },
            );
        });
    }
}

/// One part with the memory it may touch.
struct Work<'a, C: Cells> {
    step: &'a Step<'a>,
    first_position: usize,
    rows: &'a mut [f32],
    /// All heads of one layer of a block.
    block: &'a mut [C::Word],
}

trait Stored: Cells + Sized {
    fn part(level: crate::Level, work: Work<'_, Self>);
}

impl Stored for F32Cells {
    fn part(level: crate::Level, work: Work<'_, F32Cells>) {
        part_f32(level, work);
    }
}

impl Stored for Bf16Cells {
    fn part(level: crate::Level, work: Work<'_, Bf16Cells>) {
        part_bf16(level, work);
    }
}

widened!(part_f32 = part_body_f32(work: Work<'_, F32Cells>));
widened!(part_bf16 = part_body_bf16(work: Work<'_, Bf16Cells>));

#[inline(always)]
fn part_body_f32<const FMA: bool>(work: Work<'_, F32Cells>) {
    part_body::<F32Cells, FMA>(work);
}

#[inline(always)]
fn part_body_bf16<const FMA: bool>(work: Work<'_, Bf16Cells>) {
    part_body::<Bf16Cells, FMA>(work);
}

#[inline(always)]
fn part_body<C: Cells, const FMA: bool>(work: Work<'_, C>) {
    let Step {
        shape,
        layout,
        norm,
        rope,
        ..
    } = work.step;
    let dim = layout.head_dim;
    for (i, row) in work.rows.chunks_exact_mut(layout.stride).enumerate() {
        let position = work.first_position + i;
        let (turned, values) = row.split_at_mut(layout.value_column());
        if let Some(norm) = norm {
            let (queries, keys) = turned.split_at_mut(layout.key_column());
            for query in queries.chunks_exact_mut(dim) {
                head_norm::<FMA>(query, norm.q, norm.epsilon);
            }
            for key in keys.chunks_exact_mut(dim) {
                head_norm::<FMA>(key, norm.k, norm.epsilon);
            }
        }
        if let Some(rope) = rope {
            let turn: Turn<'_> = rope.row(position);
            for head in turned.chunks_exact_mut(dim) {
                turn.apply::<FMA>(head);
            }
        }
        let heads = work.block.chunks_exact_mut(shape.head_words());
        let keys = turned[layout.key_column()..].chunks_exact(dim);
        for ((head, key), value) in heads.zip(keys).zip(values.chunks_exact(dim)) {
            let (key_words, value_words) = head.split_at_mut(shape.key_words());
            C::store(key_words, value_words, position % BLOCK_TOKENS, key, value);
        }
    }
}

/// Running sums of a norm: an order of additions that every width of register can follow.
const LANES: usize = 16;

#[inline(always)]
fn head_norm<const FMA: bool>(head: &mut [f32], weight: &[f32], epsilon: f32) {
    let mut sums = [0.0f32; LANES];
    let (whole, rest) = head.as_chunks::<LANES>();
    for chunk in whole {
        for lane in 0..LANES {
            sums[lane] = mul_add::<FMA>(chunk[lane], chunk[lane], sums[lane]);
        }
    }
    let sum = sums.iter().sum::<f32>() + rest.iter().map(|v| v * v).sum::<f32>();
    let scale = 1.0 / (sum / head.len() as f32 + epsilon).sqrt();
    for (value, weight) in head.iter_mut().zip(weight) {
        *value = *value * scale * weight;
    }
}

/// The definition for one row: head by head norm and rotation. What is stored is then `row` itself.
pub fn plain(
    row: &mut [f32],
    position: usize,
    layout: QkvLayout,
    norm: Option<HeadNorm<'_>>,
    rope: Option<&super::rope::RopeSpec>,
) {
    let turned = &mut row[..layout.value_column()];
    for (index, head) in turned.chunks_exact_mut(layout.head_dim).enumerate() {
        if let Some(norm) = norm {
            let weight = if index < layout.heads { norm.q } else { norm.k };
            let mean = head.iter().map(|v| v * v).sum::<f32>() / head.len() as f32;
            for (value, weight) in head.iter_mut().zip(weight) {
                *value = *value / (mean + norm.epsilon).sqrt() * weight;
            }
        }
        if let Some(rope) = rope {
            super::rope::plain(head, position, rope);
        }
    }
}
