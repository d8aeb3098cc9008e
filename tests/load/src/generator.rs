//! The callers: a closed loop over a fixed number of connections, each answer read to its end and
//! counted to the byte before the next question.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::exchange::{Mode, head_end, header};
use crate::subject::Subject;

pub const CONNECTIONS: usize = 16;
/// Longest time one round may take; past it something hangs.
const MAX_ROUND: Duration = Duration::from_secs(300);

/// Asks `requests` times in `mode`. Any answer that is not the expected one is an error.
pub async fn run(subject: &Subject, mode: Mode, requests: usize) -> Result<(), String> {
    let failed = |error: String| format!("{} in mode {}: {error}", subject.name, mode.name());
    let request: Arc<[u8]> = mode
        .request(&subject.address.to_string(), subject.path(mode))
        .into();
    let left = Arc::new(AtomicUsize::new(requests));
    let mut callers = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(subject.address)
            .await
            .map_err(|error| failed(error.to_string()))?;
        callers.spawn(call(stream, request.clone(), mode, left.clone()));
    }
    let all = async {
        while let Some(ended) = callers.join_next().await {
            ended
                .map_err(|error| error.to_string())
                .and_then(|outcome| outcome)
                .map_err(failed)?;
        }
        Ok(())
    };
    match tokio::time::timeout(MAX_ROUND, all).await {
        Ok(outcome) => outcome,
        Err(_) => Err(failed(format!("no end after {} s", MAX_ROUND.as_secs()))),
    }
}

async fn call(
    mut stream: TcpStream,
    request: Arc<[u8]>,
    mode: Mode,
    left: Arc<AtomicUsize>,
) -> Result<(), String> {
    stream
        .set_nodelay(true)
        .map_err(|error| error.to_string())?;
    let expected = mode.answer().body_bytes;
    let mut unread = Vec::with_capacity(128 * 1024);
    let take = |left: usize| left.checked_sub(1);
    while left
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
        .is_ok()
    {
        stream
            .write_all(&request)
            .await
            .map_err(|error| format!("asking: {error}"))?;
        let bytes = answer(&mut stream, &mut unread).await?;
        if bytes != expected {
            return Err(format!("a body of {bytes} bytes, {expected} were expected"));
        }
    }
    Ok(())
}

/// Reads one answer and gives the bytes of its body, framing apart.
async fn answer(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Result<usize, String> {
    let end = loop {
        if let Some(end) = head_end(unread) {
            break end;
        }
        more(stream, unread).await?;
    };
    let head = &unread[..end];
    if !head.starts_with(b"HTTP/1.1 200") {
        return Err(format!(
            "the answer is {}",
            String::from_utf8_lossy(&unread[..unread.len().min(600)])
        ));
    }
    let length = header(head, "content-length").and_then(|text| text.parse::<usize>().ok());
    unread.drain(..end);
    match length {
        Some(length) => {
            while unread.len() < length {
                more(stream, unread).await?;
            }
            unread.drain(..length);
            Ok(length)
        }
        None => chunked(stream, unread).await,
    }
}

async fn chunked(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Result<usize, String> {
    let (mut body, mut at) = (0, 0);
    loop {
        let line_end = unread[at..].iter().position(|byte| *byte == b'\n');
        if let Some(line_end) = line_end {
            let line = std::str::from_utf8(&unread[at..at + line_end]).unwrap_or_default();
            let size = usize::from_str_radix(line.trim(), 16)
                .map_err(|_| format!("`{}` is no chunk size", line.trim()))?;
            let next = at + line_end + 1 + size + 2;
            if unread.len() >= next {
                body += size;
                at = next;
                if size == 0 {
                    unread.drain(..at);
                    return Ok(body);
                }
                continue;
            }
        }
        unread.drain(..at);
        at = 0;
        more(stream, unread).await?;
    }
}

async fn more(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Result<(), String> {
    match stream.read_buf(unread).await {
        Ok(0) => Err("the connection was closed".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("reading: {error}")),
    }
}
