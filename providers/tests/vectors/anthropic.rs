//! Anthropic Messages: providers.md section 5, vectors V6 and V7.

use providers::{Dialect, Ending, FailureClass, Progress, UsageSource};

use crate::support::{Reply, assert_whole, class, usage};

pub const START: &str = r#"{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-x","content":[],"stop_reason":null,"usage":{"input_tokens":10,"cache_creation_input_tokens":300,"cache_read_input_tokens":2000,"cache_creation":{"ephemeral_5m_input_tokens":100,"ephemeral_1h_input_tokens":200},"output_tokens":1,"service_tier":"standard"}}}"#;
const PING: &str = r#"{"type":"ping"}"#;
const BLOCK: &str =
    r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#;
const DELTA: &str =
    r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"hi"}}"#;
const BLOCK_STOP: &str = r#"{"type":"content_block_stop","index":0}"#;
const FIRST_END: &str =
    r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":15}}"#;
pub const END: &str = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"input_tokens":40,"output_tokens":42,"cache_read_input_tokens":null,"server_tool_use":{"web_search_requests":1,"web_fetch_requests":0}}}"#;
const STOP: &str = r#"{"type":"message_stop"}"#;

#[test]
fn v6_later_numbers_overlay_earlier_ones() {
    let events = [START, PING, BLOCK, DELTA, BLOCK_STOP, FIRST_END, END, STOP];
    let expected = |source| {
        usage(2340, 42, |usage| {
            usage.cache_read = Some(2000);
            usage.cache_write_5m = Some(100);
            usage.cache_write_1h = Some(200);
            usage.in_plain = Some(40);
            usage.web_searches = Some(1);
            usage.tier = Some("standard".to_owned());
            usage.source = source;
        })
    };
    for reply in [
        Reply::named(Dialect::Anthropic, &events),
        Reply::events(Dialect::Anthropic, &events),
    ] {
        let reading = reply.read();
        assert_whole(&reading);
        assert_eq!(reading.usage, expected(UsageSource::Final));
        assert_eq!(reading.finish.as_deref(), Some("end_turn"));
        assert_eq!(reading.model.as_deref(), Some("claude-x"));
        assert_eq!(reading.response_id.as_deref(), Some("msg_1"));
        assert_eq!(reading.delivered_text_bytes, 2);
    }
    let reading = Reply::named(Dialect::Anthropic, &events[..7]).cut().read();
    assert_eq!(reading.ending, Ending::Cut);
    assert_eq!(reading.usage, expected(UsageSource::Partial));
}

#[test]
fn v7_iterations_are_billed_beside_the_top_level() {
    let body = r#"{"id":"msg_1","type":"message","model":"claude-x","content":[{"type":"text","text":"x"}],"stop_reason":"end_turn","usage":{"input_tokens":100,"output_tokens":20,"cache_read_input_tokens":0,"cache_creation_input_tokens":0,"iterations":[{"type":"compaction","input_tokens":5000,"output_tokens":300,"cache_read_input_tokens":0,"cache_creation_input_tokens":0},{"type":"message","input_tokens":100,"output_tokens":20,"cache_read_input_tokens":0,"cache_creation_input_tokens":0}]}}"#;
    let reading = Reply::json(Dialect::Anthropic, body).read();
    assert_whole(&reading);
    let expected = usage(5100, 320, |usage| {
        usage.cache_read = Some(0);
        usage.cache_write_5m = Some(0);
    });
    assert_eq!(reading.usage, expected);
}

#[test]
fn an_advisors_tokens_name_their_model() {
    let body = r#"{"type":"message","model":"claude-x","usage":{"input_tokens":1,"output_tokens":2,"iterations":[{"type":"message","model":"claude-x","input_tokens":1,"output_tokens":2},{"type":"advisor_message","model":"claude-y","input_tokens":30,"output_tokens":4}]}}"#;
    let usage = Reply::json(Dialect::Anthropic, body)
        .read()
        .usage
        .expect("usage was told");
    assert_eq!((usage.in_total, usage.out_total), (Some(31), Some(6)));
    let parts: Vec<_> = usage
        .by_model
        .iter()
        .map(|part| (part.model.as_str(), part.usage.in_total))
        .collect();
    assert_eq!(parts, [("claude-y", Some(30))]);
}

#[test]
fn cache_writes_without_a_split_live_five_minutes() {
    let body = r#"{"type":"message","model":"m","usage":{"input_tokens":1,"cache_creation_input_tokens":7,"cache_read_input_tokens":null,"output_tokens":2}}"#;
    let reading = Reply::json(Dialect::Anthropic, body).read();
    let expected = usage(8, 2, |usage| {
        usage.cache_write_5m = Some(7);
        usage.in_plain = Some(1);
    });
    assert_eq!(reading.usage, expected);
}

#[test]
fn errors_first_and_errors_late() {
    let error = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"req_1"}"#;
    let first = Reply::named(Dialect::Anthropic, &[START, PING, error]);
    match first.progress() {
        Progress::Error(failure) => assert_eq!(failure.class, FailureClass::Overloaded),
        other => panic!("an error frame before content, yet {other:?}"),
    }
    let late = Reply::named(Dialect::Anthropic, &[START, DELTA, error]);
    assert_eq!(late.progress(), Progress::Content);
    let reading = late.read();
    assert_eq!(class(&reading), Some(FailureClass::Overloaded));
    assert_eq!(reading.ending, Ending::Unknown);
    // A body that is an error although the status says otherwise.
    let body = Reply::json(Dialect::Anthropic, error).read();
    assert!(body.failure.is_some());
}

#[test]
fn start_events_are_not_content() {
    let start = Reply::named(Dialect::Anthropic, &[START, PING, BLOCK]);
    assert_eq!(start.progress(), Progress::StartOnly);
    let more = Reply::named(Dialect::Anthropic, &[START, PING, BLOCK, DELTA]);
    assert_eq!(more.progress(), Progress::Content);
}

#[test]
fn a_refusal_is_an_answer_in_good_order() {
    let end = r#"{"type":"message_delta","delta":{"stop_reason":"refusal","stop_details":{"type":"refusal","category":"cyber"}},"usage":{"output_tokens":3}}"#;
    let reading = Reply::named(Dialect::Anthropic, &[START, end, STOP]).read();
    assert_whole(&reading);
    assert_eq!(class(&reading), Some(FailureClass::ContentPolicy));
}
