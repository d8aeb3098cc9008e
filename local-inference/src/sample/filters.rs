//! From all logits to the tokens still in play, with their unnormalised probabilities.

/// e^-30 is 1e-13 of the likeliest token; a vocabulary of such tokens sums to less than f32 can see.
const NEGLIGIBLE: f32 = -30.0;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    pub token: u32,
    /// Probability relative to the likeliest token, which has 1.
    pub weight: f32,
}

/// Every token whose probability can matter, in order of ids.
pub(crate) fn candidates(logits: &[f32], temperature: f32, out: &mut Vec<Candidate>) {
    out.clear();
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for (token, logit) in logits.iter().enumerate() {
        let distance = (logit - highest) / temperature;
        if distance > NEGLIGIBLE {
            out.push(Candidate {
                token: token as u32,
                weight: distance.exp(),
            });
        }
    }
}

/// Applies min-p, top-k, then top-p to what top-k left. Ties keep the lower id.
pub(crate) fn narrow(candidates: &mut Vec<Candidate>, top_k: usize, top_p: f32, min_p: f32) {
    if min_p > 0.0 {
        candidates.retain(|candidate| candidate.weight >= min_p);
    }
    if top_k == 0 && top_p >= 1.0 {
        return;
    }
    let order =
        |a: &Candidate, b: &Candidate| b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token));
    if top_k > 0 && top_k < candidates.len() {
        candidates.select_nth_unstable_by(top_k - 1, order);
        candidates.truncate(top_k);
    }
    candidates.sort_unstable_by(order);
    if top_p < 1.0 {
        let total: f32 = candidates.iter().map(|candidate| candidate.weight).sum();
        let mut reached = 0.0;
        let needed = candidates.iter().position(|candidate| {
            reached += candidate.weight;
            reached >= top_p * total
        });
        candidates.truncate(needed.map_or(candidates.len(), |index| index + 1));
    }
}
