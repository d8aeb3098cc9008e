//! An HTTP/2 client that sees each frame of data when it comes, and how a stream ends.

use crate::{Request, within_patience};
use bytes::Bytes;
use h2::client::{SendRequest, handshake};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Uri};
use tokio::io::{AsyncRead, AsyncWrite};

/// One connection; its frames are moved by a task until either side is done.
pub struct Http2Connection {
    requests: SendRequest<Bytes>,
    moving: tokio::task::JoinHandle<()>,
}

impl Drop for Http2Connection {
    fn drop(&mut self) {
        self.moving.abort();
    }
}

/// An answer whose body is still arriving.
pub struct Http2Answer {
    pub status: u16,
    pub headers: HeaderMap,
    body: RecvStream,
}

/// How a stream came to its end.
#[derive(Debug, PartialEq, Eq)]
pub enum StreamEnd {
    Whole,
    /// RST_STREAM with this reason.
    Reset(Reason),
    /// The connection broke under it.
    Lost,
}

impl Http2Connection {
    pub async fn over<S>(stream: S) -> Http2Connection
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (requests, connection) = within_patience("an HTTP/2 handshake", handshake(stream))
            .await
            .expect("the gateway speaks HTTP/2");
        let moving = tokio::spawn(async move {
            if let Err(error) = connection.await {
                eprintln!("the HTTP/2 connection ended: {error}");
            }
        });
        Http2Connection { requests, moving }
    }

    /// Sends a request to `authority` and waits for the head of its answer.
    pub async fn send(&self, authority: &str, request: &Request) -> Http2Answer {
        let uri: Uri = format!("https://{authority}{}", request.target)
            .parse()
            .expect("a URI");
        let mut head = http::Request::builder()
            .method(request.method.as_str())
            .uri(uri);
        for (name, value) in &request.headers {
            head = head.header(name, value);
        }
        let head = head.body(()).expect("a head");
        let mut requests = within_patience("room for a stream", self.requests.clone().ready())
            .await
            .expect("the connection is open");
        let (answer, mut body) = requests
            .send_request(head, request.body.is_empty())
            .expect("a stream");
        if !request.body.is_empty() {
            body.send_data(request.body.clone().into(), true)
                .expect("the window is wider than a test's body");
        }
        let answer = within_patience("an answer head", answer)
            .await
            .expect("an answer");
        let (head, body) = answer.into_parts();
        Http2Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
        }
    }
}

impl Http2Answer {
    /// The next frame of data, or how the stream ended.
    pub async fn piece(&mut self) -> Result<Bytes, StreamEnd> {
        match within_patience("a frame", self.body.data()).await {
            Some(Ok(bytes)) => {
                self.body
                    .flow_control()
                    .release_capacity(bytes.len())
                    .expect("just received");
                Ok(bytes)
            }
            None => Err(StreamEnd::Whole),
            Some(Err(error)) => Err(match error.reason() {
                Some(reason) if error.is_reset() => StreamEnd::Reset(reason),
                _ => StreamEnd::Lost,
            }),
        }
    }

    /// Reads until `body` ends with `ending`; fails when the stream ends first.
    pub async fn read_until(&mut self, ending: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        while !body.ends_with(ending) {
            body.extend_from_slice(&self.piece().await.expect("the stream goes on"));
        }
        body
    }

    /// The rest of the body, and how it ended.
    pub async fn rest(mut self) -> (Vec<u8>, StreamEnd) {
        let mut body = Vec::new();
        loop {
            match self.piece().await {
                Ok(bytes) => body.extend_from_slice(&bytes),
                Err(end) => return (body, end),
            }
        }
    }
}
