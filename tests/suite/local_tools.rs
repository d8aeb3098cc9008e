//! Tools, JSON and the responses format of the local model, on real tokens: what is forced must come out, whatever a
//! small model would rather say.

use serde_json::{Value, json};
use tests::gateway::model_folder;
use tests::{Answer, Config, Ending, Request, TestGateway};

const MODEL: &str = "@cf/huggingfacetb/smollm2-135m-instruct";
const REST: &str = "/client/v4/accounts/default/ai";
const GATEWAY: &str = "/v1/default/default/workers-ai";

async fn local() -> TestGateway {
    let config = Config::new().set("engine", &format!("model_dir = {:?}", model_folder()));
    TestGateway::start(config).await
}

fn weather() -> Value {
    json!({
        "name": "get_weather", "description": "The weather of a city.",
        "parameters": {
            "type": "object", "additionalProperties": false, "required": ["city", "unit"],
            "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
        },
    })
}

fn question(more: Value) -> Value {
    let mut body = json!({
        "model": MODEL, "temperature": 0, "max_tokens": 80,
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
    });
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body
}

fn forced() -> Value {
    json!({
        "tools": [{"type": "function", "function": weather()}],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
    })
}

#[track_caller]
fn assert_arguments(arguments: &Value) {
    assert!(arguments["city"].is_string(), "{arguments}");
    let unit = arguments["unit"].as_str();
    assert!(
        unit == Some("celsius") || unit == Some("fahrenheit"),
        "{arguments}"
    );
    assert_eq!(arguments.as_object().map(|fields| fields.len()), Some(2));
}

fn data(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.ending, Ending::Whole);
    let text = answer.text();
    let lines = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let lines = lines.filter(|line| *line != "[DONE]");
    lines
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

#[tokio::test]
async fn a_forced_call_is_told_flat_natively_and_with_an_id_to_openais_clients() {
    let gateway = local().await;
    let native = gateway
        .send(&Request::post(
            &format!("{REST}/run/{MODEL}"),
            &question(forced()),
        ))
        .await
        .expect_status(200)
        .json();
    let result = &native["result"];
    assert_eq!(result["response"], Value::Null, "{result}");
    assert_eq!(result["tool_calls"][0]["name"], "get_weather");
    let arguments = &result["tool_calls"][0]["arguments"];
    assert_arguments(arguments);
    assert_eq!(result["finish_reason"], "tool_calls");

    for path in [
        format!("{REST}/v1/chat/completions"),
        format!("{GATEWAY}/v1/chat/completions"),
    ] {
        let body = gateway
            .send(&Request::post(&path, &question(forced())))
            .await
            .expect_status(200)
            .json();
        let choice = &body["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls", "{choice}");
        let call = &choice["message"]["tool_calls"][0];
        assert!(
            call["id"].as_str().is_some_and(|id| !id.is_empty()),
            "{call}"
        );
        let text = call["function"]["arguments"].as_str().expect("a text");
        let told: Value = serde_json::from_str(text).expect("JSON");
        assert_eq!(told, *arguments, "the same at temperature 0");

        let mut streamed = question(forced());
        streamed["stream"] = json!(true);
        let answer = gateway
            .send(&Request::post(&path, &streamed))
            .await
            .expect_status(200);
        let chunks = data(&answer);
        let pieces = chunks.iter().filter_map(|chunk| {
            chunk["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"].as_str()
        });
        let joined: Value = serde_json::from_str(&pieces.collect::<String>()).expect("JSON");
        assert_eq!(joined, *arguments);
        let finish = chunks
            .iter()
            .find_map(|chunk| chunk["choices"][0]["finish_reason"].as_str());
        assert_eq!(finish, Some("tool_calls"));
    }
}

#[tokio::test]
async fn a_required_call_is_one_of_the_tools_and_none_is_none() {
    let gateway = local().await;
    let mut required = json!({"tools": [weather(), {"name": "get_time"}], "tool_choice": "any"});
    let ask = |more: &Value| Request::post(&format!("{REST}/run/{MODEL}"), &question(more.clone()));
    let native = gateway
        .send(&ask(&required))
        .await
        .expect_status(200)
        .json();
    let name = native["result"]["tool_calls"][0]["name"].as_str();
    assert!(
        name == Some("get_weather") || name == Some("get_time"),
        "{native}"
    );
    required["tool_choice"] = json!("none");
    let native = gateway
        .send(&ask(&required))
        .await
        .expect_status(200)
        .json();
    assert_eq!(native["result"]["tool_calls"], json!([]));
    assert!(native["result"]["response"].is_string());
}

/// What `runWithTools` of the official helpers sends, in its order, with the fields it reads.
#[tokio::test]
async fn the_official_helpers_sequence_of_calls_works() {
    let gateway = local().await;
    let run = async |body: Value| {
        let answer = gateway
            .send(&Request::post(&format!("{REST}/run/{MODEL}"), &body))
            .await
            .expect_status(200);
        answer.json()["result"].clone()
    };
    let user = json!({"role": "user", "content": "What is the weather in Paris?"});
    // The choice among many tools: no descriptions, nested items, and an array is read from the arguments.
    let choose = run(json!({
        "messages": [user], "stream": false, "tool_choice": "required", "max_tokens": 120,
        "tools": [{"type": "function", "function": {"name": "chooseTool", "parameters": {
            "type": "object", "required": ["tools"],
            "properties": {"tools": {"type": "array", "maxItems": 2, "items": {"type": "string", "enum": ["get_weather", "get_time"]}}}}}}],
    }))
    .await;
    assert!(
        choose["tool_calls"][0]["arguments"]["tools"].is_array(),
        "{choose}"
    );

    let first = run(question(forced())).await;
    let calls: Vec<Value> = first["tool_calls"].as_array().expect("a list").clone();
    assert!(
        calls
            .iter()
            .all(|call| call["name"].is_string() && call["arguments"].is_object())
    );
    let mut messages = vec![user];
    for call in &calls {
        messages.push(json!({"role": "assistant", "content": call.to_string()}));
        messages
            .push(json!({"role": "tool", "name": call["name"], "content": "{\"celsius\": 21}"}));
    }
    let last = run(json!({"messages": messages, "stream": false, "max_tokens": 20})).await;
    assert!(
        last["response"]
            .as_str()
            .is_some_and(|text| !text.is_empty()),
        "{last}"
    );
    let mut with_tools = json!({"messages": messages, "max_tokens": 20});
    with_tools["tools"] = json!([weather()]);
    assert!(
        run(with_tools).await["usage"]["prompt_tokens"].as_u64()
            > last["usage"]["prompt_tokens"].as_u64()
    );
}

#[tokio::test]
async fn ids_of_calls_come_back_as_they_were_sent() {
    let gateway = local().await;
    let path = format!("{REST}/v1/chat/completions");
    let first = gateway
        .send(&Request::post(&path, &question(forced())))
        .await
        .expect_status(200)
        .json();
    let message = first["choices"][0]["message"].clone();
    let id = message["tool_calls"][0]["id"].clone();
    let mut body = question(json!({"tools": [weather()], "tool_choice": "none"}));
    let messages = body["messages"].as_array_mut().expect("a list");
    messages.push(message);
    messages.push(json!({"role": "tool", "tool_call_id": id, "content": "21 degrees"}));
    let second = gateway
        .send(&Request::post(&path, &body))
        .await
        .expect_status(200)
        .json();
    assert!(
        second["choices"][0]["message"]["content"].is_string(),
        "{second}"
    );
}

fn person() -> Value {
    json!({
        "type": "object", "additionalProperties": false, "required": ["name", "age"],
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 130}},
    })
}

#[track_caller]
fn assert_person(value: &Value) {
    assert!(
        value["name"].is_string() && value["age"].as_u64().is_some_and(|age| age <= 130),
        "{value}"
    );
}

#[tokio::test]
async fn json_by_schema_is_a_value_natively_and_a_text_to_openais_clients() {
    let gateway = local().await;
    let bare = json!({"type": "json_schema", "json_schema": person()});
    let wrapped = json!({"type": "json_schema", "json_schema": {"name": "person", "strict": true, "schema": person()}});
    for more in [
        json!({"response_format": bare}),
        json!({"response_format": wrapped}),
        json!({"guided_json": person()}),
    ] {
        let native = gateway
            .send(&Request::post(
                &format!("{REST}/run/{MODEL}"),
                &question(more.clone()),
            ))
            .await
            .expect_status(200)
            .json();
        assert_person(&native["result"]["response"]);
        let mut body = question(more);
        let path = format!("{GATEWAY}/v1/chat/completions");
        let chat = gateway
            .send(&Request::post(&path, &body))
            .await
            .expect_status(200)
            .json();
        let text = chat["choices"][0]["message"]["content"]
            .as_str()
            .expect("a text");
        let value: Value = serde_json::from_str(text).expect("JSON");
        assert_eq!(
            value, native["result"]["response"],
            "the same at temperature 0"
        );
        body["stream"] = json!(true);
        let answer = gateway
            .send(&Request::post(&path, &body))
            .await
            .expect_status(200);
        let chunks = data(&answer);
        let streamed = chunks
            .iter()
            .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str());
        assert_eq!(streamed.collect::<String>(), text);
    }
}

#[tokio::test]
async fn json_that_ran_out_of_tokens_is_a_text_and_says_length() {
    let gateway = local().await;
    let more = json!({"response_format": {"type": "json_schema", "json_schema": person()}, "max_tokens": 3});
    let native = gateway
        .send(&Request::post(
            &format!("{REST}/run/{MODEL}"),
            &question(more),
        ))
        .await
        .expect_status(200)
        .json();
    assert!(native["result"]["response"].is_string(), "{native}");
    assert_eq!(native["result"]["finish_reason"], "length");
}

#[tokio::test]
async fn responses_tell_texts_and_calls_as_items() {
    let gateway = local().await;
    let path = format!("{REST}/v1/responses");
    let body = json!({"model": MODEL, "input": "Count to three.", "max_output_tokens": 12, "temperature": 0});
    let whole = gateway
        .send(&Request::post(&path, &body))
        .await
        .expect_status(200)
        .json();
    assert_eq!(whole["object"], "response");
    let text = whole["output"][0]["content"][0]["text"]
        .as_str()
        .expect("a text")
        .to_owned();
    let mut streamed = body;
    streamed["stream"] = json!(true);
    let answer = gateway
        .send(&Request::post(
            &format!("{GATEWAY}/v1/responses"),
            &streamed,
        ))
        .await
        .expect_status(200);
    let events = data(&answer);
    let deltas = events
        .iter()
        .filter(|event| event["type"] == "response.output_text.delta");
    assert_eq!(
        deltas
            .filter_map(|event| event["delta"].as_str())
            .collect::<String>(),
        text
    );
    let last = events.last().expect("events");
    assert!(
        last["type"] == "response.completed" || last["type"] == "response.incomplete",
        "{last}"
    );
    let rows = gateway.rows_of(&answer, 1).await;
    assert_eq!(
        rows[0].number("tokens_out"),
        last["response"]["usage"]["output_tokens"].as_f64()
    );

    let mut tool = weather();
    tool["type"] = json!("function");
    let body = json!({"model": MODEL, "input": "Weather in Paris?", "tools": [tool], "tool_choice": "required", "temperature": 0, "max_output_tokens": 80});
    let called = gateway
        .send(&Request::post(&path, &body))
        .await
        .expect_status(200)
        .json();
    let call = called["output"]
        .as_array()
        .and_then(|items| items.iter().find(|item| item["type"] == "function_call"));
    let call = call.unwrap_or_else(|| panic!("no call in {called}"));
    assert_arguments(
        &serde_json::from_str(call["arguments"].as_str().expect("a text")).expect("JSON"),
    );
    let next = json!({"model": MODEL, "max_output_tokens": 8, "input": [
        {"role": "user", "content": "Weather in Paris?"}, call,
        {"type": "function_call_output", "call_id": call["call_id"], "output": "21 degrees"},
    ]});
    gateway
        .send(&Request::post(&path, &next))
        .await
        .expect_status(200);
}

#[tokio::test]
async fn choices_and_log_probabilities_are_told() {
    let gateway = local().await;
    let path = format!("{REST}/v1/chat/completions");
    let body = question(
        json!({"n": 2, "temperature": 1, "seed": 3, "max_tokens": 6, "logprobs": true, "top_logprobs": 2}),
    );
    let answer = gateway
        .send(&Request::post(&path, &body))
        .await
        .expect_status(200)
        .json();
    let choices = answer["choices"].as_array().expect("a list");
    assert_eq!(choices.len(), 2);
    for choice in choices {
        let tokens = choice["logprobs"]["content"].as_array().expect("a list");
        let text: String = tokens
            .iter()
            .filter_map(|token| token["token"].as_str())
            .collect();
        let content = choice["message"]["content"].as_str().expect("a text");
        assert!(text.starts_with(content), "{text:?} {content:?}");
        assert!(tokens.iter().all(|token| {
            token["logprob"]
                .as_f64()
                .is_some_and(|logprob| logprob <= 0.0)
        }));
        assert!(
            tokens
                .iter()
                .all(|token| token["top_logprobs"].as_array().map(Vec::len) == Some(2))
        );
    }
    let prompts = json!({"model": MODEL, "prompt": ["The capital of France is", "One, two,"], "max_tokens": 3, "temperature": 0, "logprobs": 1});
    let path = format!("{REST}/v1/completions");
    let both = gateway
        .send(&Request::post(&path, &prompts))
        .await
        .expect_status(200)
        .json();
    for (index, prompt) in ["The capital of France is", "One, two,"].iter().enumerate() {
        let alone = json!({"model": MODEL, "prompt": prompt, "max_tokens": 3, "temperature": 0});
        let alone = gateway
            .send(&Request::post(&path, &alone))
            .await
            .expect_status(200)
            .json();
        assert_eq!(both["choices"][index]["text"], alone["choices"][0]["text"]);
    }
}
