//! Rotary position embedding over neighbouring pairs (2i, 2i+1).
//!
//! Llama-family GGUF files store the query and key rows permuted for this pairing; files in the
//! Transformers layout pair i with i + d/2 instead and need their own op.

/// cos and sin for every position up to a bound, built once per model and shared by its layers.
#[derive(Debug)]
pub struct RopeTable {
    /// Per position: `head_dim / 2` cosines, then as many sines.
    values: Vec<f32>,
    head_dim: usize,
}

impl RopeTable {
    /// Angles in f64: at position 2,000 an f32 angle is already wrong in the fourth digit.
    pub fn new(positions: usize, head_dim: usize, base: f32) -> RopeTable {
        let half = head_dim / 2;
        let mut values = Vec::with_capacity(positions * head_dim);
        for position in 0..positions {
            let angle = |i: usize| {
                position as f64 * f64::from(base).powf(-2.0 * i as f64 / head_dim as f64)
            };
            values.extend((0..half).map(|i| angle(i).cos() as f32));
            values.extend((0..half).map(|i| angle(i).sin() as f32));
        }
        RopeTable { values, head_dim }
    }

    /// How many positions the table holds.
    pub fn positions(&self) -> usize {
        self.values.len() / self.head_dim
    }
}

/// Rotates every head of one row in place. `heads` holds whole heads of the table's dimension.
///
/// # Panics
/// When `position` is past the table or `heads` is not whole heads.
pub fn rope(heads: &mut [f32], position: usize, table: &RopeTable) {
    let dim = table.head_dim;
    assert_eq!(heads.len() % dim, 0);
    let (cos, sin) = table.values[position * dim..][..dim].split_at(dim / 2);
    for head in heads.chunks_exact_mut(dim) {
        for ((pair, cos), sin) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
            let (a, b) = (pair[0], pair[1]);
            pair[0] = a * cos - b * sin;
            pair[1] = a * sin + b * cos;
        }
    }
}

/// The definition, angle by angle.
pub fn plain(heads: &mut [f32], position: usize, head_dim: usize, base: f32) {
    for head in heads.chunks_exact_mut(head_dim) {
        for i in 0..head_dim / 2 {
            let angle = position as f64 * f64::from(base).powf(-2.0 * i as f64 / head_dim as f64);
            let (sin, cos) = (angle.sin() as f32, angle.cos() as f32);
            let (a, b) = (head[2 * i], head[2 * i + 1]);
            head[2 * i] = a * cos - b * sin;
            head[2 * i + 1] = a * sin + b * cos;
        }
    }
}
