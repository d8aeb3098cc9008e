//! The `openai` packages against the local model, on both hosts.

use super::{Language, run::run};
use tests::gateway::model_folder;
use tests::{Config, TestGateway};

async fn openai_local(language: Language) {
    let config = Config::new().set("engine", &format!("model_dir = {:?}", model_folder()));
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
    }
}

#[tokio::test]
async fn the_python_client_of_openai_talks_to_the_local_model() {
    openai_local(Language::Python).await;
}

#[tokio::test]
async fn the_node_client_of_openai_talks_to_the_local_model() {
    openai_local(Language::Node).await;
}
