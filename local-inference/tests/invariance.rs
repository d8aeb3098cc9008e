//! A request's tokens, and their log-probabilities to the last bit, are the same in any company and after any interruption.

use local_inference::testing::model_dir_or_skip;
use local_inference::{
    Engine, EngineConfig, EngineHandle, GenerateRequest, Prompt, SamplingParams, Stats, TokenEvent,
    catalogue,
};
use std::path::Path;

const REQUESTS: usize = 16;
const ANSWER_TOKENS: u32 = 14;

/// Token and log-probability, one by one.
type Answer = Vec<(u32, u32)>;

struct Told {
    answers: Vec<Answer>,
    cached_tokens: u32,
}

/// Mixed lengths, 6 to some 200 tokens, none with another's beginning; greedy and drawn in turn.
fn request(i: usize) -> GenerateRequest {
    let repeated = "The wind blew over the hill. ".repeat(i * i / 9);
    let text = format!("{i}{i}{i}: number {i}. {repeated}Then");
    let sampling = SamplingParams {
        temperature: if i.is_multiple_of(2) { 0.0 } else { 0.9 },
        top_p: if i % 4 == 1 { 0.9 } else { 1.0 },
        frequency_penalty: if i % 4 == 3 { 0.5 } else { 0.0 },
        seed: Some(1000 + i as u64),
        max_tokens: Some(ANSWER_TOKENS),
        ignore_eos: true,
        ..SamplingParams::default()
    };
    GenerateRequest {
        sampling,
        top_logprobs: Some(0),
        ..GenerateRequest::new(&*catalogue::all()[0].id, Prompt::Text { text, raw: true })
    }
}

async fn ask(engine: &EngineHandle, request: GenerateRequest) -> Told {
    let choices = request.choices as usize;
    let mut generation = engine.generate(request).await.expect("a valid request");
    let mut told = Told {
        answers: vec![Vec::new(); choices],
        cached_tokens: 0,
    };
    let mut done = 0;
    while let Some(event) = generation.events.recv().await {
        match event {
            TokenEvent::Text {
                choice, logprobs, ..
            } => {
                let pairs = logprobs
                    .iter()
                    .map(|one| (one.token, one.logprob.to_bits()));
                told.answers[choice as usize].extend(pairs);
            }
            TokenEvent::Done { cached_tokens, .. } => {
                told.cached_tokens += cached_tokens;
                done += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(done, choices);
    told
}

async fn one_by_one(engine: &EngineHandle) -> (Vec<Answer>, u32) {
    let (mut answers, mut cached) = (Vec::new(), 0);
    for i in 0..REQUESTS {
        let told = ask(engine, request(i)).await;
        answers.extend(told.answers);
        cached += told.cached_tokens;
    }
    (answers, cached)
}

async fn all_at_once(
    config: EngineConfig,
    requests: impl Iterator<Item = GenerateRequest>,
) -> (Vec<Answer>, Stats) {
    let engine = Engine::start(config);
    let asked: Vec<_> = requests
        .map(|request| {
            let engine = engine.clone();
            tokio::spawn(async move { ask(&engine, request).await.answers.remove(0) })
        })
        .collect();
    let mut answers = Vec::new();
    for answer in asked {
        answers.push(answer.await.expect("no panic"));
    }
    (answers, engine.stats())
}

fn config(model_dir: &Path) -> EngineConfig {
    EngineConfig {
        model_dir: model_dir.to_path_buf(),
        max_running: REQUESTS,
        ..EngineConfig::default()
    }
}

#[tokio::test]
async fn alone_together_in_pieces_and_with_a_hit_the_tokens_are_the_same() {
    let Some(model_dir) = model_dir_or_skip("batch invariance") else {
        return;
    };
    let engine = Engine::start(config(&model_dir));
    let (alone, cached) = one_by_one(&engine).await;
    assert_eq!(cached, 0);
    let tokens = |answer: &Answer| answer.len() == ANSWER_TOKENS as usize;
    assert!(alone.iter().all(tokens));

    let (again, cached) = one_by_one(&engine).await;
    assert!(cached > 500, "{cached} prompt tokens were there already");
    assert_eq!(again, alone, "with beginnings found in attention memory");

    // Another request's answer is the beginning of this one's prompt: blocks filled by decoding, not by reading.
    let mut longer = request(12);
    let mut shorter = request(12);
    shorter.sampling.max_tokens = Some(40);
    shorter.sampling.temperature = 0.0;
    longer.sampling.temperature = 0.0;
    let first = ask(&engine, shorter).await.answers.remove(0);
    let said: Vec<u32> = first.iter().map(|(token, _)| *token).collect();
    longer.prompt = Prompt::Tokens(said[..33].to_vec());
    let cold = Engine::start(config(&model_dir));
    let expected = ask(&cold, longer.clone()).await.answers;
    assert_eq!(ask(&engine, longer).await.answers, expected);
    drop((engine, cold));

    let (together, stats) = all_at_once(config(&model_dir), (0..REQUESTS).map(request)).await;
    assert_eq!(together, alone, "sixteen at once");
    assert!(
        stats.step_tokens > 2 * stats.steps,
        "they were a batch: {stats:?}"
    );
    println!(
        "choosing tokens took {:.1} % of the steps",
        100.0 * stats.sample_micros as f64 / stats.step_micros as f64
    );

    let in_pieces = EngineConfig {
        max_step_tokens: 23,
        target_step_ms: 1,
        ..config(&model_dir)
    };
    let (chunked, _) = all_at_once(in_pieces, (0..REQUESTS).map(request)).await;
    assert_eq!(chunked, alone, "prompts read in pieces");
}

/// Eight prompts fit into the attention memory; with their answers they want twice of it.
#[tokio::test]
async fn who_gave_way_says_what_it_says_alone() {
    let Some(model_dir) = model_dir_or_skip("preemption") else {
        return;
    };
    let long = |i| {
        let mut long = request(i);
        long.sampling.max_tokens = Some(80);
        long
    };
    let roomy = Engine::start(config(&model_dir));
    let mut alone = Vec::new();
    for i in 0..8 {
        alone.extend(ask(&roomy, long(i)).await.answers);
    }
    let small = EngineConfig {
        kv_cache_mib: 10,
        ..config(&model_dir)
    };
    let (preempted, stats) = all_at_once(small, (0..8).map(long)).await;
    assert!(stats.preemptions > 0, "nobody had to give way: {stats:?}");
    assert_eq!(preempted, alone, "after giving way");
}

#[tokio::test]
async fn a_choice_is_what_its_seed_alone_would_give() {
    let Some(model_dir) = model_dir_or_skip("choices") else {
        return;
    };
    let engine = Engine::start(config(&model_dir));
    let several = GenerateRequest {
        choices: 3,
        ..request(9)
    };
    let together = ask(&engine, several).await;
    // Each but the first found the prompt's full blocks.
    assert!(
        together.cached_tokens >= 2 * 32,
        "{}",
        together.cached_tokens
    );
    for (choice, answer) in together.answers.into_iter().enumerate() {
        let mut lone = request(9);
        lone.sampling.seed = Some(1009 + choice as u64);
        assert_eq!(
            ask(&engine, lone).await.answers,
            [answer],
            "choice {choice}"
        );
    }
}
