//! Usage in the spelling of OpenAI and of everyone who copied it: one set of members, inclusive arithmetic,
//! and a dozen extensions told apart by their names, never by the vendor.

use serde::Deserialize;

use crate::{Dialect, Usage};

use super::lenient::{Flag, Num, Obj, Raw, Real, Text};

/// The wire form. Chat says prompt and completion, everything newer says input and output.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Wire<'a> {
    prompt_tokens: Num,
    completion_tokens: Num,
    input_tokens: Num,
    output_tokens: Num,
    total_tokens: Num,
    prompt_tokens_details: Obj<Input>,
    input_tokens_details: Obj<Input>,
    /// Transcriptions use the singular.
    input_token_details: Obj<Input>,
    completion_tokens_details: Obj<Output>,
    output_tokens_details: Obj<Output>,
    output_token_details: Obj<Output>,
    /// DeepSeek; the same number may stand in the details.
    prompt_cache_hit_tokens: Num,
    num_cached_tokens: Num,
    cached_tokens: Num,
    /// Cerebras.
    image_tokens: Num,
    /// Perplexity.
    reasoning_tokens: Num,
    citation_tokens: Num,
    num_search_queries: Num,
    /// Mistral conversations.
    connector_tokens: Num,
    /// xAI live search.
    num_sources_used: Num,
    server_tool_use_details: Obj<ServerTools>,
    #[serde(borrow)]
    cost: Raw<'a>,
    cost_details: Obj<CostDetails>,
    is_byok: Flag,
    estimated_cost: Real,
    cost_in_usd_ticks: Num,
    prompt_audio_seconds: Real,
    seconds: Real,
    #[serde(borrow)]
    service_tier: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Input {
    cached_tokens: Num,
    cache_read_input_tokens: Num,
    cache_write_tokens: Num,
    cache_creation_input_tokens: Num,
    cache_write_tokens_details: Obj<WriteTtl>,
    audio_tokens: Num,
    image_tokens: Num,
    video_tokens: Num,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WriteTtl {
    ttl_30m_tokens: Num,
    ttl_12h_tokens: Num,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Output {
    reasoning_tokens: Num,
    audio_tokens: Num,
    image_tokens: Num,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ServerTools {
    web_search_requests: Num,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CostDetails {
    upstream_inference_cost: Real,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CostParts<'a> {
    #[serde(borrow)]
    currency: Text<'a>,
    total_cost: Real,
}

/// Everything said so far. Later numbers replace earlier ones member by member; nothing is ever added up.
#[derive(Clone, Debug, Default)]
pub(super) struct OpenAiUsage {
    prompt: Option<u64>,
    completion: Option<u64>,
    total: Option<u64>,
    citation: Option<u64>,
    connector: Option<u64>,
    /// Reasoning told outside the details, which is billed beside the completion.
    beside: Option<u64>,
    /// Members that need no arithmetic.
    plain: Usage,
    is_told: bool,
}

fn set<T>(slot: &mut Option<T>, news: impl IntoIterator<Item = Option<T>>) {
    if let Some(value) = news.into_iter().flatten().next() {
        *slot = Some(value);
    }
}

impl OpenAiUsage {
    /// Reads one usage object over what is known. False when it is not one.
    pub fn take(&mut self, raw: &Raw<'_>) -> bool {
        if !raw.is_object() {
            return false;
        }
        let Some(wire) = raw.read::<Wire<'_>>() else {
            return false;
        };
        self.is_told = true;
        let ticks = wire.cost_in_usd_ticks.0.map(|ticks| ticks as f64 * 1e-10);
        let cost = told_cost(&wire).or(wire.estimated_cost.get()).or(ticks);
        set(
            &mut self.prompt,
            [wire.prompt_tokens.0, wire.input_tokens.0],
        );
        set(
            &mut self.completion,
            [wire.completion_tokens.0, wire.output_tokens.0],
        );
        set(&mut self.total, [wire.total_tokens.0]);
        set(&mut self.citation, [wire.citation_tokens.0]);
        set(&mut self.connector, [wire.connector_tokens.0]);
        set(&mut self.beside, [wire.reasoning_tokens.0]);

        let plain = &mut self.plain;
        let details = [
            wire.prompt_tokens_details.0,
            wire.input_tokens_details.0,
            wire.input_token_details.0,
        ];
        let input = details.into_iter().flatten().next().unwrap_or_default();
        set(
            &mut plain.cache_read,
            [
                input.cached_tokens.0,
                input.cache_read_input_tokens.0,
                wire.prompt_cache_hit_tokens.0,
                wire.num_cached_tokens.0,
                wire.cached_tokens.0,
            ],
        );
        set(
            &mut plain.cache_write_other,
            [
                input.cache_write_tokens.0,
                input.cache_creation_input_tokens.0,
            ],
        );
        if let Some(ttl) = input.cache_write_tokens_details.0 {
            let short = ttl.ttl_30m_tokens.0.unwrap_or(0) > 0;
            let long = ttl.ttl_12h_tokens.0.unwrap_or(0) > 0;
            plain.cache_write_ttl = match (short, long) {
                (true, false) => Some("30m"),
                (false, true) => Some("12h"),
                (true, true) => Some("mixed"),
                (false, false) => None,
            };
        }
        set(&mut plain.in_audio, [input.audio_tokens.0]);
        set(
            &mut plain.in_image,
            [input.image_tokens.0, wire.image_tokens.0],
        );
        set(&mut plain.in_video, [input.video_tokens.0]);

        let details = [
            wire.completion_tokens_details.0,
            wire.output_tokens_details.0,
            wire.output_token_details.0,
        ];
        let output = details.into_iter().flatten().next().unwrap_or_default();
        set(&mut plain.reasoning, [output.reasoning_tokens.0]);
        set(&mut plain.out_audio, [output.audio_tokens.0]);
        set(&mut plain.out_image, [output.image_tokens.0]);

        let tools = wire.server_tool_use_details.0.unwrap_or_default();
        set(
            &mut plain.web_searches,
            [tools.web_search_requests.0, wire.num_search_queries.0],
        );
        set(&mut plain.search_units, [wire.num_sources_used.0]);
        set(
            &mut plain.seconds,
            [wire.seconds.get(), wire.prompt_audio_seconds.get()],
        );
        set(
            &mut plain.tier,
            [wire.service_tier.get().map(str::to_owned)],
        );
        set(&mut plain.cost_reported_pico, [cost.and_then(pico)]);
        true
    }

    /// The tier stands beside the usage object rather than in it.
    pub fn tier(&mut self, tier: &Text<'_>) {
        set(&mut self.plain.tier, [tier.get().map(str::to_owned)]);
    }

    pub fn pages(&mut self, pages: Option<u64>) {
        self.is_told |= pages.is_some();
        set(&mut self.plain.pages, [pages]);
    }

    pub fn seconds(&mut self, seconds: Option<f64>) {
        self.is_told |= seconds.is_some();
        set(&mut self.plain.seconds, [seconds]);
    }

    pub fn images(&mut self, images: Option<u64>) {
        self.is_told |= images.is_some();
        set(&mut self.plain.images, [images]);
    }

    pub fn has_seconds(&self) -> bool {
        self.plain.seconds.is_some()
    }

    pub fn add_image(&mut self) {
        self.is_told = true;
        *self.plain.images.get_or_insert(0) += 1;
    }

    pub fn web_searches(&mut self, searches: Option<u64>) {
        set(&mut self.plain.web_searches, [searches]);
    }

    /// The totals, once nothing more can come. `None` when no usage was told.
    pub fn settle(&self, dialect: Dialect) -> Option<Usage> {
        if !self.is_told {
            return None;
        }
        let mut usage = self.plain.clone();
        usage.in_total = self.prompt;
        usage.out_total = self.completion;
        let (prompt, completion) = (self.prompt.unwrap_or(0), self.completion.unwrap_or(0));
        // xAI's chat leaves reasoning out of the completion, and only the total gives it away.
        let reasoning = usage.reasoning.unwrap_or(0);
        if reasoning > 0 && self.total == Some(prompt + completion + reasoning) {
            usage.out_total = Some(completion + reasoning);
        }
        if dialect == Dialect::Perplexity {
            // Deep research bills both beside the tokens it calls prompt and completion.
            if let Some(beside) = self.beside {
                usage.reasoning = Some(beside);
                usage.out_total = Some(completion + beside);
            }
            if let Some(citation) = self.citation {
                usage.in_tool = Some(citation);
                usage.in_total = Some(prompt + citation);
            }
        } else if usage.reasoning.is_none() {
            usage.reasoning = self.beside;
        }
        if let Some(connector) = self.connector {
            usage.in_tool = Some(connector);
            if self.total == Some(prompt + completion + connector) {
                usage.in_total = Some(prompt + connector);
            }
        }
        usage.fill_in_plain();
        Some(usage)
    }
}

/// OpenRouter states a number, Perplexity an object. With the caller's own key at the vendor OpenRouter's
/// number is only its fee, so the vendor's price is added when it is told.
fn told_cost(wire: &Wire<'_>) -> Option<f64> {
    if wire.cost.is_object() {
        let parts = wire.cost.read::<CostParts<'_>>()?;
        let is_usd = parts.currency.get().is_none_or(|word| word == "USD");
        return parts.total_cost.get().filter(|_| is_usd);
    }
    let charged = wire.cost.read::<Real>()?.get()?;
    let details = wire.cost_details.0.as_ref();
    let upstream = details.and_then(|details| details.upstream_inference_cost.get());
    Some(charged + upstream.filter(|_| wire.is_byok.0).unwrap_or(0.0))
}

/// Dollars as whole picodollars; amounts past nine million dollars are no price of a request.
fn pico(dollars: f64) -> Option<i64> {
    (dollars < 9.0e6).then(|| (dollars * 1e12).round() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(objects: &[&str], dialect: Dialect) -> Usage {
        let mut usage = OpenAiUsage::default();
        for object in objects {
            assert!(usage.take(&Raw(Some(object))), "{object}");
        }
        usage.settle(dialect).expect("usage was told")
    }

    #[test]
    fn later_numbers_replace_and_null_keeps() {
        let usage = settle(
            &[
                r#"{"prompt_tokens":9,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":3}}"#,
                r#"{"prompt_tokens":9,"completion_tokens":40,"prompt_tokens_details":null}"#,
            ],
            Dialect::OpenAiChat,
        );
        assert_eq!(
            (
                usage.in_total,
                usage.out_total,
                usage.cache_read,
                usage.in_plain
            ),
            (Some(9), Some(40), Some(3), Some(6))
        );
    }

    #[test]
    fn reasoning_is_added_only_when_the_total_says_so() {
        let outside = r#"{"prompt_tokens":10,"completion_tokens":2,"total_tokens":62,"completion_tokens_details":{"reasoning_tokens":50}}"#;
        let inside = r#"{"prompt_tokens":10,"completion_tokens":52,"total_tokens":62,"completion_tokens_details":{"reasoning_tokens":50}}"#;
        for object in [outside, inside] {
            let usage = settle(&[object], Dialect::OpenAiChat);
            assert_eq!((usage.out_total, usage.reasoning), (Some(52), Some(50)));
        }
    }

    #[test]
    fn own_key_at_openrouter_adds_the_vendors_price() {
        let usage = settle(
            &[r#"{"cost":0.001,"is_byok":true,"cost_details":{"upstream_inference_cost":"0.02"}}"#],
            Dialect::OpenRouter,
        );
        assert_eq!(usage.cost_reported_pico, Some(21_000_000_000));
        assert_eq!(usage.in_total, None);
    }

    #[test]
    fn research_parts_are_billed_beside() {
        let usage = settle(
            &[
                r#"{"prompt_tokens":5,"completion_tokens":6,"total_tokens":11,"citation_tokens":100,"reasoning_tokens":70}"#,
            ],
            Dialect::Perplexity,
        );
        assert_eq!((usage.in_total, usage.out_total), (Some(105), Some(76)));
    }
}
