//! Keys and values into the blocks of their sequences.

use super::{CacheShape, Cell, Places, contiguous, indices};
use crate::QkvLayout;
use crate::candle::values;
use crate::ops::kv::BLOCK_TOKENS;
use candle_core::{CpuStorage, InplaceOp3, Layout, Result, Tensor, bail};

/// Keeps keys and values of `qkv` in the cache, at the slots of their rows.
///
/// # Errors
/// A slot past the cache, shapes that do not fit, a device without the op.
pub fn keep_(cache: &Tensor, qkv: &Tensor, places: &Places, layout: QkvLayout) -> Result<()> {
    cache.inplace_op3(qkv, &places.slots, &Keep { layout })
}

struct Keep {
    layout: QkvLayout,
}

impl InplaceOp3 for Keep {
    fn name(&self) -> &'static str {
        "keep-keys-and-values"
    }

    fn cpu_fwd(
        &self,
        cache: &mut CpuStorage,
        cache_at: &Layout,
        qkv: &CpuStorage,
        qkv_at: &Layout,
        slots: &CpuStorage,
        slots_at: &Layout,
    ) -> Result<()> {
        let shape = CacheShape::of(cache_at, self.layout)?;
        let (qkv, slots) = (values(qkv, qkv_at)?, indices(slots, slots_at)?);
        if qkv.len() != slots.len() * self.layout.stride {
            bail!("{} values for {} slots", qkv.len(), slots.len());
        }
        if let Some(slot) = slots
            .iter()
            .find(|slot| **slot as usize >= shape.blocks * BLOCK_TOKENS)
        {
            bail!("slot {slot} is past {} blocks", shape.blocks);
        }
        let range = contiguous(cache_at)?;
        match cache {
            CpuStorage::F32(cache) => self.run(&mut cache[range], qkv, slots, shape),
            CpuStorage::BF16(cache) => self.run(&mut cache[range], qkv, slots, shape),
            _ => bail!("a cache is f32 or bf16"),
        }
        Ok(())
    }
}

impl Keep {
    fn run<C: Cell>(&self, cache: &mut [C], qkv: &[f32], slots: &[u32], shape: CacheShape) {
        let layout = self.layout;
        for (row, slot) in qkv.chunks_exact(layout.stride).zip(slots) {
            let (block, place) = (*slot as usize / BLOCK_TOKENS, *slot as usize % BLOCK_TOKENS);
            for (half, column) in [layout.key_column(), layout.value_column()]
                .into_iter()
                .enumerate()
            {
                for head in 0..layout.kv_heads {
                    let values = &row[column + head * shape.head_dim..][..shape.head_dim];
                    let start = shape.start(half, block, head) + place * shape.head_dim;
                    for (cell, value) in cache[start..][..shape.head_dim].iter_mut().zip(values) {
                        *cell = C::of(*value);
                    }
                }
            }
        }
    }
}
