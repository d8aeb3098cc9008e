//! Streams made at random from a printed seed: any wrapping and any cut must give the events that went in, and no
//! bytes at all may upset a reader.

use providers::{Dialect, ReplyHead, ReplyReader, eventstream, jsonlines, sse};

const SEEDS: u64 = 200;

/// A small generator, so that a seed in a failure message is all one needs.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    fn text(&mut self) -> String {
        let pieces = [
            "a",
            "{\"x\":1}",
            "é",
            "🐎",
            ":",
            " ",
            "data:",
            "\"",
            "\\",
            "[DONE]",
            "0123456789",
        ];
        (0..self.below(12)).map(|_| *self.pick(&pieces)).collect()
    }

    fn cuts<'a>(&mut self, bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let mut rest = bytes;
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let most = rest.len().min(1 + self.below(40));
            let (piece, tail) = rest.split_at(1 + self.below(most));
            pieces.push(piece);
            rest = tail;
        }
        pieces
    }
}

type Events = Vec<(String, String)>;

/// Bytes of some events in a random spelling, and the events.
fn stream(random: &mut Random) -> (Vec<u8>, Events) {
    let line_end = *random.pick(&["\n", "\r\n", "\r"]);
    let mut wire = String::new();
    let mut events = Vec::new();
    if random.below(4) == 0 {
        wire.push('\u{feff}');
    }
    for _ in 0..random.below(20) {
        if random.below(4) == 0 {
            wire += &format!(": {}{line_end}", random.text());
            if random.below(2) == 0 {
                wire += line_end;
            }
        }
        let name = if random.below(2) == 0 {
            random.text()
        } else {
            String::new()
        };
        // Leading spaces are part of the format, so a text that begins with one needs the optional space.
        let spaced = |text: &str, wants: bool| {
            if wants || text.starts_with(' ') {
                format!(" {text}")
            } else {
                text.to_owned()
            }
        };
        if !name.is_empty() {
            wire += &format!("event:{}{line_end}", spaced(&name, random.below(2) == 0));
        }
        let lines: Vec<String> = (0..1 + random.below(3)).map(|_| random.text()).collect();
        for line in &lines {
            wire += &format!("data:{}{line_end}", spaced(line, random.below(2) == 0));
            if random.below(5) == 0 {
                wire += &format!("id: 4{line_end}");
            }
        }
        wire += line_end;
        events.push((name, lines.join("\n")));
    }
    if random.below(2) == 0 {
        wire += "data: an event that never ends";
    }
    (wire.into_bytes(), events)
}

fn decode(pieces: &[&[u8]]) -> Events {
    let mut decoder = sse::Decoder::default();
    let mut events = Vec::new();
    for piece in pieces {
        decoder.push(piece, &mut |event| {
            let text =
                |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("characters stay whole");
            events.push((text(event.name), text(event.data)));
        });
    }
    events
}

#[test]
fn events_survive_any_spelling_and_any_cut() {
    for seed in 0..SEEDS {
        let random = &mut Random(seed);
        let (wire, events) = stream(random);
        assert_eq!(decode(&[&wire]), events, "seed {seed}, whole");
        for _ in 0..10 {
            let pieces = random.cuts(&wire);
            assert_eq!(decode(&pieces), events, "seed {seed}, cut");
        }
        assert_eq!(
            decode(&wire.chunks(1).collect::<Vec<_>>()),
            events,
            "seed {seed}, bytes"
        );
    }
}

#[test]
fn frames_survive_any_cut() {
    for seed in 0..SEEDS {
        let random = &mut Random(seed);
        let payloads: Vec<String> = (0..random.below(8)).map(|_| random.text()).collect();
        let wire: Vec<u8> = payloads
            .iter()
            .flat_map(|payload| {
                eventstream::encode(&[(":event-type", "chunk")], payload.as_bytes())
            })
            .collect();
        let mut decoder = eventstream::Decoder::default();
        let mut found = Vec::new();
        for piece in random.cuts(&wire) {
            decoder.push(piece, &mut |frame| {
                found.push(String::from_utf8_lossy(frame.payload()).into_owned());
            });
        }
        assert_eq!(found, payloads, "seed {seed}");
        assert_eq!(decoder.fault(), None, "seed {seed}");
        assert!(!decoder.is_mid_frame(), "seed {seed}");
    }
}

#[test]
fn elements_survive_any_cut() {
    for seed in 0..SEEDS {
        let random = &mut Random(seed);
        let elements: Vec<String> = (0..random.below(8))
            .map(|_| {
                serde_json::json!({"t": random.text(), "l": [1, {"x": random.text()}]}).to_string()
            })
            .collect();
        let wire = format!("[{}]", elements.join(",\r\n"));
        let mut decoder = jsonlines::Elements::default();
        let mut found = Vec::new();
        for piece in random.cuts(wire.as_bytes()) {
            decoder.push(piece, &mut |element| {
                found.push(String::from_utf8_lossy(element).into_owned());
            });
        }
        assert_eq!(found, elements, "seed {seed}");
        assert!(decoder.is_closed(), "seed {seed}");
    }
}

/// Bytes near to what each dialect expects, with damage. Nothing is claimed of the reading except that there is
/// one, and that the cut does not change it.
#[test]
fn damage_never_upsets_a_reader_and_cuts_never_matter() {
    let seeds: [&[u8]; 5] = [
        b"data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\\u00e9\"},\"finish_reason\":null}],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\ndata: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"b\"},\"finish_reason\":null}]}\n\ndata: [DONE]\n\n",
        b"event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":1,\"iterations\":[{\"input_tokens\":2}]}}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
        b"[{\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"x\"}]},\"finishReason\":\"STOP\"}],\"usageMetadata\":{\"promptTokenCount\":1,\"totalTokenCount\":3}}]",
        b"{\"event_type\":\"text-generation\",\"text\":\"a\"}\n{\"event_type\":\"stream-end\",\"finish_reason\":\"COMPLETE\",\"response\":{\"meta\":{\"billed_units\":{\"input_tokens\":1}}}}\n",
        b"{\"result\":{\"response\":\"x\",\"usage\":{\"prompt_tokens\":1}},\"errors\":[],\"error\":null}",
    ];
    let frames = eventstream::encode(
        &[(":event-type", "metadata")],
        b"{\"usage\":{\"inputTokens\":1}}",
    );
    for seed in 0..SEEDS {
        let random = &mut Random(seed);
        let mut bytes = match random.below(seeds.len() + 1) {
            at if at < seeds.len() => seeds[at].to_vec(),
            _ => frames.clone(),
        };
        for _ in 0..random.below(4) {
            let at = random.below(bytes.len());
            match random.below(3) {
                0 => bytes[at] = random.next() as u8,
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, *random.pick(b"{}[]\",:\\\n\r0n")),
            }
        }
        for dialect in Dialect::ALL {
            for content_type in [
                "text/event-stream",
                "application/json",
                "application/vnd.amazon.eventstream",
            ] {
                let read = |pieces: &[&[u8]]| {
                    let head = ReplyHead {
                        status: 200,
                        content_type: Some(content_type),
                        content_encoding: None,
                        header: &|_| None,
                    };
                    let mut reader = ReplyReader::new(dialect, true, &head);
                    for piece in pieces {
                        reader.push(piece);
                        let _ = (reader.progress(), reader.in_mid_event());
                    }
                    reader.finish(true)
                };
                let pieces = random.cuts(&bytes);
                assert_eq!(
                    read(&pieces),
                    read(&[&bytes]),
                    "seed {seed}, {dialect}, {content_type}"
                );
            }
        }
    }
}
