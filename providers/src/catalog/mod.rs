//! What tokens cost: list prices by provider and model, each with its date and source.
//!
//! The table is `models.toml`; an operator's file in the same form adds rows or replaces them. A model that is
//! not in it has no price, and a usage that was not told has no cost: neither is ever taken for zero. A cost
//! that the provider itself states beats the table.
//!
//! - `price`: rates and the arithmetic, in integers
//! - `written`: the table's written form
//! - `custom`: a caller's own price for one request

mod custom;
mod price;
mod written;

use std::collections::HashMap;

use thiserror::Error;

use crate::registry;
use crate::usage::Usage;

pub use custom::CustomCost;
pub use price::{Cost, Price, cost};

const EMBEDDED: &str = include_str!("models.toml");

/// What is wrong with a price table; names the row and the key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CatalogError {
    #[error("price table: {0}")]
    NotToml(String),
    #[error("price of {row}: {fault}")]
    Row { row: String, fault: String },
}

/// Prices by provider slug and model name.
#[derive(Clone, Debug)]
pub struct Catalog {
    prices: HashMap<String, HashMap<String, Price>>,
    same_as: HashMap<String, String>,
}

impl Catalog {
    /// The table built into the program.
    pub fn embedded() -> Catalog {
        let mut catalog = Catalog {
            prices: HashMap::new(),
            same_as: HashMap::new(),
        };
        catalog
            .add(EMBEDDED)
            .expect("the embedded table is parsed by a test");
        catalog
    }

    /// The embedded table with the rows of `toml` over it.
    pub fn with_overrides(toml: &str) -> Result<Catalog, CatalogError> {
        let mut catalog = Catalog::embedded();
        catalog.add(toml)?;
        Ok(catalog)
    }

    /// The price of a model, by the provider's slug or alias and the name the answer (or request) gives.
    pub fn price(&self, provider: &str, model: &str) -> Option<&Price> {
        let slug = registry::find(provider).map_or(provider, |spec| spec.slug);
        let by_own_row = self
            .prices
            .get(slug)
            .and_then(|models| find_model(models, model));
        by_own_row.or_else(|| find_model(self.prices.get(self.same_as.get(slug)?)?, model))
    }

    /// What an answer cost, parts that ran on another model at that model's price. `None` when the model, one
    /// of its parts or the usage is unknown.
    pub fn cost(&self, provider: &str, model: &str, usage: &Usage) -> Option<Cost> {
        if usage.cost_reported_pico.is_some() || usage.by_model.is_empty() {
            return cost_of_maybe(self.price(provider, model), usage);
        }
        let mut own = usage.clone();
        let mut total = 0_i64;
        for part in &usage.by_model {
            let price = self.price(provider, &part.model)?;
            total = total.saturating_add(cost(price, &part.usage)?.pico_usd);
            price::take_away(&mut own, &part.usage);
        }
        own.by_model.clear();
        let own_is_empty = own.in_total.unwrap_or(0) == 0 && own.out_total.unwrap_or(0) == 0;
        if !own_is_empty {
            total = total.saturating_add(cost(self.price(provider, model)?, &own)?.pico_usd);
        }
        Some(Cost { pico_usd: total })
    }

    fn add(&mut self, toml: &str) -> Result<(), CatalogError> {
        let table = written::read(toml)?;
        self.same_as.extend(table.same_as);
        for (provider, model, price) in table.prices {
            self.prices
                .entry(provider)
                .or_default()
                .insert(model, price);
        }
        Ok(())
    }
}

/// A stated cost needs no price.
fn cost_of_maybe(price: Option<&Price>, usage: &Usage) -> Option<Cost> {
    match price {
        Some(price) => cost(price, usage),
        None => usage.cost_reported_pico.map(|pico_usd| Cost { pico_usd }),
    }
}

/// By exact name; else without the path, date or `-latest` that providers put around a name.
fn find_model<'a>(models: &'a HashMap<String, Price>, name: &str) -> Option<&'a Price> {
    let exact = models.get(name);
    let bare = || {
        let name = name.strip_prefix("models/").unwrap_or(name);
        models
            .get(name)
            .or_else(|| models.get(without_version(name)?))
    };
    exact.or_else(bare)
}

/// `gpt-x-2025-08-07`, `claude-x-20250929`, `claude-x@20250929`, `gemini-x-001`, `x-latest`.
fn without_version(name: &str) -> Option<&str> {
    if let Some(bare) = name.strip_suffix("-latest") {
        return Some(bare);
    }
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let tail = |length: usize| {
        name.len()
            .checked_sub(length)
            .and_then(|at| name.split_at_checked(at))
    };
    let is_dashed_date = |text: &str| {
        let mut parts = text.split('-');
        let lengths = [0, 4, 2, 2];
        lengths.iter().all(|length| {
            parts
                .next()
                .is_some_and(|part| part.len() == *length && is_digits(part))
        })
    };
    if let Some((bare, date)) = tail("-2025-08-07".len())
        && is_dashed_date(date)
    {
        return Some(bare);
    }
    if let Some((bare, date)) = tail("-20250929".len())
        && date.starts_with(['-', '@'])
        && is_digits(&date[1..])
    {
        return Some(bare);
    }
    let (bare, revision) = tail("-001".len())?;
    (revision.starts_with("-00") && is_digits(&revision[1..])).then_some(bare)
}

#[cfg(test)]
mod tests;
