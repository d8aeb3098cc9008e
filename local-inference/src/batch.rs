//! The tokens of one step, flat: what a model is shown.

use crate::adapter::LoadedAdapter;
use std::ops::Range;
use std::sync::Arc;

/// Rows of all sequences of a step, one behind the other. The buffers are kept between steps.
#[derive(Default)]
pub(crate) struct StepBatch {
    /// One token a row.
    pub tokens: Vec<u32>,
    pub runs: Vec<Run>,
    /// Block tables of all runs, one behind the other.
    pub blocks: Vec<u32>,
}

/// Consecutive rows of one sequence.
pub(crate) struct Run {
    pub rows: Range<usize>,
    /// Position of the first row in its sequence.
    pub first_position: usize,
    /// Its part of [`StepBatch::blocks`].
    pub blocks: Range<usize>,
    /// Whether the logits of its last row are wanted. A prompt's earlier chunks want none.
    pub wants_logits: bool,
    /// What is added to the base's projections in these rows.
    pub adapter: Option<Arc<LoadedAdapter>>,
}

impl StepBatch {
    pub(crate) fn clear(&mut self) {
        self.tokens.clear();
        self.runs.clear();
        self.blocks.clear();
    }

    pub(crate) fn push(
        &mut self,
        tokens: &[u32],
        first_position: usize,
        blocks: &[u32],
        wants_logits: bool,
        adapter: Option<&Arc<LoadedAdapter>>,
    ) {
        let (row, block) = (self.tokens.len(), self.blocks.len());
        self.tokens.extend_from_slice(tokens);
        self.blocks.extend_from_slice(blocks);
        self.runs.push(Run {
            rows: row..self.tokens.len(),
            first_position,
            blocks: block..self.blocks.len(),
            wants_logits,
            adapter: adapter.cloned(),
        });
    }

    /// Rows whose logits are wanted, in order of their runs.
    pub(crate) fn logit_rows(&self) -> impl Iterator<Item = usize> {
        self.runs
            .iter()
            .filter(|run| run.wants_logits)
            .map(|run| run.rows.end - 1)
    }
}
