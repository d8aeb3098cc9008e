//! These ops against the engine's kernels.

use super::*;
use crate::{
    AttentionSpec, KvMemory, Pool, RopeLayout, RopeScaling, RopeSpec, RopeTable, attend_prepare,
    paged_attention,
};

const LAYOUT: QkvLayout = QkvLayout {
    heads: 6,
    kv_heads: 2,
    head_dim: 40,
    stride: 400,
};
const BLOCKS: usize = 12;

fn wave(count: usize, seed: f32) -> Vec<f32> {
    (0..count)
        .map(|i| (i as f32 * 0.618 + seed).sin() * 2.0)
        .collect()
}

/// Three steps of two sequences, by the engine's kernels and by these ops: the same within the last bits.
fn check(dtype: KvDtype, pairs: RopeLayout, spec: AttentionSpec) {
    let pool = Pool::new(2);
    let shape = KvShape {
        layers: 1,
        kv_heads: LAYOUT.kv_heads,
        head_dim: LAYOUT.head_dim,
        dtype,
    };
    let rope = RopeSpec {
        rotary_dim: 24,
        base: 1000.0,
        layout: pairs,
        scaling: RopeScaling::Linear { factor: 2.0 },
    };
    let (table, theirs) = (
        RopeTable::new(128, rope.clone()),
        rope_table(128, &rope, &Device::Cpu).expect("a table"),
    );
    // Machines with products of bf16 pairs round the weights of such memory, too.
    let tolerance = match dtype {
        KvDtype::F32 => 2e-5,
        KvDtype::Bf16 => 4e-3,
    };
    let mut memory = KvMemory::new(shape, BLOCKS);
    let cache = paged_cache(shape, BLOCKS, &Device::Cpu).expect("a cache");
    let (first, second) = ([3, 0, 7, 5], [11, 2, 9, 4]);
    let run = |first_row, rows, first_position, blocks| AttentionRows {
        first_row,
        rows,
        first_position,
        blocks,
    };
    let steps = [
        vec![run(0, 33, 0, &first[..]), run(33, 5, 0, &second[..])],
        vec![run(0, 1, 33, &first[..]), run(1, 30, 5, &second[..])],
        vec![run(0, 1, 34, &first[..]), run(1, 1, 35, &second[..])],
    ];
    for (number, runs) in steps.iter().enumerate() {
        let rows: usize = runs.iter().map(|run| run.rows).sum();
        let mut qkv = wave(rows * LAYOUT.stride, number as f32);
        let tensor =
            Tensor::from_slice(&qkv, (rows, LAYOUT.stride), &Device::Cpu).expect("a tensor");
        attend_prepare(
            &pool,
            &mut memory,
            0,
            runs,
            &mut qkv,
            LAYOUT,
            None,
            Some(&table),
        );
        let mut expected = vec![0.0; rows * LAYOUT.heads * LAYOUT.head_dim];
        paged_attention(&pool, &memory, 0, runs, &qkv, LAYOUT, spec, &mut expected);

        let places = Places::new(runs, &Device::Cpu).expect("tables that fit");
        turn_heads_(&tensor, &theirs, &places, LAYOUT, pairs).expect("positions in the table");
        keep_(&cache, &tensor, &places, LAYOUT).expect("slots in the cache");
        let found = attend(&tensor, &cache, &places, LAYOUT, spec).expect("blocks in the cache");
        let found: Vec<f32> = found
            .flatten_all()
            .and_then(|out| out.to_vec1())
            .expect("f32");
        assert_eq!(found.len(), expected.len());
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert!(
                (found - expected).abs() < tolerance,
                "step {number}, {i}: {found} {expected}"
            );
        }
    }
}

#[test]
fn steps_give_what_the_engines_kernels_give() {
    let plain = AttentionSpec {
        scale: 0.158,
        window: None,
        soft_cap: None,
    };
    let narrow = AttentionSpec {
        window: Some(20),
        soft_cap: Some(3.0),
        ..plain
    };
    check(KvDtype::F32, RopeLayout::Halves, plain);
    check(KvDtype::F32, RopeLayout::Pairs, narrow);
    check(KvDtype::Bf16, RopeLayout::Halves, narrow);
}

#[test]
fn what_lies_outside_is_an_error() {
    let shape = KvShape {
        layers: 1,
        kv_heads: 2,
        head_dim: 40,
        dtype: KvDtype::F32,
    };
    let cache = paged_cache(shape, 2, &Device::Cpu).expect("a cache");
    let qkv = Tensor::zeros((3, LAYOUT.stride), DType::F32, &Device::Cpu).expect("a tensor");
    let spec = AttentionSpec {
        scale: 1.0,
        window: None,
        soft_cap: None,
    };
    let places = |blocks: &[u32], first_position| {
        Places::new(
            &[AttentionRows {
                first_row: 0,
                rows: 3,
                first_position,
                blocks,
            }],
            &Device::Cpu,
        )
    };
    assert!(places(&[0], 14).is_err());
    let outside = places(&[2], 0).expect("a table that is long enough");
    assert!(keep_(&cache, &qkv, &outside, LAYOUT).is_err());
    assert!(attend(&qkv, &cache, &outside, LAYOUT, spec).is_err());
    let few = qkv.narrow(0, 0, 2).expect("two rows");
    assert!(
        attend(
            &few,
            &cache,
            &places(&[1], 0).expect("a table"),
            LAYOUT,
            spec
        )
        .is_err()
    );
    let rope = RopeSpec {
        rotary_dim: 8,
        base: 10.0,
        layout: RopeLayout::Halves,
        scaling: RopeScaling::None,
    };
    let table = rope_table(4, &rope, &Device::Cpu).expect("a table");
    assert!(
        turn_heads_(
            &qkv,
            &table,
            &places(&[1], 2).expect("a table"),
            LAYOUT,
            RopeLayout::Halves
        )
        .is_err()
    );
}
