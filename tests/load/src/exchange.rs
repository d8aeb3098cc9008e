//! What is asked and answered in each mode: shapes and headers as an OpenAI SDK and its provider
//! send them. Both ends use these, so that neither guesses what the other does.

use std::fmt::Write as _;
use std::sync::LazyLock;

/// Chunks of a stream that come at once.
const BURST_CHUNKS: usize = 200;
/// Chunks of a stream at a model's pace.
const PACED_CHUNKS: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A short question, a 0.4 kB answer.
    Plain,
    /// A 32 kB question, the same answer.
    Prompt,
    /// A stream whose chunks are all there at once.
    Burst,
    /// A stream with a chunk every 10 ms.
    Paced,
    /// A plain answer out of the cache.
    Hit,
}

impl Mode {
    pub const ALL: [Mode; 5] = [
        Mode::Plain,
        Mode::Prompt,
        Mode::Burst,
        Mode::Paced,
        Mode::Hit,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Mode::Plain => "plain",
            Mode::Prompt => "prompt",
            Mode::Burst => "burst",
            Mode::Paced => "paced",
            Mode::Hit => "hit",
        }
    }

    pub fn named(name: &str) -> Option<Mode> {
        Mode::ALL.into_iter().find(|mode| mode.name() == name)
    }

    pub fn title(self) -> &'static str {
        match self {
            Mode::Plain => "plain answer, 0.4 kB",
            Mode::Prompt => "32 kB prompt",
            Mode::Burst => "burst stream, per chunk",
            Mode::Paced => "paced stream (10 ms), per chunk",
            Mode::Hit => "cache hit",
        }
    }

    /// Requests of one round: about a second of a subject's CPU, and seconds on the wall for paced.
    pub fn requests(self) -> usize {
        match self {
            Mode::Plain | Mode::Hit => 20_000,
            Mode::Prompt => 10_000,
            Mode::Burst => 1_600,
            Mode::Paced => 64,
        }
    }

    /// What the cost of a request is divided by.
    pub fn units(self) -> usize {
        match self {
            Mode::Burst => BURST_CHUNKS,
            Mode::Paced => PACED_CHUNKS,
            Mode::Plain | Mode::Prompt | Mode::Hit => 1,
        }
    }

    fn is_stream(self) -> bool {
        matches!(self, Mode::Burst | Mode::Paced)
    }

    /// The bytes of a request.
    pub fn request(self, host: &str, path: &str) -> Vec<u8> {
        let body = self.question();
        let mut head = format!("POST {path} HTTP/1.1\r\nhost: {host}\r\n");
        for (name, value) in [
            ("accept-encoding", "gzip, deflate"),
            ("connection", "keep-alive"),
            ("accept", "application/json"),
            ("content-type", "application/json"),
            ("user-agent", "OpenAI/Python 2.6.1"),
            ("x-stainless-lang", "python"),
            ("x-stainless-package-version", "2.6.1"),
            ("x-stainless-os", "Linux"),
            ("x-stainless-arch", "x64"),
            ("x-stainless-runtime", "CPython"),
            ("x-stainless-runtime-version", "3.12.3"),
            ("x-stainless-async", "false"),
            ("x-stainless-retry-count", "0"),
            ("x-stainless-read-timeout", "600"),
            (
                "authorization",
                "Bearer sk-proj-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGH",
            ),
            (MODE_HEADER, self.name()),
        ] {
            write!(head, "{name}: {value}\r\n").expect("a string takes everything");
        }
        write!(head, "content-length: {}\r\n\r\n{body}", body.len()).expect("likewise");
        head.into_bytes()
    }

    fn question(self) -> String {
        let text = match self {
            Mode::Prompt => {
                "The quick brown fox jumps over the lazy dog, says \\\"hello\\\".\\n".repeat(512)
            }
            _ => "Write one sentence about the sea.".to_owned(),
        };
        let stream = match self.is_stream() {
            true => r#","stream":true,"stream_options":{"include_usage":true}"#,
            false => "",
        };
        format!(
            r#"{{"model":"gpt-4o-mini","messages":[{{"role":"system","content":"You are a helpful assistant."}},{{"role":"user","content":"{text}"}}],"temperature":0.7{stream}}}"#
        )
    }

    /// The answer on the wire: a head, and the parts that follow it. Only paced has more than one.
    pub fn answer(self) -> &'static Answer {
        static PLAIN: LazyLock<Answer> = LazyLock::new(plain);
        static BURST: LazyLock<Answer> = LazyLock::new(|| stream(BURST_CHUNKS).into_one());
        static PACED: LazyLock<Answer> = LazyLock::new(|| stream(PACED_CHUNKS));
        match self {
            Mode::Plain | Mode::Prompt | Mode::Hit => &PLAIN,
            Mode::Burst => &BURST,
            Mode::Paced => &PACED,
        }
    }
}

/// Tells the mock which answer is wanted; everybody in between passes it on.
pub const MODE_HEADER: &str = "x-load-mode";

pub struct Answer {
    /// Written one after the other, a pause before each but the first.
    pub parts: Vec<Vec<u8>>,
    /// Bytes of the body without its framing.
    pub body_bytes: usize,
}

impl Answer {
    fn into_one(self) -> Answer {
        Answer {
            parts: vec![self.parts.concat()],
            body_bytes: self.body_bytes,
        }
    }
}

fn head(content_type: &str, framing: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ndate: Sun, 22 Nov 2026 12:00:00 GMT\r\ncontent-type: {content_type}\r\n{framing}\r\n\
         openai-organization: example\r\nopenai-processing-ms: 412\r\nopenai-version: 2020-10-01\r\n\
         x-ratelimit-remaining-requests: 9999\r\nx-request-id: req_0123456789abcdef0123456789abcdef\r\n\r\n"
    )
}

fn plain() -> Answer {
    let body = concat!(
        r#"{"id":"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT","object":"chat.completion","created":1763812800,"#,
        r#""model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,"message":{"role":"assistant","#,
        r#""content":"The sea breathes in long blue sighs beneath the wind.","refusal":null},"#,
        r#""logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":24,"completion_tokens":12,"total_tokens":36},"#,
        r#""system_fingerprint":"fp_44709d6fcb"}"#
    );
    let head = head(
        "application/json",
        &format!("content-length: {}", body.len()),
    );
    Answer {
        parts: vec![format!("{head}{body}").into_bytes()],
        body_bytes: body.len(),
    }
}

fn stream(chunks: usize) -> Answer {
    let event = |choices: &str, usage: &str| {
        format!(
            "data: {{\"id\":\"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT\",\"object\":\"chat.completion.chunk\",\"created\":1763812800,\
             \"model\":\"gpt-4o-mini-2024-07-18\",\"system_fingerprint\":\"fp_44709d6fcb\",\"choices\":[{choices}],\"usage\":{usage}}}\n\n"
        )
    };
    let delta = |delta: &str, finish: &str| {
        let choice = format!(
            "{{\"index\":0,\"delta\":{{{delta}}},\"logprobs\":null,\"finish_reason\":{finish}}}"
        );
        event(&choice, "null")
    };
    let mut events = vec![delta("\"role\":\"assistant\",\"content\":\"\"", "null")];
    // The last three and the first are among the chunks that are counted.
    events.extend(
        (0..chunks - 4).map(|number| delta(&format!("\"content\":\" word{number}\""), "null")),
    );
    events.push(delta("", "\"stop\""));
    let usage = format!(
        "{{\"prompt_tokens\":24,\"completion_tokens\":{chunks},\"total_tokens\":{}}}",
        24 + chunks
    );
    events.push(event("", &usage));
    events.push("data: [DONE]\n\n".to_owned());

    let mut parts: Vec<Vec<u8>> = events
        .iter()
        .map(|event| format!("{:x}\r\n{event}\r\n", event.len()).into_bytes())
        .collect();
    let head = head(
        "text/event-stream; charset=utf-8",
        "transfer-encoding: chunked",
    );
    parts[0].splice(0..0, head.into_bytes());
    parts
        .last_mut()
        .expect("a stream has chunks")
        .extend_from_slice(b"0\r\n\r\n");
    Answer {
        parts,
        body_bytes: events.iter().map(String::len).sum(),
    }
}

/// Where a head ends, its empty line included.
pub fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .map(|at| at + 4)
}

/// The value of a header in a raw head.
pub fn header<'h>(head: &'h [u8], name: &str) -> Option<&'h str> {
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let (key, value) = line.split_at_checked(name.len())?;
        let value = value.strip_prefix(b":")?;
        key.eq_ignore_ascii_case(name.as_bytes())
            .then(|| std::str::from_utf8(value).map(str::trim).ok())?
    })
}
