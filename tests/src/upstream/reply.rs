//! What a scripted upstream says: a head, pieces of body with their timing, and how it ends.

use super::Call;
use crate::http::as_chunk;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// No provider is nearer than this. An upgrade answered in microseconds, before the gateway has seen
/// the end of the request's empty body, is one that pingora 0.9 takes for a finished one.
const ROUND_TRIP: Duration = Duration::from_millis(20);

/// Holds a reply back until the test opens it. Clones share one state.
#[derive(Clone)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    pub fn closed() -> Gate {
        Gate(Arc::new(watch::Sender::new(false)))
    }

    pub fn open(&self) {
        self.0.send_replace(true);
    }

    pub(super) async fn opened(&self) {
        self.0
            .subscribe()
            .wait_for(|open| *open)
            .await
            .expect("this gate holds the sender");
    }
}

#[derive(Clone)]
pub(super) enum Part {
    Bytes(Vec<u8>),
    Wait(Duration),
    Gate(Gate),
}

/// How the upstream ends its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The framing is complete; the connection stays.
    Clean,
    /// The socket is closed where it stands.
    Close,
    /// The socket is reset where it stands.
    Reset,
    /// Nothing more comes, and nothing is closed.
    Stall,
    /// Whatever the gateway sends from now on is sent back.
    Echo,
}

type Answering = Arc<dyn Fn(&Call) -> Reply + Send + Sync>;

/// A scripted reply. Body pieces are given in order; for a chunked reply each is one HTTP chunk.
#[derive(Clone)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    framing: ReplyFraming,
    /// What happens before the head goes out.
    before_head: Vec<Part>,
    body: Vec<Part>,
    end: End,
    /// Bytes instead of head and body.
    verbatim: Option<Vec<u8>>,
    has_head: bool,
    answering: Option<Answering>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ReplyFraming {
    Length,
    Chunked,
    UntilClose,
}

impl Reply {
    fn new(status: u16, framing: ReplyFraming) -> Reply {
        Reply {
            status,
            headers: Vec::new(),
            framing,
            before_head: Vec::new(),
            body: Vec::new(),
            end: End::Clean,
            verbatim: None,
            has_head: true,
            answering: None,
        }
    }

    /// A whole body with its length.
    pub fn bytes(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Reply {
        let reply = Reply::new(status, ReplyFraming::Length).header("content-type", content_type);
        Reply {
            body: vec![Part::Bytes(body.into())],
            ..reply
        }
    }

    pub fn json(status: u16, body: &Value) -> Reply {
        Reply::bytes(status, "application/json", body.to_string())
    }

    /// A head alone (204, 304, ...).
    pub fn empty(status: u16) -> Reply {
        Reply::new(status, ReplyFraming::Length)
    }

    /// A chunked body of this type; each piece is one HTTP chunk.
    pub fn chunked(
        content_type: &str,
        pieces: impl IntoIterator<Item = impl Into<Vec<u8>>>,
    ) -> Reply {
        let reply = Reply::new(200, ReplyFraming::Chunked).header("content-type", content_type);
        Reply {
            body: pieces
                .into_iter()
                .map(|piece| Part::Bytes(piece.into()))
                .collect(),
            ..reply
        }
    }

    /// A chunked event stream; each piece is one HTTP chunk, whatever it cuts through.
    pub fn sse(pieces: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Reply {
        Reply::chunked("text/event-stream", pieces)
    }

    /// A body that ends where the connection does.
    pub fn until_close(content_type: &str, body: impl Into<Vec<u8>>) -> Reply {
        let reply = Reply::new(200, ReplyFraming::UntilClose).header("content-type", content_type);
        Reply {
            body: vec![Part::Bytes(body.into())],
            end: End::Close,
            ..reply
        }
    }

    /// These bytes and nothing else.
    pub fn verbatim(bytes: impl Into<Vec<u8>>) -> Reply {
        Reply {
            verbatim: Some(bytes.into()),
            ..Reply::new(200, ReplyFraming::Length)
        }
    }

    /// The connection is reset before any byte of an answer.
    pub fn reset() -> Reply {
        Reply {
            has_head: false,
            end: End::Reset,
            ..Reply::new(200, ReplyFraming::Length)
        }
    }

    /// The connection is closed before any byte of an answer.
    pub fn hang_up() -> Reply {
        Reply {
            has_head: false,
            end: End::Close,
            ..Reply::new(200, ReplyFraming::Length)
        }
    }

    /// Silence.
    pub fn silence() -> Reply {
        Reply {
            has_head: false,
            end: End::Stall,
            ..Reply::new(200, ReplyFraming::Length)
        }
    }

    /// Switches protocols as asked, and then sends every byte back.
    pub fn upgrade_and_echo() -> Reply {
        Reply::from_call(|call| {
            let mut text = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n".to_owned();
            for name in ["upgrade", "sec-websocket-protocol"] {
                let value = call.header(name).and_then(|value| value.split(',').next());
                text += &value
                    .map(|value| format!("{name}: {value}\r\n"))
                    .unwrap_or_default();
            }
            text += "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
            Reply {
                end: End::Echo,
                ..Reply::verbatim(text).after(ROUND_TRIP)
            }
        })
    }

    /// A reply made from the call.
    pub fn from_call(answering: impl Fn(&Call) -> Reply + Send + Sync + 'static) -> Reply {
        Reply {
            answering: Some(Arc::new(answering)),
            ..Reply::new(200, ReplyFraming::Length)
        }
    }

    /// Closes the connection after the reply, whatever was promised.
    pub fn then_close(mut self) -> Reply {
        self.end = End::Close;
        self
    }

    pub fn status(mut self, status: u16) -> Reply {
        self.status = status;
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Nothing goes out before `time` is over.
    pub fn after(mut self, time: Duration) -> Reply {
        self.before_head.push(Part::Wait(time));
        self
    }

    /// Nothing goes out before the gate opens.
    pub fn behind(mut self, gate: &Gate) -> Reply {
        self.before_head.push(Part::Gate(gate.clone()));
        self
    }

    /// The body waits for the gate after its first `pieces` pieces (0: after the head).
    pub fn gate_after(mut self, pieces: usize, gate: &Gate) -> Reply {
        self.body.insert(pieces, Part::Gate(gate.clone()));
        self
    }

    /// Every piece of the body waits so long before it goes out.
    pub fn paced(mut self, time: Duration) -> Reply {
        self.body = self
            .body
            .into_iter()
            .flat_map(|part| [Part::Wait(time), part])
            .collect();
        self
    }

    /// The socket is closed after the first `pieces` pieces, without a final chunk.
    pub fn cut_after(self, pieces: usize) -> Reply {
        self.ending_after(pieces, End::Close)
    }

    /// As [`cut_after`](Self::cut_after), by a reset.
    pub fn reset_after(self, pieces: usize) -> Reply {
        self.ending_after(pieces, End::Reset)
    }

    /// Nothing follows the first `pieces` pieces, and the socket stays open.
    pub fn stall_after(self, pieces: usize) -> Reply {
        self.ending_after(pieces, End::Stall)
    }

    fn ending_after(mut self, pieces: usize, end: End) -> Reply {
        self.body.truncate(pieces);
        self.end = end;
        self
    }

    pub(super) fn resolve(self, call: &Call) -> Reply {
        match &self.answering {
            Some(answering) => answering(call),
            None => self,
        }
    }

    pub(super) fn end(&self) -> End {
        self.end
    }

    /// What goes over the wire, in order.
    pub(super) fn parts(&self) -> Vec<Part> {
        let mut parts = self.before_head.clone();
        if let Some(bytes) = &self.verbatim {
            parts.push(Part::Bytes(bytes.clone()));
            return parts;
        }
        if !self.has_head {
            return parts;
        }
        parts.push(Part::Bytes(self.head_bytes()));
        for part in &self.body {
            parts.push(match part {
                Part::Bytes(bytes) if self.framing == ReplyFraming::Chunked => {
                    Part::Bytes(as_chunk(bytes))
                }
                other => other.clone(),
            });
        }
        if self.framing == ReplyFraming::Chunked && self.end == End::Clean {
            parts.push(Part::Bytes(b"0\r\n\r\n".to_vec()));
        }
        parts
    }

    fn head_bytes(&self) -> Vec<u8> {
        let mut text = format!("HTTP/1.1 {} Scripted\r\n", self.status);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        let has_length = self
            .headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        match self.framing {
            ReplyFraming::Chunked => text += "transfer-encoding: chunked\r\n",
            ReplyFraming::Length if self.status != 204 && self.status != 304 && !has_length => {
                let length: usize = self
                    .body
                    .iter()
                    .map(|part| {
                        if let Part::Bytes(bytes) = part {
                            bytes.len()
                        } else {
                            0
                        }
                    })
                    .sum();
                text += &format!("content-length: {length}\r\n");
            }
            ReplyFraming::Length | ReplyFraming::UntilClose => {}
        }
        (text + "\r\n").into_bytes()
    }
}
