//! OpenAI's chat format by its many speakers: providers.md sections 1, 4, 9, 11 to 17, vectors V1 to V3, V13 and
//! V15 to V19.

use providers::{Dialect, Ending, FailureClass, UsageSource};

use crate::support::{Reply, assert_whole, class, usage};

const FIRST: &str = r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","model":"gpt-x","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}"#;
const TEXT: &str = r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","model":"gpt-x","choices":[{"index":0,"delta":{"content":"žluť"},"finish_reason":null}],"usage":null}"#;
const STOP: &str = r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","model":"gpt-x","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}"#;
const USAGE: &str = r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","model":"gpt-x","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}"#;
const DONE: &str = "[DONE]";

#[test]
fn v1_document_with_cached_written_and_reasoning_tokens() {
    let reading = Reply::json(
        Dialect::OpenAiChat,
        r#"{"id":"chatcmpl-1","object":"chat.completion","model":"gpt-x","choices":[{"index":0,"message":{"role":"assistant","content":"a"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1000,"completion_tokens":300,"total_tokens":1300,"prompt_tokens_details":{"cached_tokens":600,"cache_write_tokens":100},"completion_tokens_details":{"reasoning_tokens":250}}}"#,
    )
    .read();
    assert_whole(&reading);
    let expected = usage(1000, 300, |usage| {
        usage.cache_read = Some(600);
        usage.cache_write_other = Some(100);
        usage.in_plain = Some(300);
        usage.reasoning = Some(250);
    });
    assert_eq!(reading.usage, expected);
    assert_eq!(reading.finish.as_deref(), Some("stop"));
    assert_eq!(reading.model.as_deref(), Some("gpt-x"));
    assert_eq!(reading.response_id.as_deref(), Some("chatcmpl-1"));
    assert_eq!(reading.delivered_text_bytes, 1);
}

#[test]
fn v2_stream_with_usage_on_an_extra_chunk() {
    let reading =
        Reply::events(Dialect::OpenAiChat, &[FIRST, TEXT, TEXT, STOP, USAGE, DONE]).read();
    assert_whole(&reading);
    assert_eq!(reading.usage, usage(5, 2, |_| ()));
    assert_eq!(
        reading.usage_raw.as_deref(),
        Some(r#"{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}"#)
    );
    assert_eq!((reading.events, reading.delivered_text_bytes), (6, 12));
}

#[test]
fn v2_without_its_last_two_events() {
    for reply in [
        Reply::events(Dialect::OpenAiChat, &[FIRST, STOP]),
        Reply::events(Dialect::OpenAiChat, &[FIRST, STOP]).cut(),
    ] {
        let reading = reply.read();
        assert_eq!(reading.usage, None);
        assert_eq!(reading.finish.as_deref(), Some("stop"));
        let expected = if reply.clean_end {
            Ending::Unknown
        } else {
            Ending::Cut
        };
        assert_eq!(reading.ending, expected);
    }
}

#[test]
fn v3_filter_chunks_before_and_after() {
    let first = r#"{"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":[{"prompt_index":0,"content_filter_results":{}}]}"#;
    let late = r#"{"id":"","model":"","choices":[{"index":0,"finish_reason":"content_filter","content_filter_results":{},"content_filter_offsets":{"check_offset":4,"start_offset":0,"end_offset":2}}]}"#;
    let reading = Reply::events(Dialect::OpenAiChat, &[first, FIRST, STOP, USAGE, DONE]).read();
    assert_whole(&reading);
    assert_eq!(reading.usage, usage(5, 2, |_| ()));
    assert_eq!(reading.model.as_deref(), Some("gpt-x"));
    assert_eq!(reading.response_id.as_deref(), Some("chatcmpl-1"));
    assert_eq!(reading.finish.as_deref(), Some("stop"));

    let reading = Reply::events(
        Dialect::OpenAiChat,
        &[first, FIRST, STOP, late, USAGE, DONE],
    )
    .read();
    assert_whole(&reading);
    assert_eq!(reading.finish.as_deref(), Some("content_filter"));
    assert_eq!(class(&reading), Some(FailureClass::ContentPolicy));
}

#[test]
fn v13_usage_beside_the_finish_reason() {
    let last = r#"{"id":"m","model":"mistral-x","choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}],"usage":{"prompt_tokens":4,"completion_tokens":6,"total_tokens":10,"prompt_audio_seconds":7}}"#;
    let reading = Reply::events(Dialect::OpenAiChat, &[last, DONE]).read();
    assert_whole(&reading);
    assert_eq!(
        reading.usage,
        usage(4, 6, |usage| usage.seconds = Some(7.0))
    );
}

#[test]
fn v15_error_chunk_before_the_end_marker() {
    let error = r#"{"id":"gen-1","object":"chat.completion.chunk","created":1,"model":"a/b","provider":"P","error":{"code":502,"message":"down","metadata":{"error_type":"provider_unavailable"}},"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}]}"#;
    let reading = Reply::events(Dialect::OpenRouter, &[FIRST, TEXT, error, DONE]).read();
    assert_eq!(reading.ending, Ending::Unknown);
    assert_eq!(class(&reading), Some(FailureClass::Server));
    assert_eq!(reading.failure.expect("checked above").message, "down");
}

#[test]
fn v15_the_price_openrouter_states() {
    let body = r#"{"id":"gen-1","model":"a/b","choices":[{"index":0,"message":{"content":"x"},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":5,"total_tokens":25,"cost":0.00042,"is_byok":false,"prompt_tokens_details":{"cached_tokens":8},"cost_details":{"upstream_inference_cost":null,"upstream_inference_prompt_cost":0.0002,"upstream_inference_completions_cost":0.00022}}}"#;
    let reading = Reply::json(Dialect::OpenRouter, body).read();
    assert_whole(&reading);
    let expected = usage(20, 5, |usage| {
        usage.cache_read = Some(8);
        usage.in_plain = Some(12);
        usage.cost_reported_pico = Some(420_000_000);
    });
    assert_eq!(reading.usage, expected);
}

#[test]
fn v16_blank_lines_first_and_hits_counted_once() {
    let body = "\n\n\n{\"usage\":{\"prompt_tokens\":30,\"completion_tokens\":9,\"total_tokens\":39,\"prompt_cache_hit_tokens\":16,\"prompt_cache_miss_tokens\":14,\"prompt_tokens_details\":{\"cached_tokens\":16},\"completion_tokens_details\":{\"reasoning_tokens\":4}}}";
    let reading = Reply::json(Dialect::OpenAiChat, body).read();
    assert_whole(&reading);
    let expected = usage(30, 9, |usage| {
        usage.cache_read = Some(16);
        usage.in_plain = Some(14);
        usage.reasoning = Some(4);
    });
    assert_eq!(reading.usage, expected);
}

#[test]
fn v17_usage_told_twice_counts_once() {
    let last = r#"{"id":"c","object":"chat.completion.chunk","model":"llama","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"x_groq":{"id":"req_1","usage":{"prompt_tokens":11,"completion_tokens":3,"total_tokens":14,"queue_time":0.01,"prompt_time":0.002,"completion_time":0.004,"total_time":0.006}}}"#;
    let extra =
        r#"{"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":3,"total_tokens":14}}"#;
    for events in [&[last, extra, DONE][..], &[last, DONE]] {
        let reading = Reply::events(Dialect::OpenAiChat, events).read();
        assert_whole(&reading);
        assert_eq!(reading.usage, usage(11, 3, |_| ()));
        assert_eq!(reading.model.as_deref(), Some("llama"));
    }
    let stopped = r#"{"id":"c","choices":[{"index":0,"delta":{},"finish_reason":null}],"x_groq":{"id":"r","error":"over capacity"}}"#;
    let reading = Reply::events(Dialect::OpenAiChat, &[FIRST, TEXT, stopped, DONE]).read();
    assert_eq!(reading.ending, Ending::Unknown);
    assert_eq!(
        reading.failure.expect("told in the chunk").message,
        "over capacity"
    );
}

#[test]
fn v18_running_totals_and_a_stated_price() {
    let first = r#"{"id":"p","model":"sonar","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"a"},"message":{"content":"a"},"finish_reason":null}],"usage":{"prompt_tokens":9,"completion_tokens":1,"total_tokens":10}}"#;
    let last = r#"{"id":"p","model":"sonar","object":"chat.completion.done","choices":[{"index":0,"delta":{"content":"b"},"message":{"content":"ab"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":40,"total_tokens":49,"search_context_size":"low","num_search_queries":2,"cost":{"input_tokens_cost":0.000009,"output_tokens_cost":0.00004,"request_cost":0.005,"total_cost":0.005049}}}"#;
    let reading = Reply::events(Dialect::Perplexity, &[first, last]).read();
    assert_whole(&reading);
    let expected = usage(9, 40, |usage| {
        usage.web_searches = Some(2);
        usage.cost_reported_pico = Some(5_049_000_000);
    });
    assert_eq!(reading.usage, expected);
    assert_eq!(reading.delivered_text_bytes, 2);

    let reading = Reply::events(Dialect::Perplexity, &[first]).cut().read();
    assert_eq!(reading.ending, Ending::Cut);
    let partial = usage(9, 1, |usage| usage.source = UsageSource::Partial);
    assert_eq!(reading.usage, partial);
}

#[test]
fn v19_reasoning_beside_and_price_in_ticks() {
    let body = r#"{"usage":{"prompt_tokens":10,"completion_tokens":2,"total_tokens":62,"completion_tokens_details":{"reasoning_tokens":50},"prompt_tokens_details":{"cached_tokens":4},"cost_in_usd_ticks":1234500}}"#;
    let reading = Reply::json(Dialect::OpenAiChat, body).read();
    assert_whole(&reading);
    let expected = usage(10, 52, |usage| {
        usage.cache_read = Some(4);
        usage.in_plain = Some(6);
        usage.reasoning = Some(50);
        usage.cost_reported_pico = Some(123_450_000);
    });
    assert_eq!(reading.usage, expected);
}

/// Section 13: a compound reply prices each model by itself.
#[test]
fn models_of_a_compound_reply_are_kept_apart() {
    let body = r#"{"id":"c","model":"compound","choices":[],"usage":{"prompt_tokens":30,"completion_tokens":5,"total_tokens":35},"usage_breakdown":{"models":[{"model":"a","usage":{"prompt_tokens":10,"completion_tokens":2}},{"model":"b","usage":{"prompt_tokens":20,"completion_tokens":3}}]}}"#;
    let reading = Reply::json(Dialect::OpenAiChat, body).read();
    let usage = reading.usage.expect("usage was told");
    assert_eq!((usage.in_total, usage.out_total), (Some(30), Some(5)));
    let parts: Vec<_> = usage
        .by_model
        .iter()
        .map(|part| (part.model.as_str(), part.usage.in_total))
        .collect();
    assert_eq!(parts, [("a", Some(10)), ("b", Some(20))]);
}

/// Section 17: cached tokens that stand only in a header.
#[test]
fn cached_tokens_from_a_header_are_part_of_the_body_count() {
    let reading = Reply::events(Dialect::OpenAiChat, &[FIRST, USAGE, DONE])
        .header("fireworks-prompt-tokens", "5")
        .header("fireworks-cached-prompt-tokens", "4")
        .read();
    let expected = usage(5, 2, |usage| {
        usage.cache_read = Some(4);
        usage.in_plain = Some(1);
    });
    assert_eq!(reading.usage, expected);
}

/// workers-ai.md sections 1.5, 1.7 and 1.8.
#[test]
fn workers_ai_in_its_own_form() {
    let chunk = r#"{"response":"tok","tool_calls":[],"p":"abdefgh"}"#;
    let last =
        r#"{"response":"","usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}"#;
    let reading = Reply::events(Dialect::WorkersAi, &[chunk, chunk, chunk, last, DONE]).read();
    assert_whole(&reading);
    assert_eq!(reading.usage, usage(7, 2, |_| ()));
    assert_eq!(reading.delivered_text_bytes, 9);

    let body = r#"{"result":{"response":"hello","tool_calls":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}},"success":true,"errors":[],"messages":[]}"#;
    let reading = Reply::json(Dialect::WorkersAi, body).read();
    assert_whole(&reading);
    assert_eq!(reading.usage, usage(7, 2, |_| ()));
    assert_eq!(reading.delivered_text_bytes, 5);

    let chat = r#"{"result":{"id":"c","model":"m","choices":[{"index":0,"message":{"content":"x"},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}},"success":true,"errors":[],"messages":[]}"#;
    let reading = Reply::json(Dialect::WorkersAi, chat).read();
    assert_whole(&reading);
    assert_eq!(reading.usage.expect("usage was told").cache_read, Some(4));
    assert_eq!(reading.model.as_deref(), Some("m"));

    let failed = r#"{"errors":[{"message":"Capacity temporarily exceeded, please try again.","code":3040}]}"#;
    let reading = Reply::events(Dialect::WorkersAi, &[chunk, failed]).read();
    assert_eq!(reading.ending, Ending::Unknown);
    assert!(reading.failure.is_some());
}
