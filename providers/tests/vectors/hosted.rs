//! Cohere, text-generation-inference, Replicate, Ollama: providers.md sections 8, 10, 18, 21, vectors V12, V14
//! and V22.

use providers::{Dialect, Ending, FailureClass, Progress, Usage, UsageSource};

use crate::support::{Reply, assert_whole, class, usage};

#[test]
fn v12_cohere_bills_its_billed_units() {
    let start = r#"{"type":"message-start","id":"c1","delta":{"message":{"role":"assistant"}}}"#;
    let text =
        r#"{"type":"content-delta","index":0,"delta":{"message":{"content":{"text":"ab"}}}}"#;
    let end = r#"{"type":"message-end","delta":{"finish_reason":"COMPLETE","usage":{"billed_units":{"input_tokens":12.0,"output_tokens":3.0},"tokens":{"input_tokens":512.0,"output_tokens":4.0},"cached_tokens":0}}}"#;
    assert_eq!(
        Reply::named(Dialect::CohereV2, &[start]).progress(),
        Progress::StartOnly
    );
    let reading = Reply::named(Dialect::CohereV2, &[start, text, end]).read();
    assert_whole(&reading);
    assert_eq!(
        reading.usage,
        usage(12, 3, |usage| usage.cache_read = Some(0))
    );
    assert!(
        reading
            .usage_raw
            .expect("kept")
            .contains("\"tokens\":{\"input_tokens\":512.0")
    );
    assert_eq!(reading.finish.as_deref(), Some("COMPLETE"));
    assert_eq!(reading.response_id.as_deref(), Some("c1"));
    assert_eq!(reading.delivered_text_bytes, 2);

    let failed = r#"{"type":"message-end","delta":{"finish_reason":"ERROR","error":"broke"}}"#;
    let reading = Reply::named(Dialect::CohereV2, &[start, text, failed]).read();
    assert_eq!(reading.ending, Ending::Unknown);
    assert_eq!(reading.failure.expect("told").message, "broke");
}

#[test]
fn v12_reranking_has_units_and_no_tokens() {
    let body = r#"{"id":"i","results":[],"meta":{"billed_units":{"search_units":2}}}"#;
    for dialect in [Dialect::CohereV1, Dialect::CohereV2] {
        let reading = Reply::json(dialect, body).read();
        assert_whole(&reading);
        let expected = Usage {
            search_units: Some(2),
            ..Usage::default()
        };
        assert_eq!(reading.usage, Some(expected));
    }
}

#[test]
fn cohere_v1_in_lines() {
    let start = r#"{"is_finished":false,"event_type":"stream-start","generation_id":"g1"}"#;
    let text = r#"{"is_finished":false,"event_type":"text-generation","text":"ab"}"#;
    let end = r#"{"is_finished":true,"event_type":"stream-end","finish_reason":"COMPLETE","response":{"text":"ab","generation_id":"g1","meta":{"billed_units":{"input_tokens":5,"output_tokens":1}}}}"#;
    let reply = Reply {
        content_type: "application/stream+json",
        ..Reply::lines(Dialect::CohereV1, &[start, text, end])
    };
    let reading = reply.read();
    assert_whole(&reading);
    assert_eq!(reading.usage, usage(5, 1, |_| ()));
    assert_eq!(reading.response_id.as_deref(), Some("g1"));
    assert_eq!(reading.delivered_text_bytes, 2);
    let unfinished = Reply::lines(Dialect::CohereV1, &[start, text]).read();
    assert_eq!(unfinished.ending, Ending::Unknown);
}

const TOKEN: &str = r#"{"index":1,"token":{"id":1,"text":"a","logprob":-0.1,"special":false},"generated_text":null,"details":null}"#;
const SECOND: &str = r#"{"index":2,"token":{"id":1,"text":"b","logprob":-0.1,"special":false},"generated_text":null,"details":null}"#;
const LAST: &str = r#"{"index":3,"token":{"id":2,"text":"</s>","logprob":-0.1,"special":true},"generated_text":"ab","details":{"finish_reason":"eos_token","generated_tokens":3,"input_length":8,"seed":null}}"#;

fn tgi(events: &[&str]) -> Reply {
    // This server leaves the space out, and sends empty comments while it waits.
    let body: String = events
        .iter()
        .map(|data| format!(":\n\ndata:{data}\n\n"))
        .collect();
    Reply::sse(Dialect::Tgi, &body)
}

#[test]
fn v14_details_tell_both_counts() {
    let reading = tgi(&[TOKEN, SECOND, LAST]).read();
    assert_whole(&reading);
    assert_eq!(reading.usage, usage(8, 3, |_| ()));
    assert_eq!(reading.finish.as_deref(), Some("eos_token"));
    assert_eq!(reading.delivered_text_bytes, 2);
}

#[test]
fn v14_without_details_the_output_is_counted() {
    let last = r#"{"index":3,"token":{"id":2,"text":"</s>","logprob":-0.1,"special":true},"generated_text":"ab","details":null}"#;
    let expected = Usage {
        out_total: Some(3),
        source: UsageSource::Estimate,
        ..Usage::default()
    };
    for events in [&[TOKEN, SECOND, last][..], &[last]] {
        let reading = tgi(events).read();
        assert_whole(&reading);
        assert_eq!(reading.usage.as_ref(), Some(&expected));
    }
}

#[test]
fn v14_errors_inside_a_success() {
    let error = r#"{"error":"Model is overloaded","error_type":"overloaded"}"#;
    let reply = tgi(&[error]);
    assert!(matches!(reply.progress(), Progress::Error(_)));
    let reading = reply.read();
    assert_eq!(class(&reading), Some(FailureClass::Overloaded));
    assert_eq!(reading.ending, Ending::Unknown);
}

#[test]
fn tgi_documents_bare_and_in_a_list() {
    let body = r#"{"generated_text":"ab","details":{"finish_reason":"length","generated_tokens":3,"prefill":[],"tokens":[]}}"#;
    for body in [body.to_owned(), format!("[{body}]")] {
        let reading = Reply::json(Dialect::Tgi, &body)
            .header("x-prompt-tokens", "8")
            .read();
        assert_whole(&reading);
        assert_eq!(reading.usage, usage(8, 3, |_| ()));
    }
    let vectors = Reply::json(Dialect::Tgi, "[[0.1,0.2],[0.3]]")
        .header("x-compute-characters", "12")
        .read();
    assert_whole(&vectors);
    assert_eq!(
        vectors.usage.expect("told by a header").characters,
        Some(12)
    );
}

#[test]
fn v22_replicate_tells_its_metrics_when_it_is_done() {
    let done = r#"{"id":"p","model":"o/n","version":"v","status":"succeeded","output":["a"],"error":null,"metrics":{"predict_time":1.5,"input_token_count":7,"output_token_count":9},"urls":{"get":"u","cancel":"u"}}"#;
    let reading = Reply::json(Dialect::Replicate, done).read();
    assert_whole(&reading);
    assert_eq!(
        reading.usage,
        usage(7, 9, |usage| usage.seconds = Some(1.5))
    );
    assert_eq!(reading.model.as_deref(), Some("o/n"));

    let starting = r#"{"id":"p","model":"o/n","version":"v","status":"starting","output":null,"error":null,"urls":{"get":"u","cancel":"u"}}"#;
    let reading = Reply::json(Dialect::Replicate, starting).read();
    assert_eq!((reading.usage, reading.ending), (None, Ending::Unknown));
    assert_eq!(reading.failure, None);

    let failed =
        r#"{"id":"p","status":"failed","error":"out of memory","metrics":{"predict_time":0.5}}"#;
    let reading = Reply::json(Dialect::Replicate, failed).read();
    assert_eq!(class(&reading), Some(FailureClass::Server));
    assert_eq!(reading.ending, Ending::Unknown);
}

#[test]
fn replicate_streams_are_plain_text() {
    let body = "event: output\nid: 1:0\ndata: Once\n\nevent: logs\nid: 2:0\ndata: busy\n\nevent: done\nid: 3:0\ndata: {}\n\n";
    let reading = Reply::sse(Dialect::Replicate, body).read();
    assert_whole(&reading);
    assert_eq!((reading.usage, reading.delivered_text_bytes), (None, 4));
    let failed = body.replace("{}", "{\"reason\":\"error\"}");
    assert!(
        Reply::sse(Dialect::Replicate, &failed)
            .read()
            .failure
            .is_some()
    );
    let canceled = body.replace("{}", "{\"reason\":\"canceled\"}");
    let reading = Reply::sse(Dialect::Replicate, &canceled).read();
    assert_eq!((reading.failure, reading.ending), (None, Ending::Unknown));
}

#[test]
fn ollama_counts_on_its_last_line() {
    let text = r#"{"model":"llama","created_at":"t","message":{"role":"assistant","content":"ab"},"done":false}"#;
    let last = r#"{"model":"llama","created_at":"t","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","prompt_eval_count":4,"eval_count":6}"#;
    let reading = Reply::lines(Dialect::Ollama, &[text, last]).read();
    assert_whole(&reading);
    assert_eq!(reading.usage, usage(4, 6, |_| ()));
    assert_eq!(
        (reading.finish.as_deref(), reading.delivered_text_bytes),
        (Some("stop"), 2)
    );
    let reading = Reply::json(Dialect::Ollama, last).read();
    assert_whole(&reading);
    assert_eq!(reading.usage, usage(4, 6, |_| ()));
    let error = Reply::lines(Dialect::Ollama, &[text, r#"{"error":"broke"}"#]).read();
    assert_eq!(error.failure.expect("told").message, "broke");
}
