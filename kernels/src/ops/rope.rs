//! Rotary position embedding: what angles a model turns its heads by, and turning them.
//!
//! Files disagree about which two values form a pair ([`RopeLayout`]), how much of a head turns (`rotary_dim`), and how
//! long contexts stretch the angles ([`RopeScaling`]).

use super::mul_add;
use std::f64::consts::TAU;
use std::sync::OnceLock;

/// Which two values of a head turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeLayout {
    /// i and i + rotary_dim / 2: the Transformers layout, GPT-NeoX.
    Halves,
    /// 2i and 2i + 1: Llama-family GGUF files, whose query and key rows are permuted for it.
    Pairs,
}

/// How a model stretches its angles beyond the length it was first trained on.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    None,
    /// All angles divided by `factor`.
    Linear {
        factor: f32,
    },
    /// Slow pairs (fewer than `low` turns in `original` positions) divided by `factor`, fast ones (more than `high`) left
    /// alone, a straight line between: Llama 3.1.
    Llama3 {
        factor: f32,
        low: f32,
        high: f32,
        original: usize,
    },
    /// A divisor for each pair: GGUF `rope_freqs.weight`.
    Frequencies(Vec<f32>),
}

/// How a model turns its heads.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeSpec {
    /// How many values at the head's beginning turn; even, at most the head's dimension.
    pub rotary_dim: usize,
    pub base: f32,
    pub layout: RopeLayout,
    pub scaling: RopeScaling,
}

impl RopeSpec {
    /// The angle between neighbouring positions, for each pair. In f64: at position 2,000 an angle in f32 is already wrong
    /// in the fourth digit.
    pub(crate) fn angles(&self) -> Vec<f64> {
        let pairs = self.rotary_dim / 2;
        let angle = |i: usize| {
            let angle = f64::from(self.base).powf(-2.0 * i as f64 / self.rotary_dim as f64);
            match &self.scaling {
                RopeScaling::None => angle,
                RopeScaling::Linear { factor } => angle / f64::from(*factor),
                RopeScaling::Llama3 {
                    factor,
                    low,
                    high,
                    original,
                } => {
                    let (low, high) = (f64::from(*low), f64::from(*high));
                    let turns = *original as f64 * angle / TAU;
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    (1.0 - kept) * angle / f64::from(*factor) + kept * angle
                }
                RopeScaling::Frequencies(divisors) => angle / f64::from(divisors[i]),
            }
        };
        (0..pairs).map(angle).collect()
    }
}

/// Positions computed together, on first use of one of them: 60 microseconds at 64 values a position.
const PAGE: usize = 64;

/// cos and sin of every position, shared by a model's layers.
///
/// Rows are computed when a position is first used, so a model of 131,072 positions pays (4 bytes x `rotary_dim` a
/// position, 33 MB at 64) only for contexts somebody had.
#[derive(Debug)]
pub struct RopeTable {
    spec: RopeSpec,
    angles: Vec<f64>,
    max_positions: usize,
    /// A page: for each position `rotary_dim / 2` cosines, then as many sines.
    pages: Vec<OnceLock<Box<[f32]>>>,
}

impl RopeTable {
    /// A table of positions below `max_positions`.
    ///
    /// # Panics
    /// When `rotary_dim` is odd, or divisors are given for another number of pairs.
    pub fn new(max_positions: usize, spec: RopeSpec) -> RopeTable {
        assert!(
            spec.rotary_dim.is_multiple_of(2),
            "an odd number of values to turn"
        );
        if let RopeScaling::Frequencies(divisors) = &spec.scaling {
            assert_eq!(divisors.len(), spec.rotary_dim / 2, "one divisor a pair");
        }
        RopeTable {
            angles: spec.angles(),
            spec,
            max_positions,
            pages: (0..max_positions.div_ceil(PAGE))
                .map(|_| OnceLock::new())
                .collect(),
        }
    }

    /// How many positions the table has.
    pub fn positions(&self) -> usize {
        self.max_positions
    }

    /// How many values of a head turn.
    pub fn rotary_dim(&self) -> usize {
        self.spec.rotary_dim
    }

    /// Cosines and sines of one position, a pair of values each, for those who turn elsewhere.
    ///
    /// # Panics
    /// When `position` is past the table.
    pub fn cosines_and_sines(&self, position: usize) -> (&[f32], &[f32]) {
        let Turn { cos, sin, .. } = self.row(position);
        (cos, sin)
    }

    /// The rotation of one position.
    ///
    /// # Panics
    /// When `position` is past the table.
    pub(crate) fn row(&self, position: usize) -> Turn<'_> {
        assert!(
            position < self.max_positions,
            "position {position} is past the table's {}",
            self.max_positions
        );
        let page = position / PAGE;
        let rows = self.pages[page].get_or_init(|| {
            let mut rows = Vec::with_capacity(PAGE * self.spec.rotary_dim);
            for position in page * PAGE..(page + 1) * PAGE {
                let angle = |angle: &f64| position as f64 * angle;
                rows.extend(self.angles.iter().map(|a| angle(a).cos() as f32));
                rows.extend(self.angles.iter().map(|a| angle(a).sin() as f32));
            }
            rows.into_boxed_slice()
        });
        let width = self.spec.rotary_dim;
        let (cos, sin) = rows[position % PAGE * width..][..width].split_at(width / 2);
        Turn {
            cos,
            sin,
            layout: self.spec.layout,
        }
    }
}

/// One position's rotation.
#[derive(Clone, Copy)]
pub(crate) struct Turn<'a> {
    cos: &'a [f32],
    sin: &'a [f32],
    layout: RopeLayout,
}

impl Turn<'_> {
    /// Turns the beginning of one head in place.
    #[inline(always)]
    pub(crate) fn apply<const FMA: bool>(&self, head: &mut [f32]) {
        let pairs = self.cos.len();
        let turning = &mut head[..2 * pairs];
        let angles = self.cos.iter().zip(self.sin);
        match self.layout {
            RopeLayout::Halves => {
                let (first, second) = turning.split_at_mut(pairs);
                for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(angles) {
                    (*a, *b) = turned::<FMA>(*a, *b, *cos, *sin);
                }
            }
            RopeLayout::Pairs => {
                for ([a, b], (cos, sin)) in turning.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
                    (*a, *b) = turned::<FMA>(*a, *b, *cos, *sin);
                }
            }
        }
    }
}

#[inline(always)]
fn turned<const FMA: bool>(a: f32, b: f32, cos: f32, sin: f32) -> (f32, f32) {
    (
        mul_add::<FMA>(a, cos, -(b * sin)),
        mul_add::<FMA>(a, sin, b * cos),
    )
}

/// The definition for one head, angle by angle.
pub fn plain(head: &mut [f32], position: usize, spec: &RopeSpec) {
    let pairs = spec.rotary_dim / 2;
    for (i, angle) in spec.angles().into_iter().enumerate() {
        let (first, second) = match spec.layout {
            RopeLayout::Halves => (i, i + pairs),
            RopeLayout::Pairs => (2 * i, 2 * i + 1),
        };
        let angle = position as f64 * angle;
        let (sin, cos) = (angle.sin() as f32, angle.cos() as f32);
        let (a, b) = (head[first], head[second]);
        head[first] = a * cos - b * sin;
        head[second] = a * sin + b * cos;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(scaling: RopeScaling) -> RopeSpec {
        RopeSpec {
            rotary_dim: 8,
            base: 10_000.0,
            layout: RopeLayout::Halves,
            scaling,
        }
    }

    fn check(scaling: RopeScaling, expected: [f64; 4]) {
        let angles = spec(scaling).angles();
        for (angle, expected) in angles.iter().zip(expected) {
            assert!(
                (angle - expected).abs() <= 1e-7 * expected,
                "{angle} against {expected}"
            );
        }
    }

    #[test]
    fn angles_are_stretched_as_each_scaling_says() {
        check(RopeScaling::None, [1.0, 0.1, 0.01, 0.001]);
        check(
            RopeScaling::Linear { factor: 8.0 },
            [0.125, 0.0125, 0.00125, 0.000125],
        );
        check(
            RopeScaling::Frequencies(vec![1.0, 2.0, 4.0, 8.0]),
            [1.0, 0.05, 0.0025, 0.000125],
        );
        // 1024 positions: 163, 16.3, 1.63 and 0.163 turns; the third lies (1.6297 - 1) / 3 up the line.
        let kept = (1024.0 * 0.01 / TAU - 1.0) / 3.0;
        check(
            RopeScaling::Llama3 {
                factor: 8.0,
                low: 1.0,
                high: 4.0,
                original: 1024,
            },
            [1.0, 0.1, (1.0 - kept) * 0.01 / 8.0 + kept * 0.01, 0.000125],
        );
    }

    #[test]
    fn rows_are_made_when_used_and_only_then() {
        let table = RopeTable::new(131_072, spec(RopeScaling::None));
        let made = || {
            table
                .pages
                .iter()
                .filter(|page| page.get().is_some())
                .count()
        };
        assert_eq!(made(), 0);
        table.row(0);
        table.row(PAGE - 1);
        assert_eq!(made(), 1);
        let turn = table.row(131_071);
        assert_eq!(made(), 2);
        let angle = 131_071.0 * 0.1f64;
        assert_eq!(turn.cos[1], angle.cos() as f32);
        assert_eq!(turn.sin[1], angle.sin() as f32);
    }
}
