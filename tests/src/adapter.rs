//! Adapters for the bundled model as PEFT writes them, and the calls that bring them to the gateway.

use crate::gateway::model_folder;
use crate::{Answer, Config, Request, TestGateway};
use serde_json::{Value, json};

pub const MODEL: &str = "@cf/huggingfacetb/smollm2-135m-instruct";
pub const ENCODER: &str = "@cf/sentence-transformers/all-minilm-l6-v2";
pub const AI: &str = "/client/v4/accounts/default/ai";
/// Of the bundled model.
const LAYERS: usize = 30;
/// Inputs and outputs of its `q_proj`.
pub const WIDTH: usize = 576;

pub const CONFIG: &str = "adapter_config.json";
pub const WEIGHTS: &str = "adapter_model.safetensors";

/// The bundled model, an encoder, and lines of `[finetunes]`.
pub fn config(limits: &str) -> Config {
    let config = Config::new()
        .set("engine", &format!("model_dir = {:?}", model_folder()))
        .set("engine", &format!("models = [{MODEL:?}, {ENCODER:?}]"))
        .gateway("other", "default", "authentication = false");
    match limits {
        "" => config,
        lines => config.set("finetunes", lines),
    }
}

/// As PEFT writes it.
pub fn adapter_config(rank: usize) -> Vec<u8> {
    json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "r": rank, "lora_alpha": 2 * rank, "target_modules": ["q_proj"], "bias": "none", "lora_dropout": 0.05,
        "fan_in_fan_out": false, "inference_mode": true, "modules_to_save": null, "use_rslora": false,
    })
    .to_string()
    .into_bytes()
}

/// Adapts `q_proj` of every layer, by numbers that follow from `seed`.
pub fn adapter_weights(rank: usize, width: usize, seed: u32, size: f32) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data: Vec<u8> = Vec::new();
    let mut state = seed;
    let mut number = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 / (1 << 24) as f32 - 0.5) * size
    };
    for layer in 0..LAYERS {
        for (half, shape) in [("A", [rank, width]), ("B", [WIDTH, rank])] {
            let begin = data.len();
            for _ in 0..shape[0] * shape[1] {
                data.extend_from_slice(&number().to_le_bytes());
            }
            let name = format!(
                "base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{half}.weight"
            );
            let tensor =
                json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()]});
            header.insert(name, tensor);
        }
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(&data);
    file
}

/// Of rank 4.
pub fn good_weights() -> Vec<u8> {
    adapter_weights(4, WIDTH, 1, 1.0)
}

pub const BOUNDARY: &str = "----formdata-undici-012345678901";

/// A body of parts: name, what the part calls its own file, bytes.
pub fn multipart(parts: &[(&str, Option<&str>, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, file, bytes) in parts {
        let mut head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"");
        if let Some(file) = file {
            head += &format!("; filename=\"{file}\"\r\nContent-Type: application/octet-stream");
        }
        body.extend_from_slice((head + "\r\n\r\n").as_bytes());
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    body
}

pub fn upload_to(path: &str, parts: &[(&str, Option<&str>, &[u8])]) -> Request {
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    Request::post_bytes(path, &kind, multipart(parts))
}

/// As the original's command line sends a file: the bytes first, and the part's own name says nothing.
pub fn upload(id: &str, file_name: &str, bytes: &[u8]) -> Request {
    let parts: &[(&str, Option<&str>, &[u8])] = &[
        ("file", Some("blob"), bytes),
        ("file_name", None, file_name.as_bytes()),
    ];
    upload_to(&format!("{AI}/finetunes/{id}/finetune-assets"), parts)
}

/// A fine-tune to be made, as the original's command line asks for it.
pub fn new(name: &str) -> Value {
    json!({"model": MODEL, "name": name, "description": ""})
}

pub async fn create(gateway: &TestGateway, body: &Value) -> Value {
    let answer = gateway
        .send(&Request::post(&format!("{AI}/finetunes"), body))
        .await;
    let made = answer.expect_status(200).json();
    assert_eq!(
        (&made["success"], &made["errors"], &made["messages"]),
        (&json!(true), &json!([]), &json!([]))
    );
    made["result"].clone()
}

/// A fine-tune with both files.
pub async fn complete(gateway: &TestGateway, name: &str, weights: &[u8]) -> String {
    let made = create(gateway, &new(name)).await;
    let id = made["id"].as_str().expect("an id").to_owned();
    for (file_name, bytes) in [(CONFIG, &adapter_config(4)[..]), (WEIGHTS, weights)] {
        let answer = gateway.send(&upload(&id, file_name, bytes)).await;
        assert_eq!(answer.expect_status(200).json()["success"], true);
    }
    id
}

pub async fn get(gateway: &TestGateway, path: &str) -> Value {
    let answer = gateway.send(&Request::get(path)).await;
    answer.expect_status(200).json()["result"].clone()
}

pub fn names(list: &Value) -> Vec<&str> {
    let rows = list.as_array().expect("a flat list").iter();
    rows.filter_map(|row| row["name"].as_str()).collect()
}

/// Status, code and words of a refusal.
#[track_caller]
pub fn assert_refused(answer: &Answer, status: u16, code: u64, words: &str) {
    let body = answer.json();
    let error = &body["errors"][0];
    assert_eq!(
        (answer.status, &error["code"]),
        (status, &json!(code)),
        "{body}"
    );
    assert_eq!(body["success"], false);
    let message = error["message"].as_str().unwrap_or_default();
    assert!(message.contains(words), "no `{words}` in `{message}`");
}
