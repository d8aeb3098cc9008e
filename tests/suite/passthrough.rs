//! What the provider said is what the caller gets, and what the caller sent is what the provider
//! gets, less our own headers.

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use std::io::Write;
use tests::http::Framing;
use tests::shapes::{CHAT, chat, chat_answer};
use tests::{
    Answer, Call, Config, Connection, Ending, Reply, Request, ScriptedUpstream, TestGateway,
};

const OPENAI: &str = "/v1/default/default/openai/";

async fn openai(reply: Reply) -> (TestGateway, ScriptedUpstream) {
    let upstream = ScriptedUpstream::replying(reply).await;
    let gateway = TestGateway::start(Config::new().provider("openai", &upstream.url("/v1"))).await;
    (gateway, upstream)
}

fn ok() -> Reply {
    Reply::json(200, &chat_answer("gpt-4o-mini", "hello", 11, 3))
}

/// Sends `request` through a fresh gateway whose upstream answers `reply`.
async fn through(request: Request, reply: Reply) -> (Answer, Call) {
    let (gateway, upstream) = openai(reply).await;
    let answer = gateway.send(&request).await;
    (answer, upstream.only_call())
}

#[tokio::test]
async fn path_and_query_arrive_as_they_were_written() {
    let (gateway, upstream) = openai(ok()).await;
    for (written, wanted) in [
        ("chat/completions", "/v1/chat/completions"),
        (
            "chat/completions?a=1&b=%20x+y&empty=&c",
            "/v1/chat/completions?a=1&b=%20x+y&empty=&c",
        ),
        ("v1/chat/completions", "/v1/chat/completions"),
        ("v1/models?limit=2", "/v1/models?limit=2"),
        ("files/file%3Aabc%20d", "/v1/files/file%3Aabc%20d"),
        ("files/file-%E6%97%A5", "/v1/files/file-%E6%97%A5"),
        ("files/a:b;c=d,e@f", "/v1/files/a:b;c=d,e@f"),
        ("models/", "/v1/models/"),
        ("models?q=a/../b", "/v1/models?q=a/../b"),
    ] {
        upstream.forget_calls();
        gateway
            .send(&Request::get(&format!("{OPENAI}{written}")))
            .await
            .expect_status(200);
        assert_eq!(upstream.only_call().target, wanted, "for {written}");
    }
}

#[tokio::test]
async fn a_body_arrives_byte_for_byte() {
    let spaced = "{ \"model\" :\t\"gpt-4o-mini\",\r\n \"n\": 1.0, \"big\": 12345678901234567890,\
                  \"messages\":[{\"role\":\"user\",\"content\":\"\\u00e9 é 🦀\"}],  \"unknown_field\": {}}  \n";
    let (answer, call) = through(
        Request::post_bytes(CHAT, "application/json; charset=utf-8", spaced),
        ok(),
    )
    .await;
    answer.expect_status(200);
    assert_eq!(String::from_utf8(call.body.clone()).expect("UTF-8"), spaced);
    assert_eq!(
        call.header("content-type"),
        Some("application/json; charset=utf-8")
    );
    assert_eq!(call.framing, Framing::Length(spaced.len()));
}

#[tokio::test]
async fn bodies_beyond_a_replay_buffer_arrive_whole_on_every_try() {
    for size in [100 * 1024, 5 * 1024 * 1024] {
        let (gateway, upstream) = openai(ok()).await;
        upstream.then(
            "/",
            Reply::json(503, &json!({"error": {"message": "first"}})),
        );
        let mut body = chat("gpt-4o-mini", false);
        body["messages"][0]["content"] = json!("x".repeat(size));
        let request = Request::post(CHAT, &body)
            .header("cf-aig-max-attempts", "2")
            .header("cf-aig-retry-delay", "1");
        gateway.send(&request).await.expect_status(200);
        let calls = upstream.calls();
        assert_eq!(calls.len(), 2);
        assert!(
            calls.iter().all(|call| call.body == request.body),
            "{size} bytes"
        );
    }
}

#[tokio::test]
async fn a_chunked_request_arrives_whole() {
    let body = chat("gpt-4o-mini", false).to_string();
    let mut wire = Vec::new();
    for piece in body.as_bytes().chunks(7) {
        wire.extend_from_slice(&tests::http::as_chunk(piece));
    }
    wire.extend_from_slice(b"0\r\n\r\n");
    let request =
        Request::post_bytes(CHAT, "application/json", wire).header("transfer-encoding", "chunked");
    let (answer, call) = through(request, ok()).await;
    answer.expect_status(200);
    assert_eq!(call.body, body.as_bytes());
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_is_told_to_go_on() {
    let (gateway, upstream) = openai(ok()).await;
    let request = Request::post(CHAT, &chat("gpt-4o-mini", false)).header("expect", "100-continue");
    let mut connection = Connection::open(gateway.server).await;
    connection
        .write(&request.head_bytes(gateway.server))
        .await
        .expect("a head is taken");
    assert_eq!(connection.interim_status().await, 100);
    connection
        .write(&request.body)
        .await
        .expect("a body is taken");
    connection.answer("POST").await.expect_status(200);
    assert_eq!(upstream.only_call().body, request.body);
}

#[tokio::test]
async fn every_method_passes() {
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"] {
        let mut request = Request::new(method, &format!("{OPENAI}files/file-1"));
        if matches!(method, "POST" | "PUT" | "PATCH") {
            request = request
                .header("content-type", "application/json")
                .body("{\"a\":1}");
        }
        let (answer, call) =
            through(request.clone(), Reply::json(200, &json!({"id": "file-1"}))).await;
        assert_eq!((answer.status, call.method.as_str()), (200, method));
        assert_eq!(
            (call.target.as_str(), call.body),
            ("/v1/files/file-1", request.body),
            "{method}"
        );
        let wanted = if method == "HEAD" {
            ""
        } else {
            "{\"id\":\"file-1\"}"
        };
        assert_eq!(
            (answer.text().as_str(), answer.ending),
            (wanted, Ending::Whole),
            "{method}"
        );
    }
}

#[tokio::test]
async fn a_get_without_body_gets_none_upstream() {
    let (answer, call) = through(Request::get(&format!("{OPENAI}models")), ok()).await;
    answer.expect_status(200);
    assert_eq!(call.body, b"");
    assert_eq!(call.header("transfer-encoding"), None);
}

#[tokio::test]
async fn a_multipart_upload_arrives_byte_for_byte() {
    let mut body = b"--bound\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nfine-tune\r\n--bound\r\n\
        content-disposition: form-data; name=\"file\"; filename=\"a b.jsonl\"\r\ncontent-type: application/octet-stream\r\n\r\n"
        .to_vec();
    body.extend((0..=255u8).cycle().take(300_000));
    body.extend_from_slice(b"\r\n--bound--\r\n");
    let content_type = "multipart/form-data; boundary=bound";
    let request = Request::post_bytes(&format!("{OPENAI}files"), content_type, body.clone());
    let (answer, call) = through(request, Reply::json(200, &json!({"id": "file-1"}))).await;
    answer.expect_status(200);
    assert_eq!(call.header("content-type"), Some(content_type));
    assert!(call.body == body);
}

#[tokio::test]
async fn binary_answers_arrive_byte_for_byte() {
    let audio: Vec<u8> = (0..=255u8).rev().cycle().take(3_000_000).collect();
    let speech = json!({"model": "tts-1", "input": "hello", "voice": "alloy"});
    let pieces: Vec<Vec<u8>> = audio.chunks(70_001).map(<[u8]>::to_vec).collect();
    for reply in [
        Reply::bytes(200, "audio/mpeg", audio.clone()),
        Reply::chunked("audio/mpeg", pieces),
    ] {
        let (answer, _) = through(
            Request::post(&format!("{OPENAI}audio/speech"), &speech),
            reply,
        )
        .await;
        assert_eq!(answer.header("content-type"), Some("audio/mpeg"));
        assert_eq!(answer.ending, Ending::Whole);
        assert!(answer.body == audio);
    }
}

#[tokio::test]
async fn compressed_answers_pass_compressed_and_their_usage_is_read() {
    let plain = chat_answer("gpt-4o-mini", "hello", 1000, 200).to_string();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder
        .write_all(plain.as_bytes())
        .expect("a vector takes all bytes");
    let packed = encoder.finish().expect("a vector takes all bytes");
    let (gateway, upstream) = openai(
        Reply::bytes(200, "application/json", packed.clone()).header("content-encoding", "gzip"),
    )
    .await;
    let request =
        Request::post(CHAT, &chat("gpt-4o-mini", false)).header("accept-encoding", "gzip");
    let answer = gateway.send(&request).await.expect_status(200);
    assert_eq!(
        (answer.header("content-encoding"), answer.body.clone()),
        (Some("gzip"), packed)
    );
    assert_eq!(upstream.only_call().header("accept-encoding"), Some("gzip"));
    let row = gateway.answering_row(&answer).await;
    assert_eq!(
        (row.number("tokens_in"), row.number("tokens_out")),
        (Some(1000.0), Some(200.0))
    );
}

#[tokio::test]
async fn the_upstream_gets_the_callers_headers_and_none_of_ours() {
    let kept = [
        ("authorization", "Bearer sk-test"),
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("accept-encoding", "gzip, br"),
        ("user-agent", "OpenAI/Python 3.54.0"),
        ("OpenAI-Organization", "org-1"),
        ("OpenAI-Beta", "assistants=v2"),
        ("x-stainless-lang", "python"),
        ("x-stainless-retry-count", "0"),
        ("Idempotency-Key", "key-1"),
        ("anthropic-beta", "one"),
        ("anthropic-beta", "two"),
        ("cookie", "a=b"),
        ("x-empty", ""),
    ];
    let dropped = [
        ("cf-aig-metadata", "{\"a\":1}"),
        ("cf-aig-cache-ttl", "0"),
        ("cf-aig-made-up-tomorrow", "1"),
        ("CF-AIG-Skip-Cache", "true"),
        ("cf-cache-ttl", "60"),
        ("cf-skip-cache", "true"),
        ("cf-connecting-ip", "203.0.113.9"),
        ("cf-ray", "8f0"),
        ("cf-ipcountry", "NL"),
        ("cf-visitor", "{}"),
        ("x-forwarded-for", "203.0.113.9"),
        ("connection", "keep-alive, x-named-by-connection"),
        ("x-named-by-connection", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-authorization", "Basic abc"),
        ("te", "trailers"),
    ];
    let mut request = Request::new("POST", CHAT).body(chat("gpt-4o-mini", false).to_string());
    for (name, value) in kept.iter().chain(&dropped) {
        request = request.header(name, value);
    }
    let (gateway, upstream) = openai(ok()).await;
    gateway.send(&request).await.expect_status(200);
    let call = upstream.only_call();
    assert_eq!(call.header("host"), Some(upstream.host().as_str()));
    let lower = |headers: &mut dyn Iterator<Item = (String, String)>| {
        let mut headers: Vec<_> = headers
            .map(|(name, value)| (name.to_ascii_lowercase(), value))
            .collect();
        headers.sort();
        headers
    };
    let framing = ["host", "content-length"];
    let seen = call
        .headers
        .iter()
        .filter(|(name, _)| !framing.contains(&name.to_ascii_lowercase().as_str()));
    let wanted = kept
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()));
    assert_eq!(lower(&mut seen.cloned()), lower(&mut wanted.into_iter()));
}

#[tokio::test]
async fn the_caller_gets_the_providers_headers_and_status() {
    let reply = Reply::json(418, &json!({"error": {"message": "teapot"}}))
        .header("x-request-id", "req-1")
        .header("openai-processing-ms", "17")
        .header("x-ratelimit-remaining-requests", "59")
        .header("set-cookie", "a=1")
        .header("set-cookie", "b=2")
        .header("X-Odd-Case", "kept value")
        .header("cf-aig-log-id", "spoofed")
        .header("cf-aig-step", "9")
        .header("keep-alive", "timeout=5");
    let (answer, _) = through(Request::post(CHAT, &chat("gpt-4o-mini", false)), reply).await;
    let answer = answer.expect_status(418);
    assert_eq!(answer.json(), json!({"error": {"message": "teapot"}}));
    for (name, value) in [
        ("x-request-id", "req-1"),
        ("openai-processing-ms", "17"),
        ("x-ratelimit-remaining-requests", "59"),
        ("x-odd-case", "kept value"),
        ("content-type", "application/json"),
        ("cf-aig-step", "0"),
        ("cf-aig-cache-status", "MISS"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
    let all = |name: &str| -> Vec<&str> {
        let headers = answer
            .head
            .headers
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(name));
        headers.map(|(_, value)| value.as_str()).collect()
    };
    assert_eq!(all("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(all("cf-aig-step"), ["0"]);
    assert_eq!(all("cf-aig-log-id").len(), 1);
    assert_eq!(answer.header("keep-alive"), None);
    assert_eq!(
        answer.header("access-control-allow-origin"),
        None,
        "no CORS unless asked for"
    );
}

#[tokio::test]
async fn every_answer_carries_the_ids_of_the_original() {
    let (answer, _) = through(Request::post(CHAT, &chat("gpt-4o-mini", false)), ok()).await;
    let log_id = answer.header("cf-aig-log-id").expect("a log id");
    assert!(
        log_id.len() == 26
            && log_id
                .bytes()
                .all(|b| b.is_ascii_digit() || b.is_ascii_uppercase()),
        "{log_id}"
    );
    let event_id = answer.event_id();
    assert_eq!(
        event_id.split('-').map(str::len).collect::<Vec<_>>(),
        [8, 4, 4, 4, 12],
        "{event_id}"
    );
    assert!(
        answer
            .header("cf-aig-request-id")
            .is_some_and(|id| id.len() == 36)
    );
    let trace_id = answer.header("cf-aig-trace-id").expect("a trace id");
    assert!(
        trace_id.len() == 32 && trace_id.bytes().all(|b| b.is_ascii_hexdigit()),
        "{trace_id}"
    );
}

#[tokio::test]
async fn redirects_and_bodiless_answers_are_passed_on() {
    for (reply, status) in [
        (
            Reply::empty(302).header("location", "https://elsewhere.example/x"),
            302,
        ),
        (Reply::empty(307).header("location", "/v1/other"), 307),
        (Reply::empty(204), 204),
        (Reply::empty(304).header("etag", "\"1\""), 304),
    ] {
        let (answer, call) =
            through(Request::get(&format!("{OPENAI}files/1/content")), reply).await;
        let answer = answer.expect_status(status);
        assert_eq!(
            (answer.body.len(), answer.ending),
            (0, Ending::Whole),
            "{status}"
        );
        assert_eq!(call.target, "/v1/files/1/content");
    }
}

#[tokio::test]
async fn an_answer_without_length_or_chunks_arrives_whole() {
    let body = chat_answer("gpt-4o-mini", "hello", 11, 3).to_string();
    let reply = Reply::until_close("application/json", body.clone());
    let (answer, _) = through(Request::post(CHAT, &chat("gpt-4o-mini", false)), reply).await;
    assert_eq!((answer.text(), answer.ending), (body, Ending::Whole));
}

#[tokio::test]
async fn one_connection_carries_several_requests() {
    let (gateway, upstream) = openai(ok()).await;
    let mut connection = Connection::open(gateway.server).await;
    for count in 1..=5 {
        connection
            .send(&Request::post(CHAT, &chat("gpt-4o-mini", false)))
            .await;
        connection.answer("POST").await.expect_status(200);
        assert_eq!(upstream.call_count(), count);
    }
}

#[tokio::test]
async fn the_next_request_on_a_connection_is_clean_after_a_failed_one() {
    let (gateway, upstream) = openai(ok()).await;
    upstream.then("/", Reply::reset());
    let mut connection = Connection::open(gateway.server).await;
    connection
        .send(&Request::post(CHAT, &chat("gpt-4o-mini", false)))
        .await;
    connection.answer("POST").await.expect_status(502);
    connection
        .send(&Request::post(CHAT, &chat("gpt-4o-mini", false)))
        .await;
    connection.answer("POST").await.expect_status(200);
}

#[tokio::test]
async fn a_pooled_connection_that_died_costs_no_error() {
    let (gateway, upstream) = openai(ok()).await;
    let request = Request::post(CHAT, &chat("gpt-4o-mini", false));
    for _ in 0..10 {
        gateway.send(&request).await.expect_status(200);
        // The upstream hangs up on the next call of a kept connection; a fresh one answers.
        upstream.then("/v1/chat", Reply::hang_up());
        upstream.always("/v1/chat", ok());
        gateway.send(&request).await.expect_status(200);
    }
}
