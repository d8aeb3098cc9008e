//! `GET .../logs`, `/logs/{id}`, `/logs/{id}/request`, `/logs/{id}/response`.

use analytics::{AttemptRow, LogPage};
use serde_json::{Value, json};

use super::logs_query;
use crate::auth::{self, Permission, Presented};
use crate::door::writer::{Gone, ReplyWriter};
use crate::error::{GatewayError, Kind};
use crate::exchange::Exchange;
use crate::pipeline::Served;

/// Most of a body that the detail shows.
const HEAD_BYTES: usize = 4096;
const PICO_PER_USD: f64 = 1e12;

pub async fn serve(exchange: &Exchange<'_>, writer: &mut ReplyWriter<'_>, rest: &str) -> Served {
    let sent = match answer(exchange, writer, rest).await {
        Ok(sent) => sent,
        Err(error) => {
            if !error.private.is_empty() {
                tracing::warn!(%error, "the log store did not answer");
            }
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
) -> Result<Result<(), Gone>, GatewayError> {
    if exchange.incoming.method != http::Method::GET {
        let message = format!(
            "{} is not served here yet; GET lists and shows logs",
            exchange.incoming.method
        );
        return Err(GatewayError::new(Kind::MethodNotAllowed, message));
    }
    let mut segments = rest.split('/').filter(|segment| !segment.is_empty());
    match (segments.next(), segments.next(), segments.next()) {
        (None, ..) => list(exchange, writer).await,
        (Some(id), None, _) => detail(exchange, writer, id).await,
        (Some(id), Some(which @ ("request" | "response")), None) => {
            body(exchange, writer, id, which).await
        }
        _ => Err(GatewayError::new(Kind::NoRoute, "No route for that URI")),
    }
}

async fn list(
    exchange: &Exchange<'_>,
    writer: &mut ReplyWriter<'_>,
) -> Result<Result<(), Gone>, GatewayError> {
    let gateway = &exchange.place.gateway;
    let query_string = exchange.incoming.query.as_deref().unwrap_or("");
    let query = logs_query::parse(&gateway.account, &gateway.id, query_string)
        .map_err(|message| GatewayError::new(Kind::BadRequest, message))?;
    let (page, per_page) = (query.page, query.per_page);
    let found = exchange.app.store.list(query).await.map_err(store_failed)?;
    let rows: Vec<Value> = found.rows.iter().map(row).collect();
    let body = json!({
        "success": true, "result": rows, "errors": [], "messages": [],
        "result_info": info(&found, rows.len(), page, per_page),
    });
    Ok(super::json(writer, exchange.ids, &body).await)
}

fn info(found: &LogPage, count: usize, page: u32, per_page: u32) -> Value {
    let mut info = json!({"count": count, "page": page, "per_page": per_page, "total_count": found.total_count});
    if let Some(extents) = found.extents {
        let usd = |pico: i64| pico as f64 / PICO_PER_USD;
        let ms = |us: i64| us / 1000;
        let ranges = [
            (
                "cost",
                json!(usd(extents.cost_pico.min)),
                json!(usd(extents.cost_pico.max)),
            ),
            (
                "duration",
                json!(ms(extents.duration_us.min)),
                json!(ms(extents.duration_us.max)),
            ),
            (
                "tokens_in",
                json!(extents.tokens_in.min),
                json!(extents.tokens_in.max),
            ),
            (
                "tokens_out",
                json!(extents.tokens_out.min),
                json!(extents.tokens_out.max),
            ),
            (
                "total_tokens",
                json!(extents.total_tokens.min),
                json!(extents.total_tokens.max),
            ),
        ];
        for (name, min, max) in ranges {
            info[format!("min_{name}")] = min;
            info[format!("max_{name}")] = max;
        }
    }
    info
}

/// A token may list rows without reading prompts and answers.
fn may_read_bodies(exchange: &Exchange<'_>) -> bool {
    let gateway = &exchange.place.gateway;
    let presented = Presented {
        headers: &exchange.incoming.headers,
        query: exchange.incoming.query.as_deref(),
    };
    let tokens = exchange.app.tokens.load();
    auth::check_rest_gateway(
        &gateway.account,
        &gateway.id,
        &presented,
        &tokens,
        Permission::GatewayRead,
    )
    .is_ok()
}

async fn detail(
    exchange: &Exchange<'_>,
    writer: &mut ReplyWriter<'_>,
    id: &str,
) -> Result<Result<(), Gone>, GatewayError> {
    let gateway = &exchange.place.gateway;
    let found = exchange
        .app
        .store
        .get(&gateway.account, &gateway.id, id)
        .await
        .map_err(store_failed)?;
    let found = found.ok_or_else(|| not_found(id))?;
    let bodies = match may_read_bodies(exchange) {
        true => exchange
            .app
            .store
            .body(&gateway.account, &gateway.id, id)
            .await
            .map_err(store_failed)?,
        false => None,
    };
    let mut result = row(&found);
    let (request, response, request_complete, response_complete) = match &bodies {
        Some(bodies) => (
            head(&bodies.request),
            head(&bodies.response),
            bodies.request_complete && bodies.request.len() <= HEAD_BYTES,
            bodies.response_complete && bodies.response.len() <= HEAD_BYTES,
        ),
        None => (String::new(), String::new(), false, false),
    };
    result["request_head"] = json!(request);
    result["response_head"] = json!(response);
    result["request_head_complete"] = json!(request_complete);
    result["response_head_complete"] = json!(response_complete);
    let body = json!({"success": true, "result": result, "errors": [], "messages": []});
    Ok(super::json(writer, exchange.ids, &body).await)
}

/// The stored body itself, without an envelope.
async fn body(
    exchange: &Exchange<'_>,
    writer: &mut ReplyWriter<'_>,
    id: &str,
    which: &str,
) -> Result<Result<(), Gone>, GatewayError> {
    let gateway = &exchange.place.gateway;
    let found = exchange
        .app
        .store
        .get(&gateway.account, &gateway.id, id)
        .await
        .map_err(store_failed)?;
    let found = found.ok_or_else(|| not_found(id))?;
    let bodies = exchange
        .app
        .store
        .body(&gateway.account, &gateway.id, id)
        .await
        .map_err(store_failed)?;
    let bodies = bodies.ok_or_else(|| {
        GatewayError::new(
            Kind::NotFound,
            format!(
                "no bodies are kept for log `{}`",
                crate::identify::shown(id)
            ),
        )
    })?;
    let (bytes, content_type) = match which {
        "request" => (bodies.request, found.request_content_type),
        _ => (bodies.response, found.response_content_type),
    };
    let content_type = if content_type.is_empty() {
        "application/octet-stream".into()
    } else {
        content_type
    };
    Ok(super::bytes(writer, exchange.ids, &content_type, bytes.into()).await)
}

fn store_failed(error: analytics::Error) -> GatewayError {
    GatewayError::new(Kind::Internal, "the log store did not answer, try again").private(error)
}

fn not_found(id: &str) -> GatewayError {
    GatewayError::new(
        Kind::NotFound,
        format!("Log not found: `{}`", crate::identify::shown(id)),
    )
}

fn head(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(HEAD_BYTES)]).into_owned()
}

fn rfc3339(us: i64) -> String {
    jiff::Timestamp::from_microsecond(us)
        .unwrap_or_default()
        .to_string()
}

/// A row as the logs API shows it.
pub fn row(row: &AttemptRow) -> Value {
    json!({
        "id": row.id,
        "created_at": rfc3339(row.created_at_us),
        "provider": row.provider,
        "model": row.model,
        "model_type": row.model_type,
        "path": row.path,
        "duration": row.duration_us / 1000,
        "request_type": row.request_type,
        "request_content_type": row.request_content_type,
        "response_content_type": row.response_content_type,
        "status_code": row.status_code,
        "success": row.success,
        "cached": row.cached,
        "tokens_in": row.tokens_in,
        "tokens_out": row.tokens_out,
        "cost": row.cost_pico.map(|pico| pico as f64 / PICO_PER_USD),
        "custom_cost": row.custom_cost,
        "metadata": row.metadata,
        "step": row.step,
        "attempt": row.attempt,
        "event_id": row.event_id,
        "decision": row.decision,
        "error_code": row.error_code,
        "finish": row.finish,
        "usage_metadata": {
            "input_tokens": row.tokens_in,
            "output_tokens": row.tokens_out,
            "total_tokens": row.tokens_in.zip(row.tokens_out).map(|(tokens_in, tokens_out)| tokens_in + tokens_out),
            "output_reasoning_tokens": row.reasoning,
            "input_cached_tokens": row.cache_read,
        },
        "usage_source": row.usage_source,
        "neurons": row.neurons,
        "malformed_events": row.malformed_events,
        "tier": row.tier,
        "upstream_request_id": row.upstream_request_id,
        "timings": {
            "total": row.duration_us as f64 / 1000.0,
            "latency": row.first_byte_us.map(|us| us as f64 / 1000.0),
        },
        "feedback": null,
        "score": null,
        "authentication": row.authentication,
        "wholesale": false,
        "byok": row.byok,
        "user_agent": row.user_agent,
        "request_size": row.request_size,
        "response_size": row.response_size,
        "request": "",
        "response": "",
    })
}
