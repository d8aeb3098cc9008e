//! Attention over paged keys and values that are candle tensors: the same block tables as
//! [`paged_attention`](crate::paged_attention), in a layout a GPU likes.
//!
//! ```text
//! cache (one tensor a layer) = [2: keys, values][blocks][kv heads][16 positions][head_dim], f32 or bf16
//! places                     = u32: of each run first row, rows, first position, first of its blocks; then all blocks
//! ```
//!
//! The CPU side is the plain definition, row by row; it exists so that the model around it can be run and compared anywhere.

mod attend;
mod keep;
mod turn_heads;

#[cfg(test)]
mod tests;

pub use attend::attend;
pub use keep::keep_;
pub use turn_heads::{rope_table, turn_heads_};

use crate::ops::kv::BLOCK_TOKENS;
use crate::{AttentionRows, KvDtype, KvShape, QkvLayout};
use candle_core::{CpuStorage, DType, Device, Layout, Result, Tensor, bail};
use half::bf16;

/// An empty cache of one layer. On the CPU an f32 one takes memory as it is used, a bf16 one at once.
///
/// # Errors
/// When the device has no room.
pub fn paged_cache(shape: KvShape, blocks: usize, device: &Device) -> Result<Tensor> {
    let dtype = match shape.dtype {
        KvDtype::F32 => DType::F32,
        KvDtype::Bf16 => DType::BF16,
    };
    Tensor::zeros(
        (2, blocks, shape.kv_heads, BLOCK_TOKENS, shape.head_dim),
        dtype,
        device,
    )
}

/// Where the rows of a step stand, uploaded once and read by every layer.
pub struct Places {
    /// Of each row.
    positions: Tensor,
    /// Of each row: block * 16 + place in it.
    slots: Tensor,
    /// See the module's picture.
    places: Tensor,
    runs: usize,
}

impl Places {
    /// `runs` cover all rows in order.
    ///
    /// # Errors
    /// A block table shorter than its run, or a device without room.
    pub fn new(runs: &[AttentionRows<'_>], device: &Device) -> Result<Places> {
        let (mut positions, mut slots) = (Vec::new(), Vec::new());
        let (mut places, mut blocks) = (Vec::new(), Vec::new());
        for run in runs {
            places.extend(
                [run.first_row, run.rows, run.first_position, blocks.len()].map(|n| n as u32),
            );
            blocks.extend_from_slice(run.blocks);
            for position in run.first_position..run.first_position + run.rows {
                let Some(block) = run.blocks.get(position / BLOCK_TOKENS) else {
                    bail!("position {position} is past {} blocks", run.blocks.len());
                };
                positions.push(position as u32);
                slots.push(block * BLOCK_TOKENS as u32 + (position % BLOCK_TOKENS) as u32);
            }
        }
        places.extend(blocks);
        Ok(Places {
            positions: Tensor::new(positions, device)?,
            slots: Tensor::new(slots, device)?,
            places: Tensor::new(places, device)?,
            runs: runs.len(),
        })
    }
}

/// A cache's sizes.
#[derive(Clone, Copy)]
struct CacheShape {
    blocks: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl CacheShape {
    fn of(cache: &Layout, layout: QkvLayout) -> Result<CacheShape> {
        match *cache.dims() {
            [2, blocks, kv_heads, BLOCK_TOKENS, head_dim]
                if (kv_heads, head_dim) == (layout.kv_heads, layout.head_dim) =>
            {
                Ok(CacheShape {
                    blocks,
                    kv_heads,
                    head_dim,
                })
            }
            _ => bail!("a cache of shape {:?} for {layout:?}", cache.dims()),
        }
    }

    /// Where a head's keys (half 0) or values (half 1) of a block begin.
    fn start(&self, half: usize, block: usize, head: usize) -> usize {
        ((half * self.blocks + block) * self.kv_heads + head) * BLOCK_TOKENS * self.head_dim
    }
}

/// What a cache's elements are.
trait Cell: Copy + Sync {
    fn of(value: f32) -> Self;
    fn value(self) -> f32;
}

impl Cell for f32 {
    fn of(value: f32) -> f32 {
        value
    }
    fn value(self) -> f32 {
        self
    }
}

impl Cell for bf16 {
    fn of(value: f32) -> bf16 {
        bf16::from_f32(value)
    }
    fn value(self) -> f32 {
        self.to_f32()
    }
}

fn contiguous(layout: &Layout) -> Result<std::ops::Range<usize>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(start..end),
        None => bail!("a tensor that is not contiguous"),
    }
}

fn indices<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [u32]> {
    Ok(&storage.as_slice::<u32>()?[contiguous(layout)?])
}
