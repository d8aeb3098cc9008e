//! Queries and keys turned to their positions.

use super::{Places, indices};
use crate::candle::{over_rows, values, values_mut};
use crate::{QkvLayout, RopeLayout, RopeSpec};
use candle_core::{CpuStorage, Device, InplaceOp3, Layout, Result, Tensor, bail};

/// positions x rotary_dim: of each position the cosines of all pairs, then the sines.
///
/// # Errors
/// When the device has no room.
pub fn rope_table(positions: usize, spec: &RopeSpec, device: &Device) -> Result<Tensor> {
    let angles = spec.angles();
    let mut rows = Vec::with_capacity(positions * spec.rotary_dim);
    for position in 0..positions {
        let turn = |angle: &f64| position as f64 * angle;
        rows.extend(angles.iter().map(|angle| turn(angle).cos() as f32));
        rows.extend(angles.iter().map(|angle| turn(angle).sin() as f32));
    }
    Tensor::from_vec(rows, (positions, spec.rotary_dim), device)
}

/// Turns queries and keys of `qkv` (rows x stride) to their positions, in place. `table` as [`rope_table`] makes it.
///
/// # Errors
/// A position past the table, shapes that do not fit, a device without the op.
pub fn turn_heads_(
    qkv: &Tensor,
    table: &Tensor,
    places: &Places,
    layout: QkvLayout,
    pairs: RopeLayout,
) -> Result<()> {
    qkv.inplace_op3(table, &places.positions, &TurnHeads { layout, pairs })
}

struct TurnHeads {
    layout: QkvLayout,
    pairs: RopeLayout,
}

impl InplaceOp3 for TurnHeads {
    fn name(&self) -> &'static str {
        "turn-heads"
    }

    fn cpu_fwd(
        &self,
        qkv: &mut CpuStorage,
        qkv_at: &Layout,
        table: &CpuStorage,
        table_at: &Layout,
        positions: &CpuStorage,
        positions_at: &Layout,
    ) -> Result<()> {
        let (rows, rotary) = table_at.shape().dims2()?;
        let (table, positions) = (values(table, table_at)?, indices(positions, positions_at)?);
        let layout = self.layout;
        let qkv = values_mut(qkv, qkv_at)?;
        if rotary > layout.head_dim || qkv.len() != positions.len() * layout.stride {
            bail!(
                "{} values of {} rows do not fit their layout",
                qkv.len(),
                positions.len()
            );
        }
        if let Some(position) = positions
            .iter()
            .find(|position| **position as usize >= rows)
        {
            bail!("position {position} is past the table's {rows}");
        }
        over_rows(qkv, layout.stride, |first, qkv| {
            for (row, position) in qkv.chunks_exact_mut(layout.stride).zip(&positions[first..]) {
                let (cos, sin) =
                    table[*position as usize * rotary..][..rotary].split_at(rotary / 2);
                for head in row[..layout.value_column()].chunks_exact_mut(layout.head_dim) {
                    turn(head, cos, sin, self.pairs);
                }
            }
        });
        Ok(())
    }
}

fn turn(head: &mut [f32], cos: &[f32], sin: &[f32], pairs: RopeLayout) {
    let count = cos.len();
    for (i, (cos, sin)) in cos.iter().zip(sin).enumerate() {
        let (first, second) = match pairs {
            RopeLayout::Halves => (i, i + count),
            RopeLayout::Pairs => (2 * i, 2 * i + 1),
        };
        let (a, b) = (head[first], head[second]);
        head[first] = a * cos - b * sin;
        head[second] = a * sin + b * cos;
    }
}
