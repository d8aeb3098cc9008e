//! Ops on candle tensors that candle has not, or has only as several passes over memory.
//!
//! Each is a candle custom op, so a model written with candle tensors names it once and the tensor's device decides
//! what runs: on the CPU our kernels where there is a [`Workspace`], otherwise loops spread over the rayon threads the caller runs in. A row's result depends on that row alone.
//!
//! | op | what |
//! | --- | --- |
//! | [`add_norm_`] | x = layer_norm(x + bias + residual) |
//! | [`bias_activation_`] | x = activation(x + bias) |
//! | [`softmax_`] | rows of x = softmax(scale * x) |
//! | [`linear`] | x * weight^T |
//! | [`lora_`] | y += what the low-rank adapters of runs of rows make of x |
//! | [`rms_norm`] | rows of x over their root mean square |
//! | [`gated`] | activation(gate) * up |
//! | [`turn_heads_`] | queries and keys turned to their positions |
//! | [`keep_`] | keys and values into the blocks of a paged cache |
//! | [`attend`] | causal grouped-head attention over a paged cache |
//!
//! A name that ends in an underscore changes its first tensor in place, which must be contiguous f32, as must the others.

mod activation;
mod add_norm;
mod linear;
mod lora;
mod paged;
mod rows;
mod softmax;

pub use activation::bias_activation_;
pub use add_norm::add_norm_;
pub use linear::{Weight, Workspace, linear};
pub use lora::{LoraRows, LoraWeight, lora_};
pub use paged::{Places, attend, keep_, paged_cache, rope_table, turn_heads_};
pub use rows::{gated, rms_norm};
pub use softmax::softmax_;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, Layout, Result, bail};
use rayon::prelude::*;

/// Values worth a task of their own: some tens of microseconds.
const TASK_VALUES: usize = 16 * 1024;

/// A tensor's values where they lie.
fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("a tensor that is not contiguous")
    };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

fn values_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("a tensor that is not contiguous")
    };
    match storage {
        CpuStorage::F32(values) => Ok(&mut values[start..end]),
        other => bail!("a tensor of {:?} instead of f32", other.dtype()),
    }
}

/// Runs `work(first_row, rows)` over whole rows, side by side when there are many.
fn over_rows(values: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    let task_rows = (TASK_VALUES / width.max(1)).max(1);
    if values.len() <= task_rows * width {
        return work(0, values);
    }
    values
        .par_chunks_mut(task_rows * width)
        .enumerate()
        .for_each(|(task, rows)| work(task * task_rows, rows));
}
