use super::*;

use FailureClass::*;

fn class(dialect: Dialect, status: u16, body: &str) -> Option<FailureClass> {
    classify(dialect, status, &|_| None, body.as_bytes()).map(|failure| failure.class)
}

fn wait(headers: &[(&str, &str)], body: &str) -> Option<Duration> {
    let header = |name: &str| {
        headers
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, v)| (*v).to_owned())
    };
    classify(Dialect::OpenAiChat, 429, &header, body.as_bytes())
        .and_then(|failure| failure.retry_after)
}

#[test]
fn classes_follow_the_words_before_the_status() {
    #[rustfmt::skip]
    let cases: &[(Dialect, u16, &str, FailureClass)] = &[
        // OpenAI and those who copied it
        (Dialect::OpenAiChat, 401, r#"{"error":{"message":"bad","type":"invalid_request_error","code":"invalid_api_key"}}"#, Auth),
        (Dialect::OpenAiChat, 429, r#"{"error":{"message":"slow","type":"requests","code":"rate_limit_exceeded"}}"#, RateLimit),
        (Dialect::OpenAiChat, 429, r#"{"error":{"message":"plan","type":"insufficient_quota","code":"insufficient_quota"}}"#, QuotaGone),
        (Dialect::OpenAiChat, 400, r#"{"error":{"message":"m","type":"invalid_request_error","code":"context_length_exceeded"}}"#, ContextTooLong),
        (Dialect::OpenAiChat, 400, r#"{"error":{"message":"m","type":"image_generation_user_error","code":"moderation_blocked"}}"#, ContentPolicy),
        (Dialect::OpenAiChat, 400, r#"{"error":{"message":"Invalid prompt: flagged as violating our usage policy","code":"invalid_prompt"}}"#, ContentPolicy),
        (Dialect::OpenAiChat, 400, r#"{"error":{"message":"no","type":"invalid_request_error","code":null}}"#, BadRequest),
        (Dialect::OpenAiChat, 404, r#"{"error":{"message":"no such model","code":"model_not_found"}}"#, NotFound),
        (Dialect::OpenAiChat, 403, r#"{"error":{"message":"no such model","code":"model_not_found"}}"#, NotFound),
        (Dialect::OpenAiChat, 503, r#"{"error":{"message":"m","type":"server_error","code":"server_is_overloaded"}}"#, Overloaded),
        (Dialect::OpenAiChat, 500, r#"{"error":{"message":"m","type":"server_error","code":null}}"#, Server),
        (Dialect::OpenAiChat, 408, "", Server),
        (Dialect::OpenAiChat, 425, "", Server),
        // Azure: a blocked prompt, and an edge body without `error`
        (Dialect::OpenAiChat, 400, r#"{"error":{"code":"content_filter","type":null,"param":"prompt","status":400,"message":"m","innererror":{"code":"ResponsibleAIPolicyViolation"}}}"#, ContentPolicy),
        (Dialect::OpenAiResponses, 400, r#"{"error":{"message":"m","content_filters":[{"blocked":true}]}}"#, ContentPolicy),
        (Dialect::OpenAiChat, 401, r#"{"statusCode":401,"message":"Access denied"}"#, Auth),
        (Dialect::OpenAiChat, 429, r#"{"error":{"code":"EngineOverloaded","message":"m"}}"#, Overloaded),
        // Anthropic
        (Dialect::Anthropic, 529, r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#, Overloaded),
        (Dialect::Anthropic, 402, r#"{"type":"error","error":{"type":"billing_error","message":"m"}}"#, QuotaGone),
        (Dialect::Anthropic, 400, r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 210000 tokens > 200000 maximum"}}"#, ContextTooLong),
        (Dialect::Anthropic, 429, r#"{"type":"error","error":{"type":"rate_limit_error","message":"m","details":{"error_code":"enforced_spend_limit_reached"}}}"#, QuotaGone),
        (Dialect::Anthropic, 400, r#"{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low"}}"#, QuotaGone),
        (Dialect::Anthropic, 413, r#"{"type":"error","error":{"type":"request_too_large","message":"m"}}"#, BadRequest),
        // Google: object and array form
        (Dialect::Gemini, 400, r#"{"error":{"code":400,"message":"API key not valid","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID"}]}}"#, Auth),
        (Dialect::Gemini, 400, r#"[{"error":{"code":400,"message":"The input token count (9) exceeds the maximum number of tokens allowed (8).","status":"INVALID_ARGUMENT"}}]"#, ContextTooLong),
        (Dialect::Gemini, 503, r#"{"error":{"code":503,"message":"The model is overloaded.","status":"UNAVAILABLE"}}"#, Overloaded),
        (Dialect::Gemini, 429, r#"{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED"}}"#, Overloaded),
        (Dialect::Gemini, 429, r#"{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"37s"}]}}"#, RateLimit),
        (Dialect::Gemini, 429, r#"{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED","details":[{"violations":[{"quotaId":"GenerateRequestsPerDayPerProject"}]},{"retryDelay":"37s"}]}}"#, QuotaGone),
        // Bedrock
        (Dialect::BedrockConverse, 400, r#"{"message":"Input is too long for requested model."}"#, ContextTooLong),
        (Dialect::BedrockConverse, 403, r#"{"Message":"no"}"#, Auth),
        (Dialect::BedrockConverse, 424, r#"{"__type":"com.amazon.coral#ModelErrorException","message":"m"}"#, Server),
        // Others
        (Dialect::CohereV2, 498, r#"{"message":"invalid api token"}"#, Auth),
        (Dialect::OpenAiChat, 498, r#"{"error":{"message":"flex tier","type":"x"}}"#, Overloaded),
        (Dialect::Tgi, 422, r#"{"error":"Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096","error_type":"validation"}"#, ContextTooLong),
        (Dialect::Tgi, 429, r#"{"error":"Model is overloaded","error_type":"overloaded"}"#, Overloaded),
        (Dialect::Tgi, 503, r#"{"error":"Model a/b is currently loading","estimated_time":20.0}"#, Overloaded),
        (Dialect::OpenRouter, 403, r#"{"error":{"code":403,"message":"m","metadata":{"reasons":["x"],"flagged_input":"y","provider_name":"p"}}}"#, ContentPolicy),
        (Dialect::OpenRouter, 402, r#"{"error":{"code":402,"message":"credits"}}"#, QuotaGone),
        (Dialect::OpenAiChat, 402, r#"{"error":{"message":"Insufficient Balance"}}"#, QuotaGone),
        (Dialect::Elevenlabs, 401, r#"{"detail":{"status":"quota_exceeded","message":"m"}}"#, QuotaGone),
        (Dialect::Elevenlabs, 401, r#"{"detail":{"status":"invalid_api_key","message":"m"}}"#, Auth),
        (Dialect::Mistral, 422, r#"{"detail":[{"loc":["body"],"msg":"field required","type":"value_error"}]}"#, BadRequest),
        (Dialect::OpenAiChat, 429, r#"{"object":"error","message":"Service tier capacity exceeded for this model.","type":"service_tier_capacity_exceeded","code":"3505"}"#, Overloaded),
        (Dialect::OpenAiChat, 400, r#"{"message":"Current length is 9000 while limit is 8192","type":"invalid_request_error","code":"x"}"#, ContextTooLong),
        (Dialect::OpenAiChat, 400, r#"{"error":{"message":"This model's maximum context length is 4096 tokens"}}"#, ContextTooLong),
        (Dialect::Ideogram, 422, r#"{"error":"prompt failed the safety check"}"#, ContentPolicy),
        (Dialect::Fal, 422, r#"{"detail":"bad"}"#, BadRequest),
        (Dialect::OpenAiChat, 502, "<html><body>Bad gateway</body></html>", Server),
        (Dialect::OpenAiChat, 524, "", Server),
    ];
    for (dialect, status, body, expected) in cases {
        assert_eq!(
            class(*dialect, *status, body),
            Some(*expected),
            "{status} {body}"
        );
    }
}

#[test]
fn finds_failures_inside_a_success() {
    #[rustfmt::skip]
    let cases: &[(Dialect, &str, Option<FailureClass>)] = &[
        (Dialect::OpenAiChat, r#"{"id":"x","choices":[],"error":null}"#, None),
        (Dialect::OpenAiResponses, r#"{"status":"completed","error":null}"#, None),
        (Dialect::OpenRouter, r#"{"error":{"code":502,"message":"down","metadata":{"error_type":"provider_unavailable"}}}"#, Some(Server)),
        (Dialect::OpenRouter, r#"{"choices":[{"error":{"code":429,"message":"slow"}}]}"#, Some(RateLimit)),
        (Dialect::Replicate, r#"{"id":"p","status":"failed","error":"out of memory"}"#, Some(Server)),
        (Dialect::Replicate, r#"{"id":"p","status":"succeeded","error":null}"#, None),
        (Dialect::Gemini, r#"[{"candidates":[]},{"error":{"code":503,"message":"m","status":"UNAVAILABLE"}}]"#, Some(Overloaded)),
        (Dialect::Tgi, r#"{"error":"Model is overloaded","error_type":"overloaded"}"#, Some(Overloaded)),
        (Dialect::Anthropic, r#"{"type":"error","error":{"type":"overloaded_error","message":"m"}}"#, Some(Overloaded)),
        (Dialect::Opaque, r#"{"error":"a stored file that says error"}"#, None),
        (Dialect::OpenAiChat, "data: {\"error\":1}", None),
    ];
    for (dialect, body, expected) in cases {
        assert_eq!(class(*dialect, 200, body), *expected, "{body}");
    }
    assert_eq!(class(Dialect::OpenAiChat, 304, ""), None);
}

#[test]
fn in_band_errors_need_no_status() {
    let said = |kind, code| Failure::in_band(Dialect::OpenAiResponses, kind, code, "m").class;
    assert_eq!(said("overloaded_error", ""), Overloaded);
    assert_eq!(said("error", "server_is_overloaded"), Overloaded);
    assert_eq!(said("throttlingException", ""), RateLimit);
    assert_eq!(said("validationException", ""), BadRequest);
    assert_eq!(said("modelStreamErrorException", ""), Server);
    assert_eq!(said("", "503"), Server);
    assert_eq!(said("api_error", ""), Server);
}

#[test]
fn waits_are_read_in_order() {
    let date = ("date", "Sun, 22 Nov 2026 12:00:00 GMT");
    let seconds = |s: f64| Some(Duration::from_secs_f64(s));
    assert_eq!(
        wait(&[("retry-after-ms", "250"), ("retry-after", "9")], ""),
        seconds(0.25)
    );
    assert_eq!(wait(&[("retry-after", "1.5")], ""), seconds(1.5));
    assert_eq!(
        wait(
            &[("retry-after", "Sun, 22 Nov 2026 12:00:07 GMT"), date],
            ""
        ),
        seconds(7.0)
    );
    assert_eq!(
        wait(
            &[("retry-after", "Sun, 22 Nov 2026 11:00:00 GMT"), date],
            ""
        ),
        seconds(0.0)
    );
    assert_eq!(
        wait(&[("retry-after", "Sun, 22 Nov 2026 12:00:07 GMT")], ""),
        None
    );
    assert_eq!(wait(&[("retry-after", "-3")], ""), None);
    assert_eq!(
        wait(&[("retry-after", "99999999999")], ""),
        Some(Duration::from_secs(86_400))
    );
    assert_eq!(
        wait(&[], r#"{"error":{"details":[{"retryDelay":"37s"}]}}"#),
        seconds(37.0)
    );
    assert_eq!(
        wait(&[], r#"{"error":"loading","estimated_time":20.5}"#),
        seconds(20.5)
    );
    assert_eq!(
        wait(&[], r#"{"detail":"throttled","retry_after":12}"#),
        seconds(12.0)
    );
    assert_eq!(
        wait(
            &[
                ("x-ratelimit-reset-requests", "6m0s"),
                ("x-ratelimit-reset-tokens", "120ms")
            ],
            ""
        ),
        seconds(0.12)
    );
    assert_eq!(
        wait(
            &[
                ("x-ratelimit-remaining-requests", "0"),
                ("x-ratelimit-reset-requests", "2m59.5s"),
                ("x-ratelimit-reset-tokens", "1s")
            ],
            ""
        ),
        seconds(179.5)
    );
    assert_eq!(
        wait(
            &[
                ("anthropic-ratelimit-tokens-reset", "2026-11-22T12:00:30Z"),
                date
            ],
            ""
        ),
        seconds(30.0)
    );
    let epoch = wait(&[("x-ratelimit-reset", "1795348830000"), date], "");
    assert_eq!(epoch, seconds(30.0));
    assert_eq!(wait(&[("x-ratelimit-reset-requests", "soon")], ""), None);
}

#[test]
fn messages_are_one_short_line_without_keys() {
    let body = format!(
        r#"{{"error":{{"message":"Incorrect API key provided: sk-abcdef123456.\n{}"}}}}"#,
        "é".repeat(600)
    );
    let failure = classify(Dialect::OpenAiChat, 401, &|_| None, body.as_bytes()).expect("an error");
    assert!(
        failure
            .message
            .starts_with("Incorrect API key provided: [redacted] é"),
        "{}",
        failure.message
    );
    assert!(failure.message.len() <= MAX_MESSAGE_BYTES);
}
