//! Models: a step's tokens in, logits out.

pub(crate) mod llama;

use crate::batch::StepBatch;
use kernels::KvShape;

/// A decoder-only language model. It sees tokens, positions and block tables, and knows nothing of requests.
pub(crate) trait CausalModel: Send {
    /// What its attention memory looks like.
    fn kv_shape(&self) -> KvShape;
    /// Logits in a row.
    fn vocabulary(&self) -> usize;
    /// Runs one step: writes the keys and values of every row into `kv`, and one row of logits for each run that
    /// wants them, in order. A row's result does not depend on the other runs.
    fn forward(&mut self, batch: &StepBatch, kv: &mut [f32], logits: &mut Vec<f32>);
}
