//! Requests that are answered with an adapter, in every form that can name one.

use serde_json::{Value, json};
use tests::adapter::{
    AI, MODEL, WEIGHTS, WIDTH, adapter_weights, assert_refused, complete, config, good_weights,
    upload,
};
use tests::{Request, TestGateway, eventually};

const GATEWAY: &str = "/v1/default/default/workers-ai";

fn prompt() -> Value {
    json!({"prompt": "Count to three.", "max_tokens": 8, "temperature": 0})
}

fn messages() -> Value {
    json!({"messages": [{"role": "user", "content": "Count to three."}], "max_tokens": 8, "temperature": 0})
}

fn with(mut body: Value, field: &str, value: impl Into<Value>) -> Value {
    body[field] = value.into();
    body
}

async fn ask(gateway: &TestGateway, path: &str, body: &Value) -> Value {
    let answer = gateway.send(&Request::post(path, body)).await;
    answer.expect_status(200).json()
}

/// The text of a native answer.
async fn native(gateway: &TestGateway, path: &str, body: &Value) -> String {
    let answer = ask(gateway, path, body).await;
    let text = answer["result"]["response"].as_str();
    text.unwrap_or_else(|| panic!("no text in {answer}"))
        .to_owned()
}

#[tokio::test]
async fn every_form_can_name_an_adapter_and_all_mean_the_same() {
    let gateway = TestGateway::start(config("")).await;
    let id = complete(&gateway, "mine", &good_weights()).await;
    let run = format!("{AI}/run/{MODEL}");
    let base = native(&gateway, &run, &messages()).await;
    let adapted = native(&gateway, &run, &with(messages(), "lora", "mine")).await;
    assert_ne!(adapted, base, "an adapter this large changes every text");
    let encoded = MODEL.replace('/', "%2F");
    for (path, body) in [
        (run.clone(), with(messages(), "lora", &*id)),
        (
            format!("{AI}/run/{encoded}"),
            with(messages(), "lora", "mine"),
        ),
        (
            format!("{GATEWAY}/{MODEL}"),
            with(messages(), "lora", "mine"),
        ),
        (format!("{run}:mine"), messages()),
        (format!("{AI}/run/{encoded}%3Amine"), messages()),
        (format!("{GATEWAY}/run/{MODEL}:{id}"), messages()),
        (format!("{run}:mine"), with(messages(), "lora", "mine")),
    ] {
        assert_eq!(
            native(&gateway, &path, &body).await,
            adapted,
            "{path} {body}"
        );
    }
    for body in [
        with(with(messages(), "model", MODEL), "lora", "mine"),
        with(messages(), "model", format!("{MODEL}:mine")),
        with(messages(), "model", format!("workers-ai/{MODEL}:{id}")),
    ] {
        for path in [
            format!("{AI}/v1/chat/completions"),
            format!("{GATEWAY}/v1/chat/completions"),
        ] {
            let answer = ask(&gateway, &path, &body).await;
            let choice = &answer["choices"][0];
            assert_eq!(choice["message"]["content"], adapted, "{path} {body}");
            assert_eq!(answer["model"], MODEL);
        }
    }
    let steps = json!([{"provider": "workers-ai", "endpoint": MODEL, "query": with(messages(), "lora", "mine")}]);
    assert_eq!(
        native(&gateway, "/v1/default/default", &steps).await,
        adapted
    );

    // Prompts, with and without the template.
    let plain = native(&gateway, &run, &with(prompt(), "lora", "mine")).await;
    let raw = native(
        &gateway,
        &run,
        &with(with(prompt(), "lora", "mine"), "raw", true),
    )
    .await;
    let text = with(with(prompt(), "lora", "mine"), "raw", "true");
    assert_eq!(native(&gateway, &run, &text).await, raw);
    assert_ne!(native(&gateway, &run, &prompt()).await, plain);
    assert_ne!(
        native(&gateway, &run, &with(prompt(), "raw", true)).await,
        raw
    );

    let streamed = with(with(messages(), "lora", "mine"), "stream", true);
    let answer = gateway
        .send(&Request::post(&run, &streamed))
        .await
        .expect_status(200);
    let text: String = answer
        .text()
        .split("\n\n")
        .filter_map(|event| serde_json::from_str::<Value>(event.strip_prefix("data: ")?).ok())
        .filter_map(|event| Some(event["response"].as_str()?.to_owned()))
        .collect();
    assert_eq!(text, adapted);

    let queue = json!({"requests": [with(messages(), "lora", "mine"), messages(), with(messages(), "lora", "nobody")]});
    let queued = ask(&gateway, &format!("{run}?queueRequest=true"), &queue).await;
    let poll = json!({"request_id": queued["result"]["request_id"]});
    let done = eventually("the batch to be done", async || {
        let answer = ask(&gateway, &run, &poll).await;
        answer["result"]["responses"].is_array().then_some(answer)
    })
    .await;
    let responses = done["result"]["responses"].as_array().expect("a list");
    let of = |index: u64| {
        let mut found = responses.iter();
        found
            .find(|row| row["id"] == index)
            .expect("each is answered")
    };
    assert_eq!(of(0)["result"]["response"], adapted);
    assert_eq!(of(1)["result"]["response"], base);
    assert_eq!(of(2)["error"]["code"], 3037);
}

#[tokio::test]
async fn many_adapters_answer_side_by_side_as_each_does_alone() {
    let gateway = TestGateway::start(config("")).await;
    let run = format!("{AI}/run/{MODEL}");
    let mut bodies = vec![messages()];
    for seed in 1..=4 {
        let name = format!("tune-{seed}");
        complete(&gateway, &name, &adapter_weights(4, WIDTH, seed, 1.0)).await;
        bodies.push(with(messages(), "lora", name));
    }
    let mut alone = Vec::new();
    for body in &bodies {
        alone.push(native(&gateway, &run, body).await);
    }
    let different: std::collections::HashSet<&String> = alone.iter().collect();
    assert_eq!(different.len(), alone.len(), "{alone:?}");
    let gateway = &gateway;
    let run = &run;
    let [a, b, c, d, e] = &bodies[..] else {
        panic!("five bodies");
    };
    let together = tokio::join!(
        native(gateway, run, a),
        native(gateway, run, b),
        native(gateway, run, c),
        native(gateway, run, d),
        native(gateway, run, e)
    );
    let together = [together.0, together.1, together.2, together.3, together.4];
    assert_eq!(&together[..], &alone[..]);
}

#[tokio::test]
async fn a_replaced_adapter_answers_at_once_and_not_from_the_cache_of_the_old_one() {
    let gateway = TestGateway::start(config("")).await;
    complete(&gateway, "mine", &good_weights()).await;
    let run = format!("{AI}/run/{MODEL}");
    let cached = async || {
        let request = Request::post(&run, &with(messages(), "lora", "mine"));
        let answer = gateway
            .send(&request.header("cf-aig-cache-ttl", "60"))
            .await;
        let answer = answer.expect_status(200);
        let is_hit = answer.header("cf-aig-cache-status") == Some("HIT");
        (is_hit, answer.json()["result"]["response"].clone())
    };
    let (is_hit, first) = cached().await;
    assert!(!is_hit);
    assert_eq!(cached().await, (true, first.clone()));
    let other = adapter_weights(4, WIDTH, 2, 1.0);
    gateway
        .send(&upload("mine", WEIGHTS, &other))
        .await
        .expect_status(200);
    let (is_hit, second) = cached().await;
    assert!(!is_hit && second != first, "{second}");
    gateway
        .send(&upload("mine", WEIGHTS, &good_weights()))
        .await
        .expect_status(200);
    assert_eq!(
        cached().await,
        (true, first),
        "what was computed with these files still holds"
    );
    let path = format!("{AI}/finetunes/mine");
    gateway
        .send(&Request::new("DELETE", &path))
        .await
        .expect_status(200);
    let answer = gateway
        .send(&Request::post(&run, &with(messages(), "lora", "mine")))
        .await;
    assert_refused(&answer, 404, 3037, "Finetune mine not found");
}

#[tokio::test]
async fn files_that_were_tampered_with_are_not_answered_with() {
    let gateway = TestGateway::start(config("")).await;
    complete(&gateway, "mine", &good_weights()).await;
    let folder = gateway.folder().join("data/finetunes");
    for file in std::fs::read_dir(folder).expect("a folder") {
        let path = file.expect("a file").path();
        let mut bytes = std::fs::read(&path).expect("readable");
        bytes[20] ^= 1;
        std::fs::write(path, bytes).expect("writable");
    }
    let body = with(messages(), "lora", "mine");
    let answer = gateway
        .send(&Request::post(&format!("{AI}/run/{MODEL}"), &body))
        .await;
    assert_refused(&answer, 404, 3037, "its files cannot be read");
    native(&gateway, &format!("{AI}/run/{MODEL}"), &messages()).await;
}
