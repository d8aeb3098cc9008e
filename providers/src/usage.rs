//! What a reply cost in the provider's own units, in one shape for every dialect.
//!
//! `None` means that the provider did not say, which is not zero. Totals are inclusive here whatever the wire
//! says: `in_total` holds the cached and written tokens, `out_total` the reasoning ones. Readers convert.

/// Units used by one attempt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// Every prompt token, cached and written ones included.
    pub in_total: Option<u64>,
    /// Part of `in_total` served from cache.
    pub cache_read: Option<u64>,
    /// Parts of `in_total` newly written to a cache, by lifetime.
    pub cache_write_5m: Option<u64>,
    pub cache_write_1h: Option<u64>,
    /// Lifetime unknown, or one of `cache_write_ttl`.
    pub cache_write_other: Option<u64>,
    /// Lifetime of `cache_write_other` when told: `30m`, `12h`, or `mixed`.
    pub cache_write_ttl: Option<&'static str>,
    /// `in_total` less everything cached or written: what the base input price applies to.
    pub in_plain: Option<u64>,
    pub in_audio: Option<u64>,
    pub in_image: Option<u64>,
    pub in_video: Option<u64>,
    /// Tool results fed back to the model by the provider itself.
    pub in_tool: Option<u64>,
    /// Every generated token, reasoning included.
    pub out_total: Option<u64>,
    pub reasoning: Option<u64>,
    pub out_audio: Option<u64>,
    pub out_image: Option<u64>,
    pub web_searches: Option<u64>,
    pub search_units: Option<u64>,
    pub images: Option<u64>,
    pub pages: Option<u64>,
    pub characters: Option<u64>,
    pub seconds: Option<f64>,
    pub requests: Option<u64>,
    /// The price the provider itself states, in 1e-12 USD. Amounts in another currency are left out.
    pub cost_reported_pico: Option<i64>,
    /// The service tier really used, as the provider names it (lower case).
    pub tier: Option<String>,
    /// Parts of the totals that ran on another model than the reply's own, and so at another price.
    pub by_model: Vec<ModelUsage>,
    pub source: UsageSource,
}

/// A part of a [`Usage`] that names its own model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelUsage {
    pub model: String,
    pub usage: Usage,
}

/// How far the numbers can be trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum UsageSource {
    /// The provider's last word.
    #[default]
    Final,
    /// The reply was cut; the last running totals.
    Partial,
    /// Read from response headers.
    Header,
    /// Counted by us.
    Estimate,
}

impl UsageSource {
    pub fn as_str(self) -> &'static str {
        match self {
            UsageSource::Final => "final",
            UsageSource::Partial => "partial",
            UsageSource::Header => "header",
            UsageSource::Estimate => "estimate",
        }
    }
}

impl Usage {
    /// Numbers of our own counting, for a reply that told none.
    pub fn estimate(in_tokens: u64, out_tokens: u64) -> Usage {
        Usage {
            in_total: Some(in_tokens),
            in_plain: Some(in_tokens),
            out_total: Some(out_tokens),
            source: UsageSource::Estimate,
            ..Usage::default()
        }
    }

    /// Takes from `other` what this one does not say.
    pub(crate) fn fill_gaps(&mut self, other: Usage) {
        macro_rules! fill {
            ($($field:ident)*) => { $(self.$field = self.$field.take().or(other.$field);)* };
        }
        // Totals come with their own parts: mixing two senders' arithmetic would count tokens twice.
        if self.in_total.is_none() {
            fill!(in_total cache_read cache_write_5m cache_write_1h cache_write_other cache_write_ttl);
            fill!(in_plain in_audio in_image in_video in_tool);
        }
        if self.out_total.is_none() {
            fill!(out_total reasoning out_audio out_image);
        }
        fill!(web_searches search_units images pages characters seconds requests);
        fill!(cost_reported_pico tier);
    }

    /// The uncached rest of the prompt, from its other parts.
    pub(crate) fn fill_in_plain(&mut self) {
        let cached = [
            self.cache_read,
            self.cache_write_5m,
            self.cache_write_1h,
            self.cache_write_other,
        ];
        let cached = cached.into_iter().flatten().fold(0, u64::saturating_add);
        self.in_plain = self.in_total.map(|total| total.saturating_sub(cached));
    }
}
