//! Files nobody should trust: cut, changed byte by byte, and with configurations that claim anything.

use super::*;
use crate::batch::StepBatch;
use crate::config::BackendKind;
use crate::model::{self, LoadOptions};
use ::safetensors::tensor::{Dtype, TensorView};
use kernels::{KvDtype, Pool};
use serde_json::{Value, json};

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/parity/decoders")
}

/// A folder of this test alone, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("weights-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder for the test");
        Scratch(path)
    }

    /// A copy of a fixture's folder.
    fn copy(name: &str, fixture: &str) -> Scratch {
        let scratch = Scratch::new(name);
        for entry in std::fs::read_dir(fixtures().join(fixture)).expect("a fixture") {
            let entry = entry.expect("a readable folder");
            std::fs::copy(entry.path(), scratch.0.join(entry.file_name())).expect("room");
        }
        scratch
    }

    fn write(&self, file: &str, bytes: impl AsRef<[u8]>) {
        let path = self.0.join(file);
        // A file written over is flushed to disk by some systems; a new one is not.
        let _ = std::fs::remove_file(&path);
        std::fs::write(path, bytes).expect("room");
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What there is to say against the model at `path`; `None` when it loads and runs.
fn fault(path: &Path) -> Option<String> {
    let files = match ModelFiles::open(path) {
        Ok(files) => files,
        Err(error) => return Some(error.to_string()),
    };
    let options = LoadOptions {
        backend: BackendKind::Cpu,
        max_positions: 16,
        kv_dtype: KvDtype::F32,
    };
    let mut model = match model::load(&files, options, Pool::new(1)) {
        Ok(model) => model,
        Err(error) => return Some(error.to_string()),
    };
    model.reserve_kv(1);
    let (mut batch, mut logits) = (StepBatch::default(), Vec::new());
    let last = model.vocabulary() as u32 - 1;
    batch.push(&[0, last, last / 2], 0, &[0], true, None);
    model.forward(&batch, &mut logits);
    assert_eq!(logits.len(), model.vocabulary());
    None
}

#[test]
fn a_safetensors_file_cut_anywhere_or_changed_in_its_header_is_an_error_or_a_model_never_a_panic() {
    let scratch = Scratch::copy("safetensors", "awq");
    let path = fixtures().join("awq/model.safetensors");
    let whole = std::fs::read(path).expect("a fixture");
    let header = u64::from_le_bytes(whole[..8].try_into().expect("8 bytes")) as usize + 8;
    for end in (0..header).step_by(7).chain([header, whole.len() - 1]) {
        scratch.write("model.safetensors", &whole[..end]);
        assert!(fault(&scratch.0).is_some(), "cut at {end}");
    }
    for at in (0..8).chain((8..header).step_by(9)) {
        for value in [0, b'0', b'9', b'"', 0xff] {
            let mut broken = whole.clone();
            broken[at] = value;
            scratch.write("model.safetensors", &broken);
            let _ = fault(&scratch.0);
        }
    }
}

#[test]
fn a_gguf_file_changed_in_its_header_is_an_error_or_a_model_never_a_panic() {
    let scratch = Scratch::new("gguf");
    let whole = std::fs::read(fixtures().join("quant_q4_0.gguf")).expect("a fixture");
    let path = scratch.0.join("model.gguf");
    // Keys and tensor descriptions; what follows is numbers of which any is valid.
    let header = whole
        .windows(14)
        .rposition(|w| w == b"output_norm.we")
        .expect("a name")
        + 60;
    for at in (0..header).step_by(3) {
        for value in [0, 1, 0x20, 0x7f, 0xff] {
            let mut broken = whole.clone();
            broken[at] = value;
            scratch.write("model.gguf", &broken);
            let _ = fault(&path);
        }
    }
}

#[test]
fn a_configuration_may_claim_anything() {
    let claims = [
        json!(null),
        json!(0),
        json!(1),
        json!(-1),
        json!(3),
        json!(7.5),
        json!(1u64 << 20),
        json!(1u64 << 40),
        json!(u64::MAX),
        json!(1e300),
        json!(true),
        json!(false),
        json!("linear"),
        json!([]),
        json!({}),
    ];
    for fixture in ["llama32", "qwen2_window", "gemma2", "phi", "falcon", "awq"] {
        let scratch = Scratch::copy(fixture, fixture);
        let text = std::fs::read(scratch.0.join("config.json")).expect("a fixture");
        let config: Value = serde_json::from_slice(&text).expect("valid JSON");
        assert_eq!(fault(&scratch.0), None, "{fixture}");
        for key in config.as_object().expect("an object").keys() {
            for claim in &claims {
                let mut changed = config.clone();
                changed[key] = claim.clone();
                scratch.write("config.json", changed.to_string());
                let _ = fault(&scratch.0);
            }
            for inner in config[key]
                .as_object()
                .iter()
                .flat_map(|object| object.keys())
            {
                for claim in &claims {
                    let mut changed = config.clone();
                    changed[key][inner] = claim.clone();
                    scratch.write("config.json", changed.to_string());
                    let _ = fault(&scratch.0);
                }
            }
        }
    }
}

#[test]
fn faults_name_what_is_wrong() {
    let scratch = Scratch::copy("named", "falcon");
    let text = std::fs::read(scratch.0.join("config.json")).expect("a fixture");
    let config: Value = serde_json::from_slice(&text).expect("valid JSON");
    let check = |key: &str, value: Value, expected: &str| {
        let mut changed = config.clone();
        changed[key] = value;
        scratch.write("config.json", changed.to_string());
        let fault = fault(&scratch.0).unwrap_or_default();
        assert!(fault.contains(expected), "{key}: {fault}");
    };
    check(
        "alibi",
        json!(true),
        "`alibi` = true of falcon is not supported",
    );
    check(
        "model_type",
        json!("mamba"),
        "architecture `mamba` is not supported",
    );
    check(
        "rope_parameters",
        json!({"rope_type": "yarn"}),
        "rope scaling `yarn`",
    );
    check("hidden_size", json!(null), "key `hidden_size` is missing");
    check("num_attention_heads", json!(0), "key `num_attention_heads`");
    check("ffn_hidden_size", json!(64), "expected [64, 48]");
}

#[test]
fn an_index_may_not_name_files_elsewhere() {
    let scratch = Scratch::copy("index", "llama_linear");
    for name in ["../model.safetensors", "/etc/passwd", ".hidden", "", "a\\b"] {
        let index = json!({"weight_map": {"lm_head.weight": name}});
        scratch.write("model.safetensors.index.json", index.to_string());
        let fault = fault(&scratch.0).unwrap_or_default();
        assert!(fault.contains("is no name of a shard"), "{name}: {fault}");
    }
}

#[test]
fn awq_parts_that_do_not_fit_are_refused_by_their_shapes() {
    let zeros = |count: usize| vec![0u8; count];
    let view = |dtype, shape: &'static [usize], bytes: &'static [u8]| safetensors::View {
        dtype,
        shape,
        bytes,
    };
    let bytes: &'static [u8] = zeros(4 * 64).leak();
    // 64 inputs, 8 columns, groups of 32: each change breaks one relation.
    let check = |weights: &'static [usize], zeros: &'static [usize], scales: &'static [usize]| {
        let weights = view(Dtype::I32, weights, bytes);
        let zeros = view(Dtype::I32, zeros, &bytes[..8]);
        let scales = view(Dtype::F16, scales, &bytes[..32]);
        awq::Packed::new(&weights, &zeros, &scales).is_ok()
    };
    assert!(check(&[64, 1], &[2, 1], &[2, 8]));
    assert!(!check(&[64, 2], &[2, 1], &[2, 8]));
    assert!(!check(&[64, 1], &[1, 1], &[2, 8]));
    assert!(!check(&[64, 1], &[2, 1], &[2, 12]));
    assert!(!check(&[48, 1], &[2, 1], &[2, 8]));
    assert!(!check(&[64], &[2, 1], &[2, 8]));
    assert!(!check(&[64, 1], &[0, 1], &[0, 8]));
    // Held together by the crate too: a header cannot claim more bytes than there are.
    assert!(TensorView::new(Dtype::I32, vec![64, 2], bytes).is_err());
}
