//! Rows by a weight matrix.
//!
//! On the CPU not the library's product, because that picks its way through the sums by how many rows there are, and a row's
//! result would change with its neighbours; our kernels' does not. Elsewhere the library's.

use super::values;
use crate::cpu::pool::Pool;
use crate::{Input, MatmulScratch, Matrix, Part, Store, WeightKind, matmul};
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, bail};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The threads and buffers that products on the CPU run with; one for each model.
pub struct Workspace(Mutex<Workshop>);

pub(super) struct Workshop {
    pub pool: Pool,
    scratch: MatmulScratch,
}

impl Workspace {
    pub fn new(pool: Pool) -> Workspace {
        let scratch = MatmulScratch::default();
        Workspace(Mutex::new(Workshop { pool, scratch }))
    }

    /// A panic in an op leaves nothing half-written that the next one reads.
    pub(super) fn lock(&self) -> MutexGuard<'_, Workshop> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A matrix of `columns` outputs by `k` inputs: packed on the CPU, elsewhere a tensor.
pub struct Weight(Kept);

enum Kept {
    Packed(Matrix),
    Tensor(Tensor),
}

impl Weight {
    /// From columns x k of f32.
    ///
    /// # Errors
    /// Another shape or type.
    pub fn new(tensor: &Tensor) -> Result<Weight> {
        let (columns, k) = tensor.dims2()?;
        if tensor.dtype() != DType::F32 {
            bail!("a weight of {:?} instead of f32", tensor.dtype());
        }
        if !tensor.device().is_cpu() {
            return Ok(Weight(Kept::Tensor(tensor.contiguous()?)));
        }
        let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let matrix =
            Matrix::pack(WeightKind::F32, columns, k, &bytes).map_err(candle_core::Error::wrap)?;
        Ok(Weight(Kept::Packed(matrix)))
    }

    /// Memory held.
    pub fn bytes(&self) -> usize {
        match &self.0 {
            Kept::Packed(matrix) => matrix.bytes(),
            Kept::Tensor(tensor) => tensor.elem_count() * tensor.dtype().size_in_bytes(),
        }
    }

    /// The rows of these outputs: ids x k. An embedding look-up.
    ///
    /// # Errors
    /// An id past the matrix.
    pub fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        match &self.0 {
            Kept::Tensor(tensor) => tensor.index_select(&Tensor::new(ids, tensor.device())?, 0),
            Kept::Packed(matrix) => {
                let k = matrix.k();
                if let Some(id) = ids.iter().find(|id| **id as usize >= matrix.columns()) {
                    bail!("row {id} of {}", matrix.columns());
                }
                let mut rows = vec![0.0; ids.len() * k];
                for (id, row) in ids.iter().zip(rows.chunks_exact_mut(k)) {
                    matrix.row(*id as usize, row);
                }
                Tensor::from_vec(rows, (ids.len(), k), &Device::Cpu)
            }
        }
    }
}

/// `x`: rows x k; gives rows x columns.
///
/// # Errors
/// Shapes that do not fit, a tensor that is not contiguous f32.
pub fn linear(workspace: &Workspace, x: &Tensor, weight: &Weight) -> Result<Tensor> {
    match &weight.0 {
        Kept::Packed(matrix) => x.apply_op1_no_bwd(&Linear { workspace, matrix }),
        Kept::Tensor(weight) => x.matmul(&weight.t()?),
    }
}

struct Linear<'a> {
    workspace: &'a Workspace,
    matrix: &'a Matrix,
}

impl CustomOp1 for Linear<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_at: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = x_at.shape().dims2()?;
        let (k, columns) = (self.matrix.k(), self.matrix.columns());
        if width != k {
            bail!("rows of {width} and a matrix of {k} inputs");
        }
        let x = values(x, x_at)?;
        let mut out = vec![0.0f32; rows * columns];
        if rows > 0 {
            let Workshop { pool, scratch } = &mut *self.workspace.lock();
            let parts = [Part::new(self.matrix, 0)];
            matmul(
                pool,
                scratch,
                Input::Rows(x),
                k,
                &parts,
                Store::Replace,
                &mut out,
                columns,
            );
        }
        Ok((CpuStorage::F32(out), (rows, columns).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(rows: usize, k: usize, step: f32) -> Tensor {
        let values: Vec<f32> = (0..rows * k).map(|i| (i as f32 * step).sin()).collect();
        Tensor::from_vec(values, (rows, k), &Device::Cpu).expect("a tensor")
    }

    #[test]
    fn a_product_is_the_librarys() {
        let workspace = Workspace::new(Pool::new(2));
        for (rows, columns, k) in [(1, 1, 1), (3, 5, 7), (9, 70, 100)] {
            let (x, weight) = (wave(rows, k, 0.7), wave(columns, k, 1.1));
            let expected: Vec<Vec<f32>> = weight
                .t()
                .and_then(|w| x.matmul(&w))
                .and_then(|out| out.to_vec2())
                .expect("a product");
            let weight = Weight::new(&weight).expect("f32");
            let found: Vec<Vec<f32>> = linear(&workspace, &x, &weight)
                .and_then(|out| out.to_vec2())
                .expect("a product");
            for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
                assert!((found - expected).abs() < 1e-5, "{found} {expected}");
            }
        }
    }

    #[test]
    fn rows_are_looked_up_and_what_does_not_fit_is_an_error() {
        let (workspace, table) = (Workspace::new(Pool::new(1)), wave(5, 3, 1.0));
        let weight = Weight::new(&table).expect("f32");
        assert_eq!(weight.bytes() / 4 % 3, 0);
        let found: Vec<Vec<f32>> = weight
            .rows(&[4, 0])
            .and_then(|rows| rows.to_vec2())
            .expect("rows");
        let table: Vec<Vec<f32>> = table.to_vec2().expect("f32");
        assert_eq!(found, [table[4].clone(), table[0].clone()]);
        assert!(weight.rows(&[5]).is_err());
        assert!(linear(&workspace, &wave(2, 4, 1.0), &weight).is_err());
        let none = linear(&workspace, &wave(0, 3, 1.0), &weight).expect("no rows");
        assert_eq!(none.dims(), [0, 5]);
    }
}
