//! The real model: what it says. That it says the same in any company is in `invariance.rs`.

use local_inference::testing::model_dir_or_skip;
use local_inference::{
    Engine, EngineConfig, EngineHandle, GenerateRequest, Message, Prompt, SamplingParams,
    StopReason, TokenEvent, catalogue,
};

fn engine(test: &str) -> Option<EngineHandle> {
    let model_dir = model_dir_or_skip(test)?;
    Some(Engine::start(EngineConfig {
        model_dir,
        ..EngineConfig::default()
    }))
}

fn request(prompt: Prompt, sampling: SamplingParams) -> GenerateRequest {
    GenerateRequest {
        sampling,
        ..GenerateRequest::new(&*catalogue::all()[0].id, prompt)
    }
}

fn raw(text: &str) -> Prompt {
    Prompt::Text {
        text: text.to_owned(),
        raw: true,
    }
}

fn chat(text: &str) -> Prompt {
    let message = Message::new("user", text);
    Prompt::Messages(vec![message])
}

fn greedy(max_tokens: u32) -> SamplingParams {
    SamplingParams {
        temperature: 0.0,
        max_tokens: Some(max_tokens),
        ..SamplingParams::default()
    }
}

async fn answer(engine: &EngineHandle, request: GenerateRequest) -> (String, StopReason, u32, u32) {
    let mut generation = engine.generate(request).await.expect("a valid request");
    let mut text = String::new();
    while let Some(event) = generation.events.recv().await {
        match event {
            TokenEvent::Text { text: piece, .. } => text.push_str(&piece),
            TokenEvent::Done {
                stop,
                completion_tokens,
                ..
            } => {
                return (text, stop, generation.prompt_tokens, completion_tokens);
            }
            TokenEvent::Failed(error) => panic!("{error}"),
            other => panic!("no tools were given: {other:?}"),
        }
    }
    panic!("ended without an end")
}

/// Beginnings are of the greedy continuation by plain f32 arithmetic over the same weights; each ends before the first
/// place where the two likeliest tokens come within 0.4, which 8-bit activations may decide either way.
#[tokio::test]
async fn greedy_answers_begin_as_the_reference_does() {
    let Some(engine) = engine("greedy answers") else {
        return;
    };
    for (prompt, beginning) in [
        ("The capital of France is", " Paris.\n\nThe"),
        ("def add(a, b):\n    return", " a + b\n"),
        (
            "Once upon a time, there was a little",
            " girl named Emma who",
        ),
        ("1 2 3 4 5 6 7", " 8 9 10 11 12 13"),
        ("Water boils at 100 degrees", " Celsius"),
    ] {
        let (text, ..) = answer(&engine, request(raw(prompt), greedy(16))).await;
        assert!(
            text.starts_with(beginning),
            "{prompt:?} went on as {text:?}"
        );
    }
}

#[tokio::test]
async fn a_chat_is_answered_and_ends_by_itself() {
    let Some(engine) = engine("a chat") else {
        return;
    };
    let question = chat("Write one sentence about the sea.");
    let (text, stop, prompt_tokens, completion_tokens) =
        answer(&engine, request(question, greedy(100))).await;
    assert_eq!((stop, prompt_tokens), (StopReason::Stop, 37));
    assert!(text.contains("sea") && !text.contains("<|"), "{text}");
    assert!((5..100).contains(&completion_tokens));
    // A prompt that is not raw is the same chat.
    let prompt = Prompt::Text {
        text: "Write one sentence about the sea.".to_owned(),
        raw: false,
    };
    assert_eq!(answer(&engine, request(prompt, greedy(100))).await.0, text);
}

#[tokio::test]
async fn a_seed_repeats_an_answer_and_another_gives_another() {
    let Some(engine) = engine("seeds") else {
        return;
    };
    let told = async |seed| {
        let sampling = SamplingParams {
            seed: Some(seed),
            temperature: 1.0,
            max_tokens: Some(30),
            ..SamplingParams::default()
        };
        answer(&engine, request(chat("Tell me a story."), sampling)).await
    };
    let first = told(9_999_999_999).await;
    assert_eq!(first, told(9_999_999_999).await);
    assert_ne!(first, told(1).await);
}
