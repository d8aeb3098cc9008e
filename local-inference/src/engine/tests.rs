//! Models that come and go: room, idleness, failures.

use super::*;
use crate::request::{Generation, Message, Prompt, TokenEvent};
use crate::testing::{saying, scripted_load};
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

/// Longer than anything here takes; reached only by a bug.
const PATIENCE: Duration = Duration::from_secs(60);

fn entry(id: &'static str, mib: u64) -> &'static CatalogueEntry {
    Box::leak(Box::new(CatalogueEntry {
        id: id.into(),
        bytes: Some(mib << 20),
        context: 512,
        ..catalogue::all()[0].clone()
    }))
}

fn engine(config: EngineConfig, entries: &[&'static CatalogueEntry], load: Load) -> EngineHandle {
    let slots = entries.iter().map(|entry| ModelSlot::new(entry)).collect();
    EngineHandle::new(config, slots, load, None)
}

async fn start(engine: &EngineHandle, model: &str) -> Result<Generation, EngineError> {
    let chat = Prompt::Messages(vec![Message::new("user", "hi")]);
    engine.generate(GenerateRequest::new(model, chat)).await
}

async fn ask(engine: &EngineHandle, model: &str) -> Result<String, EngineError> {
    let mut generation = start(engine, model).await?;
    let mut answer = String::new();
    while let Some(event) = generation.events.recv().await {
        match event {
            TokenEvent::Text { text, .. } => answer += &text,
            TokenEvent::Failed(error) => return Err(error),
            _ => {}
        }
    }
    Ok(answer)
}

async fn until(is_so: impl Fn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    });
    waited.await.expect("it comes to be");
}

fn loaded(engine: &EngineHandle) -> Vec<String> {
    let models = engine.models().into_iter();
    models
        .filter(|model| model.is_loaded)
        .map(|model| model.entry.id.to_string())
        .collect()
}

fn budget(memory_budget_mib: usize) -> EngineConfig {
    EngineConfig {
        memory_budget_mib,
        kv_cache_mib: 1,
        ..EngineConfig::default()
    }
}

#[tokio::test]
async fn the_model_unused_for_longest_makes_room() {
    let entries = [entry("a", 40), entry("b", 40), entry("c", 40)];
    let engine = engine(budget(100), &entries, scripted_load(saying("ok")));
    for model in ["a", "b", "a"] {
        assert_eq!(ask(&engine, model).await.as_deref(), Ok("ok"));
    }
    until(|| engine.stats().admitted == 0).await;
    assert_eq!(loaded(&engine), ["a", "b"]);
    assert_eq!(ask(&engine, "c").await.as_deref(), Ok("ok"));
    assert_eq!(loaded(&engine), ["a", "c"]);
    let stats = engine.model_stats();
    let counts: Vec<(u64, u64)> = stats.iter().map(|(_, s)| (s.loads, s.unloads)).collect();
    assert_eq!(counts, [(1, 0), (1, 1), (1, 0)]);
    assert!(engine.stats().memory_bytes <= 100 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_at_work_is_not_unloaded_for_another() {
    let (leave, allowed) = sync_channel::<()>(0);
    let script = Box::new(move |_: &[u32]| {
        let _ = allowed.recv();
        u32::from(b'x')
    });
    let entries = [entry("a", 60), entry("b", 60)];
    let engine = engine(budget(100), &entries, scripted_load(script));
    let at_work = start(&engine, "a").await.expect("it loads");
    assert_eq!(ask(&engine, "b").await, Err(EngineError::Busy));
    assert_eq!(loaded(&engine), ["a"]);
    drop((at_work, leave));
    until(|| engine.stats().admitted == 0).await;
    assert!(ask(&engine, "b").await.is_ok());
    assert_eq!(loaded(&engine), ["b"]);
}

#[tokio::test]
async fn a_model_larger_than_the_budget_says_so() {
    let entries = [entry("large", 200)];
    let engine = engine(budget(100), &entries, scripted_load(saying("ok")));
    let Err(EngineError::Load(text)) = ask(&engine, "large").await else {
        panic!("it does not fit");
    };
    assert!(
        text.contains("201 MiB") && text.contains("`memory_budget_mib` is 100"),
        "{text}"
    );
    assert_eq!(engine.stats().memory_bytes, 0);
}

#[tokio::test]
async fn an_idle_model_is_unloaded_and_comes_back() {
    let config = EngineConfig {
        idle_unload_s: 1,
        ..budget(0)
    };
    let engine = engine(config, &[entry("a", 1)], scripted_load(saying("ok")));
    assert_eq!(ask(&engine, "a").await.as_deref(), Ok("ok"));
    until(|| engine.stats().unloads == 1).await;
    assert_eq!(engine.stats().memory_bytes, 0);
    assert!(loaded(&engine).is_empty());
    assert_eq!(ask(&engine, "a").await.as_deref(), Ok("ok"));
    assert_eq!(engine.stats().loads, 2);
}

#[tokio::test]
async fn preloaded_models_are_there_before_anyone_asks() {
    let config = EngineConfig {
        preload: vec!["B".to_owned(), "nobody".to_owned()],
        ..budget(0)
    };
    let entries = [entry("a", 1), entry("b", 1)];
    let engine = engine(config, &entries, scripted_load(saying("ok")));
    engine.preload();
    until(|| loaded(&engine) == ["b"]).await;
    assert_eq!(engine.stats().loads, 1);
}

#[tokio::test]
async fn a_flood_of_requests_is_no_flood_of_failing_loads() {
    let tries = Arc::new(AtomicUsize::new(0));
    let load: Load = {
        let tries = Arc::clone(&tries);
        Arc::new(move |_| {
            tries.fetch_add(1, Ordering::SeqCst);
            Err(EngineError::Load("no good".to_owned()))
        })
    };
    let engine = engine(budget(0), &[entry("a", 1)], load);
    for _ in 0..1000 {
        let error = ask(&engine, "a").await;
        assert_eq!(error, Err(EngineError::Load("no good".to_owned())));
    }
    let tries = tries.load(Ordering::SeqCst);
    assert!((1..100).contains(&tries), "{tries} tries");
    assert_eq!(engine.stats().load_failures, tries as u64);
    let failure = engine.models()[0].failure.clone();
    assert_eq!(failure, Some(EngineError::Load("no good".to_owned())));
    assert_eq!(engine.stats().admitted, 0);
}
