//! Paged attention: rows that decode, and runs of rows of prompts.

use super::device::{Device, Element, launch};
use super::{CudaError, Source, at_least, exactly, int, span};
use crate::ops::attend_prepare::QkvLayout;
use crate::ops::kv::BLOCK_TOKENS;
use crate::ops::paged_attention::AttentionSpec;
use cudarc::driver::CudaSlice;

/// As the kernels have them.
const THREADS: usize = 128;
const SPLIT: usize = 256;
const QUERIES: usize = 16;
const MOST_DIM: usize = 256;

/// One layer's keys and values on the GPU, blocks laid out as in the CPU's memory (see [`crate::KvMemory`]).
pub struct KvLayer<T> {
    memory: CudaSlice<T>,
    blocks: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl<T: Element> KvLayer<T> {
    /// Memory of `blocks` blocks of 16 positions, zero.
    pub fn new(
        device: &Device,
        blocks: usize,
        kv_heads: usize,
        head_dim: usize,
    ) -> Result<KvLayer<T>, CudaError> {
        at_least("the widest head", MOST_DIM, head_dim)?;
        exactly("a head's values past whole pairs", head_dim % 2, 0)?;
        let values = kv_heads * BLOCK_TOKENS * (head_dim + head_dim.next_multiple_of(16));
        Ok(KvLayer {
            memory: device.zeros(blocks * values)?,
            blocks,
            kv_heads,
            head_dim,
        })
    }

    pub fn blocks(&self) -> usize {
        self.blocks
    }

    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    pub(super) fn memory_mut(&mut self) -> &mut CudaSlice<T> {
        &mut self.memory
    }

    /// Block tables one after another, each checked to reach `positions[i]` positions inside this memory.
    fn tables<'a>(
        &self,
        tables: impl Iterator<Item = (&'a [u32], usize)>,
    ) -> Result<(Vec<i32>, Vec<i32>), CudaError> {
        let (mut starts, mut all) = (Vec::new(), Vec::new());
        for (table, positions) in tables {
            at_least(
                "a block table",
                table.len(),
                positions.div_ceil(BLOCK_TOKENS),
            )?;
            starts.push(int("block tables", all.len())?);
            for block in table {
                at_least("blocks of memory", self.blocks, *block as usize + 1)?;
                all.push(block.cast_signed());
            }
        }
        Ok((starts, all))
    }

    fn check(&self, layout: QkvLayout) -> Result<(), CudaError> {
        exactly("kv heads", layout.kv_heads, self.kv_heads)?;
        exactly("a head's values", layout.head_dim, self.head_dim)?;
        at_least("kv heads", layout.kv_heads, 1)?;
        exactly("heads past whole groups", layout.heads % layout.kv_heads, 0)?;
        at_least(
            "the stride of queries",
            layout.stride,
            layout.heads * layout.head_dim,
        )
    }
}

/// Scale, window and cap as kernels take them: 0 is none.
fn rules(spec: AttentionSpec) -> Result<(f32, i32, f32), CudaError> {
    if let Some(window) = spec.window {
        at_least("a window", window, 1)?;
    }
    // A window wider than any position sees all.
    let window = spec
        .window
        .map_or(0, |window| i32::try_from(window).unwrap_or(0));
    Ok((spec.scale, window, spec.soft_cap.unwrap_or(0.0)))
}

/// Sizes of a launch's rows, as kernels take them.
fn dims(layout: QkvLayout) -> Result<[i32; 4], CudaError> {
    Ok([
        int("heads", layout.heads)?,
        int("kv heads", layout.kv_heads)?,
        int("a head", layout.head_dim)?,
        int("a stride", layout.stride)?,
    ])
}

/// A row that decodes.
#[derive(Debug, Clone, Copy)]
pub struct DecodeRow<'a> {
    /// Its row in the step.
    pub row: usize,
    pub position: usize,
    /// Its sequence's blocks.
    pub blocks: &'a [u32],
}

/// The rows of a step that decode, on the GPU. Made once a step, used by every layer of the same shape.
pub struct PagedDecode {
    rows: CudaSlice<i32>,
    positions: CudaSlice<i32>,
    table_starts: CudaSlice<i32>,
    tables: CudaSlice<i32>,
    count: usize,
    last_row: usize,
    longest: usize,
    blocks: usize,
}

impl PagedDecode {
    pub fn new<T: Element>(
        device: &Device,
        layer: &KvLayer<T>,
        rows: &[DecodeRow<'_>],
    ) -> Result<PagedDecode, CudaError> {
        let (starts, tables) =
            layer.tables(rows.iter().map(|row| (row.blocks, row.position + 1)))?;
        let ints = |of: fn(&DecodeRow<'_>) -> usize| -> Result<Vec<i32>, CudaError> {
            rows.iter().map(|row| int("a row", of(row))).collect()
        };
        Ok(PagedDecode {
            rows: device.upload(&ints(|row| row.row)?)?,
            positions: device.upload(&ints(|row| row.position)?)?,
            table_starts: device.upload(&starts)?,
            tables: device.upload(&tables)?,
            count: rows.len(),
            last_row: rows.iter().map(|row| row.row + 1).max().unwrap_or(0),
            longest: rows.iter().map(|row| row.position + 1).max().unwrap_or(0),
            blocks: layer.blocks,
        })
    }

    /// Attends the rows; `out` rows are heads times a head's values wide.
    pub fn run<T: Element>(
        &self,
        device: &Device,
        layer: &KvLayer<T>,
        queries: &CudaSlice<T>,
        layout: QkvLayout,
        spec: AttentionSpec,
        out: &mut CudaSlice<T>,
    ) -> Result<(), CudaError> {
        layer.check(layout)?;
        exactly("blocks of a layer", layer.blocks, self.blocks)?;
        let width = layout.heads * layout.head_dim;
        at_least(
            "values of queries",
            queries.len(),
            span(self.last_row, layout.stride, width),
        )?;
        at_least(
            "values of attention's result",
            out.len(),
            self.last_row * width,
        )?;
        let group = layout.heads / layout.kv_heads;
        let class = match group {
            0 | 1 => 1,
            2..=4 => 4,
            _ => 8,
        };
        let splits = self.longest.div_ceil(SPLIT);
        let mut partial =
            device.zeros::<f32>(self.count * layout.heads * splits * (2 + layout.head_dim))?;
        let [heads, kv_heads, head_dim, stride] = dims(layout)?;
        let (scale, window, soft_cap) = rules(spec)?;
        let name = format!("attention_decode_{}_h{class}", T::NAME);
        let grid = [self.count, layout.kv_heads * group.div_ceil(class), splits];
        // Tables reach every position and blocks are inside the layer: both were checked when this was made.
        launch!(
            device,
            Source::AttentionDecode,
            name,
            grid,
            THREADS,
            [
                &mut partial,
                queries,
                &layer.memory,
                &self.rows,
                &self.positions,
                &self.table_starts,
                &self.tables,
                &heads,
                &kv_heads,
                &head_dim,
                &stride,
                &scale,
                &window,
                &soft_cap
            ]
        );
        let (splits, width) = (int("splits", splits)?, int("a stride", width)?);
        let name = format!("attention_combine_{}", T::NAME);
        launch!(
            device,
            Source::AttentionDecode,
            name,
            [self.count, layout.heads, 1],
            THREADS,
            [
                out,
                &partial,
                &self.rows,
                &self.positions,
                &splits,
                &head_dim,
                &width,
                &window
            ]
        );
        Ok(())
    }
}

/// Consecutive rows of one sequence's prompt.
#[derive(Debug, Clone, Copy)]
pub struct PrefillRun<'a> {
    pub rows: usize,
    pub first_position: usize,
    /// Its sequence's blocks.
    pub blocks: &'a [u32],
}

/// The runs of a step, on the GPU. Made once a step, used by every layer of the same shape.
pub struct PagedPrefill {
    tile_runs: CudaSlice<i32>,
    tile_queries: CudaSlice<i32>,
    row_starts: CudaSlice<i32>,
    first_positions: CudaSlice<i32>,
    table_starts: CudaSlice<i32>,
    tables: CudaSlice<i32>,
    tiles: usize,
    rows: usize,
    group: usize,
    blocks: usize,
}

impl PagedPrefill {
    /// Runs one after another from row 0. `group` is how many heads share a key.
    pub fn new<T: Element>(
        device: &Device,
        layer: &KvLayer<T>,
        group: usize,
        runs: &[PrefillRun<'_>],
    ) -> Result<PagedPrefill, CudaError> {
        let ends = runs
            .iter()
            .map(|run| (run.blocks, run.first_position + run.rows));
        let (starts, tables) = layer.tables(ends)?;
        let (mut tile_runs, mut tile_queries) = (Vec::new(), Vec::new());
        let (mut row_starts, mut positions, mut rows) = (vec![0], Vec::new(), 0);
        for (index, run) in runs.iter().enumerate() {
            rows += run.rows;
            row_starts.push(int("rows", rows)?);
            positions.push(int("a position", run.first_position + run.rows)? - run.rows as i32);
            for query in (0..run.rows * group).step_by(QUERIES) {
                tile_runs.push(int("runs", index)?);
                tile_queries.push(int("queries", query)?);
            }
        }
        Ok(PagedPrefill {
            tiles: tile_runs.len(),
            tile_runs: device.upload(&tile_runs)?,
            tile_queries: device.upload(&tile_queries)?,
            row_starts: device.upload(&row_starts)?,
            first_positions: device.upload(&positions)?,
            table_starts: device.upload(&starts)?,
            tables: device.upload(&tables)?,
            rows,
            group,
            blocks: layer.blocks,
        })
    }

    /// Attends the rows; `out` rows are heads times a head's values wide.
    pub fn run<T: Element>(
        &self,
        device: &Device,
        layer: &KvLayer<T>,
        queries: &CudaSlice<T>,
        layout: QkvLayout,
        spec: AttentionSpec,
        out: &mut CudaSlice<T>,
    ) -> Result<(), CudaError> {
        layer.check(layout)?;
        exactly("blocks of a layer", layer.blocks, self.blocks)?;
        exactly(
            "heads that share a key",
            layout.heads / layout.kv_heads,
            self.group,
        )?;
        let width = layout.heads * layout.head_dim;
        at_least(
            "values of queries",
            queries.len(),
            span(self.rows, layout.stride, width),
        )?;
        at_least("values of attention's result", out.len(), self.rows * width)?;
        let class = match layout.head_dim {
            ..=64 => 64,
            65..=128 => 128,
            _ => MOST_DIM,
        };
        let [heads, kv_heads, head_dim, stride] = dims(layout)?;
        let (scale, window, soft_cap) = rules(spec)?;
        let width = int("a stride", width)?;
        let name = format!("attention_prefill_{}_d{class}", T::NAME);
        launch!(
            device,
            Source::AttentionPrefill,
            name,
            [self.tiles, layout.kv_heads, 1],
            THREADS,
            [
                out,
                queries,
                &layer.memory,
                &self.tile_runs,
                &self.tile_queries,
                &self.row_starts,
                &self.first_positions,
                &self.table_starts,
                &self.tables,
                &heads,
                &kv_heads,
                &head_dim,
                &stride,
                &width,
                &scale,
                &window,
                &soft_cap
            ]
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_are_those_of_the_kernels() {
        let decode = include_str!("../../cuda/attention_decode.cu");
        assert!(decode.contains(&format!("constexpr int SPLIT = {};", super::SPLIT)));
        assert!(decode.contains(&format!("constexpr int MOST_DIM = {};", super::MOST_DIM)));
        let prefill = include_str!("../../cuda/attention_prefill.cu");
        assert!(prefill.contains(&format!("constexpr int QUERIES = {};", super::QUERIES)));
    }
}
