//! One streamed completion over a connection of its own.

use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

pub struct Answer {
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
    /// From the request to the first token.
    pub first: Duration,
    pub first_at: Instant,
    pub last_at: Instant,
}

/// Tokens after the first of all callers, over the time from the first token of any to the last of any: callers who
/// are served one after the other do not count as if they had been served together.
pub fn rate(answers: &[Answer]) -> f64 {
    let tokens: usize = answers
        .iter()
        .map(|answer| answer.completion_tokens - 1)
        .sum();
    let begin = answers.iter().map(|answer| answer.first_at).min();
    let end = answers.iter().map(|answer| answer.last_at).max();
    let (begin, end) = begin.zip(end).expect("callers");
    tokens as f64 / (end - begin).as_secs_f64()
}

/// Words that are one token each in most vocabularies.
const WORDS: [&str; 32] = [
    "time",
    "people",
    "way",
    "day",
    "man",
    "thing",
    "woman",
    "life",
    "child",
    "world",
    "school",
    "state",
    "family",
    "student",
    "group",
    "country",
    "problem",
    "hand",
    "part",
    "place",
    "case",
    "week",
    "company",
    "system",
    "program",
    "question",
    "work",
    "government",
    "number",
    "night",
    "point",
    "home",
];

/// Text of about `tokens` tokens, another for each seed from the first word on.
pub fn prompt(seed: u64, tokens: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text = String::new();
    for _ in 0..tokens {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push(' ');
        text.push_str(WORDS[(state >> 40) as usize % WORDS.len()]);
    }
    text
}

/// A request whose answer is read whole.
///
/// # Panics
/// When it is refused.
pub async fn post(address: &str, path: &str, content_type: &str, body: &[u8]) -> serde_json::Value {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(address)
        .await
        .expect("the server listens");
    stream.write_all(head.as_bytes()).await.expect("it reads");
    stream.write_all(body).await.expect("it reads");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .expect("a readable answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    serde_json::from_str(body).unwrap_or_default()
}

/// Who is asked for what.
#[derive(Clone)]
pub struct Target {
    pub address: String,
    pub path: String,
    pub model: String,
    /// How this server is told of an adapter.
    pub lora: Option<serde_json::Value>,
}

/// # Panics
/// When the server does not answer with a whole stream: a figure from a broken run is worth nothing.
pub async fn ask(target: &Target, prompt: &str, max_tokens: usize) -> Answer {
    let Target {
        address,
        path,
        model,
        lora,
    } = target;
    let mut body = serde_json::json!({
        "model": model,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": true,
        "stream_options": {"include_usage": true},
        "ignore_eos": true,
        "cache_prompt": false,
    });
    if let Some(lora) = lora {
        body["lora"] = lora.clone();
    }
    let body = body.to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(address)
        .await
        .expect("the server listens");
    let started = Instant::now();
    stream
        .write_all(request.as_bytes())
        .await
        .expect("the server reads");
    let mut lines = BufReader::new(stream).lines();
    let (mut first, mut last, mut usage, mut is_whole) = (None, started, None, false);
    let mut others = String::new();
    // Both servers write whole events, so that the sizes of chunked encoding stand on lines of their own.
    while let Some(line) = lines.next_line().await.expect("a readable answer") {
        let Some(data) = line.strip_prefix("data: ") else {
            others += &line;
            continue;
        };
        if data == "[DONE]" {
            is_whole = true;
            break;
        }
        let event: serde_json::Value = serde_json::from_str(data).expect("an event of JSON");
        if event["usage"].is_object() {
            usage = Some(event["usage"].clone());
        }
        if event["choices"][0]["text"]
            .as_str()
            .is_some_and(|text| !text.is_empty())
        {
            last = Instant::now();
            first.get_or_insert(last);
        }
    }
    assert!(is_whole, "the stream broke off: {others}");
    let usage = usage.expect("usage at the end of the stream");
    let count = |name: &str| usage[name].as_u64().expect("a count") as usize;
    let first = first.expect("some text");
    Answer {
        prompt_tokens: count("prompt_tokens"),
        completion_tokens: count("completion_tokens"),
        first: first - started,
        first_at: first,
        last_at: last,
    }
}
