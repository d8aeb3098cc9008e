//! How long a step takes, learned from those that ran: a + b per token.
//!
//! Two numbers are enough to choose a chunk by: what a step costs beside its tokens (weights read once) and what a token adds.
//! The length of the texts attended to is left out; it changes slowly, and old steps are forgotten as it does.

/// Weight of all earlier steps when a new one comes: the last hundred matter.
const MEMORY: f64 = 0.98;
/// A step many times longer than foreseen was interrupted, not slow.
const MAX_SURPRISE: f64 = 4.0;

/// Least squares over (tokens, microseconds), the past fading.
#[derive(Debug, Default)]
pub(crate) struct CostModel {
    weight: f64,
    tokens: f64,
    micros: f64,
    tokens_squared: f64,
    product: f64,
}

impl CostModel {
    pub(crate) fn observe(&mut self, tokens: usize, micros: u64) {
        let x = tokens as f64;
        let y = match self.line() {
            Some((a, b)) => (micros as f64).min(MAX_SURPRISE * (a + b * x).max(1.0)),
            None => micros as f64,
        };
        for (sum, value) in [
            (&mut self.weight, 1.0),
            (&mut self.tokens, x),
            (&mut self.micros, y),
            (&mut self.tokens_squared, x * x),
            (&mut self.product, x * y),
        ] {
            *sum = *sum * MEMORY + value;
        }
    }

    /// Tokens that a step of `micros` has time for; `None` while steps were too few or too alike to tell.
    pub(crate) fn tokens_within(&self, micros: u64) -> Option<usize> {
        let (a, b) = self.line()?;
        Some(((micros as f64 - a) / b).max(0.0) as usize)
    }

    /// (a, b), both positive.
    fn line(&self) -> Option<(f64, f64)> {
        let (x, y) = (self.tokens / self.weight, self.micros / self.weight);
        let spread = self.tokens_squared / self.weight - x * x;
        let covariance = self.product / self.weight - x * y;
        let b = covariance / spread;
        // Steps of nearly one size say nothing of the slope.
        let is_told = self.weight > 8.0 && spread > 16.0 && b > 0.0;
        is_told.then(|| ((y - b * x).max(0.0), b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_found_and_followed() {
        let mut model = CostModel::default();
        assert_eq!(model.tokens_within(60_000), None);
        for _ in 0..50 {
            model.observe(1, 5_500);
        }
        assert_eq!(model.tokens_within(60_000), None, "one size says nothing");
        for tokens in [1usize, 8, 60, 30, 1, 64, 64, 8].repeat(4) {
            model.observe(tokens, 5_000 + 500 * tokens as u64);
        }
        let tokens = model.tokens_within(60_000).expect("it has seen enough");
        assert!((108..=112).contains(&tokens), "{tokens}");
        // An interruption is no new price.
        model.observe(1, 10_000_000);
        let tokens = model.tokens_within(60_000).expect("it has seen enough");
        assert!((95..=125).contains(&tokens), "{tokens}");
        // Twice as slow from now on.
        for tokens in [1usize, 8, 60, 30, 1, 64, 64, 8].repeat(40) {
            model.observe(tokens, 10_000 + 1_000 * tokens as u64);
        }
        let tokens = model.tokens_within(60_000).expect("it has seen enough");
        assert!((48..=52).contains(&tokens), "{tokens}");
        assert_eq!(model.tokens_within(1_000), Some(0));
    }
}
