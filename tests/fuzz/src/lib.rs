//! What must hold for any bytes: one function a fuzz target, so that a plain test can feed them too.
//!
//! Each checks more than "no panic": a decoder gives the same in any cut, and what leaves a room is
//! what the next one may rely on. Opens no sockets.

mod seeds;
#[cfg(test)]
mod tests;

pub use seeds::seeds;

use providers::eventstream::{self, Fault};
use providers::{Dialect, Framing, Reading, ReplyHead, ReplyReader, sse};

/// Content types and encodings a reply may claim.
const CONTENT_TYPES: [Option<&str>; 8] = [
    Some("text/event-stream"),
    Some("application/json"),
    Some("application/vnd.amazon.eventstream"),
    Some("application/x-ndjson"),
    Some("text/plain"),
    Some("audio/mpeg"),
    Some(""),
    None,
];
const ENCODINGS: [Option<&str>; 4] = [None, Some("gzip"), Some("deflate"), Some("br")];
const STATUSES: [u16; 4] = [200, 200, 429, 500];

/// Bytes that steer a `reply` input before its body begins: dialect, content type, encoding with
/// status, cut.
const STEERING_BYTES: usize = 4;

/// `bytes` in pieces whose lengths follow from `seed`: single bytes, a few, or nearly all at once.
fn pieces(bytes: &[u8], seed: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    let mut state = u32::from(seed) | 0x100;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let length = match seed % 3 {
            0 => 1,
            1 => 1 + (state >> 24) as usize % 7,
            _ => 1 + (state >> 16) as usize % 400,
        };
        let (piece, tail) = rest.split_at(length.min(rest.len()));
        rest = tail;
        Some(piece)
    })
}

/// Server-sent events: the same events in any cut, and no event without its blank line.
pub fn sse(bytes: &[u8]) {
    let [seed, body @ ..] = bytes else { return };
    let whole = sse_events(std::iter::once(body));
    let cut = sse_events(pieces(body, *seed));
    assert_eq!(whole, cut, "a cut changed what was read");
    let line_ends = body.iter().filter(|byte| matches!(byte, b'\n' | b'\r'));
    assert!(2 * whole.0.len() <= line_ends.count());
    // A bound in the middle stops the decoder and nothing else.
    let mut bounded = sse::Decoder::new(16);
    for piece in pieces(body, *seed) {
        bounded.push(piece, &mut |event| assert!(event.data.len() <= 16));
    }
}

type SseEvents = (Vec<(Vec<u8>, Vec<u8>)>, bool, u64);

fn sse_events<'b>(pieces: impl Iterator<Item = &'b [u8]>) -> SseEvents {
    let mut decoder = sse::Decoder::default();
    let mut events = Vec::new();
    for piece in pieces {
        decoder.push(piece, &mut |event| {
            events.push((event.name.to_vec(), event.data.to_vec()));
        });
    }
    (events, decoder.is_mid_event(), decoder.stray_lines())
}

/// AWS event streams: the same frames in any cut, and frames made from any bytes come back whole.
pub fn eventstream(bytes: &[u8]) {
    let [seed, body @ ..] = bytes else { return };
    let whole = frames(std::iter::once(body));
    let cut = frames(pieces(body, *seed));
    // What lies behind a fault is not read; only how much of it was looked at depends on the cut.
    assert_eq!(
        (&whole.0, whole.1),
        (&cut.0, cut.1),
        "a cut changed what was read"
    );
    // Checksums keep random bytes out, so frames are also made here, and then damaged.
    let (name, payload) = body.split_at(body.len().min(usize::from(*seed)));
    let name = String::from_utf8_lossy(name);
    let mut frame = eventstream::encode(&[(":event-type", &name), ("x", "y")], payload);
    let (found, fault) = frames(pieces(&frame, *seed));
    assert_eq!(fault, None);
    assert_eq!(found, [(Some(name.into_owned()), payload.to_vec())]);
    if let Some(byte) = body.first() {
        let at = usize::from(*byte) % frame.len();
        frame[at] ^= 1 << (seed % 8);
        let (found, fault) = frames(pieces(&frame, *seed));
        assert!(found.is_empty(), "a damaged frame was handed over");
        // Damage to a length may leave the decoder waiting; any other is a fault by now.
        assert!(fault.is_some() || at < 12, "damage at {at} went unseen");
    }
}

type Frames = (Vec<(Option<String>, Vec<u8>)>, Option<Fault>);

fn frames<'b>(pieces: impl Iterator<Item = &'b [u8]>) -> Frames {
    let mut decoder = eventstream::Decoder::default();
    let mut found = Vec::new();
    for piece in pieces {
        decoder.push(piece, &mut |frame| {
            found.push((
                frame.header(":event-type").map(str::to_owned),
                frame.payload().to_vec(),
            ));
        });
    }
    (found, decoder.fault())
}

/// A reply in any dialect under any head: the same reading in any cut of plain bytes, and an error
/// frame that fits behind whatever was read.
pub fn reply(bytes: &[u8]) {
    let Some((steering, body)) = bytes.split_first_chunk::<STEERING_BYTES>() else {
        return;
    };
    let [dialect, content_type, encoding, seed] = steering.map(usize::from);
    let head = Head {
        dialect: Dialect::ALL[dialect % Dialect::ALL.len()],
        content_type: CONTENT_TYPES[content_type % CONTENT_TYPES.len()],
        encoding: ENCODINGS[encoding % ENCODINGS.len()],
        status: STATUSES[encoding / 4 % STATUSES.len()],
        is_streamed: content_type & 0x80 == 0,
        clean_end: seed & 0x80 == 0,
    };
    let (whole, framing) = head.read(std::iter::once(body));
    let (cut, _) = head.read(pieces(body, seed as u8));
    // A decompressor may give up earlier or later by its own steps; its bytes are only fed. An array's
    // element is read as soon as it is complete, so what junk around it counts as is left open.
    let is_open = framing == Framing::JsonArray && !is_json_so_far(body);
    if head.encoding.is_none() && !is_open {
        assert_eq!(whole, cut, "a cut changed what was read");
    }
    if let Some(usage) = &whole.usage {
        assert!(usage.seconds.is_none_or(f64::is_finite), "{usage:?}");
    }
    assert!(whole.delivered_text_bytes <= 16 * body.len() as u64 || head.encoding.is_some());
}

/// Whether `bytes` are a JSON document or the beginning of one.
fn is_json_so_far(bytes: &[u8]) -> bool {
    match serde_json::from_slice::<serde::de::IgnoredAny>(bytes) {
        Ok(_) => true,
        Err(error) => error.is_eof(),
    }
}

struct Head {
    dialect: Dialect,
    content_type: Option<&'static str>,
    encoding: Option<&'static str>,
    status: u16,
    is_streamed: bool,
    clean_end: bool,
}

impl Head {
    fn read<'b>(&self, pieces: impl Iterator<Item = &'b [u8]>) -> (Reading, Framing) {
        let mut reader = ReplyReader::new(
            self.dialect,
            self.is_streamed,
            &ReplyHead {
                status: self.status,
                content_type: self.content_type,
                content_encoding: self.encoding,
                header: &|_| None,
            },
        );
        let mut events = 0;
        for piece in pieces {
            reader.push(piece);
            assert!(reader.events() >= events, "events were taken back");
            events = reader.events();
            let _ = (reader.progress(), reader.is_whole());
            // Whatever state it is in, a break is told to the caller in this dialect's way.
            let mid_event = reader.in_mid_event();
            providers::error_frame(
                self.dialect,
                reader.framing(),
                mid_event,
                "code",
                "\"\n",
                "id",
            );
        }
        let framing = reader.framing();
        (reader.finish(self.clean_end), framing)
    }
}

/// A universal request's body: steps that keep to HTTP's grammar and own no byte the caller did not
/// send, or a refusal.
#[cfg(feature = "gateway")]
pub fn universal(bytes: &[u8]) {
    use gateway::decode::{MAX_STEPS, universal};

    let body = bytes::Bytes::copy_from_slice(bytes);
    let entries = match universal(&body) {
        Ok(entries) => entries,
        Err(error) => {
            assert_eq!(error.status(false), 400);
            assert!(
                !error.message.contains(['\n', '\r', '\0']),
                "{:?}",
                error.message
            );
            return;
        }
    };
    assert!((1..=MAX_STEPS).contains(&entries.len()));
    let sent = body.as_ptr_range();
    for entry in &entries {
        assert!(!entry.provider.is_empty());
        assert!(!entry.endpoint.starts_with('/') && !entry.endpoint.contains('?'));
        let kept = entry.body.as_ptr_range();
        assert!(entry.body.is_empty() || (sent.start <= kept.start && kept.end <= sent.end));
        for (name, value) in &entry.headers {
            assert!(!value.as_bytes().iter().any(|byte| b"\r\n\0".contains(byte)));
            assert!(!name.as_str().contains(|letter: char| letter <= ' '));
        }
    }
    // Reading is a pure function of the bytes.
    let again = universal(&body).expect("it was read before");
    assert_eq!(format!("{entries:?}"), format!("{again:?}"));
}
