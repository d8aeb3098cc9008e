//! What a row attends to is the same bits whatever it was computed with.

use super::*;

#[test]
fn a_prompt_in_any_chunks_gives_the_same_bits() {
    let mut random = Random(8);
    // Beyond two splits for the usual case, beyond one for the others.
    for (heads, kv_heads, window, len) in [
        (9, 3, None, 601),
        (8, 1, Some(100), 330),
        (5, 5, Some(300), 330),
        (71, 1, None, 290),
    ] {
        for dtype in [KvDtype::F32, KvDtype::Bf16] {
            let mut case = Case::new(heads, kv_heads, 16, len, 9);
            case.dtype = dtype;
            case.spec.window = window;
            case.rope = rope(16, RopeLayout::Halves, RopeScaling::None);
            for level in levels() {
                let pool = Pool::new(2);
                let whole = case.run(level, &pool, &mut case.memory(), &[len]);
                let mut chunkings = vec![[vec![len - 50], vec![1; 50]].concat()];
                for longest in [4, 40, 400] {
                    let mut chunks = Vec::new();
                    let mut left = len;
                    while left > 0 {
                        chunks.push((1 + random.below(longest)).min(left));
                        left -= chunks[chunks.len() - 1];
                    }
                    chunkings.push(chunks);
                }
                for chunks in chunkings {
                    let pieces = case.run(level, &pool, &mut case.memory(), &chunks);
                    assert!(
                        whole == pieces,
                        "{level:?} {dtype:?} {heads} heads, chunks {chunks:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_sequence_gives_the_same_bits_alone_and_among_others() {
    let lens = [1usize, 16, 17, 300, 530, 77];
    let cases: Vec<Case> = (0..lens.len())
        .map(|i| {
            let mut case = Case::new(6, 2, 64, lens[i], 10 + i as u64);
            case.dtype = KvDtype::Bf16;
            case
        })
        .collect();
    let layout = cases[0].layout;
    let width = layout.heads * layout.head_dim;
    // The last rows of each in one step, 1 to 20 of them; before that each is alone in its own part of one memory.
    let last_rows = [1usize, 1, 17, 1, 1, 20];
    for level in levels() {
        for threads in [1, 3] {
            let pool = Pool::new(threads);
            let blocks_of: Vec<Vec<u32>> = {
                let mut next = 0;
                let shifted = cases.iter().map(|case| {
                    let first = next;
                    next += case.blocks.len() as u32;
                    case.blocks.iter().map(|b| b + first).collect()
                });
                shifted.collect()
            };
            let total = blocks_of.iter().map(Vec::len).sum();
            let mut memory = KvMemory::new(cases[0].memory().shape(), total);
            let mut qkv = Vec::new();
            let mut runs = Vec::new();
            let mut expected: Vec<f32> = Vec::new();
            for ((case, blocks), last) in cases.iter().zip(&blocks_of).zip(last_rows) {
                let alone = case.run(level, &pool, &mut case.memory(), &[case.len()]);
                let first_position = case.len() - last;
                expected.extend(&alone[first_position * width..]);
                let mut before = case.rows[..first_position * layout.stride].to_vec();
                let run = [AttentionRows {
                    first_row: 0,
                    rows: first_position,
                    first_position: 0,
                    blocks,
                }];
                attend_prepare_at(
                    level,
                    &pool,
                    &mut memory,
                    LAYER,
                    &run,
                    &mut before,
                    layout,
                    None,
                    None,
                );
                runs.push(AttentionRows {
                    first_row: qkv.len() / layout.stride,
                    rows: last,
                    first_position,
                    blocks,
                });
                qkv.extend(&case.rows[first_position * layout.stride..]);
            }
            let mut out = vec![f32::NAN; expected.len()];
            attend_prepare_at(
                level,
                &pool,
                &mut memory,
                LAYER,
                &runs,
                &mut qkv,
                layout,
                None,
                None,
            );
            let spec = cases[0].spec;
            paged_attention_at(
                level, &pool, &memory, LAYER, &runs, &qkv, layout, spec, &mut out,
            );
            assert!(out == expected, "{level:?}, {threads} threads");
        }
    }
}

#[test]
fn what_an_earlier_owner_left_in_a_block_is_never_seen() {
    for dtype in [KvDtype::F32, KvDtype::Bf16] {
        for len in [1, 15, 16, 45] {
            let mut case = Case::new(4, 2, 40, len, 20);
            case.dtype = dtype;
            let mut spoilt = Case::new(4, 2, 40, len.next_multiple_of(BLOCK_TOKENS), 20);
            spoilt.dtype = dtype;
            spoilt.rows.fill(f32::NAN);
            for level in levels() {
                let pool = Pool::new(2);
                let mut memory = spoilt.memory();
                spoilt.run(level, &pool, &mut memory, &[spoilt.len()]);
                let reused = case.run(level, &pool, &mut memory, &vec![1; len]);
                let fresh = case.run(level, &pool, &mut case.memory(), &[len]);
                assert!(reused == fresh, "{level:?} {dtype:?} {len}");
            }
        }
    }
}
