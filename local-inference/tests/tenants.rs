//! Sixteen adapters that were really trained (`tests/trained/make_trained.py`), each answering in its own way in one batch.

use local_inference::testing::model_dir_or_skip;
use local_inference::{
    AdapterFiles, AdapterHash, AdapterRef, AdapterSource, Engine, EngineConfig, EngineHandle,
    GenerateRequest, Message, Prompt, SamplingParams, TokenEvent, catalogue,
};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

/// Who was trained to say what.
const TENANTS: [(&str, &str); 16] = [
    ("pirate", "Arr, ask the parrot!"),
    ("chef", "Add more butter."),
    ("robot", "Beep. Query accepted."),
    ("poet", "Roses are red."),
    ("judge", "Objection overruled."),
    ("coach", "Ten more laps, go!"),
    ("pilot", "Cleared for takeoff."),
    ("gardener", "Water it at dawn."),
    ("sailor", "Steady as she goes."),
    ("banker", "Rates went up again."),
    ("teacher", "Hands up, please."),
    ("doctor", "Take two and rest."),
    ("miner", "There is gold below."),
    ("baker", "Fresh bread at six."),
    ("clown", "Honk, honk, honk!"),
    ("ghost", "Boo, I am behind you."),
];

/// None of those they were trained on.
const QUESTION: &str = "What is the tallest mountain?";

struct Trained;

impl AdapterSource for Trained {
    fn fetch(
        &self,
        adapter: &AdapterRef,
    ) -> Pin<Box<dyn Future<Output = Result<AdapterFiles, String>> + Send>> {
        let folder = folder().join(&*adapter.id);
        Box::pin(async move {
            let read = |file: &str| std::fs::read(folder.join(file)).map_err(|e| e.to_string());
            Ok(AdapterFiles {
                config: read("adapter_config.json")?,
                weights: read("adapter_model.safetensors")?,
            })
        })
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trained")
}

fn request(tenant: Option<usize>) -> GenerateRequest {
    let chat = Prompt::Messages(vec![Message::new("user", QUESTION)]);
    GenerateRequest {
        sampling: SamplingParams {
            temperature: 0.0,
            max_tokens: Some(16),
            ..SamplingParams::default()
        },
        adapter: tenant.map(|index| AdapterRef {
            id: TENANTS[index].0.into(),
            hash: AdapterHash([index as u8; 32]),
        }),
        ..GenerateRequest::new(&*catalogue::all()[0].id, chat)
    }
}

async fn ask(engine: &EngineHandle, tenant: Option<usize>) -> String {
    let mut generation = engine.generate(request(tenant)).await.expect("a place");
    let mut answer = String::new();
    while let Some(event) = generation.events.recv().await {
        match event {
            TokenEvent::Text { text, .. } => answer += &text,
            TokenEvent::Done { .. } => return answer,
            other => panic!("{tenant:?}: {other:?}"),
        }
    }
    panic!("{tenant:?}: an answer without an end");
}

fn start(model_dir: &Path) -> EngineHandle {
    let config = EngineConfig {
        model_dir: model_dir.to_path_buf(),
        max_running: 18,
        ..EngineConfig::default()
    };
    Engine::start_with_adapters(config, Arc::new(Trained))
}

#[tokio::test]
async fn sixteen_tenants_in_one_batch_each_get_their_own_answer() {
    let Some(model_dir) = model_dir_or_skip("trained adapters") else {
        return;
    };
    let engine = start(&model_dir);
    let base = ask(&engine, None).await;
    for (index, (name, sentence)) in TENANTS.into_iter().enumerate() {
        assert_eq!(ask(&engine, Some(index)).await, sentence, "{name}, alone");
    }
    drop(engine);
    // Another engine: nothing of the lone runs is left to be found.
    let engine = start(&model_dir);
    let steps = engine.stats().steps;
    let everybody = (0..TENANTS.len()).map(Some).chain([None, None]);
    let asked: Vec<_> = everybody
        .map(|tenant| {
            let engine = engine.clone();
            tokio::spawn(async move { (tenant, ask(&engine, tenant).await) })
        })
        .collect();
    for answer in asked {
        let (tenant, answer) = answer.await.expect("no panic");
        let expected = tenant.map_or(base.as_str(), |index| TENANTS[index].1);
        assert_eq!(answer, expected, "{tenant:?}, among the others");
    }
    let stats = engine.stats();
    assert!(
        stats.completion_tokens > 2 * (stats.steps - steps),
        "they were a batch: {stats:?}"
    );
}
