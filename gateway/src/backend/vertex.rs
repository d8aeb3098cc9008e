//! Google service accounts: a key file is traded for an access key, which is good for about an hour.
//!
//! One exchange at a time for each key file, its answer kept until shortly before it ends; at most
//! [`MAX_ACCOUNTS`] key files, past it the one longest unused is traded again. A failed exchange fails
//! the try like a connection that could not be made, and nothing of it is kept.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::header::{AUTHORIZATION, HeaderValue};
use moka::sync::Cache;
use providers::vertex::{EXCHANGE_URL, ServiceAccount, read_exchange_reply};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use super::http_client::Broken;
use crate::config::Secret;
use crate::error::Kind;

/// Key files whose access keys are kept.
const MAX_ACCOUNTS: u64 = 256;
/// Longest wait for an exchange.
const PATIENCE: Duration = Duration::from_secs(10);
/// An access key this close to its end is not used for another request.
const MARGIN: Duration = Duration::from_secs(60);
/// Largest answer of an exchange that is read, bytes.
const MAX_REPLY_BYTES: usize = 64 * 1024;

/// What has to be traded before a request can be sent.
#[derive(Debug, Clone)]
pub struct Exchange {
    pub key_file: Secret,
    /// `None`: Google's own.
    pub url: Option<String>,
}

type Slot = Arc<Mutex<Option<(HeaderValue, Instant)>>>;

pub struct Exchanges {
    client: reqwest::Client,
    slots: Cache<[u8; 32], Slot>,
}

impl Exchanges {
    pub fn new() -> anyhow::Result<Exchanges> {
        let client = reqwest::Client::builder()
            .timeout(PATIENCE)
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Exchanges {
            client,
            slots: Cache::new(MAX_ACCOUNTS),
        })
    }

    /// The `authorization` value for a key file.
    pub async fn authorization(&self, exchange: &Exchange) -> Result<HeaderValue, Broken> {
        let url = exchange.url.as_deref().unwrap_or(EXCHANGE_URL);
        let mut key = Sha256::new();
        key.update(url);
        key.update([0]);
        key.update(exchange.key_file.expose());
        let slot = self.slots.get_with(key.finalize().into(), Slot::default);
        let mut held = slot.lock().await;
        if let Some((value, ends)) = &*held
            && Instant::now() < *ends
        {
            return Ok(value.clone());
        }
        let (value, lifetime) = self.trade(exchange, url).await.map_err(|cause| Broken {
            kind: Kind::UpstreamConnect,
            cause: format!("the service account's key could not be exchanged: {cause}"),
        })?;
        *held = Some((
            value.clone(),
            Instant::now() + lifetime.saturating_sub(MARGIN),
        ));
        Ok(value)
    }

    async fn trade(
        &self,
        exchange: &Exchange,
        url: &str,
    ) -> Result<(HeaderValue, Duration), String> {
        let account = ServiceAccount::read(exchange.key_file.expose())
            .ok_or("it is no key file")?
            .map_err(|error| error.to_string())?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| now.as_secs());
        let form = account
            .exchange_body(now)
            .map_err(|error| error.to_string())?;
        let request = self
            .client
            .post(url)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form);
        // reqwest's errors may quote the URL, which holds no credential here.
        let mut reply = request.send().await.map_err(|error| error.to_string())?;
        let status = reply.status();
        let mut body = Vec::new();
        while let Some(chunk) = reply.chunk().await.map_err(|error| error.to_string())? {
            if body.len() + chunk.len() > MAX_REPLY_BYTES {
                return Err("its answer is too large".into());
            }
            body.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            return Err(format!("it was answered with status {}", status.as_u16()));
        }
        let (access, seconds) = read_exchange_reply(&body).map_err(|error| error.to_string())?;
        let mut value = HeaderValue::from_str(&format!("Bearer {}", access.reveal()))
            .map_err(|_| "its access key is not a header value".to_owned())?;
        value.set_sensitive(true);
        Ok((value, Duration::from_secs(seconds)))
    }
}

/// The header that carries what an exchange gave.
pub fn apply(headers: &mut http::HeaderMap, value: HeaderValue) {
    headers.insert(AUTHORIZATION, value);
}
