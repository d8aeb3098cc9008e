//! Causal attention of rows over what the cache holds of their sequences.

use super::{CacheShape, Cell, Places, contiguous, indices};
use crate::candle::{over_rows, values};
use crate::ops::kv::BLOCK_TOKENS;
use crate::{AttentionSpec, QkvLayout};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

/// Queries of `qkv` attend to what the cache holds of their sequence, up to themselves; gives rows x heads * head_dim.
///
/// # Errors
/// A block past the cache, shapes that do not fit, a device without the op.
pub fn attend(
    qkv: &Tensor,
    cache: &Tensor,
    places: &Places,
    layout: QkvLayout,
    spec: AttentionSpec,
) -> Result<Tensor> {
    let op = Attend {
        layout,
        spec,
        runs: places.runs,
    };
    qkv.apply_op3_no_bwd(cache, &places.places, &op)
}

struct Attend {
    layout: QkvLayout,
    spec: AttentionSpec,
    runs: usize,
}

impl CustomOp3 for Attend {
    fn name(&self) -> &'static str {
        "attend"
    }

    fn cpu_fwd(
        &self,
        qkv: &CpuStorage,
        qkv_at: &Layout,
        cache: &CpuStorage,
        cache_at: &Layout,
        places: &CpuStorage,
        places_at: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let shape = CacheShape::of(cache_at, self.layout)?;
        let (qkv, places) = (values(qkv, qkv_at)?, indices(places, places_at)?);
        let range = contiguous(cache_at)?;
        let out = match cache {
            CpuStorage::F32(cache) => self.run(qkv, &cache[range], places, shape)?,
            CpuStorage::BF16(cache) => self.run(qkv, &cache[range], places, shape)?,
            _ => bail!("a cache is f32 or bf16"),
        };
        let width = self.layout.heads * self.layout.head_dim;
        let rows = out.len() / width;
        Ok((CpuStorage::F32(out), (rows, width).into()))
    }
}

/// A row's place: its position and its sequence's blocks.
struct Place<'a> {
    position: usize,
    blocks: &'a [u32],
}

impl Attend {
    fn run<C: Cell>(
        &self,
        qkv: &[f32],
        cache: &[C],
        places: &[u32],
        shape: CacheShape,
    ) -> Result<Vec<f32>> {
        let rows = self.rows(places, qkv.len() / self.layout.stride, shape.blocks)?;
        let width = self.layout.heads * self.layout.head_dim;
        let mut out = vec![0.0; rows.len() * width];
        over_rows(&mut out, width, |first, out| {
            for (at, out) in (first..).zip(out.chunks_exact_mut(width)) {
                let queries = &qkv[at * self.layout.stride..][..width];
                self.row(queries, cache, &rows[at], shape, out);
            }
        });
        Ok(out)
    }

    /// The places of all rows, checked.
    fn rows<'a>(&self, places: &'a [u32], rows: usize, blocks: usize) -> Result<Vec<Place<'a>>> {
        let Some((runs, tables)) = places.split_at_checked(4 * self.runs) else {
            bail!("{} places of {} runs", places.len(), self.runs);
        };
        let mut found = Vec::with_capacity(rows);
        for run in runs.as_chunks::<4>().0 {
            let [first_row, count, first_position, first_block] = run.map(|n| n as usize);
            let end = (first_position + count).div_ceil(BLOCK_TOKENS);
            let Some(table) = tables.get(first_block..first_block + end) else {
                bail!("a run past its block table");
            };
            if first_row != found.len() || table.iter().any(|block| *block as usize >= blocks) {
                bail!("a block past the cache, or runs that are out of order");
            }
            let place = |position| Place {
                position,
                blocks: table,
            };
            found.extend((first_position..first_position + count).map(place));
        }
        if found.len() != rows {
            bail!("{} places of {rows} rows", found.len());
        }
        Ok(found)
    }

    /// All heads of one row.
    fn row<C: Cell>(
        &self,
        queries: &[f32],
        cache: &[C],
        place: &Place<'_>,
        shape: CacheShape,
        out: &mut [f32],
    ) {
        let (width, group) = (shape.head_dim, self.layout.heads / self.layout.kv_heads);
        let first = self.spec.first_seen(place.position);
        let mut weights = vec![0.0f32; place.position + 1 - first];
        let heads = queries.chunks_exact(width).zip(out.chunks_exact_mut(width));
        for (head, (query, out)) in heads.enumerate() {
            let at = |half: usize, position: usize| {
                let block = place.blocks[position / BLOCK_TOKENS] as usize;
                let start =
                    shape.start(half, block, head / group) + position % BLOCK_TOKENS * width;
                &cache[start..][..width]
            };
            for (weight, position) in weights.iter_mut().zip(first..) {
                let dot: f32 = query
                    .iter()
                    .zip(at(0, position))
                    .map(|(q, k)| q * k.value())
                    .sum();
                *weight = match self.spec.soft_cap {
                    Some(cap) => cap * (dot * self.spec.scale / cap).tanh(),
                    None => dot * self.spec.scale,
                };
            }
            let highest = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            weights
                .iter_mut()
                .for_each(|weight| *weight = (*weight - highest).exp());
            let share = 1.0 / weights.iter().sum::<f32>();
            for (weight, position) in weights.iter().zip(first..) {
                for (out, value) in out.iter_mut().zip(at(1, position)) {
                    *out += weight * share * value.value();
                }
            }
        }
    }
}
