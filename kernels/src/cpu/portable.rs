//! Quantised tiles in plain loops: the twin of the fast variants, and what any other machine runs.

use super::pack::{GroupTiles, TILE_COLUMNS, TILE_K, quant};
use crate::ops::matmul::{Pass, Sums};

/// All rows of a pass over a whole column group.
pub(crate) fn tile(pass: &Pass<'_>, tiles: &GroupTiles<'_>, sums: &mut Sums) {
    let form = tiles.form;
    let offset = form.offset();
    *sums = Sums::default();
    for block in 0..tiles.blocks {
        let lines = tiles.tile(block);
        let mut weights = [[0i32; TILE_COLUMNS]; TILE_K];
        for (i, weights) in weights.iter_mut().enumerate() {
            for (lane, weight) in weights.iter_mut().enumerate() {
                *weight = i32::from(quant(form.bits, lines, lane, i)) - offset;
            }
        }
        let scales: [_; TILE_COLUMNS] = std::array::from_fn(|lane| tiles.scale(block, lane));
        for (row, sums) in sums.iter_mut().enumerate().take(pass.rows) {
            let place = block * pass.rows + row;
            let quants = &pass.quants[place * TILE_K..][..TILE_K];
            let factor = pass.factors[place];
            let mut dots = [[0i32; TILE_COLUMNS]; 2];
            for (i, quant) in quants.iter().enumerate() {
                for (dot, weight) in dots[i / 16].iter_mut().zip(&weights[i]) {
                    *dot += weight * i32::from(*quant);
                }
            }
            for lane in 0..TILE_COLUMNS {
                let scale = scales[lane].scale;
                let product = dots[0][lane] as f32 * scale[0] + dots[1][lane] as f32 * scale[1];
                sums[lane] += product * factor.scale + scales[lane].minimum * factor.sum;
            }
        }
    }
}
