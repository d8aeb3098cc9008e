//! Query string → `LogQuery`, in every way clients write filters:
//!
//! - `filters=[{"key":..,"operator":..,"value":[..]}]`, JSON in one parameter;
//! - `filters.key=..&filters.operator=..&filters.value=..` repeated in order, as the official SDKs
//!   send it: each `filters.key` begins a clause;
//! - the older single parameters (`provider=`, `success=`, `min_cost=`, ...).

use analytics::{Filter, FilterKey, LogQuery, Operator, OrderBy};
use percent_encoding::percent_decode_str;
use serde_json::Value;

const MAX_PER_PAGE: u32 = 50;
const MAX_FILTERS: usize = 50;

pub fn parse(account: &str, gateway: &str, query: &str) -> Result<LogQuery, String> {
    let mut parsed = LogQuery {
        account: account.to_owned(),
        gateway: gateway.to_owned(),
        ..LogQuery::default()
    };
    let mut clauses = Clauses::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decode(name)?, decode(value)?);
        match name.as_str() {
            "page" => parsed.page = number(&name, &value, 1, u32::MAX)?,
            "per_page" => parsed.per_page = number(&name, &value, 1, MAX_PER_PAGE)?,
            "order_by" => {
                parsed.order_by = OrderBy::parse(&value).ok_or_else(|| {
                    format!("query/order_by: `{value}` is not a column to order by")
                })?;
            }
            "order_by_direction" | "direction" => {
                parsed.descending = match value.as_str() {
                    "desc" => true,
                    "asc" => false,
                    _ => return Err(format!("query/{name}: `{value}` is neither asc nor desc")),
                };
            }
            "search" => parsed.search = Some(value).filter(|text| !text.is_empty()),
            "meta_info" => parsed.with_extents = value == "true",
            "after_id" => parsed.after_id = Some(value),
            "filters" => clauses.json(&value)?,
            "filters.key" => clauses.begin(&value)?,
            "filters.operator" => clauses.operator(&value)?,
            "filters.value" => clauses.value(value)?,
            _ => clauses.single(&name, value)?,
        }
    }
    parsed.filters = clauses.end()?;
    Ok(parsed)
}

#[derive(Default)]
struct Clauses {
    done: Vec<Filter>,
    open: Option<(FilterKey, Option<Operator>, Vec<String>)>,
}

impl Clauses {
    fn json(&mut self, text: &str) -> Result<(), String> {
        let list: Vec<Value> =
            serde_json::from_str(text).map_err(|_| "query/filters: Expected array".to_owned())?;
        for (index, clause) in list.iter().enumerate() {
            let text = |name: &str| {
                clause[name]
                    .as_str()
                    .ok_or_else(|| format!("query/filters/{index}/{name}: Required"))
            };
            let values = clause["value"].as_array().ok_or_else(|| {
                format!(
                    "query/filters/{index}/value: Expected array, received {}",
                    kind(&clause["value"])
                )
            })?;
            let key = key(text("key")?)?;
            let operator = operator(text("operator")?)?;
            self.push(Filter {
                key,
                operator,
                values: values.iter().map(plain).collect(),
            })?;
        }
        Ok(())
    }

    fn begin(&mut self, name: &str) -> Result<(), String> {
        self.close()?;
        self.open = Some((key(name)?, None, Vec::new()));
        Ok(())
    }

    fn operator(&mut self, name: &str) -> Result<(), String> {
        let open = self
            .open
            .as_mut()
            .ok_or("query/filters.operator: no filters.key before it")?;
        open.1 = Some(operator(name)?);
        Ok(())
    }

    fn value(&mut self, value: String) -> Result<(), String> {
        let open = self
            .open
            .as_mut()
            .ok_or("query/filters.value: no filters.key before it")?;
        open.2.push(value);
        Ok(())
    }

    /// The older one-parameter filters. Names nobody knows are passed over.
    fn single(&mut self, name: &str, value: String) -> Result<(), String> {
        let (key, operator) = match name {
            "success" => (FilterKey::Success, Operator::Eq),
            "cached" => (FilterKey::Cached, Operator::Eq),
            "provider" => (FilterKey::Provider, Operator::Eq),
            "model" => (FilterKey::Model, Operator::Eq),
            "model_type" => (FilterKey::ModelType, Operator::Eq),
            "request_content_type" => (FilterKey::RequestContentType, Operator::Eq),
            "response_content_type" => (FilterKey::ResponseContentType, Operator::Eq),
            "start_date" => (FilterKey::CreatedAt, Operator::Gt),
            "end_date" => (FilterKey::CreatedAt, Operator::Lt),
            "min_cost" => (FilterKey::Cost, Operator::Gt),
            "max_cost" => (FilterKey::Cost, Operator::Lt),
            "min_duration" => (FilterKey::Duration, Operator::Gt),
            "max_duration" => (FilterKey::Duration, Operator::Lt),
            "min_tokens_in" => (FilterKey::TokensIn, Operator::Gt),
            "max_tokens_in" => (FilterKey::TokensIn, Operator::Lt),
            "min_tokens_out" => (FilterKey::TokensOut, Operator::Gt),
            "max_tokens_out" => (FilterKey::TokensOut, Operator::Lt),
            "min_total_tokens" => (FilterKey::Tokens, Operator::Gt),
            "max_total_tokens" => (FilterKey::Tokens, Operator::Lt),
            _ => return Ok(()),
        };
        self.push(Filter {
            key,
            operator,
            values: vec![value],
        })
    }

    fn close(&mut self) -> Result<(), String> {
        let Some((key, operator, values)) = self.open.take() else {
            return Ok(());
        };
        let operator =
            operator.ok_or_else(|| format!("query/filters: `{}` has no operator", key.name()))?;
        self.push(Filter {
            key,
            operator,
            values,
        })
    }

    fn push(&mut self, filter: Filter) -> Result<(), String> {
        if self.done.len() >= MAX_FILTERS {
            return Err(format!("query/filters: more than {MAX_FILTERS}"));
        }
        self.done.push(filter);
        Ok(())
    }

    fn end(mut self) -> Result<Vec<Filter>, String> {
        self.close()?;
        Ok(self.done)
    }
}

fn key(name: &str) -> Result<FilterKey, String> {
    FilterKey::parse(name).ok_or_else(|| {
        format!(
            "query/filters: `{}` is not a key to filter by",
            crate::identify::shown(name)
        )
    })
}

fn operator(name: &str) -> Result<Operator, String> {
    Operator::parse(name).ok_or_else(|| {
        format!(
            "query/filters: `{}` is none of eq, neq, contains, lt, gt",
            crate::identify::shown(name)
        )
    })
}

fn number(name: &str, value: &str, min: u32, max: u32) -> Result<u32, String> {
    let number: u32 = value
        .parse()
        .map_err(|_| format!("query/{name}: Expected number, received `{value}`"))?;
    if !(min..=max).contains(&number) {
        return Err(format!(
            "query/{name}: {number} is not between {min} and {max}"
        ));
    }
    Ok(number)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "undefined",
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "boolean",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn decode(text: &str) -> Result<String, String> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced)
        .decode_utf8()
        .map_err(|_| "the query is not valid UTF-8".to_owned())?;
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(query: &str) -> Vec<(FilterKey, Operator, Vec<String>)> {
        let parsed = parse("a", "g", query).expect(query);
        parsed
            .filters
            .into_iter()
            .map(|f| (f.key, f.operator, f.values))
            .collect()
    }

    #[test]
    fn both_encodings_mean_the_same() {
        let json = "filters=%5B%7B%22key%22%3A%22provider%22%2C%22operator%22%3A%22eq%22%2C%22value%22%3A%5B%22openai%22%2C%22anthropic%22%5D%7D%2C%7B%22key%22%3A%22cost%22%2C%22operator%22%3A%22gt%22%2C%22value%22%3A%5B1%5D%7D%5D";
        let dotted = "filters.key=provider&filters.operator=eq&filters.value=openai&filters.value=anthropic&filters.key=cost&filters.operator=gt&filters.value=1";
        assert_eq!(filters(json), filters(dotted));
        assert_eq!(filters(json).len(), 2);
    }

    #[test]
    fn faults_name_their_place() {
        for (query, says) in [
            ("per_page=51", "query/per_page"),
            ("page=x", "Expected number"),
            ("order_by=cost", "query/order_by"),
            (
                "filters=%5B%7B%22key%22%3A%22model%22%2C%22operator%22%3A%22eq%22%2C%22value%22%3A%22x%22%7D%5D",
                "Expected array, received string",
            ),
            ("filters.value=1", "no filters.key"),
            ("filters.key=nope", "`nope` is not a key"),
        ] {
            let error = parse("a", "g", query).expect_err(query);
            assert!(error.contains(says), "{query}: {error}");
        }
    }
}
