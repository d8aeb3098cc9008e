//! What one answer may be made of: several choices, log-probabilities, calls, JSON.

use super::*;

#[tokio::test]
async fn choices_share_the_prompt_and_end_one_by_one() {
    let engine = scripted(limited(8, 8), saying("three of us"));
    let several = GenerateRequest {
        choices: 3,
        ..request(&"p".repeat(99))
    };
    let mut generation = engine.generate(several).await.expect("a valid request");
    let (mut texts, mut cached) = (vec![String::new(); 3], vec![None; 3]);
    while let Some(event) = generation.events.recv().await {
        match event {
            TokenEvent::Text { choice, text, .. } => texts[choice as usize] += &text,
            TokenEvent::Done {
                choice,
                stop,
                cached_tokens,
                ..
            } => {
                assert_eq!(stop, StopReason::Stop);
                assert_eq!(cached[choice as usize].replace(cached_tokens), None);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(texts, ["three of us"; 3]);
    assert_eq!(cached, [Some(0), Some(96), Some(96)]);
    until(&engine, |stats| stats.admitted == 0).await;
    // 100 tokens once, and what lies behind the last full block for the others.
    assert_eq!(engine.stats().prompt_tokens, 100 + 2 * 4);
    for choices in [0, 17] {
        let wrong = GenerateRequest {
            choices,
            ..request("x")
        };
        let error = engine.generate(wrong).await.err();
        assert!(
            matches!(error, Some(EngineError::Invalid { field: "n", .. })),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn log_probabilities_come_with_the_text_they_belong_to() {
    let engine = scripted(EngineConfig::default(), saying("a\u{e9}!"));
    let asked = GenerateRequest {
        top_logprobs: Some(2),
        ..request("x")
    };
    let mut generation = engine.generate(asked).await.expect("a valid request");
    let mut told = Vec::new();
    while let Some(event) = generation.events.recv().await {
        if let TokenEvent::Text { text, logprobs, .. } = event {
            told.push((text, logprobs));
        }
    }
    let shape: Vec<(&str, usize)> = told
        .iter()
        .map(|(text, l)| (text.as_str(), l.len()))
        .collect();
    // The letter of two bytes is two tokens; the end token tells nothing.
    assert_eq!(shape, [("a", 1), ("\u{e9}", 2), ("!", 1)]);
    let first = &told[0].1[0];
    assert_eq!((first.token, first.bytes.as_slice()), (97, b"a".as_slice()));
    // A lead of 1000 leaves nothing to the others.
    assert!(first.logprob.abs() < 1e-6);
    assert_eq!(first.top.len(), 2);
    assert_eq!((first.top[0].0, first.top[1].0), (97, 0));
    assert!((first.top[1].2 + 1000.0).abs() < 1e-3);
}

fn weather() -> Tool {
    Tool {
        name: "weather".to_owned(),
        description: None,
        parameters: serde_json::json!({
            "type": "object",
            "properties": { "city": { "type": "string" } },
            "required": ["city"],
            "additionalProperties": false,
        }),
    }
}

#[tokio::test]
async fn calls_are_told_apart_from_text() {
    let call = r#"{"name": "weather", "arguments": {"city": "Oslo"}}"#;
    let engine = scripted(EngineConfig::default(), saying(call));
    let told = async |tool_choice| {
        let asked = GenerateRequest {
            tools: vec![weather()],
            tool_choice,
            ..request("x")
        };
        let mut generation = engine.generate(asked).await.expect("a valid request");
        let (mut text, mut name, mut arguments) = (String::new(), String::new(), String::new());
        loop {
            match generation.events.recv().await.expect("an end") {
                TokenEvent::Text { text: piece, .. } => text += &piece,
                TokenEvent::ToolCallStart {
                    name: called, id, ..
                } => {
                    assert!(id.starts_with("call_"));
                    name += &called;
                }
                TokenEvent::ToolCallArguments { text: piece, .. } => arguments += &piece,
                TokenEvent::Done { stop, .. } => return (text, name, arguments, stop),
                TokenEvent::Failed(error) => panic!("{error}"),
            }
        }
    };
    let expected = (
        String::new(),
        "weather".to_owned(),
        r#"{"city": "Oslo"}"#.to_owned(),
        StopReason::ToolCalls,
    );
    assert_eq!(told(ToolChoice::Auto).await, expected);
    let (text, name, arguments, stop) = told(ToolChoice::Required).await;
    assert_eq!((text.as_str(), name.as_str()), ("", "weather"));
    assert_eq!(stop, StopReason::ToolCalls);
    let parsed: serde_json::Value = serde_json::from_str(&arguments).expect("JSON");
    assert_eq!(parsed["city"], "Oslo");
    // Without leave to call it is text.
    let (text, name, _, stop) = told(ToolChoice::None).await;
    assert_eq!(
        (text.as_str(), name.as_str(), stop),
        (call, "", StopReason::Stop)
    );
}

#[tokio::test]
async fn an_answer_held_to_json_is_json_or_says_that_it_ran_out() {
    let asked = |max_tokens| GenerateRequest {
        format: OutputFormat::JsonObject,
        sampling: SamplingParams {
            max_tokens: Some(max_tokens),
            ..request("x").sampling
        },
        ..request("x")
    };
    let willing = scripted(EngineConfig::default(), saying(r#"{"a": [1, 2]}"#));
    let (text, end) = answer(&willing, asked(60)).await;
    let parsed: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(parsed, serde_json::json!({ "a": [1, 2] }));
    assert!(matches!(
        end,
        Some(TokenEvent::Done {
            stop: StopReason::Stop,
            ..
        })
    ));
    // This one wants to chat.
    let unwilling = scripted(EngineConfig::default(), saying("Sure! Here you are"));
    let (text, end) = answer(&unwilling, asked(20)).await;
    assert!(text.starts_with('{'), "{text}");
    match end {
        Some(TokenEvent::Done {
            stop: StopReason::Length,
            ..
        }) => {}
        Some(TokenEvent::Done {
            stop: StopReason::Stop,
            ..
        }) => {
            serde_json::from_str::<serde_json::Value>(&text).expect("JSON");
        }
        other => panic!("{other:?}"),
    }
}
