//! Who holds which block. The memory they number is the model's.
//!
//! ```text
//! next to be taken                                             last to be taken
//! [freed, worth nothing] [never used] [kept content: oldest ... freed just now]
//! ```
//! Free blocks form one list threaded through the table, so that taking, freeing and sharing a block are O(1).
//! What is worth nothing goes first, hence a quiet engine touches little memory; kept content goes in the order it was freed.

use kernels::BLOCK_TOKENS;

const NONE: u32 = u32::MAX;

/// A fixed number of blocks. When none is free, [`BlockPool::take`] says so and the scheduler makes room.
pub(crate) struct BlockPool {
    blocks: Vec<Block>,
    first: u32,
    last: u32,
    free: usize,
}

#[derive(Clone, Copy)]
struct Block {
    /// Sequences that hold it; a block nobody holds is in the free list.
    holders: u32,
    previous: u32,
    next: u32,
}

impl BlockPool {
    pub(crate) fn new(count: usize) -> BlockPool {
        let empty = Block {
            holders: 1,
            previous: NONE,
            next: NONE,
        };
        let mut pool = BlockPool {
            blocks: vec![empty; count],
            first: NONE,
            last: NONE,
            free: 0,
        };
        for block in 0..count as u32 {
            pool.release(block, true);
        }
        pool
    }

    /// Blocks that hold so many positions.
    pub(crate) fn blocks_for(tokens: usize) -> usize {
        tokens.div_ceil(BLOCK_TOKENS)
    }

    pub(crate) fn total(&self) -> usize {
        self.blocks.len()
    }

    pub(crate) fn free_blocks(&self) -> usize {
        self.free
    }

    pub(crate) fn used_blocks(&self) -> usize {
        self.blocks.len() - self.free
    }

    pub(crate) fn is_free(&self, block: u32) -> bool {
        self.blocks[block as usize].holders == 0
    }

    /// The free block least worth keeping, now held once. Whoever remembers what it held must forget it.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let block = self.first;
        if block == NONE {
            return None;
        }
        self.unlink(block);
        self.blocks[block as usize].holders = 1;
        Some(block)
    }

    /// One holder more.
    pub(crate) fn share(&mut self, block: u32) {
        if self.is_free(block) {
            self.unlink(block);
        }
        self.blocks[block as usize].holders += 1;
    }

    /// One holder less. The last one leaves the block free, with its content to be reused late (`is_kept`) or at once.
    pub(crate) fn release(&mut self, block: u32, is_kept: bool) {
        let entry = &mut self.blocks[block as usize];
        debug_assert!(entry.holders > 0, "a block was freed twice");
        entry.holders -= 1;
        if entry.holders > 0 {
            return;
        }
        self.free += 1;
        let (previous, next) = match is_kept {
            true => (self.last, NONE),
            false => (NONE, self.first),
        };
        let entry = &mut self.blocks[block as usize];
        (entry.previous, entry.next) = (previous, next);
        *self.link_after(previous) = block;
        *self.link_before(next) = block;
    }

    fn unlink(&mut self, block: u32) {
        self.free -= 1;
        let Block { previous, next, .. } = self.blocks[block as usize];
        *self.link_after(previous) = next;
        *self.link_before(next) = previous;
    }

    /// Where the list says what follows `block`.
    fn link_after(&mut self, block: u32) -> &mut u32 {
        match block {
            NONE => &mut self.first,
            _ => &mut self.blocks[block as usize].next,
        }
    }

    fn link_before(&mut self, block: u32) -> &mut u32 {
        match block {
            NONE => &mut self.last,
            _ => &mut self.blocks[block as usize].previous,
        }
    }
}
