//! Questions about records, typed. How they are written on the wire is the gateway's business; how
//! they become SQL is in `sql.rs`, once for both stores.

mod filter;
pub(crate) mod sql;

pub use filter::{Filter, FilterKey, Operator};

use crate::record::AttemptRow;

/// A page of attempt rows of one gateway.
#[derive(Debug, Clone, PartialEq)]
pub struct LogQuery {
    pub account: String,
    pub gateway: String,
    /// From 1. A page past the end is empty, not an error.
    pub page: u32,
    pub per_page: u32,
    pub order_by: OrderBy,
    pub descending: bool,
    /// All of them must hold.
    pub filters: Vec<Filter>,
    /// Found, without regard to ASCII case, in id, event id, provider, model, path, error code,
    /// metadata or user agent.
    pub search: Option<String>,
    /// Only rows whose id sorts behind this one. Ids follow the start of an attempt, so a row that
    /// took long may show up behind this mark late.
    pub after_id: Option<String>,
    /// Also ask for the smallest and largest values among all rows that match.
    pub with_extents: bool,
}

impl Default for LogQuery {
    fn default() -> Self {
        LogQuery {
            account: "default".into(),
            gateway: "default".into(),
            page: 1,
            per_page: 20,
            order_by: OrderBy::CreatedAt,
            descending: true,
            filters: Vec::new(),
            search: None,
            after_id: None,
            with_extents: false,
        }
    }
}

/// Rows that are equal in the chosen column come newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderBy {
    CreatedAt,
    Provider,
    Model,
    ModelType,
    Success,
    Cached,
}

impl OrderBy {
    /// The order a name of the logs API stands for.
    pub fn parse(name: &str) -> Option<OrderBy> {
        Some(match name {
            "created_at" => OrderBy::CreatedAt,
            "provider" => OrderBy::Provider,
            "model" => OrderBy::Model,
            "model_type" => OrderBy::ModelType,
            "success" => OrderBy::Success,
            "cached" => OrderBy::Cached,
            _ => return None,
        })
    }

    pub(crate) fn column(self) -> &'static str {
        match self {
            OrderBy::CreatedAt => "created_at",
            OrderBy::Provider => "provider",
            OrderBy::Model => "model",
            OrderBy::ModelType => "model_type",
            OrderBy::Success => "success",
            OrderBy::Cached => "cached",
        }
    }
}

/// What a [`LogQuery`] found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LogPage {
    /// Without bodies.
    pub rows: Vec<AttemptRow>,
    /// Rows on all pages.
    pub total_count: u64,
    pub extents: Option<Extents>,
}

/// Smallest and largest value among the rows that match; zeros when there are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extents {
    pub cost_pico: Extent,
    pub duration_us: Extent,
    pub tokens_in: Extent,
    pub tokens_out: Extent,
    pub total_tokens: Extent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extent {
    pub min: i64,
    pub max: i64,
}
