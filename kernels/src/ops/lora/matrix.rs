//! One target of one adapter, packed.
//!
//! The first matrix is read along k by every row that is shrunk, eight ranks side by side; the second a column group at
//! a time, as the tiles of the weights it follows are. A line is 16 values of f32 or 32 of bf16:
//!
//! ```text
//! a: [rank / 8][k / values of a line][8][values of a line]      padded by zeros
//! b: [columns / 16][rank][16 columns]                           bf16: two ranks a line, the first in the low halves
//! ```

use super::MAX_RANK;
use crate::cpu::huge::Buffer;
use crate::cpu::lanes::prefetch;
use crate::cpu::pack::{Bf16Pairs, F32Row, TILE_COLUMNS};
use crate::error::KernelError;
use half::bf16;

/// Ranks whose sums run side by side.
pub(crate) const TILE_RANKS: usize = 8;

/// How an adapter's values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LoraDtype {
    /// As they are: products are those of f32.
    F32,
    /// Rounded, in half the memory; the rows that meet the first matrix are rounded too, on every machine alike.
    Bf16,
}

/// One target of one adapter: what is added to the product of a row x is `scale * b * (a * x)`.
pub struct LoraMatrix {
    rank: usize,
    k: usize,
    columns: usize,
    packed: Packed,
}

pub(crate) enum Packed {
    F32 {
        a: Buffer<F32Row>,
        b: Buffer<F32Row>,
    },
    Bf16 {
        a: Buffer<Bf16Pairs>,
        b: Buffer<Bf16Pairs>,
    },
}

impl LoraMatrix {
    /// Packs `a`, rank rows of `k`, and `b`, `columns` rows of rank; `scale` is multiplied into `b`.
    ///
    /// # Errors
    /// A rank of zero or above [`MAX_RANK`], no columns or inputs, slices of another length.
    pub fn pack(
        rank: usize,
        k: usize,
        columns: usize,
        a: &[f32],
        b: &[f32],
        scale: f32,
        dtype: LoraDtype,
    ) -> Result<LoraMatrix, KernelError> {
        if rank == 0 || rank > MAX_RANK {
            return Err(KernelError::LoraRank {
                rank,
                most: MAX_RANK,
            });
        }
        for (name, values, rows, width) in [("a", a, rank, k), ("b", b, columns, rank)] {
            let expected = rows.saturating_mul(width);
            if values.len() != expected || values.is_empty() {
                return Err(KernelError::LoraLength {
                    name,
                    rows,
                    width,
                    expected,
                    actual: values.len(),
                });
            }
        }
        let class = rank_class(rank);
        let groups = columns.div_ceil(TILE_COLUMNS);
        let packed = match dtype {
            LoraDtype::F32 => {
                let chunks = k.div_ceil(16);
                let mut lines = Buffer::<F32Row>::zeroed_for_a_while(class * chunks);
                for (r, row) in a.chunks_exact(k).enumerate() {
                    for (i, value) in row.iter().enumerate() {
                        lines[line_of_a(r, i / 16, chunks)].0[i % 16] = *value;
                    }
                }
                let mut rows = Buffer::<F32Row>::zeroed_for_a_while(groups * class);
                for (column, b) in b.chunks_exact(rank).enumerate() {
                    let (group, lane) = (column / TILE_COLUMNS, column % TILE_COLUMNS);
                    for (r, value) in b.iter().enumerate() {
                        rows[group * class + r].0[lane] = scale * value;
                    }
                }
                Packed::F32 { a: lines, b: rows }
            }
            LoraDtype::Bf16 => {
                let bits = |value: f32| u32::from(bf16::from_f32(value).to_bits());
                let chunks = k.div_ceil(32);
                let mut lines = Buffer::<Bf16Pairs>::zeroed_for_a_while(class * chunks);
                for (r, row) in a.chunks_exact(k).enumerate() {
                    for (i, value) in row.iter().enumerate() {
                        let line = &mut lines[line_of_a(r, i / 32, chunks)].0;
                        line[i % 32 / 2] |= bits(*value) << (16 * (i % 2));
                    }
                }
                let mut pairs = Buffer::<Bf16Pairs>::zeroed_for_a_while(groups * class / 2);
                for (column, b) in b.chunks_exact(rank).enumerate() {
                    let (group, lane) = (column / TILE_COLUMNS, column % TILE_COLUMNS);
                    for (r, value) in b.iter().enumerate() {
                        let line = &mut pairs[(group * class + r) / 2].0;
                        line[lane] |= bits(scale * value) << (16 * (r % 2));
                    }
                }
                Packed::Bf16 { a: lines, b: pairs }
            }
        };
        Ok(LoraMatrix {
            rank,
            k,
            columns,
            packed,
        })
    }

    /// The adapter's own rank; what is computed is that of its class.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Inputs of the product it adds to.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Outputs of the product it adds to.
    pub fn columns(&self) -> usize {
        self.columns
    }

    pub fn dtype(&self) -> LoraDtype {
        match self.packed {
            Packed::F32 { .. } => LoraDtype::F32,
            Packed::Bf16 { .. } => LoraDtype::Bf16,
        }
    }

    /// Memory held.
    pub fn bytes(&self) -> usize {
        match &self.packed {
            Packed::F32 { a, b } => size_of_val(&**a) + size_of_val(&**b),
            Packed::Bf16 { a, b } => size_of_val(&**a) + size_of_val(&**b),
        }
    }

    /// The rank rounded up to its class.
    pub(crate) fn class(&self) -> usize {
        rank_class(self.rank)
    }

    /// Asks for the first lines that [`super::shrink`] will read.
    pub(crate) fn prefetch_a(&self) {
        const LINES: usize = 6 * TILE_RANKS;
        match &self.packed {
            Packed::F32 { a, .. } => a.iter().take(LINES).for_each(|line| prefetch(line)),
            Packed::Bf16 { a, .. } => a.iter().take(LINES).for_each(|line| prefetch(line)),
        }
    }

    /// Asks for the lines of one column group.
    pub(crate) fn prefetch_b(&self, group: usize) {
        let class = self.class();
        match &self.packed {
            Packed::F32 { b, .. } => b[group * class..][..class]
                .iter()
                .for_each(|line| prefetch(line)),
            Packed::Bf16 { b, .. } => {
                let pairs = class / 2;
                b[group * pairs..][..pairs]
                    .iter()
                    .for_each(|line| prefetch(line));
            }
        }
    }

    pub(crate) fn packed(&self) -> &Packed {
        &self.packed
    }
}

/// 8, 16, 32, 64, then multiples of 64: few shapes, each whole tiles.
fn rank_class(rank: usize) -> usize {
    match rank {
        0..=64 => rank.next_power_of_two().max(TILE_RANKS),
        _ => rank.next_multiple_of(64),
    }
}

/// Where rank `r` of a chunk along k lies.
fn line_of_a(r: usize, chunk: usize, chunks: usize) -> usize {
    (r / TILE_RANKS * chunks + chunk) * TILE_RANKS + r % TILE_RANKS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_padded_to_their_class() {
        for (rank, class) in [
            (1, 8),
            (8, 8),
            (9, 16),
            (17, 32),
            (33, 64),
            (64, 64),
            (65, 128),
            (200, 256),
        ] {
            assert_eq!(rank_class(rank), class);
            for (dtype, size) in [(LoraDtype::F32, 4), (LoraDtype::Bf16, 2)] {
                let (a, b) = (vec![1.0; rank * 64], vec![1.0; 32 * rank]);
                let packed = LoraMatrix::pack(rank, 64, 32, &a, &b, 1.0, dtype).expect("fits");
                assert_eq!(packed.bytes(), class * (64 + 32) * size);
                assert_eq!(
                    (packed.rank(), packed.k(), packed.columns()),
                    (rank, 64, 32)
                );
                assert_eq!(packed.dtype(), dtype);
            }
        }
    }

    #[test]
    fn what_no_kernel_takes_is_refused() {
        let pack = |rank, k, columns, a: usize, b: usize| {
            let (a, b) = (vec![0.0; a], vec![0.0; b]);
            LoraMatrix::pack(rank, k, columns, &a, &b, 1.0, LoraDtype::F32).err()
        };
        let rank = |rank| Some(KernelError::LoraRank { rank, most: 256 });
        assert_eq!(pack(0, 4, 4, 0, 0), rank(0));
        assert_eq!(pack(257, 1, 1, 257, 257), rank(257));
        assert_eq!(pack(256, 1, 1, 256, 256), None);
        let error = pack(2, 4, 5, 8, 9).expect("one value short");
        assert_eq!(
            error.to_string(),
            "adapter matrix b of 5 x 2 needs 10 values, got 9"
        );
        assert!(pack(2, 0, 5, 0, 10).is_some());
        assert!(pack(2, usize::MAX, 5, 1, 10).is_some());
    }
}
