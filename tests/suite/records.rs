//! Every request becomes rows with its tokens, cost, times and bodies, as switches allow.

use serde_json::{Value, json};
use tests::logs::logs_path;
use tests::shapes::{CHAT, chat, chat_answer, message};
use tests::sse::{chat_stream, message_stream};
use tests::{Answer, Config, Reply, Request, Row, ScriptedUpstream, TestGateway};

const KEY: &str = "Bearer sk-never-in-a-row";

async fn openai(config: Config, reply: Reply) -> (TestGateway, ScriptedUpstream) {
    let upstream = ScriptedUpstream::replying(reply).await;
    let config = config
        .provider("openai", &upstream.url("/v1"))
        .provider("anthropic", &upstream.url(""));
    let config = config.provider("google-ai-studio", &upstream.url(""));
    (TestGateway::start(config).await, upstream)
}

fn ok() -> Reply {
    Reply::json(200, &chat_answer("gpt-4o-mini", "hello", 1000, 200))
}

fn request() -> Request {
    Request::post(CHAT, &chat("gpt-4o-mini", false)).header("authorization", KEY)
}

/// The one row of `request`, answered by `reply`.
async fn row_of(request: Request, reply: Reply) -> (Answer, Row) {
    let (gateway, _upstream) = openai(Config::new(), reply).await;
    let answer = gateway.send(&request).await;
    let row = gateway.rows_of(&answer, 1).await.remove(0);
    (answer, row)
}

fn assert_near(value: Option<f64>, wanted: f64) {
    let value = value.expect("a number");
    assert!((value - wanted).abs() < 1e-12, "{value} is not {wanted}");
}

#[tokio::test]
async fn a_row_has_every_field_clients_read() {
    let (answer, row) = row_of(request().header("user-agent", "the-client/1.0"), ok()).await;
    assert_eq!(
        row.text("id"),
        answer.header("cf-aig-log-id").expect("a log id")
    );
    assert_eq!(row.text("event_id"), answer.event_id());
    for (field, value) in [
        ("provider", "openai"),
        ("model", "gpt-4o-mini"),
        ("request_content_type", "application/json"),
        ("response_content_type", "application/json"),
        ("user_agent", "the-client/1.0"),
        ("request", ""),
        ("response", ""),
        ("metadata", "{}"),
    ] {
        assert_eq!(row.text(field), value, "{field}");
    }
    assert!(
        row.text("path").ends_with("chat/completions"),
        "{}",
        row.text("path")
    );
    assert_eq!((row.status(), row.step()), (200, 0));
    for (field, value) in [
        ("success", true),
        ("cached", false),
        ("custom_cost", false),
        ("authentication", false),
        ("byok", false),
    ] {
        assert_eq!(row.is(field), value, "{field}");
    }
    assert_eq!(
        (row.number("tokens_in"), row.number("tokens_out")),
        (Some(1000.0), Some(200.0))
    );
    assert_near(row.number("cost"), (1000.0 * 0.15 + 200.0 * 0.60) / 1e6);
    let usage = &row.0["usage_metadata"];
    assert_eq!(
        (&usage["input_tokens"], &usage["output_tokens"]),
        (&json!(1000), &json!(200)),
        "{usage}"
    );
    assert_eq!(usage["total_tokens"], 1200);
    let timings = &row.0["timings"];
    let (total, latency) = (
        timings["total"].as_f64().expect("a time"),
        timings["latency"].as_f64().expect("a time"),
    );
    assert!(0.0 <= latency && latency <= total, "{timings}");
    assert!(row.number("duration").is_some_and(|ms| ms >= 0.0));
    let created_at = row.text("created_at");
    assert!(
        created_at.len() >= 20 && &created_at[10..11] == "T" && created_at.ends_with('Z'),
        "{created_at}"
    );
    assert!(!row.mentions("never-in-a-row"), "{:#}", row.0);
}

#[tokio::test]
async fn the_bodies_are_kept_beside_the_row_as_they_passed() {
    let (gateway, _upstream) = openai(Config::new(), ok()).await;
    let answer = gateway.send(&request()).await;
    let row = gateway.answering_row(&answer).await;
    assert_eq!(
        row.text("request_head"),
        String::from_utf8_lossy(&request().body)
    );
    assert_eq!(row.text("response_head"), answer.text());
    assert!(row.is("request_head_complete") && row.is("response_head_complete"));
    assert_eq!(
        row.number("request_size"),
        Some(request().body.len() as f64)
    );
    assert_eq!(row.number("response_size"), Some(answer.body.len() as f64));
    let path = format!("{}/{}", logs_path("default", "default"), row.text("id"));
    let kept = gateway
        .send(&Request::get(&format!("{path}/request")))
        .await
        .expect_status(200);
    assert_eq!(kept.body, request().body);
    let kept = gateway
        .send(&Request::get(&format!("{path}/response")))
        .await
        .expect_status(200);
    assert_eq!(kept.body, answer.body);
}

#[tokio::test]
async fn a_streamed_answer_is_kept_as_it_passed() {
    let events = chat_stream(&["one", " two", " three"]);
    let (gateway, _upstream) = openai(Config::new(), Reply::sse(events.clone())).await;
    let answer = gateway
        .send(&Request::post(CHAT, &chat("gpt-4o-mini", true)))
        .await;
    let row = gateway.answering_row(&answer).await;
    assert_eq!(
        (row.number("tokens_in"), row.number("tokens_out")),
        (Some(11.0), Some(3.0))
    );
    let path = format!(
        "{}/{}/response",
        logs_path("default", "default"),
        row.text("id")
    );
    assert_eq!(
        gateway
            .send(&Request::get(&path))
            .await
            .expect_status(200)
            .body,
        events.concat()
    );
}

#[tokio::test]
async fn an_anthropic_stream_is_counted_from_its_first_and_last_events() {
    let request = Request::post("/v1/default/default/anthropic/v1/messages", &message(true));
    let (_, row) = row_of(request, Reply::sse(message_stream(&["one", " two"]))).await;
    assert_eq!(
        (row.text("provider"), row.text("model")),
        ("anthropic", "claude-sonnet-4-5")
    );
    assert_eq!(
        (row.number("tokens_in"), row.number("tokens_out")),
        (Some(25.0), Some(15.0))
    );
    // 3 USD a million tokens in, 15 out.
    assert_near(row.number("cost"), (25.0 * 3.0 + 15.0 * 15.0) / 1e6);
}

#[tokio::test]
async fn tokens_the_provider_had_cached_cost_their_own_price() {
    let mut answer = chat_answer("gpt-4o-mini", "hello", 1000, 200);
    answer["usage"]["prompt_tokens_details"] = json!({"cached_tokens": 600});
    let (_, row) = row_of(request(), Reply::json(200, &answer)).await;
    assert_eq!(row.number("tokens_in"), Some(1000.0));
    assert_eq!(row.0["usage_metadata"]["input_cached_tokens"], 600);
    assert_near(
        row.number("cost"),
        (400.0 * 0.15 + 600.0 * 0.075 + 200.0 * 0.60) / 1e6,
    );
}

#[tokio::test]
async fn usage_that_is_not_reported_is_estimated_and_marked() {
    let events: Vec<Vec<u8>> = chat_stream(&["one", " two"])
        .into_iter()
        .filter(|event| !String::from_utf8_lossy(event).contains("\"usage\""))
        .collect();
    let (_, row) = row_of(
        Request::post(CHAT, &chat("gpt-4o-mini", true)),
        Reply::sse(events),
    )
    .await;
    assert!(row.is("success"));
    assert!(
        row.number("tokens_in").is_some_and(|tokens| tokens > 0.0),
        "{:#}",
        row.0
    );
    assert!(
        row.number("tokens_out").is_some_and(|tokens| tokens > 0.0),
        "{:#}",
        row.0
    );
    assert!(row.mentions("estimate"), "{:#}", row.0);
}

#[tokio::test]
async fn an_unknown_model_has_no_cost_and_a_failed_call_costs_nothing() {
    let body = chat_answer("model-of-tomorrow", "hello", 1000, 200);
    let unknown = Request::post(CHAT, &chat("model-of-tomorrow", false));
    let (_, row) = row_of(unknown, Reply::json(200, &body)).await;
    assert_eq!(row.number("cost").unwrap_or(0.0), 0.0);
    assert_eq!(row.number("tokens_in"), Some(1000.0));
    let (_, row) = row_of(
        request(),
        Reply::json(500, &json!({"error": {"message": "no"}})),
    )
    .await;
    assert_eq!(
        (
            row.status(),
            row.is("success"),
            row.number("cost").unwrap_or(0.0)
        ),
        (500, false, 0.0)
    );
}

#[tokio::test]
async fn a_custom_cost_replaces_the_price() {
    for (header, cost) in [
        (
            json!({"per_token_in": 0.001, "per_token_out": 0.002}),
            1.0 + 0.4,
        ),
        (json!({"total_cost": 0.5}), 0.5),
    ] {
        let (_, row) = row_of(
            request().header("cf-aig-custom-cost", &header.to_string()),
            ok(),
        )
        .await;
        assert!(row.is("custom_cost"), "{header}");
        let value = row.number("cost").expect("a cost");
        assert!((value - cost).abs() < 1e-9, "{header}: {value}");
    }
}

#[tokio::test]
async fn metadata_is_five_flat_entries_and_never_a_reason_to_fail() {
    for (header, wanted) in [
        (
            r#"{"team":"AI","user":12345,"test":true}"#,
            json!({"team": "AI", "user": 12345, "test": true}),
        ),
        (
            r#"{"a":1,"b":2,"c":3,"d":4,"e":5,"f":6}"#,
            json!({"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}),
        ),
        (r#"{"cf.user_id":"x","kept":"y"}"#, json!({"kept": "y"})),
        (
            r#"{"nested":{"a":1},"list":[1],"flat":1}"#,
            json!({"flat": 1}),
        ),
        ("not json", json!({})),
        ("[1,2]", json!({})),
    ] {
        let (answer, row) = row_of(request().header("cf-aig-metadata", header), ok()).await;
        assert_eq!(answer.status, 200, "{header}");
        let kept: Value = serde_json::from_str(row.text("metadata")).expect("metadata is JSON");
        assert_eq!(kept, wanted, "{header}");
    }
}

#[tokio::test]
async fn an_event_id_of_the_callers_ties_answer_and_row() {
    let (answer, row) = row_of(request().header("cf-aig-event-id", "my-event-1"), ok()).await;
    assert_eq!(
        (answer.event_id().as_str(), row.text("event_id")),
        ("my-event-1", "my-event-1")
    );
}

#[tokio::test]
async fn collecting_can_be_switched_off_and_on() {
    let config = Config::new().gateway("default", "quiet", "collect_logs = false");
    let (gateway, _upstream) = openai(config, ok()).await;
    let quiet = CHAT.replace("default/default", "default/quiet");
    let to_quiet = Request::post(&quiet, &chat("gpt-4o-mini", false));
    let unlogged = gateway
        .send(&request().header("cf-aig-collect-log", "false"))
        .await
        .expect_status(200);
    assert_eq!(unlogged.header("cf-aig-log-id").map(str::len), Some(26));
    gateway.send(&to_quiet).await.expect_status(200);
    let logged = gateway.send(&request()).await;
    let asked = gateway
        .send(&to_quiet.header("cf-aig-collect-log", "true"))
        .await;
    // Rows keep their order, so those before would be there with these.
    let rows = gateway.rows("default", "default", 1).await;
    assert_eq!(
        rows.iter().map(|row| row.text("id")).collect::<Vec<_>>(),
        [logged.header("cf-aig-log-id").unwrap()]
    );
    let rows = gateway.rows("default", "quiet", 1).await;
    assert_eq!(
        rows.iter().map(|row| row.text("id")).collect::<Vec<_>>(),
        [asked.header("cf-aig-log-id").unwrap()]
    );
}

#[tokio::test]
async fn payloads_can_be_switched_off() {
    let off_everywhere = Config::new().set("records", "capture_bodies = false");
    for (config, wish) in [(Config::new(), "false"), (off_everywhere, "true")] {
        check_no_bodies(config, wish).await;
    }
}

async fn check_no_bodies(config: Config, wish: &str) {
    let (gateway, _upstream) = openai(config, ok()).await;
    let answer = gateway
        .send(&request().header("cf-aig-collect-log-payload", wish))
        .await;
    let row = gateway.answering_row(&answer).await;
    assert!(!row.mentions("say three words"), "{:#}", row.0);
    for which in ["request", "response"] {
        let path = format!(
            "{}/{}/{which}",
            logs_path("default", "default"),
            row.text("id")
        );
        let kept = gateway.send(&Request::get(&path)).await.expect_status(404);
        assert_eq!(kept.json()["errors"][0]["code"], 7002);
    }
}

#[tokio::test]
async fn a_key_in_the_query_is_not_kept() {
    let (gateway, upstream) =
        openai(Config::new(), Reply::json(200, &json!({"candidates": []}))).await;
    let path = "/v1/default/default/google-ai-studio/v1beta/models/gemini-2.0-flash:generateContent?key=canary-key";
    let answer = gateway
        .send(&Request::post(path, &json!({"contents": []})))
        .await
        .expect_status(200);
    assert!(upstream.only_call().target.ends_with("?key=canary-key"));
    let row = gateway.answering_row(&answer).await;
    assert!(
        !row.mentions("canary-key") && row.mentions("generatecontent"),
        "{:#}",
        row.0
    );
    assert!(!gateway.stderr().contains("canary-key"));
}

#[tokio::test]
async fn every_try_of_one_request_shares_its_event_id() {
    let (gateway, upstream) = openai(Config::new(), ok()).await;
    upstream.then("/", Reply::json(503, &json!({})));
    let answer = gateway
        .send(
            &request()
                .header("cf-aig-max-attempts", "2")
                .header("cf-aig-retry-delay", "1"),
        )
        .await;
    let rows = gateway.rows_of(&answer, 2).await;
    assert_ne!(rows[0].text("id"), rows[1].text("id"));
    assert_eq!(answer.header("cf-aig-log-id"), Some(rows[1].text("id")));
}
