//! Products with weights as their GGUF file has them.

use super::device::{Device, Element, launch};
use super::rows::Strided;
use super::{CudaError, Source, at_least, exactly, int, span};
use crate::WeightKind;
use cudarc::driver::CudaSlice;

/// A quantised matrix on the GPU: `columns` rows of k values in blocks.
pub struct QuantizedWeights {
    kind: WeightKind,
    columns: usize,
    k: usize,
    bytes: CudaSlice<u8>,
}

/// As the kernels' names have it.
fn format_name(kind: WeightKind) -> Option<&'static str> {
    Some(match kind {
        WeightKind::Q4_0 => "q4_0",
        WeightKind::Q4_1 => "q4_1",
        WeightKind::Q5_0 => "q5_0",
        WeightKind::Q5_1 => "q5_1",
        WeightKind::Q8_0 => "q8_0",
        WeightKind::Q4K => "q4_k",
        WeightKind::Q5K => "q5_k",
        WeightKind::Q6K => "q6_k",
        WeightKind::F32 | WeightKind::F16 | WeightKind::Bf16 => return None,
    })
}

impl QuantizedWeights {
    /// Copies the file's bytes as they are.
    ///
    /// # Errors
    /// When the kind is not quantised, or the bytes are not those of so many blocks.
    pub fn upload(
        device: &Device,
        kind: WeightKind,
        columns: usize,
        k: usize,
        bytes: &[u8],
    ) -> Result<QuantizedWeights, CudaError> {
        at_least("values in a quantised block", kind.block_len(), 32)?;
        exactly("k past a whole block", k % kind.block_len(), 0)?;
        exactly(
            "bytes of a matrix",
            bytes.len(),
            columns * k / kind.block_len() * kind.block_bytes(),
        )?;
        Ok(QuantizedWeights {
            kind,
            columns,
            k,
            bytes: device.upload(bytes)?,
        })
    }

    /// y = x W. `decodes` says what the rows are, one row of each of several sequences or rows of prompts: the two have kernels
    /// that add in different orders, and a row's must not follow from how many it is with.
    pub fn multiply<T: Element>(
        &self,
        device: &Device,
        x: &CudaSlice<T>,
        shape: Strided,
        y: &mut CudaSlice<T>,
        y_stride: usize,
        decodes: bool,
    ) -> Result<(), CudaError> {
        at_least("the stride of x", shape.stride, self.k)?;
        at_least("the stride of y", y_stride, self.columns)?;
        at_least(
            "values of x",
            x.len(),
            span(shape.rows, shape.stride, self.k),
        )?;
        at_least(
            "values of y",
            y.len(),
            span(shape.rows, y_stride, self.columns),
        )?;
        let Some(format) = format_name(self.kind) else {
            // `upload` takes quantised kinds alone.
            return at_least("values in a quantised block", 1, 32);
        };
        let (source, family, rows_a_block, columns_a_block) = if decodes {
            (Source::QuantizedRows, "quantized_rows", 4, 4)
        } else {
            (Source::QuantizedMatmul, "quantized_matmul", 32, 64)
        };
        let name = format!("{family}_{format}_{}", T::NAME);
        let grid = [
            self.columns.div_ceil(columns_a_block),
            shape.rows.div_ceil(rows_a_block),
            1,
        ];
        let [rows, columns, k] = [
            int("rows", shape.rows)?,
            int("columns", self.columns)?,
            int("k", self.k)?,
        ];
        let [x_stride, y_stride] = [int("a stride", shape.stride)?, int("a stride", y_stride)?];
        launch!(
            device,
            source,
            name,
            grid,
            128,
            [y, x, &self.bytes, &rows, &columns, &k, &x_stride, &y_stride]
        );
        Ok(())
    }
}
