//! From all logits to the few tokens still in play, with their unnormalised probabilities.
//!
//! Nothing here sorts a vocabulary: the likeliest tokens are taken, more of them where they turn out not to be enough.

use crate::request::SamplingParams;

/// Likeliest tokens looked at first; four times as many each time they are not enough.
const FIRST_TOP: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Candidate {
    pub token: u32,
    /// Probability relative to the likeliest token, which has 1.
    pub weight: f32,
}

/// A row of logits at a temperature.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    pub logits: &'a [f32],
    pub highest: f32,
    /// 1 / temperature.
    pub scale: f32,
}

impl Row<'_> {
    pub(crate) fn weight(&self, logit: f32) -> f32 {
        ((logit - self.highest) * self.scale).exp()
    }
}

/// Which tokens may be drawn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Filters {
    top_k: usize,
    top_p: f32,
    min_p: f32,
}

/// Buffers of a choice.
#[derive(Default)]
pub(crate) struct Buffers {
    pub weights: Vec<f32>,
    top: Vec<(u32, f32)>,
    pub candidates: Vec<Candidate>,
}

impl Buffers {
    /// The `count` likeliest, likeliest first, lower ids before higher ones among equals. Tokens without weight are none.
    fn take(&mut self, row: Row<'_>, count: usize) {
        kernels::top_k(row.logits, count, &mut self.top);
        let candidate = |(token, logit): &(u32, f32)| Candidate {
            token: *token,
            weight: row.weight(*logit),
        };
        self.candidates.clear();
        self.candidates.extend(self.top.iter().map(candidate));
        self.candidates.retain(|candidate| candidate.weight > 0.0);
    }

    fn total(&self) -> f64 {
        let weights = self.candidates.iter().map(|candidate| candidate.weight);
        weights.map(f64::from).sum()
    }

    /// Keeps the likeliest that together reach `top_p` of `total`, at least one; false when all do not.
    fn keep_reaching(&mut self, top_p: f32, total: f64) -> bool {
        let wanted = f64::from(top_p) * total;
        let mut reached = 0.0;
        let needed = self.candidates.iter().position(|candidate| {
            reached += f64::from(candidate.weight);
            reached >= wanted
        });
        self.candidates
            .truncate(needed.map_or(usize::MAX, |index| index + 1));
        needed.is_some()
    }
}

impl Filters {
    pub(crate) fn new(params: &SamplingParams) -> Filters {
        Filters {
            top_k: params.top_k as usize,
            top_p: params.top_p,
            min_p: params.min_p,
        }
    }

    /// Every token may be drawn.
    pub(crate) fn are_idle(&self) -> bool {
        self.top_k == 0 && self.top_p >= 1.0 && self.min_p <= 0.0
    }

    /// Leaves in `buffers.candidates` the tokens that min-p and top-k leave, and of those what top-p leaves.
    pub(crate) fn narrow(&self, row: Row<'_>, buffers: &mut Buffers) {
        let mut count = match self.top_k {
            0 => FIRST_TOP,
            top_k => top_k,
        };
        let of_all = self.top_k == 0 && self.min_p <= 0.0;
        let total_of_all = of_all.then(|| {
            let Row {
                logits,
                highest,
                scale,
            } = row;
            kernels::group_weights(logits, highest, scale, &mut buffers.weights)
        });
        loop {
            buffers.take(row, count);
            let is_whole = self.top_k > 0 || buffers.candidates.len() < count;
            if let Some(total) = total_of_all {
                if buffers.keep_reaching(self.top_p, total) || is_whole {
                    return;
                }
            } else {
                buffers
                    .candidates
                    .retain(|candidate| candidate.weight >= self.min_p);
                if is_whole || buffers.candidates.len() < count {
                    let total = buffers.total();
                    buffers.keep_reaching(self.top_p, total);
                    return;
                }
            }
            count = count.saturating_mul(4);
        }
    }
}
