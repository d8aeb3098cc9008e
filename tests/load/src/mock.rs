//! The upstream: reads a request, sends the answer its mode header names. It runs on the generator's
//! thread, so that the two share one event loop and cost the machine little.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::MissedTickBehavior;

use crate::exchange::{MODE_HEADER, Mode, head_end, header};

/// Between two chunks of a paced stream.
const PACE: Duration = Duration::from_millis(10);
/// Longest head or body that is read; nobody here sends more.
const MAX_REQUEST: usize = 1 << 20;

pub struct Mock {
    pub address: SocketAddr,
    requests: Arc<AtomicUsize>,
}

impl Mock {
    /// Requests that came as far as here.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

/// Serves until the runtime ends.
pub async fn start() -> Result<Mock, String> {
    let told = |error: io::Error| format!("the mock upstream: {error}");
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(told)?;
    let address = listener.local_addr().map_err(told)?;
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = requests.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let counter = counter.clone();
            tokio::spawn(async move {
                if let Err(error) = serve(stream, &counter).await {
                    eprintln!("the mock upstream ended a connection: {error}");
                }
            });
        }
    });
    Ok(Mock { address, requests })
}

async fn serve(mut stream: TcpStream, counter: &AtomicUsize) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut unread = Vec::with_capacity(64 * 1024);
    loop {
        let Some(mode) = read_request(&mut stream, &mut unread).await? else {
            return Ok(());
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let parts = &mode.answer().parts;
        stream.write_all(&parts[0]).await?;
        if parts.len() > 1 {
            let mut ticks = tokio::time::interval(PACE);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks.tick().await;
            for part in &parts[1..] {
                ticks.tick().await;
                stream.write_all(part).await?;
            }
        }
    }
}

/// Takes one request out of `unread` and the stream; `None` when the caller closed in between.
async fn read_request(stream: &mut TcpStream, unread: &mut Vec<u8>) -> io::Result<Option<Mode>> {
    loop {
        if let Some(end) = head_end(unread) {
            let (mode, length) = {
                let head = &unread[..end];
                let mode = header(head, MODE_HEADER).and_then(Mode::named);
                let length =
                    header(head, "content-length").and_then(|text| text.parse::<usize>().ok());
                mode.zip(length)
                    .ok_or_else(|| io::Error::other("a request without a mode or a length"))?
            };
            if unread.len() >= end + length {
                unread.drain(..end + length);
                return Ok(Some(mode));
            }
        }
        if unread.len() > MAX_REQUEST {
            return Err(io::Error::other("a request without an end"));
        }
        if stream.read_buf(unread).await? == 0 {
            return match unread.is_empty() {
                true => Ok(None),
                false => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
    }
}
