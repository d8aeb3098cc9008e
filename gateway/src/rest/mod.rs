//! The REST surface (`/client/v4`): the management API's envelope around our own objects.

#[cfg(feature = "local")]
pub mod finetunes;
pub mod logs;
mod logs_query;
pub mod models;

use bytes::Bytes;
use http::HeaderValue;
use http::header::HeaderName;

use crate::door::writer::{Gone, ReplyWriter, id_headers, value};
use crate::error::GatewayError;
use crate::exchange::Ids;

/// A fault in the envelope of this surface.
pub async fn refuse(
    writer: &mut ReplyWriter<'_>,
    ids: &Ids,
    error: &GatewayError,
) -> Result<(), Gone> {
    let mut headers = id_headers(ids);
    headers.push((
        HeaderName::from_static("content-type"),
        HeaderValue::from_static("application/json"),
    ));
    if let Some(seconds) = error.retry_after_s {
        headers.push((
            HeaderName::from_static("retry-after"),
            value(&seconds.to_string()),
        ));
    }
    writer
        .full(error.kind.status(), headers, error.rest_envelope().into())
        .await
}

/// A JSON answer.
pub async fn json(
    writer: &mut ReplyWriter<'_>,
    ids: &Ids,
    body: &serde_json::Value,
) -> Result<(), Gone> {
    bytes(writer, ids, "application/json", body.to_string().into()).await
}

pub async fn bytes(
    writer: &mut ReplyWriter<'_>,
    ids: &Ids,
    content_type: &str,
    body: Bytes,
) -> Result<(), Gone> {
    let mut headers = id_headers(ids);
    headers.push((HeaderName::from_static("content-type"), value(content_type)));
    writer.full(200, headers, body).await
}
