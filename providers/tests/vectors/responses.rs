//! OpenAI Responses: providers.md section 2, vectors V4 and V5.

use providers::{Dialect, Ending, FailureClass, Progress};

use crate::support::{Reply, assert_whole, class, usage};

const CREATED: &str = r#"{"type":"response.created","sequence_number":0,"response":{"id":"resp_1","object":"response","status":"in_progress","model":"gpt-x","output":[],"usage":null}}"#;
const DELTA: &str = r#"{"type":"response.output_text.delta","sequence_number":4,"item_id":"i","output_index":0,"content_index":0,"delta":"a\n","logprobs":[],"obfuscation":"x"}"#;
const COMPLETED: &str = r#"{"type":"response.completed","sequence_number":9,"response":{"id":"resp_1","object":"response","status":"completed","model":"gpt-x","output":[],"usage":{"input_tokens":50,"input_tokens_details":{"cached_tokens":20,"cache_write_tokens":10,"cache_write_tokens_details":{"ttl_30m_tokens":10,"ttl_12h_tokens":0}},"output_tokens":8,"output_tokens_details":{"reasoning_tokens":3},"total_tokens":58},"tool_usage":{"web_search":{"num_requests":2},"image_gen":{"input_tokens":0,"output_tokens":0,"total_tokens":0,"input_tokens_details":{"image_tokens":0,"text_tokens":0}}}}}"#;

#[test]
fn v4_the_last_event_tells_everything() {
    let reading = Reply::named(
        Dialect::OpenAiResponses,
        &[CREATED, DELTA, DELTA, COMPLETED],
    )
    .read();
    assert_whole(&reading);
    let expected = usage(50, 8, |usage| {
        usage.cache_read = Some(20);
        usage.cache_write_other = Some(10);
        usage.cache_write_ttl = Some("30m");
        usage.in_plain = Some(20);
        usage.reasoning = Some(3);
        usage.web_searches = Some(2);
    });
    assert_eq!(reading.usage, expected);
    assert_eq!(reading.response_id.as_deref(), Some("resp_1"));
    assert_eq!(reading.model.as_deref(), Some("gpt-x"));
    assert_eq!(reading.finish.as_deref(), Some("stop"));
    assert_eq!(reading.delivered_text_bytes, 4);
}

#[test]
fn v5_both_shapes_of_the_error_event() {
    let flat = r#"{"type":"error","code":"server_is_overloaded","message":"m","param":null,"sequence_number":3}"#;
    let nested = r#"{"type":"error","error":{"type":"service_unavailable_error","code":"server_is_overloaded","message":"m"},"sequence_number":3}"#;
    for error in [flat, nested] {
        for reply in [
            Reply::named(Dialect::OpenAiResponses, &[CREATED, error]),
            Reply::events(Dialect::OpenAiResponses, &[CREATED, error]),
        ] {
            let reading = reply.read();
            assert_eq!(class(&reading), Some(FailureClass::Overloaded), "{error}");
            assert_eq!((reading.usage, reading.ending), (None, Ending::Unknown));
            assert!(matches!(reply.progress(), Progress::Error(_)), "{error}");
        }
    }
}

#[test]
fn v5_incomplete_is_whole() {
    let incomplete = r#"{"type":"response.incomplete","sequence_number":9,"response":{"id":"resp_1","status":"incomplete","model":"gpt-x","incomplete_details":{"reason":"max_output_tokens"},"output":[],"usage":{"input_tokens":5,"output_tokens":8,"total_tokens":13}}}"#;
    let reading = Reply::named(Dialect::OpenAiResponses, &[CREATED, incomplete]).read();
    assert_whole(&reading);
    assert_eq!(reading.finish.as_deref(), Some("length"));
    assert_eq!(reading.usage, usage(5, 8, |_| ()));
}

#[test]
fn a_failed_response_keeps_its_usage() {
    let failed = r#"{"type":"response.failed","sequence_number":9,"response":{"id":"resp_1","status":"failed","error":{"code":"rate_limit_exceeded","message":"m"},"usage":{"input_tokens":5,"output_tokens":8}}}"#;
    let reading = Reply::named(Dialect::OpenAiResponses, &[CREATED, DELTA, failed]).read();
    assert_eq!(reading.ending, Ending::Unknown);
    assert_eq!(class(&reading), Some(FailureClass::RateLimit));
    assert_eq!(reading.usage, usage(5, 8, |_| ()));
}

#[test]
fn documents_by_their_status() {
    let body = |status: &str| {
        format!(
            r#"{{"id":"r","object":"response","status":"{status}","model":"m","error":null,"output":[{{"type":"web_search_call"}},{{"type":"function_call","arguments":"ab"}}],"usage":{{"input_tokens":5,"output_tokens":8}}}}"#
        )
    };
    let reading = Reply::json(Dialect::OpenAiResponses, &body("completed")).read();
    assert_whole(&reading);
    assert_eq!(reading.finish.as_deref(), Some("tool_calls"));
    assert_eq!(
        reading.usage,
        usage(5, 8, |usage| usage.web_searches = Some(1))
    );
    assert_eq!(reading.delivered_text_bytes, 2);
    let reading = Reply::json(Dialect::OpenAiResponses, &body("queued")).read();
    assert_eq!(reading.ending, Ending::Unknown);
    let reading = Reply::json(Dialect::OpenAiResponses, &body("failed")).read();
    assert!(reading.failure.is_some());
}

#[test]
fn start_events_are_not_content() {
    let added = r#"{"type":"response.output_item.added","output_index":0,"item":{"type":"message","content":[]}}"#;
    let part = r#"{"type":"response.content_part.added","part":{"type":"output_text","text":""}}"#;
    let start = Reply::named(Dialect::OpenAiResponses, &[CREATED, added, part]);
    assert_eq!(start.progress(), Progress::StartOnly);
    let more = Reply::named(Dialect::OpenAiResponses, &[CREATED, added, part, DELTA]);
    assert_eq!(more.progress(), Progress::Content);
}
