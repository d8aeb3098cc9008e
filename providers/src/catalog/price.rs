//! Rates and arithmetic. Everything is whole pico-USD (1e-12 USD): a price of one cent per million tokens is
//! 10,000 of them a token, and the smallest unit any provider bills in (1e-10 USD) is 100.

use crate::usage::Usage;

const PARTS_PER_MILLION: i128 = 1_000_000;

/// An amount of money.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cost {
    pub pico_usd: i64,
}

impl Cost {
    /// For showing; sums are made in pico-USD.
    pub fn usd(self) -> f64 {
        self.pico_usd as f64 / 1e12
    }
}

/// Pico-USD for one token of each kind; `None` where the provider has no rate of its own for the kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rates {
    pub input: Option<i64>,
    pub output: Option<i64>,
    pub cache_read: Option<i64>,
    /// For writes whose lifetime is not told apart.
    pub cache_write: Option<i64>,
    pub cache_write_5m: Option<i64>,
    pub cache_write_1h: Option<i64>,
    pub cache_write_12h: Option<i64>,
    pub reasoning: Option<i64>,
    pub audio_in: Option<i64>,
    pub audio_out: Option<i64>,
    pub image_in: Option<i64>,
    pub image_out: Option<i64>,
}

/// Pico-USD for one of the units billed beside or instead of tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct UnitRates {
    pub request: Option<i64>,
    pub web_search: Option<i64>,
    pub second: Option<i64>,
    pub character: Option<i64>,
    pub page: Option<i64>,
    pub image: Option<i64>,
    pub search_unit: Option<i64>,
}

/// What a service tier does to the rates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TierRates {
    /// A factor, in parts per million.
    Factor(i64),
    Own(Rates),
}

/// What one model costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price {
    pub(super) rates: Rates,
    /// Prompts of more tokens than this have other rates, for the whole request.
    pub(super) long_prompt: Option<(u64, Rates)>,
    pub(super) flex: Option<TierRates>,
    pub(super) priority: Option<TierRates>,
    pub(super) batch: Option<TierRates>,
    pub(super) units: UnitRates,
    /// The day the price was read.
    pub date: String,
    /// Where it was read.
    pub source: String,
}

impl Rates {
    /// These rates, and another's where these say nothing.
    fn or(&self, other: &Rates) -> Rates {
        Rates {
            input: self.input.or(other.input),
            output: self.output.or(other.output),
            cache_read: self.cache_read.or(other.cache_read),
            cache_write: self.cache_write.or(other.cache_write),
            cache_write_5m: self.cache_write_5m.or(other.cache_write_5m),
            cache_write_1h: self.cache_write_1h.or(other.cache_write_1h),
            cache_write_12h: self.cache_write_12h.or(other.cache_write_12h),
            reasoning: self.reasoning.or(other.reasoning),
            audio_in: self.audio_in.or(other.audio_in),
            audio_out: self.audio_out.or(other.audio_out),
            image_in: self.image_in.or(other.image_in),
            image_out: self.image_out.or(other.image_out),
        }
    }

    fn times(&self, factor: i128, divisor: i128) -> Rates {
        let scale = |rate: Option<i64>| {
            rate.map(|rate| to_i64((i128::from(rate) * factor + divisor / 2) / divisor))
        };
        Rates {
            input: scale(self.input),
            output: scale(self.output),
            cache_read: scale(self.cache_read),
            cache_write: scale(self.cache_write),
            cache_write_5m: scale(self.cache_write_5m),
            cache_write_1h: scale(self.cache_write_1h),
            cache_write_12h: scale(self.cache_write_12h),
            reasoning: scale(self.reasoning),
            audio_in: scale(self.audio_in),
            audio_out: scale(self.audio_out),
            image_in: scale(self.image_in),
            image_out: scale(self.image_out),
        }
    }
}

impl Price {
    /// The rates for a prompt of this length on this tier.
    fn rates_for(&self, in_total: u64, tier: Option<&str>) -> Rates {
        let long = self
            .long_prompt
            .as_ref()
            .filter(|(above, _)| in_total > *above);
        let standard = match long {
            Some((_, rates)) => rates.or(&self.rates),
            None => self.rates.clone(),
        };
        // Names differ in their beginnings only: `flex`, `on_demand_flex`.
        let tier = tier.and_then(|name| match name {
            name if name.ends_with("flex") => self.flex.as_ref(),
            name if name.ends_with("priority") => self.priority.as_ref(),
            name if name.ends_with("batch") => self.batch.as_ref(),
            _ => None,
        });
        match (tier, long) {
            (None, _) => standard,
            (Some(TierRates::Factor(factor)), _) => {
                standard.times((*factor).into(), PARTS_PER_MILLION)
            }
            (Some(TierRates::Own(rates)), None) => rates.or(&standard),
            // Nobody prints both; the tier moves the long rates as it moves the input rate.
            (Some(TierRates::Own(rates)), Some(_)) => match (rates.input, self.rates.input) {
                (Some(tier), Some(base)) if base > 0 => standard.times(tier.into(), base.into()),
                _ => standard,
            },
        }
    }
}

/// What a usage costs at this price; `None` when what is billed was not told. A cost stated by the provider
/// wins.
pub fn cost(price: &Price, usage: &Usage) -> Option<Cost> {
    if let Some(pico_usd) = usage.cost_reported_pico {
        return Some(Cost { pico_usd });
    }
    let main = token_cost(price, usage).or_else(|| unit_cost(&price.units, usage))?;
    let request = price.units.request.map_or(0, i128::from);
    let searches = times(usage.web_searches, price.units.web_search).unwrap_or(0);
    Some(Cost {
        pico_usd: to_i64(main + request + searches),
    })
}

/// Tokens. A kind without a rate of its own stays in the part it belongs to, so nothing is counted twice.
fn token_cost(price: &Price, usage: &Usage) -> Option<i128> {
    let in_total = usage.in_total?;
    let rates = price.rates_for(in_total, usage.tier.as_deref());
    let has_input_rate = rates.input.is_some() || in_total == 0;
    let has_output_rate = rates
        .output
        .or(rates.audio_out)
        .or(rates.image_out)
        .is_some();
    if !has_input_rate || (has_output_rate && usage.out_total.is_none()) {
        return None;
    }
    Some(
        input_cost(&rates, in_total, usage)
            + output_cost(&rates, usage.out_total.unwrap_or(0), usage),
    )
}

fn input_cost(rates: &Rates, in_total: u64, usage: &Usage) -> i128 {
    let other_write = match usage.cache_write_ttl {
        // A mix is not split out, so it is taken at the dearer rate.
        Some("12h" | "mixed") => rates.cache_write_12h.or(rates.cache_write),
        _ => rates.cache_write.or(rates.cache_write_5m),
    };
    let short_write = rates.cache_write_5m.or(rates.cache_write);
    let cached = [
        (usage.cache_read, rates.cache_read),
        (usage.cache_write_5m, short_write),
        (usage.cache_write_1h, rates.cache_write_1h.or(short_write)),
        (usage.cache_write_other, other_write),
    ];
    let mut left = in_total;
    let mut sum = 0;
    for (tokens, rate) in cached {
        sum += take(&mut left, tokens, rate.or(rates.input));
    }
    for (tokens, rate) in [
        (usage.in_audio, rates.audio_in),
        (usage.in_image, rates.image_in),
    ] {
        if rate.is_some() {
            sum += take(&mut left, tokens, rate);
        }
    }
    sum + take(&mut left, Some(in_total), rates.input)
}

fn output_cost(rates: &Rates, out_total: u64, usage: &Usage) -> i128 {
    let parts = [
        (usage.reasoning, rates.reasoning),
        (usage.out_audio, rates.audio_out),
        (usage.out_image, rates.image_out),
    ];
    let mut left = out_total;
    let mut sum = 0;
    for (tokens, rate) in parts {
        if rate.is_some() {
            sum += take(&mut left, tokens, rate);
        }
    }
    // A model of pictures alone has no rate for text.
    sum + take(
        &mut left,
        Some(out_total),
        rates.output.or(rates.image_out).or(rates.audio_out),
    )
}

/// The cost of `tokens` out of what is left; parts that exceed their whole are cut to it.
fn take(left: &mut u64, tokens: Option<u64>, rate: Option<i64>) -> i128 {
    let tokens = tokens.unwrap_or(0).min(*left);
    *left -= tokens;
    i128::from(tokens) * i128::from(rate.unwrap_or(0))
}

/// Whatever the provider bills instead of tokens.
fn unit_cost(rates: &UnitRates, usage: &Usage) -> Option<i128> {
    let seconds = usage
        .seconds
        .filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
    let timed = seconds
        .zip(rates.second)
        .map(|(seconds, rate)| (seconds * rate as f64).round() as i128);
    let counted = [
        timed,
        times(usage.characters, rates.character),
        times(usage.pages, rates.page),
        times(usage.images, rates.image),
        times(usage.search_units, rates.search_unit),
    ];
    counted.into_iter().flatten().reduce(|sum, part| sum + part)
}

fn times(count: Option<u64>, rate: Option<i64>) -> Option<i128> {
    count
        .zip(rate)
        .map(|(count, rate)| i128::from(count) * i128::from(rate))
}

/// Saturates: a cost past nine million dollars is wrong in the usage, not in the price.
fn to_i64(pico_usd: i128) -> i64 {
    i64::try_from(pico_usd).unwrap_or(i64::MAX)
}

/// Takes the tokens of a part out of a whole.
pub(super) fn take_away(whole: &mut Usage, part: &Usage) {
    macro_rules! subtract {
        ($($field:ident)*) => { $(
            whole.$field = whole.$field.map(|count| count.saturating_sub(part.$field.unwrap_or(0)));
        )* };
    }
    subtract!(in_total cache_read cache_write_5m cache_write_1h cache_write_other);
    subtract!(in_plain in_audio in_image in_video in_tool);
    subtract!(out_total reasoning out_audio out_image web_searches);
}
