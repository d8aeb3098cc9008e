//! Perplexity of a text, counted as llama.cpp's tool does with `-c 512`.
//!
//! `cargo run -p local-inference --example perplexity -- <model file or folder> <text file> [f32]`

use local_inference::{KvDtype, perplexity};
use std::path::Path;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, text, rest @ ..] = arguments.as_slice() else {
        eprintln!("usage: perplexity <model file or folder> <text file> [f32]");
        std::process::exit(2);
    };
    let text = match std::fs::read_to_string(text) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("`{text}`: {error}");
            std::process::exit(1);
        }
    };
    let kv_dtype = match rest.first().map(String::as_str) {
        Some("f32") => KvDtype::F32,
        _ => KvDtype::Bf16,
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    match perplexity(Path::new(model), &text, 512, kv_dtype, threads) {
        Ok(found) => println!(
            "perplexity {:.4} over {} tokens of {} chunks",
            found.value, found.scored_tokens, found.chunks
        ),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}
