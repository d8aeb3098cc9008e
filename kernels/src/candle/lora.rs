//! Low-rank adapters on top of a product: runs of rows, each with an adapter of its own.
//!
//! On the CPU the kernels that ride along in [`matmul_adapted`](crate::matmul_adapted), to the same bits; elsewhere the
//! library's products, run by run.

use super::{Workspace, values, values_mut};
use crate::ops::lora::add_adapters;
use crate::{LoraDtype, LoraMatrix, LoraRun, MAX_PARTS, dispatch};
use candle_core::{CpuStorage, DType, InplaceOp2, Layout, Result, Tensor, bail};
use std::ops::Range;

/// One target of one adapter, in f32: packed on the CPU, elsewhere two tensors.
pub struct LoraWeight(Kept);

enum Kept {
    Packed(LoraMatrix),
    Tensors { a: Tensor, b: Tensor },
}

/// Rows of one adapter.
pub struct LoraRows<'a> {
    /// Rows of the product; runs are in order and share none.
    pub rows: Range<usize>,
    /// What is added to each part of the product; none where the adapter leaves it as it is.
    pub parts: [Option<&'a LoraWeight>; MAX_PARTS],
}

impl LoraWeight {
    /// From `a`, rank x k, and `b`, columns x rank with the scale in it.
    ///
    /// # Errors
    /// Shapes that do not fit each other, a rank without a kernel, tensors that are not f32.
    pub fn new(a: &Tensor, b: &Tensor) -> Result<LoraWeight> {
        let ((rank, k), (columns, width)) = (a.dims2()?, b.dims2()?);
        if (a.dtype(), b.dtype()) != (DType::F32, DType::F32) || width != rank {
            bail!("an adapter of {a:?} and {b:?} instead of rank x k and columns x rank in f32");
        }
        if !a.device().is_cpu() {
            let (a, b) = (a.contiguous()?, b.contiguous()?);
            return Ok(LoraWeight(Kept::Tensors { a, b }));
        }
        let [a, b]: [Vec<f32>; 2] = [a.flatten_all()?.to_vec1()?, b.flatten_all()?.to_vec1()?];
        let packed = LoraMatrix::pack(rank, k, columns, &a, &b, 1.0, LoraDtype::F32)
            .map_err(candle_core::Error::wrap)?;
        Ok(LoraWeight(Kept::Packed(packed)))
    }

    /// Memory held.
    pub fn bytes(&self) -> usize {
        match &self.0 {
            Kept::Packed(matrix) => matrix.bytes(),
            Kept::Tensors { a, b } => (a.elem_count() + b.elem_count()) * size_of::<f32>(),
        }
    }

    fn k(&self) -> usize {
        match &self.0 {
            Kept::Packed(matrix) => matrix.k(),
            Kept::Tensors { a, .. } => a.dims()[1],
        }
    }

    fn columns(&self) -> usize {
        match &self.0 {
            Kept::Packed(matrix) => matrix.columns(),
            Kept::Tensors { b, .. } => b.dims()[0],
        }
    }
}

/// Adds to `y`, rows x width, what the adapters of `runs` make of `x`, rows x k. The outputs of part i begin at column
/// `columns[i]`.
///
/// # Errors
/// Runs out of order or past the rows, shapes that do not fit, tensors that are not contiguous f32.
pub fn lora_(
    workspace: &Workspace,
    y: &Tensor,
    x: &Tensor,
    columns: &[usize],
    runs: &[LoraRows<'_>],
) -> Result<()> {
    let ((rows, width), (x_rows, k)) = (y.dims2()?, x.dims2()?);
    let (mut end, mut widths) = (0, [None; MAX_PARTS]);
    for run in runs {
        if run.rows.start < end || run.rows.end < run.rows.start || run.rows.end > rows {
            bail!("a run of rows {:?} after row {end} of {rows}", run.rows);
        }
        end = run.rows.end;
        for (part, weight) in run.parts.iter().enumerate() {
            let Some(weight) = weight else { continue };
            let fits = columns
                .get(part)
                .is_some_and(|column| column + weight.columns() <= width);
            let width_of_part = *widths[part].get_or_insert(weight.columns());
            if !fits || weight.k() != k || weight.columns() != width_of_part {
                bail!(
                    "part {part} of {} x {} and rows of {k} to {width}",
                    weight.columns(),
                    weight.k()
                );
            }
        }
    }
    if x_rows != rows {
        bail!("{x_rows} rows and products of {rows}");
    }
    let mut packed = Vec::with_capacity(runs.len());
    for run in runs {
        let mut parts = [None; MAX_PARTS];
        for (part, weight) in parts.iter_mut().zip(run.parts) {
            match weight.map(|weight| &weight.0) {
                Some(Kept::Packed(matrix)) => *part = Some(matrix),
                Some(Kept::Tensors { .. }) => return by_library(y, x, columns, runs),
                None => {}
            }
        }
        let rows = run.rows.clone();
        packed.push(LoraRun { rows, parts });
    }
    let adding = Adding {
        workspace,
        columns,
        runs: &packed,
    };
    y.inplace_op2(x, &adding)
}

/// The same in the library's products.
fn by_library(y: &Tensor, x: &Tensor, columns: &[usize], runs: &[LoraRows<'_>]) -> Result<()> {
    for run in runs.iter().filter(|run| !run.rows.is_empty()) {
        let (start, len) = (run.rows.start, run.rows.len());
        let x = x.narrow(0, start, len)?;
        let mut rows = y.narrow(0, start, len)?;
        for (weight, column) in run.parts.iter().zip(columns) {
            let Some(weight) = weight else { continue };
            let Kept::Tensors { a, b } = &weight.0 else {
                bail!("adapters on two devices")
            };
            let added = x.matmul(&a.t()?)?.matmul(&b.t()?)?;
            let after = column + weight.columns();
            let own = (rows.narrow(1, *column, weight.columns())? + added)?;
            let left = rows.narrow(1, 0, *column)?;
            let right = rows.narrow(1, after, rows.dim(1)? - after)?;
            rows = Tensor::cat(&[left, own, right], 1)?;
        }
        y.slice_set(&rows.contiguous()?, 0, start)?;
    }
    Ok(())
}

struct Adding<'a> {
    workspace: &'a Workspace,
    columns: &'a [usize],
    runs: &'a [LoraRun<'a>],
}

impl InplaceOp2 for Adding<'_> {
    fn name(&self) -> &'static str {
        "lora"
    }

    fn cpu_fwd(
        &self,
        y: &mut CpuStorage,
        y_at: &Layout,
        x: &CpuStorage,
        x_at: &Layout,
    ) -> Result<()> {
        let ((_, stride), (_, k)) = (y_at.shape().dims2()?, x_at.shape().dims2()?);
        let (y, x) = (values_mut(y, y_at)?, values(x, x_at)?);
        let pool = &self.workspace.lock().pool;
        let level = dispatch::level();
        add_adapters(level, pool, x, k, self.columns, self.runs, y, stride);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Input, MatmulScratch, Matrix, Part, Pool, Store, WeightKind, matmul_adapted};
    use candle_core::Device;

    fn wave(count: usize, step: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * step).sin()).collect()
    }

    fn tensor(values: &[f32], rows: usize) -> Tensor {
        Tensor::from_slice(values, (rows, values.len() / rows), &Device::Cpu).expect("a tensor")
    }

    fn weight(rank: usize, k: usize, columns: usize, step: f32) -> (LoraWeight, LoraWeight) {
        let a = tensor(&wave(rank * k, step), rank);
        let b = tensor(&wave(columns * rank, step * 0.7), columns);
        let packed = LoraWeight::new(&a, &b).expect("fitting shapes");
        (packed, LoraWeight(Kept::Tensors { a, b }))
    }

    fn runs<'a>(pair: [&'a LoraWeight; 2]) -> Vec<LoraRows<'a>> {
        let shape = [
            (0..1, [true, false]),
            (1..12, [true, true]),
            (12..12, [true, true]),
            (14..20, [false, true]),
        ];
        let of = |(rows, on): (Range<usize>, [bool; 2])| LoraRows {
            rows,
            parts: [on[0].then_some(pair[0]), on[1].then_some(pair[1]), None],
        };
        shape.into_iter().map(of).collect()
    }

    #[test]
    fn what_is_added_has_the_bits_of_the_fused_product_and_is_the_librarys() {
        let (rows, k, stride, widths, columns) = (21, 37, 30, [20, 5], [1, 24]);
        let matrices = widths.map(|width| {
            let bytes: Vec<u8> = wave(width * k, 0.9)
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            Matrix::pack(WeightKind::F32, width, k, &bytes).expect("a whole matrix")
        });
        let parts = [0, 1].map(|i| Part::new(&matrices[i], columns[i]));
        let x = wave(rows * k, 0.3);
        let (first, first_tensors) = weight(3, k, widths[0], 1.1);
        let (second, second_tensors) = weight(17, k, widths[1], 0.4);
        let adapted = runs([&first, &second]);
        let packed: Vec<LoraRun<'_>> = adapted
            .iter()
            .map(|run| LoraRun {
                rows: run.rows.clone(),
                parts: run
                    .parts
                    .map(|weight| match weight.map(|weight| &weight.0) {
                        Some(Kept::Packed(matrix)) => Some(matrix),
                        _ => None,
                    }),
            })
            .collect();
        let product = |runs: &[LoraRun<'_>]| {
            let mut out = vec![0.5f32; rows * stride];
            matmul_adapted(
                &Pool::new(2),
                &mut MatmulScratch::default(),
                Input::Rows(&x),
                k,
                &parts,
                runs,
                Store::Replace,
                &mut out,
                stride,
            );
            out
        };
        let (base, expected) = (product(&[]), product(&packed));
        assert_ne!(base, expected);
        let (x, workspace) = (tensor(&x, rows), Workspace::new(Pool::new(2)));
        let added = |runs: &[LoraRows<'_>]| -> Vec<f32> {
            let y = tensor(&base, rows);
            lora_(&workspace, &y, &x, &columns, runs).expect("fitting shapes");
            y.flatten_all().and_then(|y| y.to_vec1()).expect("f32")
        };
        assert_eq!(added(&adapted), expected);
        let by_library = added(&runs([&first_tensors, &second_tensors]));
        for (i, (found, expected)) in by_library.iter().zip(&expected).enumerate() {
            assert!((found - expected).abs() < 1e-4, "{i}: {found} {expected}");
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let (first, tensors) = weight(3, 4, 5, 1.0);
        assert_eq!(tensors.bytes(), (3 * 4 + 5 * 3) * 4);
        assert!(first.bytes() >= tensors.bytes());
        let (narrow, _) = weight(3, 4, 2, 1.0);
        let workspace = Workspace::new(Pool::new(1));
        let (x, y) = (tensor(&[0.0; 12], 3), tensor(&[0.0; 21], 3));
        let add = |x: &Tensor, column: usize, runs: &[LoraRows<'_>]| {
            lora_(&workspace, &y, x, &[column], runs)
        };
        let run = |rows: Range<usize>, weight| LoraRows {
            rows,
            parts: [Some(weight), None, None],
        };
        assert!(add(&x, 2, &[run(0..3, &first)]).is_ok());
        assert!(add(&x, 3, &[run(0..3, &first)]).is_err(), "too wide");
        assert!(add(&x, 2, &[run(0..4, &first)]).is_err(), "too many rows");
        assert!(add(&x, 2, &[run(1..3, &first), run(2..3, &first)]).is_err());
        assert!(add(&x, 2, &[run(0..1, &first), run(1..3, &narrow)]).is_err());
        let turned = x.t().and_then(|x| x.contiguous()).expect("two dimensions");
        assert!(add(&turned, 2, &[run(0..3, &first)]).is_err());
        let second = LoraRows {
            rows: 0..1,
            parts: [None, Some(&first), None],
        };
        assert!(add(&x, 2, &[second]).is_err(), "a part without a place");
        assert!(LoraWeight::new(&x, &y).is_err());
    }
}
