//! A provider that fails in some way and one that answers: what the fault tests share.

use serde_json::json;
use tests::shapes::{CHAT, UNIVERSAL, chat, chat_answer, openai_error, step};
use tests::sse::chat_stream;
use tests::{Answer, Config, Ending, Reply, Request, Row, ScriptedUpstream, TestGateway};

/// A gateway with A (`openai`) that fails in some way and B (`groq`) that answers.
pub struct Pair {
    pub a: ScriptedUpstream,
    pub b: ScriptedUpstream,
    pub gateway: TestGateway,
}

pub async fn pair(config: Config) -> Pair {
    let a = ScriptedUpstream::start().await;
    let b = ScriptedUpstream::start().await;
    let config = config
        .provider("openai", &a.url("/v1"))
        .provider("groq", &b.url("/openai/v1"));
    Pair {
        gateway: TestGateway::start(config).await,
        a,
        b,
    }
}

pub fn answer_of(who: &str) -> Reply {
    Reply::json(200, &chat_answer("gpt-4o-mini", who, 11, 3)).header("x-from", who)
}

pub fn failure(status: u16) -> Reply {
    Reply::json(
        status,
        &openai_error("server_error", "server_error", "this is A failing"),
    )
    .header("x-from", "A")
}

/// What is expected of a universal request of A then B, two tries each.
pub struct Expected {
    pub answered_by: &'static str,
    pub a_calls: usize,
    pub b_calls: usize,
    /// `status_code` and `success` of each row, in the order of the tries.
    pub rows: &'static [(u16, bool)],
}

impl Pair {
    /// Sends A then B, two tries each, and checks the answer, the calls and the rows.
    pub async fn check(&self, expected: Expected) -> (Answer, Vec<Row>) {
        self.b.always("/", answer_of("B"));
        let steps = json!([
            step("openai", "chat/completions", chat("gpt-4o-mini", false), 2),
            step(
                "groq",
                "chat/completions",
                chat("llama-3.3-70b-versatile", false),
                2
            ),
        ]);
        let answer = self
            .gateway
            .send(&Request::post(UNIVERSAL, &steps))
            .await
            .expect_status(200);
        assert_eq!(answer.header("x-from"), Some(expected.answered_by));
        assert_eq!(
            answer.json()["choices"][0]["message"]["content"],
            expected.answered_by
        );
        assert_eq!(answer.ending, Ending::Whole);
        let step = if expected.answered_by == "A" {
            "0"
        } else {
            "1"
        };
        assert_eq!(answer.header("cf-aig-step"), Some(step));
        assert_eq!(self.a.call_count(), expected.a_calls, "calls of A");
        assert_eq!(self.b.call_count(), expected.b_calls, "calls of B");
        let rows = self.gateway.rows_of(&answer, expected.rows.len()).await;
        let seen: Vec<(u16, bool)> = rows
            .iter()
            .map(|row| (row.status(), row.is("success")))
            .collect();
        assert_eq!(seen, expected.rows, "{rows:#?}");
        assert_eq!(
            rows.last().map(|row| row.text("id").to_owned()).as_deref(),
            answer.header("cf-aig-log-id")
        );
        let steps: Vec<u64> = rows.iter().map(Row::step).collect();
        let first_of_b = rows.len() - usize::from(expected.answered_by == "B");
        assert!(
            steps[..first_of_b].iter().all(|step| *step == 0),
            "{steps:?}"
        );
        assert!(
            steps[first_of_b..].iter().all(|step| *step == 1),
            "{steps:?}"
        );
        (answer, rows)
    }

    /// One provider path, no retries asked for.
    pub async fn single(&self) -> Answer {
        self.gateway
            .send(&Request::post(CHAT, &chat("gpt-4o-mini", false)))
            .await
    }
}

impl Pair {
    /// Sends a streamed A then B, two tries each, and checks that B's stream and nothing else came.
    pub async fn stream_of_b(&self) -> Answer {
        let events = chat_stream(&["from", " ", "B"]);
        self.b
            .always("/", Reply::sse(events.clone()).header("x-from", "B"));
        let steps = json!([
            step("openai", "chat/completions", chat("gpt-4o-mini", true), 2),
            step(
                "groq",
                "chat/completions",
                chat("llama-3.3-70b-versatile", true),
                2
            ),
        ]);
        let answer = self
            .gateway
            .send(&Request::post(UNIVERSAL, &steps))
            .await
            .expect_status(200);
        assert_eq!(
            answer.text(),
            String::from_utf8(events.concat()).expect("UTF-8")
        );
        assert_eq!(
            (answer.header("x-from"), answer.header("cf-aig-step")),
            (Some("B"), Some("1"))
        );
        assert_eq!(
            (answer.ending.clone(), self.b.call_count()),
            (Ending::Whole, 1)
        );
        answer
    }
}
