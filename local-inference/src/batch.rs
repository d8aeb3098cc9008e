//! The tokens of one step, flat: what a model is shown.

use std::ops::Range;

/// Rows of all sequences of a step, one behind the other. The buffers are kept between steps.
#[derive(Debug, Default)]
pub(crate) struct StepBatch {
    /// One token a row.
    pub tokens: Vec<u32>,
    pub runs: Vec<Run>,
    /// Block tables of all runs, one behind the other.
    pub blocks: Vec<u32>,
}

/// Consecutive rows of one sequence.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub rows: Range<usize>,
    /// Position of the first row in its sequence.
    pub first_position: usize,
    /// Its part of [`StepBatch::blocks`].
    pub blocks: Range<usize>,
    /// Whether the logits of its last row are wanted. A prompt's earlier chunks want none.
    pub wants_logits: bool,
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
    ) {
        let (row, block) = (self.tokens.len(), self.blocks.len());
        self.tokens.extend_from_slice(tokens);
        self.blocks.extend_from_slice(blocks);
        self.runs.push(Run {
            rows: row..self.tokens.len(),
            first_position,
            blocks: block..self.blocks.len(),
            wants_logits,
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
