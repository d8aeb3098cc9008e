//! Prints an answer as it comes, then how fast it came.
//!
//! `cargo run -p local-inference --example generate -- <model directory> <prompt> [copies]`

use local_inference::{
    Engine, EngineConfig, GenerateRequest, Message, Prompt, SamplingParams, TokenEvent, catalogue,
};
use std::io::Write;
use std::time::Instant;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, prompt, rest @ ..] = arguments.as_slice() else {
        eprintln!("usage: generate <model directory> <prompt> [copies]");
        return;
    };
    let copies: usize = rest
        .first()
        .and_then(|count| count.parse().ok())
        .unwrap_or(1);
    let config = EngineConfig {
        model_dir: directory.into(),
        max_running: copies,
        ..EngineConfig::default()
    };
    let engine = Engine::start(config);
    let request = |max_tokens| GenerateRequest {
        sampling: SamplingParams {
            temperature: 0.0,
            max_tokens: Some(max_tokens),
            ..SamplingParams::default()
        },
        ..GenerateRequest::new(
            &*catalogue::all()[0].id,
            Prompt::Messages(vec![Message::new("user", prompt)]),
        )
    };
    // Loads the model, and is not counted.
    match engine.generate(request(1)).await {
        Ok(mut warm_up) => while warm_up.events.recv().await.is_some() {},
        Err(error) => return eprintln!("{error}"),
    }
    let started = Instant::now();
    let mut readers = Vec::new();
    for copy in 0..copies {
        let mut generation = match engine.generate(request(128)).await {
            Ok(generation) => generation,
            Err(error) => return eprintln!("{error}"),
        };
        readers.push(tokio::spawn(async move {
            let (mut first, mut tokens) = (None, 0);
            while let Some(event) = generation.events.recv().await {
                match event {
                    TokenEvent::Text { text, .. } => {
                        first.get_or_insert_with(Instant::now);
                        if copy == 0 {
                            print!("{text}");
                            let _ = std::io::stdout().flush();
                        }
                    }
                    TokenEvent::Done {
                        completion_tokens, ..
                    } => tokens = completion_tokens,
                    TokenEvent::ToolCallStart { .. } | TokenEvent::ToolCallArguments { .. } => {}
                    TokenEvent::Failed(error) => eprintln!("{error}"),
                }
            }
            (
                generation.prompt_tokens,
                first.unwrap_or_else(Instant::now),
                tokens,
            )
        }));
    }
    let (mut prompt_tokens, mut tokens, mut last_first) = (0, 0, started);
    for reader in readers {
        let Ok((prompt, first, count)) = reader.await else {
            continue;
        };
        prompt_tokens += prompt;
        tokens += count;
        last_first = last_first.max(first);
    }
    let prefill = (last_first - started).as_secs_f64();
    let decode = last_first.elapsed().as_secs_f64();
    println!(
        "\n\n{copies} at once: {prompt_tokens} prompt tokens, last first token after {:.0} ms ({:.0} tok/s); {tokens} tokens, {:.0} tok/s decoding",
        prefill * 1e3,
        f64::from(prompt_tokens) / prefill,
        f64::from(tokens) / decode,
    );
}
