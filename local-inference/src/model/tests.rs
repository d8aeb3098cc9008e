//! The tiny decoders of `tests/parity/decoders` against what Transformers says of them, and the real model against plain
//! arithmetic. `tests/parity/make_models.py` tells how the files were made.

mod adapters;

use super::*;
use crate::testing::model_dir_or_skip;
use serde_json::Value;
use std::path::PathBuf;

/// Positions any test here needs, in blocks that are neither in order nor all there are.
const BLOCKS: [u32; 5] = [6, 1, 4, 0, 3];
const POOL_BLOCKS: usize = 12;
/// Blocks of a second sequence in the same memory.
const OTHER_BLOCKS: [u32; 5] = [2, 5, 7, 8, 10];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/parity/decoders")
}

struct Expected {
    prompt: Vec<u32>,
    greedy: Vec<u32>,
    positions: Vec<usize>,
    /// One row a position.
    logits: Vec<Vec<f32>>,
}

impl Expected {
    fn read(file: &str) -> Expected {
        let bytes = std::fs::read(folder().join(file)).expect("a committed file");
        let value: Value = serde_json::from_slice(&bytes).expect("valid JSON");
        let numbers = |value: &Value| -> Vec<f64> {
            let list = value.as_array().expect("a list");
            list.iter().map(|n| n.as_f64().expect("a number")).collect()
        };
        let tokens = |key: &str| numbers(&value[key]).iter().map(|n| *n as u32).collect();
        let rows = value["logits"].as_array().expect("a list");
        Expected {
            prompt: tokens("prompt"),
            greedy: tokens("greedy"),
            positions: numbers(&value["positions"])
                .iter()
                .map(|n| *n as usize)
                .collect(),
            logits: rows
                .iter()
                .map(|row| numbers(row).iter().map(|n| *n as f32).collect())
                .collect(),
        }
    }
}

fn load_path(path: &std::path::Path, kv_dtype: KvDtype) -> Box<dyn CausalModel> {
    load_on(BackendKind::Cpu, path, kv_dtype)
}

fn load_on(
    backend: BackendKind,
    path: &std::path::Path,
    kv_dtype: KvDtype,
) -> Box<dyn CausalModel> {
    let files = ModelFiles::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let options = LoadOptions {
        backend,
        max_positions: 80,
        kv_dtype,
    };
    let mut model =
        load(&files, options, Pool::new(2)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    model.reserve_kv(POOL_BLOCKS);
    model
}

fn load_tiny(backend: BackendKind, name: &str, kv_dtype: KvDtype) -> Box<dyn CausalModel> {
    load_on(backend, &folder().join(name), kv_dtype)
}

/// Logits of the last of `tokens`, fed in pieces of `chunk`.
fn last_logits(model: &mut dyn CausalModel, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let mut logits = Vec::new();
    for first in (0..tokens.len()).step_by(chunk) {
        let end = (first + chunk).min(tokens.len());
        logits = step(model, &tokens[first..end], first, end == tokens.len());
    }
    logits
}

fn step(model: &mut dyn CausalModel, tokens: &[u32], first: usize, wants: bool) -> Vec<f32> {
    let mut batch = StepBatch::default();
    let mut logits = Vec::new();
    batch.push(tokens, first, &BLOCKS, wants, None);
    model.forward(&batch, &mut logits);
    logits
}

fn argmax(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.expect("a vocabulary").0 as u32
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Largest difference of a logit, over all kept positions.
fn error(model: &mut dyn CausalModel, expected: &Expected) -> f32 {
    let mut error = 0.0f32;
    for (position, row) in expected.positions.iter().zip(&expected.logits) {
        let logits = last_logits(model, &expected.prompt[..=*position], usize::MAX - 64);
        assert_eq!(logits.len(), row.len());
        for (ours, theirs) in logits.iter().zip(row) {
            error = error.max((ours - theirs).abs());
        }
    }
    error
}

/// Smallest cosine of a position's logits.
fn likeness(model: &mut dyn CausalModel, expected: &Expected) -> f64 {
    let rows = expected.positions.iter().zip(&expected.logits);
    rows.map(|(position, row)| {
        let logits = last_logits(model, &expected.prompt[..=*position], usize::MAX - 64);
        cosine(&logits, row)
    })
    .fold(1.0, f64::min)
}

/// Everything asked of a model whose weights are computed with as they are: the logits, the greedy tokens, the same bits
/// in any pieces and company, and attention memory of bf16.
fn check_exact(backend: BackendKind, name: &str, expected: &str) {
    let expected = Expected::read(expected);
    let mut model = load_tiny(backend, name, KvDtype::F32);
    let error = error(&mut *model, &expected);
    println!("{name}: largest error {error:e}");
    assert!(error <= 1e-4, "{name}: {error}");

    let mut logits = last_logits(&mut *model, &expected.prompt, 64);
    let mut tokens = expected.prompt.clone();
    for greedy in &expected.greedy {
        assert_eq!(argmax(&logits), *greedy, "{name}: token {}", tokens.len());
        tokens.push(*greedy);
        logits = step(&mut *model, &[*greedy], tokens.len() - 1, true);
    }
    check_pieces(name, &mut *model, &expected.prompt);

    let mut rounded = load_tiny(backend, name, KvDtype::Bf16);
    let likeness = likeness(&mut *rounded, &expected);
    println!("{name}: bf16 memory, cosine {likeness}");
    assert!(likeness >= 0.999, "{name}: {likeness}");
}

/// Whole, in chunks, token by token and beside another sequence: the same bits.
fn check_pieces(name: &str, model: &mut dyn CausalModel, prompt: &[u32]) {
    let whole = last_logits(model, prompt, prompt.len());
    for chunk in [1, 5, 16, 20] {
        assert_eq!(
            last_logits(model, prompt, chunk),
            whole,
            "{name}: chunks of {chunk}"
        );
    }
    let other: Vec<u32> = prompt.iter().rev().copied().collect();
    let mut batch = StepBatch::default();
    let mut logits = Vec::new();
    last_logits(model, &prompt[..9], 9);
    batch.push(&other[..23], 0, &OTHER_BLOCKS, true, None);
    batch.push(&prompt[9..], 9, &BLOCKS, true, None);
    model.forward(&batch, &mut logits);
    assert_eq!(logits[model.vocabulary()..], whole, "{name}: in company");
}

/// Weights that meet rounded activations.
fn check_alike(name: &str, expected: &str) {
    let expected = Expected::read(expected);
    for kv_dtype in [KvDtype::F32, KvDtype::Bf16] {
        let mut model = load_tiny(BackendKind::Cpu, name, kv_dtype);
        let likeness = likeness(&mut *model, &expected);
        println!("{name}: {kv_dtype:?} memory, cosine {likeness}");
        assert!(likeness >= 0.999, "{name}: {likeness}");
        check_pieces(name, &mut *model, &expected.prompt);
    }
}

macro_rules! exact {
    ($($test:ident: $file:literal = $expected:literal,)*) => {
        $(#[test] fn $test() { check_exact(BackendKind::Cpu, $file, $expected); })*
    };
}

macro_rules! alike {
    ($($test:ident: $file:literal = $expected:literal,)*) => {
        $(#[test] fn $test() { check_alike($file, $expected); })*
    };
}

exact! {
    llama_2: "llama2" = "llama2/expected.json",
    llama_3_2_with_scaled_rotation_and_tied_head: "llama32" = "llama32/expected.json",
    llama_with_linear_scaling_in_shards: "llama_linear" = "llama_linear/expected.json",
    mistral_with_a_window: "mistral" = "mistral/expected.json",
    qwen_2: "qwen2" = "qwen2/expected.json",
    qwen_2_with_a_window_in_upper_layers: "qwen2_window" = "qwen2_window/expected.json",
    qwen_3: "qwen3" = "qwen3/expected.json",
    gemma_1: "gemma" = "gemma/expected.json",
    gemma_2: "gemma2" = "gemma2/expected.json",
    gemma_3_inside_a_multimodal_model: "gemma3" = "gemma3/expected.json",
    phi_2: "phi" = "phi/expected.json",
    falcon: "falcon" = "falcon/expected.json",
    gguf_llama_with_permuted_rows_and_rope_divisors: "llama32.gguf" = "llama32/expected.json",
    gguf_qwen_2: "qwen2.gguf" = "qwen2/expected.json",
    gguf_gemma_1: "gemma.gguf" = "gemma/expected.json",
    gguf_gemma_3: "gemma3.gguf" = "gemma3.json",
    gguf_phi_2: "phi.gguf" = "phi/expected.json",
    gguf_falcon: "falcon.gguf" = "falcon/expected.json",
}

alike! {
    tinyllama_in_bf16: "tinyllama" = "tinyllama/expected.json",
    gguf_qwen_3_in_bf16: "qwen3.gguf" = "qwen3/expected.json",
    awq: "awq" = "awq/expected.json",
    q4_0: "quant_q4_0.gguf" = "quant_q4_0.json",
    q4_1: "quant_q4_1.gguf" = "quant_q4_1.json",
    q5_0: "quant_q5_0.gguf" = "quant_q5_0.json",
    q5_1: "quant_q5_1.gguf" = "quant_q5_1.json",
    q8_0: "quant_q8_0.gguf" = "quant_q8_0.json",
    q4_k: "quant_q4_k.gguf" = "quant_q4_k.json",
    q5_k: "quant_q5_k.gguf" = "quant_q5_k.json",
    q6_k: "quant_q6_k.gguf" = "quant_q6_k.json",
}

/// Prompt tokens, and the five likeliest next tokens with their logits as plain f32 arithmetic over the dequantised
/// weights gives them (a separate program, matrix by matrix from the model's definition).
type Reference = (&'static [u32], [(usize, f32); 5]);
const REFERENCES: [Reference; 5] = [
    (
        &[504, 3575, 282, 4649, 314],
        [
            (7042, 17.371),
            (260, 14.889),
            (4528, 13.245),
            (2250, 13.009),
            (1315, 12.952),
        ],
    ),
    (
        &[1604, 803, 24, 81, 28, 278, 727, 472, 1003],
        [
            (253, 20.375),
            (2822, 16.857),
            (365, 15.78),
            (278, 15.559),
            (476, 15.393),
        ],
    ),
    (
        &[6403, 1980, 253, 655, 28, 665, 436, 253, 1838],
        [
            (8180, 17.551),
            (3102, 17.058),
            (6560, 15.064),
            (5432, 14.988),
            (7706, 14.952),
        ],
    ),
    (
        &[33, 216, 34, 216, 35, 216, 36, 216, 37, 216, 38, 216, 39],
        [
            (216, 24.377),
            (198, 20.86),
            (256, 20.322),
            (28, 19.996),
            (25, 19.799),
        ],
    ),
    (
        &[12615, 36411, 418, 216, 33, 32, 32, 5027],
        [
            (20590, 23.718),
            (21391, 20.563),
            (28, 19.331),
            (30, 18.426),
            (265, 18.242),
        ],
    ),
];

#[test]
fn the_real_models_logits_are_those_of_plain_arithmetic_up_to_the_rounding_of_activations() {
    let Some(directory) = model_dir_or_skip("logits against the reference") else {
        return;
    };
    let path = directory.join(&*crate::catalogue::all()[0].file);
    for kv_dtype in [KvDtype::F32, KvDtype::Bf16] {
        let mut model = load_path(&path, kv_dtype);
        let mut error = 0.0f32;
        for (tokens, top) in REFERENCES {
            let logits = last_logits(&mut *model, tokens, tokens.len());
            for (token, expected) in top {
                error = error.max((logits[token] - expected).abs());
            }
            check_pieces("SmolLM2", &mut *model, &tokens.repeat(7)[..34]);
        }
        println!("{kv_dtype:?} memory: largest error {error}");
        // 8-bit activations; the tokens' logits lie between 13 and 25.
        assert!(
            error < 0.6,
            "{kv_dtype:?} memory: largest difference {error}"
        );
    }
}

/// The families the candle backend runs, held to the same as on ours; weights of any format, since it computes with them
/// as they are.
#[test]
fn on_candle_the_same_holds() {
    for (file, expected) in [
        ("llama2", "llama2/expected.json"),
        ("llama32", "llama32/expected.json"),
        ("llama_linear", "llama_linear/expected.json"),
        ("mistral", "mistral/expected.json"),
        ("qwen2", "qwen2/expected.json"),
        ("qwen2_window", "qwen2_window/expected.json"),
        ("llama32.gguf", "llama32/expected.json"),
        ("qwen2.gguf", "qwen2/expected.json"),
    ] {
        check_exact(BackendKind::Candle, file, expected);
    }
}

#[test]
fn candle_refuses_other_families_by_name() {
    for name in [
        "gemma", "gemma2", "gemma3", "phi", "falcon", "qwen3", "phi.gguf",
    ] {
        let files = ModelFiles::open(&folder().join(name)).expect("a committed model");
        let options = LoadOptions {
            backend: BackendKind::Candle,
            max_positions: 80,
            kv_dtype: KvDtype::F32,
        };
        let Err(error) = load(&files, options, Pool::new(1)) else {
            panic!("{name} was loaded");
        };
        let text = error.to_string();
        assert!(text.contains("candle backend"), "{name}: {text}");
    }
}

/// Greedy tokens of a few prompts by both backends. They may part only where rounded activations decide between two tokens
/// that are nearly alike; the gap there is told.
#[test]
fn the_real_model_says_on_candle_what_plain_arithmetic_says_and_nearly_what_ours_says() {
    const TOKENS: usize = 12;
    let Some(directory) = model_dir_or_skip("the candle backend against ours") else {
        return;
    };
    let path = directory.join(&*crate::catalogue::all()[0].file);
    let mut ours = load_path(&path, KvDtype::F32);
    let mut theirs = load_on(BackendKind::Candle, &path, KvDtype::F32);
    let mut error = 0.0f32;
    for (prompt, top) in REFERENCES {
        let mut tokens = prompt.to_vec();
        let mut exact = last_logits(&mut *theirs, &tokens, tokens.len());
        let mut rounded = last_logits(&mut *ours, &tokens, tokens.len());
        for (token, expected) in top {
            error = error.max((exact[token] - expected).abs());
        }
        for written in 0..TOKENS {
            let (right, chosen) = (argmax(&exact), argmax(&rounded));
            let gap = exact[right as usize] - exact[chosen as usize];
            if gap > 0.0 {
                println!(
                    "{prompt:?}: part after {written} tokens, {right} before {chosen} by {gap}"
                );
            }
            // What 8-bit activations move logits by, see above.
            assert!(gap < 0.6, "{prompt:?} {written}: {gap}");
            tokens.push(right);
            let first = tokens.len() - 1;
            exact = step(&mut *theirs, &[right], first, true);
            rounded = step(&mut *ours, &[right], first, true);
        }
    }
    println!("candle: largest error {error}");
    assert!(error < 2e-3, "largest difference {error}");
}

/// The two forms of a configuration say the same: the older one is in the fixture, the one since Transformers 5 beside it.
#[test]
fn gemma_3_in_the_newer_form_of_its_configuration() {
    let files = ModelFiles::open(&folder().join("gemma3")).expect("a fixture");
    let ModelFiles::Folder(mut newer) = files else {
        panic!("a folder is one");
    };
    let older = families::read(&ModelFiles::open(&folder().join("gemma3")).expect("a fixture"));
    let text = std::fs::read(folder().join("gemma3/config_v5.json")).expect("a fixture");
    newer.config = serde_json::from_slice(&text).expect("valid JSON");
    let newer = families::read(&ModelFiles::Folder(newer));
    let (older, newer) = (older.expect("valid").spec, newer.expect("valid").spec);
    assert_eq!(format!("{older:?}"), format!("{newer:?}"));
    assert!(older.layers[0].window.is_some() && older.layers[1].window.is_none());
}
