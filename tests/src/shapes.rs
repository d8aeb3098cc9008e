//! Requests and answers in their documented shapes.

use serde_json::{Value, json};

pub const CHAT: &str = "/v1/default/default/openai/chat/completions";
pub const UNIVERSAL: &str = "/v1/default/default";

/// A chat completion request.
pub fn chat(model: &str, stream: bool) -> Value {
    let mut request =
        json!({"model": model, "messages": [{"role": "user", "content": "say three words"}]});
    if stream {
        request["stream"] = json!(true);
    }
    request
}

/// A chat completion that says `text`, with its usage.
pub fn chat_answer(model: &str, text: &str, prompt_tokens: u64, completion_tokens: u64) -> Value {
    json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000, "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens,
                  "total_tokens": prompt_tokens + completion_tokens},
    })
}

/// An Anthropic message request.
pub fn message(stream: bool) -> Value {
    json!({"model": "claude-sonnet-4-5", "max_tokens": 64, "stream": stream,
           "messages": [{"role": "user", "content": "say three words"}]})
}

/// An error body of the OpenAI family.
pub fn openai_error(kind: &str, code: &str, message: &str) -> Value {
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}

/// One entry of a universal request, with a key of its own and quick retries.
pub fn step(provider: &str, endpoint: &str, query: Value, attempts: u32) -> Value {
    json!({
        "provider": provider, "endpoint": endpoint, "query": query,
        "headers": {"Authorization": format!("Bearer key-of-{provider}"), "Content-Type": "application/json"},
        "config": {"maxAttempts": attempts, "retryDelay": 20, "backoff": "constant"},
    })
}
