//! A client that decides every byte it sends and sees every byte, chunk and ending it gets.

use crate::http::{Framing, Head, WireReader, header};
use crate::{PATIENCE, within_patience};
use serde_json::Value;
use std::io;
use std::net::SocketAddr;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::Instant;

/// A request as a client would write it. The target goes out as given, never normalised.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn new(method: &str, target: &str) -> Request {
        Request {
            method: method.into(),
            target: target.into(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    pub fn get(target: &str) -> Request {
        Request::new("GET", target)
    }

    /// A POST of `body` as JSON.
    pub fn post(target: &str, body: &Value) -> Request {
        Request::post_bytes(target, "application/json", body.to_string())
    }

    pub fn post_bytes(target: &str, content_type: &str, body: impl Into<Vec<u8>>) -> Request {
        Request::new("POST", target)
            .header("content-type", content_type)
            .body(body)
    }

    pub fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Request {
        self.body = body.into();
        self
    }

    /// The head on the wire, with `host` and `content-length` added when the test set neither.
    pub fn head_bytes(&self, host: SocketAddr) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if header(&self.headers, "host").is_none() {
            text += &format!("host: {host}\r\n");
        }
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        let framed = ["content-length", "transfer-encoding"]
            .iter()
            .any(|name| header(&self.headers, name).is_some());
        let bodiless = self.body.is_empty()
            && matches!(self.method.as_str(), "GET" | "HEAD" | "DELETE" | "OPTIONS");
        if !framed && !bodiless {
            text += &format!("content-length: {}\r\n", self.body.len());
        }
        (text + "\r\n").into_bytes()
    }
}

/// How the body of an answer came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The framing said so: the length is reached, or the final chunk arrived.
    Whole,
    /// The connection closed and nothing else could have told: neither length nor chunks.
    UntilClose,
    /// The connection ended, or broke its framing, before the body did.
    Cut,
}

/// An answer with its chunks, as they were framed, and when each arrived.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub head: Head,
    pub body: Vec<u8>,
    pub pieces: Vec<(Instant, Vec<u8>)>,
    pub ending: Ending,
    /// When the request was begun and when the body ended.
    pub sent_at: Instant,
    pub ended_at: Instant,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!(
                "the body is no JSON ({error}): status {} {:?}",
                self.status,
                self.text()
            )
        })
    }

    /// The gateway's own error code, when this is the gateway's envelope.
    pub fn error_code(&self) -> Option<u64> {
        let body: Value = serde_json::from_slice(&self.body).ok()?;
        (body["success"] == Value::Bool(false)).then(|| body["error"][0]["code"].as_u64())?
    }

    pub fn event_id(&self) -> String {
        self.header("cf-aig-event-id")
            .expect("every answer carries cf-aig-event-id")
            .to_owned()
    }

    /// Fails with the whole answer shown unless the status is `status`.
    #[track_caller]
    pub fn expect_status(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "answer was {:?}", self.text());
        self
    }
}

/// One connection to the gateway.
pub struct Connection {
    peer: SocketAddr,
    reader: WireReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    sent_at: Instant,
}

/// An answer whose body is still arriving.
pub struct Arriving {
    pub status: u16,
    pub head: Head,
    framing: Framing,
    remaining: usize,
}

impl Arriving {
    /// What follows is framed otherwise than the head said: after an upgrade, not at all.
    pub fn becomes(&mut self, framing: Framing) {
        self.framing = framing;
    }
}

impl Connection {
    pub async fn open(peer: SocketAddr) -> Connection {
        Connection::try_open(peer)
            .await
            .expect("the gateway listens")
    }

    /// The same where nobody may listen any more.
    pub async fn try_open(peer: SocketAddr) -> io::Result<Connection> {
        let stream = within_patience("a connection", TcpStream::connect(peer)).await?;
        stream.set_nodelay(true)?;
        let (read, write) = stream.into_split();
        Ok(Connection {
            peer,
            reader: WireReader::new(read),
            writer: write,
            sent_at: Instant::now(),
        })
    }

    /// Writes bytes as they are. A refusal by the peer is not an error here: what it answered is
    /// still to be read.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes).await?;
        self.writer.flush().await
    }

    /// Sends head and body. A peer that hangs up on the body has answered early, which the caller
    /// sees when it reads.
    pub async fn send(&mut self, request: &Request) {
        self.sent_at = Instant::now();
        let mut bytes = request.head_bytes(self.peer);
        bytes.extend_from_slice(&request.body);
        let _ = self.write(&bytes).await;
    }

    /// The next head that is not an interim answer.
    pub async fn head(&mut self, method: &str) -> Arriving {
        self.try_head(method).await.expect("an answer head")
    }

    /// As [`head`](Self::head); an error when the connection ends first.
    pub async fn try_head(&mut self, method: &str) -> io::Result<Arriving> {
        loop {
            let head = within_patience("an answer head", self.reader.head())
                .await?
                .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
            let status = head
                .start_line
                .split(' ')
                .nth(1)
                .and_then(|text| text.parse().ok());
            let status: u16 =
                status.unwrap_or_else(|| panic!("`{}` is no status line", head.start_line));
            if status == 101 || status >= 200 {
                let framing = head.answer_framing(method, status);
                let remaining = if let Framing::Length(length) = framing {
                    length
                } else {
                    0
                };
                return Ok(Arriving {
                    status,
                    head,
                    framing,
                    remaining,
                });
            }
        }
    }

    /// The next interim answer's status (100, 103, ...).
    pub async fn interim_status(&mut self) -> u16 {
        let head = within_patience("an interim answer", self.reader.head())
            .await
            .expect("readable")
            .expect("a head");
        head.start_line
            .split(' ')
            .nth(1)
            .and_then(|text| text.parse().ok())
            .expect("a status")
    }

    /// The next piece of the body; `None` at its end, an error where it was cut.
    pub async fn piece(&mut self, arriving: &mut Arriving) -> io::Result<Option<Vec<u8>>> {
        within_patience(
            "a piece of the body",
            self.reader.piece(arriving.framing, &mut arriving.remaining),
        )
        .await
    }

    /// Reads pieces until `body` ends with `ending`.
    pub async fn read_until(&mut self, arriving: &mut Arriving, ending: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        while !body.ends_with(ending) {
            let piece = self
                .piece(arriving)
                .await
                .expect("the body goes on")
                .expect("the body goes on");
            body.extend_from_slice(&piece);
        }
        body
    }

    /// The rest of an answer, to whatever end it comes.
    pub async fn rest(&mut self, mut arriving: Arriving) -> Answer {
        let mut pieces = Vec::new();
        let ending = loop {
            match self.piece(&mut arriving).await {
                Ok(Some(piece)) => pieces.push((Instant::now(), piece)),
                Ok(None) if arriving.framing == Framing::UntilClose => break Ending::UntilClose,
                Ok(None) => break Ending::Whole,
                Err(_) => break Ending::Cut,
            }
        };
        let body = pieces
            .iter()
            .flat_map(|(_, piece)| piece.iter().copied())
            .collect();
        let Arriving { status, head, .. } = arriving;
        Answer {
            status,
            head,
            body,
            pieces,
            ending,
            sent_at: self.sent_at,
            ended_at: Instant::now(),
        }
    }

    pub async fn answer(&mut self, method: &str) -> Answer {
        let arriving = self.head(method).await;
        self.rest(arriving).await
    }

    /// Waits until the peer has closed the connection; what it still sends is dropped.
    pub async fn closed_by_peer(mut self) {
        within_patience("the gateway to close the connection", async {
            while let Ok(true) = self.reader.fill().await {}
        })
        .await;
    }

    /// The bytes that are left until the peer closes. For upgraded connections and framing tests.
    pub async fn bytes_until_close(mut self) -> Vec<u8> {
        let read = self.reader.body(Framing::UntilClose);
        tokio::time::timeout(PATIENCE, read)
            .await
            .expect("the gateway closes")
            .unwrap_or_default()
    }

    /// Leaves: the socket is closed at once, whatever is still to come.
    pub fn leave(self) -> Instant {
        drop(self);
        Instant::now()
    }
}

/// One request on a connection of its own.
pub async fn send(peer: SocketAddr, request: &Request) -> Answer {
    let mut connection = Connection::open(peer).await;
    connection.send(request).await;
    connection.answer(&request.method).await
}
