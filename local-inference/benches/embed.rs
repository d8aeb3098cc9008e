//! Sentences a second of an encoder: 32 in a request, of like length and of mixed lengths.
//!
//!     cargo bench -p local-inference --bench embed -- MODEL_DIR [MODEL]
//!
//! `MODEL_DIR` holds the folder of the model, all-MiniLM-L6-v2 unless another catalogue name is given.

use local_inference::{EmbedRequest, Engine, EngineConfig};
use std::time::Instant;

const SENTENCES: usize = 32;
/// The median of them is told.
const ROUNDS: usize = 7;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // Cargo adds `--bench`.
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"));
    let Some(model_dir) = arguments.next() else {
        println!("name the folder that holds the model's folder");
        return;
    };
    let model = arguments
        .next()
        .unwrap_or_else(|| "@cf/sentence-transformers/all-minilm-l6-v2".to_owned());
    let engine = Engine::start(EngineConfig {
        model_dir: model_dir.into(),
        models: vec![model.clone()],
        ..EngineConfig::default()
    });
    let like =
        |n: usize| format!("The number of this one is {n}, and the wind blew over the hill.");
    let mixed = |n: usize| {
        let words = "the wind blew over the hill ".repeat(1 + n * 7 % 20);
        format!("Number {n}: {words}.")
    };
    let sets: [(&str, Vec<String>); 2] = [
        ("like lengths", (0..SENTENCES).map(like).collect()),
        ("mixed lengths", (0..SENTENCES).map(mixed).collect()),
    ];
    for (name, texts) in sets {
        let mut seconds = Vec::new();
        let mut tokens = 0;
        // The first one loads the model and is not counted.
        for _ in 0..=ROUNDS {
            let started = Instant::now();
            let request = EmbedRequest {
                model: model.clone(),
                texts: texts.clone(),
                pooling: None,
            };
            match engine.embed(request).await {
                Ok(embeddings) => tokens = embeddings.prompt_tokens,
                Err(error) => return println!("{error}"),
            }
            seconds.push(started.elapsed().as_secs_f64());
        }
        seconds.remove(0);
        seconds.sort_by(f64::total_cmp);
        let median = seconds[ROUNDS / 2];
        let sentences = SENTENCES as f64 / median;
        let rate = f64::from(tokens) / median;
        println!("{name}: {sentences:.0} sentences/s, {rate:.0} tokens/s");
    }
}
