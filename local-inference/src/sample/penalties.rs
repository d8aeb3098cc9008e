//! Making what was said before less likely.

use crate::request::SamplingParams;
use std::collections::{HashMap, HashSet};

pub(crate) struct Penalties {
    repetition: f32,
    frequency: f32,
    presence: f32,
    /// Tokens of the prompt; repetition counts them too.
    prompt: HashSet<u32>,
    /// How often each token was chosen.
    chosen: HashMap<u32, u32>,
}

impl Penalties {
    pub(crate) fn new(params: &SamplingParams, prompt: &[u32]) -> Penalties {
        let repeats_count = params.repetition_penalty != 1.0;
        Penalties {
            repetition: params.repetition_penalty,
            frequency: params.frequency_penalty,
            presence: params.presence_penalty,
            prompt: if repeats_count {
                prompt.iter().copied().collect()
            } else {
                HashSet::new()
            },
            chosen: HashMap::new(),
        }
    }

    fn is_idle(&self) -> bool {
        self.repetition == 1.0 && self.frequency == 0.0 && self.presence == 0.0
    }

    pub(crate) fn remember(&mut self, token: u32) {
        if !self.is_idle() {
            *self.chosen.entry(token).or_insert(0) += 1;
        }
    }

    pub(crate) fn apply(&self, logits: &mut [f32]) {
        if self.is_idle() {
            return;
        }
        let only_in_prompt = self
            .prompt
            .iter()
            .filter(|token| !self.chosen.contains_key(token));
        for token in only_in_prompt.chain(self.chosen.keys()) {
            let Some(logit) = logits.get_mut(*token as usize) else {
                continue;
            };
            // 0 would divide a positive logit to infinity, which is what its name asks the other way round.
            let repetition = self.repetition.max(0.01);
            *logit = if *logit > 0.0 {
                *logit / repetition
            } else {
                *logit * repetition
            };
        }
        for (token, count) in &self.chosen {
            let Some(logit) = logits.get_mut(*token as usize) else {
                continue;
            };
            *logit -= self.presence + self.frequency * *count as f32;
        }
    }
}
