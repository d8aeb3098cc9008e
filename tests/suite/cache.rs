//! Stored replies: when there is one, who may have it, and that a crowd asks once.

use serde_json::{Value, json};
use std::sync::Arc;
use tests::shapes::{CHAT, chat, chat_answer};
use tests::sse::chat_stream;
use tests::{
    Answer, Config, Connection, Gate, Reply, Request, ScriptedUpstream, TestGateway, eventually,
};

async fn openai(gateway_lines: &str) -> (TestGateway, ScriptedUpstream) {
    let upstream = ScriptedUpstream::start().await;
    // Each answer is another one, so that a replay cannot be mistaken for a call.
    let counter = std::sync::atomic::AtomicU64::new(0);
    upstream.always(
        "/",
        Reply::from_call(move |_| {
            let count = counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Reply::json(
                200,
                &chat_answer("gpt-4o-mini", &format!("answer {count}"), 1000, 200),
            )
            .header("set-cookie", "session=1")
            .header("x-ratelimit-remaining-requests", "59")
            .header("openai-version", "2020-10-01")
        }),
    );
    let config = Config::new()
        .provider("openai", &upstream.url("/v1"))
        .provider("groq", &upstream.url("/openai/v1"));
    let config = config.gateway("default", "default", gateway_lines).gateway(
        "acct",
        "default",
        gateway_lines,
    );
    (TestGateway::start(config).await, upstream)
}

fn request() -> Request {
    Request::post(CHAT, &chat("gpt-4o-mini", false)).header("authorization", "Bearer sk-one")
}

fn status(answer: &Answer) -> &str {
    answer
        .header("cf-aig-cache-status")
        .expect("every proxied answer has a cache status")
}

/// Sends each request in turn and checks the cache status of its answer.
async fn check(gateway: &TestGateway, requests: &[(Request, &str)]) {
    for (index, (request, wanted)) in requests.iter().enumerate() {
        let answer = gateway.send(request).await.expect_status(200);
        assert_eq!(status(&answer), *wanted, "request {index}");
    }
}

#[tokio::test]
async fn nothing_is_cached_unless_somebody_asks() {
    let (gateway, upstream) = openai("").await;
    check(&gateway, &[(request(), "MISS"), (request(), "MISS")]).await;
    assert_eq!(upstream.call_count(), 2);
}

#[tokio::test]
async fn a_hit_is_the_stored_answer_with_ids_of_its_own() {
    let (gateway, upstream) = openai("cache_ttl = 300").await;
    let first = gateway.send(&request()).await.expect_status(200);
    let second = gateway.send(&request()).await.expect_status(200);
    assert_eq!((status(&first), status(&second)), ("MISS", "HIT"));
    assert_eq!((&first.body, upstream.call_count()), (&second.body, 1));
    assert_eq!(second.header("content-type"), Some("application/json"));
    assert_eq!(second.header("cf-aig-step"), Some("0"));
    assert_ne!(
        first.header("cf-aig-log-id"),
        second.header("cf-aig-log-id")
    );
    for dropped in ["set-cookie", "x-ratelimit-remaining-requests"] {
        assert!(
            first.header(dropped).is_some() && second.header(dropped).is_none(),
            "{dropped}"
        );
    }
    let row = gateway.answering_row(&second).await;
    assert!(row.is("cached") && row.is("success"));
    assert_eq!(row.number("cost"), Some(0.0));
    assert_eq!(
        (row.number("tokens_in"), row.number("tokens_out")),
        (Some(1000.0), Some(200.0))
    );
}

#[tokio::test]
async fn a_hit_costs_nothing_even_with_a_cost_of_ones_own() {
    let (gateway, _upstream) = openai("cache_ttl = 300").await;
    let priced = request().header("cf-aig-custom-cost", "{\"total_cost\":1}");
    check(&gateway, &[(priced.clone(), "MISS")]).await;
    let hit = gateway.send(&priced).await;
    assert_eq!(
        (
            status(&hit),
            gateway.answering_row(&hit).await.number("cost")
        ),
        ("HIT", Some(0.0))
    );
}

#[tokio::test]
async fn a_request_may_ask_for_caching_by_itself() {
    for (name, value) in [
        ("cf-aig-cache-ttl", "3600"),
        ("cf-cache-ttl", "3600"),
        ("cf-aig-cache-key", "faq-17"),
    ] {
        let (gateway, _upstream) = openai("").await;
        let asking = request().header(name, value);
        check(&gateway, &[(asking.clone(), "MISS"), (asking, "HIT")]).await;
    }
}

#[tokio::test]
async fn a_request_may_refuse_what_the_gateway_caches() {
    let (gateway, _upstream) = openai("cache_ttl = 300").await;
    check(
        &gateway,
        &[
            (request().header("cf-aig-skip-cache", "true"), "MISS"),
            (request().header("cf-aig-cache-ttl", "0"), "MISS"),
            (request(), "MISS"),
            (request().header("cf-aig-skip-cache", "true"), "MISS"),
            (request().header("cf-skip-cache", "true"), "MISS"),
            (request().header("cf-aig-cache-ttl", "0"), "MISS"),
            (request().header("cf-aig-skip-cache", "false"), "HIT"),
            (request(), "HIT"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_stored_answer_grows_old() {
    let (gateway, _upstream) = openai("cache_ttl = 1").await;
    check(&gateway, &[(request(), "MISS")]).await;
    eventually("the stored answer to grow old", async || {
        (status(&gateway.send(&request()).await) == "MISS").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_key_of_ones_own_replaces_the_body_and_nothing_else() {
    let (gateway, _upstream) = openai("").await;
    let keyed = |path: &str, text: &str, credential: &str| {
        Request::post(
            path,
            &json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}]}),
        )
        .header("cf-aig-cache-key", "faq-17")
        .header("authorization", credential)
    };
    let other_account = CHAT.replace("default/default", "acct/default");
    let other_provider = CHAT.replace("openai", "groq");
    check(
        &gateway,
        &[
            (keyed(CHAT, "one", "Bearer a"), "MISS"),
            (keyed(CHAT, "two", "Bearer a"), "HIT"),
            (keyed(CHAT, "one", "Bearer b"), "MISS"),
            (keyed(&other_account, "one", "Bearer a"), "MISS"),
            (keyed(&other_provider, "one", "Bearer a"), "MISS"),
        ],
    )
    .await;
}

#[tokio::test]
async fn callers_share_a_key_of_their_own_when_the_gateway_says_so() {
    let (gateway, _upstream) = openai("cache_key_shared = true").await;
    let keyed = |credential: &str| {
        let request =
            Request::post(CHAT, &chat("gpt-4o-mini", false)).header("authorization", credential);
        request.header("cf-aig-cache-key", "faq-17")
    };
    check(
        &gateway,
        &[(keyed("Bearer a"), "MISS"), (keyed("Bearer b"), "HIT")],
    )
    .await;
}

#[tokio::test]
async fn whatever_may_change_the_answer_is_part_of_the_key() {
    let (gateway, _upstream) = openai("cache_ttl = 300").await;
    let body = chat("gpt-4o-mini", false).to_string();
    let plain = |path: &str, body: &str| Request::post_bytes(path, "application/json", body);
    check(
        &gateway,
        &[
            (plain(CHAT, &body), "MISS"),
            (plain(CHAT, &body), "HIT"),
            (plain(CHAT, &format!("{body} ")), "MISS"),
            (plain(&format!("{CHAT}?x=1"), &body), "MISS"),
            (
                plain(CHAT, &body).header("authorization", "Bearer one"),
                "MISS",
            ),
            (
                plain(CHAT, &body).header("authorization", "Bearer two"),
                "MISS",
            ),
            (
                plain(CHAT, &body).header("accept", "text/event-stream"),
                "MISS",
            ),
            (
                plain(CHAT, &body).header("openai-beta", "assistants=v2"),
                "MISS",
            ),
            (
                plain(CHAT, &body).header("openai-organization", "org-2"),
                "MISS",
            ),
            (
                plain(CHAT, &body).header("anthropic-version", "2023-06-01"),
                "MISS",
            ),
            (
                plain(CHAT, &body).header("anthropic-version", "2024-10-01"),
                "MISS",
            ),
            (
                plain(&CHAT.replace("default/default", "acct/default"), &body),
                "MISS",
            ),
            (plain(&CHAT.replace("openai", "groq"), &body), "MISS"),
            // Tags and ids do not change the answer.
            (
                plain(CHAT, &body).header("cf-aig-metadata", "{\"a\":1}"),
                "HIT",
            ),
            (
                plain(CHAT, &body).header("cf-aig-event-id", "event-1"),
                "HIT",
            ),
            (plain(CHAT, &body).header("user-agent", "another"), "HIT"),
        ],
    )
    .await;
}

#[tokio::test]
async fn failures_are_not_stored() {
    for status_code in [400, 404, 429, 500] {
        let (gateway, upstream) = openai("cache_ttl = 300").await;
        upstream.then(
            "/",
            Reply::json(status_code, &json!({"error": {"message": "no"}})),
        );
        assert_eq!(gateway.send(&request()).await.status, status_code);
        check(&gateway, &[(request(), "MISS"), (request(), "HIT")]).await;
    }
}

#[tokio::test]
async fn an_error_inside_a_200_is_not_stored() {
    let (gateway, upstream) = openai("cache_ttl = 300").await;
    let failing = Reply::sse([format!(
        "data: {}\n\n",
        json!({"error": {"message": "no", "type": "server_error"}})
    )]);
    upstream.then("/", failing);
    upstream.always("/", Reply::sse(chat_stream(&["one"])));
    let request = Request::post(CHAT, &chat("gpt-4o-mini", true));
    check(
        &gateway,
        &[
            (request.clone(), "MISS"),
            (request.clone(), "MISS"),
            (request, "HIT"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_whole_stream_is_stored_and_replayed_byte_for_byte() {
    let (gateway, upstream) = openai("cache_ttl = 300").await;
    let events = chat_stream(&["one", " two", " three"]);
    upstream.always("/", Reply::sse(events.clone()));
    let request = Request::post(CHAT, &chat("gpt-4o-mini", true));
    for wanted in ["MISS", "HIT"] {
        let answer = gateway.send(&request).await.expect_status(200);
        assert_eq!((status(&answer), &answer.body), (wanted, &events.concat()));
        assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    }
    assert_eq!(upstream.call_count(), 1);
}

#[tokio::test]
async fn sixty_four_equal_requests_at_once_make_one_call() {
    // The limit shows that those who wait for another's answer take nothing from it.
    let limit = "cache_ttl = 300\nrate_limiting_interval = 86400\nrate_limiting_limit = 1\nrate_limiting_technique = \"sliding\"";
    let (gateway, upstream) = openai(limit).await;
    let gate = Gate::closed();
    upstream.then(
        "/",
        Reply::json(200, &chat_answer("gpt-4o-mini", "once", 1000, 200)).behind(&gate),
    );
    let gateway = Arc::new(gateway);
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let gateway = gateway.clone();
        running.spawn(async move { gateway.send(&request()).await });
    }
    upstream.wait_for_calls(1).await;
    eventually("all callers to be in flight", async || {
        (gateway.metric("gateway_requests_in_flight").await >= 64.0).then_some(())
    })
    .await;
    gate.open();
    let answers: Vec<Answer> = running.join_all().await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert!(answers.iter().all(|answer| answer.body == answers[0].body));
    assert_eq!(
        answers
            .iter()
            .filter(|answer| status(answer) == "MISS")
            .count(),
        1
    );
    assert_eq!(upstream.call_count(), 1);
    let rows = gateway.rows("default", "default", 64).await;
    assert_eq!(rows.len(), 64);
    assert_eq!(
        rows.iter()
            .filter(|row| row.is("cached") && row.number("cost") == Some(0.0))
            .count(),
        63
    );
}

#[tokio::test]
async fn an_answer_that_may_not_be_shared_sends_the_waiting_on_their_way() {
    let (gateway, upstream) = openai("cache_ttl = 300").await;
    let gate = Gate::closed();
    upstream.always(
        "/",
        Reply::json(400, &json!({"error": {"message": "no"}})).behind(&gate),
    );
    let gateway = Arc::new(gateway);
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let gateway = gateway.clone();
        running.spawn(async move { gateway.send(&request()).await });
    }
    eventually("all callers to be in flight", async || {
        (gateway.metric("gateway_requests_in_flight").await >= 8.0).then_some(())
    })
    .await;
    gate.open();
    let answers: Vec<Answer> = running.join_all().await;
    assert!(
        answers
            .iter()
            .all(|answer| answer.status == 400 && status(answer) == "MISS")
    );
    assert_eq!(upstream.call_count(), 8);
}

#[tokio::test]
async fn the_call_goes_on_for_those_who_wait_when_the_first_caller_leaves() {
    let (gateway, upstream) = openai("cache_ttl = 300").await;
    let gate = Gate::closed();
    upstream.then(
        "/",
        Reply::json(200, &chat_answer("gpt-4o-mini", "once", 11, 3)).behind(&gate),
    );
    let mut first = Connection::open(gateway.server).await;
    first.send(&request()).await;
    upstream.wait_for_calls(1).await;
    let mut second = Connection::open(gateway.server).await;
    second.send(&request()).await;
    eventually("the second caller to be in flight", async || {
        (gateway.metric("gateway_requests_in_flight").await >= 2.0).then_some(())
    })
    .await;
    first.leave();
    eventually("the first caller's end to be noticed", async || {
        (gateway.metric("gateway_callers_left_total").await >= 1.0).then_some(())
    })
    .await;
    gate.open();
    let answer = second.answer("POST").await.expect_status(200);
    assert_eq!((status(&answer), upstream.call_count()), ("HIT", 1));
}

#[tokio::test]
async fn a_change_of_settings_drops_what_the_gateway_had_stored() {
    let upstream = ScriptedUpstream::replying(Reply::json(
        200,
        &chat_answer("gpt-4o-mini", "hello", 11, 3),
    ))
    .await;
    let config = |lines: &str| {
        Config::new()
            .provider("openai", &upstream.url("/v1"))
            .gateway("default", "default", lines)
    };
    let gateway = TestGateway::start(config("cache_ttl = 300")).await;
    check(&gateway, &[(request(), "MISS"), (request(), "HIT")]).await;
    gateway.write_config(&config("cache_ttl = 300\nretry_max_attempts = 2"));
    gateway.signal("HUP");
    eventually("the stored answer to be dropped", async || {
        (status(&gateway.send(&request()).await) == "MISS").then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_answer_past_the_bound_is_passed_on_and_not_stored() {
    let upstream = ScriptedUpstream::start().await;
    let long: Value = chat_answer("gpt-4o-mini", &"x".repeat(50_000), 11, 3);
    upstream.always("/", Reply::json(200, &long));
    let config = Config::new()
        .provider("openai", &upstream.url("/v1"))
        .set("cache", "max_entry_bytes = 10000");
    let gateway = TestGateway::start(config.gateway("default", "default", "cache_ttl = 300")).await;
    for _ in 0..2 {
        let answer = gateway.send(&request()).await.expect_status(200);
        assert_eq!((status(&answer), answer.json() == long), ("MISS", true));
    }
}
