//! `/ai/finetunes`: callers' own LoRA adapters, as the original has them, and what it lacks (get, delete, replace).
//!
//! | call | does |
//! | --- | --- |
//! | `POST finetunes` | makes one, still without files |
//! | `GET finetunes` | lists the account's own |
//! | `GET finetunes/public` | lists those every account may use |
//! | `GET`, `DELETE finetunes/{id or name}` | shows or removes one |
//! | `POST`, `PUT finetunes/{id or name}/finetune-assets` | takes its files, in one call or two, and later ones in their place |

mod assets;
mod multipart;

use std::sync::Arc;

use http::Method;
use local_inference::CatalogueEntry;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

use crate::backend::local::Local;
use crate::door::intake::{self, BodyLimits};
use crate::door::writer::ReplyWriter;
use crate::error::{GatewayError, Kind};
use crate::exchange::Exchange;
use crate::finetunes::{FileKind, Finetune, FinetuneError, Finetunes, NewFinetune, hex};
use crate::identify::shown;
use crate::pipeline::Served;

/// Bytes of the description of a fine-tune to be made.
const MAX_BODY_BYTES: u64 = 64 * 1024;
/// Public fine-tunes of a page, unless asked otherwise and at most.
const PER_PAGE: usize = 100;
const MAX_PER_PAGE: usize = 1000;

pub async fn serve(exchange: &Exchange<'_>, writer: &mut ReplyWriter<'_>, rest: &str) -> Served {
    let sent = match answer(exchange, writer, rest).await {
        Ok(result) => {
            let body = json!({"success": true, "result": result, "errors": [], "messages": []});
            super::json(writer, exchange.ids, &body).await
        }
        Err(error) => {
            if !error.private.is_empty() {
                tracing::error!(%error, "the fine-tunes' store failed");
            }
            // What is left of an unread body would be taken for the next request.
            writer.session().set_keepalive(None);
            super::refuse(writer, exchange.ids, &error).await
        }
    };
    if sent.is_ok() {
        Served::Sent
    } else {
        Served::Aborted
    }
}

async fn answer(
    exchange: &Exchange<'_>,
    writer: &mut ReplyWriter<'_>,
    rest: &str,
) -> Result<Value, GatewayError> {
    let Some(local) = exchange.app.local() else {
        return Err(GatewayError::new(
            Kind::UnknownModel,
            "no engine runs here (`engine.enabled` is false), so there is nothing to put adapters on",
        ));
    };
    let segments = segments(rest)?;
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let method = &exchange.incoming.method;
    match (method, &segments[..]) {
        (&Method::GET, []) => Ok(list(exchange, local)),
        (&Method::POST, []) => create(exchange, writer, local).await,
        (&Method::GET, ["public"]) => public(exchange, local),
        (&Method::GET, [name]) => Ok(told(&*own(exchange, local, name)?)),
        (&Method::DELETE, [name]) => {
            let finetune = own(exchange, local, name)?;
            let id = Arc::clone(&finetune.id);
            blocking(local, move |finetunes| finetunes.delete(&finetune)).await?;
            Ok(json!({"id": *id}))
        }
        (&Method::POST | &Method::PUT, [name, "finetune-assets"]) => {
            let finetune = own(exchange, local, name)?;
            Ok(told(
                &*assets::take(exchange, writer, local, finetune).await?,
            ))
        }
        (_, [] | ["public"] | [_] | [_, "finetune-assets"]) => Err(GatewayError::new(
            Kind::MethodNotAllowed,
            format!("{method} not supported for requested URI."),
        )),
        _ => Err(GatewayError::new(Kind::NoRoute, "No route for that URI")),
    }
}

/// What follows `finetunes`, decoded.
fn segments(rest: &str) -> Result<Vec<String>, GatewayError> {
    let rest = rest.trim_start_matches("finetunes").trim_matches('/');
    let parts = rest.split('/').filter(|part| !part.is_empty());
    let decoded = parts.map(|part| {
        let text = percent_decode_str(part).decode_utf8();
        let text = text.map_err(|_| {
            GatewayError::new(
                Kind::BadRequest,
                "a fine-tune's name in the path is not valid UTF-8",
            )
        })?;
        Ok(text.into_owned())
    });
    decoded.collect()
}

/// Runs what waits for the disk away from the async threads.
async fn blocking<T: Send + 'static>(
    local: &Arc<Local>,
    work: impl FnOnce(&Finetunes) -> Result<T, FinetuneError> + Send + 'static,
) -> Result<T, GatewayError> {
    let finetunes = Arc::clone(local.finetunes());
    let done = tokio::task::spawn_blocking(move || work(&finetunes)).await;
    let done = done.map_err(|error| {
        GatewayError::new(Kind::Internal, "internal server error").private(error)
    })?;
    Ok(done?)
}

fn own(
    exchange: &Exchange<'_>,
    local: &Local,
    id_or_name: &str,
) -> Result<Arc<Finetune>, GatewayError> {
    let set = local.finetunes().load();
    let found = set.own(&exchange.place.gateway.account, id_or_name);
    let found = found.ok_or_else(|| FinetuneError::NotFound(shown(id_or_name)))?;
    Ok(Arc::clone(found))
}

fn list(exchange: &Exchange<'_>, local: &Local) -> Value {
    let set = local.finetunes().load();
    let own = set.of_account(&exchange.place.gateway.account).iter();
    own.map(|finetune| told(finetune)).collect()
}

fn public(exchange: &Exchange<'_>, local: &Local) -> Result<Value, GatewayError> {
    let page = Page::parse(exchange.incoming.query.as_deref().unwrap_or_default())?;
    let set = local.finetunes().load();
    let mut list = set.public().to_vec();
    page.order.sort(&mut list);
    if page.is_descending {
        list.reverse();
    }
    let list = list.iter().skip(page.offset).take(page.limit);
    Ok(list.map(|finetune| told(finetune)).collect())
}

async fn create(
    exchange: &Exchange<'_>,
    writer: &mut ReplyWriter<'_>,
    local: &Arc<Local>,
) -> Result<Value, GatewayError> {
    let limits = BodyLimits {
        max_bytes: MAX_BODY_BYTES.min(exchange.config.server.max_body_bytes as u64),
        timeout: exchange.config.server.body_read_timeout,
    };
    let announced = intake::check_announced(exchange.incoming, limits)?;
    intake::welcome_body(writer.session(), exchange.incoming).await?;
    let body = intake::read_body(writer.session(), limits, announced).await?;
    let bad = |text: String| GatewayError::new(Kind::BadRequest, text);
    let fields: Map<String, Value> = serde_json::from_slice(&body).map_err(|error| {
        bad(format!(
            "send a JSON object with `model` and `name`: {error}"
        ))
    })?;
    let text = |field: &str| match fields.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(bad(format!("`{field}` is a text, got {other}"))),
    };
    let needed = |field: &str| text(field)?.ok_or_else(|| bad(format!("`{field}` is missing")));
    let is_public = match fields.get("public") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(is_public)) => *is_public,
        Some(other) => return Err(bad(format!("`public` is true or false, got {other}"))),
    };
    let new = NewFinetune {
        account: Arc::clone(&exchange.place.gateway.account),
        model: base(local, &needed("model")?)?.id.to_string(),
        name: needed("name")?,
        description: text("description")?.unwrap_or_default(),
        is_public,
    };
    let limits = exchange.config.finetunes;
    let made = blocking(local, move |finetunes| finetunes.create(&new, &limits)).await?;
    Ok(told(&made))
}

/// The model an adapter is to be put on.
fn base(local: &Local, name: &str) -> Result<&'static CatalogueEntry, FinetuneError> {
    let name = name.strip_prefix("workers-ai/").unwrap_or(name);
    if let Some(entry) = local.base(name) {
        return Ok(entry);
    }
    if local.offers(name) {
        return Err(FinetuneError::NoAdapters(shown(name)));
    }
    let offered: Vec<&str> = local.bases().map(|entry| &*entry.id).collect();
    Err(FinetuneError::UnknownModel {
        model: shown(name),
        offered: match offered.is_empty() {
            true => "none that takes adapters (`engine.models`)".to_owned(),
            false => offered.join(", "),
        },
    })
}

fn told(finetune: &Finetune) -> Value {
    let time = |us: i64| {
        let time = jiff::Timestamp::from_microsecond(us);
        time.map_or(Value::Null, |time| json!(time.to_string()))
    };
    let files = FileKind::ALL.into_iter().filter_map(|kind| {
        let asset = finetune.asset(kind)?;
        Some(json!({"file_name": kind.name(), "bytes": asset.bytes, "sha256": hex(asset.hash)}))
    });
    json!({
        "id": *finetune.id,
        "name": *finetune.name,
        "model": *finetune.model,
        "description": *finetune.description,
        "public": finetune.is_public,
        "created_at": time(finetune.created_at_us),
        "modified_at": time(finetune.modified_at_us),
        "rank": finetune.rank,
        "files": files.collect::<Vec<Value>>(),
    })
}

/// Which of the public ones are asked for.
#[derive(Debug, PartialEq, Eq)]
struct Page {
    limit: usize,
    offset: usize,
    order: Order,
    is_descending: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    CreatedAt,
    ModifiedAt,
    Name,
    Model,
}

impl Order {
    fn parse(word: &str) -> Option<Order> {
        match word {
            "created_at" => Some(Order::CreatedAt),
            "modified_at" => Some(Order::ModifiedAt),
            "name" => Some(Order::Name),
            "model" => Some(Order::Model),
            _ => None,
        }
    }

    fn sort(self, list: &mut [Arc<Finetune>]) {
        match self {
            Order::CreatedAt => list.sort_by_key(|finetune| finetune.created_at_us),
            Order::ModifiedAt => list.sort_by_key(|finetune| finetune.modified_at_us),
            Order::Name => list.sort_by(|a, b| a.name.cmp(&b.name)),
            Order::Model => list.sort_by(|a, b| a.model.cmp(&b.model)),
        }
    }
}

impl Page {
    fn parse(query: &str) -> Result<Page, GatewayError> {
        let mut page = Page {
            limit: PER_PAGE,
            offset: 0,
            order: Order::CreatedAt,
            is_descending: false,
        };
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let value = value.replace('+', " ");
            let value = percent_decode_str(&value).decode_utf8_lossy();
            let bad = |what: &str| {
                let text = format!("`{name}` is {what}, got `{}`", shown(&value));
                GatewayError::new(Kind::BadRequest, text)
            };
            let count = || {
                value
                    .parse::<usize>()
                    .map_err(|_| bad("a number from 0 on"))
            };
            match name {
                "limit" => page.limit = count()?.min(MAX_PER_PAGE),
                "offset" => page.offset = count()?,
                "orderBy" => {
                    let (word, direction) = value.split_once(' ').unwrap_or((&value, "asc"));
                    let order = Order::parse(word);
                    page.order = order.ok_or_else(|| {
                        bad("one of created_at, modified_at, name, model, perhaps with ` desc`")
                    })?;
                    page.is_descending = match direction.to_ascii_lowercase().as_str() {
                        "asc" => false,
                        "desc" => true,
                        _ => return Err(bad("a field, perhaps with ` asc` or ` desc`")),
                    };
                }
                _ => {}
            }
        }
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_read_and_wrong_ones_refused() {
        let page = Page::parse("limit=5&offset=2&orderBy=name%20desc&x=1").unwrap();
        let expected = Page {
            limit: 5,
            offset: 2,
            order: Order::Name,
            is_descending: true,
        };
        assert_eq!(page, expected);
        assert_eq!(Page::parse("").unwrap().limit, PER_PAGE);
        assert_eq!(Page::parse("limit=99999").unwrap().limit, MAX_PER_PAGE);
        for (query, expected) in [
            ("limit=-1", "`limit` is a number from 0 on, got `-1`"),
            ("orderBy=rank", "`orderBy` is one of created_at"),
            ("orderBy=name+up", "perhaps with ` asc`"),
        ] {
            let error = Page::parse(query).unwrap_err();
            assert!(error.message.contains(expected), "{}", error.message);
        }
    }

    #[test]
    fn paths_are_cut_and_decoded() {
        assert!(segments("finetunes").unwrap().is_empty());
        assert!(segments("finetunes/").unwrap().is_empty());
        assert_eq!(
            segments("finetunes/my%20tune/finetune-assets").unwrap(),
            ["my tune", "finetune-assets"]
        );
        assert!(segments("finetunes/%ff").is_err());
    }
}
