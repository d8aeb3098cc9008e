//! The official clients, unchanged but for their base URL, against the gateway.
//!
//! The programs in `tests/sdk/` do what people do with those packages and report what they saw, one
//! case a line; what it should have been stands here, once for both languages. The upstream answers in
//! documented shapes and reads from the model's name what it is to do.

mod ai_gateway_provider;
mod anthropic;
mod google;
mod openai;
mod openai_local;
mod run;

use serde_json::{Value, json};
use std::collections::BTreeMap;
use tests::{Call, Config, Reply};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    Python,
    Node,
}

/// What one program reported: case and what was seen.
struct Report(BTreeMap<String, Value>);

impl Report {
    #[track_caller]
    fn case(&self, name: &str) -> &Value {
        let Report(cases) = self;
        cases
            .get(name)
            .unwrap_or_else(|| panic!("the program has no case `{name}`"))
    }

    /// The case ended well, and this is what was seen.
    #[track_caller]
    fn saw(&self, name: &str, expected: Value) {
        assert_eq!(*self.case(name), expected, "{name}");
    }

    /// The case raised an exception of `class` whose words hold `words`.
    #[track_caller]
    fn raised(&self, name: &str, class: &str, words: &str) {
        let seen = self.case(name);
        let classes = seen["raised"].as_array();
        assert!(
            classes.is_some_and(|classes| classes.iter().any(|raised| raised == class)),
            "{name} did not raise {class}: {seen:#}"
        );
        assert!(
            seen["message"]
                .as_str()
                .is_some_and(|message| message.contains(words)),
            "{name} does not say {words:?}: {seen:#}"
        );
    }

    /// The case [`raised`](Self::raised) for an answer of this status.
    #[track_caller]
    fn refused(&self, name: &str, status: u16, class: &str, words: &str) {
        self.raised(name, class, words);
        assert_eq!(self.case(name)["status"], status, "{name}");
    }

    /// A stream gave `pieces` and then [`raised`](Self::raised).
    #[track_caller]
    fn raised_after(&self, pieces: &[&str], name: &str, class: &str, words: &str) {
        let seen = self.case(name);
        assert_eq!(seen["pieces"], json!(pieces), "{name}: {seen:#}");
        self.raised(name, class, words);
    }
}

/// A gateway that soon gives up on a silent stream.
fn impatient() -> Config {
    Config::new().set("timeouts", "idle_ms = 700")
}

/// The stream that `model` asks for: whole, or with one of the faults every client is shown.
fn stream(model: &str, events: Vec<Vec<u8>>, before_the_fault: usize) -> Reply {
    let fine = events[..before_the_fault].concat();
    let next = &events[before_the_fault];
    let half = next[..next.len() / 2].to_vec();
    match model {
        "cut" => Reply::sse([fine, Vec::new()]).cut_after(1),
        "cut-mid-event" => Reply::sse([fine, half, Vec::new()]).cut_after(2),
        "stall" => Reply::sse([fine, Vec::new()]).stall_after(1),
        _ => Reply::sse(events),
    }
}

/// The status that a model's name asks for.
fn asked_status(model: &str) -> Option<u16> {
    model.strip_prefix("status-")?.parse().ok()
}

/// The calls whose model is `model`.
fn calls_for(calls: &[Call], model: &str) -> Vec<Call> {
    let asks = |call: &&Call| {
        serde_json::from_slice::<Value>(&call.body).is_ok_and(|body| body["model"] == model)
    };
    calls.iter().filter(asks).cloned().collect()
}
