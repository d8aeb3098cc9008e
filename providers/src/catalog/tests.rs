use super::*;
use crate::usage::ModelUsage;

/// USD as a whole number of pico-USD, from its decimal text.
fn pico(usd: f64) -> Option<i64> {
    Some((usd * 1e12).round() as i64)
}

fn cost_at(provider: &str, model: &str, usage: &Usage) -> Option<i64> {
    Catalog::embedded()
        .cost(provider, model, usage)
        .map(|cost| cost.pico_usd)
}

fn tokens(in_total: u64, out_total: u64) -> Usage {
    Usage {
        in_total: Some(in_total),
        out_total: Some(out_total),
        ..Usage::default()
    }
}

#[test]
fn every_embedded_row_has_date_source_and_a_known_provider() {
    let table = written::read(EMBEDDED).expect("the embedded table is well written");
    assert!(table.prices.len() >= 100, "{} names", table.prices.len());
    let mut names = std::collections::HashSet::new();
    for (provider, model, price) in &table.prices {
        let row = format!("{provider}/{model}");
        assert!(names.insert(row.clone()), "{row} stands twice");
        assert_eq!(
            registry::find(provider).map(|spec| spec.slug),
            Some(provider.as_str()),
            "{row}"
        );
        assert!(
            price.date.parse::<jiff::civil::Date>().is_ok(),
            "{row}: date {:?}",
            price.date
        );
        assert!(
            price.source.contains(' '),
            "{row}: source {:?} is not a known one",
            price.source
        );
        // A slip in the decimal point would show here.
        let rate = price
            .rates
            .input
            .unwrap_or(0)
            .max(price.rates.output.unwrap_or(0));
        assert!(rate <= 1_000_000_000, "{row}: {rate}");
        if let (Some(read), Some(input)) = (price.rates.cache_read, price.rates.input) {
            assert!(
                read < input,
                "{row}: a cached token may not cost more than a fresh one"
            );
        }
    }
    for (provider, model) in table.same_as {
        assert!(
            registry::find(&provider).is_some() && registry::find(&model).is_some(),
            "{provider}"
        );
    }
}

#[test]
fn names_are_found_with_their_dates_and_paths() {
    let catalog = Catalog::embedded();
    #[rustfmt::skip]
    let known = [
        ("openai", "gpt-4o-mini", 150_000),
        ("openai", "gpt-4o-mini-2024-07-18", 150_000),
        ("openai", "gpt-4o-2024-08-06", 2_500_000),
        ("openai", "gpt-4o-2024-05-13", 5_000_000),
        ("azure-openai", "gpt-4o-2024-11-20", 2_500_000),
        ("anthropic", "claude-sonnet-4-5-20250929", 3_000_000),
        ("anthropic", "claude-sonnet-5-5", 2_000_000),
        ("google", "gemini-2.5-flash", 300_000),
        ("google-ai-studio", "models/gemini-2.5-flash-001", 300_000),
        ("google-vertex-ai", "gemini-2.5-pro", 1_250_000),
        ("xai", "grok-4.7", 2_000_000),
        ("perplexity", "sonar", 1_000_000),
        ("groq", "openai/gpt-oss-120b", 150_000),
    ];
    for (provider, model, input) in known {
        let price = catalog
            .price(provider, model)
            .unwrap_or_else(|| panic!("{provider}/{model} has no price"));
        assert_eq!(price.rates.input, Some(input), "{provider}/{model}");
    }
    for (provider, model) in [
        ("openai", "gpt-99"),
        ("openai", ""),
        ("openai", "é-2024"),
        ("openai", "gpt-4o-2024-08"),
        ("nobody", "gpt-4o"),
        ("groq", "gpt-4o"),
        ("workers-ai", "@cf/meta/llama"),
    ] {
        assert!(
            catalog.price(provider, model).is_none(),
            "{provider}/{model}"
        );
    }
}

/// Both ways of telling cached tokens arrive here in one: `in_total` holds them all.
#[test]
fn cached_tokens_cost_their_own_rate_once() {
    // OpenAI's arithmetic: 1000 prompt tokens, of them 600 read and 100 written; 250 of 300 were reasoning.
    let inclusive = Usage {
        cache_read: Some(600),
        cache_write_other: Some(100),
        in_plain: Some(300),
        reasoning: Some(250),
        ..tokens(1000, 300)
    };
    // 300 x 2 + 600 x 0.2 + 100 x 2.5 + 300 x 10, per million
    assert_eq!(cost_at("openai", "gpt-6-sol", &inclusive), pico(0.00397));
    // A model whose writes are free of surcharge: they are plain input.
    // 400 x 2.5 + 600 x 1.25 + 300 x 10
    assert_eq!(cost_at("openai", "gpt-4o", &inclusive), pico(0.00475));

    // Anthropic's arithmetic: 40 plain, beside them 2000 read, 100 written for 5 minutes, 200 for an hour.
    let exclusive = Usage {
        cache_read: Some(2000),
        cache_write_5m: Some(100),
        cache_write_1h: Some(200),
        in_plain: Some(40),
        web_searches: Some(1),
        ..tokens(2340, 42)
    };
    // 40 x 3 + 2000 x 0.3 + 100 x 3.75 + 200 x 6 + 42 x 15, and a search
    assert_eq!(
        cost_at("anthropic", "claude-sonnet-4-5", &exclusive),
        pico(0.002925 + 0.01)
    );

    // Gemini: thoughts are part of the output, tool results part of the input.
    let gemini = Usage {
        cache_read: Some(60),
        in_tool: Some(15),
        reasoning: Some(80),
        ..tokens(115, 100)
    };
    // 55 x 0.3 + 60 x 0.03 + 100 x 2.5
    assert_eq!(
        cost_at("google", "gemini-2.5-flash", &gemini),
        pico(0.0002683)
    );
}

#[test]
fn lifetimes_of_other_writes_choose_the_rate() {
    let written = |ttl| Usage {
        cache_write_other: Some(100),
        cache_write_ttl: ttl,
        ..tokens(100, 0)
    };
    assert_eq!(
        cost_at("openai", "gpt-6-sol", &written(None)),
        pico(0.00025)
    );
    assert_eq!(
        cost_at("openai", "gpt-6-sol", &written(Some("30m"))),
        pico(0.00025)
    );
    assert_eq!(
        cost_at("openai", "gpt-6-sol", &written(Some("12h"))),
        pico(0.0005)
    );
    assert_eq!(
        cost_at("openai", "gpt-6-sol", &written(Some("mixed"))),
        pico(0.0005)
    );
    // Anthropic without the split: all for five minutes.
    assert_eq!(
        cost_at("anthropic", "claude-haiku-4-5", &written(None)),
        pico(0.000125)
    );
}

#[test]
fn long_prompts_and_tiers_change_the_whole_request() {
    let at = |in_total, tier: Option<&str>| Usage {
        tier: tier.map(str::to_owned),
        ..tokens(in_total, 1000)
    };
    let cost = |model: &str, usage: Usage| cost_at("google", model, &usage);
    assert_eq!(cost("gemini-2.5-pro", at(200_000, None)), pico(0.25 + 0.01));
    assert_eq!(
        cost("gemini-2.5-pro", at(200_001, None)),
        pico(0.500_002_5 + 0.015)
    );
    assert_eq!(
        cost("gemini-2.5-pro", at(1000, Some("on_demand_flex"))),
        pico(0.000625 + 0.005)
    );
    // Flex halves the input rate, and so the long rates.
    assert_eq!(
        cost("gemini-2.5-pro", at(400_000, Some("flex"))),
        pico(0.5 + 0.0075)
    );
    assert_eq!(
        cost("gemini-2.5-pro", at(1000, Some("priority"))),
        pico(0.00225 + 0.018)
    );
    assert_eq!(
        cost("gemini-2.5-pro", at(1000, Some("standard"))),
        pico(0.00125 + 0.01)
    );
    let tokens = tokens(1000, 1000);
    let cheap = Usage {
        tier: Some("priority".to_owned()),
        ..tokens
    };
    assert_eq!(cost_at("openai", "gpt-4o-mini", &cheap), pico(0.00125));
}

#[test]
fn sound_pictures_and_thoughts_have_rates_where_the_provider_has_them() {
    let spoken = Usage {
        in_audio: Some(600),
        out_audio: Some(400),
        ..tokens(1000, 500)
    };
    // 400 x 2.5 + 600 x 32 + 100 x 10 + 400 x 64
    assert_eq!(cost_at("openai", "gpt-audio", &spoken), pico(0.0468));
    // No rate for sound: it is input and output like any other.
    assert_eq!(cost_at("openai", "gpt-4o", &spoken), pico(0.0075));
    let drawn = Usage {
        in_image: Some(40),
        out_image: Some(1056),
        images: Some(1),
        ..tokens(50, 1056)
    };
    // 10 x 5 + 40 x 8 + 1056 x 32
    assert_eq!(cost_at("openai", "gpt-image-1.5", &drawn), pico(0.034162));
    let thought = Usage {
        reasoning: Some(300),
        ..tokens(100, 400)
    };
    // 100 x 2 + 300 x 3 + 100 x 8
    assert_eq!(
        cost_at("perplexity", "sonar-deep-research", &thought),
        pico(0.0019)
    );
    // A part larger than its whole is the whole.
    let odd = Usage {
        in_audio: Some(5000),
        cache_read: Some(900),
        ..tokens(1000, 0)
    };
    assert_eq!(
        cost_at("openai", "gpt-realtime", &odd),
        pico(0.00036 + 0.0032)
    );
}

#[test]
fn units_stand_in_for_tokens_that_were_not_told() {
    let heard = Usage {
        seconds: Some(3.5),
        ..Usage::default()
    };
    assert_eq!(cost_at("openai", "whisper-1", &heard), pico(0.00035));
    assert_eq!(
        cost_at("openai", "gpt-4o-transcribe", &heard),
        pico(0.00035)
    );
    // Told both ways, tokens count.
    let both = Usage {
        seconds: Some(3.5),
        ..tokens(14, 45)
    };
    assert_eq!(
        cost_at("openai", "gpt-4o-transcribe", &both),
        pico(0.000485)
    );
    let spoken = Usage {
        characters: Some(1000),
        ..Usage::default()
    };
    assert_eq!(cost_at("openai", "tts-1", &spoken), pico(0.015));
    let ranked = Usage {
        search_units: Some(2),
        ..Usage::default()
    };
    assert_eq!(cost_at("cohere", "rerank-v3.5", &ranked), pico(0.004));
    let scanned = Usage {
        pages: Some(3),
        ..Usage::default()
    };
    assert_eq!(
        cost_at("mistral", "mistral-ocr-latest", &scanned),
        pico(0.012)
    );
    assert_eq!(
        cost_at("perplexity", "sonar", &tokens(1000, 1000)),
        pico(0.007)
    );
    let embedded = Usage {
        in_total: Some(1000),
        ..Usage::default()
    };
    assert_eq!(
        cost_at("openai", "text-embedding-3-small", &embedded),
        pico(0.00002)
    );
}

#[test]
fn what_is_unknown_has_no_cost() {
    assert_eq!(cost_at("openai", "gpt-4o", &Usage::default()), None);
    assert_eq!(cost_at("openai", "gpt-99", &tokens(1, 1)), None);
    let half = Usage {
        in_total: Some(10),
        ..Usage::default()
    };
    assert_eq!(cost_at("openai", "gpt-4o", &half), None);
    let searched = Usage {
        web_searches: Some(3),
        ..Usage::default()
    };
    assert_eq!(cost_at("openai", "gpt-5", &searched), None);
    let never = Usage {
        seconds: Some(f64::NAN),
        ..Usage::default()
    };
    assert_eq!(cost_at("openai", "whisper-1", &never), None);
    // A blocked prompt told that nothing came out.
    assert_eq!(
        cost_at("google", "gemini-2.5-flash", &tokens(7, 0)),
        pico(0.0000021)
    );
}

#[test]
fn a_stated_cost_beats_the_table() {
    let stated = Usage {
        cost_reported_pico: Some(420_000_000),
        ..tokens(20, 5)
    };
    assert_eq!(cost_at("openrouter", "a/b", &stated), Some(420_000_000));
    assert_eq!(cost_at("openai", "gpt-4o", &stated), Some(420_000_000));
    assert_eq!(
        cost_at("openai", "gpt-4o", &tokens(u64::MAX, u64::MAX)),
        Some(i64::MAX)
    );
}

#[test]
fn parts_on_other_models_cost_what_those_cost() {
    let part = ModelUsage {
        model: "claude-haiku-4-5".to_owned(),
        usage: tokens(1000, 100),
    };
    let usage = Usage {
        by_model: vec![part.clone()],
        ..tokens(3000, 300)
    };
    // 2000 x 3 + 200 x 15, and 1000 x 1 + 100 x 5
    assert_eq!(
        cost_at("anthropic", "claude-sonnet-4-5", &usage),
        pico(0.009 + 0.0015)
    );
    // A system that has no price of its own, only its parts.
    let only_parts = Usage {
        by_model: vec![part],
        ..tokens(1000, 100)
    };
    assert_eq!(cost_at("anthropic", "a-system", &only_parts), pico(0.0015));
    let strange = ModelUsage {
        model: "nobody".to_owned(),
        usage: tokens(1, 1),
    };
    let usage = Usage {
        by_model: vec![strange],
        ..tokens(3000, 300)
    };
    assert_eq!(cost_at("anthropic", "claude-sonnet-4-5", &usage), None);
}

#[test]
fn an_operators_table_adds_and_replaces() {
    let table = r#"
        [[price]]
        provider = "custom-mine"
        models = ["m"]
        input = 1
        output = 2.5
        [[price]]
        provider = "openai"
        models = ["gpt-4o"]
        input = 0
        output = 0
    "#;
    let catalog = Catalog::with_overrides(table).expect("a good table");
    let cost = |provider: &str, model: &str| {
        catalog
            .cost(provider, model, &tokens(1000, 1000))
            .map(|c| c.pico_usd)
    };
    assert_eq!(cost("custom-mine", "m"), pico(0.0035));
    assert_eq!(cost("openai", "gpt-4o"), Some(0));
    assert_eq!(cost("openai", "gpt-4o-mini"), pico(0.00075));
    assert!(
        catalog
            .price("custom-mine", "m")
            .is_some_and(|price| !price.source.is_empty())
    );
}

#[test]
fn faults_of_a_table_name_the_row() {
    let fault = |text: &str| {
        Catalog::with_overrides(text)
            .expect_err("a bad table")
            .to_string()
    };
    let row = |rest: &str| {
        fault(&format!(
            "[[price]]\nprovider = \"openai\"\nmodels = [\"m\"]\n{rest}"
        ))
    };
    assert_eq!(
        row("inputs = 1"),
        "price of `openai/m`: unknown key `inputs`"
    );
    assert_eq!(
        row("input = -1"),
        "price of `openai/m`: `input` must be a number from 0 to 100000, not -1"
    );
    assert_eq!(
        row("input = nan"),
        "price of `openai/m`: `input` must be a number from 0 to 100000, not nan"
    );
    assert_eq!(
        row("input = \"1\""),
        "price of `openai/m`: `input` must be a number from 0 to 100000, not \"1\""
    );
    assert_eq!(row(""), "price of `openai/m`: no price in it");
    assert!(row("long_prompt = { input = 1 }").contains("above"));
    assert!(row("flex = { inputs = 1 }").contains("`inputs`"));
    assert!(fault("[[price]]\nmodels = [\"m\"]\ninput = 1").contains("`provider` is missing"));
    assert!(fault("prices = 1").contains("unknown key `prices`"));
    assert!(fault("price = ").starts_with("price table: "));
}

#[test]
fn custom_costs_follow_their_header() {
    let usage = Usage {
        cache_read: Some(200),
        cache_write_5m: Some(100),
        ..tokens(1000, 10)
    };
    let cost = |header: &str| {
        CustomCost::parse(header)
            .and_then(|custom| custom.cost(&usage))
            .map(|c| c.pico_usd)
    };
    assert_eq!(
        cost(r#"{"per_token_in":0.000001,"per_token_out":0.000002}"#),
        pico(0.00102)
    );
    // 700 plain, 200 read, 100 written at the price of input
    assert_eq!(
        cost(r#"{"per_token_in":0.000001,"per_token_out":0,"per_cache_read_token":0.0000001}"#),
        pico(0.00082)
    );
    assert_eq!(
        cost(
            r#"{"per_token_in":0.000001,"per_cache_write_token":0.00001,"per_cache_read_token":0}"#
        ),
        pico(0.0017)
    );
    assert_eq!(cost(r#"{"total_cost":0.01}"#), pico(0.01));
    for header in [
        "",
        "{}",
        "[]",
        r#"{"per_token_in":-1}"#,
        r#"{"per_token_in":1e300}"#,
        r#"{"total_cost":"1"}"#,
        r#"{"per_cache_read_token":1}"#,
    ] {
        assert_eq!(CustomCost::parse(header), None, "{header}");
    }
    let told = CustomCost::parse(r#"{"per_token_in":1}"#).expect("a price");
    assert_eq!(told.cost(&Usage::default()), None);
}
