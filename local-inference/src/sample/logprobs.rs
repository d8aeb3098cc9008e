//! Log-probabilities of a row of logits, as the model gave them: before temperature, filters, penalties and grammar.

use crate::prompt::tokenizer::Tokenizer;
use crate::request::TokenLogprob;

/// What is remembered of a row before the sampler changes it.
pub(crate) struct Row {
    raw: Vec<f32>,
    log_sum: f32,
    top: usize,
}

impl Row {
    /// `top`: how many of the likeliest tokens will be told.
    pub(crate) fn new(logits: &[f32], top: usize) -> Row {
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits
            .iter()
            .map(|logit| f64::from((logit - highest).exp()))
            .sum();
        Row {
            raw: logits.to_vec(),
            log_sum: highest + sum.ln() as f32,
            top,
        }
    }

    pub(crate) fn tell(&self, token: u32, tokenizer: &Tokenizer) -> TokenLogprob {
        let of = |token: u32| self.raw[token as usize] - self.log_sum;
        let bytes = |token: u32| tokenizer.token_bytes(token).to_vec();
        let mut order: Vec<u32> = (0..self.raw.len() as u32).collect();
        let count = self.top.min(order.len());
        let likelier = |a: &u32, b: &u32| of(*b).total_cmp(&of(*a)).then(a.cmp(b));
        if count > 0 && count < order.len() {
            order.select_nth_unstable_by(count - 1, likelier);
        }
        order.truncate(count);
        order.sort_unstable_by(likelier);
        TokenLogprob {
            token,
            bytes: bytes(token),
            logprob: of(token),
            top: order
                .into_iter()
                .map(|token| (token, bytes(token), of(token)))
                .collect(),
        }
    }
}
