//! What the engine is asked, from each form a client may write it in.

use local_inference::{GenerateRequest, Message, OutputFormat, Prompt, Tool, ToolCall, ToolChoice};

use super::super::input::{Asked, Ground, read};
use super::*;

fn asked(rest: &str, body: Value) -> GenerateRequest {
    let endpoint = endpoint(rest).expect("one of ours");
    let ground = Ground {
        endpoint: &endpoint,
        tenant: "acct",
        is_queued: false,
    };
    match read(ground, with_model(body.clone()).as_bytes()) {
        Ok(Asked::Generate(mut asked)) => asked.requests.remove(0),
        other => panic!("{body}: {other:?}"),
    }
}

fn fault(rest: &str, body: Value) -> String {
    let endpoint = endpoint(rest).expect("one of ours");
    let ground = Ground {
        endpoint: &endpoint,
        tenant: "acct",
        is_queued: false,
    };
    match read(ground, with_model(body.clone()).as_bytes()) {
        Err(fault) => fault.text,
        Ok(_) => panic!("{body} was taken"),
    }
}

fn messages(rest: &str, body: Value) -> Vec<Message> {
    match asked(rest, body).prompt {
        Prompt::Messages(messages) => messages,
        other => panic!("no messages: {other:?}"),
    }
}

fn with(field: &str, value: Value) -> Value {
    let mut body = json!({ "messages": [{ "role": "user", "content": "x" }] });
    body[field] = value;
    body
}

#[test]
fn tools_are_read_flat_and_wrapped() {
    let schema = json!({ "type": "object", "properties": { "city": { "type": "string" } } });
    let expected = Tool {
        name: "weather".to_owned(),
        description: Some("d".to_owned()),
        parameters: schema.clone(),
    };
    let flat = json!({ "name": "weather", "description": "d", "parameters": schema });
    let wrapped = json!({ "type": "function", "function": flat });
    let beside = json!({ "type": "function", "name": "weather", "description": "d", "parameters": schema, "strict": true });
    for tool in [flat, wrapped, beside] {
        for rest in [NATIVE, CHAT] {
            let request = asked(rest, with("tools", json!([tool])));
            assert_eq!(request.tools, std::slice::from_ref(&expected));
            assert_eq!(request.tool_choice, ToolChoice::Auto);
            assert_eq!(request.tenant, "acct");
        }
    }
    // What the official helpers send: no descriptions, nested items.
    let choose = json!({ "type": "function", "function": { "name": "chooseTool", "parameters": {
        "type": "object", "properties": { "tools": { "type": "array", "items": { "type": "string" } } }, "required": ["tools"] } } });
    assert_eq!(
        asked(NATIVE, with("tools", json!([choose]))).tools[0].description,
        None
    );
    let bare = asked(
        NATIVE,
        with("tools", json!([{ "name": "now", "parameters": {} }])),
    );
    assert_eq!(bare.tools[0].parameters, Value::Null);
}

#[test]
fn a_choice_of_tools_is_read_in_every_form() {
    let named = ToolChoice::Named("f".to_owned());
    for (written, expected) in [
        (json!(null), ToolChoice::Auto),
        (json!("auto"), ToolChoice::Auto),
        (json!("required"), ToolChoice::Required),
        (json!("any"), ToolChoice::Required),
        (json!({ "type": "any" }), ToolChoice::Required),
        (
            json!({ "type": "function", "function": { "name": "f" } }),
            named.clone(),
        ),
        (json!({ "type": "function", "name": "f" }), named),
    ] {
        let mut body = with("tools", json!([{ "name": "f" }]));
        body["tool_choice"] = written.clone();
        assert_eq!(asked(CHAT, body).tool_choice, expected, "{written}");
    }
    let mut body = with("tools", json!([{ "name": "f" }]));
    body["tool_choice"] = json!("none");
    let request = asked(CHAT, body);
    assert_eq!(
        (request.tool_choice, request.tools.len()),
        (ToolChoice::None, 0)
    );
}

#[test]
fn calls_and_their_answers_are_read_back_in_every_form() {
    let call = |id: &str| ToolCall {
        id: id.to_owned(),
        name: "weather".to_owned(),
        arguments: r#"{"city":"Bern"}"#.to_owned(),
    };
    let wrapped = json!({ "id": "c1", "type": "function", "function": { "name": "weather", "arguments": r#"{"city":"Bern"}"# } });
    let flat = json!({ "name": "weather", "arguments": { "city": "Bern" } });
    for (written, expected) in [(wrapped, call("c1")), (flat, call(""))] {
        let told = messages(
            CHAT,
            json!({ "messages": [
                { "role": "user", "content": "x" },
                { "role": "assistant", "content": null, "tool_calls": [written] },
                { "role": "tool", "tool_call_id": "c1", "content": "rain" },
                { "role": "tool", "content": "sun" },
                { "role": "tool", "name": "time", "content": [{ "type": "text", "text": "noon" }] },
            ] }),
        );
        assert_eq!(told[1].tool_calls, std::slice::from_ref(&expected));
        assert_eq!(told[1].content, "");
        // A call known by its id lends its answer its name.
        let name = (expected.id == "c1").then(|| "weather".to_owned());
        assert_eq!((&told[2].name, told[2].content.as_str()), (&name, "rain"));
        assert_eq!(
            (told[3].tool_call_id.as_deref(), told[3].name.as_deref()),
            (None, None)
        );
        assert_eq!(told[4].name.as_deref(), Some("time"));
    }
    let old = messages(
        CHAT,
        json!({ "messages": [
            { "role": "assistant", "function_call": { "name": "weather", "arguments": "" } },
            { "role": "function", "name": "weather", "content": "rain" },
        ] }),
    );
    assert_eq!(old[0].tool_calls[0].arguments, "{}");
    assert_eq!(old[1].role, "tool");
}

#[test]
fn formats_are_read_in_every_shape() {
    let schema = json!({ "type": "object", "properties": { "name": { "type": "string" } } });
    let by_schema = OutputFormat::JsonSchema(schema.clone());
    let envelope = json!({ "name": "person", "strict": true, "schema": schema });
    for (field, written, expected) in [
        (
            "response_format",
            json!({ "type": "text" }),
            OutputFormat::Text,
        ),
        (
            "response_format",
            json!({ "type": "json_object" }),
            OutputFormat::JsonObject,
        ),
        (
            "response_format",
            json!({ "type": "json_schema", "json_schema": schema }),
            by_schema.clone(),
        ),
        (
            "response_format",
            json!({ "type": "json_schema", "json_schema": envelope }),
            by_schema.clone(),
        ),
        (
            "response_format",
            json!({ "type": "json_schema", "schema": schema }),
            by_schema.clone(),
        ),
        (
            "response_format",
            json!({ "type": "json_object", "schema": schema }),
            by_schema.clone(),
        ),
        (
            "response_format",
            json!({ "type": "json_schema", "json_schema": { "name": "any" } }),
            OutputFormat::JsonObject,
        ),
        ("guided_json", schema.clone(), by_schema.clone()),
        ("guided_json", json!(schema.to_string()), by_schema.clone()),
    ] {
        for rest in [NATIVE, CHAT] {
            assert_eq!(
                asked(rest, with(field, written.clone())).format,
                expected,
                "{written}"
            );
        }
    }
    // A schema whose properties are called like the envelope's members is still a schema.
    let tricky = json!({ "type": "object", "properties": { "schema": {}, "name": {} } });
    let written = json!({ "type": "json_schema", "json_schema": tricky });
    assert_eq!(
        asked(CHAT, with("response_format", written)).format,
        OutputFormat::JsonSchema(tricky)
    );
}

#[test]
fn counts_and_switches_reach_the_engine() {
    let mut body = with("n", json!(3));
    body["logprobs"] = json!(true);
    body["reasoning_effort"] = json!("none");
    let request = asked(CHAT, body);
    assert_eq!((request.choices, request.top_logprobs), (3, Some(0)));
    assert_eq!(request.template_options["enable_thinking"], false);
    let mut body = with(
        "chat_template_kwargs",
        json!({ "enable_thinking": true, "x": 1 }),
    );
    body["reasoning_effort"] = json!(null);
    let options = asked(CHAT, body).template_options;
    assert_eq!(
        (&options["enable_thinking"], &options["x"]),
        (&json!(true), &json!(1))
    );
    assert!(
        asked(CHAT, with("reasoning_effort", json!("high")))
            .template_options
            .is_empty()
    );
    let body = json!({ "prompt": [[1, 2, 3]], "logprobs": 0, "best_of": 2, "n": 2 });
    let request = asked(COMPLETIONS, body);
    assert_eq!(request.prompt, Prompt::Tokens(vec![1, 2, 3]));
    assert_eq!((request.choices, request.top_logprobs), (2, Some(0)));
    let raw = json!({ "messages": [{ "role": "user", "content": "a" }, { "role": "user", "content": "b" }], "raw": true });
    let text = "a\nb".to_owned();
    assert_eq!(asked(NATIVE, raw).prompt, Prompt::Text { text, raw: true });
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    for (rest, body, expected) in [
        (CHAT, with("n", json!(9)), "'/n' must be <= 8"),
        (
            CHAT,
            with("top_logprobs", json!(3)),
            "'/top_logprobs' needs '/logprobs'",
        ),
        (
            CHAT,
            with("functions", json!([{ "name": "f" }])),
            "'/functions' is not supported, '/tools'",
        ),
        (
            CHAT,
            with("logit_bias", json!({ "5": 1 })),
            "'/logit_bias' is not supported",
        ),
        (
            COMPLETIONS,
            json!({ "prompt": "x", "echo": true }),
            "'/echo' is not supported",
        ),
        (
            COMPLETIONS,
            json!({ "prompt": "x", "suffix": "y" }),
            "'/suffix' is not supported",
        ),
        (
            COMPLETIONS,
            json!({ "prompt": "x", "best_of": 3 }),
            "'/best_of' is not supported",
        ),
        (
            COMPLETIONS,
            json!({ "prompt": "x", "logprobs": 6 }),
            "'/logprobs' must be <= 5",
        ),
        (
            COMPLETIONS,
            json!({ "prompt": vec!["x"; 9] }),
            "at most 8 prompts",
        ),
        (
            COMPLETIONS,
            json!({ "prompt": ["x", "y"], "n": 5 }),
            "'/n' must be <= 4",
        ),
        (
            COMPLETIONS,
            json!({ "prompt": [1, -1] }),
            "'number' not in 'token id'",
        ),
        (
            "v1/responses",
            json!({ "input": "x", "store": true }),
            "'/store' is not supported",
        ),
        (
            "v1/responses",
            json!({ "input": "x", "previous_response_id": "r" }),
            "'/previous_response_id' is not",
        ),
        (
            "v1/responses",
            json!({ "input": [{ "type": "item_reference", "id": "i" }] }),
            "input/0/type: item_reference",
        ),
        (
            "v1/responses",
            json!({}),
            "required properties at '/' are 'input'",
        ),
    ] {
        let text = fault(rest, body.clone());
        assert!(text.contains(expected), "{body}: {text}");
    }
}

#[test]
fn a_responses_conversation_becomes_messages() {
    let body = json!({
        "instructions": "Be kind.",
        "input": [
            { "role": "developer", "content": "And brief." },
            { "role": "user", "content": [{ "type": "input_text", "text": "Weather?" }] },
            { "type": "reasoning", "summary": [] },
            { "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "A moment." }] },
            { "type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}" },
            { "type": "function_call", "call_id": "c2", "name": "time", "arguments": "{}" },
            { "type": "function_call_output", "call_id": "c2", "output": "noon" },
        ],
        "text": { "format": { "type": "json_schema", "name": "n", "schema": { "type": "object" } } },
        "max_output_tokens": 7,
        "tools": [{ "type": "function", "name": "weather", "parameters": { "type": "object" } }],
        "tool_choice": { "type": "function", "name": "weather" },
    });
    let request = asked("v1/responses", body.clone());
    assert_eq!(
        request.format,
        OutputFormat::JsonSchema(json!({ "type": "object" }))
    );
    assert_eq!(request.sampling.max_tokens, Some(7));
    assert_eq!(request.tool_choice, ToolChoice::Named("weather".to_owned()));
    let told = messages("v1/responses", body);
    let roles: Vec<(&str, &str)> = told
        .iter()
        .map(|message| (message.role.as_str(), message.content.as_str()))
        .collect();
    assert_eq!(
        roles,
        [
            ("system", "Be kind."),
            ("system", "And brief."),
            ("user", "Weather?"),
            ("assistant", "A moment."),
            ("tool", "noon"),
        ]
    );
    assert_eq!(told[3].tool_calls.len(), 2);
    assert_eq!(told[4].name.as_deref(), Some("time"));
    assert_eq!(
        messages("v1/responses", json!({ "input": "Hi" }))[0].content,
        "Hi"
    );
}
