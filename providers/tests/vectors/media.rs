//! Everything that is not chat: providers.md sections 3, 9, 19 and 20, vectors V20 and V21.

use providers::{Dialect, Ending, Usage, UsageSource};

use crate::support::{Reply, assert_whole, usage};

#[test]
fn v20_transcriptions_by_time_and_by_tokens() {
    let timed = Reply::json(
        Dialect::OpenAiMedia,
        r#"{"text":"hi","usage":{"type":"duration","seconds":3.4}}"#,
    )
    .read();
    assert_whole(&timed);
    let expected = Usage {
        seconds: Some(3.4),
        ..Usage::default()
    };
    assert_eq!(timed.usage, Some(expected));
    let counted = Reply::json(
        Dialect::OpenAiMedia,
        r#"{"text":"hi","usage":{"type":"tokens","input_tokens":14,"output_tokens":45,"total_tokens":59,"input_token_details":{"audio_tokens":14,"text_tokens":0}}}"#,
    )
    .read();
    assert_whole(&counted);
    assert_eq!(
        counted.usage,
        usage(14, 45, |usage| usage.in_audio = Some(14))
    );
    assert_eq!(counted.delivered_text_bytes, 2);
}

#[test]
fn v20_as_a_stream() {
    let delta = r#"{"type":"transcript.text.delta","delta":"hi"}"#;
    let done = r#"{"type":"transcript.text.done","text":"hi","usage":{"type":"tokens","input_tokens":14,"output_tokens":45,"total_tokens":59}}"#;
    for reply in [
        Reply::named(Dialect::OpenAiMedia, &[delta, done]),
        Reply::events(Dialect::OpenAiMedia, &[delta, done]),
    ] {
        let reading = reply.read();
        assert_whole(&reading);
        assert_eq!(reading.usage, usage(14, 45, |_| ()));
    }
    assert_eq!(
        Reply::named(Dialect::OpenAiMedia, &[delta]).read().ending,
        Ending::Unknown
    );
}

#[test]
fn v21_pictures_are_counted_and_their_tokens_are_pictures() {
    let body = r#"{"created":1,"data":[{"b64_json":"AA"}],"usage":{"input_tokens":50,"output_tokens":1056,"total_tokens":1106,"input_tokens_details":{"text_tokens":10,"image_tokens":40}}}"#;
    let reading = Reply::json(Dialect::OpenAiMedia, body).read();
    assert_whole(&reading);
    let expected = usage(50, 1056, |usage| {
        usage.in_image = Some(40);
        usage.out_image = Some(1056);
        usage.images = Some(1);
    });
    assert_eq!(reading.usage, expected);
    let two = Reply::json(
        Dialect::OpenAiMedia,
        r#"{"created":1,"data":[{"url":"u"},{"url":"u"}]}"#,
    )
    .read();
    let expected = Usage {
        images: Some(2),
        ..Usage::default()
    };
    assert_eq!(two.usage, Some(expected));
}

#[test]
fn v21_as_a_stream() {
    let partial =
        r#"{"type":"image_generation.partial_image","b64_json":"AA","partial_image_index":0}"#;
    let completed = r#"{"type":"image_generation.completed","b64_json":"AA","usage":{"input_tokens":50,"output_tokens":1056,"total_tokens":1106}}"#;
    let reading = Reply::named(Dialect::OpenAiMedia, &[partial, completed]).read();
    assert_whole(&reading);
    let told = reading.usage.expect("usage was told");
    assert_eq!((told.images, told.out_image), (Some(1), Some(1056)));
}

#[test]
fn embeddings_are_no_pictures_and_jobs_are_no_failures() {
    let embeddings = r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.1,0.2]}],"model":"e","usage":{"prompt_tokens":8,"total_tokens":8}}"#;
    let reading = Reply::json(Dialect::OpenAiMedia, embeddings).read();
    assert_whole(&reading);
    let told = reading.usage.expect("usage was told");
    assert_eq!(
        (told.in_total, told.out_total, told.images),
        (Some(8), None, None)
    );
    let job = r#"{"object":"fine_tuning.job","id":"j","status":"failed","error":{"code":"bad_file","message":"m"}}"#;
    let reading = Reply::json(Dialect::OpenAiMedia, job).read();
    assert_whole(&reading);
    assert_eq!(reading.failure, None);
}

#[test]
fn scanned_pages_and_conversations() {
    let pages =
        r#"{"pages":[],"model":"ocr","usage_info":{"pages_processed":3,"doc_size_bytes":10}}"#;
    let told = Reply::json(Dialect::Mistral, pages)
        .read()
        .usage
        .expect("told");
    assert_eq!(told.pages, Some(3));
    let started = r#"{"type":"conversation.response.started","conversation_id":"conv_1"}"#;
    let delta = r#"{"type":"message.output.delta","content":"ab","model":"m"}"#;
    let done = r#"{"type":"conversation.response.done","usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":17,"connector_tokens":10}}"#;
    let reading = Reply::named(Dialect::Mistral, &[started, delta, done]).read();
    assert_whole(&reading);
    let expected = usage(15, 2, |usage| usage.in_tool = Some(10));
    assert_eq!(reading.usage, expected);
    assert_eq!(reading.response_id.as_deref(), Some("conv_1"));
    let error = r#"{"type":"conversation.response.error","message":"m","code":500}"#;
    assert!(
        Reply::named(Dialect::Mistral, &[started, error])
            .read()
            .failure
            .is_some()
    );
}

#[test]
fn speech_by_seconds_and_characters() {
    let heard = r#"{"metadata":{"request_id":"q","duration":10.5,"channels":2,"models":["m"]},"results":{}}"#;
    let reading = Reply::json(Dialect::Deepgram, heard).read();
    assert_whole(&reading);
    assert_eq!(reading.usage.expect("told").seconds, Some(21.0));
    assert_eq!(reading.response_id.as_deref(), Some("q"));

    let spoken = Reply {
        content_type: "audio/mpeg",
        ..Reply::json(Dialect::Elevenlabs, "{\"not\": json")
    };
    let reading = spoken
        .header("character-cost", "42")
        .header("request-id", "e1")
        .read();
    assert_whole(&reading);
    let told = reading.usage.expect("told by a header");
    assert_eq!(
        (told.characters, told.source),
        (Some(42), UsageSource::Header)
    );
    assert_eq!(reading.response_id.as_deref(), Some("e1"));

    let chunk = r#"{"type":"chunk","data":"AA","done":false,"status_code":206}"#;
    let done = r#"{"type":"done","done":true,"status_code":200}"#;
    assert_whole(&Reply::events(Dialect::Cartesia, &[chunk, done]).read());
    assert_eq!(
        Reply::events(Dialect::Cartesia, &[chunk]).read().ending,
        Ending::Unknown
    );
}

#[test]
fn pictures_of_other_makers() {
    let ideogram = r#"{"created":"t","data":[{"url":"u","is_image_safe":true},{"url":null,"is_image_safe":false}]}"#;
    let told = Reply::json(Dialect::Ideogram, ideogram)
        .read()
        .usage
        .expect("counted");
    assert_eq!((told.images, told.out_image), (Some(2), None));
    let fal = r#"{"images":[{"url":"u"},{"url":"u"},{"url":"u"}],"seed":1}"#;
    let reading = Reply::json(Dialect::Fal, fal)
        .header("x-fal-request-id", "f1")
        .read();
    assert_eq!(reading.usage.expect("counted").images, Some(3));
    assert_eq!(reading.response_id.as_deref(), Some("f1"));
}
