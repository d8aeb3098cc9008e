//! TLS in front from files, HTTP/2 over it, and the certificates of providers.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;
use tests::gateway::run;
use tests::http2::{Http2Connection, StreamEnd};
use tests::shapes::{CHAT, chat, chat_answer};
use tests::sse::chat_stream;
use tests::tls::TestCertificate;
use tests::{Config, Ending, Gate, Reply, Request, ScriptedUpstream, TestGateway};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

/// A gateway with TLS in front of `upstream`.
struct Front {
    gateway: TestGateway,
    certificate: TestCertificate,
    _files: TempDir,
}

fn with_files(config: Config, files: &Path, certificate: &TestCertificate) -> Config {
    let (cert, key) = certificate.write(files);
    config
        .set("server.tls", &format!("cert = {cert:?}"))
        .set("server.tls", &format!("key = {key:?}"))
}

async fn front(upstream: &ScriptedUpstream, config: Config) -> Front {
    let files = tempfile::tempdir().expect("a temporary folder");
    let certificate = TestCertificate::of(&["localhost"]);
    let config = config.provider("openai", &upstream.url("/v1"));
    Front {
        gateway: TestGateway::start(with_files(config, files.path(), &certificate)).await,
        certificate,
        _files: files,
    }
}

impl Front {
    async fn http2(&self) -> Http2Connection {
        let stream = self.certificate.connect(self.gateway.server, &["h2"]).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        Http2Connection::over(stream).await
    }
}

fn request(stream: bool) -> Request {
    Request::post(CHAT, &chat("gpt-4o-mini", stream)).header("authorization", "Bearer sk-test")
}

fn whole() -> Reply {
    Reply::json(200, &chat_answer("gpt-4o-mini", "hello", 11, 3))
}

#[tokio::test]
async fn callers_choose_their_http_by_alpn() {
    let upstream = ScriptedUpstream::replying(whole()).await;
    let front = front(&upstream, Config::new()).await;
    for (offered, chosen) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["h2"], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let stream = front
            .certificate
            .connect(front.gateway.server, offered)
            .await;
        let agreed = stream.get_ref().1.alpn_protocol();
        assert_eq!(agreed, chosen.map(str::as_bytes), "{offered:?}");
    }
    let answer = front
        .certificate
        .send_http1(front.gateway.server, &request(false))
        .await
        .expect_status(200);
    assert_eq!(answer.ending, Ending::Whole);
    assert_eq!(answer.json()["object"], "chat.completion");
    let connection = front.http2().await;
    let mut answer = connection.send("localhost", &request(false)).await;
    assert_eq!(answer.status, 200);
    assert!(answer.headers.contains_key("cf-aig-log-id"));
    let hop_by_hop = ["connection", "transfer-encoding", "keep-alive"];
    assert!(
        hop_by_hop
            .iter()
            .all(|name| !answer.headers.contains_key(*name))
    );
    assert!(answer.read_until(b"}").await.starts_with(b"{"));
    // What went upstream is the same whichever way it came.
    let calls = upstream.calls();
    assert_eq!(calls.len(), 2);
    let essence = |index: usize| {
        let call = &calls[index];
        let credential = call.header("authorization").map(str::to_owned);
        (call.target.clone(), credential, call.body.clone())
    };
    assert_eq!(essence(0), essence(1));
    assert_eq!(calls[1].header("host"), Some(upstream.host().as_str()));
}

#[tokio::test]
async fn http2_can_be_switched_off() {
    let upstream = ScriptedUpstream::replying(whole()).await;
    let front = front(&upstream, Config::new().set("server", "http2 = false")).await;
    let stream = front
        .certificate
        .connect(front.gateway.server, &["http/1.1"])
        .await;
    assert_ne!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    front
        .certificate
        .send_http1(front.gateway.server, &request(false))
        .await
        .expect_status(200);
}

#[tokio::test]
async fn many_requests_share_one_http2_connection() {
    let gate = Gate::closed();
    let upstream = ScriptedUpstream::replying(whole().behind(&gate)).await;
    let front = front(&upstream, Config::new()).await;
    let connection = Arc::new(front.http2().await);
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let connection = connection.clone();
        callers.spawn(async move {
            let answer = connection.send("localhost", &request(false)).await;
            let status = answer.status;
            (status, answer.rest().await.1)
        });
    }
    // All of them are under way before the first is answered.
    upstream.wait_for_calls(20).await;
    gate.open();
    for answer in callers.join_all().await {
        assert_eq!(answer, (200, StreamEnd::Whole));
    }
}

#[tokio::test]
async fn events_arrive_over_http2_one_by_one_as_they_are_sent() {
    let events = chat_stream(&["one", " two", " three"]);
    let gates: Vec<Gate> = events.iter().map(|_| Gate::closed()).collect();
    let mut reply = Reply::sse(events.clone());
    // From the last to the first, because a gate moves what stands behind it.
    for (index, gate) in gates.iter().enumerate().rev() {
        reply = reply.gate_after(index, gate);
    }
    let upstream = ScriptedUpstream::replying(reply).await;
    let front = front(&upstream, Config::new()).await;
    let connection = front.http2().await;
    gates[0].open();
    let mut answer = connection.send("localhost", &request(true)).await;
    assert_eq!(answer.status, 200);
    for (index, event) in events.iter().enumerate() {
        // The next event is not sent before this one was seen; but the very last byte of a whole
        // answer is released only with its end.
        gates[index].open();
        let is_last = index + 1 == events.len();
        if is_last {
            break;
        }
        assert_eq!(
            String::from_utf8_lossy(&answer.read_until(b"\n\n").await),
            String::from_utf8_lossy(event)
        );
    }
    let (rest, end) = answer.rest().await;
    assert_eq!(
        (rest, end),
        (events[events.len() - 1].clone(), StreamEnd::Whole)
    );
}

#[tokio::test]
async fn a_stream_cut_upstream_is_reset_over_http2_and_its_connection_lives_on() {
    let events = chat_stream(&["one", " two", " three"]);
    let upstream = ScriptedUpstream::start().await;
    for cut in [
        Reply::sse(events.clone()).cut_after(2),
        Reply::sse(events.clone()).reset_after(2),
    ] {
        upstream.then("/", cut);
    }
    upstream.always("/", whole());
    let front = front(&upstream, Config::new()).await;
    let connection = front.http2().await;
    for _ in 0..2 {
        let answer = connection.send("localhost", &request(true)).await;
        assert_eq!(answer.status, 200);
        let (body, end) = answer.rest().await;
        assert!(matches!(end, StreamEnd::Reset(_)), "{end:?}");
        let text = String::from_utf8_lossy(&body).into_owned();
        assert!(body.starts_with(&events[..2].concat()), "{text}");
        assert!(
            text.contains("\"error\"") && !text.contains("[DONE]"),
            "{text}"
        );
    }
    let answer = connection.send("localhost", &request(false)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.rest().await.1, StreamEnd::Whole);
}

#[tokio::test]
async fn a_caller_who_cancels_an_http2_stream_ends_the_call_upstream() {
    let events = chat_stream(&["one", " two", " three"]);
    let upstream = ScriptedUpstream::replying(Reply::sse(events.clone()).stall_after(2)).await;
    let front = front(&upstream, Config::new()).await;
    let connection = front.http2().await;
    let mut answer = connection.send("localhost", &request(true)).await;
    answer.read_until(&events[1]).await;
    drop(answer);
    upstream.wait_until_left().await;
}

#[tokio::test]
async fn a_foreign_host_is_refused_over_http2_too() {
    let upstream = ScriptedUpstream::replying(whole()).await;
    let front = front(&upstream, Config::new()).await;
    let connection = front.http2().await;
    let answer = connection.send("evil.example", &request(false)).await;
    assert!(matches!(answer.status, 401 | 403), "{}", answer.status);
    let foreign = request(false).header("origin", "https://evil.example");
    let answer = connection.send("localhost", &foreign).await;
    assert!(matches!(answer.status, 401 | 403), "{}", answer.status);
    assert_eq!(upstream.call_count(), 0);
}

#[tokio::test]
async fn files_that_are_no_certificate_are_refused_at_start_with_their_names() {
    let files = tempfile::tempdir().expect("a temporary folder");
    let certificate = TestCertificate::of(&["localhost"]);
    let config = with_files(Config::new(), files.path(), &certificate);
    std::fs::write(
        files.path().join("config.toml"),
        config.render(files.path()),
    )
    .expect("a writable folder");
    let other = TestCertificate::of(&["localhost"]);
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let (_, foreign_key) = other.write(elsewhere.path());
    let cert = files.path().join("cert.pem");
    let key = files.path().join("key.pem");
    let good = std::fs::read(&cert).expect("just written");
    let spoil: [(&str, &dyn Fn()); 4] = [
        ("no certificate in it", &|| {
            std::fs::write(&cert, "nothing").expect("a writable folder")
        }),
        ("no certificate there", &|| {
            std::fs::remove_file(&cert).expect("it was there")
        }),
        ("the key of another", &|| {
            std::fs::write(&cert, &good).expect("a writable folder");
            std::fs::copy(&foreign_key, &key).expect("a writable folder");
        }),
        ("no key in it", &|| {
            std::fs::write(&key, "nothing").expect("a writable folder")
        }),
    ];
    for (what, spoil) in spoil {
        spoil();
        for command in ["serve", "check-config"] {
            let (status, stdout, stderr) =
                run(&[command, "--config", "config.toml"], files.path()).await;
            assert!(!status.success(), "{command}, {what}: {stdout}");
            assert!(!stderr.contains("panicked"), "{what}: {stderr}");
            assert!(
                stderr.contains(".pem"),
                "{what}: no file is named: {stderr}"
            );
        }
    }
}

/// A provider over TLS that answers every request with 200, and counts what it could read.
async fn tls_upstream(certificate: &TestCertificate) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    let acceptor = TlsAcceptor::from(certificate.server());
    let read = Arc::new(AtomicUsize::new(0));
    let count = read.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, count) = (acceptor.clone(), count.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                let mut head = Vec::new();
                while tests::http::find(&head, b"\r\n\r\n").is_none() {
                    if !matches!(stream.read_buf(&mut head).await, Ok(1..)) {
                        return;
                    }
                    count.store(head.len(), Ordering::SeqCst);
                }
                let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
                if stream.write_all(answer.as_bytes()).await.is_ok() {
                    let _ = stream.shutdown().await;
                }
            });
        }
    });
    (address, read)
}

#[tokio::test]
async fn a_provider_whose_certificate_nobody_vouches_for_is_not_spoken_to() {
    let request = Request::get("/v1/default/default/openai/models")
        .header("authorization", "Bearer canary-key");
    let right = ["127.0.0.1", "localhost"];
    let wrong = ["other.example"];
    for (names, is_trusted, answers) in [
        (&right[..], false, false),
        (&wrong[..], true, false),
        // The same provider under the same name is fine once the machine trusts it: what is
        // refused above is refused for its certificate and for nothing else.
        (&right[..], true, true),
    ] {
        let certificate = TestCertificate::of(names);
        let (address, read) = tls_upstream(&certificate).await;
        let files = tempfile::tempdir().expect("a temporary folder");
        let (cert, _) = certificate.write(files.path());
        let cert = cert.to_str().expect("a path of ours");
        let environment = [("SSL_CERT_FILE", cert)];
        let config = Config::new().provider("openai", &format!("https://{address}/v1"));
        let gateway =
            TestGateway::start_with(config, if is_trusted { &environment } else { &[] }).await;
        let answer = gateway.send(&request).await;
        let case = format!("{names:?}, trusted: {is_trusted}: {}", answer.text());
        if answers {
            assert_eq!(answer.status, 200, "{case}");
            assert!(read.load(Ordering::SeqCst) > 0);
            continue;
        }
        assert_eq!(
            (answer.status, answer.error_code()),
            (502, Some(2005)),
            "{case}"
        );
        let row = gateway.rows_of(&answer, 1).await.remove(0);
        assert_eq!(row.status(), 0, "no answer came from upstream");
        assert!(!row.is("success"));
        assert_eq!(
            read.load(Ordering::SeqCst),
            0,
            "{case}: it was sent something"
        );
    }
}

#[tokio::test]
async fn no_setting_switches_the_check_of_certificates_off() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for line in [
        "tls_verify = false",
        "insecure = true",
        "verify_cert = false",
    ] {
        let config = Config::new()
            .provider("openai", "https://127.0.0.1:1/v1")
            .set("providers.openai", line);
        std::fs::write(
            folder.path().join("config.toml"),
            config.render(folder.path()),
        )
        .expect("a writable folder");
        let (status, _, stderr) =
            run(&["check-config", "--config", "config.toml"], folder.path()).await;
        assert!(!status.success(), "{line} is taken: {stderr}");
    }
}
