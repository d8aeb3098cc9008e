//! A provider that does exactly what a test tells it to, and remembers everything it was sent.
//!
//! Plain HTTP/1.1 over TCP, written by hand so that broken framing, resets, stalls and odd chunk cuts
//! are as easy as good answers. Replies are chosen by the longest matching path prefix; a queued
//! reply ([`ScriptedUpstream::then`]) goes before the standing one ([`ScriptedUpstream::always`]).

mod reply;
#[cfg(test)]
mod tests;

pub use reply::{Gate, Reply};

use crate::eventually;
use crate::http::{Framing, Head, WireReader, header};
use reply::{End, Part};
use serde_json::Value;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: String,
    /// Path and query, as sent.
    pub target: String,
    /// In the order and spelling of the wire.
    pub headers: Vec<(String, String)>,
    pub framing: Framing,
    pub body: Vec<u8>,
    /// When the whole request had arrived.
    pub at: Instant,
    /// When the gateway closed the connection this call came on.
    pub closed_at: Option<Instant>,
    /// Whether the scripted reply was written to its end.
    pub replied: bool,
}

impl Call {
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }
}

#[derive(Default)]
struct Script {
    rules: Vec<Rule>,
    calls: Vec<Call>,
}

struct Rule {
    prefix: String,
    queue: VecDeque<Reply>,
    standing: Option<Reply>,
}

/// A running upstream. It answers 500 with a clear text where the script has nothing.
pub struct ScriptedUpstream {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Drop for ScriptedUpstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl ScriptedUpstream {
    pub async fn start() -> ScriptedUpstream {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let script = Arc::new(Mutex::new(Script::default()));
        let accepting = tokio::spawn(accept(listener, script.clone()));
        ScriptedUpstream {
            address,
            script,
            accepting,
        }
    }

    /// An upstream that answers everything with `reply`.
    pub async fn replying(reply: Reply) -> ScriptedUpstream {
        let upstream = ScriptedUpstream::start().await;
        upstream.always("/", reply);
        upstream
    }

    /// A base URL for the gateway's configuration.
    pub fn url(&self, base_path: &str) -> String {
        format!("http://{}{base_path}", self.address)
    }

    /// The host and port the gateway must name in `host`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The standing reply for paths that begin with `prefix`.
    pub fn always(&self, prefix: &str, reply: Reply) {
        self.rule(prefix, |rule| rule.standing = Some(reply));
    }

    /// One more reply for `prefix`, given once, before the standing one.
    pub fn then(&self, prefix: &str, reply: Reply) {
        self.rule(prefix, |rule| rule.queue.push_back(reply));
    }

    fn rule(&self, prefix: &str, change: impl FnOnce(&mut Rule)) {
        let mut script = locked(&self.script);
        if let Some(rule) = script.rules.iter_mut().find(|rule| rule.prefix == prefix) {
            return change(rule);
        }
        let mut rule = Rule {
            prefix: prefix.to_owned(),
            queue: VecDeque::new(),
            standing: None,
        };
        change(&mut rule);
        script.rules.push(rule);
        script
            .rules
            .sort_by_key(|rule| std::cmp::Reverse(rule.prefix.len()));
    }

    pub fn calls(&self) -> Vec<Call> {
        locked(&self.script).calls.clone()
    }

    pub fn call_count(&self) -> usize {
        locked(&self.script).calls.len()
    }

    /// The only call there was.
    #[track_caller]
    pub fn only_call(&self) -> Call {
        let mut calls = self.calls();
        assert_eq!(calls.len(), 1, "calls: {calls:#?}");
        calls.remove(0)
    }

    pub fn forget_calls(&self) {
        locked(&self.script).calls.clear();
    }

    pub async fn wait_for_calls(&self, count: usize) {
        eventually(&format!("{count} calls"), async || {
            (self.call_count() >= count).then_some(())
        })
        .await;
    }

    /// Waits until the gateway has closed the connections of all calls.
    pub async fn wait_until_left(&self) -> Vec<Call> {
        eventually("the gateway to leave its upstream", async || {
            let calls = self.calls();
            calls
                .iter()
                .all(|call| call.closed_at.is_some())
                .then_some(calls)
        })
        .await
    }
}

/// A port where nothing listens.
pub fn closed_port() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound socket")
}

fn locked(script: &Mutex<Script>) -> MutexGuard<'_, Script> {
    script.lock().expect("no holder panics")
}

async fn accept(listener: TcpListener, script: Arc<Mutex<Script>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let script = script.clone();
        tokio::spawn(async move {
            let mut indices = Vec::new();
            let _ = converse(stream, &script, &mut indices).await;
            let closed_at = Instant::now();
            let mut script = locked(&script);
            for index in indices {
                if let Some(call) = script.calls.get_mut(index) {
                    call.closed_at.get_or_insert(closed_at);
                }
            }
        });
    }
}

/// Serves one connection until either side ends it. `indices` collects which calls came on it.
async fn converse(
    stream: TcpStream,
    script: &Mutex<Script>,
    indices: &mut Vec<usize>,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut reader = WireReader::new(read);
    while let Some(head) = reader.head().await? {
        if head.header("expect").is_some() {
            write.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let framing = head.request_framing();
        let body = reader.body(framing).await?;
        let (index, reply) = record(script, head, framing, body);
        indices.push(index);
        // While the reply is written the other half is watched, so that a gateway that leaves is
        // seen at once and not at the next write.
        let go_on = tokio::select! {
            done = perform(&reply, &mut write) => done?,
            _ = left(&mut reader) => return Ok(()),
        };
        if let Some(call) = locked(script).calls.get_mut(index) {
            call.replied = true;
        }
        match go_on {
            End::Clean => {}
            End::Stall => {
                left(&mut reader).await;
                return Ok(());
            }
            End::Close => return Ok(()),
            End::Echo => return echo(&mut reader, &mut write).await,
            End::Reset => {
                let stream = read_write(reader, write);
                stream.set_zero_linger()?;
                return Ok(());
            }
        }
    }
    Ok(())
}

fn read_write(reader: WireReader<OwnedReadHalf>, write: OwnedWriteHalf) -> TcpStream {
    reader
        .into_inner()
        .reunite(write)
        .expect("both halves are of one stream")
}

async fn echo(
    reader: &mut WireReader<OwnedReadHalf>,
    write: &mut OwnedWriteHalf,
) -> std::io::Result<()> {
    let mut unused = 0;
    while let Some(piece) = reader.piece(Framing::UntilClose, &mut unused).await? {
        write.write_all(&piece).await?;
    }
    Ok(())
}

async fn left(reader: &mut WireReader<OwnedReadHalf>) {
    while let Ok(true) = reader.fill().await {}
}

fn record(script: &Mutex<Script>, head: Head, framing: Framing, body: Vec<u8>) -> (usize, Reply) {
    let mut words = head.start_line.split(' ');
    let call = Call {
        method: words.next().unwrap_or_default().to_owned(),
        target: words.next().unwrap_or_default().to_owned(),
        headers: head.headers,
        framing,
        body,
        at: Instant::now(),
        closed_at: None,
        replied: false,
    };
    let mut script = locked(script);
    let rule = script
        .rules
        .iter_mut()
        .find(|rule| call.target.starts_with(&rule.prefix));
    let reply = rule.and_then(|rule| rule.queue.pop_front().or_else(|| rule.standing.clone()));
    let reply = reply.unwrap_or_else(|| {
        Reply::bytes(
            500,
            "text/plain",
            format!("the test has no reply for {} {}", call.method, call.target),
        )
    });
    let reply = reply.resolve(&call);
    script.calls.push(call);
    (script.calls.len() - 1, reply)
}

async fn perform(reply: &Reply, write: &mut OwnedWriteHalf) -> std::io::Result<End> {
    for part in reply.parts() {
        match part {
            Part::Bytes(bytes) => write.write_all(&bytes).await?,
            Part::Wait(time) => tokio::time::sleep(time).await,
            Part::Gate(gate) => gate.opened().await,
        }
    }
    write.flush().await?;
    Ok(reply.end())
}
