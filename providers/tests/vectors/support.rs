//! How a reply is written down and read here.

use providers::{Dialect, Ending, FailureClass, Progress, Reading, ReplyHead, ReplyReader, Usage};

/// A reply with status 200, and how it was asked for.
#[derive(Clone)]
pub struct Reply {
    pub dialect: Dialect,
    pub streamed: bool,
    pub content_type: &'static str,
    pub content_encoding: Option<&'static str>,
    pub headers: Vec<(&'static str, &'static str)>,
    pub body: Vec<u8>,
    pub clean_end: bool,
}

impl Reply {
    pub fn json(dialect: Dialect, body: &str) -> Reply {
        Reply {
            dialect,
            streamed: false,
            content_type: "application/json",
            content_encoding: None,
            headers: Vec::new(),
            body: body.as_bytes().to_vec(),
            clean_end: true,
        }
    }

    /// Unnamed events, one a line of JSON.
    pub fn events(dialect: Dialect, events: &[&str]) -> Reply {
        let body: String = events
            .iter()
            .map(|data| format!("data: {data}\n\n"))
            .collect();
        Reply::sse(dialect, &body)
    }

    /// Events named as their JSON `type` is.
    pub fn named(dialect: Dialect, events: &[&str]) -> Reply {
        let name = |data: &str| {
            let value: serde_json::Value = serde_json::from_str(data).expect("events are JSON");
            value["type"]
                .as_str()
                .expect("events have a type")
                .to_owned()
        };
        let body: String = events
            .iter()
            .map(|data| format!("event: {}\ndata: {data}\n\n", name(data)))
            .collect();
        Reply::sse(dialect, &body)
    }

    pub fn sse(dialect: Dialect, body: &str) -> Reply {
        Reply {
            streamed: true,
            content_type: "text/event-stream; charset=utf-8",
            ..Reply::json(dialect, body)
        }
    }

    pub fn lines(dialect: Dialect, lines: &[&str]) -> Reply {
        let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
        Reply {
            streamed: true,
            content_type: "application/x-ndjson",
            ..Reply::json(dialect, &body)
        }
    }

    pub fn frames(dialect: Dialect, body: Vec<u8>) -> Reply {
        Reply {
            streamed: true,
            content_type: "application/vnd.amazon.eventstream",
            body,
            ..Reply::json(dialect, "")
        }
    }

    pub fn header(mut self, name: &'static str, value: &'static str) -> Reply {
        self.headers.push((name, value));
        self
    }

    pub fn cut(mut self) -> Reply {
        self.clean_end = false;
        self
    }

    fn reader(&self) -> ReplyReader {
        let header = |name: &str| {
            let found = self.headers.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let head = ReplyHead {
            status: 200,
            content_type: Some(self.content_type),
            content_encoding: self.content_encoding,
            header: &header,
        };
        ReplyReader::new(self.dialect, self.streamed, &head)
    }

    pub fn read_in(&self, pieces: &[&[u8]]) -> Reading {
        let mut reader = self.reader();
        for piece in pieces {
            reader.push(piece);
        }
        reader.finish(self.clean_end)
    }

    /// Reads the reply in every cut and gives the one reading they all agree on.
    pub fn read(&self) -> Reading {
        let body = self.body.as_slice();
        let whole = self.read_in(&[body]);
        for cut in 0..=body.len() {
            let (left, right) = body.split_at(cut);
            assert_eq!(self.read_in(&[left, right]), whole, "cut at {cut}");
        }
        let single: Vec<&[u8]> = body.chunks(1).collect();
        assert_eq!(self.read_in(&single), whole, "one byte at a time");
        whole
    }

    /// How far the reply has come once all of it was seen.
    pub fn progress(&self) -> Progress {
        let mut reader = self.reader();
        reader.push(&self.body);
        reader.progress()
    }
}

/// The usage with its totals and the numbers a test names; everything else must be unsaid.
pub fn usage(in_total: u64, out_total: u64, change: impl FnOnce(&mut Usage)) -> Option<Usage> {
    let mut usage = Usage {
        in_total: Some(in_total),
        in_plain: Some(in_total),
        out_total: Some(out_total),
        ..Usage::default()
    };
    change(&mut usage);
    Some(usage)
}

pub fn class(reading: &Reading) -> Option<FailureClass> {
    reading.failure.as_ref().map(|failure| failure.class)
}

pub fn assert_whole(reading: &Reading) {
    assert_eq!(reading.ending, Ending::Whole, "{reading:?}");
    assert_eq!(reading.malformed_events, 0, "{reading:?}");
}
