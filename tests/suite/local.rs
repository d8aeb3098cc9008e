//! The local model behind both hosts and both formats. It needs the pulled model; what it says is not
//! judged, only how.

use serde_json::{Value, json};
use std::sync::Arc;
use tests::gateway::model_folder;
use tests::shapes::{UNIVERSAL, chat, step};
use tests::{Answer, Config, Connection, Ending, Request, TestGateway};

const MODEL: &str = "@cf/huggingfacetb/smollm2-135m-instruct";
const REST: &str = "/client/v4/accounts/default/ai";
const GATEWAY: &str = "/v1/default/default/workers-ai";

async fn local() -> TestGateway {
    let config = Config::new().set("engine", &format!("model_dir = {:?}", model_folder()));
    TestGateway::start(config.provider("openai", "http://127.0.0.1:9/v1")).await
}

fn prompt(stream: bool) -> Value {
    json!({"messages": [{"role": "user", "content": "Count to three."}], "max_tokens": 12, "stream": stream, "temperature": 0})
}

fn completion(stream: bool) -> Value {
    let mut body = prompt(stream);
    body["model"] = json!(MODEL);
    body
}

/// The JSON of each `data:` line of a stream that must end with `[DONE]`.
fn events(answer: &Answer) -> Vec<Value> {
    assert_eq!(
        (answer.header("content-type"), &answer.ending),
        (Some("text/event-stream"), &Ending::Whole)
    );
    let text = answer.text();
    let mut lines: Vec<&str> = text
        .split("\n\n")
        .filter(|event| !event.is_empty())
        .collect();
    assert_eq!(lines.pop(), Some("data: [DONE]"), "{text}");
    let parse = |line: &str| {
        let json = line
            .strip_prefix("data: ")
            .unwrap_or_else(|| panic!("{line:?} is no data line"));
        serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"))
    };
    lines.into_iter().map(parse).collect()
}

fn assert_usage(usage: &Value) {
    let count = |name: &str| {
        usage[name]
            .as_u64()
            .unwrap_or_else(|| panic!("no {name} in {usage}"))
    };
    assert!(
        count("prompt_tokens") > 3 && (1..=12).contains(&count("completion_tokens")),
        "{usage}"
    );
    assert_eq!(
        count("total_tokens"),
        count("prompt_tokens") + count("completion_tokens")
    );
}

#[tokio::test]
async fn the_native_form_answers_on_both_hosts_and_however_the_name_is_written() {
    let gateway = local().await;
    let encoded = MODEL.replace('/', "%2F");
    let more = encoded.replace('@', "%40");
    let mut texts = Vec::new();
    for path in [
        format!("{REST}/run/{MODEL}"),
        format!("{REST}/run/{encoded}"),
        format!("{REST}/run/{more}"),
        format!("{GATEWAY}/{MODEL}"),
        format!("{GATEWAY}/run/{MODEL}"),
        format!("{GATEWAY}/run/{encoded}"),
    ] {
        let answer = gateway
            .send(&Request::post(&path, &prompt(false)))
            .await
            .expect_status(200);
        let body = answer.json();
        assert_eq!(
            (&body["success"], &body["errors"], &body["messages"]),
            (&json!(true), &json!([]), &json!([])),
            "{path}"
        );
        assert_usage(&body["result"]["usage"]);
        texts.push(
            body["result"]["response"]
                .as_str()
                .expect("a text")
                .to_owned(),
        );
    }
    assert!(!texts[0].trim().is_empty());
    assert!(
        texts.iter().all(|text| *text == texts[0]),
        "the same words at temperature 0: {texts:?}"
    );
}

#[tokio::test]
async fn the_native_stream_says_what_the_native_answer_says() {
    let gateway = local().await;
    let path = format!("{GATEWAY}/{MODEL}");
    let whole = gateway
        .send(&Request::post(&path, &prompt(false)))
        .await
        .expect_status(200)
        .json();
    for path in [path, format!("{REST}/run/{MODEL}")] {
        let events = events(
            &gateway
                .send(&Request::post(&path, &prompt(true)))
                .await
                .expect_status(200),
        );
        assert!(
            events.iter().all(|event| event["response"].is_string()),
            "every chunk has a text: {events:?}"
        );
        let text: String = events
            .iter()
            .filter_map(|event| event["response"].as_str())
            .collect();
        assert_eq!(json!(text), whole["result"]["response"]);
        assert_usage(&events.last().expect("events")["usage"]);
    }
}

#[tokio::test]
async fn a_prompt_is_taken_as_well_as_messages() {
    let gateway = local().await;
    for body in [
        json!({"prompt": "Once upon a time", "max_tokens": 5}),
        json!({"prompt": "Once upon a time", "max_tokens": 5, "raw": true}),
        json!({"prompt": "Once upon a time", "max_tokens": 5, "raw": "true"}),
        json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], "max_tokens": 5}),
        json!({"prompt": "Hi", "max_tokens": 5, "a_field_of_tomorrow": 1, "seed": 9999999999u64}),
    ] {
        let answer = gateway
            .send(&Request::post(&format!("{REST}/run/{MODEL}"), &body))
            .await;
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        assert!(answer.json()["result"]["response"].is_string(), "{body}");
    }
}

#[tokio::test]
async fn the_openai_form_answers_on_both_hosts() {
    let gateway = local().await;
    for path in [
        format!("{REST}/v1/chat/completions"),
        format!("{GATEWAY}/v1/chat/completions"),
    ] {
        let body = gateway
            .send(&Request::post(&path, &completion(false)))
            .await
            .expect_status(200)
            .json();
        assert_eq!(
            (&body["object"], &body["model"]),
            (&json!("chat.completion"), &json!(MODEL)),
            "{path}"
        );
        let choice = &body["choices"][0];
        assert_eq!(
            (&choice["index"], &choice["message"]["role"]),
            (&json!(0), &json!("assistant"))
        );
        assert!(
            choice["message"]["content"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{body:#}"
        );
        assert!(
            ["stop", "length"]
                .contains(&choice["finish_reason"].as_str().expect("a finish reason"))
        );
        assert_usage(&body["usage"]);
        let whole = choice["message"]["content"].clone();

        let mut streamed = completion(true);
        streamed["stream_options"] = json!({"include_usage": true});
        let events = events(
            &gateway
                .send(&Request::post(&path, &streamed))
                .await
                .expect_status(200),
        );
        assert!(
            events
                .iter()
                .all(|event| event["object"] == "chat.completion.chunk"),
            "{events:?}"
        );
        assert!(events.iter().all(|event| event["id"] == events[0]["id"]));
        assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
        let contents = events
            .iter()
            .filter_map(|event| event["choices"][0]["delta"]["content"].as_str());
        assert_eq!(json!(contents.collect::<String>()), whole);
        let finishes = events
            .iter()
            .filter(|event| event["choices"][0]["finish_reason"].is_string())
            .count();
        assert_eq!(finishes, 1);
        let last = events.last().expect("events");
        assert_eq!(last["choices"], json!([]));
        assert_usage(&last["usage"]);
    }
}

#[tokio::test]
async fn a_universal_request_falls_back_to_the_local_model() {
    let gateway = local().await;
    for stream in [false, true] {
        let steps = json!([
            step("openai", "chat/completions", chat("gpt-4o-mini", stream), 1),
            step("workers-ai", MODEL, prompt(stream), 1),
        ]);
        let answer = gateway
            .send(&Request::post(UNIVERSAL, &steps))
            .await
            .expect_status(200);
        assert_eq!(answer.header("cf-aig-step"), Some("1"));
        let rows = gateway.rows_of(&answer, 2).await;
        assert_eq!(
            (rows[0].text("provider"), rows[0].is("success")),
            ("openai", false)
        );
        assert_eq!(
            (rows[1].text("provider"), rows[1].is("success")),
            ("workers-ai", true)
        );
        assert_eq!(rows[1].text("model"), MODEL);
        assert!(
            rows[1]
                .number("tokens_in")
                .is_some_and(|tokens| tokens > 3.0)
        );
        let tokens_out = rows[1].number("tokens_out");
        assert!(
            tokens_out.is_some_and(|tokens| (1.0..=12.0).contains(&tokens)),
            "stream {stream}: {:#}",
            rows[1].0
        );
        if stream {
            events(&answer);
        }
    }
}

#[tokio::test]
async fn several_answers_at_once_each_say_what_they_say_alone() {
    let gateway = Arc::new(local().await);
    let ask = |number: usize| {
        let body = json!({"messages": [{"role": "user", "content": format!("Name {number} colours.")}], "max_tokens": 10, "temperature": 0});
        Request::post(&format!("{REST}/run/{MODEL}"), &body)
    };
    let mut alone = Vec::new();
    for number in 1..=6 {
        alone.push(
            gateway.send(&ask(number)).await.expect_status(200).json()["result"]["response"]
                .clone(),
        );
    }
    let mut running = tokio::task::JoinSet::new();
    for number in 1..=6 {
        let (gateway, request) = (gateway.clone(), ask(number));
        running.spawn(async move { (number, gateway.send(&request).await) });
    }
    for (number, answer) in running.join_all().await {
        assert_eq!(
            answer.expect_status(200).json()["result"]["response"],
            alone[number - 1]
        );
    }
}

#[tokio::test]
async fn the_proxy_answers_while_the_model_works() {
    let gateway = local().await;
    let mut connection = Connection::open(gateway.server).await;
    let mut long = prompt(true);
    long["max_tokens"] = json!(200);
    long["ignore_eos"] = json!(true);
    connection
        .send(&Request::post(&format!("{REST}/run/{MODEL}"), &long))
        .await;
    let mut arriving = connection.head("POST").await;
    connection
        .piece(&mut arriving)
        .await
        .expect("a first piece")
        .expect("a first piece");
    let asked = std::time::Instant::now();
    assert_eq!(gateway.admin("/healthz").await.status, 200);
    gateway
        .send(&Request::get("/v1/default/default/no-such-provider/x"))
        .await
        .expect_status(400);
    assert!(
        asked.elapsed() < std::time::Duration::from_secs(5),
        "{:?}",
        asked.elapsed()
    );
    connection.leave();
}

#[tokio::test]
async fn errors_have_the_form_of_their_host() {
    let gateway = local().await;
    let unknown = "@cf/nobody/no-such-model";
    let rest = gateway
        .send(&Request::post(
            &format!("{REST}/run/{unknown}"),
            &prompt(false),
        ))
        .await
        .expect_status(400);
    let body = rest.json();
    assert_eq!(
        (
            &body["success"],
            &body["result"],
            &body["errors"][0]["code"]
        ),
        (&json!(false), &json!({}), &json!(5007))
    );
    assert!(
        body["errors"][0]["message"]
            .as_str()
            .is_some_and(|text| text.contains(unknown)),
        "{body}"
    );
    let own = gateway
        .send(&Request::post(
            &format!("{GATEWAY}/{unknown}"),
            &prompt(false),
        ))
        .await
        .expect_status(400);
    let body = own.json();
    assert_eq!(
        (&body["name"], &body["internalCode"], &body["httpCode"]),
        (&json!("AiError"), &json!(5007), &json!(400))
    );
    for (body, code) in [
        (json!({}), 5006),
        (json!({"messages": "text"}), 5006),
        (json!({"prompt": "x", "top_k": 51}), 5006),
    ] {
        let answer = gateway
            .send(&Request::post(&format!("{REST}/run/{MODEL}"), &body))
            .await;
        assert_eq!(
            (answer.status, &answer.json()["errors"][0]["code"]),
            (400, &json!(code)),
            "{body}"
        );
    }
    let mut long = prompt(false);
    long["messages"][0]["content"] = json!("word ".repeat(20_000));
    let answer = gateway
        .send(&Request::post(&format!("{REST}/run/{MODEL}"), &long))
        .await;
    assert_eq!(
        (answer.status, &answer.json()["errors"][0]["code"]),
        (413, &json!(5021)),
        "{}",
        answer.text()
    );
}

#[tokio::test]
async fn openai_clients_can_read_the_errors_of_the_openai_form() {
    let gateway = local().await;
    for path in [
        format!("{REST}/v1/chat/completions"),
        format!("{GATEWAY}/v1/chat/completions"),
    ] {
        let mut body = completion(false);
        body["model"] = json!("@cf/nobody/no-such-model");
        let answer = gateway.send(&Request::post(&path, &body)).await;
        assert!(
            (400..500).contains(&answer.status),
            "{path}: {}",
            answer.status
        );
        let body = answer.json();
        let message = body["error"]["message"]
            .as_str()
            .or(body["message"].as_str());
        assert!(
            message.is_some_and(|text| text.contains("no-such-model")),
            "{path}: {body}"
        );
    }
}
