//! The softmax of a row of logits in sums of [`GROUP`]: a draw finds its group by them and needs the probabilities of that one only.
//!
//! A row of 50 000 logits is read once, and the list of 800 sums after it.

use crate::cpu::lanes::{LANES, Lanes, at_level};
use crate::dispatch;

/// Logits in a group; the last one of a row may be shorter.
pub const GROUP: usize = 64;

/// Σ e^((x - `highest`) · `scale`) of each group into `weights`, `scale` being 1 / temperature; gives the sum of all. What
/// is less than e^-87 of the likeliest counts as 0, and so do NaN and minus infinity.
pub fn group_weights(logits: &[f32], highest: f32, scale: f32, weights: &mut Vec<f32>) -> f64 {
    weights.clear();
    weights.resize(logits.len().div_ceil(GROUP), 0.0);
    weights_at(dispatch::level(), logits, highest, scale, weights);
    weights.iter().map(|weight| f64::from(*weight)).sum()
}

at_level!(weights_at = weights_body(logits: &[f32], highest: f32, scale: f32, weights: &mut [f32]));

#[inline(always)]
fn weights_body<V: Lanes>(logits: &[f32], highest: f32, scale: f32, weights: &mut [f32]) {
    let (below, scale) = (V::splat(-highest), V::splat(scale));
    for (group, place) in logits.chunks(GROUP).zip(weights) {
        let (whole, rest) = group.as_chunks::<LANES>();
        let mut last = [f32::NEG_INFINITY; LANES];
        last[..rest.len()].copy_from_slice(rest);
        let mut sum = V::splat(0.0);
        for values in whole.iter().chain([&last]) {
            sum = sum.add(V::load(values).add(below).mul(scale).exp());
        }
        *place = sum.array().iter().sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_gives_the_plain_sums() {
        for length in [0usize, 1, 15, 16, 63, 64, 65, 79, 128, 1000, 49_152] {
            let noise = |i: usize| (i.wrapping_mul(2_654_435_761) % 1000) as f32 / 25.0 - 20.0;
            let mut logits: Vec<f32> = (0..length).map(noise).collect();
            if length > 3 {
                logits[length / 2] = f32::NEG_INFINITY;
            }
            let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let plain = |group: &[f32]| -> f64 {
                let weight = |x: &f32| (f64::from(x - top) / 0.7).exp();
                group.iter().map(weight).sum()
            };
            for level in dispatch::levels() {
                let mut sums = vec![0.0; length.div_ceil(GROUP)];
                weights_at(level, &logits, top, 1.0 / 0.7, &mut sums);
                for (sum, group) in sums.iter().zip(logits.chunks(GROUP)) {
                    // The polynomial's error, and the rounding of the argument: 40 / 0.7 at half a unit in the last place.
                    let expected = plain(group);
                    assert!(
                        (f64::from(*sum) - expected).abs() <= 1e-5 * expected + 1e-37,
                        "{level:?}, {length}: {sum} against {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_masked_weighs_nothing() {
        let mut weights = Vec::new();
        let masked = [f32::NEG_INFINITY; 130];
        assert_eq!(group_weights(&masked, 1.0, 1.0, &mut weights), 0.0);
        assert_eq!(weights, [0.0; 3]);
    }
}
