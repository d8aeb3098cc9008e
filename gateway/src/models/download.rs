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

/// Where a file is.
pub(super) struct Origin<'a> {
    pub url: &'a str,
    /// `None`: as many as the server says there are.
    pub bytes: Option<u64>,
    /// Shown to that host alone: not to one it sends us on to.
    pub token: Option<&'a str>,
}

/// A server's refusal.
#[derive(Debug, thiserror::Error)]
#[error("the server answered {0}")]
pub(super) struct Status(pub StatusCode);

/// Completes `part` and says whether bytes of an earlier run were kept. A server that ignores ranges makes it
/// start over; one that sends more than the file has is cut off.
pub(super) async fn to_file(
    part: &Path,
    origin: &Origin<'_>,
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
    let is_overlong = origin.bytes.is_some_and(|bytes| found > bytes);
    let mut was_kept = found > 0 && !is_overlong;
    if is_overlong {
        remove(part).await?;
    }
    for attempt in 0.. {
        let have = length(part).await;
        progress.set(have);
        if origin.bytes == Some(have) {
            break;
        }
        let outcome = continue_from(&client, part, origin, have, progress).await;
        let now = length(part).await;
        match outcome {
            Ok(Continued::Kept) => {}
            Ok(Continued::FromStart) => was_kept = false,
            // Nothing is left to send: the part was whole, or is of another file.
            Ok(Continued::PastEnd { total }) if total == Some(have) => break,
            Ok(Continued::PastEnd { .. }) => {
                anyhow::ensure!(attempt == 0, "the server does not know where its file ends");
                remove(part).await?;
                was_kept = false;
                continue;
            }
            // A broken connection that brought something is worth going on with.
            Err(error) if attempt < MAX_RESUMES && now > have => {
                tracing::debug!(%error, "download broke off, resuming");
                continue;
            }
            Err(error) => return Err(error),
        }
        match origin.bytes {
            // The server said how much it would send, and sent it.
            None => break,
            Some(bytes) => anyhow::ensure!(
                now > have || now == bytes,
                "the server ended the file early"
            ),
        }
    }
    Ok(was_kept)
}

enum Continued {
    Kept,
    FromStart,
    /// The part is as long as the file, or longer.
    PastEnd {
        total: Option<u64>,
    },
}

async fn continue_from(
    client: &reqwest::Client,
    part: &Path,
    origin: &Origin<'_>,
    have: u64,
    progress: &Progress,
) -> anyhow::Result<Continued> {
    let mut request = client.get(origin.url);
    if have > 0 {
        request = request.header(RANGE, format!("bytes={have}-"));
    }
    if let Some(token) = origin.token {
        request = request.bearer_auth(token);
    }
    let answer = request.send().await.map_err(reqwest::Error::without_url);
    let mut response = answer.context("no answer")?;
    let status = response.status();
    let range = response.headers().get(CONTENT_RANGE);
    let range = range
        .and_then(|range| range.to_str().ok())
        .unwrap_or_default();
    let total_of_range = range
        .rsplit('/')
        .next()
        .and_then(|total| total.parse().ok());
    let (is_kept, total) = match status {
        StatusCode::PARTIAL_CONTENT => {
            anyhow::ensure!(
                range.starts_with(&format!("bytes {have}-")),
                "the server sent another range"
            );
            (true, total_of_range)
        }
        StatusCode::OK => (false, response.content_length()),
        StatusCode::RANGE_NOT_SATISFIABLE if have > 0 => {
            let total = total_of_range;
            return Ok(Continued::PastEnd { total });
        }
        _ => return Err(Status(status).into()),
    };
    let bound = origin.bytes.or(total);
    if let Some(bytes) = bound {
        progress.set_total(bytes);
    }
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
                anyhow::ensure!(
                    bound.is_none_or(|bound| written <= bound),
                    "the server sends more than the file has"
                );
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

async fn remove(part: &Path) -> anyhow::Result<()> {
    tokio::fs::remove_file(part)
        .await
        .context("removing a part of another file")
}

async fn length(path: &Path) -> u64 {
    tokio::fs::metadata(path).await.map_or(0, |file| file.len())
}
