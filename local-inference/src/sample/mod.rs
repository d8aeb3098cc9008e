//! Logits to a token id, seeded.

mod filters;
pub(crate) mod grammar;
pub(crate) mod logprobs;
mod penalties;

use crate::request::SamplingParams;
pub(crate) use filters::Buffers;
use filters::{Candidate, Filters, Row};
use kernels::GROUP;
use penalties::Penalties;

/// Below this only the likeliest token is ever drawn; its reciprocal is still a number.
const MIN_TEMPERATURE: f32 = 1e-6;

/// One sequence's way of choosing. Each choice depends on the logits, the sequence's own tokens, the seed and the
/// position, and on nothing that was drawn before: so it can be repeated after any interruption.
pub(crate) struct Sampler {
    temperature: f32,
    filters: Filters,
    seed: u64,
    penalties: Penalties,
}

impl Sampler {
    /// Choices of one request differ by what they draw: each has the seed of its own number after the request's.
    pub(crate) fn new(params: &SamplingParams, prompt: &[u32], choice: u32) -> Sampler {
        let seed = params.seed.unwrap_or_else(random_seed);
        Sampler {
            temperature: params.temperature,
            filters: Filters::new(params),
            seed: seed.wrapping_add(u64::from(choice)),
            penalties: Penalties::new(params, prompt),
        }
    }

    /// Chooses the token for `position` and remembers it.
    pub(crate) fn choose(
        &mut self,
        logits: &mut [f32],
        position: usize,
        buffers: &mut Buffers,
    ) -> u32 {
        self.penalties.apply(logits);
        let likeliest = kernels::argmax(logits);
        let highest = logits.get(likeliest as usize).copied().unwrap_or(f32::NAN);
        let token = match self.temperature > 0.0 && highest.is_finite() {
            true => {
                let row = Row {
                    logits,
                    highest,
                    scale: self.temperature.max(MIN_TEMPERATURE).recip(),
                };
                let draw = uniform(self.seed, position as u64);
                self.draw(row, draw, buffers).unwrap_or(likeliest)
            }
            false => likeliest,
        };
        self.penalties.remember(token);
        token
    }

    fn draw(&self, row: Row<'_>, draw: f64, buffers: &mut Buffers) -> Option<u32> {
        if self.filters.are_idle() {
            return draw_from_all(row, draw, &mut buffers.weights);
        }
        self.filters.narrow(row, buffers);
        draw_from(&buffers.candidates, draw)
    }
}

/// A token of the whole softmax: its group by the groups' sums, then itself by its own weight.
fn draw_from_all(row: Row<'_>, draw: f64, weights: &mut Vec<f32>) -> Option<u32> {
    let total = kernels::group_weights(row.logits, row.highest, row.scale, weights);
    let mut left = draw * total;
    let mut group = None;
    for (index, weight) in weights.iter().enumerate() {
        if *weight > 0.0 {
            group = Some(index);
            if left < f64::from(*weight) {
                break;
            }
            left -= f64::from(*weight);
        }
    }
    let first = group? * GROUP;
    let mut last = None;
    for (token, logit) in (first..).zip(row.logits[first..].iter().take(GROUP)) {
        let weight = f64::from(row.weight(*logit));
        if weight > 0.0 {
            last = Some(token as u32);
            left -= weight;
        }
        if left < 0.0 {
            break;
        }
    }
    last
}

fn draw_from(candidates: &[Candidate], draw: f64) -> Option<u32> {
    let weight = |candidate: &Candidate| f64::from(candidate.weight);
    let mut left = draw * candidates.iter().map(weight).sum::<f64>();
    for candidate in candidates {
        left -= weight(candidate);
        if left < 0.0 {
            return Some(candidate.token);
        }
    }
    candidates.last().map(|candidate| candidate.token)
}

/// A number in 0..1 for each (seed, position): SplitMix64, addressed instead of advanced.
fn uniform(seed: u64, position: u64) -> f64 {
    let mut z = seed.wrapping_add((position + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

/// The standard library seeds its hash maps from the system; that randomness is enough here.
pub(crate) fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(params: &SamplingParams, logits: &[f32], count: usize) -> Vec<usize> {
        let mut seen = vec![0; logits.len()];
        let mut sampler = Sampler::new(params, &[], 0);
        for position in 0..count {
            seen[sampler.choose(&mut logits.to_vec(), position, &mut Buffers::default())
                as usize] += 1;
        }
        seen
    }

    fn seeded() -> SamplingParams {
        SamplingParams {
            seed: Some(7),
            temperature: 1.0,
            ..SamplingParams::default()
        }
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let logits = [1.0f32, 2.0, 3.0, f32::NEG_INFINITY];
        let total: f32 = logits.iter().map(|logit| logit.exp()).sum();
        let count = 20_000;
        for (logit, seen) in logits.iter().zip(draws(&seeded(), &logits, count)) {
            let expected = logit.exp() / total;
            assert!((seen as f32 / count as f32 - expected).abs() < 0.02);
        }
    }

    #[test]
    fn filters_leave_only_what_they_say() {
        let logits = [4.0f32, 3.0, 2.0, 1.0];
        let alive = |params: SamplingParams| -> Vec<usize> {
            let seen = draws(&params, &logits, 3000);
            (0..4).filter(|token| seen[*token] > 0).collect()
        };
        assert_eq!(
            alive(SamplingParams {
                top_k: 2,
                ..seeded()
            }),
            [0, 1]
        );
        // Probabilities 0.64, 0.24, 0.09, 0.03.
        assert_eq!(
            alive(SamplingParams {
                top_p: 0.7,
                ..seeded()
            }),
            [0, 1]
        );
        assert_eq!(
            alive(SamplingParams {
                top_p: 0.0,
                ..seeded()
            }),
            [0]
        );
        assert_eq!(
            alive(SamplingParams {
                min_p: 0.1,
                ..seeded()
            }),
            [0, 1, 2]
        );
        assert_eq!(
            alive(SamplingParams {
                temperature: 0.0,
                ..seeded()
            }),
            [0]
        );
        assert_eq!(alive(seeded()), [0, 1, 2, 3]);
    }

    /// The filters as their definition has them: everything sorted.
    fn narrowed_plainly(params: &SamplingParams, logits: &[f32]) -> Vec<u32> {
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |logit: f32| ((logit - highest) * params.temperature.recip()).exp();
        let mut all: Vec<(u32, f32)> = (0..).zip(logits.iter().map(|x| weight(*x))).collect();
        all.retain(|(_, weight)| *weight > 0.0 && *weight >= params.min_p);
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if params.top_k > 0 {
            all.truncate(params.top_k as usize);
        }
        if params.top_p < 1.0 {
            let sum = |all: &[(u32, f32)]| all.iter().map(|x| f64::from(x.1)).sum::<f64>();
            let wanted = f64::from(params.top_p) * sum(&all);
            let reaches = |count: &usize| sum(&all[..*count]) >= wanted;
            let count = (1..all.len()).find(reaches).unwrap_or(all.len());
            all.truncate(count);
        }
        all.into_iter().map(|(token, _)| token).collect()
    }

    #[test]
    fn the_fast_filters_leave_what_the_plain_ones_do() {
        let mut state = 1u64;
        let mut random = move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        for length in [1usize, 5, 64, 65, 300, 3000] {
            for case in 0..60u32 {
                // Rounded, so that ties are common; some rows are nearly flat.
                let spread = [0.1, 8.0, 30.0][case as usize % 3];
                let mut logits: Vec<f32> = (0..length)
                    .map(|_| (random() * spread * 8.0).round() / 8.0)
                    .collect();
                if length > 5 {
                    logits[length / 2..].fill(f32::NEG_INFINITY);
                }
                let params = SamplingParams {
                    temperature: 0.3 + random(),
                    top_k: [0, 1, 7, 50, 200][case as usize % 5],
                    top_p: [1.0, 0.93, 0.51][case as usize / 5 % 3],
                    min_p: [0.0, 0.031, 0.4][case as usize / 15 % 3],
                    ..SamplingParams::default()
                };
                if params.top_k == 0 && params.top_p >= 1.0 && params.min_p == 0.0 {
                    continue;
                }
                let row = Row {
                    logits: &logits,
                    highest: logits.iter().copied().fold(f32::NEG_INFINITY, f32::max),
                    scale: params.temperature.recip(),
                };
                let mut buffers = Buffers::default();
                Filters::new(&params).narrow(row, &mut buffers);
                let left = buffers.candidates.iter();
                let mut left: Vec<u32> = left.map(|candidate| candidate.token).collect();
                let mut expected = narrowed_plainly(&params, &logits);
                left.sort_unstable();
                expected.sort_unstable();
                assert_eq!(left, expected, "{length} logits, {params:?}");
            }
        }
    }

    #[test]
    fn choices_of_one_request_draw_differently_and_repeat() {
        let logits = vec![0.0f32; 1000];
        let drawn = |choice: u32| -> Vec<u32> {
            let mut sampler = Sampler::new(&seeded(), &[], choice);
            let mut draw =
                |position| sampler.choose(&mut logits.clone(), position, &mut Buffers::default());
            (0..20).map(&mut draw).collect()
        };
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(0), drawn(1));
        let mut all = drawn(2);
        all.sort_unstable();
        all.dedup();
        assert!(all.len() > 15, "a flat row gives many tokens: {all:?}");
    }

    #[test]
    fn penalties_push_repeats_away() {
        let logits = [1.0f32, 0.9, -1.0];
        let greedy = SamplingParams {
            temperature: 0.0,
            ..SamplingParams::default()
        };
        let twice = |params: SamplingParams, prompt: &[u32]| {
            let mut sampler = Sampler::new(&params, prompt, 0);
            [0, 1].map(|position| {
                sampler.choose(&mut logits.to_vec(), position, &mut Buffers::default())
            })
        };
        assert_eq!(twice(greedy.clone(), &[]), [0, 0]);
        assert_eq!(
            twice(
                SamplingParams {
                    presence_penalty: 0.2,
                    ..greedy.clone()
                },
                &[]
            ),
            [0, 1]
        );
        assert_eq!(
            twice(
                SamplingParams {
                    frequency_penalty: 0.2,
                    ..greedy.clone()
                },
                &[]
            ),
            [0, 1]
        );
        let repetition = SamplingParams {
            repetition_penalty: 2.0,
            ..greedy
        };
        // Token 0 stands in the prompt: halved below token 1 at once, then token 1 is halved too.
        assert_eq!(twice(repetition, &[0]), [1, 0]);
    }

    #[test]
    fn a_row_of_nothing_but_nan_or_infinity_still_gives_a_token() {
        for value in [f32::NAN, f32::NEG_INFINITY, f32::INFINITY] {
            let mut sampler = Sampler::new(&seeded(), &[], 0);
            assert!(sampler.choose(&mut [value; 4], 0, &mut Buffers::default()) < 4);
        }
    }
}
