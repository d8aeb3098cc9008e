use local_inference::testing::{self, MODEL, saying, scripted};
use local_inference::{EngineConfig, EngineHandle};
use serde_json::{Value, json};

use super::*;
use crate::finetunes::Folder;
use crate::state::State;

mod adapters;
mod asked;
mod batch;
mod refusals;
mod told;

const NATIVE: &str = "run/@cf%2Ftesting/scripted";
const CHAT: &str = "v1/chat/completions";
const COMPLETIONS: &str = "v1/completions";

fn settings() -> config::Engine {
    let config = config::Config::parse("", "test").expect("the defaults are valid");
    config.engine.expect("on by default")
}

/// A store of its own, of which nothing is left afterwards: SQLite and the folder work on while they are open.
fn finetunes() -> Arc<Finetunes> {
    let path = std::env::temp_dir().join(format!("local-{}", uuid::Uuid::new_v4()));
    let state = Arc::new(State::open(&path).expect("a state file"));
    let folder = Folder::open(&path).expect("a folder");
    let finetunes = Finetunes::open(state, folder).expect("a store");
    std::fs::remove_dir_all(path).expect("it was made here");
    Arc::new(finetunes)
}

fn local(engine: &EngineHandle, settings: &config::Engine) -> Arc<Local> {
    Local::around(engine.clone(), settings, finetunes(), Box::new(|_| {}))
}

fn caller() -> Caller {
    Caller {
        account: "default".into(),
        gateway: "default".into(),
        label: "".into(),
    }
}

async fn serve(engine: &EngineHandle, host: Host, rest: &str, body: &str) -> LocalReply {
    let local = local(engine, &settings());
    let body = Bytes::copy_from_slice(body.as_bytes());
    let call = Call {
        host,
        caller: &caller(),
        rest: rest.split('?').next().unwrap_or(rest),
        query: rest.split_once('?').map(|(_, query)| query),
        body: &body,
    };
    local.serve(call).await
}

/// What a caller sees: status, body as one text, and whether a stream broke off.
async fn seen(engine: &EngineHandle, host: Host, rest: &str, body: &str) -> (u16, String, bool) {
    let reply = serve(engine, host, rest, body).await;
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
    assert_eq!(endpoint("v1/responses"), Some(LocalEndpoint::Responses));
    assert_eq!(endpoint("v1/embeddings"), Some(LocalEndpoint::Embeddings));
    assert_eq!(endpoint("v1/models"), Some(LocalEndpoint::Models));
    for path in [
        "",
        "gpt-4",
        "v1/files",
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
            r#"{"result":{"response":"four","tool_calls":[],"finish_reason":"stop","usage":{"prompt_tokens":4,"completion_tokens":5,"total_tokens":9,"prompt_tokens_details":{"cached_tokens":0}}},"success":true,"errors":[],"messages":[]}"#
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
    let usage = json!({ "prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7, "prompt_tokens_details": { "cached_tokens": 0 } });
    let expected = [
        json!({ "response": "a" }),
        json!({ "response": "漢" }),
        json!({ "response": "", "finish_reason": "stop" }),
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
    let usage = json!({ "prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "prompt_tokens_details": { "cached_tokens": 0 } });
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
            json!({ "prompt_tokens": 4, "completion_tokens": 5, "total_tokens": 9, "prompt_tokens_details": { "cached_tokens": 0 } })
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
async fn dropping_a_stream_stops_the_engine() {
    let config = EngineConfig {
        max_running: 1,
        ..EngineConfig::default()
    };
    let engine = scripted(config, Box::new(|_| u32::from(b'x')));
    let body = r#"{"prompt":"x","stream":true,"max_tokens":500}"#;
    let reply = serve(&engine, Host::Rest, NATIVE, body).await;
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
    let model = &*engine.models()[0].entry.id;
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
    // The same question again finds its beginning computed.
    let mut again = usage.clone();
    again["prompt_tokens_details"]["cached_tokens"] = json!(32);
    let again = &again;

    let (_, text, _) = seen(&engine, Host::Gateway, &run, &body(true)).await;
    let (chunks, is_done) = events(&text);
    let told: String = chunks
        .iter()
        .filter_map(|chunk| chunk["response"].as_str())
        .collect();
    assert!(is_done);
    assert_eq!(
        (told.as_str(), &chunks.last().expect("chunks")["usage"]),
        (answer, again)
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
        (&json!(answer), again)
    );

    let raw = json!({ "model": model, "prompt": "The capital of France is", "temperature": 0, "max_tokens": 2 });
    let (_, text, _) = seen(&engine, Host::Rest, COMPLETIONS, &raw.to_string()).await;
    let completion: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(completion["choices"][0]["text"], " Paris.");
    assert_eq!(completion["choices"][0]["finish_reason"], "length");
}
