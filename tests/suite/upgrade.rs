//! How a process ends: in favour of a new one, drained, or cut when its patience is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tests::gateway::run;
use tests::http::Framing;
use tests::http2::{Http2Connection, StreamEnd};
use tests::shapes::{CHAT, chat, chat_answer};
use tests::sse::chat_stream;
use tests::tls::TestCertificate;
use tests::{
    Config, Connection, Ending, Gate, Reply, Request, ScriptedUpstream, TestGateway, eventually,
};
use tokio::time::Instant;

/// How long callers keep coming: before, while and after the listeners change hands.
const RUSH: Duration = Duration::from_secs(4);
const CALLERS: usize = 4;

fn whole() -> Reply {
    Reply::json(200, &chat_answer("gpt-4o-mini", "hello", 11, 3))
}

fn stream() -> Request {
    Request::post(CHAT, &chat("gpt-4o-mini", true))
}

/// An upstream whose streams stop after two events until the gate opens, and a gateway before it.
struct Place {
    gateway: TestGateway,
    upstream: ScriptedUpstream,
    events: Vec<Vec<u8>>,
    gate: Gate,
}

async fn place(config: Config) -> Place {
    let events = chat_stream(&["one", " two", " three"]);
    let gate = Gate::closed();
    let upstream = ScriptedUpstream::start().await;
    upstream.always("/v1/chat", Reply::sse(events.clone()).gate_after(2, &gate));
    upstream.always("/v1/models", whole());
    upstream.always("/v1/realtime", Reply::upgrade_and_echo());
    let config = config.provider("openai", &upstream.url("/v1"));
    Place {
        gateway: TestGateway::start(config).await,
        upstream,
        events,
        gate,
    }
}

impl Place {
    /// A stream of which two events have arrived.
    async fn begun(&self) -> (Connection, tests::client::Arriving) {
        let mut connection = Connection::open(self.gateway.server).await;
        connection.send(&stream()).await;
        let mut arriving = connection.head("POST").await;
        connection.read_until(&mut arriving, &self.events[1]).await;
        (connection, arriving)
    }
}

/// One new connection with one request; what went wrong, if something did.
async fn call(server: std::net::SocketAddr) -> Result<(), String> {
    let connected = tokio::net::TcpStream::connect(server).await;
    drop(connected.map_err(|error| format!("refused: {error}"))?);
    let mut connection = Connection::open(server).await;
    connection
        .send(&Request::get("/v1/default/default/openai/models"))
        .await;
    let arriving = connection
        .try_head("GET")
        .await
        .map_err(|error| format!("no answer: {error}"))?;
    let answer = connection.rest(arriving).await;
    match (answer.status, answer.ending.clone()) {
        (200, Ending::Whole) => Ok(()),
        other => Err(format!("{other:?}: {}", answer.text())),
    }
}

#[tokio::test]
async fn an_upgrade_refuses_nobody_and_finishes_what_was_begun() {
    let mut old = place(Config::new()).await;
    let (mut connection, arriving) = old.begun().await;
    let server = old.gateway.server;
    let over = Arc::new(AtomicBool::new(false));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let over = over.clone();
        callers.spawn(async move {
            let (mut served, mut failed) = (0, Vec::new());
            while !over.load(Ordering::Relaxed) {
                match call(server).await {
                    Ok(()) => served += 1,
                    Err(fault) => failed.push(fault),
                }
            }
            (served, failed)
        });
    }
    let begun_at = Instant::now();
    let new = old.gateway.upgrade().await;
    assert_eq!((new.server, new.admin), (server, old.gateway.admin));
    old.gateway.logged("leaving").await;
    // The old process lives as long as its stream does, and takes nobody new meanwhile.
    eventually("a request of the new process", async || {
        (new.metric("gateway_requests_total").await > 0.0).then_some(())
    })
    .await;
    tokio::time::sleep_until(begun_at + RUSH).await;
    over.store(true, Ordering::Relaxed);
    let mut served = 0;
    for (count, failed) in callers.join_all().await {
        assert!(failed.is_empty(), "{} failed: {failed:#?}", failed.len());
        served += count;
    }
    assert!(served > 50, "only {served} calls in {RUSH:?}");
    old.gate.open();
    let answer = connection.rest(arriving).await;
    assert_eq!(
        (answer.ending, answer.body),
        (Ending::Whole, old.events[2..].concat())
    );
    let status = old.gateway.exit().await;
    assert!(status.success(), "{status}: {}", old.gateway.stderr());
    // One store has the rows of both: each call once, and the stream that outlived its process's time.
    let rows = new.rows("default", "default", served + 1).await;
    let mut ids: Vec<&str> = rows.iter().map(|row| row.text("id")).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((rows.len(), ids.len()), (served + 1, served + 1));
    assert!(rows.iter().all(|row| row.is("success")));
    new.send(&Request::get("/v1/default/default/openai/models"))
        .await
        .expect_status(200);
    assert_eq!(old.upstream.call_count(), served + 2);
}

#[tokio::test]
async fn an_upgraded_process_can_be_upgraded_again() {
    let place = place(Config::new()).await;
    let mut running = place.gateway;
    for _ in 0..2 {
        let next = running.upgrade().await;
        assert!(running.exit().await.success());
        next.send(&Request::get("/v1/default/default/openai/models"))
            .await
            .expect_status(200);
        running = next;
    }
}

#[tokio::test]
async fn without_a_successor_sigquit_changes_nothing() {
    let place = place(Config::new()).await;
    place.gateway.signal("QUIT");
    place.gateway.logged("the hand-over failed").await;
    assert_eq!(call(place.gateway.server).await, Ok(()));
}

#[tokio::test]
async fn a_successor_that_cannot_run_leaves_the_old_process_in_place() {
    let files = tempfile::tempdir().expect("a temporary folder");
    let certificate = TestCertificate::of(&["localhost"]);
    let (cert, key) = certificate.write(files.path());
    let config = Config::new()
        .set("server.tls", &format!("cert = {cert:?}"))
        .set("server.tls", &format!("key = {key:?}"));
    let place = place(config).await;
    let request = Request::get("/v1/default/default/openai/models");
    certificate
        .send_http1(place.gateway.server, &request)
        .await
        .expect_status(200);
    std::fs::write(&cert, "no certificate").expect("a writable folder");
    let arguments = ["serve", "--config", "config.toml", "--upgrade"];
    let (status, _, stderr) = run(&arguments, place.gateway.folder()).await;
    assert!(!status.success() && stderr.contains("cert.pem"), "{stderr}");
    certificate
        .send_http1(place.gateway.server, &request)
        .await
        .expect_status(200);
}

#[tokio::test]
async fn a_caller_who_was_let_in_before_sigterm_is_still_answered() {
    let mut place = place(Config::new()).await;
    let mut judged = 0;
    // Which of two things came first is known only when the machine was quick enough.
    for _ in 0..20 {
        let mut early = Connection::open(place.gateway.server).await;
        place.gateway.admin("/healthz").await.expect_status(200);
        place.gateway.signal("TERM");
        place.gateway.logged("leaving").await;
        let asked = Instant::now();
        early
            .send(&Request::get("/v1/default/default/openai/models"))
            .await;
        let is_in_time = asked.elapsed() < Duration::from_millis(100);
        let head = early.try_head("GET").await;
        if is_in_time {
            let status = head.as_ref().map(|head| head.status);
            assert!(matches!(status, Ok(200)), "{:?}", head.err());
            judged += 1;
        }
        assert!(place.gateway.exit().await.success());
        if judged == 3 {
            return;
        }
        place.gateway = place.gateway.kill_and_restart().await;
    }
    panic!("the machine was never quick enough to judge");
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_the_end() {
    let mut place = place(Config::new()).await;
    let mut idle = Vec::new();
    for has_called in [true, false] {
        let mut connection = Connection::open(place.gateway.server).await;
        if has_called {
            let request = Request::get("/v1/default/default/openai/models");
            connection.send(&request).await;
            connection.answer("GET").await.expect_status(200);
        }
        idle.push(connection);
    }
    let asked = Instant::now();
    place.gateway.signal("TERM");
    assert!(place.gateway.exit().await.success());
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(10), "it took {took:?}");
    for connection in idle {
        connection.closed_by_peer().await;
    }
}

#[tokio::test]
async fn a_stream_over_http2_is_drained_to_its_last_frame() {
    let files = tempfile::tempdir().expect("a temporary folder");
    let certificate = TestCertificate::of(&["localhost"]);
    let (cert, key) = certificate.write(files.path());
    let config = Config::new()
        .set("server.tls", &format!("cert = {cert:?}"))
        .set("server.tls", &format!("key = {key:?}"));
    let mut place = place(config).await;
    let tls = certificate.connect(place.gateway.server, &["h2"]).await;
    let connection = Http2Connection::over(tls).await;
    let mut answer = connection.send("localhost", &stream()).await;
    answer.read_until(&place.events[1]).await;
    place.gateway.signal("TERM");
    place.gateway.logged("leaving").await;
    place.gate.open();
    assert_eq!(
        answer.rest().await,
        (place.events[2..].concat(), StreamEnd::Whole)
    );
    let status = place.gateway.exit().await;
    assert!(status.success(), "{status}: {}", place.gateway.stderr());
}

#[tokio::test]
async fn a_socket_is_drained_too() {
    let mut place = place(Config::new()).await;
    let mut connection = Connection::open(place.gateway.server).await;
    let upgrade = Request::get("/v1/default/default/openai/realtime?model=gpt-realtime")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    connection.send(&upgrade).await;
    let mut arriving = connection.head("GET").await;
    assert_eq!(arriving.status, 101);
    arriving.becomes(Framing::UntilClose);
    place.gateway.signal("TERM");
    place.gateway.logged("leaving").await;
    // Nothing listens any more, and the frames still pass.
    eventually("the listener to close", async || {
        let refused = tokio::net::TcpStream::connect(place.gateway.server).await;
        refused.is_err().then_some(())
    })
    .await;
    let frame = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    connection.write(frame).await.expect("the socket is open");
    assert_eq!(connection.read_until(&mut arriving, frame).await, frame);
    connection.leave();
    let status = place.gateway.exit().await;
    assert!(status.success(), "{status}: {}", place.gateway.stderr());
}

#[tokio::test]
async fn a_stream_longer_than_the_drain_timeout_is_cut_and_seen_to_be() {
    let mut place = place(Config::new().set("server", "drain_timeout_ms = 500")).await;
    let (mut connection, arriving) = place.begun().await;
    let asked = Instant::now();
    place.gateway.signal("TERM");
    let answer = connection.rest(arriving).await;
    assert_eq!(answer.ending, Ending::Cut);
    assert!(!answer.text().contains("[DONE]"), "{}", answer.text());
    let took = asked.elapsed();
    assert!(took >= Duration::from_millis(500), "cut after {took:?}");
    let status = place.gateway.exit().await;
    assert!(status.success(), "{status}: {}", place.gateway.stderr());
    assert!(place.gateway.stderr().contains("they are cut"));
    // Cut, and still on record as what it was: begun, not whole.
    let store = tests::database::Sqlite(&place.gateway).connect();
    let row: (i64, bool, String) = store
        .query_row(
            "SELECT count(*), max(success), max(error_code) FROM attempts",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .expect("the store can be read");
    assert_eq!(row, (1, false, "client_gone".to_owned()));
}
