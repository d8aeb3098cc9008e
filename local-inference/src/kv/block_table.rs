//! The blocks of one sequence, and the names of the full ones.

use super::prefix_index::{ChainHash, PrefixIndex};
use kernels::BLOCK_TOKENS;

#[derive(Debug)]
pub(crate) struct BlockTable {
    /// Block `i` holds positions `16 i` and on.
    pub(super) blocks: Vec<u32>,
    root: ChainHash,
    /// Of every full block of the tokens known so far, whether computed or not.
    pub(super) hashes: Vec<ChainHash>,
    /// Blocks whose content is complete and told to the index.
    pub(super) kept: usize,
}

impl BlockTable {
    pub(super) fn new(root: ChainHash) -> BlockTable {
        BlockTable {
            blocks: Vec::new(),
            root,
            hashes: Vec::new(),
            kept: 0,
        }
    }

    pub(crate) fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// Names the full blocks of `tokens` that have none yet. `tokens` only ever grows at its end.
    pub(super) fn learn(&mut self, index: &PrefixIndex, tokens: &[u32]) {
        let known = self.hashes.len() * BLOCK_TOKENS;
        for block in tokens[known..].as_chunks::<BLOCK_TOKENS>().0 {
            let parent = self.hashes.last().copied().unwrap_or(self.root);
            self.hashes.push(index.next(parent, block));
        }
    }
}
