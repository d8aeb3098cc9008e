//! What models there are, vectors, batches, and what accounts may use of the local engine.

use serde_json::{Value, json};
use tests::gateway::model_folder;
use tests::{Answer, Config, Request, TestGateway, eventually};

const MODEL: &str = "@cf/huggingfacetb/smollm2-135m-instruct";
const ENCODER: &str = "@cf/sentence-transformers/all-minilm-l6-v2";
const AI: &str = "/client/v4/accounts/default/ai";

fn config() -> Config {
    let config = Config::new().set("engine", &format!("model_dir = {:?}", model_folder()));
    config.set("engine", &format!("models = [{MODEL:?}, {ENCODER:?}]"))
}

/// Whether the encoder's files are here; says so when they are not.
fn has_encoder(test: &str) -> bool {
    let is_here = model_folder().join("all-MiniLM-L6-v2").exists();
    if !is_here {
        println!("SKIPPED: {test}: the folder all-MiniLM-L6-v2 is not in the model directory");
    }
    is_here
}

async fn get(gateway: &TestGateway, path: &str) -> Value {
    let answer = gateway.send(&Request::get(&format!("{AI}/{path}"))).await;
    answer.expect_status(200).json()
}

fn names(list: &Value) -> Vec<&str> {
    let rows = list["result"].as_array().expect("a list");
    rows.iter().filter_map(|row| row["name"].as_str()).collect()
}

#[tokio::test]
async fn models_are_listed_in_pages_that_end_empty() {
    let gateway = TestGateway::start(config()).await;
    let mut seen = Vec::new();
    for page in 1.. {
        let list = get(&gateway, &format!("models/search?per_page=1&page={page}")).await;
        if names(&list).is_empty() {
            break;
        }
        assert_eq!(list["result_info"]["total_count"], 2);
        seen.extend(names(&list).into_iter().map(str::to_owned));
    }
    assert_eq!(seen, [MODEL, ENCODER]);
    let list = get(&gateway, "models/search").await;
    let row = &list["result"][0];
    assert_eq!(
        (&row["task"]["name"], &row["source"]),
        (&json!("Text Generation"), &json!(1))
    );
    let properties = row["properties"].as_array().expect("a list");
    let window = properties
        .iter()
        .find(|property| property["property_id"] == "context_window");
    assert_eq!(window.expect("a window")["value"], "2048");
    for (query, expected) in [
        ("task=Text%20Embeddings", vec![ENCODER]),
        ("task=Text+Generation", vec![MODEL]),
        ("search=SMOLLM", vec![MODEL]),
        ("author=sentence-transformers", vec![ENCODER]),
        ("author=nobody", vec![]),
        ("source=2", vec![]),
        ("hide_experimental=true&source=1", vec![MODEL, ENCODER]),
    ] {
        let list = get(&gateway, &format!("models/search?{query}")).await;
        assert_eq!(names(&list), expected, "{query}");
    }
    let all = get(
        &gateway,
        "models/search?include_deprecated=true&per_page=1000",
    )
    .await;
    assert!(
        names(&all).contains(&"@cf/baai/bge-small-en-v1.5"),
        "{:?}",
        names(&all)
    );
    let open = get(&gateway, "models/search?format=openrouter").await;
    assert_eq!(open["data"][0]["id"], MODEL);
    assert_eq!(
        names(&get(&gateway, "tasks/search").await),
        ["Text Generation", "Text Embeddings"]
    );
    assert_eq!(
        names(&get(&gateway, "authors/search/").await),
        ["huggingfacetb", "sentence-transformers"]
    );
    let openai = get(&gateway, "v1/models").await;
    assert_eq!(
        (&openai["object"], &openai["data"][0]["id"]),
        (&json!("list"), &json!(MODEL))
    );
}

#[tokio::test]
async fn a_model_of_the_operators_own_answers_by_its_name() {
    const OWN: &str = "@acme/assistant";
    let path = model_folder().join("SmolLM2-135M-Instruct.Q4_1.gguf");
    let table = format!("engine.custom_models.{OWN:?}");
    let config = Config::new()
        .set("engine", "models = []")
        .set(&table, &format!("path = {path:?}"))
        .set(&table, "template = \"chatml\"");
    let gateway = TestGateway::start(config).await;
    let list = get(&gateway, "models/search").await;
    assert_eq!(names(&list), [OWN]);
    let body = json!({
        "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4, "temperature": 0,
    });
    let path = format!("/v1/default/default/workers-ai/{OWN}");
    let answer = gateway.send(&Request::post(&path, &body)).await;
    let native = answer.expect_status(200).json();
    assert_eq!(native["result"]["usage"]["completion_tokens"], 4);
    // Its header says 8192, which no row bounds here.
    let long = json!({"prompt": "word ".repeat(8300), "raw": true, "max_tokens": 1});
    let answer = gateway.send(&Request::post(&path, &long)).await;
    assert!(answer.text().contains("8192"), "{}", answer.text());
}

#[tokio::test]
async fn a_models_schema_is_told_and_an_unknown_one_is_not_found() {
    let gateway = TestGateway::start(config()).await;
    let encoded = MODEL.replace('/', "%2F").replace('@', "%40");
    for name in [MODEL, encoded.as_str()] {
        let told = get(&gateway, &format!("models/schema?model={name}")).await;
        assert_eq!(
            told["result"]["input"]["oneOf"][0]["required"],
            json!(["prompt"])
        );
        assert!(told["result"]["output"].is_object());
    }
    let path = format!("{AI}/models/schema?model=@cf/no/such");
    let answer = gateway.send(&Request::get(&path)).await.expect_status(404);
    assert_eq!(
        (&answer.json()["result"], &answer.json()["success"]),
        (&Value::Null, &json!(false))
    );
    let path = format!("{AI}/models/search");
    gateway
        .send(&Request::post(&path, &json!({})))
        .await
        .expect_status(405);
    let path = "/client/v4/accounts/nobody/ai/models/search";
    gateway.send(&Request::get(path)).await.expect_status(400);
}

fn cosine(left: &[f64], right: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(left, right) / (dot(left, left) * dot(right, right)).sqrt()
}

#[tokio::test]
async fn texts_become_vectors_in_every_form() {
    if !has_encoder("texts become vectors") {
        return;
    }
    let gateway = TestGateway::start(config()).await;
    let texts = json!([
        "A cat sits on the mat.",
        "A kitten rests on a rug.",
        "Stock prices fell."
    ]);
    let path = format!("{AI}/run/{}", ENCODER.replace('/', "%2F"));
    let answer = gateway
        .send(&Request::post(&path, &json!({"text": texts})))
        .await
        .expect_status(200);
    let rows = gateway.rows_of(&answer, 1).await;
    let native = answer.json();
    assert_eq!(native["result"]["shape"], json!([3, 384]));
    let vector = |value: &Value| -> Vec<f64> {
        value
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(Value::as_f64)
            .collect()
    };
    let vectors: Vec<Vec<f64>> = native["result"]["data"]
        .as_array()
        .expect("a list")
        .iter()
        .map(vector)
        .collect();
    assert!(cosine(&vectors[0], &vectors[1]) > cosine(&vectors[0], &vectors[2]) + 0.2);
    assert_eq!(
        rows[0].number("tokens_in"),
        native["result"]["usage"]["prompt_tokens"].as_f64()
    );
    assert!(
        rows[0]
            .number("neurons")
            .is_some_and(|neurons| neurons > 0.0)
    );

    let body = json!({"model": ENCODER, "input": texts});
    for path in [
        format!("{AI}/v1/embeddings"),
        "/v1/default/default/workers-ai/v1/embeddings".into(),
    ] {
        let list = gateway
            .send(&Request::post(&path, &body))
            .await
            .expect_status(200)
            .json();
        assert_eq!(list["object"], "list");
        assert_eq!(vector(&list["data"][2]["embedding"]), vectors[2]);
    }
    let query = json!({"query": "Where is the cat?", "contexts": [{"text": texts[2]}, {"text": texts[0]}], "top_k": 1});
    let ranked = gateway
        .send(&Request::post(&path, &query))
        .await
        .expect_status(200)
        .json();
    assert_eq!(ranked["result"]["response"][0]["id"], 1);
    assert_eq!(
        ranked["result"]["response"].as_array().map(Vec::len),
        Some(1)
    );
    let many = json!({"text": vec!["x"; 101]});
    let answer = gateway.send(&Request::post(&path, &many)).await;
    assert_eq!(
        (answer.status, &answer.json()["errors"][0]["code"]),
        (400, &json!(5006))
    );
}

#[tokio::test]
async fn a_batch_is_queued_and_asked_for_later_and_leaves_a_row_for_each_request() {
    let gateway = TestGateway::start(config()).await;
    let path = format!("{AI}/run/{MODEL}");
    let requests = json!([
        {"prompt": "One, two,", "max_tokens": 4, "external_reference": "a"},
        {"prompt": "x", "top_k": 51},
    ]);
    let queue = Request::post(
        &format!("{path}?queueRequest=true"),
        &json!({"requests": requests}),
    );
    let queued = gateway.send(&queue).await.expect_status(200).json()["result"].clone();
    assert_eq!(
        (&queued["status"], &queued["model"]),
        (&json!("queued"), &json!(MODEL))
    );
    let question = Request::post(&path, &json!({"request_id": queued["request_id"]}));
    let done = eventually("the batch to be done", async || {
        let result = gateway.send(&question).await.expect_status(200).json()["result"].clone();
        result.get("responses").is_some().then_some(result)
    })
    .await;
    let mut responses = done["responses"].as_array().expect("a list").clone();
    responses.sort_by_key(|response| response["id"].as_u64());
    assert_eq!(
        (
            &responses[0]["success"],
            &responses[0]["external_reference"]
        ),
        (&json!(true), &json!("a"))
    );
    assert!(responses[0]["result"]["response"].is_string());
    assert_eq!(
        (&responses[1]["success"], &responses[1]["error"]["code"]),
        (&json!(false), &json!(5006))
    );
    let rows = eventually("rows of the batch", async || {
        let rows = gateway.rows_now("default", "default").await;
        let id = queued["request_id"].as_str().expect("an id");
        let of_batch: Vec<_> = rows
            .into_iter()
            .filter(|row| row.text("event_id").starts_with(id))
            .collect();
        (of_batch.len() == 2).then_some(of_batch)
    })
    .await;
    let good = rows
        .iter()
        .find(|row| row.is("success"))
        .expect("one that went well");
    assert_eq!(
        good.number("tokens_out"),
        responses[0]["result"]["usage"]["completion_tokens"].as_f64()
    );
    // Asking is no use of the model, however often.
    let asked = gateway.rows_now("default", "default").await;
    let sum: f64 = asked
        .iter()
        .filter_map(|row| row.number("tokens_out"))
        .sum();
    assert_eq!(Some(sum), good.number("tokens_out"));
}

async fn ask(gateway: &TestGateway, account: &str) -> Answer {
    let path = format!("/client/v4/accounts/{account}/ai/run/{MODEL}");
    gateway
        .send(&Request::post(
            &path,
            &json!({"prompt": "Hi", "max_tokens": 2}),
        ))
        .await
}

#[tokio::test]
async fn requests_a_minute_are_limited_by_account() {
    let config = config().set("engine", "requests_per_minute = { text-generation = 2 }");
    let gateway = TestGateway::start(config.gateway("other", "default", "")).await;
    for _ in 0..2 {
        ask(&gateway, "default").await.expect_status(200);
    }
    let refused = ask(&gateway, "default").await.expect_status(429);
    assert_eq!(refused.json()["errors"][0]["code"], 3021);
    let wait: u64 = refused
        .header("retry-after")
        .and_then(|text| text.parse().ok())
        .expect("seconds");
    assert!((1..=30).contains(&wait), "{wait}");
    ask(&gateway, "other").await.expect_status(200);
}

#[tokio::test]
async fn neurons_are_told_and_recorded_and_a_days_allowance_ends() {
    let config = config()
        .set("engine", "neurons_per_day = 1")
        .set("engine", "neurons_per_million_input = 200000.0")
        .set("engine", "neurons_per_million_output = 100000.0");
    let gateway = TestGateway::start(config.gateway("other", "default", "")).await;
    let first = ask(&gateway, "default").await.expect_status(200);
    let told: f64 = first
        .header("cf-ai-neurons")
        .and_then(|text| text.parse().ok())
        .expect("a number");
    let usage = &first.json()["result"]["usage"];
    let count = |name: &str| usage[name].as_f64().expect("a count");
    let expected = count("prompt_tokens") * 0.2 + count("completion_tokens") * 0.1;
    assert!(
        (told - expected).abs() < 1e-3 && told > 1.0,
        "{told} {expected}"
    );
    let rows = gateway.rows_of(&first, 1).await;
    assert!(
        rows[0]
            .number("neurons")
            .is_some_and(|neurons| (neurons - expected).abs() < 1e-9)
    );

    let refused = ask(&gateway, "default").await.expect_status(429);
    assert_eq!(refused.json()["errors"][0]["code"], 4006);
    assert_eq!(
        (
            refused.header("retry-after"),
            refused.header("x-should-retry")
        ),
        (None, Some("false"))
    );
    ask(&gateway, "other").await.expect_status(200);
}

#[tokio::test]
async fn the_engines_counters_are_told_by_model() {
    let gateway = TestGateway::start(config()).await;
    ask(&gateway, "default").await.expect_status(200);
    let series = |name: &str| format!("{name}{{model=\"{MODEL}\"}}");
    assert_eq!(
        gateway
            .metric(&series("engine_completion_tokens_total"))
            .await,
        2.0
    );
    assert_eq!(gateway.metric(&series("engine_loads_total")).await, 1.0);
    assert!(gateway.metric(&series("engine_steps_total")).await >= 1.0);
    assert!(gateway.metric(&series("engine_memory_bytes")).await > 50e6);
}
