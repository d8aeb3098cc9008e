//! Which block holds the keys and values of which beginning of a text.
//!
//! A full block is named by the hash of everything before it and its own 16 tokens, so equal names mean equal
//! beginnings. The hash is keyed (SipHash-2-4 with 128 bits) by a number drawn when the model is loaded: nobody outside can make two texts share
//! a name, and at 128 bits chance does not either, so a hit is taken without comparing tokens. What keeps texts apart that
//! must not share (tenants, and whatever else changes the keys and values of equal tokens) goes into the
//! root of the chain. The model itself need not: an index lives and dies with one loaded model.

use kernels::BLOCK_TOKENS;
use siphasher::sip128::{Hasher128, SipHasher24};
use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};

/// Names a beginning of a text, a whole number of blocks long.
pub(crate) type ChainHash = u128;

pub(crate) struct PrefixIndex {
    key: (u64, u64),
    by_hash: HashMap<ChainHash, u32, AsItIs>,
    /// What each block is remembered for.
    of_block: Vec<Option<ChainHash>>,
}

impl PrefixIndex {
    pub(crate) fn new(blocks: usize) -> PrefixIndex {
        PrefixIndex {
            key: (random(), random()),
            by_hash: HashMap::default(),
            of_block: vec![None; blocks],
        }
    }

    /// The beginning of all texts that may share with each other.
    pub(crate) fn root(&self, namespace: &[u8]) -> ChainHash {
        let mut hasher = SipHasher24::new_with_keys(self.key.0, self.key.1);
        hasher.write(namespace);
        hasher.finish128().as_u128()
    }

    /// The name of the block with `tokens` after the beginning called `parent`.
    pub(crate) fn next(&self, parent: ChainHash, tokens: &[u32; BLOCK_TOKENS]) -> ChainHash {
        let mut hasher = SipHasher24::new_with_keys(self.key.0, self.key.1);
        let mut bytes = [0u8; 16 + 4 * BLOCK_TOKENS];
        let (head, tail) = bytes.split_at_mut(16);
        head.copy_from_slice(&parent.to_le_bytes());
        for (place, token) in tail.as_chunks_mut::<4>().0.iter_mut().zip(tokens) {
            *place = token.to_le_bytes();
        }
        hasher.write(&bytes);
        hasher.finish128().as_u128()
    }

    pub(crate) fn find(&self, hash: ChainHash) -> Option<u32> {
        self.by_hash.get(&hash).copied()
    }

    /// Remembers `block`, unless another holds the same already.
    pub(crate) fn insert(&mut self, hash: ChainHash, block: u32) {
        if let std::collections::hash_map::Entry::Vacant(place) = self.by_hash.entry(hash) {
            place.insert(block);
            debug_assert!(self.of_block[block as usize].is_none());
            self.of_block[block as usize] = Some(hash);
        }
    }

    pub(crate) fn is_known(&self, block: u32) -> bool {
        self.of_block[block as usize].is_some()
    }

    /// The block is about to hold something else.
    pub(crate) fn forget(&mut self, block: u32) {
        if let Some(hash) = self.of_block[block as usize].take() {
            self.by_hash.remove(&hash);
        }
    }
}

/// For keys that are hashes already.
pub(super) type AsItIs = BuildHasherDefault<LowBits>;

#[derive(Default)]
pub(super) struct LowBits(u64);

impl Hasher for LowBits {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, hash: u128) {
        self.0 = hash as u64;
    }
}

/// The standard library keys its hash maps from the system; each half of our key is one such hash.
fn random() -> u64 {
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_depends_on_the_key_the_root_the_past_and_every_token() {
        let (index, other) = (PrefixIndex::new(1), PrefixIndex::new(1));
        let tokens: [u32; BLOCK_TOKENS] = std::array::from_fn(|i| i as u32);
        let root = index.root(b"tenant");
        let first = index.next(root, &tokens);
        assert_eq!(first, index.next(root, &tokens));
        let mut names = vec![
            root,
            first,
            other.next(other.root(b"tenant"), &tokens),
            index.next(index.root(b"another"), &tokens),
            index.next(first, &tokens),
        ];
        for place in 0..BLOCK_TOKENS {
            let mut changed = tokens;
            changed[place] ^= 1 << 20;
            names.push(index.next(root, &changed));
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
