//! How replies end, what counts as progress, and what is no answer at all. Sections 22 to 24 and 26 of
//! providers.md.

use std::time::Duration;

use providers::{Dialect, Ending, FailureClass, Progress, ReplyHead, ReplyReader};

use crate::support::{Reply, assert_whole};

const ROLE: &str = r#"{"id":"c","model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#;
const TEXT: &str = r#"{"id":"c","model":"m","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}"#;
const STOP: &str =
    r#"{"id":"c","model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;

#[test]
fn progress_of_a_chat_stream() {
    let progress = |events: &[&str]| Reply::events(Dialect::OpenAiChat, events).progress();
    let filter = r#"{"choices":[],"id":"","model":"","prompt_filter_results":[]}"#;
    let reasoning =
        r#"{"choices":[{"index":0,"delta":{"reasoning_content":"h"},"finish_reason":null}]}"#;
    let call = r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"x","function":{"name":"f","arguments":""}}]},"finish_reason":null}]}"#;
    assert_eq!(progress(&[]), Progress::NothingYet);
    assert_eq!(progress(&[filter, ROLE, ROLE]), Progress::StartOnly);
    for content in [TEXT, reasoning, call, STOP, "[DONE]", "not json"] {
        assert_eq!(progress(&[ROLE, content]), Progress::Content, "{content}");
    }
    let error =
        r#"{"error":{"message":"m","type":"rate_limit_error","code":"rate_limit_exceeded"}}"#;
    match progress(&[ROLE, error]) {
        Progress::Error(failure) => assert_eq!(failure.class, FailureClass::RateLimit),
        other => panic!("an error before content, yet {other:?}"),
    }
    assert_eq!(progress(&[TEXT, error]), Progress::Content);
    let comments = Reply::sse(
        Dialect::OpenAiChat,
        ": OPENROUTER PROCESSING\n\n: again\n\n",
    );
    assert_eq!(comments.progress(), Progress::NothingYet);
}

#[test]
fn progress_of_a_document() {
    let progress = |body: &str| Reply::json(Dialect::OpenRouter, body).progress();
    assert_eq!(progress(""), Progress::NothingYet);
    assert_eq!(progress(r#"{"id":"#), Progress::Content);
    assert_eq!(progress(r#"{"error":{"code":502"#), Progress::NothingYet);
    assert_eq!(progress(r#"{"error":null}"#), Progress::Content);
    assert!(matches!(
        progress(r#"{"error":{"code":502,"message":"m"}}"#),
        Progress::Error(_)
    ));
}

#[test]
fn failures_inside_a_success() {
    let failure = |dialect, body: &str| Reply::json(dialect, body).read().failure;
    // Trap 26: the many places of an error.
    for body in [
        r#"{"error":{"code":502,"message":"m"},"user_id":"u"}"#,
        r#"{"error":"text"}"#,
        r#"{"code":"x","error":"text"}"#,
        r#"{"object":"error","message":"m","type":"t","code":3505}"#,
        r#"{"message":"m","type":"t","param":null,"code":"c"}"#,
        r#"{"detail":"Unauthorized"}"#,
        r#"{"choices":[{"error":{"code":502,"message":"m"},"finish_reason":"error"}]}"#,
        r#"[{"error":{"code":400,"message":"m","status":"INVALID_ARGUMENT"}}]"#,
    ] {
        assert!(failure(Dialect::OpenAiChat, body).is_some(), "{body}");
    }
    // And what only looks like one.
    for body in [
        r#"{"error":null,"choices":[]}"#,
        r#"{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}],"moderation":{"input":{"type":"error","code":"c","message":"m"}}}"#,
        r#"{"choices":[{"content_filter_results":{"error":{"code":"c"}},"message":{"content":"x"},"finish_reason":"stop"}]}"#,
    ] {
        assert_eq!(failure(Dialect::OpenAiChat, body), None, "{body}");
    }
}

#[test]
fn finishes_that_are_failures() {
    let read = |reason: &str| {
        let stop = STOP.replace("\"stop\"", &format!("\"{reason}\""));
        Reply::events(Dialect::OpenAiChat, &[TEXT, &stop, "[DONE]"]).read()
    };
    for (reason, class) in [
        ("error", FailureClass::Server),
        ("insufficient_system_resource", FailureClass::Overloaded),
    ] {
        let reading = read(reason);
        assert_eq!(reading.ending, Ending::Unknown);
        assert_eq!(reading.failure.expect("told by the reason").class, class);
    }
    assert_whole(&read("length"));
    assert_whole(&read("content_filter"));
}

#[test]
fn malformed_chunks_are_counted_and_stepped_over() {
    let events = [TEXT, "{\"choices\":[{", TEXT, "<html>", STOP, "[DONE]"];
    let reading = Reply::events(Dialect::OpenAiChat, &events).read();
    assert_eq!((reading.events, reading.malformed_events), (6, 2));
    assert_eq!(
        (reading.ending, reading.delivered_text_bytes),
        (Ending::Whole, 2)
    );
    let reading = Reply::json(Dialect::OpenAiChat, "{\"id\":").read();
    assert_eq!(
        (reading.ending, reading.malformed_events),
        (Ending::Unknown, 1)
    );
    let reading = Reply::json(Dialect::OpenAiChat, "{\"id\":").cut().read();
    assert_eq!((reading.ending, reading.malformed_events), (Ending::Cut, 0));
}

#[test]
fn proof_outlives_a_broken_transport() {
    let whole = Reply::events(Dialect::OpenAiChat, &[TEXT, STOP, "[DONE]"]).cut();
    assert_eq!(whole.read().ending, Ending::Whole);
    let json = Reply::json(
        Dialect::OpenAiChat,
        r#"{"choices":[],"usage":{"prompt_tokens":1}}"#,
    )
    .cut();
    let reading = json.read();
    assert_eq!(reading.ending, Ending::Cut);
    assert_eq!(reading.usage.expect("all of it came").in_total, Some(1));
}

#[test]
fn answers_with_an_error_status_are_classed() {
    let header = |name: &str| (name == "retry-after").then(|| "7".to_owned());
    let head = ReplyHead {
        status: 429,
        content_type: Some("application/json"),
        content_encoding: None,
        header: &header,
    };
    let mut reader = ReplyReader::new(Dialect::OpenAiChat, true, &head);
    reader.push(br#"{"error":{"message":"slow "#);
    reader.push(br#"down","type":"requests","code":"rate_limit_exceeded"}}"#);
    let reading = reader.finish(true);
    let failure = reading.failure.expect("the status says so");
    assert_eq!(failure.class, FailureClass::RateLimit);
    assert_eq!(failure.retry_after, Some(Duration::from_secs(7)));
    assert_eq!(failure.message, "slow down");
    assert_eq!((reading.usage, reading.ending), (None, Ending::Whole));
}

#[test]
fn unread_bodies_are_whole_when_they_end_well() {
    for (dialect, content_type) in [
        (Dialect::Opaque, "text/event-stream"),
        (Dialect::OpenAiMedia, "audio/mpeg"),
        (Dialect::OpenAiMedia, "text/plain"),
        (Dialect::OpenAiChat, ""),
    ] {
        let reply = Reply {
            content_type,
            streamed: false,
            ..Reply::json(dialect, "data that nobody reads")
        };
        // The last one begins like an event; it is none, since no stream was asked for.
        let reading = reply.read();
        assert_eq!(
            (reading.ending, reading.events),
            (Ending::Whole, 0),
            "{content_type}"
        );
        assert_eq!(reply.cut().read().ending, Ending::Cut);
    }
    let nothing = Reply::json(Dialect::OpenAiChat, "");
    assert_eq!(nothing.read().ending, Ending::Unknown);
}
