//! What is kept about a request: plain columns, no HTTP and no provider types.
//!
//! A request that was retried or fell back has one request row and several attempt rows, tied by
//! `event_id`. The logs API lists attempt rows; counting goes by request rows.

use crate::schema::row;

/// One request row and its attempt rows, built once when the request has ended.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LogRecord {
    pub request: RequestRow,
    pub attempts: Vec<AttemptRow>,
}

row! {
    /// What the caller asked for and got.
    "requests" => RequestRow {
        event_id: String = Text, "id of the request, the caller's own when it sent one (so not unique)";
        created_at_us ("created_at"): i64 = Time, "when the request head arrived";
        account: String = Word, "account of the gateway";
        gateway: String = Word, "id of the gateway";
        method: String = Word, "HTTP method";
        path: String = Text, "request path, credentials redacted";
        status_code: u16 = Small, "status the caller got; 0 when it left before";
        success: bool = Flag, "the caller got a whole answer with a 2xx status";
        cached: bool = Flag, "the answer came from the cache";
        decision: String = Word, "why the request went the way it did";
        error_code: String = Word, "code of the gateway's own error, empty without one";
        answered_by: Option<String> = MaybeText, "id of the attempt whose answer was passed on";
        provider: String = Word, "provider that answered, or the last one asked";
        model: String = Word, "model that answered, or the last one asked";
        attempts: u32 = Medium, "number of attempt rows";
        duration_us: i64 = Number, "from the request head to the last byte of the answer";
        first_byte_us: Option<i64> = MaybeNumber, "from the request head to the first byte of the answer";
        tokens_in: Option<i64> = MaybeNumber, "prompt tokens of the answering attempt";
        tokens_out: Option<i64> = MaybeNumber, "generated tokens of the answering attempt";
        cost_pico: Option<i64> = MaybeNumber, "cost of all attempts, in 1e-12 USD";
        caller: String = Word, "label of the credential that made the request";
        metadata: String = Text, "JSON object of the caller's metadata";
        user_agent: String = Word, "user agent of the caller";
        collect: bool = Flag, "false: counted, but its attempt rows are kept out of the logs API";
    }
}

row! {
    /// One try on one target.
    "attempts" => AttemptRow {
        id: String = Text, "ULID of the attempt, what cf-aig-log-id names";
        event_id: String = Text, "id of the request this attempt belongs to";
        account: String = Word, "account of the gateway";
        gateway: String = Word, "id of the gateway";
        created_at_us ("created_at"): i64 = Time, "when the attempt began";
        provider: String = Word, "provider slug";
        model: String = Word, "model asked for, or the one the answer names";
        model_type: String = Word, "kind of model, as the logs API calls it";
        path: String = Text, "path relative to the provider, credentials redacted";
        request_type: String = Word, "chat, embeddings, image and so on";
        request_content_type: String = Word, "content type of the request body";
        response_content_type: String = Word, "content type of the response body";
        status_code: u16 = Small, "status from upstream; 0 when none came";
        success: bool = Flag, "a whole 2xx answer";
        cached: bool = Flag, "answered from the cache, without a call upstream";
        step: u32 = Medium, "index of the entry in the universal request";
        attempt: u32 = Medium, "which try on this step, from 1";
        decision: String = Word, "cache_hit, retry, fallback, rate_limited and so on";
        error_code: String = Word, "code of the failure, empty without one";
        finish: String = Word, "how the answer ended, by the provider's own word";
        tokens_in: Option<i64> = MaybeNumber, "prompt tokens, cached ones included";
        tokens_out: Option<i64> = MaybeNumber, "generated tokens, reasoning included";
        cache_read: Option<i64> = MaybeNumber, "prompt tokens served from the provider's cache";
        cache_write_5m: Option<i64> = MaybeNumber, "prompt tokens written to the provider's cache for 5 minutes";
        cache_write_1h: Option<i64> = MaybeNumber, "prompt tokens written to the provider's cache for 1 hour";
        cache_write_other: Option<i64> = MaybeNumber, "prompt tokens written to the provider's cache, other lifetime";
        reasoning: Option<i64> = MaybeNumber, "generated tokens spent on reasoning";
        in_audio: Option<i64> = MaybeNumber, "prompt tokens that were audio";
        in_image: Option<i64> = MaybeNumber, "prompt tokens that were images";
        out_audio: Option<i64> = MaybeNumber, "generated tokens that were audio";
        out_image: Option<i64> = MaybeNumber, "generated tokens that were images";
        seconds: Option<f64> = MaybeReal, "seconds of audio or computing billed";
        web_searches: Option<i64> = MaybeNumber, "web searches billed";
        images: Option<i64> = MaybeNumber, "images billed";
        characters: Option<i64> = MaybeNumber, "characters billed";
        search_units: Option<i64> = MaybeNumber, "search units billed";
        usage_source: String = Word, "final, partial, header, estimate or empty";
        usage_raw: String = Text, "the provider's usage object as it was sent";
        tier: String = Word, "service tier the provider used";
        cost_pico: Option<i64> = MaybeNumber, "cost in 1e-12 USD";
        custom_cost: bool = Flag, "the cost comes from the caller's prices";
        metadata: String = Text, "JSON object of the caller's metadata";
        duration_us: i64 = Number, "from the start of the attempt to its last byte";
        first_byte_us: Option<i64> = MaybeNumber, "from the start of the attempt to its first byte";
        user_agent: String = Word, "user agent of the caller";
        authentication: bool = Flag, "the caller was authenticated by the gateway";
        byok: bool = Flag, "a key stored with the gateway was used";
        request_size: i64 = Number, "bytes of the request body";
        response_size: i64 = Number, "bytes of the response body";
        upstream_request_id: String = Text, "the provider's id of this call";
        malformed_events: u32 = Medium, "stream events that could not be read and were passed on";
        collect: bool = Flag, "false: kept out of the logs API; always taken from the request row";
        neurons: Option<f64> = MaybeReal, "work of the embedded engine, in the unit of its API";
    }
    beside {
        /// Bodies to keep, at most 10 MB a row. Stored apart, so never filled by a listing.
        body: Option<Bodies>;
    }
}

/// What was sent and received by one attempt.
#[derive(Clone, PartialEq, Default)]
pub struct Bodies {
    pub request: Vec<u8>,
    pub response: Vec<u8>,
    /// False when the request was cut to fit a bound.
    pub request_complete: bool,
    /// False when the response was cut to fit a bound, or never ended.
    pub response_complete: bool,
}

// Prompts and answers stay out of debug prints; their sizes are enough to follow a record.
impl std::fmt::Debug for Bodies {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Bodies")
            .field("request_bytes", &self.request.len())
            .field("response_bytes", &self.response.len())
            .field("request_complete", &self.request_complete)
            .field("response_complete", &self.response_complete)
            .finish()
    }
}
