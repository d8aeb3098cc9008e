use local_inference::testing::{self, MODEL, saying, scripted};
use local_inference::{EngineConfig, EngineHandle};
use serde_json::{Value, json};

use super::*;

const NATIVE: &str = "run/@cf%2Ftesting/scripted";
const CHAT: &str = "v1/chat/completions";
const COMPLETIONS: &str = "v1/completions";

/// What a caller sees: status, body as one text, and whether a stream broke off.
async fn seen(engine: &EngineHandle, host: Host, rest: &str, body: &str) -> (u16, String, bool) {
    let endpoint = endpoint(rest).expect("one of ours");
    let reply = serve(engine, host, endpoint, body.as_bytes()).await;
    let mut stream = match reply.body {
        LocalBody::Full(bytes) => {
            assert_eq!(reply.content_type, "application/json");
            return (
                reply.status,
                String::from_utf8(bytes.to_vec()).expect("text"),
                false,
            );
        }
        LocalBody::Stream(stream) => stream,
    };
    assert_eq!(reply.content_type, "text/event-stream");
    let (mut text, mut is_cut) = (String::new(), false);
    while let Some(piece) = stream.recv().await {
        assert!(!is_cut, "nothing follows a failure");
        match piece {
            Piece::Bytes(bytes) => {
                let events = std::str::from_utf8(&bytes).expect("text");
                assert!(events.ends_with("\n\n"), "whole events only: {events:?}");
                text.push_str(events);
            }
            Piece::Failed(_) => is_cut = true,
        }
    }
    (reply.status, text, is_cut)
}

fn says(text: &str) -> EngineHandle {
    scripted(EngineConfig::default(), saying(text))
}

fn with_model(mut body: Value) -> String {
    body["model"] = MODEL.into();
    body.to_string()
}

async fn native(engine: &EngineHandle, body: Value) -> (u16, Value) {
    let (status, text, _) = seen(engine, Host::Rest, NATIVE, &body.to_string()).await;
    (status, serde_json::from_str(&text).expect("JSON"))
}

async fn openai(engine: &EngineHandle, rest: &str, body: Value) -> (u16, Value) {
    let (status, text, _) = seen(engine, Host::Rest, rest, &with_model(body)).await;
    (status, serde_json::from_str(&text).expect("JSON"))
}

/// The `data:` of each event, parsed; padding checked and taken out.
fn events(text: &str) -> (Vec<Value>, bool) {
    let mut parsed = Vec::new();
    let mut is_done = false;
    for event in text.split_terminator("\n\n") {
        let data = event
            .strip_prefix("data: ")
            .expect("one data line an event");
        assert!(!is_done && !data.contains('\n'));
        is_done = data == "[DONE]";
        if !is_done {
            let mut value: Value = serde_json::from_str(data).expect("JSON");
            if let Some(padding) = value.as_object_mut().expect("an object").remove("p") {
                let alphabet = "abdefghijklmnoprstuvxyz1234567890".repeat(2);
                assert!(alphabet.starts_with(padding.as_str().expect("text")));
            }
            parsed.push(value);
        }
    }
    (parsed, is_done)
}

#[test]
fn paths_name_endpoints_however_they_are_encoded() {
    let run = |model: &str| {
        Some(LocalEndpoint::Run {
            model: model.to_owned(),
        })
    };
    let llama = "@cf/meta/llama-3-8b-instruct";
    for path in [
        "@cf/meta/llama-3-8b-instruct",
        "run/@cf/meta/llama-3-8b-instruct",
        "run/@cf%2Fmeta%2Fllama-3-8b-instruct",
        "run/%40cf/meta/llama-3-8b-instruct",
        "%40cf%2fmeta%2fllama-3-8b-instruct/",
        "/run/@cf/meta/llama-3-8b-instruct?queueRequest=false",
    ] {
        assert_eq!(endpoint(path), run(llama), "{path}");
    }
    assert_eq!(endpoint("run"), run(""));
    assert_eq!(endpoint("run/gpt-4"), run("gpt-4"));
    assert_eq!(
        endpoint("v1/chat/completions"),
        Some(LocalEndpoint::ChatCompletions)
    );
    assert_eq!(endpoint("v1/completions"), Some(LocalEndpoint::Completions));
    assert_eq!(
        endpoint("v1/responses"),
        Some(LocalEndpoint::Unsupported("/v1/responses"))
    );
    for path in [
        "",
        "gpt-4",
        "v1/models",
        "@cf/../../x",
        "run/@cf/%2e%2e/x",
        "@cf//x",
        "%ff",
    ] {
        assert_eq!(endpoint(path), None, "{path}");
    }
}

#[tokio::test]
async fn native_answers_are_in_the_envelope() {
    let engine = says("four");
    for host in [Host::Rest, Host::Gateway] {
        let body = r#"{"prompt":"2+2","max_tokens":null,"stream":false,"mystery":{"x":1}}"#;
        let (status, text, _) = seen(&engine, host, NATIVE, body).await;
        assert_eq!(status, 200);
        assert_eq!(
            text,
            r#"{"result":{"response":"four","tool_calls":[],"usage":{"prompt_tokens":4,"completion_tokens":5,"total_tokens":9}},"success":true,"errors":[],"messages":[]}"#
        );
    }
    let named = json!({ "model": format!("workers-ai/{MODEL}"), "prompt": "x" }).to_string();
    assert_eq!(seen(&engine, Host::Rest, "run", &named).await.0, 200);
}

#[tokio::test]
async fn native_streams_end_with_usage_and_done() {
    let (status, text, is_cut) = seen(
        &says("a漢"),
        Host::Gateway,
        NATIVE,
        r#"{"prompt":"x","stream":"true"}"#,
    )
    .await;
    assert_eq!((status, is_cut), (200, false));
    assert!(text.contains(r#","p":""#));
    let (events, is_done) = events(&text);
    assert!(is_done);
    let usage = json!({ "prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7 });
    let expected = [
        json!({ "response": "a" }),
        json!({ "response": "漢" }),
        json!({ "response": "", "usage": usage }),
    ];
    assert_eq!(events, expected);
}

#[tokio::test]
async fn chat_completions_are_openais_object() {
    let body =
        json!({ "messages": [{ "role": "user", "content": "hi" }], "max_completion_tokens": 2 });
    let (status, mut value) = openai(&says("four"), CHAT, body).await;
    assert_eq!(status, 200);
    assert!(
        value["id"]
            .as_str()
            .is_some_and(|id| id.starts_with("chatcmpl-"))
    );
    assert!(
        value["created"]
            .as_u64()
            .is_some_and(|time| time > 1_700_000_000)
    );
    let fields = value.as_object_mut().expect("an object");
    fields.remove("id");
    fields.remove("created");
    let message = json!({ "role": "assistant", "content": "fo", "refusal": null });
    let choice = json!({ "index": 0, "message": message, "logprobs": null, "finish_reason": "length", "stop_reason": null });
    let usage = json!({ "prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5 });
    let expected =
        json!({ "object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage });
    assert_eq!(value, expected);
}

#[tokio::test]
async fn chat_streams_begin_with_the_role_and_end_with_reason_usage_and_done() {
    let engine = says("ok");
    let body = json!({ "messages": [{ "role": "user", "content": "hi" }], "stream": true });
    let (_, text, _) = seen(&engine, Host::Rest, CHAT, &with_model(body.clone())).await;
    let (chunks, is_done) = events(&text);
    assert!(is_done);
    let deltas: Vec<&Value> = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"].get(0))
        .map(|choice| &choice["delta"])
        .collect();
    assert_eq!(
        deltas,
        [
            &json!({ "role": "assistant", "content": "" }),
            &json!({ "content": "o" }),
            &json!({ "content": "k" }),
            &json!({}),
        ]
    );
    let reasons: Vec<&Value> = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"].get(0))
        .map(|c| &c["finish_reason"])
        .collect();
    assert_eq!(
        reasons,
        [&Value::Null, &Value::Null, &Value::Null, &json!("stop")]
    );
    let last = chunks.last().expect("chunks");
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 3);
    assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"]));
    assert!(
        chunks
            .iter()
            .all(|chunk| chunk["object"] == "chat.completion.chunk")
    );

    let mut quiet = body;
    quiet["stream_options"] = json!({ "include_usage": false });
    let (_, text, _) = seen(&engine, Host::Rest, CHAT, &with_model(quiet)).await;
    assert!(!text.contains("usage") && text.ends_with("data: [DONE]\n\n"));
}

#[tokio::test]
async fn legacy_completions_take_the_prompt_as_it_is() {
    // Answers with the prompt it saw: no template mark may be in it.
    let engine = scripted(
        EngineConfig::default(),
        Box::new(|tokens| {
            let half = tokens
                .iter()
                .position(|token| *token == u32::from(b'.'))
                .expect("a dot");
            tokens
                .get(tokens.len() - half - 1)
                .copied()
                .filter(|_| tokens.len() < 2 * half + 2)
                .unwrap_or(testing::END)
        }),
    );
    for prompt in [json!("abc."), json!(["abc."])] {
        let (status, value) = openai(&engine, COMPLETIONS, json!({ "prompt": prompt })).await;
        assert_eq!(status, 200, "{value}");
        assert_eq!(value["object"], "text_completion");
        assert_eq!(value["choices"][0]["text"], "abc.");
        assert_eq!(value["choices"][0]["finish_reason"], "stop");
        assert_eq!(
            value["usage"],
            json!({ "prompt_tokens": 4, "completion_tokens": 5, "total_tokens": 9 })
        );
    }
    let body = with_model(json!({ "prompt": "abc.", "stream": true }));
    let (_, text, _) = seen(&engine, Host::Rest, COMPLETIONS, &body).await;
    let (chunks, is_done) = events(&text);
    let texts: Vec<&str> = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["text"].as_str())
        .collect();
    assert!(is_done);
    assert_eq!(texts.concat(), "abc.");
}

#[tokio::test]
async fn contents_come_in_every_form_clients_write() {
    let engine = says("ok");
    for content in [
        json!(null),
        json!("text"),
        json!([{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }]),
        json!(["a", "b"]),
    ] {
        let messages = json!([{ "role": "developer", "content": content }, { "role": "user", "content": "x" }]);
        assert_eq!(
            native(&engine, json!({ "messages": messages.clone() }))
                .await
                .0,
            200
        );
        assert_eq!(
            openai(&engine, CHAT, json!({ "messages": messages }))
                .await
                .0,
            200
        );
    }
    for raw in [json!(true), json!("true")] {
        let (status, value) = native(&engine, json!({ "prompt": "abc", "raw": raw })).await;
        // The script looks for the template's mark; without it, the prompt counts as said.
        assert_eq!(
            (status, &value["result"]["usage"]["prompt_tokens"]),
            (200, &json!(3))
        );
    }
}

#[tokio::test]
async fn bad_input_is_refused_by_name() {
    let engine = says("ok");
    let chat = |field: &str, value: Value| {
        let mut body = json!({ "messages": [{ "role": "user", "content": "x" }] });
        body[field] = value;
        body
    };
    for (body, expected) in [
        (
            json!({}),
            "oneOf at '/' not met, 0 matches: required properties at '/' are 'prompt'",
        ),
        (
            json!({ "prompt": "" }),
            "Length of '/prompt' must be >= 1 not met",
        ),
        (
            json!({ "prompt": 5 }),
            "Type mismatch of '/prompt', 'number' not in 'string'",
        ),
        (
            json!({ "messages": [] }),
            "Length of '/messages' must be >= 1",
        ),
        (
            json!({ "messages": [{ "content": "x" }] }),
            "required properties at '/messages/0' are 'role,content'",
        ),
        (
            json!({ "messages": [{ "role": "user", "content": 1 }] }),
            "'/messages/0/content', 'number' not in 'string'",
        ),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url", "image_url": {} }] }] }),
            "messages/0/content/0: image_url",
        ),
        (
            json!({ "messages": [{ "role": "tool", "content": "x" }] }),
            "'/messages/0/role: tool' is not supported",
        ),
        (chat("top_k", json!(51)), "'/top_k' must be <= 50"),
        (
            chat("temperature", json!(5.1)),
            "'/temperature' must be <= 5",
        ),
        (
            chat("temperature", json!("hot")),
            "Type mismatch of '/temperature', 'string' not in 'number'",
        ),
        (chat("max_tokens", json!(0)), "'/max_tokens' must be >= 1"),
        (chat("max_tokens", json!(1.5)), "'/max_tokens'"),
        (chat("seed", json!("x")), "'/seed'"),
        (chat("stream", json!(3)), "'/stream'"),
        (
            chat("tools", json!([{ "type": "function" }])),
            "'/tools' is not supported by this model",
        ),
        (
            chat("tool_choice", json!("required")),
            "'/tool_choice' is not supported",
        ),
        (chat("n", json!(2)), "'/n' must be <= 1"),
        (chat("image", json!([1, 2])), "'/image' is not supported"),
        (
            chat("logprobs", json!(true)),
            "'/logprobs' is not supported",
        ),
        (
            chat("reasoning_effort", json!("high")),
            "'/reasoning_effort' is not supported",
        ),
    ] {
        let (status, value) = native(&engine, body.clone()).await;
        let message = value["errors"][0]["message"].as_str().unwrap_or_default();
        assert!(
            message.starts_with("AiError: AiError: Bad input: Error: "),
            "{body}: {value}"
        );
        assert!(message.contains(expected), "{body}: {message}");
        assert_eq!(
            (status, &value["errors"][0]["code"]),
            (400, &json!(5006)),
            "{body}"
        );
    }
    for (field, value, status, code) in [
        ("lora", json!("my-tune"), 405, 5005),
        (
            "response_format",
            json!({ "type": "json_object" }),
            400,
            5025,
        ),
        ("guided_json", json!({ "type": "object" }), 400, 5025),
    ] {
        let (actual, answer) = native(&engine, chat(field, value)).await;
        assert_eq!(
            (actual, &answer["errors"][0]["code"]),
            (status, &json!(code)),
            "{field}"
        );
    }
    let mut streamed = chat("response_format", json!({ "type": "json_object" }));
    streamed["stream"] = json!(true);
    assert_eq!(native(&engine, streamed).await.1["errors"][0]["code"], 5023);
    // What asks for nothing is no obstacle.
    for (field, value) in [
        ("tools", json!([])),
        ("tool_choice", json!("auto")),
        ("response_format", json!({ "type": "text" })),
        ("response_format", json!(null)),
        ("lora", json!("")),
        ("logprobs", json!(false)),
        ("n", json!(1)),
        ("logit_bias", json!({})),
        ("seed", json!(9_999_999_999u64)),
        ("seed", json!(-1)),
        ("max_tokens", json!(4.0)),
        ("user", json!("someone")),
    ] {
        assert_eq!(
            native(&engine, chat(field, value.clone())).await.0,
            200,
            "{field}: {value}"
        );
    }
    for body in ["", "  ", "not json", "[]", "{\"prompt\":\"\\ud800\"}"] {
        let (status, text, _) = seen(&engine, Host::Rest, NATIVE, body).await;
        assert_eq!(status, 400, "{body}: {text}");
    }
    let huge = format!(r#"{{"prompt":"{}"}}"#, "x".repeat(11 << 20));
    assert_eq!(seen(&engine, Host::Rest, NATIVE, &huge).await.0, 413);
    let large = format!(r#"{{"prompt":"{}"}}"#, "x".repeat(1 << 20));
    assert_eq!(seen(&engine, Host::Rest, NATIVE, &large).await.0, 413);
}

#[tokio::test]
async fn errors_take_the_form_of_their_host_and_route() {
    let engine = says("ok");
    let path = "run/@cf/no/such";
    let (status, text, _) = seen(&engine, Host::Rest, path, r#"{"prompt":"x"}"#).await;
    assert_eq!(status, 400);
    let beginning = r#"{"errors":[{"message":"AiError: AiError: No such model: No such model @cf/no/such or task ("#;
    assert!(text.starts_with(beginning), "{text}");
    assert!(
        text.ends_with(r#")","code":5007}],"success":false,"result":{},"messages":[]}"#),
        "{text}"
    );

    let (_, text, _) = seen(&engine, Host::Gateway, path, r#"{"prompt":"x"}"#).await;
    let value: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        (&value["name"], &value["internalCode"], &value["httpCode"]),
        (&json!("AiError"), &json!(5007), &json!(400))
    );
    assert_eq!(value["description"], "No such model @cf/no/such or task");
    let id = value["requestId"].as_str().expect("an id");
    assert!(
        value["message"]
            .as_str()
            .is_some_and(|message| message.ends_with(&format!("({id})")))
    );

    for host in [Host::Rest, Host::Gateway] {
        let body = r#"{"model":"@cf/no/such","messages":[{"role":"user","content":"x"}]}"#;
        let (_, text, _) = seen(&engine, host, CHAT, body).await;
        let value: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["errors"][0]["code"], 5007);
        assert_eq!(value["error"]["type"], "invalid_request_error");
        assert_eq!(value["error"]["code"], "model_not_found");
    }
    let (status, value) = openai(&engine, "v1/embeddings", json!({ "input": "x" })).await;
    assert_eq!(status, 400);
    assert!(
        value["error"]["message"]
            .as_str()
            .is_some_and(|text| text.contains("/v1/embeddings")),
        "{value}"
    );
}

#[tokio::test]
async fn a_full_window_is_told_with_both_numbers() {
    let body = json!({ "prompt": "x".repeat(600), "max_tokens": 10 });
    let (status, value) = native(&says("ok"), body).await;
    assert_eq!((status, &value["errors"][0]["code"]), (413, &json!(5021)));
    let message = value["errors"][0]["message"].as_str().expect("text");
    let expected = "The estimated number of input and maximum output tokens (611) exceeded this model context window limit (512).";
    assert!(message.contains(expected), "{message}");
}

#[tokio::test]
async fn a_busy_engine_says_so_and_when_to_come_back() {
    let (leave, allowed) = std::sync::mpsc::sync_channel::<()>(0);
    let script: testing::Script = Box::new(move |_| {
        let _ = allowed.recv();
        testing::END
    });
    let config = EngineConfig {
        max_running: 1,
        max_waiting: 1,
        ..EngineConfig::default()
    };
    let engine = scripted(config, script);
    let endpoint = || endpoint(NATIVE).expect("one of ours");
    let held = [1, 2].map(|_| {
        let engine = engine.clone();
        tokio::spawn(async move {
            serve(&engine, Host::Rest, endpoint(), br#"{"prompt":"x"}"#)
                .await
                .status
        })
    });
    while engine.stats().admitted < 2 {
        tokio::task::yield_now().await;
    }
    let busy = serve(&engine, Host::Rest, endpoint(), br#"{"prompt":"x"}"#).await;
    assert_eq!((busy.status, busy.retry_after_s), (429, Some(1)));
    let hasty = br#"{"prompt":"x","options":{"rejectIfBusy":true}}"#;
    let reply = serve(&engine, Host::Rest, endpoint(), hasty).await;
    let LocalBody::Full(body) = reply.body else {
        panic!("an error is no stream")
    };
    assert!(String::from_utf8_lossy(&body).contains("3040"));
    drop(leave);
    for reply in held {
        assert_eq!(reply.await.expect("no panic"), 200);
    }
}

/// Says `ab`, then a step panics.
fn failing() -> EngineHandle {
    let mut said = 0;
    scripted(
        EngineConfig::default(),
        Box::new(move |_| {
            said += 1;
            assert!(said < 3, "on purpose");
            u32::from(b'a') + said - 1
        }),
    )
}

#[tokio::test]
async fn a_failure_in_mid_stream_keeps_what_was_said_and_never_looks_whole() {
    for (rest, body) in [
        (NATIVE, json!({ "prompt": "x", "stream": true }).to_string()),
        (
            CHAT,
            with_model(json!({ "messages": [{ "role": "user", "content": "x" }], "stream": true })),
        ),
        (
            COMPLETIONS,
            with_model(json!({ "prompt": "x", "stream": true })),
        ),
    ] {
        let (status, text, is_cut) = seen(&failing(), Host::Gateway, rest, &body).await;
        assert_eq!((status, is_cut), (200, true));
        let (events, is_done) = events(&text);
        assert!(!is_done && !text.contains("[DONE]"));
        assert!(events.iter().all(|event| event.get("error").is_none()));
        assert!(
            text.contains(r#""b""#),
            "what was said before stays: {text}"
        );
    }
}

#[tokio::test]
async fn a_failure_before_the_first_token_or_of_a_whole_answer_is_a_status() {
    let (status, value) = native(&failing(), json!({ "prompt": "x" })).await;
    assert_eq!((status, &value["errors"][0]["code"]), (500, &json!(3043)));
    let dead = || scripted(EngineConfig::default(), Box::new(|_| panic!("on purpose")));
    let (status, _, _) = seen(
        &dead(),
        Host::Rest,
        NATIVE,
        r#"{"prompt":"x","stream":true}"#,
    )
    .await;
    assert_eq!(status, 500);
    let (status, value) = native(&testing::broken("no good"), json!({ "prompt": "x" })).await;
    assert_eq!((status, &value["errors"][0]["code"]), (500, &json!(3043)));
}

#[tokio::test]
async fn dropping_a_stream_stops_the_engine() {
    let config = EngineConfig {
        max_running: 1,
        ..EngineConfig::default()
    };
    let engine = scripted(config, Box::new(|_| u32::from(b'x')));
    let body = br#"{"prompt":"x","stream":true,"max_tokens":500}"#;
    let endpoint = endpoint(NATIVE).expect("one of ours");
    let reply = serve(&engine, Host::Rest, endpoint, body).await;
    let LocalBody::Stream(stream) = reply.body else {
        panic!("asked for a stream")
    };
    let mut pieces = stream.into_channel();
    assert!(pieces.recv().await.is_some());
    drop(pieces);
    while engine.stats().admitted > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(engine.stats().cancelled, 1);
}

#[tokio::test]
async fn the_real_model_answers_in_every_form() {
    let Some(model_dir) = testing::model_dir_or_skip("the real model behind the API") else {
        return;
    };
    let engine = local_inference::Engine::start(EngineConfig {
        model_dir,
        ..EngineConfig::default()
    });
    let model = engine.models()[0].entry.id;
    let messages = json!([{ "role": "user", "content": "Write one sentence about the sea." }]);
    let body = |stream: bool| {
        json!({ "model": model, "messages": messages, "temperature": 0, "max_tokens": 40, "stream": stream }).to_string()
    };
    let run = format!("run/{}", model.replace('/', "%2F"));
    let (status, text, _) = seen(&engine, Host::Rest, &run, &body(false)).await;
    assert_eq!(status, 200, "{text}");
    let whole: Value = serde_json::from_str(&text).expect("JSON");
    let answer = whole["result"]["response"].as_str().expect("text");
    assert!(answer.contains("sea"), "{answer}");
    let usage = &whole["result"]["usage"];
    assert_eq!(usage["prompt_tokens"], 37);

    let (_, text, _) = seen(&engine, Host::Gateway, &run, &body(true)).await;
    let (chunks, is_done) = events(&text);
    let told: String = chunks
        .iter()
        .filter_map(|chunk| chunk["response"].as_str())
        .collect();
    assert!(is_done);
    assert_eq!(
        (told.as_str(), &chunks.last().expect("chunks")["usage"]),
        (answer, usage)
    );

    let (_, text, _) = seen(&engine, Host::Rest, CHAT, &body(true)).await;
    let told: String = events(&text)
        .0
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(told, answer);
    let (_, text, _) = seen(&engine, Host::Rest, CHAT, &body(false)).await;
    let chat: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        (&chat["choices"][0]["message"]["content"], &chat["usage"]),
        (&json!(answer), usage)
    );

    let raw = json!({ "model": model, "prompt": "The capital of France is", "temperature": 0, "max_tokens": 2 });
    let (_, text, _) = seen(&engine, Host::Rest, COMPLETIONS, &raw.to_string()).await;
    let completion: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(completion["choices"][0]["text"], " Paris.");
    assert_eq!(completion["choices"][0]["finish_reason"], "length");
}
