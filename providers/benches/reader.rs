//! What listening costs beside a stream that is only passed on: nanoseconds a chunk, for the chunks that make up
//! nearly all of a stream. Run with `cargo bench -p providers`.
//!
//! 2026-11-22, 2 cores of an AMD EPYC shared with other builds; dev profile with `opt-level = 3`, which is slower
//! than a release build:
//!
//! | chunk | bytes | ns |
//! | --- | --- | --- |
//! | framing alone | 324 | 33 |
//! | chat delta | 324 | 125 |
//! | chat delta, tool call | 365 | 168 |
//! | chat delta, running usage | 378 | 1862 |
//! | Anthropic delta | 122 | 119 |
//! | Responses delta | 221 | 155 |
//! | Gemini chunk | 218 | 887 |

use std::hint::black_box;
use std::time::Instant;

use providers::{Dialect, ReplyHead, ReplyReader, sse};

const ROUNDS: usize = 7;
const CHUNKS: usize = 20_000;

fn main() {
    let chat = |n: usize| {
        format!(
            r#"{{"id":"chatcmpl-ABCdefGHIjklMNOpqrSTUvwxYZ12","object":"chat.completion.chunk","created":1763800000,"model":"gpt-x-2026-01-01","service_tier":"default","system_fingerprint":"fp_0123456789","choices":[{{"index":0,"delta":{{"content":" token{}"}},"logprobs":null,"finish_reason":null}}],"usage":null,"obfuscation":"aB3dEf"}}"#,
            n % 100
        )
    };
    let changing = |n: usize| chat(n).replace("1763800000", &format!("17638{:05}", n % 100_000));
    let call = |n: usize| {
        chat(n).replace(
            &format!(r#""content":" token{}""#, n % 100),
            r#""tool_calls":[{"index":0,"function":{"arguments":"\"a\":"}}]"#,
        )
    };
    let running = |n: usize| {
        chat(n).replace(
            r#""usage":null"#,
            &format!(
                r#""usage":{{"prompt_tokens":9,"completion_tokens":{n},"total_tokens":{}}}"#,
                n + 9
            ),
        )
    };
    let messages = |n: usize| {
        format!(
            r#"{{"type":"content_block_delta","index":0,"delta":{{"type":"text_delta","text":" token{}"}}}}"#,
            n % 100
        )
    };
    let responses = |n: usize| {
        format!(
            r#"{{"type":"response.output_text.delta","sequence_number":{n},"item_id":"msg_0123456789abcdef","output_index":0,"content_index":0,"delta":" token","logprobs":[],"obfuscation":"aB3dEf"}}"#
        )
    };
    let gemini = |n: usize| {
        format!(
            r#"{{"candidates":[{{"content":{{"parts":[{{"text":" token"}}],"role":"model"}},"index":0}}],"usageMetadata":{{"promptTokenCount":9,"candidatesTokenCount":{n},"totalTokenCount":{}}},"modelVersion":"gemini-x","responseId":"r"}}"#,
            n + 9
        )
    };
    run("framing alone, chat delta", None, "", &chat);
    run("chat delta", Some(Dialect::OpenAiChat), "", &chat);
    run(
        "chat delta, created changes",
        Some(Dialect::OpenAiChat),
        "",
        &changing,
    );
    run(
        "chat delta, tool call",
        Some(Dialect::OpenAiChat),
        "",
        &call,
    );
    run(
        "chat delta, running usage",
        Some(Dialect::OpenAiChat),
        "",
        &running,
    );
    run(
        "anthropic delta",
        Some(Dialect::Anthropic),
        "event: content_block_delta\n",
        &messages,
    );
    run(
        "responses delta",
        Some(Dialect::OpenAiResponses),
        "event: response.output_text.delta\n",
        &responses,
    );
    run("gemini chunk", Some(Dialect::Gemini), "", &gemini);
}

fn run(name: &str, dialect: Option<Dialect>, prefix: &str, chunk: &dyn Fn(usize) -> String) {
    let chunks: Vec<String> = (0..CHUNKS)
        .map(|n| format!("{prefix}data: {}\n\n", chunk(n)))
        .collect();
    let head = ReplyHead {
        status: 200,
        content_type: Some("text/event-stream"),
        content_encoding: None,
        header: &|_| None,
    };
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let mut decoder = sse::Decoder::default();
        let mut events = 0;
        let mut reader = dialect.map(|dialect| ReplyReader::new(dialect, true, &head));
        let started = Instant::now();
        for chunk in &chunks {
            match &mut reader {
                Some(reader) => reader.push(black_box(chunk.as_bytes())),
                None => decoder.push(black_box(chunk.as_bytes()), &mut |_| events += 1),
            }
        }
        best = best.min(started.elapsed().as_nanos() as f64 / CHUNKS as f64);
        black_box((events, reader.map(|reader| reader.finish(true))));
    }
    println!("{best:8.0} ns  {name} ({} bytes)", chunks[0].len());
}
