//! Vector V23: the same reply in every wrapping gives the same reading. Section 0 of providers.md.

use std::io::Write;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use providers::{Dialect, Ending, Framing, Progress, Reading, ReplyHead, ReplyReader};

use crate::support::{Reply, assert_whole, usage};

const EVENTS: [&str; 3] = [
    r#"{"id":"c","model":"m","choices":[{"index":0,"delta":{"content":"žluť"},"finish_reason":null}]}"#,
    r#"{"id":"c","model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":2}}"#,
    "[DONE]",
];

fn plain() -> Reply {
    Reply::events(Dialect::OpenAiChat, &EVENTS)
}

fn with_body(body: Vec<u8>) -> Reply {
    Reply { body, ..plain() }
}

fn text(reply: &Reply) -> String {
    String::from_utf8(reply.body.clone()).expect("written as text")
}

fn encoded(name: &'static str, body: Vec<u8>) -> Reply {
    Reply {
        content_encoding: Some(name),
        ..with_body(body)
    }
}

fn gzip(bytes: &[u8], flush_at: &[usize]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    for (at, byte) in bytes.iter().enumerate() {
        if flush_at.contains(&at) {
            encoder.flush().expect("a vector takes everything");
        }
        encoder
            .write_all(&[*byte])
            .expect("a vector takes everything");
    }
    encoder.finish().expect("a vector takes everything")
}

#[test]
fn v23_line_ends_marks_and_comments_change_nothing() {
    let expected = plain().read();
    assert_whole(&expected);
    assert_eq!(expected.usage, usage(5, 2, |_| ()));
    let body = text(&plain());
    for changed in [
        body.replace('\n', "\r\n"),
        body.replace('\n', "\r"),
        body.replace("data: ", "data:"),
        format!("\u{feff}{body}"),
        format!(": OPENROUTER PROCESSING\n\n{body}"),
        format!("\n\n\n{body}"),
        body.replace("\n\n", "\n\n: keep-alive\n\n"),
        body.replace("\n\n", "\nid: 7\nretry: 10\n\n"),
        // Two data lines of one event join with a newline, which JSON does not mind between members.
        body.replace(",\"choices\"", ",\ndata: \"choices\""),
    ] {
        assert_eq!(
            with_body(changed.clone().into_bytes()).read(),
            expected,
            "{changed:?}"
        );
    }
}

#[test]
fn v23_an_event_without_its_blank_line_proves_nothing() {
    let body = text(&plain());
    for missing in [1, 2] {
        let reading = with_body(body.as_bytes()[..body.len() - missing].to_vec()).read();
        assert_eq!(reading.ending, Ending::Unknown);
        assert_eq!(reading.events, 2);
    }
}

#[test]
fn v23_encoded_bodies_are_read_on_a_copy() {
    let expected = plain().read();
    let body = plain().body;
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
    zlib.write_all(&body).expect("a vector takes everything");
    let zlib = zlib.finish().expect("a vector takes everything");
    assert_eq!(encoded("gzip", gzip(&body, &[])).read(), expected);
    assert_eq!(
        encoded("gzip", gzip(&body, &[10, 11, 100, 150])).read(),
        expected
    );
    assert_eq!(encoded("deflate", zlib).read(), expected);
    // Unread encodings and damage cost the reading, nothing else.
    for reply in [encoded("zstd", body.clone()), encoded("gzip", body.clone())] {
        let reading = reply.read_in(&[&reply.body]);
        assert_eq!((reading.usage, reading.ending), (None, Ending::Unknown));
    }
    let json = Reply::json(
        Dialect::OpenAiChat,
        r#"{"usage":{"prompt_tokens":5,"completion_tokens":2}}"#,
    );
    let reply = Reply {
        content_encoding: Some("gzip"),
        body: gzip(&json.body, &[]),
        ..json
    };
    assert_eq!(reply.read().usage, usage(5, 2, |_| ()));
}

fn in_pieces(reply: &Reply, size: usize) -> Reading {
    reply.read_in(&reply.body.chunks(size).collect::<Vec<_>>())
}

#[test]
fn v23_a_line_of_eight_mebibytes() {
    let picture = "A".repeat(8 << 20);
    let long = format!(
        r#"{{"id":"c","model":"m","choices":[{{"index":0,"delta":{{"content":"{picture}"}},"finish_reason":null}}]}}"#
    );
    let reply = Reply::events(
        Dialect::OpenAiChat,
        &[EVENTS[0], &long, EVENTS[1], EVENTS[2]],
    );
    let whole = in_pieces(&reply, usize::MAX);
    assert_whole(&whole);
    assert_eq!(whole.usage, usage(5, 2, |_| ()));
    assert_eq!(whole.delivered_text_bytes, 6 + (8 << 20));
    for size in [1000, 65_536, (8 << 20) + 10] {
        assert_eq!(in_pieces(&reply, size), whole);
    }
}

#[test]
fn past_the_bound_it_stops_understanding_and_says_so() {
    let long = format!("\"{}\"", "A".repeat(17 << 20));
    let reply = Reply::events(
        Dialect::OpenAiChat,
        &[EVENTS[0], EVENTS[1], &long, EVENTS[2]],
    );
    for size in [65_536, usize::MAX] {
        let reading = in_pieces(&reply, size);
        assert_eq!((reading.usage, reading.ending), (None, Ending::Unknown));
        assert_eq!((reading.events, reading.malformed_events), (2, 1));
    }
    let json = Reply::json(
        Dialect::OpenAiChat,
        &format!(r#"{{"x":{long},"usage":{{"prompt_tokens":1}}}}"#),
    );
    for size in [65_536, usize::MAX] {
        let reading = in_pieces(&json, size);
        assert_eq!((reading.usage, reading.ending), (None, Ending::Unknown));
    }
}

#[test]
fn the_body_is_believed_before_its_type() {
    let error = r#"{"error":{"message":"m","type":"server_error","code":null}}"#;
    let under_stream = Reply {
        body: error.as_bytes().to_vec(),
        ..plain()
    };
    assert!(under_stream.read().failure.is_some());
    assert!(matches!(under_stream.progress(), Progress::Error(_)));
    let stream_under_json = Reply {
        content_type: "application/json",
        streamed: false,
        ..plain()
    };
    assert_eq!(stream_under_json.read(), plain().read());
}

#[test]
fn framing_tells_what_may_follow() {
    let framing = |dialect, content_type, content_encoding, body: &[u8]| {
        let mut reader = ReplyReader::new(
            dialect,
            true,
            &ReplyHead {
                status: 200,
                content_type: Some(content_type),
                content_encoding,
                header: &|_| None,
            },
        );
        reader.push(body);
        (reader.framing(), reader.in_mid_event())
    };
    let sse = "text/event-stream";
    let chat = Dialect::OpenAiChat;
    assert_eq!(framing(chat, sse, None, b""), (Framing::Sse, false));
    assert_eq!(
        framing(chat, sse, None, b"data: 1\n\n"),
        (Framing::Sse, false)
    );
    assert_eq!(framing(chat, sse, None, b"data: 1\n"), (Framing::Sse, true));
    assert_eq!(framing(chat, sse, None, b"da"), (Framing::Sse, true));
    assert_eq!(framing(chat, sse, None, b"{"), (Framing::Json, true));
    assert_eq!(framing(chat, sse, Some("gzip"), b"").0, Framing::Binary);
    assert_eq!(framing(chat, "audio/mpeg", None, b"x").0, Framing::Binary);
    assert_eq!(
        framing(Dialect::Opaque, sse, None, b"data: 1").0,
        Framing::Binary
    );
    let json = "application/json";
    assert_eq!(
        framing(Dialect::Gemini, json, None, b"[{}").0,
        Framing::JsonArray
    );
    assert_eq!(
        framing(Dialect::CohereV1, json, None, b"{}").0,
        Framing::JsonLines
    );
    let frames = "application/vnd.amazon.eventstream";
    assert_eq!(
        framing(Dialect::BedrockConverse, frames, None, b"\0"),
        (Framing::EventStream, true)
    );
}
