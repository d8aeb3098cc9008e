//! Gemini, Vertex and interactions: providers.md section 6, vectors V8 and V9.

use providers::{Dialect, Ending, FailureClass, Progress, UsageSource};

use crate::support::{Reply, assert_whole, class, usage};

const EARLY: &str = r#"{"candidates":[{"content":{"parts":[{"text":"é"}],"role":"model"}}],"usageMetadata":{"promptTokenCount":100,"totalTokenCount":100},"modelVersion":"gemini-x","responseId":"r"}"#;
const LAST: &str = r#"{"candidates":[{"index":0,"content":{"parts":[{"text":"x"}],"role":"model"},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":100,"cachedContentTokenCount":60,"candidatesTokenCount":20,"thoughtsTokenCount":80,"toolUsePromptTokenCount":15,"totalTokenCount":215},"modelVersion":"gemini-x","responseId":"r"}"#;

fn expected() -> Option<providers::Usage> {
    usage(115, 100, |usage| {
        usage.cache_read = Some(60);
        usage.in_tool = Some(15);
        usage.in_plain = Some(55);
        usage.reasoning = Some(80);
    })
}

#[test]
fn v8_thoughts_stand_beside_candidates() {
    let reading = Reply::events(Dialect::Gemini, &[EARLY, LAST]).read();
    assert_whole(&reading);
    assert_eq!(reading.usage, expected());
    assert_eq!(reading.model.as_deref(), Some("gemini-x"));
    assert_eq!(reading.response_id.as_deref(), Some("r"));
    assert_eq!(reading.finish.as_deref(), Some("STOP"));
    assert_eq!(reading.delivered_text_bytes, 3);
}

#[test]
fn v8_on_a_host_that_counts_them_in() {
    let inclusive = LAST.replace(
        "\"candidatesTokenCount\":20",
        "\"candidatesTokenCount\":100",
    );
    let reading = Reply::events(Dialect::Gemini, &[&inclusive]).read();
    assert_eq!(reading.usage, expected());
}

#[test]
fn v8_as_one_growing_array() {
    let array = Reply {
        streamed: true,
        ..Reply::json(Dialect::Gemini, &format!("[{EARLY},\r\n{LAST}\n]"))
    };
    let reading = array.read();
    assert_whole(&reading);
    assert_eq!(reading.usage, expected());
    assert_eq!(reading.events, 2);

    let open = Reply {
        body: format!("[{EARLY},\r\n{LAST}").into_bytes(),
        ..array
    };
    let reading = open.read();
    assert_eq!(reading.ending, Ending::Unknown);
    assert_eq!(
        reading.usage.expect("usage was told").source,
        UsageSource::Partial
    );
}

#[test]
fn v9_a_blocked_prompt_is_whole() {
    let blocked = r#"{"promptFeedback":{"blockReason":"PROHIBITED_CONTENT"},"usageMetadata":{"promptTokenCount":7,"totalTokenCount":7}}"#;
    for reply in [
        Reply::json(Dialect::Gemini, blocked),
        Reply::events(Dialect::Gemini, &[blocked]),
    ] {
        let reading = reply.read();
        assert_whole(&reading);
        assert_eq!(reading.usage, usage(7, 0, |_| ()));
        assert_eq!(class(&reading), Some(FailureClass::ContentPolicy));
    }
}

#[test]
fn every_candidate_must_finish() {
    let two = r#"{"candidates":[{"index":0,"content":{"parts":[{"text":"a"}]}},{"index":1,"content":{"parts":[{"text":"b"}]}}]}"#;
    let first = r#"{"candidates":[{"index":1,"finishReason":"STOP"}]}"#;
    let second = r#"{"candidates":[{"finishReason":"MAX_TOKENS"}]}"#;
    let reading = Reply::events(Dialect::Gemini, &[two, first]).read();
    assert_eq!(reading.ending, Ending::Unknown);
    let reading = Reply::events(Dialect::Gemini, &[two, first, second]).read();
    assert_whole(&reading);
    let again =
        r#"{"candidates":[{"content":{"parts":[{"text":"a"}]},"finishReason":"CONTINUATION"}]}"#;
    assert_eq!(
        Reply::events(Dialect::Gemini, &[again]).read().ending,
        Ending::Unknown
    );
}

#[test]
fn errors_in_every_place() {
    let error =
        r#"{"error":{"code":503,"message":"The model is overloaded.","status":"UNAVAILABLE"}}"#;
    let first = Reply::events(Dialect::Gemini, &[error]);
    assert!(matches!(first.progress(), Progress::Error(_)));
    assert_eq!(class(&first.read()), Some(FailureClass::Overloaded));
    let array = Reply::json(Dialect::Gemini, &format!("[{error}\n]"));
    assert_eq!(class(&array.read()), Some(FailureClass::Overloaded));
    // Bare lines in the middle of a stream.
    let bare = format!("data: {EARLY}\n\n{}\n", error.replace(',', ",\n"));
    let reading = Reply::sse(Dialect::Gemini, &bare).read();
    assert!(reading.failure.is_some());
    assert_eq!(reading.ending, Ending::Unknown);
}

#[test]
fn vertex_predictions_count_tokens_and_pictures() {
    let embeddings = r#"{"predictions":[{"embeddings":{"statistics":{"token_count":3,"truncated":false},"values":[0.1]}},{"embeddings":{"statistics":{"token_count":4}}}],"metadata":{"billableCharacterCount":30}}"#;
    let usage = Reply::json(Dialect::Gemini, embeddings)
        .read()
        .usage
        .expect("usage was told");
    assert_eq!((usage.in_total, usage.characters), (Some(7), Some(30)));
    let pictures = r#"{"predictions":[{"bytesBase64Encoded":"AA","mimeType":"image/png"},{"raiFilteredReason":"x"}]}"#;
    let usage = Reply::json(Dialect::Gemini, pictures)
        .read()
        .usage
        .expect("usage was told");
    assert_eq!(usage.images, Some(1));
}

/// The interactions format at the end of section 6.
#[test]
fn interactions_end_in_an_event_of_their_own() {
    let created = r#"{"event_type":"interaction.created","interaction":{"id":"i1","model":"gemini-x","status":"in_progress"}}"#;
    let delta = r#"{"event_type":"step.delta","index":0,"delta":{"type":"text","text":"ab"}}"#;
    let completed = r#"{"event_type":"interaction.completed","interaction":{"id":"i1","status":"completed","usage":{"total_input_tokens":10,"total_output_tokens":5,"total_thought_tokens":3,"total_cached_tokens":4,"total_tokens":18}}}"#;
    let start = Reply::events(Dialect::GeminiInteractions, &[created]);
    assert_eq!(start.progress(), Progress::StartOnly);
    let reading = Reply::events(
        Dialect::GeminiInteractions,
        &[created, delta, completed, "[DONE]"],
    )
    .read();
    assert_whole(&reading);
    let expected = usage(10, 8, |usage| {
        usage.cache_read = Some(4);
        usage.in_plain = Some(6);
        usage.reasoning = Some(3);
    });
    let mut found = reading.usage;
    if let Some(usage) = &mut found {
        usage.in_tool = None;
    }
    assert_eq!(found, expected);
    assert_eq!(reading.response_id.as_deref(), Some("i1"));
    assert_eq!(reading.delivered_text_bytes, 2);
}
