//! The `openai` packages against the local models, on both hosts.

use super::{Language, Report, run::run};
use serde_json::Value;
use tests::gateway::model_folder;
use tests::{Config, TestGateway};

async fn openai_local(language: Language) {
    let models = "models = [\"@cf/huggingfacetb/smollm2-135m-instruct\", \"@cf/sentence-transformers/all-minilm-l6-v2\"]";
    let config = Config::new().set("engine", &format!("model_dir = {:?}", model_folder()));
    let config = config.set("engine", models);
    let gateway = TestGateway::start(config).await;
    let bases = [
        "client/v4/accounts/default/ai/v1",
        "v1/default/default/workers-ai/v1",
    ]
    .map(|path| format!("http://{}/{path}", gateway.server));
    let Some(report) = run(language, "openai_local", &bases).await else {
        return;
    };
    let text = report.case("chat_0")["text"].clone();
    assert!(text.as_str().is_some_and(|text| !text.trim().is_empty()));
    for host in 0..bases.len() {
        let whole = report.case(&format!("chat_{host}"));
        assert_eq!(whole["text"], text, "the same words at temperature 0");
        assert!(
            whole["finish"] == "stop" || whole["finish"] == "length",
            "{whole}"
        );
        assert!(
            whole["tokens"]
                .as_u64()
                .is_some_and(|tokens| (1..=12).contains(&tokens)),
            "{whole}"
        );
        let streamed = report.case(&format!("stream_{host}"));
        let pieces = streamed["pieces"].as_array().expect("pieces");
        let joined: String = pieces.iter().filter_map(|piece| piece.as_str()).collect();
        assert!(streamed["raised"].is_null(), "{streamed}");
        assert_eq!(
            joined,
            text.as_str().expect("a text"),
            "streamed, in {} pieces",
            pieces.len()
        );
        let unknown = format!("unknown_{host}");
        report.refused(&unknown, 400, "BadRequestError", "no-such-model");
        assert_tools_and_json(&report, host);
        assert_responses(&report, host);
        assert_vectors(&report, host);
    }
}

#[track_caller]
fn assert_person(value: &Value) {
    let age = value["age"].as_u64();
    assert!(
        value["name"].is_string() && age.is_some_and(|age| age <= 130),
        "{value}"
    );
}

#[track_caller]
fn assert_tools_and_json(report: &Report, host: usize) {
    let whole = report.case(&format!("tool_{host}"));
    assert_eq!(
        (&whole["finish"], &whole["name"]),
        (&"tool_calls".into(), &"remember".into()),
        "{whole}"
    );
    assert_eq!(whole["has_id"], true);
    assert_person(&whole["arguments"]);
    let streamed = report.case(&format!("tool_stream_{host}"));
    for field in ["finish", "name", "arguments"] {
        assert_eq!(streamed[field], whole[field], "{streamed}");
    }
    assert_person(&report.case(&format!("by_schema_{host}"))["value"]);
}

#[track_caller]
fn assert_responses(report: &Report, host: usize) {
    let whole = report.case(&format!("respond_{host}"));
    let streamed = report.case(&format!("respond_stream_{host}"));
    assert!(
        whole["text"].as_str().is_some_and(|text| !text.is_empty()),
        "{whole}"
    );
    assert_eq!(streamed["text"], whole["text"]);
    let last = streamed["last"].as_str();
    assert!(
        matches!(last, Some("response.completed" | "response.incomplete")),
        "{streamed}"
    );
}

#[track_caller]
fn assert_vectors(report: &Report, host: usize) {
    if !model_folder().join("all-MiniLM-L6-v2").exists() {
        println!("SKIPPED: vectors: the folder all-MiniLM-L6-v2 is not in the model directory");
        return;
    }
    // The clients ask for base64 unless told otherwise.
    let usual = report.case(&format!("embed_{host}"));
    let floats = report.case(&format!("embed_float_{host}"));
    assert_eq!(
        usual["vectors"].as_array().map(Vec::len),
        Some(2),
        "{usual}"
    );
    assert_eq!(usual["vectors"], floats["vectors"]);
}

#[tokio::test]
async fn the_python_client_of_openai_talks_to_the_local_model() {
    openai_local(Language::Python).await;
}

#[tokio::test]
async fn the_node_client_of_openai_talks_to_the_local_model() {
    openai_local(Language::Node).await;
}
