//! SGMV and BGMV under emulation against sums in f64.

use crate::emulation::{Arg, Device, SEEDS, library, sources};
use crate::numbers::{Element, Random, bits, check_error};
use half::{bf16, f16};

const CLASSES: [usize; 4] = [8, 16, 32, 64];
/// As the kernels have them: columns a block, rows a tile, k a split.
const THREADS: usize = 128;
const TILE_ROWS: usize = 16;
const SPLIT: usize = 512;

/// An adapter of one rank, padded to its class.
struct Adapter<T: Copy> {
    a: Device<T>,
    b: Device<T>,
}

struct Case<T: Copy> {
    class: usize,
    k: usize,
    columns: usize,
    adapters: Vec<Adapter<T>>,
    x: Device<T>,
    y: Vec<T>,
}

impl<T: Element> Case<T> {
    fn new(class: usize, ranks: &[usize], rows: usize, k: usize, columns: usize) -> Case<T> {
        let mut random = Random(class as u64 * 1000 + k as u64);
        let zero = T::from_f32(0.0);
        let adapter = |rank: &usize| {
            let mut a = random.values::<T>(rank * k);
            a.resize(class * k, zero);
            let mut b = vec![zero; columns * class];
            for row in b.chunks_exact_mut(class) {
                row[..*rank].copy_from_slice(&random.values(*rank));
            }
            Adapter {
                a: Device::new(&a),
                b: Device::new(&b),
            }
        };
        let adapters = ranks.iter().map(adapter).collect();
        Case {
            class,
            k,
            columns,
            adapters,
            x: Device::new(&random.values(rows * k)),
            y: random.values(rows * columns),
        }
    }

    fn rows(&self) -> usize {
        self.x.len() / self.k
    }

    /// y + B (A x) in f64, `adapters` one a row.
    fn wanted(&self, adapters: &[Option<usize>]) -> Vec<f64> {
        let mut wanted: Vec<f64> = self.y.iter().map(|value| value.to_f64()).collect();
        for (row, adapter) in adapters.iter().enumerate() {
            let Some(adapter) = adapter else { continue };
            let adapter = &self.adapters[*adapter];
            let x = &self.x[row * self.k..][..self.k];
            let dot =
                |a: &[T], x: &[f64]| -> f64 { a.iter().zip(x).map(|(a, x)| a.to_f64() * x).sum() };
            let x: Vec<f64> = x.iter().map(|value| value.to_f64()).collect();
            let v: Vec<f64> = adapter.a.chunks_exact(self.k).map(|a| dot(a, &x)).collect();
            let out = &mut wanted[row * self.columns..][..self.columns];
            for (out, b) in out.iter_mut().zip(adapter.b.chunks_exact(self.class)) {
                *out += dot(b, &v);
            }
        }
        wanted
    }

    fn addresses(&self, of: impl Fn(&Adapter<T>) -> u64) -> Vec<u64> {
        self.adapters.iter().map(of).collect()
    }

    /// Segments: how many rows, and whose.
    fn sgmv(&self, segments: &[(usize, Option<usize>)], seed: u64) -> Option<Device<T>> {
        let mut starts = vec![0i32];
        for (rows, _) in segments {
            starts.push(starts[starts.len() - 1] + *rows as i32);
        }
        let longest = segments
            .iter()
            .map(|(rows, _)| *rows)
            .max()
            .expect("a segment");
        let pick = |addresses: Vec<u64>| {
            let of = |(_, adapter): &(usize, Option<usize>)| adapter.map_or(0, |i| addresses[i]);
            Device::new(&segments.iter().map(of).collect::<Vec<u64>>())
        };
        let (a, b) = (
            pick(self.addresses(|adapter| adapter.a.address())),
            pick(self.addresses(|adapter| adapter.b.address())),
        );
        let starts = Device::new(&starts);
        let splits = self.k.div_ceil(SPLIT);
        let tiles = longest.div_ceil(TILE_ROWS);
        // Parts of rows that nobody writes must be parts that nobody reads.
        let partial = Device::new(&vec![f32::NAN; splits * self.rows() * self.class]);
        let y = Device::new(&self.y);
        let (rows, k) = (Arg::Int(self.rows() as i32), Arg::Int(self.k as i32));
        library(&sources().join("sgmv_shrink.cu"))?.launch(
            &format!("sgmv_shrink_{}_r{}", T::NAME, self.class),
            [splits, tiles, segments.len()],
            THREADS,
            seed,
            &[
                partial.arg(),
                self.x.arg(),
                a.arg(),
                starts.arg(),
                rows,
                k,
                k,
            ],
        );
        let columns = Arg::Int(self.columns as i32);
        let splits = Arg::Int(splits as i32);
        library(&sources().join("sgmv_expand.cu"))?.launch(
            &format!("sgmv_expand_{}_r{}", T::NAME, self.class),
            [self.columns.div_ceil(THREADS), tiles, segments.len()],
            THREADS,
            seed,
            &[
                y.arg(),
                partial.arg(),
                b.arg(),
                starts.arg(),
                splits,
                rows,
                columns,
                columns,
            ],
        );
        Some(y)
    }

    fn bgmv(&self, adapters: &[Option<usize>], seed: u64) -> Option<Device<T>> {
        let indices: Vec<i32> = adapters
            .iter()
            .map(|a| a.map_or(-1, |a| a as i32))
            .collect();
        let indices = Device::new(&indices);
        let a = Device::new(&self.addresses(|adapter| adapter.a.address()));
        let b = Device::new(&self.addresses(|adapter| adapter.b.address()));
        let v = Device::new(&vec![f32::NAN; self.rows() * self.class]);
        let y = Device::new(&self.y);
        let k = Arg::Int(self.k as i32);
        library(&sources().join("bgmv_shrink.cu"))?.launch(
            &format!("bgmv_shrink_{}_r{}", T::NAME, self.class),
            [self.class / 4, adapters.len(), 1],
            THREADS,
            seed,
            &[v.arg(), self.x.arg(), a.arg(), indices.arg(), k, k],
        );
        let columns = Arg::Int(self.columns as i32);
        library(&sources().join("bgmv_expand.cu"))?.launch(
            &format!("bgmv_expand_{}_r{}", T::NAME, self.class),
            [self.columns.div_ceil(THREADS), adapters.len(), 1],
            THREADS,
            seed,
            &[y.arg(), v.arg(), b.arg(), indices.arg(), columns, columns],
        );
        Some(y)
    }
}

/// Rows of each segment, spelt out.
fn each_row(segments: &[(usize, Option<usize>)]) -> Vec<Option<usize>> {
    let rows = segments.iter().map(|(rows, adapter)| vec![*adapter; *rows]);
    rows.flatten().collect()
}

fn check_sgmv<T: Element>(class: usize, ranks: &[usize; 3], k: usize, columns: usize) {
    // Empty ones, one row, none's, a tile and a bit, and two of one adapter.
    let segments = [
        (3, Some(0)),
        (0, Some(1)),
        (5, None),
        (17, Some(2)),
        (1, Some(1)),
        (0, None),
        (2, Some(0)),
    ];
    let adapters = each_row(&segments);
    let case = Case::<T>::new(class, ranks, adapters.len(), k, columns);
    let mut first: Option<Vec<u32>> = None;
    for seed in SEEDS {
        let Some(y) = case.sgmv(&segments, seed) else {
            return;
        };
        let now = bits(&y);
        match &first {
            None => {
                let name = format!("sgmv_{}_r{class}", T::NAME);
                check_error(&name, &y, &case.wanted(&adapters), 2e-6);
            }
            Some(first) => assert_eq!(*first, now, "seed {seed} changes a sum"),
        }
        let none = 3 * columns..8 * columns;
        assert_eq!(now[none.clone()], bits(&case.y)[none], "rows of nobody");
        first = Some(now);
    }
}

fn check_bgmv<T: Element>(class: usize, ranks: &[usize; 3], k: usize, columns: usize) {
    let adapters = [Some(2), None, Some(0), Some(0), Some(1), None];
    let case = Case::<T>::new(class, ranks, adapters.len(), k, columns);
    let mut first: Option<Vec<u32>> = None;
    for seed in SEEDS {
        let Some(y) = case.bgmv(&adapters, seed) else {
            return;
        };
        let now = bits(&y);
        match &first {
            None => {
                let name = format!("bgmv_{}_r{class}", T::NAME);
                check_error(&name, &y, &case.wanted(&adapters), 2e-6);
            }
            Some(first) => assert_eq!(*first, now, "seed {seed} changes a sum"),
        }
        first = Some(now);
    }
}

#[test]
fn sgmv_adds_each_segments_adapter_for_every_class_and_type() {
    for class in CLASSES {
        let ranks = [class / 2 + 1, class, 1];
        check_sgmv::<f32>(class, &ranks, 1032, 150);
        check_sgmv::<f16>(class, &ranks, 576, 130);
        check_sgmv::<bf16>(class, &ranks, 100, 64);
    }
}

#[test]
fn bgmv_adds_each_rows_adapter_for_every_class_and_type() {
    for class in CLASSES {
        let ranks = [class / 2 + 1, class, 1];
        check_bgmv::<f32>(class, &ranks, 1032, 150);
        check_bgmv::<f16>(class, &ranks, 576, 130);
        check_bgmv::<bf16>(class, &ranks, 104, 64);
    }
}

#[test]
fn every_rank_from_1_to_64_fits_its_class() {
    for rank in 1..=64 {
        let class = CLASSES
            .into_iter()
            .find(|class| *class >= rank)
            .expect("a class");
        let case = Case::<f32>::new(class, &[rank], 2, 40, 24);
        let Some(y) = case.sgmv(&[(2, Some(0))], 1) else {
            return;
        };
        check_error(
            &format!("sgmv rank {rank}"),
            &y,
            &case.wanted(&[Some(0); 2]),
            2e-6,
        );
        let Some(y) = case.bgmv(&[Some(0); 2], 1) else {
            return;
        };
        check_error(
            &format!("bgmv rank {rank}"),
            &y,
            &case.wanted(&[Some(0); 2]),
            2e-6,
        );
    }
}

/// The engine's law: what a row gets does not depend on the rows beside it.
#[test]
fn a_rows_result_does_not_depend_on_its_neighbours() {
    let case = Case::<f32>::new(16, &[16, 9], 20, 700, 40);
    let Some(together) = case.sgmv(&[(18, Some(0)), (2, Some(1))], 0) else {
        return;
    };
    for row in [0, 7, 17] {
        let alone = [(row, None), (1, Some(0)), (19 - row, None)];
        let alone = case.sgmv(&alone, 0).expect("built before");
        let row = row * 40..(row + 1) * 40;
        assert_eq!(bits(&alone[row.clone()]), bits(&together[row]));
    }
}
