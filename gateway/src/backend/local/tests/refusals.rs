//! What is refused or fails, and what the caller is told.

use super::*;

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
            json!({ "messages": [{ "role": "assistant", "tool_calls": [{ "function": { "name": "f", "arguments": "[1]" } }] }] }),
            "'/messages/0/tool_calls/0/arguments' is not the JSON text of an object",
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
            "required properties at '/tools/0' are 'name'",
        ),
        (
            chat("tools", json!([{ "type": "web_search" }])),
            "'/tools/0/type: web_search' is not supported",
        ),
        (
            chat("tools", json!([{ "name": "f", "parameters": [] }])),
            "Type mismatch of '/tools/0/parameters', 'array' not in 'object'",
        ),
        (
            chat(
                "tool_choice",
                json!({ "type": "function", "function": { "name": "g" } }),
            ),
            "'/tool_choice' names `g`, which is not in '/tools'",
        ),
        (
            chat("tool_choice", json!("perhaps")),
            "'/tool_choice': 'perhaps' not in 'auto, none, required'",
        ),
        (
            chat("response_format", json!({ "type": "xml" })),
            "'/response_format/type': 'xml' not in 'text, json_object, json_schema'",
        ),
        (
            chat("response_format", json!({ "type": "json_schema" })),
            "required properties at '/response_format' are 'json_schema'",
        ),
        (
            chat("guided_json", json!("no schema")),
            "'/guided_json' is not the JSON text of a schema",
        ),
        (
            chat("tool_choice", json!("required")),
            "'/tool_choice' asks for a call and '/tools' holds none",
        ),
        (chat("n", json!(2)), "'/n' must be <= 1"),
        (chat("image", json!([1, 2])), "'/image' is not supported"),
        (
            chat("logprobs", json!(true)),
            "'/logprobs' is not supported",
        ),
        (
            chat("reasoning_effort", json!("huge")),
            "'/reasoning_effort': 'huge' not in",
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
    let (status, answer) = native(&engine, chat("lora", json!("my-tune"))).await;
    assert_eq!((status, &answer["errors"][0]["code"]), (404, &json!(3037)));
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
        ("functions", json!([{ "name": "f", "code": "return 1" }])),
        ("tools", json!([{ "name": "f" }])),
        ("reasoning_effort", json!(null)),
        ("chat_template_kwargs", json!({ "enable_thinking": true })),
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
    let held = [1, 2].map(|_| {
        let engine = engine.clone();
        tokio::spawn(async move {
            serve(&engine, Host::Rest, NATIVE, r#"{"prompt":"x"}"#)
                .await
                .status
        })
    });
    while engine.stats().admitted < 2 {
        tokio::task::yield_now().await;
    }
    let busy = serve(&engine, Host::Rest, NATIVE, r#"{"prompt":"x"}"#).await;
    assert_eq!((busy.status, busy.retry_after_s), (429, Some(1)));
    let hasty = r#"{"prompt":"x","options":{"rejectIfBusy":true}}"#;
    let reply = serve(&engine, Host::Rest, NATIVE, hasty).await;
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
