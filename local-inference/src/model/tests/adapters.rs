//! The adapters of `tests/parity/adapters` against what Transformers with PEFT says of them; `make_adapters.py` beside them
//! tells how they were made.

use super::*;
use crate::adapter::{AdapterFiles, AdapterLimits, LoadedAdapter};

const LIMITS: AdapterLimits = AdapterLimits {
    max_rank: 64,
    max_bytes: 1 << 20,
};

fn adapters() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/parity/adapters")
}

fn files(name: &str) -> AdapterFiles {
    let read = |file: &str| {
        let path = adapters().join(name).join(file);
        std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    AdapterFiles {
        config: read("adapter_config.json"),
        weights: read("adapter_model.safetensors"),
    }
}

fn expected(name: &str) -> Expected {
    Expected::read(&format!("../adapters/{name}/expected.json"))
}

fn load_adapter(model: &dyn CausalModel, name: &str) -> Arc<LoadedAdapter> {
    let loader = model.adapter_loader().expect("decoders take adapters");
    let loaded = loader.load(&files(name));
    Arc::new(loaded.unwrap_or_else(|error| panic!("{name}: {error}")))
}

fn logits(
    model: &mut dyn CausalModel,
    tokens: &[u32],
    first: usize,
    adapter: Option<&Arc<LoadedAdapter>>,
) -> Vec<f32> {
    let (mut batch, mut logits) = (StepBatch::default(), Vec::new());
    batch.push(tokens, first, &BLOCKS, true, adapter);
    model.forward(&batch, &mut logits);
    logits
}

fn difference(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    let pairs = ours.iter().zip(theirs);
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Logits within 1e-4 and the greedy tokens of PEFT.
fn check(backend: BackendKind, base: &str, name: &str) {
    let mut model = load_tiny(backend, base, KvDtype::F32);
    let adapter = load_adapter(&*model, name);
    check_with(
        &mut *model,
        name,
        &format!("{name} on {base}"),
        Some(&adapter),
    );
}

fn check_with(
    model: &mut dyn CausalModel,
    name: &str,
    what: &str,
    adapter: Option<&Arc<LoadedAdapter>>,
) {
    let expected = expected(name);
    let mut error = 0.0f32;
    for (position, row) in expected.positions.iter().zip(&expected.logits) {
        let ours = logits(model, &expected.prompt[..=*position], 0, adapter);
        error = error.max(difference(&ours, row));
    }
    println!("{what}: logits within {error:.1e}");
    assert!(error <= 1e-4, "{what}: {error}");
    let mut next = logits(model, &expected.prompt, 0, adapter);
    for (index, token) in expected.greedy.iter().enumerate() {
        assert_eq!(argmax(&next), *token, "{what}: token {index}");
        next = logits(model, &[*token], expected.prompt.len() + index, adapter);
    }
}

/// The eight of one base.
const EIGHT: [&str; 8] = [
    "llama32_attention",
    "llama32_linear",
    "llama32_wide",
    "llama32_stabilised",
    "llama32_patterns",
    "llama32_layer",
    "llama32_pattern",
    "llama32_high",
];

#[test]
fn each_adapter_answers_as_with_peft() {
    for name in EIGHT {
        check(BackendKind::Cpu, "llama32", name);
    }
    for base in [
        "llama2", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi", "falcon",
    ] {
        check(BackendKind::Cpu, base, &format!("{base}_linear"));
    }
}

/// Llama's rows are reordered there, Phi's and Falcon's queries, keys and values are one matrix.
#[test]
fn on_gguf_bases_too() {
    for name in EIGHT {
        check(BackendKind::Cpu, "llama32.gguf", name);
    }
    for base in ["qwen2", "gemma", "phi", "falcon"] {
        let file = format!("{base}.gguf");
        check(BackendKind::Cpu, &file, &format!("{base}_linear"));
    }
}

#[test]
fn on_candle_too() {
    for name in EIGHT {
        check(BackendKind::Candle, "llama32", name);
    }
    for base in ["llama2", "mistral", "qwen2"] {
        check(BackendKind::Candle, base, &format!("{base}_linear"));
    }
}

#[test]
fn merged_into_the_base_they_answer_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    for (base, name) in [
        ("llama32", "llama32_linear"),
        ("llama32", "llama32_stabilised"),
        ("falcon", "falcon_linear"),
        ("gemma2", "gemma2_linear"),
    ] {
        let (base_path, out) = (super::folder().join(base), folder.path().join(name));
        let changed = crate::merge_adapter(&base_path, &files(name), &out);
        assert!(changed.expect("a base of plain numbers") > 3);
        let mut model = load_path(&out, KvDtype::F32);
        check_with(&mut *model, name, &format!("{name} merged"), None);
        let again = crate::merge_adapter(&base_path, &files(name), &out);
        assert!(
            again
                .expect_err("it is there")
                .to_string()
                .contains("there already")
        );
    }
    let gguf = super::folder().join("llama32.gguf");
    let error = crate::merge_adapter(&gguf, &files("llama32_linear"), &folder.path().join("x"));
    assert!(error.expect_err("a GGUF base").to_string().contains("GGUF"));
}

/// Blocks of each of ten sequences in one memory.
fn own_blocks(sequence: usize) -> Vec<u32> {
    (0..4).map(|block| (block * 10 + sequence) as u32).collect()
}

fn check_together(backend: BackendKind) {
    let mut model = load_tiny(backend, "llama32", KvDtype::F32);
    model.reserve_kv(40);
    let loaded: Vec<_> = EIGHT.map(|name| load_adapter(&*model, name)).into();
    let expectations: Vec<_> = EIGHT.map(expected).into();
    // The base alone among them, between the others and at the end.
    let mut order: Vec<Option<usize>> = (0..8).map(Some).collect();
    order.insert(3, None);
    order.push(None);
    let plain = expectations[0].prompt.clone();
    let prompt = |who: Option<usize>| who.map_or(&plain, |index| &expectations[index].prompt);
    let adapter = |who: Option<usize>| who.map(|index| &loaded[index]);
    let alone: Vec<Vec<f32>> = order
        .iter()
        .enumerate()
        .map(|(sequence, who)| {
            let (mut batch, mut logits) = (StepBatch::default(), Vec::new());
            batch.push(prompt(*who), 0, &own_blocks(sequence), true, adapter(*who));
            model.forward(&batch, &mut logits);
            logits
        })
        .collect();
    let (mut batch, mut together) = (StepBatch::default(), Vec::new());
    for (sequence, who) in order.iter().enumerate() {
        batch.push(prompt(*who), 0, &own_blocks(sequence), true, adapter(*who));
    }
    model.forward(&batch, &mut together);
    let vocabulary = model.vocabulary();
    for ((who, row), alone) in order.iter().zip(together.chunks(vocabulary)).zip(&alone) {
        let name = who.map_or("the base", |index| EIGHT[index]);
        assert_eq!(row, alone, "{name}: the same bits");
        if let Some(index) = who {
            let last = expectations[*index]
                .logits
                .last()
                .expect("the last position");
            assert!(difference(row, last) <= 1e-4, "{name}");
        }
    }
    // And the answers, a token each at a time.
    let mut next: Vec<u32> = together.chunks(vocabulary).map(argmax).collect();
    for step in 0..expectations[0].greedy.len() {
        batch.clear();
        for (sequence, who) in order.iter().enumerate() {
            if let Some(index) = who {
                assert_eq!(next[sequence], expectations[*index].greedy[step]);
            }
            let (token, position) = ([next[sequence]], prompt(*who).len() + step);
            let blocks = own_blocks(sequence);
            batch.push(&token, position, &blocks, true, adapter(*who));
        }
        model.forward(&batch, &mut together);
        next = together.chunks(vocabulary).map(argmax).collect();
    }
}

#[test]
fn eight_adapters_and_the_base_in_one_batch_say_what_each_says_alone() {
    check_together(BackendKind::Cpu);
}

#[test]
fn in_one_batch_on_candle_too() {
    check_together(BackendKind::Candle);
}

#[test]
fn what_an_adapter_is_is_told_and_limits_hold() {
    let targets = |base: &str| {
        let files = ModelFiles::open(&folder().join(base)).expect("a fixture");
        super::super::targets(&files).expect("a decoder").0
    };
    let check = |name: &str, base: &str, limits: AdapterLimits| {
        let (files, targets) = (files(name), targets(base));
        let tensors = crate::adapter::tensors::Tensors::open(&files, &targets);
        tensors
            .and_then(|tensors| tensors.check(limits))
            .map_err(|error| error.to_string())
    };
    let summary = check("llama32_patterns", "llama32", LIMITS).expect("a good one");
    assert_eq!(summary.rank, 5);
    assert_eq!(summary.targets, ["k_proj", "o_proj", "q_proj", "v_proj"]);
    let low = AdapterLimits {
        max_rank: 8,
        ..LIMITS
    };
    let error = check("llama32_wide", "llama32", low).expect_err("rank 16");
    assert!(
        error.contains("rank 16") && error.contains("limit of 8"),
        "{error}"
    );
    let error = check("llama32_linear", "mistral", LIMITS).expect_err("another base");
    assert!(error.contains("has shape"), "{error}");
    let error = check("falcon_linear", "llama32", LIMITS).expect_err("other modules");
    assert!(error.contains("belongs to no module"), "{error}");
}
