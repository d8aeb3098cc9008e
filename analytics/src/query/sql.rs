//! A question as SQL. Text and values are kept apart: values are always bound, and every piece of
//! text comes from this file. The two stores differ only in the few functions named in [`Dialect`].

use super::filter::{Comparison, Filter, FilterKey, Operator};
use super::{LogQuery, OrderBy};
use crate::error::Error;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    ClickHouse,
}

/// A value to bind where the text says `?`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Param {
    Text(String),
    Integer(i64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sql {
    pub text: String,
    pub params: Vec<Param>,
}

const MAX_PER_PAGE: u32 = 1_000;

const SEARCHED: [&str; 8] = [
    "id",
    "event_id",
    "provider",
    "model",
    "path",
    "error_code",
    "metadata",
    "user_agent",
];

/// The `WHERE` part for everything a question asks of an attempt row.
pub(crate) fn conditions(dialect: Dialect, query: &LogQuery) -> Result<Sql, Error> {
    let mut builder = Builder {
        dialect,
        text: String::new(),
        params: Vec::new(),
    };
    builder.text.push_str("account = ");
    builder.bind_text(&query.account);
    builder.text.push_str(" AND gateway = ");
    builder.bind_text(&query.gateway);
    builder.text.push_str(" AND collect = 1");
    if let Some(after) = &query.after_id {
        builder.text.push_str(" AND id > ");
        builder.bind_text(after);
    }
    if let Some(search) = query.search.as_deref().filter(|search| !search.is_empty()) {
        builder.text.push_str(" AND ");
        builder.any(SEARCHED.iter(), |builder, column| {
            builder.contains_ignoring_case(column, search)
        });
    }
    builder.filters(&query.filters)?;
    Ok(Sql {
        text: builder.text,
        params: builder.params,
    })
}

/// Order and page, to stand behind the conditions.
pub(crate) fn order_and_page(query: &LogQuery) -> String {
    let direction = if query.descending { "DESC" } else { "ASC" };
    let order = match query.order_by {
        OrderBy::CreatedAt => format!("created_at {direction}, id {direction}"),
        other => format!("{} {direction}, created_at DESC, id DESC", other.column()),
    };
    let per_page = query.per_page.clamp(1, MAX_PER_PAGE);
    let offset = u64::from(query.page.saturating_sub(1)) * u64::from(per_page);
    format!("ORDER BY {order} LIMIT {per_page} OFFSET {offset}")
}

/// Count, then smallest and largest of each extent, in the order of `Extents`.
pub(crate) fn totals() -> String {
    let total = "coalesce(tokens_in, 0) + coalesce(tokens_out, 0)";
    let extents = ["cost_pico", "duration_us", "tokens_in", "tokens_out", total]
        .map(|value| format!("coalesce(min({value}), 0), coalesce(max({value}), 0)"));
    format!("count(*), {}", extents.join(", "))
}

struct Builder {
    dialect: Dialect,
    text: String,
    params: Vec<Param>,
}

impl Builder {
    fn bind_text(&mut self, value: &str) {
        self.text.push('?');
        self.params.push(Param::Text(value.to_string()));
    }

    fn filters(&mut self, filters: &[Filter]) -> Result<(), Error> {
        let mut rest = filters;
        while let Some((filter, mut behind)) = rest.split_first() {
            self.text.push_str(" AND ");
            if filter.values.is_empty() {
                return Err(Error::Query(format!(
                    "the filter on `{}` has no value",
                    filter.key.name()
                )));
            }
            match filter.key.comparison() {
                Comparison::MetadataKey => {
                    let value = behind
                        .first()
                        .filter(|next| next.key == FilterKey::MetadataValue);
                    let is_pair = filter.operator == Operator::Eq
                        && value.is_some_and(|next| !next.values.is_empty());
                    self.metadata(Some(filter), value.filter(|_| is_pair));
                    if is_pair {
                        behind = &behind[1..];
                    }
                }
                Comparison::MetadataValue => self.metadata(None, Some(filter)),
                Comparison::Text => {
                    self.text_condition(column(self.dialect, filter.key), filter, filter.operator)
                }
                _ => self.integer_condition(filter)?,
            }
            rest = behind;
        }
        Ok(())
    }

    fn text_condition(&mut self, expression: &str, filter: &Filter, operator: Operator) {
        self.each_value(filter, operator, |builder, value| match operator {
            Operator::Contains => {
                let function = match builder.dialect {
                    Dialect::Sqlite => "instr",
                    Dialect::ClickHouse => "position",
                };
                builder.text.push_str(&format!("{function}({expression}, "));
                builder.bind_text(value);
                builder.text.push_str(") > 0");
            }
            _ => {
                builder
                    .text
                    .push_str(&format!("{expression} {} ", symbol(operator)));
                builder.bind_text(value);
            }
        });
    }

    fn integer_condition(&mut self, filter: &Filter) -> Result<(), Error> {
        if filter.operator == Operator::Contains {
            return Err(Error::Query(format!(
                "`contains` compares text, and `{}` is none",
                filter.key.name()
            )));
        }
        let numbers: Result<Vec<i64>, Error> = filter
            .values
            .iter()
            .map(|value| filter.integer(value))
            .collect();
        let mut numbers = numbers?.into_iter();
        let expression = column(self.dialect, filter.key);
        let is_clickhouse_time =
            self.dialect == Dialect::ClickHouse && filter.key.comparison() == Comparison::Time;
        let placeholder = if is_clickhouse_time {
            "fromUnixTimestamp64Micro(?, 'UTC')"
        } else {
            "?"
        };
        self.each_value(filter, filter.operator, |builder, _| {
            builder.text.push_str(&format!(
                "{expression} {} {placeholder}",
                symbol(filter.operator)
            ));
            builder.params.push(Param::Integer(
                numbers.next().expect("a number for each value"),
            ));
        });
        Ok(())
    }

    /// A condition on one metadata entry: its key, its value, or both of the same entry.
    fn metadata(&mut self, key: Option<&Filter>, value: Option<&Filter>) {
        // "neq" alone asks that no such entry exists.
        let alone = key
            .xor(value)
            .filter(|filter| filter.operator == Operator::Neq);
        let effective = |filter: &Filter| {
            if alone.is_some() {
                Operator::Eq
            } else {
                filter.operator
            }
        };
        let (open, entry_key, entry_value, close) = match self.dialect {
            Dialect::Sqlite => (
                "EXISTS (SELECT 1 FROM json_each(CASE WHEN json_valid(metadata) THEN metadata ELSE '{}' END) AS entry WHERE ",
                "entry.key",
                "CASE entry.type WHEN 'true' THEN 'true' WHEN 'false' THEN 'false' WHEN 'null' THEN 'null' ELSE CAST(entry.value AS TEXT) END",
                ")",
            ),
            Dialect::ClickHouse => (
                "arrayExists(entry -> ",
                "entry",
                "if(JSONType(metadata, entry) = 'String', JSONExtractString(metadata, entry), JSONExtractRaw(metadata, entry))",
                ", JSONExtractKeys(metadata))",
            ),
        };
        if alone.is_some() {
            self.text.push_str("NOT ");
        }
        self.text.push_str(open);
        if let Some(filter) = key {
            self.text_condition(entry_key, filter, effective(filter));
        }
        if key.is_some() && value.is_some() {
            self.text.push_str(" AND ");
        }
        if let Some(filter) = value {
            self.text_condition(entry_value, filter, effective(filter));
        }
        self.text.push_str(close);
    }

    fn contains_ignoring_case(&mut self, column: &str, needle: &str) {
        let (open, close) = match self.dialect {
            Dialect::Sqlite => (format!("instr(lower({column}), lower("), ")) > 0"),
            Dialect::ClickHouse => (format!("positionCaseInsensitive({column}, "), ") > 0"),
        };
        self.text.push_str(&open);
        self.bind_text(needle);
        self.text.push_str(close);
    }

    fn each_value(
        &mut self,
        filter: &Filter,
        operator: Operator,
        mut write: impl FnMut(&mut Self, &str),
    ) {
        let joint = if operator == Operator::Neq {
            " AND "
        } else {
            " OR "
        };
        self.joined(filter.values.iter(), joint, |builder, value| {
            write(builder, value)
        });
    }

    fn any<'a>(
        &mut self,
        items: impl Iterator<Item = &'a &'a str>,
        mut write: impl FnMut(&mut Self, &str),
    ) {
        self.joined(items, " OR ", |builder, item| write(builder, item));
    }

    fn joined<T>(
        &mut self,
        items: impl Iterator<Item = T>,
        joint: &str,
        mut write: impl FnMut(&mut Self, T),
    ) {
        self.text.push('(');
        for (index, item) in items.enumerate() {
            if index > 0 {
                self.text.push_str(joint);
            }
            write(self, item);
        }
        self.text.push(')');
    }
}

fn symbol(operator: Operator) -> &'static str {
    match operator {
        Operator::Eq | Operator::Contains => "=",
        Operator::Neq => "<>",
        Operator::Lt => "<",
        Operator::Gt => ">",
    }
}

/// The expression a key compares; metadata has its own way.
fn column(dialect: Dialect, key: FilterKey) -> &'static str {
    let is_clickhouse = dialect == Dialect::ClickHouse;
    match key {
        FilterKey::Cost => "cost_pico",
        FilterKey::Tokens => "(coalesce(tokens_in, 0) + coalesce(tokens_out, 0))",
        FilterKey::Duration if is_clickhouse => "intDiv(duration_us, 1000)",
        FilterKey::Duration => "(duration_us / 1000)",
        FilterKey::Feedback if is_clickhouse => "CAST(NULL AS Nullable(Int64))",
        FilterKey::Feedback => "NULL",
        FilterKey::Wholesale | FilterKey::CompatibilityMode => "0",
        FilterKey::DlpAction => "''",
        FilterKey::MetadataKey | FilterKey::MetadataValue => "metadata",
        other => other.name(), // named as its column
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(key: FilterKey, operator: Operator, values: &[&str]) -> Filter {
        Filter {
            key,
            operator,
            values: values.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn values_never_become_text() {
        let evil = "x' OR 1=1 --";
        for key in FilterKey::ALL {
            for dialect in [Dialect::Sqlite, Dialect::ClickHouse] {
                let query = LogQuery {
                    filters: vec![filter(*key, Operator::Eq, &[evil])],
                    search: Some(evil.into()),
                    account: evil.into(),
                    ..LogQuery::default()
                };
                if let Ok(sql) = conditions(dialect, &query) {
                    assert!(!sql.text.contains(evil), "{}", sql.text);
                    assert_eq!(
                        sql.text.matches('?').count(),
                        sql.params.len(),
                        "{}",
                        sql.text
                    );
                }
            }
        }
    }

    #[test]
    fn a_key_and_the_value_behind_it_ask_for_one_entry() {
        let query = LogQuery {
            filters: vec![
                filter(FilterKey::MetadataKey, Operator::Eq, &["team"]),
                filter(FilterKey::MetadataValue, Operator::Eq, &["red", "blue"]),
                filter(FilterKey::MetadataValue, Operator::Eq, &["7"]),
            ],
            ..LogQuery::default()
        };
        let sql = conditions(Dialect::Sqlite, &query).unwrap();
        assert_eq!(sql.text.matches("EXISTS").count(), 2, "{}", sql.text);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (bad, word) in [
            (
                filter(FilterKey::TokensIn, Operator::Contains, &["1"]),
                "contains",
            ),
            (filter(FilterKey::TokensIn, Operator::Eq, &["one"]), "one"),
            (filter(FilterKey::Model, Operator::Eq, &[]), "no value"),
        ] {
            let query = LogQuery {
                filters: vec![bad],
                ..LogQuery::default()
            };
            let error = conditions(Dialect::Sqlite, &query).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_page_far_past_the_end_does_not_overflow() {
        let query = LogQuery {
            page: u32::MAX,
            per_page: u32::MAX,
            ..LogQuery::default()
        };
        assert!(order_and_page(&query).ends_with("LIMIT 1000 OFFSET 4294967294000"));
    }
}
