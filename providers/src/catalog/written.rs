//! The table's written form: `models.toml` says what each key means. Read by hand rather than derived, so that a
//! misspelt key is an error that names the row.

use std::collections::HashMap;

use toml::{Table, Value};

use super::CatalogError;
use super::price::{Price, Rates, TierRates, UnitRates};

/// Highest price read: a rate past it (in USD per million tokens, or per unit) is a slip of the pen, and the
/// integers hold this many times ten thousand tokens.
const MAX_USD: f64 = 1e5;

pub(super) struct WrittenTable {
    /// Provider, model, price; a later row for the same model replaces an earlier one.
    pub prices: Vec<(String, String, Price)>,
    pub same_as: HashMap<String, String>,
}

pub(super) fn read(text: &str) -> Result<WrittenTable, CatalogError> {
    let not_toml = |fault: &str| CatalogError::NotToml(fault.to_owned());
    let table: Table = text
        .parse()
        .map_err(|error: toml::de::Error| not_toml(error.message()))?;
    let mut written = WrittenTable {
        prices: Vec::new(),
        same_as: HashMap::new(),
    };
    let mut sources = HashMap::new();
    for (key, value) in &table {
        match key.as_str() {
            "price" => {}
            "sources" => {
                sources = strings(value).ok_or_else(|| not_toml("`sources` must hold strings"))?
            }
            "same_as" => {
                written.same_as =
                    strings(value).ok_or_else(|| not_toml("`same_as` must hold strings"))?;
            }
            other => return Err(not_toml(&format!("unknown key `{other}`"))),
        }
    }
    let rows = match table.get("price") {
        None => &[][..],
        Some(Value::Array(rows)) => rows,
        Some(_) => return Err(not_toml("`price` must be a list of tables")),
    };
    for row in rows {
        let row = row
            .as_table()
            .ok_or_else(|| not_toml("`price` must be a list of tables"))?;
        read_row(row, &sources, &mut written.prices).map_err(|fault| CatalogError::Row {
            row: name_of(row),
            fault,
        })?;
    }
    Ok(written)
}

fn read_row(
    row: &Table,
    sources: &HashMap<String, String>,
    prices: &mut Vec<(String, String, Price)>,
) -> Result<(), String> {
    let mut provider = None;
    let mut models = Vec::new();
    let mut price = Price {
        rates: Rates::default(),
        long_prompt: None,
        flex: None,
        priority: None,
        batch: None,
        units: UnitRates::default(),
        date: String::new(),
        source: "the operator's own table".to_owned(),
    };
    for (key, value) in row {
        if let Some(rate) = rate_named(&mut price.rates, key) {
            *rate = Some(per_million(key, value)?);
            continue;
        }
        let units = &mut price.units;
        match key.as_str() {
            "provider" => provider = value.as_str().map(str::to_owned),
            "models" => {
                let names = value.as_array().ok_or("`models` must be a list of names")?;
                for name in names {
                    models.push(
                        name.as_str()
                            .ok_or("`models` must be a list of names")?
                            .to_owned(),
                    );
                }
            }
            "date" => price.date = text(key, value)?,
            "source" => {
                let source = text(key, value)?;
                price.source = sources.get(&source).cloned().unwrap_or(source);
            }
            "long_prompt" => price.long_prompt = Some(long_prompt(value)?),
            "flex" => price.flex = Some(tier(key, value)?),
            "priority" => price.priority = Some(tier(key, value)?),
            "batch" => price.batch = Some(tier(key, value)?),
            "per_request" => units.request = Some(per_unit(key, value)?),
            "per_web_search" => units.web_search = Some(per_unit(key, value)?),
            "per_second" => units.second = Some(per_unit(key, value)?),
            "per_character" => units.character = Some(per_unit(key, value)?),
            "per_page" => units.page = Some(per_unit(key, value)?),
            "per_image" => units.image = Some(per_unit(key, value)?),
            "per_search_unit" => units.search_unit = Some(per_unit(key, value)?),
            other => return Err(format!("unknown key `{other}`")),
        }
    }
    let provider = provider.ok_or("`provider` is missing")?;
    if models.is_empty() {
        return Err("`models` is missing or empty".to_owned());
    }
    if price.rates == Rates::default() && price.units == UnitRates::default() {
        return Err("no price in it".to_owned());
    }
    prices.extend(
        models
            .into_iter()
            .map(|model| (provider.clone(), model, price.clone())),
    );
    Ok(())
}

/// The rate that a key of the written form names.
fn rate_named<'a>(rates: &'a mut Rates, key: &str) -> Option<&'a mut Option<i64>> {
    Some(match key {
        "input" => &mut rates.input,
        "output" => &mut rates.output,
        "cache_read" => &mut rates.cache_read,
        "cache_write" => &mut rates.cache_write,
        "cache_write_5m" => &mut rates.cache_write_5m,
        "cache_write_1h" => &mut rates.cache_write_1h,
        "cache_write_12h" => &mut rates.cache_write_12h,
        "reasoning" => &mut rates.reasoning,
        "audio_in" => &mut rates.audio_in,
        "audio_out" => &mut rates.audio_out,
        "image_in" => &mut rates.image_in,
        "image_out" => &mut rates.image_out,
        _ => return None,
    })
}

fn long_prompt(value: &Value) -> Result<(u64, Rates), String> {
    let table = value.as_table().ok_or("`long_prompt` must be a table")?;
    let above = table
        .get("above")
        .and_then(Value::as_integer)
        .and_then(|above| u64::try_from(above).ok());
    let above = above.ok_or("`long_prompt` needs `above`, a number of tokens")?;
    let others = table.iter().filter(|(key, _)| *key != "above");
    Ok((above, rates(others)?))
}

fn tier(key: &str, value: &Value) -> Result<TierRates, String> {
    if let Some(table) = value.as_table() {
        return Ok(TierRates::Own(rates(table.iter())?));
    }
    // A factor has the same six decimals as a price per million.
    per_million(key, value).map(TierRates::Factor)
}

fn rates<'a>(entries: impl Iterator<Item = (&'a String, &'a Value)>) -> Result<Rates, String> {
    let mut rates = Rates::default();
    for (key, value) in entries {
        let rate = rate_named(&mut rates, key).ok_or_else(|| format!("unknown key `{key}`"))?;
        *rate = Some(per_million(key, value)?);
    }
    Ok(rates)
}

/// USD per million tokens → pico-USD per token.
fn per_million(key: &str, value: &Value) -> Result<i64, String> {
    Ok((usd(key, value)? * 1e6).round() as i64)
}

/// USD for one → pico-USD for one.
fn per_unit(key: &str, value: &Value) -> Result<i64, String> {
    Ok((usd(key, value)? * 1e12).round() as i64)
}

fn usd(key: &str, value: &Value) -> Result<f64, String> {
    let number = value
        .as_float()
        .or_else(|| value.as_integer().map(|number| number as f64));
    number
        .filter(|number| (0.0..=MAX_USD).contains(number))
        .ok_or_else(|| format!("`{key}` must be a number from 0 to {MAX_USD}, not {value}"))
}

fn text(key: &str, value: &Value) -> Result<String, String> {
    value
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| format!("`{key}` must be text"))
}

fn strings(value: &Value) -> Option<HashMap<String, String>> {
    let entries = value.as_table()?.iter();
    entries
        .map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

fn name_of(row: &Table) -> String {
    let provider = row.get("provider").and_then(Value::as_str).unwrap_or("?");
    let first = row
        .get("models")
        .and_then(Value::as_array)
        .and_then(|models| models.first()?.as_str());
    format!("`{provider}/{}`", first.unwrap_or("?"))
}
