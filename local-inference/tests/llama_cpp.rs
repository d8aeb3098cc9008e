//! Greedy texts of a real model beside llama.cpp's over the same weights in plain f32; llama_cpp/make_greedy.py made those.
//!
//! Our candle backend computes in f32 too and may part only where two tokens are all but equal. Our cpu backend rounds
//! activations to 8 bits, as llama.cpp itself does unless told otherwise: its own 8-bit texts part from its f32 texts at gaps of
//! up to 0.44, 18 of the 20, so that ours are held to 0.5.

use local_inference::testing::model_dir_or_skip;
use local_inference::{
    BackendKind, Engine, EngineConfig, GenerateRequest, KvDtype, Prompt, SamplingParams,
    TokenEvent, catalogue,
};
use serde_json::Value;

/// What llama.cpp said to one prompt.
struct Case {
    prompt: String,
    ids: Vec<u32>,
    steps: Vec<Step>,
}

struct Step {
    token: u32,
    /// The likeliest tokens with the logarithms of their probabilities, likeliest first.
    top: Vec<(u32, f64)>,
}

fn cases() -> Vec<Case> {
    let number = |value: &Value| value.as_u64().expect("a token") as u32;
    let list = |value: &Value| value.as_array().expect("an array").clone();
    let step = |value: &Value| Step {
        token: number(&value["token"]),
        top: list(&value["top"])
            .iter()
            .map(|one| (number(&one[0]), one[1].as_f64().expect("a logarithm")))
            .collect(),
    };
    let values: Vec<Value> =
        serde_json::from_str(include_str!("llama_cpp/greedy.json")).expect("the fixture");
    let case = |value: &Value| Case {
        prompt: value["prompt"].as_str().expect("a prompt").to_owned(),
        ids: list(&value["ids"]).iter().map(number).collect(),
        // Its end token was forbidden there; from where it was the likeliest on, ours may end and theirs does not.
        steps: list(&value["steps"])
            .iter()
            .map(step)
            .take_while(|step| step.token == step.top[0].0)
            .collect(),
    };
    values.iter().map(case).collect()
}

/// The largest gap at which a text parted from llama.cpp's, and how many never did.
async fn compare(backend: BackendKind, most_tokens: usize) -> Option<(f64, usize)> {
    let model_dir = model_dir_or_skip("greedy texts of llama.cpp")?;
    let engine = Engine::start(EngineConfig {
        model_dir,
        max_running: 20,
        kv_dtype: KvDtype::F32,
        backend,
        ..EngineConfig::default()
    });
    let cases = cases();
    assert_eq!(cases.len(), 20);
    let mut running = Vec::new();
    for case in &cases {
        let request = GenerateRequest {
            sampling: SamplingParams {
                temperature: 0.0,
                max_tokens: Some(case.steps.len().clamp(1, most_tokens) as u32),
                ignore_eos: true,
                ..SamplingParams::default()
            },
            top_logprobs: Some(0),
            ..GenerateRequest::new(
                &*catalogue::all()[0].id,
                Prompt::Text {
                    text: case.prompt.clone(),
                    raw: true,
                },
            )
        };
        running.push(engine.generate(request).await.expect("a valid request"));
    }
    let (mut widest, mut whole) = (f64::NEG_INFINITY, 0);
    for (case, mut generation) in cases.iter().zip(running) {
        assert_eq!(
            generation.prompt_tokens as usize,
            case.ids.len(),
            "{}",
            case.prompt
        );
        let mut tokens = Vec::new();
        while let Some(event) = generation.events.recv().await {
            match event {
                TokenEvent::Text { logprobs, .. } => {
                    tokens.extend(logprobs.iter().map(|one| one.token))
                }
                TokenEvent::Failed(error) => panic!("{error}"),
                _ => {}
            }
        }
        assert!(tokens.len() >= case.steps.len().min(most_tokens));
        match case
            .steps
            .iter()
            .zip(&tokens)
            .find(|(step, token)| step.token != **token)
        {
            None => whole += 1,
            Some((step, token)) => {
                let ours = step
                    .top
                    .iter()
                    .find(|one| one.0 == *token)
                    .map_or(f64::NEG_INFINITY, |one| one.1);
                let gap = step.top[0].1 - ours;
                println!("{:?} parts at a gap of {gap:.3}", case.prompt);
                widest = widest.max(gap);
            }
        }
    }
    println!(
        "{backend:?}: {whole} of {} texts do not part, widest gap {widest:.3}",
        cases.len()
    );
    Some((widest, whole))
}

#[tokio::test]
async fn in_f32_greedy_texts_are_those_of_llama_cpp_up_to_ties() {
    if let Some((widest, whole)) = compare(BackendKind::Candle, 32).await {
        assert!(widest <= 0.05, "parted at a gap of {widest}");
        assert!(whole >= 18, "only {whole} texts are equal");
    }
}

#[tokio::test]
async fn in_8_bits_greedy_texts_part_where_tokens_are_close() {
    if let Some((widest, _)) = compare(BackendKind::Cpu, 64).await {
        assert!(widest <= 0.5, "parted at a gap of {widest}");
    }
}
