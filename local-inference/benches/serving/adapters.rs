//! Random adapters of rank 8 over all seven projections of a Llama, in both servers' forms: times do not depend on values.

use half::f16;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use std::io::Write;
use std::path::{Path, PathBuf};

pub const RANK: usize = 8;
/// Products of `A` and `B` stay far below the base's own: answers remain text.
const SIZE: f32 = 0.02;

/// SmolLM2-135M's layers; other bases are measured without adapters.
const LAYERS: usize = 30;
/// Name in PEFT's files, name in GGUF, inputs, outputs.
const MODULES: [(&str, &str, usize, usize); 7] = [
    ("self_attn.q_proj", "attn_q", 576, 576),
    ("self_attn.k_proj", "attn_k", 576, 192),
    ("self_attn.v_proj", "attn_v", 576, 192),
    ("self_attn.o_proj", "attn_output", 576, 576),
    ("mlp.gate_proj", "ffn_gate", 576, 1536),
    ("mlp.up_proj", "ffn_up", 576, 1536),
    ("mlp.down_proj", "ffn_down", 1536, 576),
];

/// One adapter's files.
pub struct Adapter {
    pub config: PathBuf,
    pub weights: PathBuf,
    pub gguf: PathBuf,
}

/// Matrix by matrix: PEFT's name, GGUF's name, shape, and values.
fn matrices(seed: u64) -> Vec<(String, String, [usize; 2], Vec<f16>)> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        f16::from_f32(SIZE * ((state >> 40) as f32 / (1 << 23) as f32 - 1.0))
    };
    let mut all = Vec::new();
    for layer in 0..LAYERS {
        for (peft, gguf, k, columns) in MODULES {
            for (half, shape) in [("A", [RANK, k]), ("B", [columns, RANK])] {
                let lower = half.to_ascii_lowercase();
                all.push((
                    format!("base_model.model.model.layers.{layer}.{peft}.lora_{half}.weight"),
                    format!("blk.{layer}.{gguf}.weight.lora_{lower}"),
                    shape,
                    (0..shape[0] * shape[1]).map(|_| random()).collect(),
                ));
            }
        }
    }
    all
}

/// Writes adapter number `index` into `folder`.
pub fn write(folder: &Path, index: usize) -> std::io::Result<Adapter> {
    let matrices = matrices(index as u64 + 1);
    let adapter = Adapter {
        config: folder.join(format!("{index}.json")),
        weights: folder.join(format!("{index}.safetensors")),
        gguf: folder.join(format!("{index}.gguf")),
    };
    let targets = MODULES.map(|(peft, ..)| peft.rsplit('.').next().unwrap_or(peft));
    let config = serde_json::json!({
        "peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": targets, "bias": "none",
    });
    std::fs::write(&adapter.config, config.to_string())?;
    let bytes: Vec<Vec<u8>> = matrices
        .iter()
        .map(|(.., values)| {
            values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect()
        })
        .collect();
    let views = matrices
        .iter()
        .zip(&bytes)
        .map(|((name, _, shape, _), bytes)| {
            let view = TensorView::new(Dtype::F16, shape.to_vec(), bytes);
            (
                name.as_str(),
                view.expect("bytes as long as the shape says"),
            )
        });
    serialize_to_file(views, None, &adapter.weights).map_err(std::io::Error::other)?;
    write_gguf(&adapter.gguf, &matrices, &bytes)?;
    Ok(adapter)
}

/// GGUF version 3: four keys, the tensors' places, and their bytes at multiples of 32.
fn write_gguf(
    path: &Path,
    matrices: &[(String, String, [usize; 2], Vec<f16>)],
    bytes: &[Vec<u8>],
) -> std::io::Result<()> {
    const TEXT: u32 = 8;
    const FLOAT: u32 = 6;
    const F16: u32 = 1;
    let mut out = Vec::new();
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    out.extend(b"GGUF");
    out.extend(3u32.to_le_bytes());
    out.extend((matrices.len() as u64).to_le_bytes());
    out.extend(4u64.to_le_bytes());
    for (key, value) in [
        ("general.architecture", "llama"),
        ("general.type", "adapter"),
        ("adapter.type", "lora"),
    ] {
        text(&mut out, key);
        out.extend(TEXT.to_le_bytes());
        text(&mut out, value);
    }
    text(&mut out, "adapter.lora.alpha");
    out.extend(FLOAT.to_le_bytes());
    out.extend((RANK as f32).to_le_bytes());
    let mut offset = 0u64;
    for ((_, name, shape, _), bytes) in matrices.iter().zip(bytes) {
        text(&mut out, name);
        out.extend(2u32.to_le_bytes());
        // The fastest dimension first.
        for length in shape.iter().rev() {
            out.extend((*length as u64).to_le_bytes());
        }
        out.extend(F16.to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset += (bytes.len() as u64).next_multiple_of(32);
    }
    out.resize(out.len().next_multiple_of(32), 0);
    for bytes in bytes {
        out.extend(bytes);
        out.resize(out.len().next_multiple_of(32), 0);
    }
    std::fs::File::create(path)?.write_all(&out)
}
