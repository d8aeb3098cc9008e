//! Models: a step's tokens in, logits out.

pub(crate) mod llama;

use crate::batch::StepBatch;

/// A decoder-only language model. It sees tokens, positions and block tables, and knows nothing of requests.
pub(crate) trait CausalModel: Send {
    /// Bytes of attention memory a block of [`BLOCK_TOKENS`](kernels::BLOCK_TOKENS) positions takes.
    fn kv_block_bytes(&self) -> usize;
    /// Makes room for blocks 0 to `blocks`. Called once, before the first step.
    fn reserve_kv(&mut self, blocks: usize);
    /// Logits in a row.
    fn vocabulary(&self) -> usize;
    /// Runs one step: keeps the keys and values of every row in the blocks its run names, and writes one row of logits
    /// for each run that wants them, in order. A row's result does not depend on the other runs.
    fn forward(&mut self, batch: &StepBatch, logits: &mut Vec<f32>);
}
