//! Attention memory: paged keys and values, their layout and element type.
//!
//! ```text
//! memory = [layer][block][kv head] of: keys   [head_dim / n][16]        one register = 16 positions
//!                                      values [16 / n][padded head_dim] one register = 16 dimensions
//! ```
//! A block holds 16 positions; what one head needs of it is contiguous. A word of the memory is one f32 (n = 1), or two
//! bf16 (n = 2): neighbouring dimensions of a key, neighbouring positions of a value, the even one in the low half. Keys lie
//! transposed, so that the scores of 16 positions are sums of whole registers and no lane is ever added to another.
//! Rows of values are padded to whole registers (a head of 40 takes 48); the padding stays zero.

use crate::cpu::huge::{Buffer, Plain};
use crate::cpu::lanes::{LANES, Lanes};
use half::bf16;

/// Positions in a block.
pub const BLOCK_TOKENS: usize = 16;
const _: () = assert!(BLOCK_TOKENS == LANES);

/// What keys and values are stored as. Sums are f32 either way; weights of bf16 values may be rounded to bf16 too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvDtype {
    F32,
    /// Rounded to nearest even when written: half the memory, and half the reading that bounds decoding at depth.
    Bf16,
}

/// What one model's attention memory looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    pub layers: usize,
    pub kv_heads: usize,
    /// Even.
    pub head_dim: usize,
    pub dtype: KvDtype,
}

impl KvShape {
    /// Bytes a block of [`BLOCK_TOKENS`] positions takes in all layers.
    pub fn block_bytes(&self) -> usize {
        self.layers * self.layer_words() * size_of::<u32>()
    }

    /// Width of a stored value: whole registers.
    pub(crate) fn padded_dim(&self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    fn word_values(&self) -> usize {
        match self.dtype {
            KvDtype::F32 => 1,
            KvDtype::Bf16 => 2,
        }
    }

    /// Words of one head's keys in a block.
    pub(crate) fn key_words(&self) -> usize {
        self.head_dim / self.word_values() * BLOCK_TOKENS
    }

    /// Words of one head in a block: keys, then values.
    pub(crate) fn head_words(&self) -> usize {
        self.key_words() + BLOCK_TOKENS / self.word_values() * self.padded_dim()
    }

    /// Words of all heads in one layer of a block.
    pub(crate) fn layer_words(&self) -> usize {
        self.kv_heads * self.head_words()
    }
}

/// One model's attention memory. Which blocks belong to whom is the caller's business.
pub struct KvMemory {
    shape: KvShape,
    blocks: usize,
    words: Words,
}

/// On large pages where the system has them: blocks lie anywhere, and each small page would be looked up anew.
enum Words {
    F32(Buffer<f32>),
    Bf16(Buffer<u32>),
}

// SAFETY: a number.
unsafe impl Plain for f32 {}
// SAFETY: a number.
unsafe impl Plain for u32 {}

impl KvMemory {
    /// Memory of `blocks` blocks, zero; the system provides each page when it is first touched.
    ///
    /// # Panics
    /// When the head dimension is odd.
    pub fn new(shape: KvShape, blocks: usize) -> KvMemory {
        assert!(shape.head_dim.is_multiple_of(2), "an odd head dimension");
        let len = shape.layers * blocks * shape.layer_words();
        let words = match shape.dtype {
            KvDtype::F32 => Words::F32(Buffer::zeroed(len)),
            KvDtype::Bf16 => Words::Bf16(Buffer::zeroed(len)),
        };
        KvMemory {
            shape,
            blocks,
            words,
        }
    }

    pub fn shape(&self) -> KvShape {
        self.shape
    }

    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// The words of one layer, block after block, for those who move them elsewhere: an f32 as its bits, two bf16 as they lie.
    pub fn words(&self, layer: usize) -> Vec<u32> {
        match self.words {
            Words::F32(..) => self
                .layer::<F32Cells>(layer)
                .iter()
                .map(|word| word.to_bits())
                .collect(),
            Words::Bf16(..) => self.layer::<Bf16Cells>(layer).to_vec(),
        }
    }

    /// The words of one layer, block after block.
    pub(crate) fn layer<C: Cells>(&self, layer: usize) -> &[C::Word] {
        let len = self.blocks * self.shape.layer_words();
        &C::words(self)[layer * len..][..len]
    }

    pub(crate) fn layer_mut<C: Cells>(&mut self, layer: usize) -> &mut [C::Word] {
        let len = self.blocks * self.shape.layer_words();
        &mut C::words_mut(self)[layer * len..][..len]
    }

    /// Key and value of one position as f32, for the plain twins.
    pub(crate) fn read(
        &self,
        layer: usize,
        block: u32,
        head: usize,
        slot: usize,
    ) -> (Vec<f32>, Vec<f32>) {
        match self.words {
            Words::F32(..) => self.read_as::<F32Cells>(layer, block, head, slot),
            Words::Bf16(..) => self.read_as::<Bf16Cells>(layer, block, head, slot),
        }
    }

    fn read_as<C: Cells>(
        &self,
        layer: usize,
        block: u32,
        head: usize,
        slot: usize,
    ) -> (Vec<f32>, Vec<f32>) {
        let shape = &self.shape;
        let start = (block as usize * shape.kv_heads + head) * shape.head_words();
        let words = &self.layer::<C>(layer)[start..][..shape.head_words()];
        let (keys, values) = words.split_at(shape.key_words());
        let width = shape.padded_dim();
        let per_word = C::WORD_VALUES;
        let key = |i: usize| C::value(keys[i / per_word * BLOCK_TOKENS + slot], i % per_word);
        let value = |i: usize| C::value(values[slot / per_word * width + i], slot % per_word);
        let dims = 0..shape.head_dim;
        (dims.clone().map(key).collect(), dims.map(value).collect())
    }
}

/// How one element type lies in the memory.
pub(crate) trait Cells {
    type Word: Copy + Send + Sync;
    const WORD_VALUES: usize;

    /// All words of a memory of this type.
    fn words(memory: &KvMemory) -> &[Self::Word];
    fn words_mut(memory: &mut KvMemory) -> &mut [Self::Word];
    /// One of the values of a word.
    fn value(word: Self::Word, index: usize) -> f32;
    /// The first values of 16 words.
    fn low<V: Lanes>(words: &[Self::Word; LANES]) -> V;
    /// Their second values; only where a word has two.
    fn high<V: Lanes>(words: &[Self::Word; LANES]) -> V;
    /// The words as pairs of bf16; only where they are that.
    fn pairs(words: &[Self::Word; LANES]) -> &[u32; LANES];
    /// Stores one position of one head. `keys` and `values` are that head's parts of the block.
    fn store(
        keys: &mut [Self::Word],
        values: &mut [Self::Word],
        slot: usize,
        key: &[f32],
        value: &[f32],
    );
}

pub(crate) struct F32Cells;

impl Cells for F32Cells {
    type Word = f32;
    const WORD_VALUES: usize = 1;

    fn words(memory: &KvMemory) -> &[f32] {
        match &memory.words {
            Words::F32(words) => words,
            Words::Bf16(..) => unreachable!("cells are chosen by the memory's type"),
        }
    }
    fn words_mut(memory: &mut KvMemory) -> &mut [f32] {
        match &mut memory.words {
            Words::F32(words) => words,
            Words::Bf16(..) => unreachable!("cells are chosen by the memory's type"),
        }
    }
    fn value(word: f32, _: usize) -> f32 {
        word
    }
    #[inline(always)]
    fn low<V: Lanes>(words: &[f32; LANES]) -> V {
        V::load(words)
    }
    #[inline(always)]
    fn high<V: Lanes>(_: &[f32; LANES]) -> V {
        unreachable!("a word has one value")
    }
    #[inline(always)]
    fn pairs(_: &[f32; LANES]) -> &[u32; LANES] {
        unreachable!("a word has one value")
    }
    #[inline(always)]
    fn store(keys: &mut [f32], values: &mut [f32], slot: usize, key: &[f32], value: &[f32]) {
        for (words, key) in keys.as_chunks_mut::<BLOCK_TOKENS>().0.iter_mut().zip(key) {
            words[slot] = *key;
        }
        let width = values.len() / BLOCK_TOKENS;
        values[slot * width..][..value.len()].copy_from_slice(value);
    }
}

pub(crate) struct Bf16Cells;

impl Cells for Bf16Cells {
    type Word = u32;
    const WORD_VALUES: usize = 2;

    fn words(memory: &KvMemory) -> &[u32] {
        match &memory.words {
            Words::Bf16(words) => words,
            Words::F32(..) => unreachable!("cells are chosen by the memory's type"),
        }
    }
    fn words_mut(memory: &mut KvMemory) -> &mut [u32] {
        match &mut memory.words {
            Words::Bf16(words) => words,
            Words::F32(..) => unreachable!("cells are chosen by the memory's type"),
        }
    }
    fn value(word: u32, index: usize) -> f32 {
        f32::from_bits(if index == 0 {
            word << 16
        } else {
            word & 0xffff_0000
        })
    }
    #[inline(always)]
    fn low<V: Lanes>(words: &[u32; LANES]) -> V {
        V::load_bf16_low(words)
    }
    #[inline(always)]
    fn high<V: Lanes>(words: &[u32; LANES]) -> V {
        V::load_bf16_high(words)
    }
    #[inline(always)]
    fn pairs(words: &[u32; LANES]) -> &[u32; LANES] {
        words
    }
    #[inline(always)]
    fn store(keys: &mut [u32], values: &mut [u32], slot: usize, key: &[f32], value: &[f32]) {
        let pairs = key.as_chunks::<2>().0;
        for (words, [even, odd]) in keys.as_chunks_mut::<BLOCK_TOKENS>().0.iter_mut().zip(pairs) {
            words[slot] = rounded(*even) | rounded(*odd) << 16;
        }
        let width = values.len() / (BLOCK_TOKENS / 2);
        let row = &mut values[slot / 2 * width..][..value.len()];
        for (word, value) in row.iter_mut().zip(value) {
            *word = match slot % 2 {
                0 => *word & 0xffff_0000 | rounded(*value),
                _ => *word & 0xffff | rounded(*value) << 16,
            };
        }
    }
}

#[inline(always)]
fn rounded(value: f32) -> u32 {
    u32::from(bf16::from_f32(value).to_bits())
}
