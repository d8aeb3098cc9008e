//! LoRA of many adapters in one batch: SGMV for rows of prompts, BGMV for rows that decode.

use super::device::{Device, Element, launch};
use super::{CudaError, Source, at_least, exactly, int, span};
use cudarc::driver::{CudaSlice, DevicePtr};
use std::sync::Arc;

/// As cuda/lora.cuh has them.
const ROWS: usize = 16;
const THREADS: usize = 128;
const SPLIT: usize = 512;

/// Ranks the kernels are compiled for; others are padded to the next.
const CLASSES: [usize; 4] = [8, 16, 32, 64];

/// One target of one adapter on the GPU: y += B (A x), the scale folded into B.
pub struct LoraWeights<T> {
    class: usize,
    k: usize,
    columns: usize,
    a: CudaSlice<T>,
    b: CudaSlice<T>,
}

impl<T: Element> LoraWeights<T> {
    /// Copies A `[rank][k]` and B `[columns][rank]` on the device's copy stream. k is a multiple of 16 bytes.
    pub fn upload(
        device: &Device,
        rank: usize,
        k: usize,
        columns: usize,
        a: &[T],
        b: &[T],
    ) -> Result<LoraWeights<T>, CudaError> {
        let class = CLASSES
            .into_iter()
            .find(|class| (1..=*class).contains(&rank));
        let Some(class) = class else {
            let what = "a LoRA rank";
            return Err(CudaError::Shape {
                what,
                given: rank,
                needed: CLASSES[3],
            });
        };
        exactly("values of A", a.len(), rank * k)?;
        exactly("values of B", b.len(), columns * rank)?;
        exactly("k past a whole 16 bytes", k * size_of::<T>() % 16, 0)?;
        let mut padded_a = a.to_vec();
        padded_a.resize(class * k, T::ZERO);
        let mut padded_b = vec![T::ZERO; columns * class];
        for (padded, row) in padded_b.chunks_exact_mut(class).zip(b.chunks_exact(rank)) {
            padded[..rank].copy_from_slice(row);
        }
        Ok(LoraWeights {
            class,
            k,
            columns,
            a: device.copy_stream().clone_htod(&padded_a)?,
            b: device.copy_stream().clone_htod(&padded_b)?,
        })
    }
}

/// Adapters of one class and shape, their addresses on the GPU.
struct Table<T> {
    adapters: Vec<Arc<LoraWeights<T>>>,
    class: usize,
    k: usize,
    columns: usize,
    a: CudaSlice<u64>,
    b: CudaSlice<u64>,
}

impl<T: Element> Table<T> {
    /// Addresses in the order given, 0 for none. `None` when there is no adapter among them.
    fn new(
        device: &Device,
        adapters: &[Option<&Arc<LoraWeights<T>>>],
    ) -> Result<Option<Table<T>>, CudaError> {
        let Some(first) = adapters.iter().flatten().next() else {
            return Ok(None);
        };
        for adapter in adapters.iter().flatten() {
            exactly("the rank class of a batch", adapter.class, first.class)?;
            exactly("k of a batch's adapters", adapter.k, first.k)?;
            exactly(
                "columns of a batch's adapters",
                adapter.columns,
                first.columns,
            )?;
        }
        let addresses = |of: fn(&LoraWeights<T>) -> &CudaSlice<T>| -> Vec<u64> {
            let address = |adapter: &Arc<LoraWeights<T>>| of(adapter).device_ptr(device.stream()).0;
            adapters
                .iter()
                .map(|adapter| adapter.map_or(0, address))
                .collect()
        };
        Ok(Some(Table {
            class: first.class,
            k: first.k,
            columns: first.columns,
            a: device.upload(&addresses(|weights| &weights.a))?,
            b: device.upload(&addresses(|weights| &weights.b))?,
            adapters: adapters
                .iter()
                .flatten()
                .map(|adapter| (*adapter).clone())
                .collect(),
        }))
    }

    /// Runs `launches` between waiting for the adapters' copies and noting that they are read: a kernel reaches them through
    /// addresses, which nobody else follows. Memory given back is freed after the noted reads.
    fn reading<R>(&self, device: &Device, launches: impl FnOnce() -> R) -> R {
        let slices = self
            .adapters
            .iter()
            .flat_map(|adapter| [&adapter.a, &adapter.b]);
        let reads: Vec<_> = slices
            .map(|slice| slice.device_ptr(device.stream()).1)
            .collect();
        let result = launches();
        drop(reads);
        result
    }

    fn check(&self, rows: usize, x: (usize, usize), y: (usize, usize)) -> Result<(), CudaError> {
        at_least("the stride of x", x.1, self.k)?;
        at_least("the stride of y", y.1, self.columns)?;
        at_least("values of x", x.0, span(rows, x.1, self.k))?;
        at_least("values of y", y.0, span(rows, y.1, self.columns))
    }
}

/// Segments of rows and whose they are, for one target of a step. Made once, used by one launch.
pub struct SgmvBatch<T> {
    table: Option<Table<T>>,
    starts: CudaSlice<i32>,
    segments: usize,
    rows: usize,
    longest: usize,
}

impl<T: Element> SgmvBatch<T> {
    /// Segments one after another from row 0: how many rows, and their adapter. All adapters of one rank class.
    pub fn new(
        device: &Device,
        segments: &[(usize, Option<Arc<LoraWeights<T>>>)],
    ) -> Result<SgmvBatch<T>, CudaError> {
        let mut rows = 0;
        let mut starts = vec![0];
        for (len, _) in segments {
            rows += len;
            starts.push(int("rows", rows)?);
        }
        let adapters: Vec<_> = segments
            .iter()
            .map(|(_, adapter)| adapter.as_ref())
            .collect();
        Ok(SgmvBatch {
            table: Table::new(device, &adapters)?,
            starts: device.upload(&starts)?,
            segments: segments.len(),
            rows,
            longest: segments.iter().map(|(len, _)| *len).max().unwrap_or(0),
        })
    }

    /// Adds to the rows of y; rows `x_stride` and `y_stride` values apart. Rows without an adapter are not touched.
    pub fn run(
        &self,
        device: &Device,
        x: &CudaSlice<T>,
        x_stride: usize,
        y: &mut CudaSlice<T>,
        y_stride: usize,
    ) -> Result<(), CudaError> {
        let Some(table) = &self.table else {
            return Ok(());
        };
        table.check(self.rows, (x.len(), x_stride), (y.len(), y_stride))?;
        let splits = table.k.div_ceil(SPLIT);
        let tiles = self.longest.div_ceil(ROWS);
        let mut partial = device.zeros::<f32>(splits * self.rows * table.class)?;
        let (rows, k, columns) = (
            int("rows", self.rows)?,
            int("k", table.k)?,
            int("columns", table.columns)?,
        );
        let (x_stride, y_stride) = (int("a stride", x_stride)?, int("a stride", y_stride)?);
        let split_count = int("splits", splits)?;
        table.reading(device, || {
            let name = format!("sgmv_shrink_{}_r{}", T::NAME, table.class);
            // `partial` has a part for each split and row; x was checked.
            launch!(
                device,
                Source::SgmvShrink,
                name,
                [splits, tiles, self.segments],
                THREADS,
                [
                    &mut partial,
                    x,
                    &table.a,
                    &self.starts,
                    &rows,
                    &k,
                    &x_stride
                ]
            );
            let name = format!("sgmv_expand_{}_r{}", T::NAME, table.class);
            let grid = [table.columns.div_ceil(THREADS), tiles, self.segments];
            launch!(
                device,
                Source::SgmvExpand,
                name,
                grid,
                THREADS,
                [
                    y,
                    &partial,
                    &table.b,
                    &self.starts,
                    &split_count,
                    &rows,
                    &columns,
                    &y_stride
                ]
            );
            Ok(())
        })
    }
}

/// Rows and whose they are, for one target of a step.
pub struct BgmvBatch<T> {
    table: Option<Table<T>>,
    adapters: CudaSlice<i32>,
    rows: usize,
}

impl<T: Element> BgmvBatch<T> {
    /// `rows` are indices into `adapters`, or none. All adapters of one rank class.
    pub fn new(
        device: &Device,
        adapters: &[Arc<LoraWeights<T>>],
        rows: &[Option<usize>],
    ) -> Result<BgmvBatch<T>, CudaError> {
        let mut indices = Vec::with_capacity(rows.len());
        for row in rows {
            if let Some(index) = row {
                at_least("adapters", adapters.len(), index + 1)?;
            }
            indices.push(row.map_or(Ok(-1), |index| int("adapters", index))?);
        }
        let adapters: Vec<_> = adapters.iter().map(Some).collect();
        Ok(BgmvBatch {
            table: Table::new(device, &adapters)?,
            adapters: device.upload(&indices)?,
            rows: rows.len(),
        })
    }

    /// Adds to the rows of y. `x_stride` is a multiple of 16 bytes; rows without an adapter are not touched.
    pub fn run(
        &self,
        device: &Device,
        x: &CudaSlice<T>,
        x_stride: usize,
        y: &mut CudaSlice<T>,
        y_stride: usize,
    ) -> Result<(), CudaError> {
        let Some(table) = &self.table else {
            return Ok(());
        };
        exactly(
            "a stride of x past a whole 16 bytes",
            x_stride * size_of::<T>() % 16,
            0,
        )?;
        table.check(self.rows, (x.len(), x_stride), (y.len(), y_stride))?;
        let mut v = device.zeros::<f32>(self.rows * table.class)?;
        let (k, columns) = (int("k", table.k)?, int("columns", table.columns)?);
        let (x_stride, y_stride) = (int("a stride", x_stride)?, int("a stride", y_stride)?);
        table.reading(device, || {
            let name = format!("bgmv_shrink_{}_r{}", T::NAME, table.class);
            launch!(
                device,
                Source::BgmvShrink,
                name,
                [table.class / 4, self.rows, 1],
                THREADS,
                [&mut v, x, &table.a, &self.adapters, &k, &x_stride]
            );
            let name = format!("bgmv_expand_{}_r{}", T::NAME, table.class);
            let grid = [table.columns.div_ceil(THREADS), self.rows, 1];
            launch!(
                device,
                Source::BgmvExpand,
                name,
                grid,
                THREADS,
                [y, &v, &table.b, &self.adapters, &columns, &y_stride]
            );
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_are_those_of_the_kernels() {
        let header = include_str!("../../cuda/lora.cuh");
        for (name, value) in [
            ("LORA_ROWS", super::ROWS),
            ("LORA_THREADS", super::THREADS),
            ("LORA_SPLIT", super::SPLIT),
        ] {
            assert!(
                header.contains(&format!("constexpr int {name} = {value};")),
                "{name}"
            );
        }
    }
}
