//! Logits to a token id, seeded.

mod filters;
#[allow(
    dead_code,
    reason = "sequences are held to a grammar with the next step"
)]
pub(crate) mod grammar;
pub(crate) mod logprobs;
mod penalties;

use crate::request::SamplingParams;
use filters::Candidate;
use penalties::Penalties;

/// One sequence's way of choosing. Each choice depends on the logits, the sequence's own tokens, the seed and the
/// position, and on nothing that was drawn before: so it can be repeated after any interruption.
pub(crate) struct Sampler {
    temperature: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
    seed: u64,
    penalties: Penalties,
    candidates: Vec<Candidate>,
}

impl Sampler {
    /// Choices of one request differ by what they draw: each has the seed of its own number after the request's.
    pub(crate) fn new(params: &SamplingParams, prompt: &[u32], choice: u32) -> Sampler {
        let seed = params.seed.unwrap_or_else(random_seed);
        Sampler {
            temperature: params.temperature,
            top_k: params.top_k as usize,
            top_p: params.top_p,
            min_p: params.min_p,
            seed: seed.wrapping_add(u64::from(choice)),
            penalties: Penalties::new(params, prompt),
            candidates: Vec::new(),
        }
    }

    /// Chooses the token for `position` and remembers it.
    pub(crate) fn choose(&mut self, logits: &mut [f32], position: usize) -> u32 {
        self.penalties.apply(logits);
        let token = match self.temperature > 0.0 {
            true => self.draw(logits, position),
            false => likeliest(logits),
        };
        self.penalties.remember(token);
        token
    }

    fn draw(&mut self, logits: &[f32], position: usize) -> u32 {
        filters::candidates(logits, self.temperature, &mut self.candidates);
        filters::narrow(&mut self.candidates, self.top_k, self.top_p, self.min_p);
        let total: f64 = self
            .candidates
            .iter()
            .map(|candidate| f64::from(candidate.weight))
            .sum();
        let mut left = uniform(self.seed, position as u64) * total;
        for candidate in &self.candidates {
            left -= f64::from(candidate.weight);
            if left < 0.0 {
                return candidate.token;
            }
        }
        self.candidates
            .last()
            .map_or_else(|| likeliest(logits), |candidate| candidate.token)
    }
}

/// The highest logit, the lowest id among equals.
fn likeliest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = token;
        }
    }
    best as u32
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
            seen[sampler.choose(&mut logits.to_vec(), position) as usize] += 1;
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

    #[test]
    fn penalties_push_repeats_away() {
        let logits = [1.0f32, 0.9, -1.0];
        let greedy = SamplingParams {
            temperature: 0.0,
            ..SamplingParams::default()
        };
        let twice = |params: SamplingParams, prompt: &[u32]| {
            let mut sampler = Sampler::new(&params, prompt, 0);
            [0, 1].map(|position| sampler.choose(&mut logits.to_vec(), position))
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
            assert!(sampler.choose(&mut [value; 4], 0) < 4);
        }
    }
}
