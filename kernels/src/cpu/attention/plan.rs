//! Which thread gets what of a step's attention. It decides about time only: results are the same however work is cut.

use super::SPLIT_TOKENS;
use crate::ops::paged_attention::{AttentionRows, AttentionSpec};
use std::ops::Range;

/// Queries an item holds where a row's group is not larger by itself.
const ITEM_QUERIES: usize = 48;
/// Items a thread should have at least: what is left at the end is then a small part.
const THREAD_ITEMS: usize = 8;

/// Some rows of a run, and the splits they see.
pub(crate) struct Tile<'a> {
    pub rows: AttentionRows<'a>,
    pub splits: Range<usize>,
    /// Items it is cut into, for each kv head; above 1, results of its splits wait in a buffer.
    pub items: usize,
    /// Where its results begin in that buffer, counted in queries.
    pub waiting: usize,
}

/// One tile and some of its splits; there is one for each kv head.
pub(crate) struct Item {
    pub tile: usize,
    pub splits: Range<usize>,
}

pub(crate) struct Plan<'a> {
    pub tiles: Vec<Tile<'a>>,
    /// Those that take longest first, so that no thread is left with one at the end.
    pub items: Vec<Item>,
    /// Results that wait, counted in queries.
    pub waiting: usize,
}

impl<'a> Plan<'a> {
    pub(crate) fn new(
        runs: &[AttentionRows<'a>],
        spec: AttentionSpec,
        group: usize,
        kv_heads: usize,
        threads: usize,
    ) -> Plan<'a> {
        let tile_rows = tile_rows(group);
        let mut tiles = Vec::new();
        for run in runs {
            for first in (0..run.rows).step_by(tile_rows) {
                let rows = AttentionRows {
                    first_row: run.first_row + first,
                    rows: tile_rows.min(run.rows - first),
                    first_position: run.first_position + first,
                    blocks: run.blocks,
                };
                let first_split = spec.first_seen(rows.first_position) / SPLIT_TOKENS;
                let last = rows.first_position + rows.rows - 1;
                tiles.push(Tile {
                    rows,
                    splits: first_split..last / SPLIT_TOKENS + 1,
                    items: 1,
                    waiting: 0,
                });
            }
        }
        let total: usize = tiles.iter().map(Tile::cost).sum::<usize>() * kv_heads;
        let share = total.div_ceil(threads * THREAD_ITEMS).max(1);
        let mut waiting = 0;
        let mut items = Vec::with_capacity(tiles.len());
        for (index, tile) in tiles.iter_mut().enumerate() {
            let wanted = match threads {
                1 => 1,
                _ => tile.cost().div_ceil(share),
            };
            let splits_each = tile.splits.len().div_ceil(wanted).max(1);
            tile.items = tile.splits.len().div_ceil(splits_each);
            if tile.items > 1 {
                tile.waiting = waiting;
                waiting += kv_heads * tile.splits.len() * tile.rows.rows * group;
            }
            for first in tile.splits.clone().step_by(splits_each) {
                items.push(Item {
                    tile: index,
                    splits: first..tile.splits.end.min(first + splits_each),
                });
            }
        }
        items.sort_by_key(|item| std::cmp::Reverse(item.splits.len() * tiles[item.tile].rows.rows));
        Plan {
            tiles,
            items,
            waiting,
        }
    }
}

impl Tile<'_> {
    fn cost(&self) -> usize {
        self.splits.len() * self.rows.rows
    }
}

/// Rows of an item: whole groups of eight where that is possible, since eight queries make a full step of the widest kernel.
fn tile_rows(group: usize) -> usize {
    match ITEM_QUERIES / group {
        0 => 1,
        rows @ 1..8 => rows,
        rows => rows / 8 * 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(runs: &[(usize, usize)], window: Option<usize>, threads: usize) {
        let blocks = [];
        let spec = AttentionSpec {
            scale: 1.0,
            window,
            soft_cap: None,
        };
        let mut first_row = 0;
        let runs: Vec<AttentionRows<'_>> = runs
            .iter()
            .map(|(rows, first_position)| {
                first_row += rows;
                AttentionRows {
                    first_row: first_row - rows,
                    rows: *rows,
                    first_position: *first_position,
                    blocks: &blocks,
                }
            })
            .collect();
        let plan = Plan::new(&runs, spec, 3, 2, threads);
        // Each tile's splits are in exactly one of its items, and rows in exactly one tile.
        let mut rows: Vec<usize> = Vec::new();
        for (index, tile) in plan.tiles.iter().enumerate() {
            rows.extend(tile.rows.first_row..tile.rows.first_row + tile.rows.rows);
            let mut items: Vec<&Item> = plan.items.iter().filter(|i| i.tile == index).collect();
            assert_eq!(items.len(), tile.items);
            items.sort_by_key(|item| item.splits.start);
            let splits: Vec<usize> = items.iter().flat_map(|i| i.splits.clone()).collect();
            assert_eq!(splits, tile.splits.clone().collect::<Vec<_>>());
        }
        assert_eq!(rows, (0..first_row).collect::<Vec<_>>());
        let waits = |tile: &&Tile<'_>| tile.items > 1;
        let waiting = plan
            .tiles
            .iter()
            .filter(waits)
            .map(|tile| 2 * 3 * tile.cost());
        assert_eq!(plan.waiting, waiting.sum::<usize>());
    }

    #[test]
    fn every_row_and_split_is_planned_once() {
        for threads in [1, 2, 64] {
            for window in [None, Some(1), Some(700)] {
                check(&[(1, 0)], window, threads);
                check(&[(1, 8191)], window, threads);
                check(&[(512, 0)], window, threads);
                check(
                    &[(1, 511), (1, 20_000), (37, 4096), (1, 0)],
                    window,
                    threads,
                );
            }
        }
    }

    #[test]
    fn one_long_row_is_shared_and_many_short_ones_are_not_cut() {
        let spec = AttentionSpec {
            scale: 1.0,
            window: None,
            soft_cap: None,
        };
        let row = |first_row, first_position| AttentionRows {
            first_row,
            rows: 1,
            first_position,
            blocks: &[],
        };
        let plan = Plan::new(&[row(0, 8191)], spec, 3, 3, 2);
        assert_eq!(plan.items.len(), 6);
        let short: Vec<_> = (0..16).map(|i| row(i, 600)).collect();
        assert_eq!(Plan::new(&short, spec, 3, 3, 2).items.len(), 16);
        // One long row among short ones goes first, in parts.
        let mixed = [&short[..15], &[row(15, 8191)]].concat();
        let plan = Plan::new(&mixed, spec, 3, 3, 2);
        assert_eq!(plan.items[0].tile, 15);
        assert!(plan.items.len() > 17);
    }
}
