//! Log-probabilities of a row of logits, as the model gave them: before temperature, filters, penalties and grammar.

use crate::prompt::tokenizer::Tokenizer;
use crate::request::TokenLogprob;

/// What is remembered of a row before the sampler changes it.
pub(crate) struct Row {
    raw: Vec<f32>,
    log_sum: f32,
    top: Vec<(u32, f32)>,
}

impl Row {
    /// `top`: how many of the likeliest tokens will be told.
    pub(crate) fn new(logits: &[f32], top: usize) -> Row {
        let mut likeliest = Vec::new();
        kernels::top_k(logits, top, &mut likeliest);
        Row {
            raw: logits.to_vec(),
            log_sum: kernels::log_sum_exp(logits),
            top: likeliest,
        }
    }

    pub(crate) fn tell(&self, token: u32, tokenizer: &Tokenizer) -> TokenLogprob {
        let bytes = |token: u32| tokenizer.token_bytes(token).to_vec();
        let top = self.top.iter();
        TokenLogprob {
            token,
            bytes: bytes(token),
            logprob: self.raw[token as usize] - self.log_sum,
            top: top
                .map(|(token, logit)| (*token, bytes(*token), logit - self.log_sum))
                .collect(),
        }
    }
}
