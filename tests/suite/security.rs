//! What may not pass: gateway tokens upstream, stored keys anywhere else, headers from JSON onto the
//! wire, pages of other sites, and orders to a terminal.

use serde_json::{Value, json};
use tests::gateway::run;
use tests::http::find;
use tests::shapes::{CHAT, UNIVERSAL, chat, chat_answer, step};
use tests::sse::Seeded;
use tests::{
    Config, Connection, Reply, Request, ScriptedUpstream, TestGateway, client, eventually,
};

const STORED: &str = "canary-stored-key";
const OPEN: &str = "/v1/default/open/openai/chat/completions";

fn ok() -> Reply {
    Reply::json(200, &chat_answer("gpt-4o-mini", "hello", 11, 3))
}

fn request() -> Request {
    Request::post(CHAT, &chat("gpt-4o-mini", false))
}

async fn place(config: Config) -> (TestGateway, ScriptedUpstream) {
    let upstream = ScriptedUpstream::replying(ok()).await;
    upstream.always("/v1/realtime", Reply::upgrade_and_echo());
    let config = config
        .provider("openai", &upstream.url("/v1"))
        .provider("google-ai-studio", &upstream.url(""))
        .gateway("default", "open", "authentication = false");
    (TestGateway::start(config).await, upstream)
}

/// Makes a token as an operator does, and waits until the running gateway knows it.
async fn token(gateway: &TestGateway) -> String {
    let line = ["token", "create", "--config", "config.toml", "--label", "t"];
    let (status, stdout, stderr) = run(&line, gateway.folder()).await;
    assert!(status.success(), "{stderr}");
    eventually("the gateway to ask for tokens", async || {
        (gateway.send(&request()).await.status == 401).then_some(())
    })
    .await;
    stdout.trim().to_owned()
}

fn upgrade(target: &str) -> Request {
    Request::get(target)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
}

#[tokio::test]
async fn a_gateway_token_goes_upstream_in_no_header_query_or_entry() {
    let (gateway, upstream) = place(Config::new()).await;
    let token = token(&gateway).await;
    let bearer = format!("Bearer {token}");
    let mut requests = Vec::new();
    for name in [
        "cf-aig-authorization",
        "authorization",
        "x-api-key",
        "x-goog-api-key",
        "api-key",
        "xi-api-key",
        "x-auth-key",
    ] {
        for value in [&token, &bearer] {
            requests.push(
                Request::post(OPEN, &chat("gpt-4o-mini", false))
                    .header(name, value)
                    .header("x-kept", "1"),
            );
        }
    }
    for name in ["key", "api_key", "access_token"] {
        let target = format!("{OPEN}?x-kept=1&{name}={token}");
        requests.push(Request::post(&target, &chat("gpt-4o-mini", false)));
    }
    let open = UNIVERSAL.replace("default/default", "default/open");
    for (name, endpoint) in [
        ("authorization", "x-kept"),
        ("x-api-key", "x-kept"),
        ("cf-aig-authorization", "x-kept"),
        ("x-other", &format!("x-kept?key={token}")),
        ("x-other", &format!("x-kept?a=1&api_key={token}")),
    ] {
        let mut entry = step("openai", endpoint, chat("gpt-4o-mini", false), 1);
        let value = if name == "x-other" { "1" } else { &bearer };
        entry["headers"] = json!({name: value});
        requests.push(Request::post(&open, &json!([entry])));
    }
    for request in requests {
        upstream.forget_calls();
        gateway.send(&request).await.expect_status(200);
        let call = format!("{:?}", upstream.only_call());
        let sent = format!("{:?} {:?}", request.target, request.headers);
        assert!(!call.contains(&token), "sent {sent}: upstream saw {call}");
        assert!(call.contains("x-kept"), "too much was taken: {call}");
    }
    assert!(!gateway.stderr().contains(&token));
}

#[tokio::test]
async fn a_gateway_token_in_a_subprotocol_opens_a_socket_and_stops_here() {
    let (gateway, upstream) = place(Config::new()).await;
    let token = token(&gateway).await;
    let realtime = "/v1/default/default/openai/realtime?model=gpt-realtime";
    gateway.send(&upgrade(realtime)).await.expect_status(401);
    let ours = format!("cf-aig-authorization.{token}");
    for (offered, forwarded) in [
        (
            format!("realtime, {ours}, openai-beta.realtime-v1"),
            Some("realtime, openai-beta.realtime-v1"),
        ),
        (ours.clone(), None),
    ] {
        upstream.forget_calls();
        let mut connection = Connection::open(gateway.server).await;
        connection
            .send(&upgrade(realtime).header("sec-websocket-protocol", &offered))
            .await;
        let arriving = connection.head("GET").await;
        assert_eq!(arriving.status, 101);
        // A browser drops a socket that chose none of what it offered.
        let chosen = arriving.head.header("sec-websocket-protocol");
        let chosen = chosen.expect("one was chosen").to_owned();
        assert!(offered.split(", ").any(|one| one == chosen), "{chosen}");
        let call = upstream.only_call();
        assert_eq!(call.header("sec-websocket-protocol"), forwarded);
        assert!(!format!("{call:?}").contains(&token), "{call:?}");
        connection.leave();
    }
    let by_header = upgrade(realtime).header("cf-aig-authorization", &format!("Bearer {token}"));
    upstream.forget_calls();
    let mut connection = Connection::open(gateway.server).await;
    connection.send(&by_header).await;
    assert_eq!(connection.head("GET").await.status, 101);
    assert!(!format!("{:?}", upstream.only_call()).contains(&token));
    assert!(!gateway.stderr().contains(&token));
}

#[tokio::test]
async fn a_stored_key_serves_those_who_bring_none_and_shows_nowhere() {
    let upstream = ScriptedUpstream::replying(ok()).await;
    let refusal = tests::shapes::openai_error("invalid_request_error", "bad", "no such thing");
    upstream.always("/v1/refused", Reply::json(400, &refusal));
    upstream.always("/v1/gone", Reply::reset());
    let config = Config::new()
        .set("log", "level = \"trace\"")
        .provider("openai", &upstream.url("/v1"))
        .set("providers.openai", "api_key = { env = \"STORED_KEY\" }")
        .set(
            "providers.openai",
            "headers = { x-team = { env = \"STORED_KEY\" } }",
        );
    let gateway = TestGateway::start_with(config, &[("STORED_KEY", STORED)]).await;
    let stored = format!("Bearer {STORED}");
    for (credential, arrives) in [
        (None, stored.as_str()),
        // What an SDK sends that was given no key.
        (Some("Bearer undefined"), &stored),
        (Some("Bearer "), &stored),
        (Some("Bearer sk-own"), "Bearer sk-own"),
    ] {
        upstream.forget_calls();
        let mut request = request();
        if let Some(credential) = credential {
            request = request.header("authorization", credential);
        }
        gateway.send(&request).await.expect_status(200);
        let call = upstream.only_call();
        assert_eq!(
            call.header("authorization"),
            Some(arrives),
            "{credential:?}"
        );
        let twice = call
            .headers
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        assert_eq!(twice.count(), 1);
    }
    // The universal endpoint fills it in for entries without a credential, and for those only.
    upstream.forget_calls();
    let mut entry = step("openai", "chat/completions", chat("gpt-4o-mini", false), 1);
    entry["headers"] = json!({});
    gateway
        .send(&Request::post(UNIVERSAL, &json!([entry])))
        .await
        .expect_status(200);
    assert_eq!(upstream.only_call().header("authorization"), Some(&*stored));
    let mut shown = Vec::new();
    for path in ["refused", "gone"] {
        let request = Request::post(&format!("/v1/default/default/openai/{path}"), &json!({}));
        let answer = gateway.send(&request).await;
        shown.push(format!("{:?} {}", answer.head, answer.text()));
    }
    let rows = gateway.rows("default", "default", 7).await;
    for row in &rows {
        let id = row.text("id");
        for part in ["", "/request", "/response"] {
            let path = format!(
                "{}/{id}{part}",
                tests::logs::logs_path("default", "default")
            );
            shown.push(gateway.send(&Request::get(&path)).await.text());
        }
    }
    for path in ["/metrics", "/readyz", "/healthz"] {
        shown.push(gateway.admin(path).await.text());
    }
    shown.push(gateway.stderr());
    for text in shown {
        assert!(!text.contains(STORED), "{text}");
    }
    let mut folders = vec![gateway.folder().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("readable").flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
                continue;
            }
            let bytes = std::fs::read(entry.path()).unwrap_or_default();
            let path = entry.path().display().to_string();
            assert!(
                find(&bytes, STORED.as_bytes()).is_none(),
                "{path} holds the key"
            );
        }
    }
}

#[tokio::test]
async fn with_tokens_a_name_is_no_reason_to_refuse() {
    let (gateway, _upstream) = place(Config::new()).await;
    let token = token(&gateway).await;
    for (name, value) in [
        ("host", "gateway.example"),
        ("origin", "https://app.example"),
    ] {
        let request = request()
            .header("cf-aig-authorization", &format!("Bearer {token}"))
            .header(name, value);
        gateway.send(&request).await.expect_status(200);
    }
    // Nothing on the operator's listener asks for a token, so there the name stays what protects it.
    let foreign = Request::get("/metrics").header("host", "evil.example");
    client::send(gateway.admin, &foreign)
        .await
        .expect_status(403);
}

#[tokio::test]
async fn no_page_of_another_site_is_told_that_it_may_read() {
    let (gateway, _upstream) = place(Config::new()).await;
    let token = token(&gateway).await;
    let bearer = format!("Bearer {token}");
    let preflight = Request::new("OPTIONS", CHAT)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization");
    let logs = Request::get(&tests::logs::logs_path("default", "default"));
    for request in [
        request(),
        request().header("cf-aig-authorization", &bearer),
        logs.header("authorization", &bearer),
        preflight,
    ] {
        let answer = gateway
            .send(&request.header("origin", "https://app.example"))
            .await;
        assert!(!has_cors(&answer), "{:?}", answer.head);
    }
    for path in ["/metrics", "/readyz"] {
        assert!(!has_cors(&gateway.admin(path).await));
    }
}

fn has_cors(answer: &tests::Answer) -> bool {
    answer
        .head
        .headers
        .iter()
        .any(|(name, _)| name.to_ascii_lowercase().starts_with("access-control-"))
}

#[tokio::test]
async fn headers_from_json_cannot_frame_route_or_smuggle() {
    let (gateway, upstream) = place(Config::new()).await;
    let send = async |headers: Value| {
        upstream.forget_calls();
        let mut entry = step("openai", "chat/completions", chat("gpt-4o-mini", false), 1);
        entry["headers"] = headers;
        gateway
            .send(&Request::post(UNIVERSAL, &json!([entry])))
            .await
    };
    for headers in [
        json!({"x-a": "1\r\nx-injected: 1"}),
        json!({"x-a": "1\nx-injected: 1"}),
        json!({"x-a\r\nx-injected": "1"}),
        json!({"x-a: 1\r\nx-injected": "1"}),
        json!({"x-a": "1\u{0}"}),
        json!({"x a": "1"}),
        json!({"": "1"}),
        json!({"x-ä": "1"}),
        json!({":path": "/v1/other"}),
    ] {
        let answer = send(headers.clone()).await.expect_status(400);
        assert!(answer.error_code().is_some(), "{headers}");
        assert_eq!(upstream.call_count(), 0, "{headers}");
    }
    // Names that are HTTP's own, or ours, are no business of an entry: dropped or refused.
    let body = chat("gpt-4o-mini", false).to_string();
    for (name, value) in [
        ("host", "evil.example"),
        ("content-length", "3"),
        ("Content-Length", "99999"),
        ("transfer-encoding", "chunked"),
        ("Transfer-Encoding", "identity, chunked"),
        ("connection", "x-team, close"),
        ("keep-alive", "timeout=1"),
        ("te", "trailers"),
        ("trailer", "x-t"),
        ("upgrade", "websocket"),
        ("expect", "100-continue"),
        ("proxy-authorization", "Basic eDp5"),
        ("proxy-connection", "keep-alive"),
        ("x-forwarded-for", "10.0.0.1"),
        ("cf-connecting-ip", "10.0.0.1"),
    ] {
        let answer = send(json!({name: value, "x-team": "1", "x-kept": "1"})).await;
        if answer.status == 400 {
            assert_eq!(upstream.call_count(), 0, "{name}");
            continue;
        }
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        let call = upstream.only_call();
        assert_eq!(String::from_utf8_lossy(&call.body), body, "{name}");
        assert_eq!(call.header("x-kept"), Some("1"), "{name}");
        match name.to_ascii_lowercase().as_str() {
            "host" => assert_eq!(call.header("host"), Some(&*upstream.host())),
            "content-length" => {
                let length = body.len().to_string();
                assert_eq!(call.header("content-length"), Some(&*length));
            }
            "connection" => assert_eq!(call.header("x-team"), None, "named by connection"),
            lower => assert_eq!(call.header(lower), None, "{name} went upstream"),
        }
    }
}

/// Heads as they come from scanners, fuzzers and broken clients, the same ones at each run.
fn broken_head(seed: u64) -> Vec<u8> {
    let mut random = Seeded::new(seed);
    let mut head = b"POST /v1/default/default/openai/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}".to_vec();
    match random.below(5) {
        0 => {
            for _ in 0..1 + random.below(12) {
                let at = random.below(head.len());
                head[at] = random.number() as u8;
            }
        }
        1 => head.truncate(random.below(head.len())),
        2 => {
            let at = random.below(head.len());
            let byte = random.number() as u8;
            head.splice(at..at, std::iter::repeat_n(byte, 200_000));
        }
        3 => {
            let length = random.below(4096);
            head = (0..length).map(|_| random.number() as u8).collect();
        }
        _ => {
            let lines: Vec<Vec<u8>> = head
                .split(|byte| *byte == b'\n')
                .map(<[u8]>::to_vec)
                .collect();
            head = Vec::new();
            for _ in 0..lines.len() {
                head.extend_from_slice(&lines[random.below(lines.len())]);
                head.push(b'\n');
            }
            head.extend_from_slice(b"\r\n");
        }
    }
    head
}

#[tokio::test]
async fn broken_heads_break_nothing_and_hold_no_memory() {
    let config = Config::new().set("server", "header_read_timeout_ms = 2000");
    let (gateway, _upstream) = place(config).await;
    let round = async |seeds: std::ops::Range<u64>| {
        for seed in seeds {
            let mut connection = Connection::open(gateway.server).await;
            let _ = connection.write(&broken_head(seed)).await;
            // Half of them stay until they are answered or thrown out, half leave at once.
            if seed % 2 == 0 {
                let _ = tokio::time::timeout(
                    std::time::Duration::from_millis(20),
                    connection.try_head("POST"),
                )
                .await;
            }
        }
    };
    round(0..200).await;
    let before = gateway.memory_bytes();
    round(200..800).await;
    gateway.send(&request()).await.expect_status(200);
    eventually("memory to be given back", async || {
        let grown = gateway.memory_bytes().saturating_sub(before);
        (grown < 32 << 20).then_some(())
    })
    .await;
    eventually("callers who left to be let go", async || {
        let text = gateway.admin("/metrics").await.text();
        text.contains("\ngateway_requests_in_flight 0\n")
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn text_logs_and_logs_tail_give_no_orders_to_a_terminal() {
    let (gateway, upstream) = place(Config::new().set("log", "level = \"debug\"")).await;
    let nasty = "red\u{1b}[31m\u{9b}2J\u{7}\r\n2026-01-01T00:00:00Z  INFO forged: line";
    let mut encoded = String::new();
    for byte in nasty.bytes() {
        encoded += &format!("%{byte:02X}");
    }
    upstream.always("/v1/gone", Reply::reset());
    for request in [
        Request::post(CHAT, &json!({"model": nasty, "messages": []})),
        Request::post("/v1/default/default/openai/gone", &json!({"model": nasty})),
        Request::post(
            UNIVERSAL,
            &json!([{"provider": nasty, "endpoint": nasty, "query": {}}]),
        ),
        Request::post(
            UNIVERSAL,
            &json!([{"provider": "openai", "endpoint": nasty, "query": {}}]),
        ),
        Request::get(&format!("/v1/default/default/{encoded}/x")),
        Request::get(&format!("/v1/{encoded}/default/openai/x")),
        Request::get(&format!("/v1/default/default/openai/{encoded}")),
        request().header("user-agent", "curl\u{9b}31m"),
        request().header("cf-aig-metadata", &json!({"a": nasty}).to_string()),
    ] {
        let answer = gateway.send(&request).await;
        assert!(answer.status < 600);
    }
    let log = gateway.stderr();
    for line in log.lines() {
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(!line.starts_with("2026-01-01"), "a forged line: {line:?}");
    }
    gateway.rows("default", "default", 4).await;
    let place = Config::new().set("server", &format!("listen = \"{}\"", gateway.server));
    std::fs::write(
        gateway.folder().join("tail.toml"),
        place.render(gateway.folder()),
    )
    .expect("a writable folder");
    let arguments = [
        "logs",
        "tail",
        "--config",
        "tail.toml",
        "--no-follow",
        "-n",
        "50",
    ];
    let (status, stdout, stderr) = run(&arguments, gateway.folder()).await;
    assert!(status.success(), "{stderr}");
    assert!(stdout.contains("\\u{1b}[31m"), "{stdout:?}");
    for line in stdout.lines() {
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(!line.starts_with("2026-01-01"), "a forged line: {line:?}");
    }
}
