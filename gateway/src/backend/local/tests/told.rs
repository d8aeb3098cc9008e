//! How events of the engine look on the wire, in each form. The events are made here: no model is asked.

use local_inference::{Generation, StopReason, TokenEvent, TokenLogprob};

use super::super::input::{Asked, Generate, Ground, read};
use super::*;

fn text(choice: u32, text: &str) -> TokenEvent {
    TokenEvent::Text {
        choice,
        text: text.to_owned(),
        logprobs: Vec::new(),
    }
}

fn start(index: u32, id: &str, name: &str) -> TokenEvent {
    TokenEvent::ToolCallStart {
        choice: 0,
        index,
        id: id.to_owned(),
        name: name.to_owned(),
    }
}

fn arguments(index: u32, text: &str) -> TokenEvent {
    TokenEvent::ToolCallArguments {
        choice: 0,
        index,
        text: text.to_owned(),
    }
}

fn done(choice: u32, stop: StopReason) -> TokenEvent {
    TokenEvent::Done {
        choice,
        stop,
        completion_tokens: 5,
        cached_tokens: 16,
    }
}

/// Two calls, the second without arguments.
fn two_calls() -> Vec<TokenEvent> {
    vec![
        start(0, "call_1", "weather"),
        arguments(0, r#"{"city":"#),
        arguments(0, r#""Bern"}"#),
        start(1, "call_2", "time"),
        arguments(1, ""),
        arguments(1, "{}"),
        done(0, StopReason::ToolCalls),
    ]
}

/// `body` asked at `rest`, answered by these events, one list a prompt.
fn answered(rest: &str, body: Value, told: Vec<Vec<TokenEvent>>) -> (Generate, Events) {
    let endpoint = endpoint(rest).expect("one of ours");
    let ground = Ground {
        endpoint: &endpoint,
        tenant: "default",
        is_queued: false,
    };
    let Asked::Generate(asked) = read(ground, with_model(body).as_bytes()).expect("valid") else {
        panic!("a generation was asked for")
    };
    let generations = told.into_iter().map(|told| {
        let (sender, events) = tokio::sync::mpsc::channel(64);
        for event in told {
            sender.try_send(event).expect("room for all");
        }
        Generation {
            prompt_tokens: 20,
            events,
        }
    });
    let choices = asked.requests[0].choices;
    let events = Events::new(generations.collect(), choices, asked.max_calls);
    (*asked, events)
}

async fn whole(rest: &str, body: Value, told: Vec<Vec<TokenEvent>>) -> Value {
    let (asked, mut events) = answered(rest, body, told);
    let all = asked.requests[0].choices * asked.requests.len() as u32;
    let choices = events::gather(&mut events, all as usize)
        .await
        .expect("no failure");
    let answer = Answer::new(asked.form, MODEL, all);
    let body = answer.whole(&choices, events.tally());
    serde_json::from_slice(&body).expect("JSON")
}

async fn streamed(rest: &str, body: Value, told: Vec<Vec<TokenEvent>>) -> String {
    let (asked, events) = answered(rest, body, told);
    let all = asked.requests[0].choices * asked.requests.len() as u32;
    let stream = Answer::new(asked.form, MODEL, all).stream(Padding::new(true));
    let meter = Meter::new(&settings());
    let bill = meter.bill("default", MODEL, events.tally());
    let mut stream = LocalStream::new(stream, events, bill);
    let mut text = String::new();
    while let Some(piece) = stream.recv().await {
        let Piece::Bytes(bytes) = piece else {
            panic!("no failure")
        };
        text.push_str(std::str::from_utf8(&bytes).expect("text"));
    }
    text
}

fn asked(extra: Value) -> Value {
    let mut body = json!({ "messages": [{ "role": "user", "content": "x" }], "tools": [{ "name": "weather" }, { "name": "time" }] });
    for (name, value) in extra.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body
}

const USAGE: &str = r#"{"prompt_tokens":20,"completion_tokens":5,"total_tokens":25,"prompt_tokens_details":{"cached_tokens":16}}"#;

fn usage() -> Value {
    serde_json::from_str(USAGE).expect("JSON")
}

#[tokio::test]
async fn native_calls_are_flat_with_objects() {
    let value = whole(NATIVE, asked(json!({})), vec![two_calls()]).await;
    let calls = json!([{ "name": "weather", "arguments": { "city": "Bern" } }, { "name": "time", "arguments": {} }]);
    assert_eq!(
        value["result"],
        json!({ "response": null, "tool_calls": calls, "finish_reason": "tool_calls", "usage": usage() })
    );
    let mut told = two_calls();
    told.insert(0, text(0, "Let me look."));
    let value = whole(NATIVE, asked(json!({})), vec![told]).await;
    assert_eq!(value["result"]["response"], "Let me look.");
    // Cut in the middle of a call: what there is of the arguments, as text.
    let told = vec![
        start(0, "c", "weather"),
        arguments(0, r#"{"ci"#),
        done(0, StopReason::Length),
    ];
    let value = whole(NATIVE, asked(json!({})), vec![told]).await;
    assert_eq!(value["result"]["tool_calls"][0]["arguments"], r#"{"ci"#);
    assert_eq!(value["result"]["finish_reason"], "length");
}

#[tokio::test]
async fn native_streams_tell_calls_in_pieces_and_then_the_mark() {
    let text = streamed(NATIVE, asked(json!({ "stream": true })), vec![two_calls()]).await;
    let (events, is_done) = events(&text);
    assert!(is_done);
    let piece = |call: Value| json!({ "response": "", "tool_calls": [call] });
    let head = |index: u32, id: &str, name: &str| {
        piece(
            json!({ "id": id, "type": "function", "index": index, "function": { "name": name, "arguments": "" } }),
        )
    };
    let tail = |index: u32, text: &str| {
        piece(json!({ "type": "function", "index": index, "function": { "arguments": text } }))
    };
    let expected = [
        head(0, "call_1", "weather"),
        tail(0, r#"{"city":"#),
        tail(0, r#""Bern"}"#),
        head(1, "call_2", "time"),
        tail(1, "{}"),
        piece(json!({ "id": null, "type": null, "function": { "name": null, "arguments": "" } })),
        json!({ "response": "", "finish_reason": "tool_calls" }),
        json!({ "response": "", "usage": usage() }),
    ];
    assert_eq!(events, expected);
}

#[tokio::test]
async fn native_json_is_a_value_once_it_is_finished() {
    let format = json!({ "response_format": { "type": "json_object" }, "prompt": "x" });
    let json_text = r#"{"b": 1.50, "a": [true]}"#;
    for (told, stop, response) in [
        (
            json_text,
            StopReason::Stop,
            json!({ "b": 1.5, "a": [true] }),
        ),
        ("42", StopReason::Stop, json!(42)),
        (r#"{"b": 1.5"#, StopReason::Length, json!(r#"{"b": 1.5"#)),
    ] {
        let told = vec![text(0, told), done(0, stop)];
        let value = whole(NATIVE, format.clone(), vec![told]).await;
        assert_eq!(value["result"]["response"], response);
    }
    // Without the mode, JSON is a text like any other.
    let told = vec![text(0, "42"), done(0, StopReason::Stop)];
    let value = whole(NATIVE, json!({ "prompt": "x" }), vec![told.clone()]).await;
    assert_eq!(value["result"]["response"], "42");
    let chat = whole(CHAT, asked(format), vec![told]).await;
    assert_eq!(chat["choices"][0]["message"]["content"], "42");
}

#[tokio::test]
async fn openai_calls_have_ids_and_texts() {
    let value = whole(CHAT, asked(json!({})), vec![two_calls()]).await;
    let choice = &value["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], Value::Null);
    assert_eq!(
        choice["message"]["tool_calls"],
        json!([
            { "id": "call_1", "type": "function", "function": { "name": "weather", "arguments": r#"{"city":"Bern"}"# } },
            { "id": "call_2", "type": "function", "function": { "name": "time", "arguments": "{}" } },
        ])
    );
    assert_eq!(value["usage"], usage());

    let one = json!({ "parallel_tool_calls": false });
    let value = whole(CHAT, asked(one), vec![two_calls()]).await;
    let calls = value["choices"][0]["message"]["tool_calls"].as_array();
    assert_eq!(calls.map(Vec::len), Some(1));
}

#[tokio::test]
async fn openai_streams_tell_id_and_name_once() {
    let body = asked(json!({ "stream": true }));
    let text = streamed(CHAT, body, vec![two_calls()]).await;
    let (chunks, is_done) = events(&text);
    assert!(is_done);
    let calls: Vec<&Value> = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"].get(0))
        .collect();
    let piece =
        |index: u32, text: &str| json!({ "index": index, "function": { "arguments": text } });
    let head = |index: u32, id: &str, name: &str| json!({ "index": index, "id": id, "type": "function", "function": { "name": name, "arguments": "" } });
    let expected = [
        head(0, "call_1", "weather"),
        piece(0, r#"{"city":"#),
        piece(0, r#""Bern"}"#),
        head(1, "call_2", "time"),
        piece(1, ""),
        piece(1, "{}"),
    ];
    assert_eq!(calls, expected.iter().collect::<Vec<_>>());
    let [.., finish, last] = chunks.as_slice() else {
        panic!("more than one chunk")
    };
    assert_eq!(finish["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &usage()));
}

#[tokio::test]
async fn choices_and_prompts_are_numbered_through() {
    let body = json!({ "prompt": ["a", [1, 2]], "n": 2 });
    let told = |word: &str| {
        vec![
            text(1, word),
            text(0, "x"),
            done(0, StopReason::Stop),
            done(1, StopReason::Length),
        ]
    };
    let both = || vec![told("first"), told("second")];
    let value = whole(COMPLETIONS, body.clone(), both()).await;
    let choices: Vec<_> = value["choices"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|choice| {
            let finish = choice["finish_reason"].as_str().expect("a reason");
            (
                choice["index"].as_u64().expect("a number"),
                choice["text"].as_str().expect("a text"),
                finish,
            )
        })
        .collect();
    assert_eq!(
        choices,
        [
            (0, "x", "stop"),
            (1, "first", "length"),
            (2, "x", "stop"),
            (3, "second", "length")
        ]
    );
    assert_eq!(value["usage"]["prompt_tokens"], 40);
    assert_eq!(value["usage"]["completion_tokens"], 20);
    assert_eq!(value["usage"]["prompt_tokens_details"]["cached_tokens"], 32);

    let mut asked = body;
    asked["stream"] = json!(true);
    let (chunks, is_done) = events(&streamed(COMPLETIONS, asked, both()).await);
    assert!(is_done);
    let of = |index: u64| {
        let mine = chunks
            .iter()
            .filter(|chunk| chunk["choices"][0]["index"] == index);
        mine.filter_map(|chunk| chunk["choices"][0]["text"].as_str())
            .collect::<String>()
    };
    assert_eq!([0, 1, 2, 3].map(of), ["x", "first", "x", "second"]);
}

fn with_logprobs() -> Vec<TokenEvent> {
    let token = |bytes: &[u8], logprob, top: &[(&str, f32)]| TokenLogprob {
        token: 7,
        bytes: bytes.to_vec(),
        logprob,
        top: top
            .iter()
            .map(|(text, logprob)| (1, text.as_bytes().to_vec(), *logprob))
            .collect(),
    };
    let told = TokenEvent::Text {
        choice: 0,
        text: "hi!".to_owned(),
        logprobs: vec![
            token(b"hi", -0.5, &[("ho", -0.25)]),
            token(b"!", -1.5, &[("!", -1.5)]),
        ],
    };
    vec![told, done(0, StopReason::Stop)]
}

#[tokio::test]
async fn logprobs_are_told_as_each_api_has_them() {
    let body = asked(json!({ "logprobs": true, "top_logprobs": 1 }));
    let value = whole(CHAT, body, vec![with_logprobs()]).await;
    let one = |token: &str, logprob: f32| json!({ "token": token, "logprob": logprob, "bytes": token.as_bytes() });
    let mut first = one("hi", -0.5);
    first["top_logprobs"] = json!([one("ho", -0.25)]);
    let mut second = one("!", -1.5);
    second["top_logprobs"] = json!([one("!", -1.5)]);
    assert_eq!(
        value["choices"][0]["logprobs"],
        json!({ "content": [first, second], "refusal": null })
    );
    let body = json!({ "prompt": "x", "logprobs": 1 });
    let value = whole(COMPLETIONS, body, vec![with_logprobs()]).await;
    assert_eq!(
        value["choices"][0]["logprobs"],
        json!({
            "tokens": ["hi", "!"], "token_logprobs": [-0.5, -1.5],
            "top_logprobs": [{ "hi": -0.5, "ho": -0.25 }, { "!": -1.5 }], "text_offset": [0, 2],
        })
    );
}

/// The events of a response: name and data agree, and numbers follow each other.
fn typed(text: &str) -> Vec<Value> {
    let mut typed = Vec::new();
    for (number, event) in text.split_terminator("\n\n").enumerate() {
        let (name, data) = event.split_once('\n').expect("two lines");
        let data = data.strip_prefix("data: ").expect("a data line");
        let value: Value = serde_json::from_str(data).expect("JSON");
        assert_eq!(name.strip_prefix("event: "), value["type"].as_str());
        assert_eq!(value["sequence_number"], number);
        typed.push(value);
    }
    typed
}

#[tokio::test]
async fn responses_are_items() {
    let mut told = two_calls();
    told.insert(0, text(0, "Let me look."));
    let body = json!({ "input": "x", "tools": [{ "type": "function", "name": "weather" }], "temperature": 0.5, "instructions": "Be kind." });
    let value = whole("v1/responses", body.clone(), vec![told.clone()]).await;
    assert_eq!(value["object"], "response");
    assert_eq!(value["status"], "completed");
    assert_eq!(
        (
            &value["temperature"],
            &value["store"],
            &value["instructions"]
        ),
        (&json!(0.5), &json!(false), &json!("Be kind."))
    );
    let output = value["output"].as_array().expect("a list");
    assert_eq!(output[0]["content"][0]["text"], "Let me look.");
    assert_eq!(
        (&output[1]["call_id"], &output[1]["arguments"]),
        (&json!("call_1"), &json!(r#"{"city":"Bern"}"#))
    );
    assert_eq!(output[2]["name"], "time");
    assert_eq!(
        value["usage"],
        json!({ "input_tokens": 20, "input_tokens_details": { "cached_tokens": 16 }, "output_tokens": 5, "output_tokens_details": { "reasoning_tokens": 0 }, "total_tokens": 25 })
    );

    let mut asked = body;
    asked["stream"] = json!(true);
    let events = typed(&streamed("v1/responses", asked, vec![told]).await);
    let kinds: Vec<&str> = events
        .iter()
        .filter_map(|event| event["type"].as_str()?.strip_prefix("response."))
        .collect();
    assert_eq!(
        kinds,
        [
            "created",
            "in_progress",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "output_item.added",
            "function_call_arguments.delta",
            "function_call_arguments.delta",
            "function_call_arguments.done",
            "output_item.done",
            "output_item.added",
            "function_call_arguments.delta",
            "function_call_arguments.delta",
            "function_call_arguments.done",
            "output_item.done",
            "completed",
        ]
    );
    let last = &events.last().expect("events")["response"];
    let items: Vec<&Value> = events
        .iter()
        .filter(|event| event["type"] == "response.output_item.done")
        .map(|event| &event["item"])
        .collect();
    let output: Vec<&Value> = last["output"].as_array().expect("a list").iter().collect();
    assert_eq!(items, output);
    assert_eq!(last["usage"], value["usage"]);
    assert_eq!(last["id"], events[0]["response"]["id"]);
    assert!(events[4]["obfuscation"].is_string());
}

#[tokio::test]
async fn a_response_cut_short_is_incomplete() {
    let told = || vec![vec![text(0, "Half"), done(0, StopReason::Length)]];
    let body = json!({ "input": "x", "max_output_tokens": 1 });
    let value = whole("v1/responses", body.clone(), told()).await;
    let reason = json!({ "reason": "max_output_tokens" });
    assert_eq!(
        (&value["status"], &value["incomplete_details"]),
        (&json!("incomplete"), &reason)
    );
    assert_eq!(value["output"][0]["status"], "incomplete");
    let mut asked = body;
    asked["stream"] = json!(true);
    let events = typed(&streamed("v1/responses", asked, told()).await);
    let last = events.last().expect("events");
    assert_eq!(last["type"], "response.incomplete");
    assert_eq!(last["response"]["incomplete_details"], reason);
}
