//! The paged key/value pool: its layout, and writing one position into it.
//!
//! ```text
//! pool   = [block][layer][kv head] of: keys   [head_dim][16]   transposed: one load = 16 positions
//!                                      values [16][head_dim]
//! ```
//! A block holds 16 positions of all layers, so a sequence needs one block number for each 16 tokens.
//! Keys lie transposed, so that the scores of 16 positions are sums of whole vectors and no lane
//! is ever added to another.

/// Positions in a block.
pub const BLOCK_TOKENS: usize = 16;

/// What one model's pool looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    pub layers: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl KvShape {
    /// f32 values in a block.
    pub fn block_len(&self) -> usize {
        self.layers * self.kv_heads * self.head_len()
    }

    /// f32 values of one head in one layer of a block: keys, then values.
    pub(crate) fn head_len(&self) -> usize {
        2 * self.head_dim * BLOCK_TOKENS
    }

    /// Where that head begins in the pool.
    pub(crate) fn head_offset(&self, block: u32, layer: usize, head: usize) -> usize {
        ((block as usize * self.layers + layer) * self.kv_heads + head) * self.head_len()
    }
}

/// Writes keys and values (`kv_heads * head_dim` each) of `position` into its block.
///
/// # Panics
/// When the block lies outside the pool or the slices are not all heads of one position.
pub fn kv_write(
    pool: &mut [f32],
    shape: &KvShape,
    layer: usize,
    blocks: &[u32],
    position: usize,
    keys: &[f32],
    values: &[f32],
) {
    let dim = shape.head_dim;
    assert_eq!(keys.len(), shape.kv_heads * dim);
    assert_eq!(values.len(), shape.kv_heads * dim);
    let block = blocks[position / BLOCK_TOKENS];
    let slot = position % BLOCK_TOKENS;
    for head in 0..shape.kv_heads {
        let start = shape.head_offset(block, layer, head);
        let (key_part, value_part) =
            pool[start..][..shape.head_len()].split_at_mut(dim * BLOCK_TOKENS);
        for (i, key) in keys[head * dim..][..dim].iter().enumerate() {
            key_part[i * BLOCK_TOKENS + slot] = *key;
        }
        value_part[slot * dim..][..dim].copy_from_slice(&values[head * dim..][..dim]);
    }
}
