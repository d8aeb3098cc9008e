//! Requests for different adapters beside each other: who gets which, who waits for whom, and what is kept.

use super::*;
use local_inference::testing::scripted_with_adapters;
use local_inference::{AdapterFiles, AdapterHash, AdapterRef, AdapterSource};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::Semaphore;

/// Every adapter says its content. What its id begins with says how it is to be had: `slow` waits for the gate, `gone` is not
/// there until it is found, `empty` does not load.
#[derive(Default)]
struct Shelf {
    /// Of each file.
    bytes: usize,
    gate: Option<Arc<Semaphore>>,
    is_found: AtomicBool,
    fetches: AtomicUsize,
    /// Fetches dropped before their end.
    dropped: Arc<AtomicUsize>,
}

struct Underway {
    dropped: Arc<AtomicUsize>,
    is_done: bool,
}

impl Underway {
    fn end(&mut self) {
        self.is_done = true;
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.dropped
            .fetch_add(usize::from(!self.is_done), Ordering::SeqCst);
    }
}

impl AdapterSource for Shelf {
    fn fetch(
        &self,
        adapter: &AdapterRef,
    ) -> Pin<Box<dyn Future<Output = Result<AdapterFiles, String>> + Send>> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        let mut underway = Underway {
            dropped: Arc::clone(&self.dropped),
            is_done: false,
        };
        let is_slow = adapter.id.starts_with("slow");
        let gate = self.gate.clone().filter(|_| is_slow);
        let is_gone = adapter.id.starts_with("gone") && !self.is_found.load(Ordering::SeqCst);
        let mut weights = content(adapter.hash).into_bytes();
        weights.resize(self.bytes.max(weights.len()), 0);
        if adapter.id.starts_with("empty") {
            weights.clear();
        }
        Box::pin(async move {
            if let Some(gate) = gate {
                gate.acquire().await.expect("it stays").forget();
            }
            underway.end();
            let config = Vec::new();
            match is_gone {
                true => Err("its files are gone".to_owned()),
                false => Ok(AdapterFiles { config, weights }),
            }
        })
    }
}

/// What an adapter of this hash says.
fn content(hash: AdapterHash) -> String {
    let letters = hash.0.iter().take_while(|byte| **byte != 0);
    letters.map(|byte| char::from(*byte)).collect()
}

/// With this id and this content.
fn replaced(id: &str, content: &str) -> AdapterRef {
    let mut hash = [0; 32];
    hash[..content.len()].copy_from_slice(content.as_bytes());
    AdapterRef {
        id: id.into(),
        hash: AdapterHash(hash),
    }
}

fn with(adapter: &str, text: &str) -> GenerateRequest {
    with_ref(replaced(adapter, adapter), text)
}

fn with_ref(adapter: AdapterRef, text: &str) -> GenerateRequest {
    GenerateRequest {
        adapter: Some(adapter),
        ..request(text)
    }
}

fn slow_shelf() -> (Arc<Shelf>, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let shelf = Shelf {
        gate: Some(Arc::clone(&gate)),
        ..Shelf::default()
    };
    (Arc::new(shelf), gate)
}

fn fetches(shelf: &Shelf) -> usize {
    shelf.fetches.load(Ordering::SeqCst)
}

async fn says(engine: &EngineHandle, request: GenerateRequest) -> String {
    answer(engine, request).await.0
}

fn failed(id: &str, reason: &str) -> EngineError {
    EngineError::Adapter {
        id: id.to_owned(),
        reason: reason.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_in_a_batch_answers_in_its_adapters_way() {
    let (script, told, leave) = gated();
    let shelf = Arc::new(Shelf::default());
    let engine = scripted_with_adapters(limited(16, 0), script, shelf.clone());
    // The first step is held until all others have come.
    let mut base = request("b");
    base.sampling.max_tokens = Some(2);
    let base = engine.generate(base).await.expect("a place");
    told.recv_timeout(PATIENCE).expect("its first token");
    let mut asked = Vec::new();
    for place in 0..12 {
        let name = ["one", "two", "three"][place % 3].repeat(5);
        let generation = engine.generate(with(&name, "hi")).await.expect("a place");
        asked.push((name, generation));
    }
    until(&engine, |stats| stats.adapter_loads == 3).await;
    drop(leave);
    for (name, generation) in asked {
        assert_eq!(read(generation).await.0, name);
    }
    assert_eq!(read(base).await.0, "xx");
    let stats = engine.stats();
    assert_eq!(fetches(&shelf), 3, "each is fetched once for all");
    assert_eq!((stats.adapters, stats.adapter_failures), (3, 0));
    assert!(stats.adapter_wait_micros > 0);
    // 4 answers of 15, 15 and 25 tokens, one after the other, would be 232.
    assert!(stats.steps < 60, "{} steps", stats.steps);
}

#[tokio::test]
async fn a_slow_fetch_holds_nobody_else() {
    let (shelf, gate) = slow_shelf();
    let engine = scripted_with_adapters(limited(1, 8), saying("base"), shelf);
    let slow = engine.generate(with("slow", "a")).await.expect("a place");
    // More than are let in before one that is ready but passed over.
    for _ in 0..20 {
        assert_eq!(says(&engine, request("b")).await, "base");
        assert_eq!(says(&engine, with("quick", "c")).await, "quick");
    }
    until(&engine, |stats| stats.admitted == 1).await;
    let stats = engine.stats();
    assert_eq!((stats.adapters, stats.waiting), (1, 1));
    assert_eq!((stats.adapter_loads, stats.adapter_hits), (1, 19));
    gate.add_permits(1);
    assert_eq!(read(slow).await.0, "slow");
}

#[tokio::test]
async fn a_failure_reaches_those_who_wait_for_it_and_backs_off() {
    let shelf = Arc::new(Shelf::default());
    let engine = scripted_with_adapters(limited(4, 4), saying("base"), shelf.clone());
    let error = failed("gone", "its files are gone");
    let first = engine.generate(with("gone", "a")).await.expect("a place");
    let other = engine.generate(with("other", "b")).await.expect("a place");
    assert_eq!(
        read(first).await,
        (String::new(), Some(TokenEvent::Failed(error.clone())))
    );
    assert_eq!(read(other).await.0, "other");
    // At once, and nobody is asked for it.
    for _ in 0..100 {
        let again = engine.generate(with("gone", "a")).await;
        assert_eq!(again.err(), Some(error.clone()));
    }
    assert_eq!(fetches(&shelf), 2);
    let mut choices = with("empty", "c");
    choices.choices = 3;
    let reason = "adapter_model.safetensors: is empty";
    let end = answer(&engine, choices).await.1;
    assert_eq!(end, Some(TokenEvent::Failed(failed("empty", reason))));
    until(&engine, |stats| stats.admitted == 0).await;
    assert_eq!(engine.stats().adapter_failures, 2);
    shelf.is_found.store(true, Ordering::SeqCst);
    let found = tokio::time::timeout(PATIENCE, async {
        loop {
            match engine.generate(with("gone", "a")).await {
                Ok(generation) => return read(generation).await.0,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    });
    assert_eq!(found.await.expect("it is tried again"), "gone");
}

#[tokio::test]
async fn when_the_last_who_waits_leaves_the_fetch_is_cancelled() {
    let (shelf, gate) = slow_shelf();
    let engine = scripted_with_adapters(limited(4, 4), saying("base"), shelf.clone());
    let first = engine.generate(with("slow", "a")).await.expect("a place");
    let last = engine.generate(with("slow", "b")).await.expect("a place");
    drop(first);
    until(&engine, |stats| stats.cancelled == 1).await;
    assert_eq!(shelf.dropped.load(Ordering::SeqCst), 0);
    drop(last);
    until(&engine, |stats| stats.admitted == 0).await;
    until(&engine, |_| shelf.dropped.load(Ordering::SeqCst) == 1).await;
    gate.add_permits(1);
    assert_eq!(says(&engine, with("slow", "c")).await, "slow");
    assert_eq!(fetches(&shelf), 2);
    assert_eq!(engine.stats().adapter_failures, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_cache_lets_idle_ones_go_and_waits_for_those_in_use() {
    let (script, told, leave) = gated();
    let shelf = Arc::new(Shelf {
        bytes: 400 << 10,
        ..Shelf::default()
    });
    let config = EngineConfig {
        adapter_cache_mib: 1,
        ..limited(8, 8)
    };
    let engine = scripted_with_adapters(config, script, shelf.clone());
    for name in ["a", "b", "b", "c", "b"] {
        assert_eq!(says(&engine, with(name, "hi")).await, name);
    }
    until(&engine, |stats| stats.admitted == 0).await;
    let stats = engine.stats();
    assert_eq!((stats.adapters, stats.adapter_evictions), (2, 1));
    assert_eq!((stats.adapter_loads, stats.adapter_hits), (3, 2));
    assert_eq!(stats.adapter_bytes, 2 * (400 << 10));
    // Two in use, and a third that finds no room.
    let base = engine.generate(request("x")).await.expect("a place");
    told.recv_timeout(PATIENCE).expect("its first token");
    let mut asked = Vec::new();
    for name in ["b", "c", "d"] {
        let generation = engine.generate(with(name, "hi")).await.expect("a place");
        asked.push((name, generation));
    }
    until(&engine, |_| fetches(&shelf) == 4).await;
    drop((leave, base));
    for (name, generation) in asked {
        assert_eq!(read(generation).await.0, name);
    }
    until(&engine, |stats| stats.admitted == 0).await;
    let stats = engine.stats();
    assert_eq!((stats.adapters, stats.adapter_evictions), (2, 2));
}

#[tokio::test]
async fn an_adapter_larger_than_the_cache_says_so() {
    let shelf = Shelf {
        bytes: (2 << 20) + 1,
        ..Shelf::default()
    };
    let config = EngineConfig {
        adapter_cache_mib: 2,
        ..EngineConfig::default()
    };
    let engine = scripted_with_adapters(config, saying("base"), Arc::new(shelf));
    let (_, Some(TokenEvent::Failed(error))) = answer(&engine, with("large", "a")).await else {
        panic!("there is no room for it");
    };
    let error = error.to_string();
    assert!(
        error.contains("takes 3 MiB") && error.contains("may take 2"),
        "{error}"
    );
    assert_eq!(engine.stats().adapter_bytes, 0);
}

#[tokio::test]
async fn a_replaced_adapter_serves_who_asked_before() {
    let (shelf, gate) = slow_shelf();
    let engine = scripted_with_adapters(limited(4, 4), saying("base"), shelf);
    let (old, new) = (replaced("slow", "old"), replaced("slow", "new"));
    let before = engine.generate(with_ref(old, "a")).await.expect("a place");
    let after = engine.generate(with_ref(new, "a")).await.expect("a place");
    gate.add_permits(2);
    assert_eq!(read(after).await.0, "new");
    assert_eq!(read(before).await.0, "old");
}

#[tokio::test]
async fn prompt_beginnings_are_shared_within_an_adapter_alone() {
    let shelf = Arc::new(Shelf::default());
    let engine = scripted_with_adapters(EngineConfig::default(), saying("base"), shelf);
    let prompt = "a prompt of more than two blocks of sixteen".to_owned();
    let cached = async |adapter: Option<&str>, tenant: &str| {
        let plain = request(&prompt);
        let request = GenerateRequest {
            tenant: tenant.to_owned(),
            adapter: adapter.map(|name| replaced(name, name)),
            ..plain
        };
        match answer(&engine, request).await {
            (text, Some(TokenEvent::Done { cached_tokens, .. })) => {
                assert_eq!(text, adapter.unwrap_or("base"));
                cached_tokens
            }
            other => panic!("{other:?}"),
        }
    };
    for adapter in [Some("one"), Some("two"), None] {
        assert_eq!(cached(adapter, "us").await, 0, "{adapter:?}");
        assert_eq!(cached(adapter, "them").await, 0, "{adapter:?}");
    }
    for adapter in [Some("one"), Some("two"), None] {
        assert_eq!(cached(adapter, "us").await, 32, "{adapter:?}");
    }
}

#[tokio::test]
async fn adapters_go_with_their_model() {
    let shelf = Arc::new(Shelf::default());
    let config = EngineConfig {
        idle_unload_s: 1,
        ..EngineConfig::default()
    };
    let engine = scripted_with_adapters(config, saying("base"), shelf.clone());
    assert_eq!(says(&engine, with("one", "a")).await, "one");
    assert_eq!(engine.stats().adapters, 1);
    until(&engine, |stats| stats.unloads == 1 && stats.adapters == 0).await;
    let stats = engine.stats();
    assert_eq!((stats.adapter_bytes, stats.memory_bytes), (0, 0));
    assert_eq!(says(&engine, with("one", "a")).await, "one");
    assert_eq!((engine.stats().loads, fetches(&shelf)), (2, 2));
}

#[tokio::test]
async fn stopping_leaves_no_fetch_behind() {
    let (shelf, _gate) = slow_shelf();
    let engine = scripted_with_adapters(limited(4, 4), saying("base"), shelf.clone());
    let waiting = engine.generate(with("slow", "a")).await.expect("a place");
    until(&engine, |_| fetches(&shelf) == 1).await;
    engine.stop();
    let stopped = EngineError::Internal("the engine is stopping".to_owned());
    assert_eq!(read(waiting).await.1, Some(TokenEvent::Failed(stopped)));
    until(&engine, |_| shelf.dropped.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn without_a_source_a_request_for_an_adapter_is_refused() {
    let engine = scripted(EngineConfig::default(), saying("base"));
    let refused = engine.generate(with("one", "a")).await;
    let error = failed("one", "no adapters are configured here");
    assert_eq!(refused.err(), Some(error));
    assert_eq!(says(&engine, request("a")).await, "base");
}
