//! One file over HTTP, resumed where it stopped.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_RANGE, RANGE};
use tokio::fs::OpenOptions;
use tokio::io::AsyncWriteExt;

use super::progress::Progress;

/// Out of reach is noticed soon, so that the next source gets its turn.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that gives nothing for so long is given up; the next call resumes.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Tries that resume, after a connection broke in the middle.
const MAX_RESUMES: usize = 5;

/// Completes `part` up to `bytes` and says whether bytes of an earlier run were kept. A server that ignores ranges makes it
/// start over; one that sends more than `bytes` is cut off.
pub(super) async fn to_file(
    part: &Path,
    url: &str,
    bytes: u64,
    progress: &Progress,
) -> anyhow::Result<bool> {
    // Already installed by whoever started the gateway: then this changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .build()
        .context("making an HTTP client")?;
    let found = length(part).await;
    let mut was_kept = found > 0 && found <= bytes;
    if found > bytes {
        tokio::fs::remove_file(part)
            .await
            .context("removing an overlong part")?;
    }
    for attempt in 0.. {
        let have = length(part).await;
        progress.set(have);
        if have == bytes {
            break;
        }
        let outcome = continue_from(&client, part, url, have, bytes, progress).await;
        let now = length(part).await;
        match outcome {
            Ok(Continued::FromStart) => was_kept = false,
            Ok(Continued::Kept) => {}
            // A broken connection that brought something is worth going on with.
            Err(error) if attempt < MAX_RESUMES && now > have => {
                tracing::debug!(%error, "download broke off, resuming");
            }
            Err(error) => return Err(error),
        }
        anyhow::ensure!(
            now > have || now == bytes,
            "the server ended the file early"
        );
    }
    Ok(was_kept)
}

enum Continued {
    Kept,
    FromStart,
}

async fn continue_from(
    client: &reqwest::Client,
    part: &Path,
    url: &str,
    have: u64,
    bytes: u64,
    progress: &Progress,
) -> anyhow::Result<Continued> {
    let mut request = client.get(url);
    if have > 0 {
        request = request.header(RANGE, format!("bytes={have}-"));
    }
    let answer = request.send().await.map_err(reqwest::Error::without_url);
    let mut response = answer.context("no answer")?;
    let status = response.status();
    let starts_at_have = || {
        let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
        Some(range.starts_with(&format!("bytes {have}-")))
    };
    let is_kept = match status {
        StatusCode::PARTIAL_CONTENT => {
            anyhow::ensure!(
                starts_at_have() == Some(true),
                "the server sent another range"
            );
            true
        }
        StatusCode::OK => false,
        _ => anyhow::bail!("the server answered {status}"),
    };
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .append(is_kept)
        .truncate(!is_kept)
        .open(part)
        .await
        .with_context(|| format!("writing `{}`", part.display()))?;
    let mut written = if is_kept { have } else { 0 };
    let result = loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                written += chunk.len() as u64;
                anyhow::ensure!(written <= bytes, "the server sends more than the file has");
                file.write_all(&chunk).await.context("writing the part")?;
                progress.set(written);
            }
            Ok(None) => {
                break Ok(if is_kept {
                    Continued::Kept
                } else {
                    Continued::FromStart
                });
            }
            Err(error) => break Err(error).context("the connection broke off"),
        }
    };
    file.flush().await.context("writing the part")?;
    result
}

async fn length(path: &Path) -> u64 {
    tokio::fs::metadata(path).await.map_or(0, |file| file.len())
}
