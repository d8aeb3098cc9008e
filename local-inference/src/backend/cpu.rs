//! Our kernels on plain slices.

use super::{
    AdaptedRows, Attention, Backend, BackendError, Input, MAX_PARTS, Norm, NormKind, Projection,
    Store,
};
use crate::adapter::load::LowRank;
use crate::batch::StepBatch;
use crate::weights::RawTensor;
use kernels::{
    AttentionRows, AttentionSpec, KvMemory, KvShape, LoraDtype, LoraMatrix, LoraRun, MatmulScratch,
    Matrix, Pool, RopeSpec, RopeTable, WeightKind,
};

pub(crate) struct CpuBackend {
    pool: Pool,
    scratch: MatmulScratch,
    /// `None` until room was asked for.
    kv: Option<KvMemory>,
    normed: Vec<f32>,
}

impl CpuBackend {
    pub(crate) fn new(pool: Pool) -> CpuBackend {
        CpuBackend {
            pool,
            scratch: MatmulScratch::default(),
            kv: None,
            normed: Vec::new(),
        }
    }
}

/// A step as the kernels see it.
pub(crate) struct CpuStep<'a> {
    batch: &'a StepBatch,
    runs: Vec<AttentionRows<'a>>,
}

impl Backend for CpuBackend {
    type Matrix = Matrix;
    type Vector = Vec<f32>;
    type Rope = RopeTable;
    type Buffer = Vec<f32>;
    type Adapter = LoraMatrix;
    type AdapterForm = LoraDtype;
    type Step<'a> = CpuStep<'a>;

    fn load_matrix(&self, tensor: &RawTensor<'_>) -> Result<Matrix, BackendError> {
        let [columns, k] = tensor.shape[..] else {
            return Err("is no matrix".into());
        };
        Ok(Matrix::pack(tensor.kind, columns, k, &tensor.bytes)?)
    }

    fn load_vector(&self, values: Vec<f32>) -> Result<Vec<f32>, BackendError> {
        Ok(values)
    }

    fn load_rope(&self, max_positions: usize, spec: RopeSpec) -> Result<RopeTable, BackendError> {
        Ok(RopeTable::new(max_positions, spec))
    }

    fn matrix_bytes(matrix: &Matrix) -> usize {
        matrix.bytes()
    }

    /// As exact as the base: rounded where that is.
    fn adapter_form(&self, beside: &Matrix) -> LoraDtype {
        match beside.kind() {
            WeightKind::F32 | WeightKind::F16 => LoraDtype::F32,
            _ => LoraDtype::Bf16,
        }
    }

    fn load_adapter(form: &LoraDtype, matrices: &LowRank) -> Result<LoraMatrix, BackendError> {
        let LowRank {
            rank,
            k,
            columns,
            a,
            b,
        } = matrices;
        Ok(LoraMatrix::pack(*rank, *k, *columns, a, b, 1.0, *form)?)
    }

    fn adapter_bytes(adapter: &LoraMatrix) -> usize {
        adapter.bytes()
    }

    fn reserve_kv(&mut self, shape: KvShape, blocks: usize) {
        self.kv = Some(KvMemory::new(shape, blocks));
    }

    fn begin<'a>(&mut self, batch: &'a StepBatch) -> CpuStep<'a> {
        let rows = |run: &crate::batch::Run| AttentionRows {
            first_row: run.rows.start,
            rows: run.rows.len(),
            first_position: run.first_position,
            blocks: &batch.blocks[run.blocks.clone()],
        };
        CpuStep {
            batch,
            runs: batch.runs.iter().map(rows).collect(),
        }
    }

    fn embed(&mut self, step: &CpuStep<'_>, table: &Matrix, scale: f32, out: &mut Vec<f32>) {
        out.resize(step.batch.tokens.len() * table.k(), 0.0);
        for (token, row) in step
            .batch
            .tokens
            .iter()
            .zip(out.chunks_exact_mut(table.k()))
        {
            table.row(*token as usize, row);
            if scale != 1.0 {
                row.iter_mut().for_each(|value| *value *= scale);
            }
        }
    }

    fn matmul(
        &mut self,
        input: Input<'_, Self>,
        projection: &Projection<Self>,
        adapted: &[AdaptedRows<'_, Self>],
        store: Store,
        out: &mut Vec<f32>,
    ) {
        let (input, rows) = kernel_input(input, projection.k);
        if rows == 0 {
            return out.clear();
        }
        let parts = &projection.parts;
        // On the stack: a step allocates nothing here.
        let kernel_parts: [kernels::Part<'_>; MAX_PARTS] = std::array::from_fn(|i| {
            let part = &parts[i.min(parts.len() - 1)];
            kernels::Part {
                matrix: &part.matrix,
                bias: part.bias.as_deref(),
                column: part.column,
            }
        });
        let store = match store {
            Store::Add => kernels::Store::Add,
            Store::Replace => {
                out.resize(rows * projection.width, 0.0);
                kernels::Store::Replace
            }
        };
        let runs: Vec<LoraRun<'_>> = adapted.iter().map(lora_run).collect();
        kernels::matmul_adapted(
            &self.pool,
            &mut self.scratch,
            input,
            projection.k,
            &kernel_parts[..parts.len()],
            &runs,
            store,
            out,
            projection.width,
        );
    }

    fn add_normed(&mut self, x: &Vec<f32>, norm: &Norm<Self>, out: &mut Vec<f32>) {
        let width = norm.weight.len();
        self.normed.resize(x.len(), 0.0);
        let input = kernel_norm(x, norm);
        kernels::norm_rows(&self.pool, input, width, &mut self.normed);
        for (sum, more) in out.iter_mut().zip(&self.normed) {
            *sum += more;
        }
    }

    fn attend(
        &mut self,
        step: &CpuStep<'_>,
        layer: usize,
        attention: Attention<'_, Self>,
        qkv: &mut Vec<f32>,
        out: &mut Vec<f32>,
    ) {
        let kv = self
            .kv
            .as_mut()
            .expect("room was made before the first step");
        let layout = attention.layout;
        let norm = attention.head_norm.map(|norm| kernels::HeadNorm {
            q: &norm.query,
            k: &norm.key,
            epsilon: norm.epsilon,
        });
        let (pool, runs) = (&self.pool, &step.runs[..]);
        let rope = Some(attention.rope);
        kernels::attend_prepare(pool, kv, layer, runs, qkv, layout, norm, rope);
        let spec = AttentionSpec {
            scale: attention.scale,
            window: attention.window,
            soft_cap: attention.soft_cap,
        };
        out.resize(
            qkv.len() / layout.stride * layout.heads * layout.head_dim,
            0.0,
        );
        kernels::paged_attention(pool, kv, layer, runs, qkv, layout, spec, out);
    }

    fn keep_logit_rows(&mut self, step: &CpuStep<'_>, x: &Vec<f32>, out: &mut Vec<f32>) {
        let width = x.len() / step.batch.tokens.len().max(1);
        out.clear();
        for row in step.batch.logit_rows() {
            out.extend_from_slice(&x[row * width..][..width]);
        }
    }

    fn read(&mut self, logits: &mut Vec<f32>, out: &mut Vec<f32>) {
        std::mem::swap(logits, out);
    }
}

fn lora_run<'a>(adapted: &AdaptedRows<'a, CpuBackend>) -> LoraRun<'a> {
    LoraRun {
        rows: adapted.rows.clone(),
        parts: adapted.parts.each_ref().map(Option::as_ref),
    }
}

/// The kernels' form of an input of `k` numbers a row, and its rows.
fn kernel_input<'a>(input: Input<'a, CpuBackend>, k: usize) -> (kernels::Input<'a>, usize) {
    match input {
        Input::Rows(x) => (kernels::Input::Rows(x), x.len() / k),
        Input::Normed(x, norm) => (kernel_norm(x, norm), x.len() / k),
        Input::Gated(gate_up, activation) => (
            kernels::Input::Gated {
                gate_up,
                activation,
            },
            gate_up.len() / (2 * k),
        ),
        Input::Activated(x, activation) => {
            (kernels::Input::Activated { x, activation }, x.len() / k)
        }
    }
}

fn kernel_norm<'a>(x: &'a [f32], norm: &'a Norm<CpuBackend>) -> kernels::Input<'a> {
    let (weight, epsilon) = (&norm.weight[..], norm.epsilon);
    match &norm.kind {
        NormKind::Rms => kernels::Input::RmsNorm { x, weight, epsilon },
        NormKind::Layer { bias } => kernels::Input::LayerNorm {
            x,
            weight,
            bias: bias.as_deref(),
            epsilon,
        },
    }
}
