//! Event streams: documented shapes by hand, strange ones from a seed.

use serde_json::{Value, json};

/// A small deterministic generator (xorshift64*), so that a failing seed can be run again.
pub struct Seeded(u64);

impl Seeded {
    pub fn new(seed: u64) -> Seeded {
        Seeded(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.number() % bound as u64) as usize
    }

    pub fn one_in(&mut self, chance: usize) -> bool {
        self.below(chance) == 0
    }
}

/// One event of a chat completion stream, in the documented shape.
pub fn chat_event(delta: &Value, finish: Option<&str>) -> Vec<u8> {
    let chunk = json!({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "gpt-4o-mini",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    });
    data(&chunk)
}

pub fn data(value: &Value) -> Vec<u8> {
    format!("data: {value}\n\n").into_bytes()
}

/// A named event, as Anthropic sends them: the name repeats the JSON's `type`.
pub fn named(value: &Value) -> Vec<u8> {
    format!(
        "event: {}\ndata: {value}\n\n",
        value["type"].as_str().expect("a typed event")
    )
    .into_bytes()
}

/// A whole chat stream that says `words`, with usage and `[DONE]`; one event each.
pub fn chat_stream(words: &[&str]) -> Vec<Vec<u8>> {
    let mut events = vec![chat_event(
        &json!({"role": "assistant", "content": ""}),
        None,
    )];
    events.extend(
        words
            .iter()
            .map(|word| chat_event(&json!({"content": word}), None)),
    );
    events.push(chat_event(&json!({}), Some("stop")));
    events.push(data(&json!({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "gpt-4o-mini", "choices": [],
        "usage": {"prompt_tokens": 11, "completion_tokens": words.len(), "total_tokens": 11 + words.len()},
    })));
    events.push(b"data: [DONE]\n\n".to_vec());
    events
}

/// A whole Anthropic stream that says `words`; one event each.
pub fn message_stream(words: &[&str]) -> Vec<Vec<u8>> {
    let message = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5", "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": 25, "output_tokens": 1}});
    let mut events = vec![
        named(&json!({"type": "message_start", "message": message})),
        named(
            &json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        ),
        named(&json!({"type": "ping"})),
    ];
    events.extend(words.iter().map(|word| {
        named(&json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}))
    }));
    events.push(named(&json!({"type": "content_block_stop", "index": 0})));
    events.push(named(&json!({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null},
        "usage": {"output_tokens": 15}})));
    events.push(named(&json!({"type": "message_stop"})));
    events
}

/// A strange but legal event stream: comments, CRLF and CR ends, several data lines, ids, empty
/// events, text outside ASCII, now and then an event of a megabyte.
pub fn generate(seed: u64) -> Vec<u8> {
    let mut random = Seeded::new(seed);
    let end: &str = ["\n", "\n", "\r\n", "\r"][random.below(4)];
    let mut stream = Vec::new();
    if random.one_in(10) {
        stream.extend_from_slice("\u{feff}".as_bytes());
    }
    for _ in 0..1 + random.below(30) {
        let event = match random.below(8) {
            0 => format!(": comment {}{end}{end}", random.number()),
            1 => format!(": ping{end}data: {}{end}{end}", word(&mut random)),
            2 => format!(
                "event: delta{end}id: {}{end}data: {}{end}{end}",
                random.number(),
                word(&mut random)
            ),
            3 => format!(
                "data: {{\"part\":{end}data: {}}}{end}{end}",
                random.below(1000)
            ),
            4 => format!("data:{{\"text\":\"{}\"}}{end}{end}", word(&mut random)),
            5 => format!("retry: 3000{end}{end}data{end}{end}"),
            6 => {
                let delta = json!({"content": word(&mut random)});
                String::from_utf8(chat_event(&delta, None))
                    .expect("JSON is UTF-8")
                    .replace('\n', end)
            }
            _ => format!("data: {}{end}{end}", word(&mut random)),
        };
        stream.extend_from_slice(event.as_bytes());
    }
    if seed.is_multiple_of(25) {
        let padding = "x".repeat(1024 * 1024);
        stream
            .extend_from_slice(format!("data: {{\"padding\":\"{padding}\"}}{end}{end}").as_bytes());
    }
    if !random.one_in(3) {
        stream.extend_from_slice(format!("data: [DONE]{end}{end}").as_bytes());
    }
    stream
}

fn word(random: &mut Seeded) -> String {
    let words = [
        "héllo",
        "wörld",
        "日本語",
        "🦀🚀",
        "plain",
        "\\u00e9",
        "a b  c",
        "",
        "{not json",
        "\u{2028}",
    ];
    (0..1 + random.below(12))
        .map(|_| words[random.below(words.len())])
        .collect()
}

/// `bytes` in pieces cut anywhere, inside characters and line ends too.
pub fn cut(bytes: &[u8], seed: u64) -> Vec<Vec<u8>> {
    let mut random = Seeded::new(seed ^ 0xC0FF_EE00);
    let mut pieces = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let longest = if rest.len() > 100_000 {
            60_000
        } else {
            1 + random.below(300)
        };
        let (piece, tail) = rest.split_at(rest.len().min(1 + random.below(longest)));
        pieces.push(piece.to_vec());
        rest = tail;
    }
    pieces
}
