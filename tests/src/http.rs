//! HTTP/1.1 as bytes: what both the scripted upstream and the raw client read and write.
//!
//! Lenient on purpose. It reports what stood on the wire, in its order and spelling, and judges
//! nothing: judging is the tests' work.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// A start line and its headers, in order, names spelled as sent.
#[derive(Clone, Debug, Default)]
pub struct Head {
    pub start_line: String,
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The first value of `name`, whatever its letter case.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    fn content_length(&self) -> Option<usize> {
        self.header("content-length")
            .and_then(|value| value.trim().parse().ok())
    }

    fn is_chunked(&self) -> bool {
        self.header("transfer-encoding")
            .is_some_and(|value| value.to_ascii_lowercase().contains("chunked"))
    }

    /// How the body of a request with this head is delimited.
    pub fn request_framing(&self) -> Framing {
        if self.is_chunked() {
            Framing::Chunked
        } else {
            Framing::Length(self.content_length().unwrap_or(0))
        }
    }

    /// How the body of an answer with this head to `method` is delimited.
    pub fn answer_framing(&self, method: &str, status: u16) -> Framing {
        if method == "HEAD" || status == 204 || status == 304 || status < 200 {
            Framing::Length(0)
        } else if self.is_chunked() {
            Framing::Chunked
        } else {
            self.content_length()
                .map_or(Framing::UntilClose, Framing::Length)
        }
    }
}

/// The first value of `name` among `headers`, whatever its letter case.
pub fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(usize),
    Chunked,
    /// Neither a length nor chunks: the body ends where the connection does.
    UntilClose,
}

/// One piece of a body as it was framed, or `None` when the framing says that the body is over.
pub type Piece = Option<Vec<u8>>;

/// Reads heads and bodies off a byte stream, keeping what it read too much of.
pub struct WireReader<S> {
    stream: S,
    buffer: Vec<u8>,
}

impl<S: AsyncRead + Unpin> WireReader<S> {
    pub fn new(stream: S) -> Self {
        WireReader {
            stream,
            buffer: Vec::new(),
        }
    }

    /// The stream itself; bytes read ahead are dropped.
    pub fn into_inner(self) -> S {
        self.stream
    }

    /// More bytes into the buffer; `false` at the end of the stream. Cancel-safe.
    pub async fn fill(&mut self) -> io::Result<bool> {
        Ok(self.stream.read_buf(&mut self.buffer).await? > 0)
    }

    /// The next head, or `None` when the stream ends before one begins.
    pub async fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let bytes: Vec<u8> = self.buffer.drain(..end + 4).collect();
                return Ok(Some(parse_head(&bytes[..end])));
            }
            if !self.fill().await? {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }

    /// The next piece of a body framed so; `remaining` holds what is left of a [`Framing::Length`].
    pub async fn piece(&mut self, framing: Framing, remaining: &mut usize) -> io::Result<Piece> {
        match framing {
            Framing::Length(_) if *remaining == 0 => Ok(None),
            Framing::Length(_) => {
                if self.buffer.is_empty() && !self.fill().await? {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                let take = self.buffer.len().min(*remaining);
                *remaining -= take;
                Ok(Some(self.buffer.drain(..take).collect()))
            }
            Framing::UntilClose => {
                if self.buffer.is_empty() && !self.fill().await? {
                    return Ok(None);
                }
                Ok(Some(std::mem::take(&mut self.buffer)))
            }
            Framing::Chunked => self.chunk().await,
        }
    }

    /// One whole body; an error when it breaks off.
    pub async fn body(&mut self, framing: Framing) -> io::Result<Vec<u8>> {
        let mut remaining = if let Framing::Length(length) = framing {
            length
        } else {
            0
        };
        let mut body = Vec::new();
        while let Some(piece) = self.piece(framing, &mut remaining).await? {
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    async fn chunk(&mut self) -> io::Result<Piece> {
        let line = self.line().await?;
        let digits = line.split(';').next().unwrap_or_default().trim().to_owned();
        let size = usize::from_str_radix(&digits, 16).map_err(|_| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("`{line}` is no chunk size"),
            )
        })?;
        if size == 0 {
            while !self.line().await?.is_empty() {}
            return Ok(None);
        }
        while self.buffer.len() < size + 2 {
            if !self.fill().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let chunk = self.buffer.drain(..size).collect();
        self.buffer.drain(..2);
        Ok(Some(chunk))
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let bytes: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&bytes[..end]).into_owned());
            }
            if !self.fill().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

fn parse_head(bytes: &[u8]) -> Head {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let mut lines = text.split("\r\n");
    let start_line = lines.next().unwrap_or_default().to_owned();
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    Head {
        start_line,
        headers,
    }
}

/// Where `needle` first stands in `haystack`.
pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

/// `bytes` as one chunk of a chunked body.
pub fn as_chunk(bytes: &[u8]) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    chunk
}
