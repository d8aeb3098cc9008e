//! Prepared rows times column groups: the cut of the work, the choice of the variant, and what follows a product.

use super::matrix::Group;
use super::prepare::{MAX_ROWS, Prepared, pass_rows};
use super::{Matrix, Part, Store};
use crate::Level;
use crate::cpu::pack::TILE_COLUMNS;
use crate::cpu::pool::{Disjoint, Pool};
use crate::ops::lora::{self, Adapters};

/// What one pass of rows over one column group gives.
pub(crate) type Sums = [[f32; TILE_COLUMNS]; MAX_ROWS];

/// Bytes of prepared rows that an item walks again and again: half of a small second-level cache.
const ROW_BYTES: usize = 256 << 10;

/// Multiplies the prepared rows with every part.
pub(super) fn multiply(
    level: Level,
    pool: &Pool,
    x: &Prepared<'_>,
    parts: &[Part<'_>],
    adapters: &Adapters<'_>,
    store: Store,
    out: &mut [f32],
    stride: usize,
) {
    assert!(out.len() >= x.rows * stride);
    let mut groups = 0;
    for part in parts {
        let columns = part.matrix.columns();
        assert!(part.matrix.k() == x.k && part.column + columns <= stride);
        assert!(part.bias.is_none_or(|bias| bias.len() == columns));
        groups += part.matrix.groups();
    }
    let cut = Cut::new(groups, pool.threads());
    let chunk_rows = (ROW_BYTES / x.k / MAX_ROWS * MAX_ROWS).max(MAX_ROWS);
    let has_adapters = !adapters.is_empty();
    let out = Disjoint::new(out);
    pool.run(cut.items(), &|item| {
        let range = cut.range(item);
        for first_row in (0..x.rows).step_by(chunk_rows) {
            let rows = first_row..(first_row + chunk_rows).min(x.rows);
            for group in range.clone() {
                let mut local = group;
                for (index, part) in parts.iter().enumerate() {
                    if local < part.matrix.groups() {
                        let place = Place {
                            part,
                            group: local,
                            adapters: has_adapters.then_some((adapters, index)),
                            store,
                            out: &out,
                            stride,
                        };
                        column_group(level, x, rows.clone(), &place);
                        break;
                    }
                    local -= part.matrix.groups();
                }
            }
        }
    });
}

/// Column groups as items of work: the first half in large ones, the second in small ones, so that threads
/// finish together even when one of them lost its core for a while.
struct Cut {
    groups: usize,
    large: usize,
    large_items: usize,
    small: usize,
}

impl Cut {
    fn new(groups: usize, threads: usize) -> Cut {
        let large = (groups / (threads * 6)).max(1);
        let large_items = groups / 2 / large;
        Cut {
            groups,
            large,
            large_items,
            small: (large / 3).max(1),
        }
    }

    fn items(&self) -> usize {
        self.large_items + (self.groups - self.large_items * self.large).div_ceil(self.small)
    }

    fn range(&self, item: usize) -> std::ops::Range<usize> {
        if item < self.large_items {
            return item * self.large..(item + 1) * self.large;
        }
        let first = self.large_items * self.large + (item - self.large_items) * self.small;
        first..(first + self.small).min(self.groups)
    }
}

/// One column group of one part.
struct Place<'a> {
    part: &'a Part<'a>,
    group: usize,
    /// The runs of the call, and the part's number among theirs.
    adapters: Option<(&'a Adapters<'a>, usize)>,
    store: Store,
    out: &'a Disjoint<'a, f32>,
    stride: usize,
}

/// The rows of `rows` times one group of 16 columns.
fn column_group(level: Level, x: &Prepared<'_>, rows: std::ops::Range<usize>, place: &Place<'_>) {
    let matrix = place.part.matrix;
    if let Some((adapters, part)) = place.adapters {
        adapters.prefetch_expand(part, &rows, place.group);
    }
    let mut row = rows.start;
    while row < rows.end {
        let mut sums = [[0.0f32; TILE_COLUMNS]; MAX_ROWS];
        let count = tile_rows(
            level,
            x,
            row,
            rows.end - row,
            matrix,
            place.group,
            &mut sums,
        );
        if let Some((adapters, part)) = place.adapters {
            let rows = row..row + count;
            lora::expand(
                level,
                adapters,
                &x.shrunk[row * adapters.width..],
                part,
                rows,
                place.group,
                &mut sums,
            );
        }
        for (i, sums) in sums.iter().enumerate().take(count) {
            place.finish(row + i, sums);
        }
        row += count;
    }
}

impl Place<'_> {
    /// Adds what has to be added and writes the outputs of one row.
    fn finish(&self, row: usize, sums: &[f32; TILE_COLUMNS]) {
        let column = self.group * TILE_COLUMNS;
        let width = TILE_COLUMNS.min(self.part.matrix.columns() - column);
        let start = row * self.stride + self.part.column + column;
        // SAFETY: this (row, column group) is visited once, by one item.
        let out = unsafe { self.out.slice(start, width) };
        let mut sums = *sums;
        if let Some(bias) = self.part.bias {
            for (sum, bias) in sums.iter_mut().zip(&bias[column..][..width]) {
                *sum += bias;
            }
        }
        match (self.store, out.as_chunks_mut::<TILE_COLUMNS>().0) {
            (Store::Replace, [out]) => *out = sums,
            (Store::Replace, _) => out.copy_from_slice(&sums[..width]),
            (Store::Add, _) => {
                for (out, sum) in out.iter_mut().zip(&sums) {
                    *out += sum;
                }
            }
        }
    }
}

/// Computes some of the `left` rows from `row` on and says how many.
fn tile_rows(
    level: Level,
    x: &Prepared<'_>,
    row: usize,
    left: usize,
    matrix: &Matrix,
    group: usize,
    sums: &mut Sums,
) -> usize {
    use crate::cpu;
    let k = x.k;
    match matrix.group(group) {
        Group::Quant(tiles) => {
            let pass = x.pass(row);
            match level {
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => cpu::vnni::tile(&pass, &tiles, sums),
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => cpu::avx2::tile(&pass, &tiles, sums),
                _ => cpu::portable::tile(&pass, &tiles, sums),
            }
            pass.rows
        }
        Group::F32(weights) => {
            let rows = dense_rows(level, left);
            cpu::dense::tile_f32(level, &x.f32[row * k..][..rows * k], weights, sums);
            rows
        }
        Group::F16(weights) => {
            let rows = dense_rows(level, left);
            cpu::dense::tile_f16(level, &x.f32[row * k..][..rows * k], weights, sums);
            rows
        }
        Group::Bf16(weights) => {
            let rows = dense_rows(level, left);
            let width = k.next_multiple_of(2);
            let x = &x.bf16[row * width..][..rows * width];
            #[cfg(target_arch = "x86_64")]
            if level == Level::Avx512 && crate::dispatch::has_bf16_products() {
                cpu::bf16::tile(x, weights, sums);
                return rows;
            }
            cpu::dense::tile_bf16(level, x, weights, sums);
            rows
        }
    }
}

/// Rows of a dense pass: as many as the registers of the level hold sums for.
fn dense_rows(level: Level, left: usize) -> usize {
    let most = if level == Level::Avx512 { 8 } else { 4 };
    pass_rows(left.min(most))
}

#[cfg(test)]
mod tests {
    use super::Cut;

    #[test]
    fn the_items_of_a_cut_cover_every_group_once() {
        for threads in [1, 2, 7, 64] {
            for groups in [1, 2, 3, 36, 60, 192, 3072] {
                let cut = Cut::new(groups, threads);
                let covered: Vec<usize> =
                    (0..cut.items()).flat_map(|item| cut.range(item)).collect();
                assert_eq!(
                    covered,
                    (0..groups).collect::<Vec<_>>(),
                    "{threads} threads"
                );
            }
        }
    }
}
