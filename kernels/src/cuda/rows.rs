//! What is done to rows one by one: norm, rotation, keys and values into their blocks.

use super::attention::KvLayer;
use super::device::{Device, Element, launch};
use super::{CudaError, Source, at_least, exactly, int, span};
use crate::ops::attend_prepare::QkvLayout;
use crate::ops::kv::BLOCK_TOKENS;
use crate::{RopeLayout, RopeTable};
use cudarc::driver::CudaSlice;

/// Rows in memory, `stride` values from one to the next.
#[derive(Debug, Clone, Copy)]
pub struct Strided {
    pub rows: usize,
    pub stride: usize,
}

/// Norms `parts` parts of `columns` values in each row of x into `out`, whose rows hold them without gaps. A row has one part, or
/// its heads. `residual`, as x lies, is added to x first, and x keeps the sum. Weights are f32, `columns` long.
pub fn rms_norm<T: Element>(
    device: &Device,
    out: &mut CudaSlice<T>,
    x: &mut CudaSlice<T>,
    shape: Strided,
    residual: Option<&CudaSlice<T>>,
    weight: &CudaSlice<f32>,
    parts: usize,
    epsilon: f32,
) -> Result<(), CudaError> {
    let columns = weight.len();
    let width = parts * columns;
    at_least("the stride of x", shape.stride, width)?;
    at_least(
        "values of x",
        x.len(),
        span(shape.rows, shape.stride, width),
    )?;
    at_least("values of a norm's result", out.len(), shape.rows * width)?;
    if let Some(residual) = residual {
        at_least(
            "values of a residual",
            residual.len(),
            span(shape.rows, shape.stride, width),
        )?;
    }
    let [columns, stride, width] = [
        int("columns", columns)?,
        int("a stride", shape.stride)?,
        int("a stride", width)?,
    ];
    let name = format!("rms_norm_{}", T::NAME);
    let grid = [shape.rows, parts, 1];
    match residual {
        Some(residual) => launch!(
            device,
            Source::RmsNorm,
            name,
            grid,
            256,
            [
                out, x, residual, weight, &columns, &stride, &width, &epsilon
            ]
        ),
        None => launch!(
            device,
            Source::RmsNorm,
            name,
            grid,
            256,
            [out, x, &0u64, weight, &columns, &stride, &width, &epsilon]
        ),
    }
    Ok(())
}

/// Cosines and sines of a model's first positions, on the GPU.
pub struct RopeAngles {
    table: CudaSlice<f32>,
    positions: usize,
    rotary_dim: usize,
    layout: RopeLayout,
}

impl RopeAngles {
    /// The first `positions` of the CPU's table, 4 bytes times its rotary dimension each.
    ///
    /// # Panics
    /// When the table has fewer.
    pub fn upload(
        device: &Device,
        table: &RopeTable,
        layout: RopeLayout,
        positions: usize,
    ) -> Result<RopeAngles, CudaError> {
        let mut values = Vec::with_capacity(positions * table.rotary_dim());
        for position in 0..positions {
            let (cosines, sines) = table.cosines_and_sines(position);
            values.extend_from_slice(cosines);
            values.extend_from_slice(sines);
        }
        Ok(RopeAngles {
            table: device.upload(&values)?,
            positions,
            rotary_dim: table.rotary_dim(),
            layout,
        })
    }
}

/// Turns the first `heads` heads of each row in place; `positions` are the rows'.
pub fn rope<T: Element>(
    device: &Device,
    angles: &RopeAngles,
    x: &mut CudaSlice<T>,
    stride: usize,
    heads: usize,
    head_dim: usize,
    positions: &[usize],
) -> Result<(), CudaError> {
    at_least("a head's values", head_dim, angles.rotary_dim)?;
    at_least("the stride of x", stride, heads * head_dim)?;
    at_least(
        "values of x",
        x.len(),
        span(positions.len(), stride, heads * head_dim),
    )?;
    let mut places = Vec::with_capacity(positions.len());
    for position in positions {
        at_least("positions of the table", angles.positions, position + 1)?;
        places.push(int("a position", *position)?);
    }
    let places = device.upload(&places)?;
    let [stride, head_dim, rotary_dim] = [
        int("a stride", stride)?,
        int("a head", head_dim)?,
        int("a head", angles.rotary_dim)?,
    ];
    let pairs = i32::from(angles.layout == RopeLayout::Pairs);
    let name = format!("rope_{}", T::NAME);
    launch!(
        device,
        Source::Rope,
        name,
        [positions.len(), heads, 1],
        64,
        [
            x,
            &places,
            &angles.table,
            &stride,
            &head_dim,
            &rotary_dim,
            &pairs
        ]
    );
    Ok(())
}

/// Keys and values of the rows of `qkv` into one layer of memory. A row's slot is its block times 16 plus its place there, or
/// none for a row that is not kept; no two rows have the same.
pub fn kv_write<T: Element>(
    device: &Device,
    layer: &mut KvLayer<T>,
    qkv: &CudaSlice<T>,
    layout: QkvLayout,
    slots: &[Option<usize>],
) -> Result<(), CudaError> {
    exactly("kv heads", layout.kv_heads, layer.kv_heads())?;
    exactly("a head's values", layout.head_dim, layer.head_dim())?;
    let width = (layout.heads + 2 * layout.kv_heads) * layout.head_dim;
    at_least(
        "the stride of queries, keys and values",
        layout.stride,
        width,
    )?;
    at_least(
        "values of queries, keys and values",
        qkv.len(),
        span(slots.len(), layout.stride, width),
    )?;
    let mut places = Vec::with_capacity(slots.len());
    for slot in slots {
        if let Some(slot) = slot {
            at_least("slots of memory", layer.blocks() * BLOCK_TOKENS, slot + 1)?;
        }
        places.push(slot.map_or(Ok(-1), |slot| int("a slot", slot))?);
    }
    let places = device.upload(&places)?;
    let [stride, key_column, value_column, head_dim] = [
        int("a stride", layout.stride)?,
        int("a column", layout.key_column())?,
        int("a column", layout.value_column())?,
        int("a head", layout.head_dim)?,
    ];
    let name = format!("kv_write_{}", T::NAME);
    launch!(
        device,
        Source::KvWrite,
        name,
        [slots.len(), layout.kv_heads, 1],
        64,
        [
            layer.memory_mut(),
            qkv,
            &places,
            &stride,
            &key_column,
            &value_column,
            &head_dim
        ]
    );
    Ok(())
}
