//! Pool and index against a model so plain that it can be read as the definition.

use super::*;
use std::collections::HashMap;

/// SplitMix64.
fn random(state: &mut u64, bound: usize) -> usize {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 32) as usize % bound
}

#[test]
fn the_free_list_gives_worthless_blocks_first_and_kept_ones_in_order() {
    let mut pool = BlockPool::new(4);
    let blocks: Vec<u32> = (0..4).map(|_| pool.take().expect("one is free")).collect();
    assert_eq!(blocks, [0, 1, 2, 3]);
    assert_eq!(pool.take(), None);
    pool.release(2, true);
    pool.release(0, true);
    pool.release(3, false);
    pool.release(1, false);
    pool.share(2);
    assert!(!pool.is_free(2) && pool.is_free(0));
    assert_eq!((pool.free_blocks(), pool.used_blocks()), (3, 1));
    let order: Vec<u32> = std::iter::from_fn(|| pool.take()).collect();
    assert_eq!(order, [1, 3, 0]);
}

struct Text {
    owner: Owner,
    tokens: Vec<u32>,
    computed: usize,
    table: BlockTable,
}

/// What each block really holds: the whole text up to its end. The index must never hand out anything else.
type Contents = HashMap<u32, Vec<u32>>;

fn compute(text: &mut Text, kv: &mut Kv, contents: &mut Contents, to: usize) {
    for index in text.computed / BLOCK_TOKENS..to / BLOCK_TOKENS {
        let end = (index + 1) * BLOCK_TOKENS;
        contents.insert(text.table.blocks()[index], text.tokens[..end].to_vec());
    }
    text.computed = to;
    kv.keep(&mut text.table, to, text.owner);
}

fn check(kv: &Kv, texts: &[Text], contents: &Contents) {
    let mut holders: HashMap<u32, u32> = HashMap::new();
    for text in texts {
        for (index, block) in text.table.blocks().iter().enumerate() {
            *holders.entry(*block).or_default() += 1;
            if (index + 1) * BLOCK_TOKENS <= text.computed {
                let held = &contents[block];
                assert_eq!(held[..], text.tokens[..(index + 1) * BLOCK_TOKENS]);
            }
        }
    }
    assert_eq!(kv.used_blocks(), holders.len());
    for (block, count) in holders {
        // Held twice only when both read it: what is still written belongs to one.
        let is_written = |text: &&Text| {
            let blocks = text.table.blocks();
            let index = blocks.iter().position(|other| *other == block);
            index.is_some_and(|index| (index + 1) * BLOCK_TOKENS > text.computed)
        };
        assert!(count == 1 || !texts.iter().any(|text| is_written(&text)));
    }
}

#[test]
fn blocks_are_never_written_by_two_and_hits_hold_what_they_say() {
    for seed in 0..20 {
        let mut state = seed;
        let mut kv = Kv::new(24);
        let mut contents = Contents::new();
        let mut texts: Vec<Text> = Vec::new();
        let (mut hits, mut refused, mut twins) = (0, 0, 0);
        for step in 0..10_000u64 {
            match random(&mut state, 5) {
                // Few texts, so that beginnings repeat.
                0 if texts.len() < 6 => {
                    let length = 1 + random(&mut state, 100);
                    let kind = random(&mut state, 3) as u32;
                    let fork = 16 * random(&mut state, 5);
                    let tokens: Vec<u32> = (0..length)
                        .map(|i| if i < fork { kind } else { 7 })
                        .collect();
                    let namespace = ["a", "b"][random(&mut state, 2)];
                    let mut table = kv.table(namespace, &tokens);
                    twins += usize::from(kv.twin(&table, length).is_some());
                    let spare = random(&mut state, 4);
                    let free = kv.total_blocks() - kv.used_blocks();
                    let Some(cached) = kv.admit(&mut table, length, step, spare) else {
                        assert!(free < BlockPool::blocks_for(length) + spare);
                        refused += 1;
                        continue;
                    };
                    assert!(cached < length && cached.is_multiple_of(BLOCK_TOKENS));
                    hits += cached;
                    texts.push(Text {
                        owner: step,
                        tokens,
                        computed: cached,
                        table,
                    });
                }
                1 | 2 if !texts.is_empty() => {
                    let at = random(&mut state, texts.len());
                    let left = texts[at].tokens.len() - texts[at].computed;
                    let to = texts[at].computed + random(&mut state, left + 1);
                    compute(&mut texts[at], &mut kv, &mut contents, to);
                }
                3 if !texts.is_empty() => {
                    let at = random(&mut state, texts.len());
                    let text = &mut texts[at];
                    let longer = text.tokens.len() + 1;
                    if kv.grow(&mut text.table, longer) {
                        text.tokens.push(7);
                        kv.learn(&mut text.table, &text.tokens);
                    }
                }
                4 if !texts.is_empty() => {
                    let mut text = texts.swap_remove(random(&mut state, texts.len()));
                    kv.release(&mut text.table, text.owner);
                }
                _ => {}
            }
            check(&kv, &texts, &contents);
        }
        assert!(hits > 0 && refused > 0 && twins > 0, "seed {seed}");
        for mut text in texts {
            kv.release(&mut text.table, text.owner);
        }
        assert_eq!(kv.used_blocks(), 0);
        assert!(kv.underway.is_empty());
    }
}

#[test]
fn a_beginning_is_shared_within_its_namespace_and_outlives_its_text() {
    let mut kv = Kv::new(8);
    let tokens: Vec<u32> = (0..40).collect();
    let mut first = kv.table("a", &tokens);
    assert_eq!(kv.admit(&mut first, 40, 1, 0), Some(0));
    let twin = kv.table("a", &tokens);
    assert_eq!(kv.twin(&twin, 40), Some(1));
    assert_eq!(kv.twin(&kv.table("b", &tokens), 40), None);
    kv.keep(&mut first, 16, 1);
    assert_eq!(kv.twin(&twin, 40), Some(1));
    kv.keep(&mut first, 40, 1);
    assert_eq!(kv.twin(&twin, 40), None);
    let held = first.blocks().to_vec();
    kv.release(&mut first, 1);
    assert_eq!(kv.used_blocks(), 0);
    let mut again = kv.table("a", &tokens);
    assert_eq!(kv.admit(&mut again, 40, 2, 0), Some(32));
    assert_eq!(again.blocks()[..2], held[..2]);
    // The whole text is there; its last block is computed again all the same.
    let mut whole = kv.table("a", &tokens[..32]);
    assert_eq!(kv.admit(&mut whole, 32, 3, 0), Some(16));
    assert_eq!(kv.used_blocks(), 4);
    // Everything else is taken by others: the memory of the beginning goes with its blocks.
    kv.release(&mut again, 2);
    kv.release(&mut whole, 3);
    let mut large = kv.table("b", &[9; 128]);
    assert_eq!(kv.admit(&mut large, 128, 4, 0), Some(0));
    assert_eq!(kv.hits(&kv.table("a", &tokens), 40), 0);
}
