//! Server-sent events, incrementally: bytes in any cut → events. Copies nothing when an event's one data line
//! lies whole in a push, which is the common case of a streamed reply.
//!
//! ```text
//! event: message_delta LF        name (the last one in an event wins)
//! data: {"a": LF                 data lines join with LF
//! data: 1} LF
//! : a comment LF                 nothing
//! LF                             blank line: the event is handed over
//! ```
//! Lines end in LF, CRLF or CR; a byte order mark may lead; the space after a colon is optional. An event with
//! no blank line behind it is not an event. The decoder opens no sockets and never fails on input.

use memchr::memchr2;

/// Bytes of one unfinished event the decoder will hold. Past it the decoder stops for good and
/// [`Decoder::is_stopped`] says so: a reply may be passed on unread, but not kept.
pub const MAX_EVENT_BYTES: usize = 16 << 20;

/// One event. `name` is empty when the stream gave none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    pub name: &'a [u8],
    pub data: &'a [u8],
}

/// See the module's page.
#[derive(Debug)]
pub struct Decoder {
    max_event_bytes: usize,
    /// A line whose end has not come.
    line: Vec<u8>,
    /// The unfinished event: its name, and its data lines when they could not stay where they were.
    name: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// The last push ended in CR; an LF that follows belongs to it.
    is_after_cr: bool,
    is_first_line: bool,
    is_stopped: bool,
    stray_lines: u64,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder::new(MAX_EVENT_BYTES)
    }
}

impl Decoder {
    pub fn new(max_event_bytes: usize) -> Decoder {
        Decoder {
            max_event_bytes,
            line: Vec::new(),
            name: Vec::new(),
            data: Vec::new(),
            has_data: false,
            is_after_cr: false,
            is_first_line: true,
            is_stopped: false,
            stray_lines: 0,
        }
    }

    /// Takes the next bytes and hands over the events they complete, in order.
    pub fn push(&mut self, bytes: &[u8], on_event: &mut impl FnMut(Event<'_>)) {
        if self.is_stopped || bytes.is_empty() {
            return;
        }
        let mut rest = bytes;
        if self.is_after_cr {
            self.is_after_cr = false;
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        // The event's only data line so far, while it still lies in `bytes`.
        let mut held: Option<&[u8]> = None;
        while let Some(end) = memchr2(b'\n', b'\r', rest) {
            let head = &rest[..end];
            let is_cr = rest[end] == b'\r';
            rest = &rest[end + 1..];
            if is_cr {
                match rest.first() {
                    Some(b'\n') => rest = &rest[1..],
                    Some(_) => {}
                    None => self.is_after_cr = true,
                }
            }
            if self.line.is_empty() {
                if let Some(value) = self.take_line(head, &mut held, on_event) {
                    if held.is_none() && !self.has_data {
                        held = Some(value);
                    } else {
                        self.keep(held.take());
                        self.keep(Some(value));
                    }
                }
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(head);
                let value = self.take_line(&line, &mut held, on_event);
                if value.is_some() {
                    self.keep(held.take());
                    self.keep(value);
                }
                line.clear();
                self.line = line;
            }
            if self.is_stopped {
                return;
            }
        }
        self.keep(held);
        self.line.extend_from_slice(rest);
        if self.line.len() > self.max_event_bytes {
            self.stop();
        }
    }

    /// Whether bytes of an event are in that no blank line has ended.
    pub fn is_mid_event(&self) -> bool {
        !self.line.is_empty() || self.has_data || !self.name.is_empty()
    }

    /// Whether an event was too large; nothing more is read.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    /// Lines that are no field of the format: bare JSON or HTML in the middle of a stream.
    pub fn stray_lines(&self) -> u64 {
        self.stray_lines
    }

    /// Reads one line; a data line's value is returned, all else is done here.
    fn take_line<'b>(
        &mut self,
        line: &'b [u8],
        held: &mut Option<&[u8]>,
        on_event: &mut impl FnMut(Event<'_>),
    ) -> Option<&'b [u8]> {
        let mut line = line;
        if self.is_first_line {
            self.is_first_line = false;
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.len() > self.max_event_bytes {
            self.stop();
            return None;
        }
        if line.is_empty() {
            self.dispatch(held.take(), on_event);
            return None;
        }
        if let Some(value) = field(line, b"data") {
            return Some(value);
        }
        if let Some(value) = field(line, b"event") {
            self.name.clear();
            self.name.extend_from_slice(value);
        } else if line[0] != b':' && field(line, b"id").is_none() && field(line, b"retry").is_none()
        {
            self.stray_lines += 1;
        }
        None
    }

    fn dispatch(&mut self, held: Option<&[u8]>, on_event: &mut impl FnMut(Event<'_>)) {
        let data = match held {
            Some(line) => Some(line),
            None if self.has_data => Some(self.data.as_slice()),
            None => None,
        };
        if let Some(data) = data {
            on_event(Event {
                name: &self.name,
                data,
            });
        }
        self.name.clear();
        self.data.clear();
        self.has_data = false;
    }

    fn keep(&mut self, value: Option<&[u8]>) {
        let Some(value) = value else { return };
        if self.has_data {
            self.data.push(b'\n');
        }
        self.has_data = true;
        self.data.extend_from_slice(value);
        if self.data.len() > self.max_event_bytes {
            self.stop();
        }
    }

    fn stop(&mut self) {
        let stray_lines = self.stray_lines;
        *self = Decoder::new(self.max_event_bytes);
        self.is_stopped = true;
        self.stray_lines = stray_lines;
    }
}

/// The value of `line` when it is the field `name`; a line without a colon is a field with an empty value.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let rest = line.strip_prefix(name)?;
    match rest.first() {
        None => Some(rest),
        Some(b':') => Some(rest[1..].strip_prefix(b" ").unwrap_or(&rest[1..])),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(pieces: &[&[u8]]) -> Vec<(String, String)> {
        let mut decoder = Decoder::default();
        let mut found = Vec::new();
        for piece in pieces {
            decoder.push(piece, &mut |event| {
                found.push((
                    String::from_utf8_lossy(event.name).into_owned(),
                    String::from_utf8_lossy(event.data).into_owned(),
                ))
            });
        }
        found
    }

    fn check(input: &str, expected: &[(&str, &str)]) {
        let expected: Vec<(String, String)> = expected
            .iter()
            .map(|(name, data)| (name.to_string(), data.to_string()))
            .collect();
        let bytes = input.as_bytes();
        assert_eq!(events(&[bytes]), expected, "whole: {input:?}");
        for cut in 0..=bytes.len() {
            let (left, right) = bytes.split_at(cut);
            assert_eq!(events(&[left, right]), expected, "cut at {cut}: {input:?}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(events(&single), expected, "byte by byte: {input:?}");
    }

    #[test]
    fn line_ends_may_be_lf_crlf_or_cr() {
        check("data: a\n\ndata: b\n\n", &[("", "a"), ("", "b")]);
        check("data: a\r\n\r\ndata: b\r\n\r\n", &[("", "a"), ("", "b")]);
        check("data: a\r\rdata: b\r\r", &[("", "a"), ("", "b")]);
    }

    #[test]
    fn names_comments_and_joined_data() {
        check(
            ": hello\n\nevent: x\ndata: a\ndata:b\nid: 4\nretry: 5\n\n",
            &[("x", "a\nb")],
        );
        check("event: a\nevent: b\ndata: 1\n\n", &[("b", "1")]);
        check("event: a\n\ndata: 1\n\n", &[("", "1")]);
        check("data\n\ndata:\n\n", &[("", ""), ("", "")]);
        check("data:  two spaces\n\n", &[("", " two spaces")]);
        check("database: no\n\n", &[]);
    }

    #[test]
    fn byte_order_mark_and_split_characters() {
        check("\u{feff}data: žluť 🐎\n\n", &[("", "žluť 🐎")]);
    }

    #[test]
    fn an_event_without_a_blank_line_is_none() {
        check("data: a\n\ndata: [DONE]\n", &[("", "a")]);
        check("data: a\n\ndata: [DONE]", &[("", "a")]);
    }

    #[test]
    fn says_when_it_stands_in_an_event() {
        let mut decoder = Decoder::default();
        decoder.push(b"data: a\n\n", &mut |_| {});
        assert!(!decoder.is_mid_event());
        decoder.push(b": note\n", &mut |_| {});
        assert!(!decoder.is_mid_event());
        decoder.push(b"data: b\n", &mut |_| {});
        assert!(decoder.is_mid_event());
        decoder.push(b"\n", &mut |_| {});
        assert!(!decoder.is_mid_event());
        decoder.push(b"d", &mut |_| {});
        assert!(decoder.is_mid_event());
    }

    #[test]
    fn stops_for_good_at_the_bound() {
        let mut seen = 0;
        let mut decoder = Decoder::new(8);
        decoder.push(b"data: 1\n\n", &mut |_| seen += 1);
        decoder.push(b"data: 12345", &mut |_| seen += 1);
        decoder.push(b"6\n\ndata: 1\n\n", &mut |_| seen += 1);
        assert_eq!(seen, 1);
        assert!(decoder.is_stopped());
        let mut decoder = Decoder::new(8);
        decoder.push(b"data:1234\ndata:1234\n\n", &mut |_| seen += 1);
        assert_eq!((seen, decoder.is_stopped()), (1, true));
    }
}
