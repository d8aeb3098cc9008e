//! The logs API: pages, order, filters in both encodings, and whose rows are shown.

use serde_json::{Value, json};
use tests::logs::logs_path;
use tests::shapes::{chat, chat_answer, message};
use tests::{Answer, Config, Reply, Request, ScriptedUpstream, TestGateway};

/// A gateway `default/default` with 12 rows: openai 200 × 6, openai 500 × 3, anthropic 200 × 3.
async fn with_rows() -> (TestGateway, ScriptedUpstream) {
    let upstream = ScriptedUpstream::start().await;
    upstream.always(
        "/openai",
        Reply::json(200, &chat_answer("gpt-4o-mini", "hello", 1000, 200)),
    );
    upstream.always("/anthropic", Reply::json(200, &json!({"type": "message", "model": "claude-sonnet-4-5",
        "content": [], "stop_reason": "end_turn", "usage": {"input_tokens": 5, "output_tokens": 7}})));
    let config = Config::new()
        .provider("openai", &upstream.url("/openai/v1"))
        .provider("anthropic", &upstream.url("/anthropic"))
        .gateway("default", "other", "")
        .gateway("acct", "default", "");
    let gateway = TestGateway::start(config).await;
    for path in ["default/default", "default/other", "acct/default"] {
        let call = |slug: &str, rest: &str, body: &Value, plan: &str| {
            Request::post(&format!("/v1/{path}/{slug}/{rest}"), body)
                .header("cf-aig-metadata", &json!({"plan": plan}).to_string())
        };
        let count = if path == "default/default" { 3 } else { 1 };
        for _ in 0..count {
            let openai = call(
                "openai",
                "chat/completions",
                &chat("gpt-4o-mini", false),
                "free",
            );
            gateway.send(&openai).await.expect_status(200);
            gateway.send(&openai).await.expect_status(200);
            upstream.then(
                "/openai",
                Reply::json(500, &json!({"error": {"message": "no"}})),
            );
            gateway.send(&openai).await.expect_status(500);
            let anthropic = call("anthropic", "v1/messages", &message(false), "paid");
            gateway.send(&anthropic).await.expect_status(200);
        }
    }
    assert_eq!(gateway.rows("default", "default", 12).await.len(), 12);
    (gateway, upstream)
}

async fn list(gateway: &TestGateway, query: &str) -> Answer {
    gateway
        .send(&Request::get(&format!(
            "{}?{query}",
            logs_path("default", "default")
        )))
        .await
}

/// Percent-encodes what a query may not hold.
fn encoded(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes()
        .map(|byte| {
            if is_plain(byte) {
                (byte as char).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

fn count(answer: Answer) -> usize {
    let body = answer.expect_status(200).json();
    assert_eq!(body["success"], true);
    body["result"].as_array().expect("a list").len()
}

#[tokio::test]
async fn rows_come_in_pages_newest_first() {
    let (gateway, _upstream) = with_rows().await;
    let body = list(&gateway, "per_page=5&page=3")
        .await
        .expect_status(200)
        .json();
    assert_eq!(body["result"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        (&body["success"], &body["errors"], &body["messages"]),
        (&json!(true), &json!([]), &json!([]))
    );
    let info = &body["result_info"];
    assert_eq!(
        (&info["count"], &info["page"], &info["per_page"]),
        (&json!(2), &json!(3), &json!(5))
    );
    assert_eq!(info["total_count"], 12);
    let all = list(&gateway, "").await.expect_status(200).json();
    let times: Vec<String> = all["result"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| row["created_at"].to_string())
        .collect();
    assert!(
        times.is_sorted_by(|newer, older| newer >= older),
        "{times:?}"
    );
    assert_eq!(all["result_info"]["per_page"], 20);
}

#[tokio::test]
async fn a_page_that_is_too_large_is_refused_the_originals_way() {
    let (gateway, _upstream) = with_rows().await;
    let answer = list(&gateway, "per_page=51").await.expect_status(400);
    let body = answer.json();
    assert_eq!(
        (&body["success"], &body["errors"][0]["code"]),
        (&json!(false), &json!(7001))
    );
}

#[tokio::test]
async fn filters_are_read_in_both_encodings() {
    let (gateway, _upstream) = with_rows().await;
    for (filters, wanted) in [
        (
            json!([{"key": "provider", "operator": "eq", "value": ["openai"]}]),
            9,
        ),
        (
            json!([{"key": "provider", "operator": "eq", "value": ["openai", "anthropic"]}]),
            12,
        ),
        (
            json!([{"key": "provider", "operator": "neq", "value": ["openai"]}]),
            3,
        ),
        (
            json!([{"key": "success", "operator": "eq", "value": [false]}]),
            3,
        ),
        (
            json!([{"key": "model", "operator": "contains", "value": ["sonnet"]}]),
            3,
        ),
        (
            json!([{"key": "tokens_in", "operator": "gt", "value": [100]}]),
            6,
        ),
        (
            json!([{"key": "cost", "operator": "gt", "value": [0.00001]}]),
            9,
        ),
        (
            json!([{"key": "metadata.value", "operator": "eq", "value": ["paid"]}]),
            3,
        ),
        (
            json!([{"key": "metadata.key", "operator": "eq", "value": ["plan"]}]),
            12,
        ),
        (
            json!([{"key": "provider", "operator": "eq", "value": ["openai"]},
                {"key": "success", "operator": "eq", "value": [true]}]),
            6,
        ),
    ] {
        let found = count(
            list(
                &gateway,
                &format!("filters={}", encoded(&filters.to_string())),
            )
            .await,
        );
        assert_eq!(found, wanted, "{filters}");
        let dotted: Vec<String> = filters
            .as_array()
            .expect("a list")
            .iter()
            .map(|filter| {
                let plain = |value: &Value| {
                    encoded(&value.as_str().map_or(value.to_string(), str::to_owned))
                };
                let values = filter["value"].as_array().expect("a list").iter();
                let values: Vec<String> = values
                    .map(|value| format!("filters.value={}", plain(value)))
                    .collect();
                let (key, operator) = (plain(&filter["key"]), plain(&filter["operator"]));
                format!(
                    "filters.key={key}&filters.operator={operator}&{}",
                    values.join("&")
                )
            })
            .collect();
        assert_eq!(
            count(list(&gateway, &dotted.join("&")).await),
            wanted,
            "{dotted:?}"
        );
    }
}

#[tokio::test]
async fn a_filter_that_is_not_understood_is_refused_and_not_ignored() {
    let (gateway, _upstream) = with_rows().await;
    for filters in [
        "not json",
        r#"{"key":"model"}"#,
        r#"[{"key":"model","operator":"eq","value":"text"}]"#,
        r#"[{"key":"no_such_key","operator":"eq","value":["x"]}]"#,
        r#"[{"key":"model","operator":"like","value":["x"]}]"#,
    ] {
        let answer = list(&gateway, &format!("filters={}", encoded(filters))).await;
        assert_eq!(
            (answer.status, &answer.json()["errors"][0]["code"]),
            (400, &json!(7001)),
            "{filters}"
        );
    }
}

#[tokio::test]
async fn a_filter_cannot_change_the_question() {
    let (gateway, _upstream) = with_rows().await;
    for value in [
        "' OR '1'='1",
        "x'); DROP TABLE attempts; --",
        "%",
        "_",
        "\\",
    ] {
        for operator in ["eq", "contains"] {
            let filters = json!([{"key": "model", "operator": operator, "value": [value]}]);
            let found = count(
                list(
                    &gateway,
                    &format!("filters={}", encoded(&filters.to_string())),
                )
                .await,
            );
            // `_` stands in no model name here either, and is no wildcard.
            assert_eq!(found, 0, "{filters}");
        }
    }
    assert_eq!(count(list(&gateway, "").await), 12);
}

#[tokio::test]
async fn rows_are_shown_to_their_own_account_and_gateway_only() {
    let (gateway, _upstream) = with_rows().await;
    assert_eq!(gateway.rows("default", "other", 4).await.len(), 4);
    let rows = gateway.rows("acct", "default", 4).await;
    assert_eq!(rows.len(), 4);
    let id = rows[0].text("id");
    let own = format!("{}/{id}", logs_path("acct", "default"));
    gateway.send(&Request::get(&own)).await.expect_status(200);
    for (account, id_of_gateway) in [("default", "default"), ("default", "other")] {
        let foreign = format!("{}/{id}", logs_path(account, id_of_gateway));
        let answer = gateway
            .send(&Request::get(&foreign))
            .await
            .expect_status(404);
        assert_eq!(answer.json()["errors"][0]["code"], 7002);
        gateway
            .send(&Request::get(&format!("{foreign}/request")))
            .await
            .expect_status(404);
    }
}

#[tokio::test]
async fn an_unknown_row_is_404() {
    let (gateway, _upstream) = with_rows().await;
    for id in ["01JAAAAAAAAAAAAAAAAAAAAAAA", "nonsense", "%27"] {
        let answer = gateway
            .send(&Request::get(&format!(
                "{}/{id}",
                logs_path("default", "default")
            )))
            .await;
        assert_eq!(
            (answer.status, &answer.json()["errors"][0]["code"]),
            (404, &json!(7002)),
            "{id}"
        );
    }
}
