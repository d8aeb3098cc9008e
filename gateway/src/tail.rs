//! `ai-gateway logs tail`: follows the log store in a terminal.
//!
//! Asks the running gateway's logs API, as any client would; control characters in what strangers
//! sent are escaped, because a terminal obeys them.

use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::config::{Config, Tls};

const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Rows asked for at once; the API's own bound.
const PAGE: usize = 50;

pub async fn tail(
    config: &Config,
    account: &str,
    gateway: &str,
    lines: usize,
    follow: bool,
    token: Option<&str>,
) -> anyhow::Result<()> {
    let base = format!(
        "{}/ai-gateway/gateways/{gateway}/logs",
        address(config, account)
    );
    let client = client(config.server.tls.as_ref())?;
    let mut rows = fetch(
        &client,
        &base,
        token,
        &format!("per_page={}", lines.clamp(1, PAGE)),
    )
    .await?;
    rows.reverse();
    let mut last_id = print(&rows);
    if !follow {
        return Ok(());
    }
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let query = match &last_id {
            Some(id) => format!("per_page={PAGE}&order_by_direction=asc&after_id={id}"),
            None => format!("per_page={PAGE}&order_by_direction=asc"),
        };
        let rows = fetch(&client, &base, token, &query).await?;
        last_id = print(&rows).or(last_id);
    }
}

/// The REST surface of an account on the running gateway.
pub fn address(config: &Config, account: &str) -> String {
    let listen = &config.server.listen;
    let address = listen
        .replace("0.0.0.0", "127.0.0.1")
        .replace("[::]", "[::1]");
    let scheme = if config.server.tls.is_some() {
        "https"
    } else {
        "http"
    };
    format!("{scheme}://{address}/client/v4/accounts/{account}")
}

/// With TLS the gateway is known by the certificates of its own files. It is asked by its address,
/// which those rarely name.
pub fn client(tls: Option<&Tls>) -> anyhow::Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder().connect_timeout(Duration::from_secs(2));
    if let Some(tls) = tls {
        let cert = tls.cert.display();
        let pem = std::fs::read(&tls.cert).with_context(|| format!("reading `{cert}`"))?;
        let chain = reqwest::Certificate::from_pem_bundle(&pem)
            .with_context(|| format!("`{cert}` is not PEM"))?;
        builder = builder
            .tls_certs_only(chain)
            .tls_danger_accept_invalid_hostnames(true);
    }
    Ok(builder.build()?)
}

async fn fetch(
    client: &reqwest::Client,
    base: &str,
    token: Option<&str>,
    query: &str,
) -> anyhow::Result<Vec<Value>> {
    let mut request = client.get(format!("{base}?{query}"));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let response = request.send().await.with_context(|| {
        format!("no gateway answers at {base}; start one with `ai-gateway serve`")
    })?;
    let status = response.status();
    let text = response.text().await?;
    let body: Value = serde_json::from_str(&text).context("the gateway's answer is not JSON")?;
    if !status.is_success() {
        let message = body["errors"][0]["message"]
            .as_str()
            .unwrap_or("no reason given");
        bail!(
            "{status}: {}; with tokens, set AI_GATEWAY_TOKEN to one that may read logs",
            escape(message)
        );
    }
    Ok(body["result"].as_array().cloned().unwrap_or_default())
}

fn print(rows: &[Value]) -> Option<String> {
    for row in rows {
        println!("{}", line(row));
    }
    rows.iter()
        .filter_map(|row| row["id"].as_str())
        .max()
        .map(str::to_owned)
}

fn line(row: &Value) -> String {
    let text = |name: &str| escape(row[name].as_str().unwrap_or(""));
    let number = |name: &str| row[name].as_i64().map_or("-".to_owned(), |n| n.to_string());
    let cost = row["cost"]
        .as_f64()
        .map_or("-".to_owned(), |cost| format!("${cost:.6}"));
    let cached = if row["cached"].as_bool() == Some(true) {
        " cached"
    } else {
        ""
    };
    let error = match row["error_code"].as_str() {
        Some("") | None => String::new(),
        Some(code) => format!(" error={}", escape(code)),
    };
    format!(
        "{} {} {} {} {} {} ms in={} out={} cost={} step={}{cached}{error}",
        text("created_at"),
        number("status_code"),
        text("provider"),
        text("model"),
        text("path"),
        number("duration"),
        number("tokens_in"),
        number("tokens_out"),
        cost,
        number("step"),
    )
}

/// Control characters as `\u{..}`.
pub fn escape(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escaped = c.is_control().then(|| c.escape_unicode());
            let plain = (!c.is_control()).then_some(c);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_given_orders() {
        assert_eq!(escape("a\x1b[2Jb\n"), "a\\u{1b}[2Jb\\u{a}");
    }
}
