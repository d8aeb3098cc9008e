//! Low-rank adapters beside a product: out += b (a x), for rows of many adapters in one call.
//!
//! Rows come in runs of one adapter each. The shrink, v = a x, is done by the item of work that prepares the rows, while they are near;
//! the expand, out += b v, follows each tile of the weights before its sums are stored. So an adapter adds no barrier to a
//! product, and a row without one is computed as if there were none.
//!
//! A sum runs over k in sixteen parts in a fixed order, then over the ranks in theirs, whatever else is in the call: a
//! row's result is the same bits alone and among others.

#[cfg(feature = "candle")]
mod add;
mod expand;
mod matrix;
mod shrink;

pub use matrix::{LoraDtype, LoraMatrix};

#[cfg(feature = "candle")]
pub(crate) use add::add_adapters;
pub(crate) use expand::expand;
pub(crate) use shrink::{Rows, shrink};

use std::ops::Range;

/// Parts of a product that adapters may aim at.
pub const MAX_PARTS: usize = 3;
/// The highest rank of an adapter.
pub const MAX_RANK: usize = 256;

/// Rows of one adapter.
#[derive(Clone)]
pub struct LoraRun<'a> {
    /// Rows of the call; runs are in order and share none.
    pub rows: Range<usize>,
    /// What is added to each part of the product; none where the adapter leaves it as it is.
    pub parts: [Option<&'a LoraMatrix>; MAX_PARTS],
}

/// The runs of one call, and where the shrunk rows lie: for each row of the call, the ranks of each part.
pub(crate) struct Adapters<'a> {
    runs: &'a [LoraRun<'a>],
    offsets: [usize; MAX_PARTS],
    /// Values of a shrunk row.
    pub width: usize,
}

impl<'a> Adapters<'a> {
    /// # Panics
    /// When runs are out of order, or a matrix does not fit `k` and its part.
    pub(crate) fn new(
        runs: &'a [LoraRun<'a>],
        k: usize,
        fits: impl Fn(usize, &LoraMatrix) -> bool,
    ) -> Adapters<'a> {
        let mut ranks = [0; MAX_PARTS];
        let mut end = 0;
        for run in runs {
            assert!(run.rows.start >= end && run.rows.end >= run.rows.start);
            end = run.rows.end;
            for (i, lora) in run.parts.iter().enumerate() {
                let Some(lora) = lora else { continue };
                assert!(lora.k() == k && fits(i, lora));
                ranks[i] = lora.class().max(ranks[i]);
            }
        }
        let mut offsets = [0; MAX_PARTS];
        for i in 1..MAX_PARTS {
            offsets[i] = offsets[i - 1] + ranks[i - 1];
        }
        Adapters {
            runs,
            offsets,
            width: ranks.iter().sum(),
        }
    }

    /// Whether there is nothing to add anywhere.
    pub(crate) fn is_empty(&self) -> bool {
        self.width == 0
    }

    /// Whether some matrix is of this type.
    pub(crate) fn has(&self, dtype: LoraDtype) -> bool {
        let mut matrices = self.runs.iter().flat_map(|run| run.parts.iter().flatten());
        matrices.any(|lora| lora.dtype() == dtype)
    }

    /// One past the last row with an adapter.
    pub(crate) fn end(&self) -> usize {
        self.runs.last().map_or(0, |run| run.rows.end)
    }

    /// Where the shrunk row of a part begins.
    pub(crate) fn place(&self, row: usize, part: usize) -> usize {
        row * self.width + self.offsets[part]
    }

    /// Asks for what [`shrink`] will read first for `rows`, while they are prepared.
    pub(crate) fn prefetch_shrink(&self, rows: &Range<usize>) {
        for run in self.from(rows.start) {
            if run.rows.start >= rows.end {
                return;
            }
            for lora in run.parts.iter().flatten() {
                lora.prefetch_a();
            }
        }
    }

    /// Asks for what [`expand`] will read of column group `group` for `rows`, a tile of the weights ahead.
    pub(crate) fn prefetch_expand(&self, part: usize, rows: &Range<usize>, group: usize) {
        for run in self.from(rows.start) {
            if run.rows.start >= rows.end {
                return;
            }
            if let Some(lora) = run.parts[part] {
                lora.prefetch_b(group);
            }
        }
    }

    /// The runs from the one that holds `row`, or the first after it, on.
    pub(crate) fn from(&self, row: usize) -> &'a [LoraRun<'a>] {
        let first = self.runs.partition_point(|run| run.rows.end <= row);
        &self.runs[first..]
    }
}

/// What two ranges share.
#[inline(always)]
pub(crate) fn common(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    a.start.max(b.start)..a.end.min(b.end)
}
