//! Which blocks are free. The memory they number is the model's.

use kernels::BLOCK_TOKENS;

/// A fixed number of blocks. Their memory becomes real when first written; the block freed last is handed out first,
/// so a quiet engine stays small.
pub(crate) struct BlockPool {
    free: Vec<u32>,
    total: usize,
}

impl BlockPool {
    pub(crate) fn new(blocks: usize) -> BlockPool {
        BlockPool {
            free: (0..blocks as u32).rev().collect(),
            total: blocks,
        }
    }

    /// Blocks that hold so many positions.
    pub(crate) fn blocks_for(tokens: usize) -> usize {
        tokens.div_ceil(BLOCK_TOKENS)
    }

    pub(crate) fn free_blocks(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn used_blocks(&self) -> usize {
        self.total - self.free.len()
    }

    /// Lengthens `blocks` until it holds `tokens` positions.
    ///
    /// # Panics
    /// When the pool is empty: admission reserves the whole sequence beforehand.
    pub(crate) fn grow(&mut self, blocks: &mut Vec<u32>, tokens: usize) {
        while blocks.len() < BlockPool::blocks_for(tokens) {
            blocks.push(self.free.pop().expect("admission reserved these blocks"));
        }
    }

    pub(crate) fn release(&mut self, blocks: &mut Vec<u32>) {
        self.free.extend(blocks.drain(..).rev());
        debug_assert!(self.free.len() <= self.total, "a block was freed twice");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_never_owned_twice_and_all_come_back() {
        let mut pool = BlockPool::new(10);
        let mut tables: Vec<Vec<u32>> = vec![Vec::new(); 3];
        let mut state = 7u64;
        for _ in 0..2000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let table = &mut tables[(state >> 60) as usize % 3];
            if state >> 40 & 1 == 0 {
                pool.release(table);
            } else {
                let tokens = (state >> 33) as usize % 49;
                if BlockPool::blocks_for(tokens).saturating_sub(table.len()) <= pool.free_blocks() {
                    pool.grow(table, tokens);
                }
            }
            let mut owned: Vec<u32> = tables.iter().flatten().copied().collect();
            owned.sort_unstable();
            owned.dedup();
            assert_eq!(owned.len(), tables.iter().map(Vec::len).sum::<usize>());
            assert_eq!(pool.used_blocks(), owned.len());
        }
    }
}
