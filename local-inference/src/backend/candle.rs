//! Candle tensors on any device candle has, with our own custom ops where a model needs what candle has not.
//!
//! The GPU engine's model code, run here on [`Device::Cpu`]: for a GPU the device and the far side of the ops in
//! [`kernels::candle`] change, nothing in this file. Weights are held as f32, whatever the file holds, so results are
//! those of the dequantised weights without rounded activations; memory is 4 bytes a weight, and steps are several times
//! slower than [`cpu`](super::cpu)'s.
//!
//! Only the families of [`SUPPORTED`] are loaded with it: [`load`](crate::model::load) refuses others by name, so the
//! ops that only others name are not written.

use super::{
    AdaptedRows, Attention, Backend, BackendError, Input, Norm, NormKind, Projection, Store,
};
use crate::adapter::load::LowRank;
use crate::batch::{Run, StepBatch};
use crate::weights::RawTensor;
use candle_core::{Device, Result, Tensor};
use kernels::candle::{
    LoraRows, LoraWeight, Places, Weight, Workspace, attend, gated, keep_, linear, lora_,
    paged_cache, rms_norm, rope_table, turn_heads_,
};
use kernels::{AttentionRows, AttentionSpec, KvShape, Matrix, Pool, RopeLayout, RopeSpec};

/// Architectures this backend runs, by the names headers give them.
pub(crate) const SUPPORTED: [&str; 3] = ["llama", "mistral", "qwen2"];

pub(crate) struct CandleBackend {
    device: Device,
    workspace: Workspace,
    /// One a layer; empty until room was asked for.
    caches: Vec<Tensor>,
}

impl CandleBackend {
    pub(crate) fn new(device: Device, pool: Pool) -> CandleBackend {
        CandleBackend {
            device,
            workspace: Workspace::new(pool),
            caches: Vec::new(),
        }
    }

    /// The rows a product reads.
    fn input(&self, input: Input<'_, CandleBackend>) -> Result<Tensor> {
        match input {
            Input::Rows(x) => Ok(x.tensor().clone()),
            Input::Normed(x, norm) => self.normed(x.tensor(), norm),
            Input::Gated(gate_up, activation) => {
                gated(&self.workspace, gate_up.tensor(), activation)
            }
            Input::Activated(..) => {
                unreachable!("no supported family has a feed-forward without gate")
            }
        }
    }

    fn normed(&self, x: &Tensor, norm: &Norm<CandleBackend>) -> Result<Tensor> {
        match norm.kind {
            NormKind::Rms => rms_norm(&self.workspace, x, &norm.weight, norm.epsilon),
            NormKind::Layer { .. } => unreachable!("no supported family has layer norms"),
        }
    }

    /// Rows by all parts of a projection, side by side.
    fn project(&self, x: &Tensor, projection: &Projection<CandleBackend>) -> Result<Tensor> {
        let outputs = projection
            .parts
            .iter()
            .map(|part| {
                let out = linear(&self.workspace, x, &part.matrix)?;
                match &part.bias {
                    Some(bias) => out.broadcast_add(bias),
                    None => Ok(out),
                }
            })
            .collect::<Result<Vec<_>>>()?;
        match &outputs[..] {
            [out] => Ok(out.clone()),
            _ => Tensor::cat(&outputs, 1),
        }
    }

    /// Adds the adapters' products to those of the projection.
    fn adapt(
        &self,
        x: &Tensor,
        projection: &Projection<CandleBackend>,
        adapted: &[AdaptedRows<'_, CandleBackend>],
        product: &Tensor,
    ) -> Result<()> {
        if adapted.is_empty() {
            return Ok(());
        }
        let runs: Vec<LoraRows<'_>> = adapted
            .iter()
            .map(|run| LoraRows {
                rows: run.rows.clone(),
                parts: run.parts.each_ref().map(Option::as_ref),
            })
            .collect();
        let columns: Vec<usize> = projection.parts.iter().map(|part| part.column).collect();
        lora_(&self.workspace, product, x, &columns, &runs)
    }

    fn attended(
        &self,
        step: &CandleStep,
        layer: usize,
        attention: &Attention<'_, CandleBackend>,
        qkv: &Tensor,
    ) -> Result<Tensor> {
        let (cache, layout) = (&self.caches[layer], attention.layout);
        turn_heads_(
            qkv,
            &attention.rope.table,
            &step.places,
            layout,
            attention.rope.layout,
        )?;
        keep_(cache, qkv, &step.places, layout)?;
        let spec = AttentionSpec {
            scale: attention.scale,
            window: attention.window,
            soft_cap: attention.soft_cap,
        };
        attend(qkv, cache, &step.places, layout, spec)
    }
}

/// Rows of activations; empty before the first step.
#[derive(Default)]
pub(crate) struct Rows(Option<Tensor>);

impl Rows {
    fn tensor(&self) -> &Tensor {
        self.0
            .as_ref()
            .expect("an op fills its rows before another reads them")
    }

    fn set(&mut self, rows: Result<Tensor>) {
        self.0 = Some(ran(rows));
    }
}

/// A device that fails in the middle of a step takes the step with it: the engine's thread catches the panic, fails the
/// step's sequences and goes on.
fn ran<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("an op failed on its device: {error}"))
}

pub(crate) struct CandleRope {
    table: Tensor,
    layout: RopeLayout,
}

/// A step's tables on the device.
pub(crate) struct CandleStep {
    tokens: Vec<u32>,
    places: Places,
    logit_rows: Tensor,
}

impl Backend for CandleBackend {
    type Matrix = Weight;
    type Vector = Tensor;
    type Rope = CandleRope;
    type Buffer = Rows;
    type Adapter = LoraWeight;
    type AdapterForm = Device;
    type Step<'a> = CandleStep;

    fn load_matrix(&self, tensor: &RawTensor<'_>) -> std::result::Result<Weight, BackendError> {
        let [columns, k] = tensor.shape[..] else {
            return Err("is no matrix".into());
        };
        let values = match tensor.floats() {
            Some(values) => values,
            None => {
                let packed = Matrix::pack(tensor.kind, columns, k, &tensor.bytes)?;
                let mut values = vec![0.0; columns * k];
                for (column, row) in values.chunks_exact_mut(k).enumerate() {
                    packed.row(column, row);
                }
                values
            }
        };
        Ok(Weight::new(&Tensor::from_vec(
            values,
            (columns, k),
            &self.device,
        )?)?)
    }

    fn load_vector(&self, values: Vec<f32>) -> std::result::Result<Tensor, BackendError> {
        let length = values.len();
        Ok(Tensor::from_vec(values, length, &self.device)?)
    }

    fn load_rope(
        &self,
        max_positions: usize,
        spec: RopeSpec,
    ) -> std::result::Result<CandleRope, BackendError> {
        Ok(CandleRope {
            table: rope_table(max_positions, &spec, &self.device)?,
            layout: spec.layout,
        })
    }

    fn matrix_bytes(matrix: &Weight) -> usize {
        matrix.bytes()
    }

    fn adapter_form(&self, _: &Weight) -> Device {
        self.device.clone()
    }

    fn load_adapter(
        device: &Device,
        matrices: &LowRank,
    ) -> std::result::Result<LoraWeight, BackendError> {
        let (rank, k, columns) = (matrices.rank, matrices.k, matrices.columns);
        let a = Tensor::from_slice(&matrices.a, (rank, k), device)?;
        let b = Tensor::from_slice(&matrices.b, (columns, rank), device)?;
        Ok(LoraWeight::new(&a, &b)?)
    }

    fn adapter_bytes(adapter: &LoraWeight) -> usize {
        adapter.bytes()
    }

    fn reserve_kv(&mut self, shape: KvShape, blocks: usize) {
        let cache = |_| ran(paged_cache(shape, blocks, &self.device));
        self.caches = (0..shape.layers).map(cache).collect();
    }

    fn begin(&mut self, batch: &StepBatch) -> CandleStep {
        let rows = |run: &Run| AttentionRows {
            first_row: run.rows.start,
            rows: run.rows.len(),
            first_position: run.first_position,
            blocks: &batch.blocks[run.blocks.clone()],
        };
        let runs: Vec<AttentionRows<'_>> = batch.runs.iter().map(rows).collect();
        let logit_rows: Vec<u32> = batch.logit_rows().map(|row| row as u32).collect();
        CandleStep {
            tokens: batch.tokens.clone(),
            places: ran(Places::new(&runs, &self.device)),
            logit_rows: ran(Tensor::new(logit_rows, &self.device)),
        }
    }

    fn embed(&mut self, step: &CandleStep, table: &Weight, scale: f32, out: &mut Rows) {
        let rows = table.rows(&step.tokens);
        out.set(match scale {
            1.0 => rows,
            _ => rows.and_then(|rows| rows * f64::from(scale)),
        });
    }

    fn matmul(
        &mut self,
        input: Input<'_, Self>,
        projection: &Projection<Self>,
        adapted: &[AdaptedRows<'_, Self>],
        store: Store,
        out: &mut Rows,
    ) {
        let product = self.input(input).and_then(|x| {
            let product = self.project(&x, projection)?;
            self.adapt(&x, projection, adapted, &product)?;
            Ok(product)
        });
        out.set(match store {
            Store::Replace => product,
            Store::Add => product.and_then(|product| out.tensor() + product),
        });
    }

    fn add_normed(&mut self, x: &Rows, norm: &Norm<Self>, out: &mut Rows) {
        let normed = self.normed(x.tensor(), norm);
        out.set(normed.and_then(|normed| out.tensor() + normed));
    }

    fn attend(
        &mut self,
        step: &CandleStep,
        layer: usize,
        attention: Attention<'_, Self>,
        qkv: &mut Rows,
        out: &mut Rows,
    ) {
        assert!(
            attention.head_norm.is_none(),
            "no supported family norms its heads"
        );
        out.set(self.attended(step, layer, &attention, qkv.tensor()));
    }

    fn keep_logit_rows(&mut self, step: &CandleStep, x: &Rows, out: &mut Rows) {
        out.set(x.tensor().index_select(&step.logit_rows, 0));
    }

    fn read(&mut self, logits: &mut Rows, out: &mut Vec<f32>) {
        *out = ran(logits
            .tensor()
            .flatten_all()
            .and_then(|rows| rows.to_vec1()));
    }
}
