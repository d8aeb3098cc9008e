//! JSON documents one after the other, incrementally: one a line ([`Lines`]), or the elements of one array
//! that grows while it is read ([`Elements`]). Documents are cut out, not parsed. Nothing is copied when one
//! lies whole in a push.

use memchr::memchr;

/// Bytes of one unfinished document either decoder will hold. Past it the decoder stops for good and says so.
pub const MAX_DOCUMENT_BYTES: usize = 16 << 20;

/// Newline-delimited JSON. Blank lines are skipped.
#[derive(Debug)]
pub struct Lines {
    max_document_bytes: usize,
    line: Vec<u8>,
    is_stopped: bool,
}

impl Default for Lines {
    fn default() -> Lines {
        Lines::new(MAX_DOCUMENT_BYTES)
    }
}

impl Lines {
    pub fn new(max_document_bytes: usize) -> Lines {
        Lines {
            max_document_bytes,
            line: Vec::new(),
            is_stopped: false,
        }
    }

    /// Takes the next bytes and hands over the lines they complete, in order.
    pub fn push(&mut self, bytes: &[u8], on_line: &mut impl FnMut(&[u8])) {
        let mut rest = bytes;
        while !self.is_stopped {
            let Some(end) = memchr(b'\n', rest) else {
                self.line.extend_from_slice(rest);
                if self.line.len() > self.max_document_bytes {
                    self.stop();
                }
                return;
            };
            let head = &rest[..end];
            rest = &rest[end + 1..];
            let mut line = std::mem::take(&mut self.line);
            if line.is_empty() {
                self.hand_over(head, on_line);
            } else {
                line.extend_from_slice(head);
                self.hand_over(&line, on_line);
                line.clear();
            }
            self.line = line;
        }
    }

    /// The body ended well: a last line needs no newline.
    pub fn finish(&mut self, on_line: &mut impl FnMut(&[u8])) {
        let line = std::mem::take(&mut self.line);
        self.hand_over(&line, on_line);
    }

    pub fn is_mid_line(&self) -> bool {
        !self.line.trim_ascii().is_empty()
    }

    pub fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    fn hand_over(&mut self, line: &[u8], on_line: &mut impl FnMut(&[u8])) {
        if line.len() > self.max_document_bytes {
            self.stop();
            return;
        }
        let line = line.trim_ascii();
        if !line.is_empty() {
            on_line(line);
        }
    }

    fn stop(&mut self) {
        self.is_stopped = true;
        self.line = Vec::new();
    }
}

/// The elements of a top-level array: `[{...},\r\n{...}]`.
#[derive(Debug)]
pub struct Elements {
    max_document_bytes: usize,
    element: Vec<u8>,
    /// 0 before the array's bracket and after its end, 1 between elements, more inside one.
    depth: u32,
    is_in_string: bool,
    is_escaped: bool,
    is_closed: bool,
    is_stopped: bool,
}

impl Default for Elements {
    fn default() -> Elements {
        Elements::new(MAX_DOCUMENT_BYTES)
    }
}

impl Elements {
    pub fn new(max_document_bytes: usize) -> Elements {
        Elements {
            max_document_bytes,
            element: Vec::new(),
            depth: 0,
            is_in_string: false,
            is_escaped: false,
            is_closed: false,
            is_stopped: false,
        }
    }

    /// Takes the next bytes and hands over the elements they complete, in order. Bytes after the array's end
    /// are ignored.
    pub fn push(&mut self, bytes: &[u8], on_element: &mut impl FnMut(&[u8])) {
        let mut start = 0;
        for (at, &byte) in bytes.iter().enumerate() {
            if self.is_closed || self.is_stopped {
                return;
            }
            if self.is_in_string {
                if self.is_escaped {
                    self.is_escaped = false;
                } else if byte == b'\\' {
                    self.is_escaped = true;
                } else if byte == b'"' {
                    self.is_in_string = false;
                }
                continue;
            }
            match byte {
                b'"' => self.is_in_string = true,
                b'[' | b'{' if self.depth == 0 => {
                    self.depth = 1;
                    start = at + 1;
                }
                b'[' | b'{' => self.depth = self.depth.saturating_add(1),
                b']' | b'}' if self.depth == 1 => {
                    self.hand_over(&bytes[start..at], on_element);
                    self.depth = 0;
                    self.is_closed = true;
                }
                b']' | b'}' => self.depth = self.depth.saturating_sub(1),
                b',' if self.depth == 1 => {
                    self.hand_over(&bytes[start..at], on_element);
                    start = at + 1;
                }
                _ if self.depth == 0 => start = at + 1,
                _ => {}
            }
        }
        if self.is_closed || self.is_stopped || self.depth == 0 {
            return;
        }
        self.element.extend_from_slice(&bytes[start..]);
        if self.element.len() > self.max_document_bytes {
            self.stop();
        }
        // An element that is complete needs no comma behind it to be known.
        if self.depth == 1 && !self.is_in_string && self.element.trim_ascii().ends_with(b"}") {
            self.hand_over(&[], on_element);
        }
    }

    /// Whether the array's closing bracket came.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    pub fn is_mid_element(&self) -> bool {
        self.depth > 1 || self.is_in_string
    }

    pub fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    fn hand_over(&mut self, tail: &[u8], on_element: &mut impl FnMut(&[u8])) {
        if self.element.len() + tail.len() > self.max_document_bytes {
            self.stop();
            return;
        }
        if self.element.is_empty() {
            let element = tail.trim_ascii();
            if !element.is_empty() {
                on_element(element);
            }
            return;
        }
        let mut element = std::mem::take(&mut self.element);
        element.extend_from_slice(tail);
        let trimmed = element.trim_ascii();
        if !trimmed.is_empty() {
            on_element(trimmed);
        }
        element.clear();
        self.element = element;
    }

    fn stop(&mut self) {
        self.is_stopped = true;
        self.element = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str, expected: &[&str], read: impl Fn(&[&[u8]]) -> Vec<String>) {
        let bytes = input.as_bytes();
        assert_eq!(read(&[bytes]), expected, "whole: {input:?}");
        for cut in 0..=bytes.len() {
            let (left, right) = bytes.split_at(cut);
            assert_eq!(read(&[left, right]), expected, "cut at {cut}: {input:?}");
        }
        assert_eq!(read(&bytes.chunks(1).collect::<Vec<_>>()), expected);
    }

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let mut decoder = Lines::default();
        let mut found = Vec::new();
        let mut on_line = |line: &[u8]| found.push(String::from_utf8_lossy(line).into_owned());
        for piece in pieces {
            decoder.push(piece, &mut on_line);
        }
        decoder.finish(&mut on_line);
        found
    }

    fn elements(pieces: &[&[u8]]) -> Vec<String> {
        let mut decoder = Elements::default();
        let mut found = Vec::new();
        for piece in pieces {
            decoder.push(piece, &mut |element| {
                found.push(String::from_utf8_lossy(element).into_owned())
            });
        }
        found
    }

    #[test]
    fn lines_end_in_newlines_or_with_the_body() {
        check(
            "{\"a\":1}\n\r\n{\"b\":2}\r\n{\"c\":3}",
            &["{\"a\":1}", "{\"b\":2}", "{\"c\":3}"],
            lines,
        );
        check("", &[], lines);
    }

    #[test]
    fn elements_may_hold_brackets_in_strings() {
        check(
            " [{\"a\":\"]},{\\\"\"},\r\n{\"b\":[1,{\"c\":2}]}\n] tail",
            &["{\"a\":\"]},{\\\"\"}", "{\"b\":[1,{\"c\":2}]}"],
            elements,
        );
        check("[]", &[], elements);
        check("[{\"a\":1}", &["{\"a\":1}"], elements);
    }

    #[test]
    fn both_stop_for_good_at_the_bound() {
        let mut seen = 0;
        let mut decoder = Lines::new(4);
        decoder.push(b"12345", &mut |_| seen += 1);
        decoder.push(b"\n1\n", &mut |_| seen += 1);
        assert!(decoder.is_stopped());
        let mut decoder = Elements::new(4);
        decoder.push(b"[12345,", &mut |_| seen += 1);
        decoder.push(b"1]", &mut |_| seen += 1);
        assert!(decoder.is_stopped());
        assert_eq!(seen, 0);
    }
}
