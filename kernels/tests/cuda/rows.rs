//! What is done to rows one by one: norm, rotation, and keys and values into their blocks.

use crate::emulation::{Arg, Device, SEEDS, library, sources};
use crate::numbers::{Element, Random, bits, check_error};
use half::{bf16, f16};
use kernels::ops::rope;
use kernels::{
    AttentionRows, BLOCK_TOKENS, KvDtype, KvMemory, KvShape, Pool, QkvLayout, RopeLayout,
    RopeScaling, RopeSpec, RopeTable, attend_prepare,
};

fn check_norm<T: Element>(rows: usize, parts: usize, columns: usize, with_residual: bool) {
    let mut random = Random(columns as u64);
    let Some(library) = library(&sources().join("rms_norm.cu")) else {
        return;
    };
    // Rows begin apart; what lies between them is nobody's.
    let stride = parts * columns + 3;
    let values = random.values::<T>(rows * stride);
    let added = random.values::<T>(rows * stride);
    let weight: Vec<f32> = random.values(columns);
    let mut kept = values.clone();
    let mut wanted = vec![0.0; rows * parts * columns];
    for (part, wanted) in wanted.chunks_exact_mut(columns).enumerate() {
        let start = part / parts * stride + part % parts * columns;
        let x = &mut kept[start..][..columns];
        if with_residual {
            for (x, added) in x.iter_mut().zip(&added[start..]) {
                *x = T::from_f32((x.to_f64() as f32) + added.to_f64() as f32);
            }
        }
        let squares: f64 = x.iter().map(|x| x.to_f64() * x.to_f64()).sum();
        let scale = 1.0 / (squares / columns as f64 + 1e-5).sqrt();
        for ((wanted, x), weight) in wanted.iter_mut().zip(x).zip(&weight) {
            *wanted = x.to_f64() * scale * f64::from(*weight);
        }
    }
    let weight = Device::new(&weight);
    let added = Device::new(&added);
    let residual = if with_residual {
        added.arg()
    } else {
        Arg::Pointer(std::ptr::null())
    };
    let mut first = Vec::new();
    for seed in SEEDS {
        let x = Device::new(&values);
        let out = Device::new(&vec![T::from_f32(f32::NAN); rows * parts * columns]);
        let kernel = format!("rms_norm_{}", T::NAME);
        let args = [
            out.arg(),
            x.arg(),
            residual,
            weight.arg(),
            Arg::Int(columns as i32),
            Arg::Int(stride as i32),
            Arg::Int((parts * columns) as i32),
            Arg::Float(1e-5),
        ];
        library.launch(&kernel, [rows, parts, 1], 256, seed, &args);
        if seed == 0 {
            check_error(&kernel, &out, &wanted, 1e-6);
            first = bits(&out);
        }
        assert_eq!(bits(&out), first, "{kernel}, seed {seed}");
        assert_eq!(bits(&x), bits(&kept), "{kernel}: what is kept of x");
    }
}

#[test]
fn rows_and_heads_are_normed_and_what_was_added_is_kept() {
    check_norm::<f32>(3, 1, 576, true);
    check_norm::<f16>(3, 1, 577, true);
    check_norm::<bf16>(2, 1, 1000, true);
    check_norm::<f32>(2, 3, 64, false);
    check_norm::<f16>(2, 3, 40, false);
    check_norm::<bf16>(1, 2, 1, false);
}

fn check_rope<T: Element>(layout: RopeLayout, head_dim: usize, rotary_dim: usize) {
    let Some(library) = library(&sources().join("rope.cu")) else {
        return;
    };
    let spec = RopeSpec {
        rotary_dim,
        base: 10_000.0,
        layout,
        scaling: RopeScaling::Linear { factor: 2.0 },
    };
    let table = RopeTable::new(300, spec.clone());
    let turns: Vec<f32> = (0..300)
        .flat_map(|position| {
            let (cosines, sines) = table.cosines_and_sines(position);
            [cosines, sines].concat()
        })
        .collect();
    let positions = [0i32, 299, 17];
    let heads = 3;
    // The last head of a row is not turned: values are not.
    let stride = (heads + 1) * head_dim;
    let values = Random(head_dim as u64).values::<T>(positions.len() * stride);
    let mut wanted = Vec::new();
    for (row, position) in values.chunks_exact(stride).zip(positions) {
        for (index, head) in row.chunks_exact(head_dim).enumerate() {
            let mut head: Vec<f32> = head.iter().map(|value| value.to_f64() as f32).collect();
            if index < heads {
                rope::plain(&mut head, position as usize, &spec);
            }
            wanted.extend(head.into_iter().map(f64::from));
        }
    }
    let (positions, turns) = (Device::new(&positions), Device::new(&turns));
    let mut first = Vec::new();
    for seed in SEEDS {
        let x = Device::new(&values);
        let kernel = format!("rope_{}", T::NAME);
        let args = [
            x.arg(),
            positions.arg(),
            turns.arg(),
            Arg::Int(stride as i32),
            Arg::Int(head_dim as i32),
            Arg::Int(rotary_dim as i32),
            Arg::Int(i32::from(layout == RopeLayout::Pairs)),
        ];
        library.launch(&kernel, [positions.len(), heads, 1], 64, seed, &args);
        if seed == 0 {
            check_error(&kernel, &x, &wanted, 2e-7);
            first = bits(&x);
        }
        assert_eq!(bits(&x), first, "{kernel}, seed {seed}");
    }
}

#[test]
fn heads_turn_as_on_the_cpu() {
    for layout in [RopeLayout::Halves, RopeLayout::Pairs] {
        check_rope::<f32>(layout, 64, 64);
        check_rope::<f16>(layout, 80, 32);
        check_rope::<bf16>(layout, 256, 256);
    }
}

/// `bits` is how the CPU's element type is passed: kernels move keys and values, and never look at them.
fn check_write<T: Copy>(kernel: &str, dtype: KvDtype, head_dim: usize, as_stored: fn(f32) -> T) {
    let Some(library) = library(&sources().join("kv_write.cu")) else {
        return;
    };
    let layout = QkvLayout {
        heads: 2,
        kv_heads: 2,
        head_dim,
        stride: 6 * head_dim + 1,
    };
    let shape = KvShape {
        layers: 1,
        kv_heads: 2,
        head_dim,
        dtype,
    };
    // A prompt that begins inside a block and crosses two borders, and one row elsewhere.
    let (prompt, one) = ([4u32, 0, 2], [3u32]);
    let runs = [
        AttentionRows {
            first_row: 0,
            rows: 22,
            first_position: 13,
            blocks: &prompt,
        },
        AttentionRows {
            first_row: 22,
            rows: 1,
            first_position: 15,
            blocks: &one,
        },
    ];
    let mut slots: Vec<i32> = Vec::new();
    for run in &runs {
        for position in run.first_position..run.first_position + run.rows {
            let block = run.blocks[position / BLOCK_TOKENS] as usize;
            slots.push((block * BLOCK_TOKENS + position % BLOCK_TOKENS) as i32);
        }
    }
    // A row that is not kept.
    slots.push(-1);
    let mut qkv: Vec<f32> = Random(5).values(slots.len() * layout.stride);
    let stored: Vec<T> = qkv.iter().map(|value| as_stored(*value)).collect();
    let mut kv = KvMemory::new(shape, 5);
    attend_prepare(
        &Pool::new(1),
        &mut kv,
        0,
        &runs,
        &mut qkv,
        layout,
        None,
        None,
    );
    let wanted = kv.words(0);
    let (slots, rows) = (Device::new(&slots), Device::new(&stored));
    for seed in SEEDS {
        let memory = Device::new(&vec![0u32; wanted.len()]);
        let args = [
            memory.arg(),
            rows.arg(),
            slots.arg(),
            Arg::Int(layout.stride as i32),
            Arg::Int((layout.heads * head_dim) as i32),
            Arg::Int(layout.value_column() as i32),
            Arg::Int(head_dim as i32),
        ];
        library.launch(kernel, [slots.len(), layout.kv_heads, 1], 64, seed, &args);
        assert_eq!(
            *memory, wanted,
            "{kernel}, heads of {head_dim}, seed {seed}"
        );
    }
    println!("emulated {kernel:<32} the CPU's bits");
}

#[test]
fn keys_and_values_lie_where_the_cpu_puts_them() {
    for head_dim in [64, 40, 66, 256] {
        check_write("kv_write_f32", KvDtype::F32, head_dim, |value| value);
        let brain = |value| bf16::from_f32(value).to_bits();
        check_write("kv_write_bf16", KvDtype::Bf16, head_dim, brain);
        // No CPU memory is f16: the same bits, moved by the kernel that is compiled for it.
        check_write("kv_write_f16", KvDtype::Bf16, head_dim, brain);
    }
}
