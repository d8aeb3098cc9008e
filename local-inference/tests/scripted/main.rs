//! The engine around a model that follows a script: queues, bounds, cancels and failures.

mod adapters;
mod forms;

use local_inference::testing::{self, END, MARKER, MODEL, saying, scripted};
use local_inference::{
    Engine, EngineConfig, EngineError, EngineHandle, GenerateRequest, Generation, Message,
    OutputFormat, Prompt, SamplingParams, StopReason, TokenEvent, Tool, ToolChoice,
};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::time::Duration;

/// Longer than anything here takes; reached only by a bug.
const PATIENCE: Duration = Duration::from_secs(60);

fn request(text: &str) -> GenerateRequest {
    GenerateRequest {
        sampling: SamplingParams {
            temperature: 0.0,
            ..SamplingParams::default()
        },
        ..GenerateRequest::new(MODEL, Prompt::Messages(vec![Message::new("user", text)]))
    }
}

fn limited(max_running: usize, max_waiting: usize) -> EngineConfig {
    EngineConfig {
        max_running,
        max_waiting,
        ..EngineConfig::default()
    }
}

async fn read(mut generation: Generation) -> (String, Option<TokenEvent>) {
    let mut text = String::new();
    loop {
        let event = tokio::time::timeout(PATIENCE, generation.events.recv()).await;
        match event.expect("the engine goes on") {
            Some(TokenEvent::Text { text: piece, .. }) => text.push_str(&piece),
            last => return (text, last),
        }
    }
}

async fn answer(engine: &EngineHandle, request: GenerateRequest) -> (String, Option<TokenEvent>) {
    read(engine.generate(request).await.expect("a valid request")).await
}

fn done(stop: StopReason, completion_tokens: u32) -> Option<TokenEvent> {
    done_with(stop, completion_tokens, 0)
}

fn done_with(stop: StopReason, completion_tokens: u32, cached_tokens: u32) -> Option<TokenEvent> {
    Some(TokenEvent::Done {
        choice: 0,
        stop,
        completion_tokens,
        cached_tokens,
    })
}

/// Waits until the engine's counters say so; each look lets it work.
async fn until(engine: &EngineHandle, is_so: impl Fn(local_inference::Stats) -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !is_so(engine.stats()) {
            tokio::task::yield_now().await;
        }
    });
    waited
        .await
        .unwrap_or_else(|_| panic!("never came to be: {:?}", engine.stats()));
}

#[tokio::test]
async fn text_usage_and_stop_reason_are_told() {
    let engine = scripted(EngineConfig::default(), saying("naïve 漢字 👩‍👩‍👧!"));
    let generation = engine
        .generate(request("hello"))
        .await
        .expect("a valid request");
    assert_eq!(generation.prompt_tokens, 6);
    let text = "naïve 漢字 👩‍👩‍👧!";
    let expected = (
        text.to_owned(),
        done(StopReason::Stop, text.len() as u32 + 1),
    );
    assert_eq!(read(generation).await, expected);
}

#[tokio::test]
async fn max_tokens_and_stop_strings_end_an_answer() {
    let engine = scripted(EngineConfig::default(), saying("one two three"));
    let mut short = request("x");
    short.sampling.max_tokens = Some(5);
    assert_eq!(
        answer(&engine, short).await,
        ("one t".to_owned(), done(StopReason::Length, 5))
    );
    let mut stopped = request("x");
    stopped.sampling.stop = vec!["thr".to_owned(), "two th".to_owned()];
    assert_eq!(
        answer(&engine, stopped).await,
        ("one ".to_owned(), done(StopReason::Stop, 10))
    );
    // Held back as a beginning of the stop string, and let go when the answer ends there.
    let mut almost = request("x");
    almost.sampling.stop = vec!["three!".to_owned()];
    assert_eq!(answer(&engine, almost).await.0, "one two three");
    let mut endless = request("x");
    endless.sampling.ignore_eos = true;
    endless.sampling.max_tokens = Some(20);
    let (text, end) = answer(&engine, endless).await;
    assert_eq!(
        (text.as_str(), end),
        ("one two three", done(StopReason::Length, 20))
    );
}

#[tokio::test]
async fn a_character_cut_by_max_tokens_becomes_the_replacement_character() {
    let engine = scripted(EngineConfig::default(), saying("漢"));
    let mut cut = request("x");
    cut.sampling.max_tokens = Some(2);
    assert_eq!(
        answer(&engine, cut).await,
        ("\u{fffd}".to_owned(), done(StopReason::Length, 2))
    );
}

/// Answers each chat with its own prompt, letter for letter.
fn echo() -> testing::Script {
    Box::new(|tokens| {
        let marker = tokens
            .iter()
            .position(|token| *token == MARKER)
            .expect("a chat");
        let said = tokens.len() - marker - 1;
        if said < marker { tokens[said] } else { END }
    })
}

#[tokio::test]
async fn many_at_once_of_mixed_lengths_each_get_their_own_answer() {
    let engine = scripted(limited(5, 100), echo());
    let prompts: Vec<String> = (0..40usize)
        .map(|i| format!("{i} ").repeat(1 + i * 7 % 60))
        .collect();
    let mut answers = Vec::new();
    for prompt in &prompts {
        answers.push(tokio::spawn({
            let (engine, request) = (engine.clone(), request(prompt));
            async move { answer(&engine, request).await }
        }));
    }
    for (prompt, answer) in prompts.iter().zip(answers) {
        let (text, end) = answer.await.expect("no panic");
        assert_eq!(&text, prompt);
        assert_eq!(end, done(StopReason::Stop, prompt.len() as u32 + 1));
    }
    until(&engine, |stats| stats.admitted == 0 && stats.kv_blocks == 0).await;
}

/// A script that tells of every token and waits for leave; dropping the leave end sets it free.
fn gated() -> (testing::Script, Receiver<()>, SyncSender<()>) {
    let (told, tell) = channel();
    let (leave, allowed) = sync_channel::<()>(0);
    let script: testing::Script = Box::new(move |_| {
        let _ = told.send(());
        let _ = allowed.recv();
        u32::from(b'x')
    });
    (script, tell, leave)
}

#[tokio::test(flavor = "multi_thread")]
async fn past_the_waiting_bound_requests_are_refused_and_places_come_back() {
    let (script, told, leave) = gated();
    let engine = scripted(limited(1, 1), script);
    let running = engine
        .generate(request("a"))
        .await
        .expect("the running place");
    told.recv_timeout(PATIENCE)
        .expect("its first token is being made");
    let mut hasty = request("b");
    hasty.reject_if_busy = true;
    assert_eq!(engine.generate(hasty).await.err(), Some(EngineError::Busy));
    let waiting = engine
        .generate(request("c"))
        .await
        .expect("the waiting place");
    assert_eq!(
        engine.generate(request("d")).await.err(),
        Some(EngineError::Busy)
    );
    assert_eq!(engine.stats().rejected, 2);
    drop(running);
    drop(leave);
    let (text, end) = read(waiting).await;
    assert_eq!((text.len(), end), (256, done(StopReason::Length, 256)));
    until(&engine, |stats| stats.admitted == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_receiver_is_a_cancel_within_one_step() {
    let (script, told, leave) = gated();
    let engine = scripted(limited(4, 4), script);
    let generation = engine.generate(request("a")).await.expect("a place");
    told.recv_timeout(PATIENCE)
        .expect("its first token is being made");
    drop(generation);
    leave.send(()).expect("the script waits for leave");
    until(&engine, |stats| stats.cancelled == 1 && stats.admitted == 0).await;
    assert_eq!(engine.stats().steps, 1);
    assert!(
        told.try_recv().is_err(),
        "a second token was asked of the model"
    );
}

#[tokio::test]
async fn a_slow_reader_pauses_only_itself() {
    let engine = scripted(
        limited(2, 2),
        Box::new(|tokens| {
            // The patient one's prompt is "slow"; both say x for ever.
            u32::from(if tokens[0] == u32::from(b's') {
                b's'
            } else {
                b'x'
            })
        }),
    );
    let slow = engine.generate(request("slow")).await.expect("a place");
    let (text, end) = answer(&engine, request("quick")).await;
    assert_eq!((text.len(), end), (256, done(StopReason::Length, 256)));
    let made = engine.stats().completion_tokens - 256;
    assert!(made < 65, "the unread one made {made} tokens");
    let (text, end) = read(slow).await;
    assert_eq!(
        (text, end),
        ("s".repeat(256), done(StopReason::Length, 256))
    );
}

#[tokio::test]
async fn a_step_that_panics_fails_its_sequences_and_the_next_request_works() {
    let engine = scripted(
        EngineConfig::default(),
        Box::new(|tokens| {
            let is_bad = tokens.contains(&u32::from(b'!'));
            let said = tokens
                .iter()
                .rev()
                .take_while(|token| **token != MARKER)
                .count();
            assert!(!is_bad || said < 3, "on purpose");
            if said < 4 { u32::from(b'y') } else { END }
        }),
    );
    let (text, end) = answer(&engine, request("bad!")).await;
    assert_eq!(text, "yyy");
    assert!(
        matches!(end, Some(TokenEvent::Failed(EngineError::Internal(_)))),
        "{end:?}"
    );
    assert_eq!(answer(&engine, request("good")).await.0, "yyyy");
    until(&engine, |stats| stats.admitted == 0 && stats.kv_blocks == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_fails_what_runs_and_what_comes() {
    let (script, told, leave) = gated();
    let engine = scripted(limited(1, 4), script);
    let running = engine.generate(request("a")).await.expect("a place");
    let waiting = engine.generate(request("b")).await.expect("a place");
    told.recv_timeout(PATIENCE)
        .expect("its first token is being made");
    engine.stop();
    drop(leave);
    for generation in [running, waiting] {
        let (_, end) = read(generation).await;
        assert!(matches!(end, Some(TokenEvent::Failed(_))), "{end:?}");
    }
    assert!(engine.generate(request("c")).await.is_err());
}

#[tokio::test]
async fn the_window_holds_prompt_and_answer() {
    let engine = scripted(EngineConfig::default(), saying("ok"));
    let mut large = request(&"x".repeat(500));
    large.sampling.max_tokens = Some(12);
    let too_long = EngineError::ContextTooLong {
        requested: 513,
        window: 512,
    };
    assert_eq!(engine.generate(large.clone()).await.err(), Some(too_long));
    large.sampling.max_tokens = Some(11);
    assert_eq!(answer(&engine, large).await.0, "ok");
    // Without a length the answer gets what is left.
    let full = request(&"x".repeat(511));
    let too_long = EngineError::ContextTooLong {
        requested: 513,
        window: 512,
    };
    assert_eq!(engine.generate(full).await.err(), Some(too_long));
    // Its beginning is there from the one before: all full blocks but the one of the last token.
    let last = request(&"x".repeat(510));
    assert_eq!(
        answer(&engine, last).await,
        ("o".to_owned(), done_with(StopReason::Length, 1, 496))
    );
    // Far too long: told without tokenising it.
    let huge = engine.generate(request(&"x".repeat(10_000_000))).await;
    assert!(matches!(
        huge.err(),
        Some(EngineError::ContextTooLong { window: 512, .. })
    ));
    until(&engine, |stats| stats.admitted == 0).await;
}

#[tokio::test]
async fn bad_requests_are_told_which_field() {
    let engine = scripted(EngineConfig::default(), saying("ok"));
    let refused = async |change: fn(&mut GenerateRequest)| {
        let mut bad = request("x");
        change(&mut bad);
        match engine.generate(bad).await.err() {
            Some(EngineError::Invalid { field, .. }) => field,
            other => panic!("expected a refused field, got {other:?}"),
        }
    };
    assert_eq!(
        refused(|r| r.sampling.temperature = f32::NAN).await,
        "temperature"
    );
    assert_eq!(refused(|r| r.sampling.top_p = -0.1).await, "top_p");
    assert_eq!(
        refused(|r| r.sampling.max_tokens = Some(0)).await,
        "max_tokens"
    );
    assert_eq!(
        refused(|r| r.sampling.stop = vec!["a".to_owned(); 17]).await,
        "stop"
    );
    let empty = |r: &mut GenerateRequest| {
        r.prompt = Prompt::Text {
            text: String::new(),
            raw: true,
        }
    };
    assert_eq!(refused(empty).await, "prompt");
    let mut unknown = request("x");
    unknown.model = "@cf/no/such".to_owned();
    let expected = EngineError::UnknownModel {
        model: "@cf/no/such".to_owned(),
    };
    assert_eq!(engine.generate(unknown).await.err(), Some(expected));
}

#[tokio::test]
async fn a_model_that_cannot_load_answers_its_error_each_time() {
    let engine = testing::broken("the file is no good");
    for _ in 0..2 {
        let error = engine.generate(request("x")).await.err();
        assert_eq!(
            error,
            Some(EngineError::Load("the file is no good".to_owned()))
        );
    }
    assert_eq!(engine.stats().admitted, 0);
}

#[tokio::test]
async fn a_model_that_was_not_pulled_says_how_to() {
    let empty = std::env::temp_dir().join("a folder that is not there");
    let engine = Engine::start(EngineConfig {
        model_dir: empty,
        ..EngineConfig::default()
    });
    let mut real = request("x");
    real.model = engine.models()[0].entry.id.to_uppercase();
    let error = engine.generate(real).await.err();
    let Some(EngineError::NotPulled { how, .. }) = error else {
        panic!("{error:?}")
    };
    assert!(how.contains("model pull @cf/"), "{how}");
    assert!(!engine.models()[0].is_pulled && !engine.models()[0].is_loaded);
}
