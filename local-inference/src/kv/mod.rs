//! Attention memory as numbers: blocks of 16 positions, who holds them, and which beginnings of texts they hold.
//!
//! A sequence takes the blocks of all its known tokens when it is admitted and one more whenever it crosses a boundary.
//! Full blocks are remembered by content; a freed one stays remembered until it is needed for something
//! else, so a later text with the same beginning takes it over instead of computing it. Only whole blocks are shared, and
//! never the one that holds a text's last token: there must be one row left to compute, or there would be no logits.

mod block_pool;
mod block_table;
mod prefix_index;

#[cfg(test)]
mod tests;

pub(crate) use block_table::BlockTable;

use block_pool::BlockPool;
use kernels::BLOCK_TOKENS;
use prefix_index::{AsItIs, ChainHash, PrefixIndex};
use std::collections::HashMap;

/// Tells sequences apart; never used twice.
pub(crate) type Owner = u64;

/// One model's blocks.
pub(crate) struct Kv {
    pool: BlockPool,
    index: PrefixIndex,
    /// Blocks that a sequence has begun to compute, so that another with the same text may wait for it.
    underway: HashMap<ChainHash, Owner, AsItIs>,
}

impl Kv {
    pub(crate) fn new(blocks: usize) -> Kv {
        Kv {
            pool: BlockPool::new(blocks),
            index: PrefixIndex::new(blocks),
            underway: HashMap::default(),
        }
    }

    /// Blocks that hold so many positions.
    pub(crate) fn blocks_for(tokens: usize) -> usize {
        BlockPool::blocks_for(tokens)
    }

    /// A table without blocks. Tables share only within one namespace.
    pub(crate) fn table(&self, namespace: &str, tokens: &[u32]) -> BlockTable {
        let mut table = BlockTable::new(self.index.root(namespace.as_bytes()));
        table.learn(&self.index, tokens);
        table
    }

    /// Tokens were added at the end.
    pub(crate) fn learn(&self, table: &mut BlockTable, tokens: &[u32]) {
        table.learn(&self.index, tokens);
    }

    pub(crate) fn total_blocks(&self) -> usize {
        self.pool.total()
    }

    pub(crate) fn used_blocks(&self) -> usize {
        self.pool.used_blocks()
    }

    /// Who is computing the first block that this table of `tokens` tokens would have to compute itself.
    pub(crate) fn twin(&self, table: &BlockTable, tokens: usize) -> Option<Owner> {
        let next = self.hits(table, tokens);
        let shareable = shareable_blocks(tokens).min(table.hashes.len());
        (next < shareable)
            .then(|| self.underway.get(&table.hashes[next]).copied())
            .flatten()
    }

    /// Gives an empty table the blocks of `tokens` tokens if `spare` blocks stay free; says how many tokens need no computing.
    pub(crate) fn admit(
        &mut self,
        table: &mut BlockTable,
        tokens: usize,
        owner: Owner,
        spare: usize,
    ) -> Option<usize> {
        debug_assert!(table.blocks.is_empty());
        let hits = self.hits(table, tokens);
        let found = |hash: &ChainHash| self.index.find(*hash).expect("a hit was just found");
        table.blocks.extend(table.hashes[..hits].iter().map(found));
        let revived = table
            .blocks
            .iter()
            .filter(|block| self.pool.is_free(**block))
            .count();
        let fresh = BlockPool::blocks_for(tokens) - hits;
        if revived + fresh + spare > self.pool.free_blocks() {
            table.blocks.clear();
            return None;
        }
        for block in &table.blocks {
            self.pool.share(*block);
        }
        table.kept = hits;
        let is_grown = self.grow(table, tokens);
        debug_assert!(is_grown, "the blocks were counted before");
        for hash in &table.hashes[hits..] {
            self.underway.entry(*hash).or_insert(owner);
        }
        Some(hits * BLOCK_TOKENS)
    }

    /// Lengthens the table to hold `tokens` positions; false, and nothing lost, when no block is free.
    pub(crate) fn grow(&mut self, table: &mut BlockTable, tokens: usize) -> bool {
        while table.blocks.len() < BlockPool::blocks_for(tokens) {
            let Some(block) = self.pool.take() else {
                return false;
            };
            self.index.forget(block);
            table.blocks.push(block);
        }
        true
    }

    /// The first `computed` positions hold what they should: remembers the blocks that became full.
    pub(crate) fn keep(&mut self, table: &mut BlockTable, computed: usize, owner: Owner) {
        let full = computed / BLOCK_TOKENS;
        while table.kept < full {
            let (hash, block) = (table.hashes[table.kept], table.blocks[table.kept]);
            self.index.insert(hash, block);
            self.abandon(hash, owner);
            table.kept += 1;
        }
    }

    /// Gives all blocks back, the last first: of a text that is kept, its beginning is kept longest.
    pub(crate) fn release(&mut self, table: &mut BlockTable, owner: Owner) {
        for hash in &table.hashes[table.kept..] {
            self.abandon(*hash, owner);
        }
        table.kept = 0;
        while let Some(block) = table.blocks.pop() {
            self.pool.release(block, self.index.is_known(block));
        }
    }

    fn abandon(&mut self, hash: ChainHash, owner: Owner) {
        if self.underway.get(&hash) == Some(&owner) {
            self.underway.remove(&hash);
        }
    }

    /// Blocks at the beginning of a text of `tokens` tokens that are there already.
    fn hits(&self, table: &BlockTable, tokens: usize) -> usize {
        let shareable = shareable_blocks(tokens).min(table.hashes.len());
        let is_there = |hash: &&ChainHash| self.index.find(**hash).is_some();
        table.hashes[..shareable]
            .iter()
            .take_while(is_there)
            .count()
    }
}

/// Full blocks before the last token.
fn shareable_blocks(tokens: usize) -> usize {
    tokens.saturating_sub(1) / BLOCK_TOKENS
}
