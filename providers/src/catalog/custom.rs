//! A caller's own price for one request: the `cf-aig-custom-cost` header.

use serde::Deserialize;

use super::Cost;
use crate::usage::Usage;

/// Highest amount read, in USD: what fits the integers with room for a sum.
const MAX_USD: f64 = 1e6;

/// Prices in pico-USD per token, or one for the whole request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CustomCost {
    input: i64,
    output: i64,
    /// Read and write; `None` prices all input alike.
    cache: Option<(i64, i64)>,
    total: Option<i64>,
}

#[derive(Deserialize)]
struct Written {
    per_token_in: Option<f64>,
    per_token_out: Option<f64>,
    per_cache_read_token: Option<f64>,
    per_cache_write_token: Option<f64>,
    total_cost: Option<f64>,
}

impl CustomCost {
    /// Reads the header's JSON, in USD. `None` when it is not JSON, names no price, or one that is negative or
    /// past a million dollars: the header is then as good as absent.
    pub fn parse(header: &str) -> Option<CustomCost> {
        let written: Written = serde_json::from_str(header).ok()?;
        let amount = |usd: Option<f64>| usd.map(pico).transpose();
        let input = amount(written.per_token_in).ok()?;
        let output = amount(written.per_token_out).ok()?;
        let read = amount(written.per_cache_read_token).ok()?;
        let write = amount(written.per_cache_write_token).ok()?;
        let total = amount(written.total_cost).ok()?;
        if input.is_none() && output.is_none() && total.is_none() {
            return None;
        }
        let input = input.unwrap_or(0);
        // One cache price alone leaves the other at the price of input.
        let cache = (read.is_some() || write.is_some())
            .then(|| (read.unwrap_or(input), write.unwrap_or(input)));
        Some(CustomCost {
            input,
            output: output.unwrap_or(0),
            cache,
            total,
        })
    }

    /// `None` when a price per token meets a usage that was not told.
    pub fn cost(&self, usage: &Usage) -> Option<Cost> {
        if let Some(pico_usd) = self.total {
            return Some(Cost { pico_usd });
        }
        if usage.in_total.is_none() && usage.out_total.is_none() {
            return None;
        }
        let in_total = usage.in_total.unwrap_or(0);
        let count = |tokens: Option<u64>| i128::from(tokens.unwrap_or(0).min(in_total));
        let price = |tokens: i128, rate: i64| tokens * i128::from(rate);
        let input = match self.cache {
            None => price(i128::from(in_total), self.input),
            Some((read_rate, write_rate)) => {
                let read = count(usage.cache_read);
                let written = count(usage.cache_write_5m)
                    + count(usage.cache_write_1h)
                    + count(usage.cache_write_other);
                let plain = (i128::from(in_total) - read - written).max(0);
                price(plain, self.input) + price(read, read_rate) + price(written, write_rate)
            }
        };
        let sum = input + price(i128::from(usage.out_total.unwrap_or(0)), self.output);
        Some(Cost {
            pico_usd: i64::try_from(sum).unwrap_or(i64::MAX),
        })
    }
}

fn pico(usd: f64) -> Result<i64, ()> {
    if (0.0..=MAX_USD).contains(&usd) {
        Ok((usd * 1e12).round() as i64)
    } else {
        Err(())
    }
}
