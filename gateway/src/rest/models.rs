//! `GET .../ai/models/search`, `/ai/models/schema`, `/ai/tasks/search`, `/ai/authors/search`: what the engine offers.
//!
//! The official SDKs ask for one page after another until an empty one comes, so pages are kept exactly.

use http::Method;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::door::writer::ReplyWriter;
use crate::error::{GatewayError, Kind};
use crate::exchange::Exchange;
use crate::identify::shown;
use crate::pipeline::Served;

/// Models of a page at most, and unless asked otherwise.
const MAX_PER_PAGE: usize = 1000;
const PER_PAGE: usize = 100;

pub async fn serve(exchange: &Exchange<'_>, writer: &mut ReplyWriter<'_>, rest: &str) -> Served {
    let sent = match answer(exchange, rest) {
        Ok(body) => super::json(writer, exchange.ids, &body).await,
        Err(error) => super::refuse(writer, exchange.ids, &error).await,
    };
    if sent.is_ok() {
        Served::Sent
    } else {
        Served::Aborted
    }
}

fn answer(exchange: &Exchange<'_>, rest: &str) -> Result<Value, GatewayError> {
    if exchange.incoming.method != Method::GET {
        return Err(GatewayError::new(
            Kind::MethodNotAllowed,
            format!(
                "{} not supported for requested URI.",
                exchange.incoming.method
            ),
        ));
    }
    let query = Query::parse(exchange.incoming.query.as_deref().unwrap_or_default())?;
    told(exchange, rest, &query)
}

#[cfg(not(feature = "local"))]
fn told(_exchange: &Exchange<'_>, _rest: &str, query: &Query) -> Result<Value, GatewayError> {
    Ok(page(Vec::new(), query))
}

#[cfg(feature = "local")]
fn told(exchange: &Exchange<'_>, rest: &str, query: &Query) -> Result<Value, GatewayError> {
    use crate::backend::local::listing::{self, Listed};

    let local = exchange.app.local();
    // A name may be asked about before it is offered.
    let all = query.include_deprecated || rest == "models/schema";
    let list = local.map_or_else(Vec::new, |local| local.listing(all));
    match rest {
        "models/search" => {
            let wanted: Vec<&Listed> = list.iter().filter(|model| query.wants(model)).collect();
            if query.is_openrouter {
                let data: Vec<Value> = wanted.iter().map(|model| model.openrouter()).collect();
                return Ok(json!({"data": data}));
            }
            Ok(page(
                wanted.iter().map(|model| model.native()).collect(),
                query,
            ))
        }
        "models/schema" => {
            let name = query.model.as_deref().unwrap_or_default();
            let mut models = list.iter();
            let model = models.find(|model| model.is_called(name));
            let model = model.ok_or_else(|| {
                let message = format!("No such model: `{}`", shown(name));
                GatewayError::new(Kind::NotFound, message)
            })?;
            Ok(envelope(model.schema()))
        }
        "tasks/search" => {
            let tasks = listing::TASKS.into_iter();
            let tasks = tasks.filter(|task| list.iter().any(|model| model.task() == *task));
            Ok(envelope(tasks.map(listing::describe).collect()))
        }
        _ => {
            let mut authors: Vec<&str> = list.iter().map(Listed::author).collect();
            authors.sort_unstable();
            authors.dedup();
            let named = authors.into_iter().map(|name| json!({"name": name}));
            Ok(envelope(named.collect()))
        }
    }
}

fn envelope(result: Value) -> Value {
    json!({"success": true, "result": result, "errors": [], "messages": []})
}

fn page(mut list: Vec<Value>, query: &Query) -> Value {
    let total = list.len();
    let first = (query.page - 1).saturating_mul(query.per_page).min(total);
    let end = first.saturating_add(query.per_page).min(total);
    let result: Vec<Value> = list.drain(first..end).collect();
    let info = json!({
        "count": result.len(), "page": query.page, "per_page": query.per_page, "total_count": total,
    });
    let mut answer = envelope(Value::Array(result));
    answer["result_info"] = info;
    answer
}

/// What the query string asks for. Parameters nobody knows are ignored.
#[derive(Debug, PartialEq, Eq)]
struct Query {
    page: usize,
    per_page: usize,
    author: Option<String>,
    search: Option<String>,
    source: Option<String>,
    task: Option<String>,
    model: Option<String>,
    hide_experimental: bool,
    include_deprecated: bool,
    is_openrouter: bool,
}

impl Query {
    fn parse(text: &str) -> Result<Query, GatewayError> {
        let mut query = Query {
            page: 1,
            per_page: PER_PAGE,
            author: None,
            search: None,
            source: None,
            task: None,
            model: None,
            hide_experimental: false,
            include_deprecated: false,
            is_openrouter: false,
        };
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = value.replace('+', " ");
            let value = percent_decode_str(&value)
                .decode_utf8()
                .map_err(|_| bad(format!("query/{}: not UTF-8", shown(name))))?;
            let text = || Some(value.to_string()).filter(|text| !text.is_empty());
            match name {
                "page" => query.page = number(name, &value, usize::MAX)?,
                "per_page" => query.per_page = number(name, &value, MAX_PER_PAGE)?,
                "author" => query.author = text(),
                "search" => query.search = text().map(|text| text.to_lowercase()),
                "source" => query.source = text(),
                "task" => query.task = text(),
                "model" => query.model = text(),
                "hide_experimental" => query.hide_experimental = value == "true",
                "include_deprecated" => query.include_deprecated = value == "true",
                "format" => query.is_openrouter = value == "openrouter",
                _ => {}
            }
        }
        Ok(query)
    }

    #[cfg(feature = "local")]
    fn wants(&self, model: &crate::backend::local::listing::Listed) -> bool {
        let is = |wanted: &Option<String>, test: &dyn Fn(&str) -> bool| {
            wanted.as_deref().is_none_or(test)
        };
        !(self.hide_experimental && model.is_experimental())
            && is(&self.author, &|author| {
                author.eq_ignore_ascii_case(model.author())
            })
            && is(&self.source, &|source| source == model.source().to_string())
            && is(&self.task, &|task| {
                crate::backend::local::listing::is_task(model.task(), task)
            })
            && is(&self.search, &|text| {
                model.name().to_lowercase().contains(text)
                    || model.description().to_lowercase().contains(text)
            })
    }
}

fn number(name: &str, value: &str, most: usize) -> Result<usize, GatewayError> {
    let number = value.parse().ok().filter(|number| *number >= 1);
    let number: usize = number.ok_or_else(|| {
        bad(format!(
            "query/{name}: `{}` is not a number from 1 on",
            shown(value)
        ))
    })?;
    Ok(number.min(most))
}

fn bad(message: String) -> GatewayError {
    GatewayError::new(Kind::BadRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_end_with_an_empty_one() {
        let list: Vec<Value> = (0..5).map(Value::from).collect();
        let told = |text: &str| {
            let query = Query::parse(text).expect("valid");
            let answer = page(list.clone(), &query);
            (
                answer["result"].clone(),
                answer["result_info"]["count"].clone(),
            )
        };
        assert_eq!(told("per_page=2"), (json!([0, 1]), json!(2)));
        assert_eq!(told("per_page=2&page=3"), (json!([4]), json!(1)));
        assert_eq!(told("per_page=2&page=4"), (json!([]), json!(0)));
        assert_eq!(told("page=2"), (json!([]), json!(0)));
        assert_eq!(told("page=99999999999999999"), (json!([]), json!(0)));
    }

    #[test]
    fn parameters_are_read_as_clients_write_them() {
        let query = Query::parse(
            "task=Text+Generation&search=Llama%203&model=%40cf%2Fa%2Fb&unknown=1&format=openrouter",
        );
        let query = query.expect("valid");
        assert_eq!(query.task.as_deref(), Some("Text Generation"));
        assert_eq!(query.search.as_deref(), Some("llama 3"));
        assert_eq!(query.model.as_deref(), Some("@cf/a/b"));
        assert!(query.is_openrouter);
        assert!(Query::parse("page=0").is_err() && Query::parse("per_page=x").is_err());
    }
}
