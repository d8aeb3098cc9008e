//! Paged attention under emulation: keys and values written by kv_write, queries attended by both kernels, against a softmax
//! in f64 over the same positions.

use crate::emulation::{Arg, Device, SEEDS, library, sources};
use crate::numbers::{Element, Random, bits, check_error};
use half::{bf16, f16};
use kernels::BLOCK_TOKENS;

/// As the kernels have them: positions a split, queries a tile.
const SPLIT: usize = 256;
const QUERIES: usize = 16;
const THREADS: usize = 128;

#[derive(Clone, Copy)]
struct Shape {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    window: usize,
    soft_cap: f32,
}

impl Shape {
    fn stride(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// How many heads of a group a block of decoding takes.
    fn decode_class(&self) -> usize {
        match self.heads / self.kv_heads {
            1 => 1,
            2..=4 => 4,
            _ => 8,
        }
    }

    /// The widest head of the kernel that takes these.
    fn prefill_class(&self) -> usize {
        let classes = [64, 128, 256].into_iter();
        classes
            .filter(|class| *class >= self.head_dim)
            .min()
            .expect("a head of at most 256")
    }

    fn first_seen(&self, position: usize) -> usize {
        match self.window {
            0 => 0,
            window => (position + 1).saturating_sub(window),
        }
    }
}

/// Sequences in paged memory, all their keys and values written.
struct Paged<T: Copy> {
    shape: Shape,
    layer: Device<u32>,
    /// Of each sequence, keys and values as rows of queries, keys and values.
    rows: Vec<Vec<T>>,
    table_starts: Vec<i32>,
    tables: Device<i32>,
}

impl<T: Element> Paged<T> {
    /// Memory holds not-a-number wherever no key or value is: what reads there shows.
    fn new(shape: Shape, lens: &[usize]) -> Option<Paged<T>> {
        let mut random = Random(7);
        let stride = shape.stride();
        let count: usize = lens.iter().map(|len| len.div_ceil(BLOCK_TOKENS)).sum();
        // Blocks in an order of their own.
        let mut free: Vec<i32> = (0..count as i32).collect();
        for i in (1..free.len()).rev() {
            free.swap(i, random.next() as usize % (i + 1));
        }
        let (mut tables, mut table_starts, mut slots) = (Vec::new(), Vec::new(), Vec::new());
        for len in lens {
            table_starts.push(tables.len() as i32);
            let own = free.split_off(free.len() - len.div_ceil(BLOCK_TOKENS));
            for position in 0..*len {
                let block = own[position / BLOCK_TOKENS];
                slots.push(block * BLOCK_TOKENS as i32 + (position % BLOCK_TOKENS) as i32);
            }
            tables.extend(own);
        }
        let padded = shape.head_dim.next_multiple_of(16);
        let values = count * shape.kv_heads * BLOCK_TOKENS * (shape.head_dim + padded);
        let layer = Device::new(&vec![u32::MAX; values * size_of::<T>() / 4]);
        let rows: Vec<Vec<T>> = lens.iter().map(|len| random.values(len * stride)).collect();
        let (all, slots) = (Device::new(&rows.concat()), Device::new(&slots));
        let columns = shape.heads * shape.head_dim;
        library(&sources().join("kv_write.cu"))?.launch(
            &format!("kv_write_{}", T::NAME),
            [slots.len(), shape.kv_heads, 1],
            64,
            0,
            &[
                layer.arg(),
                all.arg(),
                slots.arg(),
                Arg::Int(stride as i32),
                Arg::Int(columns as i32),
                Arg::Int((columns + shape.kv_heads * shape.head_dim) as i32),
                Arg::Int(shape.head_dim as i32),
            ],
        );
        Some(Paged {
            shape,
            layer,
            rows,
            table_starts,
            tables: Device::new(&tables),
        })
    }

    /// What the row at `position` of a sequence attends to, all heads.
    fn wanted(&self, sequence: usize, position: usize) -> Vec<f64> {
        let Shape {
            heads,
            kv_heads,
            head_dim,
            soft_cap,
            ..
        } = self.shape;
        let part = |position: usize, column: usize| {
            let start = position * self.shape.stride() + column * head_dim;
            self.rows[sequence][start..][..head_dim]
                .iter()
                .map(|value| value.to_f64())
        };
        let mut out = Vec::new();
        for head in 0..heads {
            let kv_head = head / (heads / kv_heads);
            let seen = self.shape.first_seen(position)..position + 1;
            let score = |seen: usize| {
                let pairs = part(position, head).zip(part(seen, heads + kv_head));
                let score = pairs.map(|(q, k)| q * k).sum::<f64>() * f64::from(self.shape.scale());
                match soft_cap {
                    0.0 => score,
                    cap => f64::from(cap) * (score / f64::from(cap)).tanh(),
                }
            };
            let scores: Vec<f64> = seen.clone().map(score).collect();
            let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - highest).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mut sums = vec![0.0; head_dim];
            for (weight, seen) in weights.iter().zip(seen) {
                for (sum, value) in sums.iter_mut().zip(part(seen, heads + kv_heads + kv_head)) {
                    *sum += weight * value / total;
                }
            }
            out.extend(sums);
        }
        out
    }

    fn scores(&self) -> [Arg; 3] {
        let window = Arg::Int(self.shape.window as i32);
        [
            Arg::Float(self.shape.scale()),
            window,
            Arg::Float(self.shape.soft_cap),
        ]
    }

    fn dims(&self) -> [Arg; 4] {
        let Shape {
            heads,
            kv_heads,
            head_dim,
            ..
        } = self.shape;
        [heads, kv_heads, head_dim, self.shape.stride()].map(|value| Arg::Int(value as i32))
    }

    /// Rows (sequence, position), one of each decoding sequence.
    fn decode(&self, decoding: &[(usize, usize)], seed: u64) -> Option<Device<T>> {
        let Shape {
            heads,
            kv_heads,
            head_dim,
            window,
            ..
        } = self.shape;
        let row = |(sequence, position): &(usize, usize)| {
            self.rows[*sequence][position * self.shape.stride()..][..self.shape.stride()].to_vec()
        };
        // The step's rows are in another order than the launch's.
        let queries: Vec<Vec<T>> = decoding.iter().rev().map(row).collect();
        let queries = Device::new(&queries.concat());
        let rows: Vec<i32> = (0..decoding.len() as i32).rev().collect();
        let positions: Vec<i32> = decoding
            .iter()
            .map(|(_, position)| *position as i32)
            .collect();
        let starts: Vec<i32> = decoding
            .iter()
            .map(|(sequence, _)| self.table_starts[*sequence])
            .collect();
        let (rows, positions, starts) = (
            Device::new(&rows),
            Device::new(&positions),
            Device::new(&starts),
        );
        let longest = decoding.iter().map(|(_, position)| position + 1).max()?;
        let splits = longest.div_ceil(SPLIT);
        let group = heads / kv_heads;
        let class = self.shape.decode_class();
        let partial = Device::new(&vec![
            f32::NAN;
            decoding.len() * heads * splits * (2 + head_dim)
        ]);
        let library = library(&sources().join("attention_decode.cu"))?;
        let mut args = vec![
            partial.arg(),
            queries.arg(),
            self.layer.arg(),
            rows.arg(),
            positions.arg(),
        ];
        args.extend([starts.arg(), self.tables.arg()]);
        args.extend(self.dims());
        args.extend(self.scores());
        library.launch(
            &format!("attention_decode_{}_h{class}", T::NAME),
            [decoding.len(), kv_heads * group.div_ceil(class), splits],
            THREADS,
            seed,
            &args,
        );
        let out = Device::new(&vec![
            T::from_f32(f32::NAN);
            decoding.len() * heads * head_dim
        ]);
        let width = Arg::Int((heads * head_dim) as i32);
        let (splits, dim) = (Arg::Int(splits as i32), Arg::Int(head_dim as i32));
        let args = [
            out.arg(),
            partial.arg(),
            rows.arg(),
            positions.arg(),
            splits,
            dim,
            width,
            Arg::Int(window as i32),
        ];
        library.launch(
            &format!("attention_combine_{}", T::NAME),
            [decoding.len(), heads, 1],
            THREADS,
            seed,
            &args,
        );
        Some(out)
    }

    /// Runs (sequence, first position, rows), one after another.
    fn prefill(&self, runs: &[(usize, usize, usize)], seed: u64) -> Option<Device<T>> {
        let Shape {
            heads,
            kv_heads,
            head_dim,
            ..
        } = self.shape;
        let stride = self.shape.stride();
        let mut queries = Vec::new();
        let (mut row_starts, mut positions, mut starts) = (vec![0i32], Vec::new(), Vec::new());
        let (mut tile_runs, mut tile_queries) = (Vec::new(), Vec::new());
        for (run, (sequence, first, rows)) in runs.iter().enumerate() {
            queries.extend_from_slice(&self.rows[*sequence][first * stride..][..rows * stride]);
            row_starts.push(row_starts[run] + *rows as i32);
            positions.push(*first as i32);
            starts.push(self.table_starts[*sequence]);
            for query in (0..rows * heads / kv_heads).step_by(QUERIES) {
                tile_runs.push(run as i32);
                tile_queries.push(query as i32);
            }
        }
        let class = self.shape.prefill_class();
        let tiles = tile_runs.len();
        let queries = Device::new(&queries);
        let out = Device::new(&vec![
            T::from_f32(f32::NAN);
            queries.len() / stride * heads * head_dim
        ]);
        let lists =
            [tile_runs, tile_queries, row_starts, positions, starts].map(|list| Device::new(&list));
        let mut args = vec![out.arg(), queries.arg(), self.layer.arg()];
        args.extend(lists.iter().map(Device::arg));
        args.push(self.tables.arg());
        args.extend(self.dims());
        args.push(Arg::Int((heads * head_dim) as i32));
        args.extend(self.scores());
        library(&sources().join("attention_prefill.cu"))?.launch(
            &format!("attention_prefill_{}_d{class}", T::NAME),
            [tiles, kv_heads, 1],
            THREADS,
            seed,
            &args,
        );
        Some(out)
    }
}

fn check<T: Element>(shape: Shape) {
    let lens = [530, 19, 1];
    let Some(paged) = Paged::<T>::new(shape, &lens) else {
        return;
    };
    let decoding = [(0, 529), (1, 18), (2, 0), (0, 255), (0, 256)];
    let runs = [(1, 0, 19), (0, 500, 23), (2, 0, 1)];
    let of = |(sequence, position): (usize, usize)| paged.wanted(sequence, position);
    let decoded: Vec<f64> = decoding.into_iter().rev().flat_map(of).collect();
    let rows = runs
        .iter()
        .flat_map(|(sequence, first, rows)| (0..*rows).map(move |row| (*sequence, first + row)));
    let prefilled: Vec<f64> = rows.flat_map(of).collect();
    let mut first = Vec::new();
    for seed in SEEDS {
        let Some(decode) = paged.decode(&decoding, seed) else {
            return;
        };
        let Some(prefill) = paged.prefill(&runs, seed) else {
            return;
        };
        let now = [bits(&decode), bits(&prefill)];
        if seed == 0 {
            let class = shape.decode_class();
            let name = format!("attention_decode_{}_h{class}", T::NAME);
            check_error(&name, &decode, &decoded, 2e-6);
            let class = shape.prefill_class();
            let name = format!("attention_prefill_{}_d{class}", T::NAME);
            check_error(&name, &prefill, &prefilled, 2e-6);
            first = now.to_vec();
        } else {
            assert_eq!(first, now, "seed {seed} changes a sum");
        }
    }
}

fn check_all(shape: Shape) {
    check::<f32>(shape);
    check::<f16>(shape);
    check::<bf16>(shape);
}

#[test]
fn rows_and_runs_attend_to_what_they_see_and_nothing_else() {
    let shape = Shape {
        heads: 6,
        kv_heads: 2,
        head_dim: 64,
        window: 0,
        soft_cap: 0.0,
    };
    check_all(shape);
    // A head that is not whole registers, a key for each.
    check_all(Shape {
        heads: 2,
        head_dim: 40,
        ..shape
    });
    // More heads of a key than a block takes.
    check_all(Shape {
        heads: 9,
        kv_heads: 1,
        head_dim: 80,
        ..shape
    });
}

#[test]
fn windows_and_soft_caps_bend_what_is_seen() {
    let shape = Shape {
        heads: 2,
        kv_heads: 1,
        head_dim: 32,
        window: 70,
        soft_cap: 2.0,
    };
    check_all(shape);
    check_all(Shape {
        window: 300,
        head_dim: 256,
        ..shape
    });
    check::<f16>(Shape { window: 1, ..shape });
}

/// The engine's law, again: neither the runs of a launch nor where a prompt is cut changes a row.
#[test]
fn a_rows_attention_does_not_depend_on_its_neighbours() {
    let shape = Shape {
        heads: 3,
        kv_heads: 1,
        head_dim: 32,
        window: 40,
        soft_cap: 0.0,
    };
    let Some(paged) = Paged::<f32>::new(shape, &[90, 300]) else {
        return;
    };
    let width = shape.heads * shape.head_dim;
    let together = paged
        .prefill(&[(1, 200, 9), (0, 0, 90)], 0)
        .expect("built before");
    for (start, rows) in [(0, 7), (7, 60), (67, 23)] {
        let cut = paged.prefill(&[(0, start, rows)], 0).expect("built before");
        assert_eq!(
            bits(&cut),
            bits(&together[(9 + start) * width..][..rows * width])
        );
    }
    let together = paged.decode(&[(0, 89), (1, 299)], 0).expect("built before");
    let alone = paged.decode(&[(0, 89)], 0).expect("built before");
    assert_eq!(bits(&alone), bits(&together[width..]));
}
