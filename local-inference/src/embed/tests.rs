//! Encoders against what PyTorch computed (`tests/parity/make_encoders.py`), and their queue.

use super::entries::EncoderTask;
use super::slot::Slot;
use super::*;
use crate::config::EngineConfig;
use crate::testing::encoder_dir_or_skip;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Of each component and score: f32 arithmetic in another order.
const TOLERANCE: f64 = 1e-4;

static BERT: EncoderEntry = tiny("bert", EncoderTask::Embed);
static ROBERTA: EncoderEntry = tiny("xlm-roberta", EncoderTask::Embed);
static CLASSIFIER: EncoderEntry = tiny("xlm-roberta-classifier", EncoderTask::Rank);

const fn tiny(folder: &'static str, task: EncoderTask) -> EncoderEntry {
    EncoderEntry {
        id: folder,
        folder,
        task,
        pooling: None,
        dimensions: 28,
        context: 40,
        licence: "",
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/encoders")
}

fn expected(file: &str) -> Value {
    let text = std::fs::read(fixtures().join(file)).expect("a committed file");
    serde_json::from_slice(&text).expect("JSON")
}

fn slot_in(model_dir: PathBuf, entry: &'static EncoderEntry, max_waiting: usize) -> Slot {
    let config = EngineConfig {
        model_dir,
        max_waiting,
        ..EngineConfig::default()
    };
    Slot::new(entry, &config, &Arc::new(AtomicBool::new(false)))
}

fn slot(entry: &'static EncoderEntry) -> Slot {
    slot_in(fixtures(), entry, 8)
}

fn text(row: &Value, name: &str) -> String {
    row[name].as_str().expect("a text").to_owned()
}

fn check_row(found: &[f32], expected: &Value, what: &str) {
    let expected = expected.as_array().expect("a list");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let expected = expected.as_f64().expect("a number");
        let gap = (f64::from(*found) - expected).abs();
        assert!(gap < TOLERANCE, "{what}, {i}: {found} is not {expected}");
    }
}

async fn check_vectors(entry: &'static EncoderEntry) {
    let slot = slot(entry);
    let file = expected("expected.json");
    let rows = file[entry.folder].as_array().expect("rows");
    for (pooling, name) in [(Pooling::Mean, "mean"), (Pooling::Cls, "cls")] {
        let texts = rows.iter().map(|row| text(row, "text")).collect();
        let (vectors, tokens) = slot.embed(texts, Some(pooling)).await.expect("vectors");
        assert_eq!(vectors.len(), rows.len());
        for (vector, row) in vectors.iter().zip(rows) {
            assert_eq!(vector.len(), 28);
            check_row(
                vector,
                &row[name],
                &format!("{} {name} of {}", entry.id, row["text"]),
            );
        }
        let wanted: u64 = rows.iter().filter_map(|row| row["tokens"].as_u64()).sum();
        assert_eq!(u64::from(tokens), wanted);
    }
}

#[tokio::test]
async fn bert_vectors_are_those_of_transformers() {
    check_vectors(&BERT).await;
}

#[tokio::test]
async fn xlm_roberta_vectors_are_those_of_transformers() {
    check_vectors(&ROBERTA).await;
}

#[tokio::test]
async fn the_usual_pooling_is_the_folders() {
    let file = expected("expected.json");
    for (entry, name) in [(&BERT, "cls"), (&ROBERTA, "mean")] {
        let row = &file[entry.folder][0];
        let (vectors, _) = slot(entry)
            .embed(vec![text(row, "text")], None)
            .await
            .expect("a vector");
        check_row(&vectors[0], &row[name], entry.id);
    }
}

#[tokio::test]
async fn classifier_scores_are_those_of_transformers() {
    let file = expected("expected.json");
    let expected = &file[CLASSIFIER.folder];
    let rows = expected["rows"].as_array().expect("rows");
    let contexts = rows.iter().map(|row| text(row, "context")).collect();
    let (scores, tokens) = slot(&CLASSIFIER)
        .score(text(expected, "query"), contexts)
        .await
        .expect("scores");
    for (score, row) in scores.iter().zip(rows) {
        let wanted = row["score"].as_f64().expect("a number");
        assert!(
            (f64::from(*score) - wanted).abs() < TOLERANCE,
            "{score} is not {wanted}: {row}"
        );
    }
    let wanted: u64 = rows.iter().filter_map(|row| row["tokens"].as_u64()).sum();
    assert_eq!((scores.len(), u64::from(tokens)), (rows.len(), wanted));
}

#[tokio::test]
async fn all_minilm_vectors_are_those_of_sentence_transformers() {
    let Some(slot) = all_minilm("vectors of all-MiniLM-L6-v2") else {
        return;
    };
    let rows = expected("all-minilm.json");
    let rows = rows.as_array().expect("rows");
    let texts = rows.iter().map(|row| text(row, "text")).collect();
    let (vectors, tokens) = slot.embed(texts, None).await.expect("vectors");
    for (vector, row) in vectors.iter().zip(rows) {
        assert_eq!(vector.len(), 384);
        check_row(vector, &row["first"], &row["text"].to_string());
        let sum = |weight: &dyn Fn(f64) -> f64| -> f64 {
            (0u32..)
                .zip(vector)
                .map(|(i, x)| f64::from(*x) * weight(f64::from(i)))
                .sum()
        };
        for (name, found) in [("ramp", sum(&|i| i / 384.0)), ("wave", sum(&f64::cos))] {
            let wanted = row[name].as_f64().expect("a number");
            assert!(
                (found - wanted).abs() < TOLERANCE,
                "{name} of {}: {found}, {wanted}",
                row["text"]
            );
        }
        let length: f64 = vector.iter().map(|x| f64::from(*x).powi(2)).sum();
        assert!((length - 1.0).abs() < 1e-5);
    }
    let wanted: u64 = rows.iter().filter_map(|row| row["tokens"].as_u64()).sum();
    assert_eq!(u64::from(tokens), wanted);
}

fn all_minilm(test: &str) -> Option<Slot> {
    let entry = entries::find("@cf/sentence-transformers/all-minilm-l6-v2").expect("a row of ours");
    let directory = encoder_dir_or_skip(test)?;
    Some(slot_in(directory, entry, 64))
}

/// Sentences of 1 to 120 words.
fn sentences(count: usize) -> Vec<String> {
    (0..count)
        .map(|i| {
            format!(
                "Number {i}: {}.",
                "the wind blew over the hill ".repeat(1 + i * 7 % 20)
            )
        })
        .collect()
}

#[tokio::test]
async fn a_vector_does_not_depend_on_its_neighbours() {
    let Some(slot) = all_minilm("vectors in company") else {
        return;
    };
    let texts = sentences(24);
    let (together, _) = slot.embed(texts.clone(), None).await.expect("vectors");
    for (text, together) in texts.into_iter().zip(together) {
        let (alone, _) = slot.embed(vec![text], None).await.expect("a vector");
        for (alone, together) in alone[0].iter().zip(&together) {
            assert!((alone - together).abs() < 1e-6, "{alone} {together}");
        }
    }
}

#[tokio::test]
async fn callers_take_turns_and_a_full_queue_is_busy() {
    let slot = Arc::new(slot_in(fixtures(), &BERT, 1));
    slot.embed(vec!["the cat".to_owned()], None)
        .await
        .expect("loaded");
    let ask = |texts: usize| {
        let slot = Arc::clone(&slot);
        tokio::spawn(async move {
            slot.embed(vec!["the cat sat".to_owned(); texts], None)
                .await
        })
    };
    // Seats are taken when a request is first polled, and given back when it ends.
    let (first, second, third) = (ask(4000), ask(1), ask(1));
    let mut busy = 0;
    for answer in [first, second, third] {
        match answer.await.expect("no panic") {
            Ok((vectors, _)) => assert!(vectors.iter().all(|vector| vector.len() == 28)),
            Err(error) => {
                assert_eq!(error, EngineError::Busy);
                busy += 1;
            }
        }
    }
    assert_eq!(busy, 1);
    assert!(slot.embed(vec!["the dog".to_owned()], None).await.is_ok());
}

#[tokio::test]
async fn a_caller_who_left_gives_its_place_back() {
    let slot = slot_in(fixtures(), &BERT, 0);
    slot.embed(vec!["the cat".to_owned()], None)
        .await
        .expect("loaded");
    {
        let long = slot.embed(vec!["the cat sat on the mat".to_owned(); 100_000], None);
        let mut long = std::pin::pin!(long);
        // Far enough that the job is queued.
        while slot.free_seats() == 1 {
            assert!(poll_once(&mut long).await.is_none());
        }
    }
    let patience = std::time::Instant::now();
    loop {
        match slot.embed(vec!["the dog".to_owned()], None).await {
            Err(EngineError::Busy) => assert!(patience.elapsed().as_secs() < 60, "still busy"),
            answer => break assert_eq!(answer.expect("a vector").0.len(), 1),
        }
        tokio::task::yield_now().await;
    }
}

async fn poll_once<F: Future>(future: &mut std::pin::Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(match future.as_mut().poll(context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

#[tokio::test]
async fn a_folder_that_is_not_there_or_not_right_says_so() {
    static ABSENT: EncoderEntry = tiny("absent", EncoderTask::Embed);
    static MISTAKEN: EncoderEntry = tiny("xlm-roberta-classifier", EncoderTask::Embed);
    let ask = async |entry| slot(entry).embed(vec!["a".to_owned()], None).await;
    assert!(matches!(
        ask(&ABSENT).await,
        Err(EngineError::NotPulled { .. })
    ));
    let Err(EngineError::Load(text)) = ask(&MISTAKEN).await else {
        panic!("a classifier gives no vectors");
    };
    assert!(text.contains("classifier"), "{text}");
}

#[tokio::test]
async fn requests_are_checked_before_any_work() {
    let engine = crate::Engine::start(EngineConfig {
        models: vec![
            "@cf/baai/bge-reranker-base".to_owned(),
            "@cf/baai/bge-m3".to_owned(),
        ],
        model_dir: fixtures(),
        ..EngineConfig::default()
    });
    let embed = async |model: &str, texts: &[&str]| {
        let request = EmbedRequest {
            model: model.to_owned(),
            texts: texts.iter().map(|text| (*text).to_owned()).collect(),
            pooling: None,
        };
        engine.embed(request).await.expect_err("a refusal")
    };
    assert!(matches!(
        embed("@cf/baai/bge-m3", &[]).await,
        EngineError::Invalid { field: "text", .. }
    ));
    assert!(matches!(
        embed("nobody", &["a"]).await,
        EngineError::UnknownModel { .. }
    ));
    // Known, but not among those of the configuration.
    assert!(matches!(
        embed("@cf/baai/bge-small-en-v1.5", &["a"]).await,
        EngineError::UnknownModel { .. }
    ));
    assert!(matches!(
        embed("@cf/baai/bge-reranker-base", &["a"]).await,
        EngineError::Invalid { field: "model", .. }
    ));
    assert!(matches!(
        embed("@CF/BAAI/bge-m3", &["a"]).await,
        EngineError::NotPulled { .. }
    ));
    engine.stop();
    assert!(matches!(
        embed("@cf/baai/bge-m3", &["a"]).await,
        EngineError::Internal(_)
    ));
}

#[test]
fn scores_come_best_first_and_equal_ones_in_order() {
    let scores = vec![0.2, 0.9, 0.2, 0.5];
    assert_eq!(
        best_first(scores.clone(), None),
        [(1, 0.9), (3, 0.5), (0, 0.2), (2, 0.2)]
    );
    assert_eq!(best_first(scores.clone(), Some(2)), [(1, 0.9), (3, 0.5)]);
    assert_eq!(best_first(scores, Some(9)).len(), 4);
    assert!((cosine(&[3.0, 4.0], &[4.0, 3.0]) - 0.96).abs() < 1e-6);
    assert_eq!(cosine(&[0.0], &[1.0]), 0.0);
}
