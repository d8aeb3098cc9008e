//! A glance must find exactly what the parser finds, or decline.

use super::*;

/// Shapes of delta chunks by their speakers, each written from the public description of its format.
const DELTAS: &[&str] = &[
    // OpenAI, with and without the optional members.
    r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"gpt-x","service_tier":"default","system_fingerprint":"fp","choices":[{"index":0,"delta":{"content":"Hello"},"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"x7Q"}"#,
    r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"gpt-x","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
    r#"{"choices":[{"delta":{"content":"a\n\"b\" \u00e9\u4e2d \ud83d\ude00 žluť"},"index":1,"finish_reason":null}]}"#,
    r#"{ "choices" : [ { "delta" : { "content" : "spaced" } , "finish_reason" : null } ] , "usage" : null }"#,
    r#"{"choices":[{"index":0,"delta":{"content":null,"refusal":"no"},"finish_reason":null}]}"#,
    r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"f","arguments":""}}]},"finish_reason":null}]}"#,
    r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\":1}"}}]},"finish_reason":null}]}"#,
    r#"{"choices":[{"index":0,"delta":{"tool_calls":[],"content":"x"},"finish_reason":null}]}"#,
    r#"{"choices":[{"index":0,"delta":{"function_call":{"name":"f","arguments":"abc"}},"finish_reason":null}]}"#,
    // Reasoning under either name, or both.
    r#"{"choices":[{"index":0,"delta":{"reasoning_content":"hmm","content":null},"finish_reason":null}]}"#,
    r#"{"choices":[{"index":0,"delta":{"reasoning":"hmm","reasoning_content":"hmm"},"finish_reason":null}]}"#,
    // Legacy completions; Workers AI.
    r#"{"id":"cmpl-1","object":"text_completion","choices":[{"text":"tok","index":0,"logprobs":null,"finish_reason":null}]}"#,
    r#"{"response":"tok","tool_calls":[],"p":"abdef"}"#,
    r#"{"response":"tok","p":"abdef"}"#,
    // The member names of other things inside strings.
    r#"{"choices":[{"index":0,"delta":{"content":"\"usage\":{\"prompt_tokens\":1} \"finish_reason\":\"stop\""},"finish_reason":null}]}"#,
];

/// Chunks that tell something besides text, or are broken.
const UNUSUAL: &[&str] = &[
    r#"{"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}"#,
    r#"{"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}],"usage":{"prompt_tokens":1}}"#,
    r#"{"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}],"error":{"message":"m"}}"#,
    r#"{"choices":[{"index":0,"delta":{"content":""},"finish_reason":null}],"x_groq":{"error":"m"}}"#,
    r#"{"choices":[{"index":0,"delta":{"content":"a"}},{"index":1,"delta":{"content":"b"}}]}"#,
    r#"{"choices":[{"index":0,"delta":{"content":[{"type":"text","text":"a"}]},"finish_reason":null}]}"#,
    r#"{"choices":[],"usage":null}"#,
    r#"{"object":"error","message":"m"}"#,
    r#"{"error":"m"}"#,
    r#"{"choices":[{"index":0,"delta":{"content":"cut"#,
    r#"{"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}}"#,
    r#"[DONE]"#,
    r#""#,
];

fn parsed(chunk: &str) -> Seen {
    let chunk: Chunk<'_> = serde_json::from_str(chunk).expect("valid chunk");
    let parts = chunk
        .choices
        .0
        .iter()
        .filter_map(|choice| choice.delta.0.as_ref());
    let legacy: u64 = chunk.choices.0.iter().map(|choice| choice.text.0).sum();
    Seen {
        text_bytes: chunk.response.0 + legacy + parts.clone().map(Delta::text).sum::<u64>(),
        has_call: parts.clone().any(Delta::has_call),
    }
}

#[test]
fn agrees_with_the_parser_on_deltas() {
    for delta in DELTAS {
        assert_eq!(
            Glance::default().look(delta.as_bytes()),
            Some(parsed(delta)),
            "{delta}"
        );
    }
    // Whatever beginning was learnt from another chunk, the answer stays the same.
    for earlier in DELTAS {
        for later in DELTAS {
            let mut glance = Glance::default();
            glance.look(earlier.as_bytes());
            assert_eq!(
                glance.look(later.as_bytes()),
                Some(parsed(later)),
                "{earlier} then {later}"
            );
        }
    }
}

#[test]
fn declines_what_is_unusual() {
    for chunk in UNUSUAL {
        assert_eq!(Glance::default().look(chunk.as_bytes()), None, "{chunk}");
        for earlier in DELTAS {
            let mut glance = Glance::default();
            glance.look(earlier.as_bytes());
            assert_eq!(
                glance.look(chunk.as_bytes()),
                None,
                "{earlier} then {chunk}"
            );
        }
    }
}

#[test]
fn truncated_deltas_are_declined_wherever_they_end() {
    for delta in DELTAS {
        for end in 0..delta.len() - 1 {
            let mut glance = Glance::default();
            assert_eq!(
                glance.look(&delta.as_bytes()[..end]),
                None,
                "{delta} cut at {end}"
            );
            glance.look(delta.as_bytes());
            assert_eq!(
                glance.look(&delta.as_bytes()[..end]),
                None,
                "{delta} cut at {end}, learnt"
            );
        }
    }
}
