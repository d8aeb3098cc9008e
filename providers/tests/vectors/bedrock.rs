//! Amazon Bedrock: providers.md section 7, vectors V10 and V11.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use providers::eventstream::encode;
use providers::{Dialect, Ending, FailureClass, Progress, UsageSource};

use crate::anthropic::{END, START};
use crate::support::{Reply, assert_whole, class, usage};

const USAGE: &str = r#"{"inputTokens":12,"outputTokens":5,"totalTokens":1017,"cacheReadInputTokens":900,"cacheWriteInputTokens":100,"cacheDetails":[{"ttl":"1h","inputTokens":60},{"ttl":"5m","inputTokens":40}]}"#;

fn event(kind: &str, payload: &str) -> Vec<u8> {
    let headers = [
        (":event-type", kind),
        (":content-type", "application/json"),
        (":message-type", "event"),
    ];
    encode(&headers, payload.as_bytes())
}

fn converse() -> Vec<Vec<u8>> {
    vec![
        event("messageStart", r#"{"p":"abc","role":"assistant"}"#),
        event(
            "contentBlockDelta",
            r#"{"contentBlockIndex":0,"delta":{"text":"hi"},"p":"abcd"}"#,
        ),
        event("contentBlockStop", r#"{"contentBlockIndex":0}"#),
        event("messageStop", r#"{"stopReason":"end_turn"}"#),
        event(
            "metadata",
            &format!(r#"{{"metrics":{{"latencyMs":1}},"usage":{USAGE},"p":"a"}}"#),
        ),
    ]
}

fn expected() -> Option<providers::Usage> {
    usage(1012, 5, |usage| {
        usage.cache_read = Some(900);
        usage.cache_write_5m = Some(40);
        usage.cache_write_1h = Some(60);
        usage.in_plain = Some(12);
    })
}

#[test]
fn v10_converse_as_a_document_and_as_a_stream() {
    let body = format!(
        r#"{{"output":{{"message":{{"role":"assistant","content":[{{"text":"hi"}}]}}}},"stopReason":"end_turn","usage":{USAGE}}}"#
    );
    for reply in [
        Reply::json(Dialect::BedrockConverse, &body),
        Reply::frames(Dialect::BedrockConverse, converse().concat()),
    ] {
        let reading = reply.header("x-amzn-requestid", "q1").read();
        assert_whole(&reading);
        assert_eq!(reading.usage, expected());
        assert_eq!(reading.finish.as_deref(), Some("end_turn"));
        assert_eq!(reading.response_id.as_deref(), Some("q1"));
        assert_eq!(reading.delivered_text_bytes, 2);
    }
}

#[test]
fn v10_a_flipped_bit_ends_the_reading() {
    let frames = converse();
    let good = frames.concat();
    let mut broken = good.clone();
    let at = frames[0].len() + frames[1].len() - 6;
    broken[at] ^= 1;
    let reading = Reply::frames(Dialect::BedrockConverse, broken).read();
    assert_eq!((reading.usage, reading.ending), (None, Ending::Unknown));
    assert_eq!((reading.events, reading.malformed_events), (1, 1));
}

#[test]
fn v10_without_its_metadata_the_usage_is_lost() {
    let frames = converse()[..4].concat();
    let reading = Reply::frames(Dialect::BedrockConverse, frames).read();
    assert_eq!((reading.usage, reading.ending), (None, Ending::Unknown));
    assert_eq!(reading.finish.as_deref(), Some("end_turn"));
}

#[test]
fn exception_frames_are_failures() {
    let exception = |kind: &str| {
        let headers = [
            (":exception-type", kind),
            (":content-type", "application/json"),
            (":message-type", "exception"),
        ];
        encode(&headers, br#"{"message":"Too many"}"#)
    };
    for (kind, expected) in [
        ("throttlingException", FailureClass::RateLimit),
        ("modelStreamErrorException", FailureClass::Server),
        ("validationException", FailureClass::BadRequest),
    ] {
        let body = [converse()[0].clone(), exception(kind)].concat();
        for dialect in [Dialect::BedrockConverse, Dialect::BedrockInvoke] {
            let reply = Reply::frames(dialect, body.clone());
            assert!(matches!(reply.progress(), Progress::Error(_)));
            let reading = reply.read();
            assert_eq!(class(&reading), Some(expected), "{kind}");
            assert_eq!(reading.ending, Ending::Unknown);
        }
    }
}

fn chunk(native: &str) -> Vec<u8> {
    let payload = format!(r#"{{"bytes":"{}","p":"abcdef"}}"#, STANDARD.encode(native));
    event("chunk", &payload)
}

const METRICS: &str = r#"{"type":"message_stop","amazon-bedrock-invocationMetrics":{"inputTokenCount":9,"outputTokenCount":4,"invocationLatency":700,"firstByteLatency":300}}"#;

#[test]
fn v11_native_numbers_win_and_metrics_fill_gaps() {
    let body = [chunk(START), chunk(END), chunk(METRICS)].concat();
    let reading = Reply::frames(Dialect::BedrockInvoke, body).read();
    assert_whole(&reading);
    let told = reading.usage.expect("usage was told");
    assert_eq!(
        (told.in_total, told.out_total, told.in_plain),
        (Some(2340), Some(42), Some(40))
    );
    assert_eq!(reading.model.as_deref(), Some("claude-x"));

    let reading = Reply::frames(Dialect::BedrockInvoke, chunk(METRICS)).read();
    assert_whole(&reading);
    assert_eq!(reading.usage, usage(9, 4, |_| ()));
}

#[test]
fn other_makers_in_their_own_words() {
    let metrics =
        r#""amazon-bedrock-invocationMetrics":{"inputTokenCount":9,"outputTokenCount":4}"#;
    let llama = format!(
        r#"{{"generation":"ab","prompt_token_count":9,"generation_token_count":4,"stop_reason":"stop",{metrics}}}"#
    );
    let titan = format!(
        r#"{{"outputText":"ab","index":0,"totalOutputTextTokenCount":4,"completionReason":"FINISH","inputTextTokenCount":9,{metrics}}}"#
    );
    for native in [llama, titan] {
        let reading = Reply::frames(Dialect::BedrockInvoke, chunk(&native)).read();
        assert_whole(&reading);
        assert_eq!(reading.usage, usage(9, 4, |_| ()), "{native}");
        assert_eq!(reading.delivered_text_bytes, 2);
        assert!(reading.finish.is_some());
    }
    let nova = [
        chunk(r#"{"messageStart":{"role":"assistant"}}"#),
        chunk(r#"{"contentBlockDelta":{"delta":{"text":"ab"},"contentBlockIndex":0}}"#),
        chunk(r#"{"messageStop":{"stopReason":"end_turn"}}"#),
        chunk(&format!(
            r#"{{"metadata":{{"usage":{{"inputTokens":9,"outputTokens":4}}}},{metrics}}}"#
        )),
    ];
    let reading = Reply::frames(Dialect::BedrockInvoke, nova.concat()).read();
    assert_whole(&reading);
    assert_eq!(reading.usage, usage(9, 4, |_| ()));
    assert_eq!(reading.finish.as_deref(), Some("end_turn"));
}

#[test]
fn documents_without_usage_have_headers() {
    let reading = Reply::json(Dialect::BedrockInvoke, r#"{"embeddings":[[0.1]]}"#)
        .header("x-amzn-bedrock-input-token-count", "7")
        .read();
    assert_whole(&reading);
    let told = reading.usage.expect("told by a header");
    assert_eq!((told.in_total, told.out_total), (Some(7), None));
    assert_eq!(told.source, UsageSource::Header);
    let anthropic = r#"{"type":"message","id":"m","model":"claude-x","stop_reason":"end_turn","content":[],"usage":{"input_tokens":3,"output_tokens":2}}"#;
    let reading = Reply::json(Dialect::BedrockInvoke, anthropic)
        .header("x-amzn-bedrock-input-token-count", "7")
        .read();
    assert_eq!(reading.usage, usage(3, 2, |_| ()));
}
