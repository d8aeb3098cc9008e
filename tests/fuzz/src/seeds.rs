//! Where random changes begin: one small documented-shape input a way through the readers.

use providers::Dialect;
use providers::eventstream::encode;

/// The seeds of a target. Those of `reply` begin with its steering bytes.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "sse" => STREAMS.iter().map(|(_, text)| with(&[0], text)).collect(),
        "eventstream" => vec![
            [&[1][..], &converse()].concat(),
            with(&[9], "chunk payload"),
        ],
        "reply" => replies(),
        "universal" => UNIVERSAL
            .iter()
            .map(|text| text.as_bytes().to_vec())
            .collect(),
        other => panic!("no target `{other}`"),
    }
}

fn with(steering: &[u8], text: &str) -> Vec<u8> {
    [steering, text.as_bytes()].concat()
}

fn replies() -> Vec<Vec<u8>> {
    let number = |dialect: Dialect| {
        let place = Dialect::ALL.iter().position(|one| *one == dialect);
        place.expect("ALL holds every dialect") as u8
    };
    let mut found = Vec::new();
    for (dialect, text) in STREAMS {
        found.push(with(&[number(*dialect), 0, 0, 1], text));
    }
    for (dialect, text) in DOCUMENTS {
        found.push(with(&[number(*dialect), 1, 0, 1], text));
        found.push(with(&[number(*dialect), 1, 8, 2], text));
    }
    for (dialect, text) in LINES {
        found.push(with(&[number(*dialect), 3, 0, 1], text));
    }
    let steering = [number(Dialect::BedrockConverse), 2, 0, 1];
    found.push([&steering[..], &converse()].concat());
    found
}

fn converse() -> Vec<u8> {
    let event = |name: &str, payload: &str| {
        let headers = [
            (":event-type", name),
            (":content-type", "application/json"),
            (":message-type", "event"),
        ];
        encode(&headers, payload.as_bytes())
    };
    [
        event("messageStart", r#"{"role":"assistant"}"#),
        event(
            "contentBlockDelta",
            r#"{"contentBlockIndex":0,"delta":{"text":"hi"}}"#,
        ),
        event("messageStop", r#"{"stopReason":"end_turn"}"#),
        event(
            "metadata",
            r#"{"usage":{"inputTokens":3,"outputTokens":2,"totalTokens":5},"metrics":{"latencyMs":7}}"#,
        ),
    ]
    .concat()
}

const STREAMS: &[(Dialect, &str)] = &[
    (
        Dialect::OpenAiChat,
        "data: {\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"},\"finish_reason\":null}]}\n\ndata: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"prompt_tokens_details\":{\"cached_tokens\":1}}}\n\ndata: [DONE]\n\n",
    ),
    (
        Dialect::OpenAiResponses,
        "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"hi\"}\n\nevent: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"r\",\"status\":\"completed\",\"usage\":{\"input_tokens\":3,\"output_tokens\":2}}}\n\n",
    ),
    (
        Dialect::Anthropic,
        "event: message_start\r\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"model\":\"c\",\"usage\":{\"input_tokens\":3,\"output_tokens\":1}}}\r\n\r\nevent: ping\r\ndata: {\"type\":\"ping\"}\r\n\r\nevent: content_block_delta\r\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"hi\"}}\r\n\r\nevent: message_delta\r\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":2}}\r\n\r\nevent: message_stop\r\ndata: {\"type\":\"message_stop\"}\r\n\r\n",
    ),
    (
        Dialect::Anthropic,
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n",
    ),
    (
        Dialect::Gemini,
        "\u{feff}: hello\rdata: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"hi\"}]},\"finishReason\":\"STOP\"}],\rdata: \"usageMetadata\":{\"promptTokenCount\":3,\"candidatesTokenCount\":2}}\r\r",
    ),
    (
        Dialect::CohereV2,
        "event: message-end\nid: 4\nretry: 5\ndata: {\"type\":\"message-end\",\"delta\":{\"finish_reason\":\"COMPLETE\",\"usage\":{\"billed_units\":{\"input_tokens\":3,\"output_tokens\":2}}}}\n\n",
    ),
    (
        Dialect::WorkersAi,
        "data: {\"response\":\"hi\"}\n\ndata: {\"response\":\"\",\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n",
    ),
    (
        Dialect::Tgi,
        "data:{\"token\":{\"text\":\"hi\"},\"generated_text\":\"hi\",\"details\":{\"finish_reason\":\"length\",\"generated_tokens\":2}}\n\n",
    ),
    (
        Dialect::Replicate,
        "event: output\ndata: hi\ndata:  there\n\nevent: done\ndata: {}\n\n",
    ),
];

const DOCUMENTS: &[(Dialect, &str)] = &[
    (
        Dialect::OpenAiChat,
        r#"{"id":"c","model":"m","choices":[{"message":{"content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#,
    ),
    (
        Dialect::OpenAiMedia,
        r#"{"data":[{"embedding":[0.1]}],"model":"m","usage":{"prompt_tokens":3,"total_tokens":3}}"#,
    ),
    (
        Dialect::Anthropic,
        r#"{"type":"error","error":{"type":"rate_limit_error","message":"slow down"}}"#,
    ),
    (
        Dialect::Gemini,
        r#"[{"candidates":[{"content":{"parts":[{"text":"hi"}]}}]},{"usageMetadata":{"promptTokenCount":3}}]"#,
    ),
    (
        Dialect::BedrockConverse,
        r#"{"output":{"message":{"content":[{"text":"hi"}]}},"stopReason":"end_turn","usage":{"inputTokens":3,"outputTokens":2}}"#,
    ),
    (
        Dialect::CohereV2,
        r#"{"id":"x","finish_reason":"COMPLETE","usage":{"tokens":{"input_tokens":3.0,"output_tokens":2.0}}}"#,
    ),
    (
        Dialect::Replicate,
        r#"{"id":"p","status":"succeeded","metrics":{"predict_time":1.5}}"#,
    ),
    (
        Dialect::WorkersAi,
        r#"{"result":{"response":"hi","usage":{"prompt_tokens":3}},"success":true,"errors":[]}"#,
    ),
    (Dialect::Deepgram, r#"{"metadata":{"duration":2.5}}"#),
];

const LINES: &[(Dialect, &str)] = &[(
    Dialect::Ollama,
    "{\"model\":\"m\",\"message\":{\"content\":\"hi\"},\"done\":false}\n\n{\"done\":true,\"done_reason\":\"stop\",\"prompt_eval_count\":3,\"eval_count\":2}\n",
)];

const UNIVERSAL: &[&str] = &[
    r#"[{"provider":"openai","endpoint":"/chat/completions?x=1","headers":{"Authorization":"Bearer x","n":1,"b":true,"o":{"a":1},"z":null},"config":{"requestTimeout":1,"maxAttempts":2,"retryDelay":3,"backoff":"linear"},"query":{"b": 1.0,"a":"\u00e9"}},{"provider":"workers-ai","endpoint":"@cf/m","authorization":"Bearer y","query":null}]"#,
    r#" {"provider":"custom-x","endpoint":"","headers":null,"config":null} "#,
];
