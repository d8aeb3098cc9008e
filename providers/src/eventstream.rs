//! `application/vnd.amazon.eventstream`, incrementally: bytes in any cut → frames, and frames → bytes.
//!
//! ```text
//! 0        4         8          12                      total-4    total
//! ├ total ─┼ headers ┼ CRC of 0..8 ┼ headers ┼ payload ──┼ CRC of all before ┤   big endian, plain CRC-32
//! ```
//! A frame that fails a check leaves no way to find the next one, so the decoder stops there for good. Nothing
//! is copied when a frame lies whole in a push.

use thiserror::Error;

/// Bytes of one frame the decoder will hold. A longer frame is a fault, seen before any of it is kept.
pub const MAX_FRAME_BYTES: usize = 16 << 20;

const PRELUDE_BYTES: usize = 12;
const OVERHEAD_BYTES: usize = 16;
const MAX_HEADER_BYTES: usize = 128 << 10;

/// Why the decoder stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    #[error("event stream frame lengths do not fit each other")]
    Lengths,
    #[error("event stream frame is longer than {MAX_FRAME_BYTES} bytes")]
    TooLong,
    #[error("event stream checksum does not match")]
    Checksum,
}

/// One frame whose checksums were right.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    headers: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// A header of string type. None as well when the header block is damaged before it.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        let mut rest = self.headers;
        while !rest.is_empty() {
            let (length, tail) = rest.split_first()?;
            let (found, tail) = tail.split_at_checked(usize::from(*length))?;
            let (kind, tail) = tail.split_first()?;
            let (value, tail) = match kind {
                0 | 1 => (&tail[..0], tail),
                2 => tail.split_at_checked(1)?,
                3 => tail.split_at_checked(2)?,
                4 => tail.split_at_checked(4)?,
                5 | 8 => tail.split_at_checked(8)?,
                6 | 7 => {
                    let (length, tail) = tail.split_first_chunk::<2>()?;
                    tail.split_at_checked(usize::from(u16::from_be_bytes(*length)))?
                }
                9 => tail.split_at_checked(16)?,
                _ => return None,
            };
            if *kind == 7 && found == name.as_bytes() {
                return std::str::from_utf8(value).ok();
            }
            rest = tail;
        }
        None
    }
}

/// See the module's page.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    fault: Option<Fault>,
}

impl Decoder {
    /// Takes the next bytes and hands over the frames they complete, in order.
    pub fn push(&mut self, bytes: &[u8], on_frame: &mut impl FnMut(Frame<'_>)) {
        let mut rest = bytes;
        while !rest.is_empty() && self.fault.is_none() {
            if self.buffer.is_empty()
                && let Some(total) = self.checked(rest)
                && let Some((frame, tail)) = rest.split_at_checked(total)
            {
                self.hand_over(frame, on_frame);
                rest = tail;
                continue;
            }
            if self.fault.is_some() {
                return;
            }
            let wanted = self.wanted();
            let (head, tail) = rest.split_at(rest.len().min(wanted));
            self.buffer.extend_from_slice(head);
            rest = tail;
            let buffer = std::mem::take(&mut self.buffer);
            if self.checked(&buffer) == Some(buffer.len()) {
                self.hand_over(&buffer, on_frame);
                self.buffer = buffer;
                self.buffer.clear();
            } else {
                self.buffer = buffer;
            }
        }
    }

    /// Whether a frame has begun and not ended.
    pub fn is_mid_frame(&self) -> bool {
        !self.buffer.is_empty()
    }

    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Bytes that the buffer lacks for its prelude, or after that for its frame.
    fn wanted(&self) -> usize {
        let have = self.buffer.len();
        match self.buffer.first_chunk::<4>() {
            Some(total) if have >= PRELUDE_BYTES => u32::from_be_bytes(*total) as usize - have,
            _ => PRELUDE_BYTES - have,
        }
    }

    /// The frame length told by a prelude that is in and right.
    fn checked(&mut self, bytes: &[u8]) -> Option<usize> {
        let prelude = bytes.first_chunk::<PRELUDE_BYTES>()?;
        match prelude_lengths(prelude) {
            Ok((total, _)) => Some(total),
            Err(fault) => {
                self.fault = Some(fault);
                None
            }
        }
    }

    fn hand_over(&mut self, frame: &[u8], on_frame: &mut impl FnMut(Frame<'_>)) {
        match parse(frame) {
            Ok(frame) => on_frame(frame),
            Err(fault) => self.fault = Some(fault),
        }
    }
}

fn prelude_lengths(prelude: &[u8; PRELUDE_BYTES]) -> Result<(usize, usize), Fault> {
    let word = |at: usize| {
        u32::from_be_bytes([
            prelude[at],
            prelude[at + 1],
            prelude[at + 2],
            prelude[at + 3],
        ])
    };
    if crc32fast::hash(&prelude[..8]) != word(8) {
        return Err(Fault::Checksum);
    }
    let (total, headers) = (word(0) as usize, word(4) as usize);
    if total > MAX_FRAME_BYTES {
        return Err(Fault::TooLong);
    }
    if headers > MAX_HEADER_BYTES || total < headers + OVERHEAD_BYTES {
        return Err(Fault::Lengths);
    }
    Ok((total, headers))
}

/// Reads exactly one frame.
fn parse(bytes: &[u8]) -> Result<Frame<'_>, Fault> {
    let prelude = bytes.first_chunk::<PRELUDE_BYTES>().ok_or(Fault::Lengths)?;
    let (total, headers) = prelude_lengths(prelude)?;
    let (body, sum) = bytes.split_last_chunk::<4>().ok_or(Fault::Lengths)?;
    if bytes.len() != total {
        return Err(Fault::Lengths);
    }
    if crc32fast::hash(body) != u32::from_be_bytes(*sum) {
        return Err(Fault::Checksum);
    }
    let (headers, payload) = body[PRELUDE_BYTES..].split_at(headers);
    Ok(Frame { headers, payload })
}

/// One frame with string headers. Names past 255 bytes and values past 65,535 are cut, payloads are the
/// caller's to bound.
pub fn encode(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        let name = &name.as_bytes()[..name.len().min(usize::from(u8::MAX))];
        let value = &value.as_bytes()[..value.len().min(usize::from(u16::MAX))];
        block.push(name.len() as u8);
        block.extend_from_slice(name);
        block.push(7);
        block.extend_from_slice(&(value.len() as u16).to_be_bytes());
        block.extend_from_slice(value);
    }
    let total = block.len() + payload.len() + OVERHEAD_BYTES;
    let mut frame = Vec::with_capacity(total);
    frame.extend_from_slice(&(total as u32).to_be_bytes());
    frame.extend_from_slice(&(block.len() as u32).to_be_bytes());
    let prelude_sum = crc32fast::hash(&frame);
    frame.extend_from_slice(&prelude_sum.to_be_bytes());
    frame.extend_from_slice(&block);
    frame.extend_from_slice(payload);
    let sum = crc32fast::hash(&frame);
    frame.extend_from_slice(&sum.to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_frames() -> Vec<u8> {
        let mut bytes = encode(
            &[(":message-type", "event"), (":event-type", "metadata")],
            b"{\"a\":1}",
        );
        bytes.extend(encode(&[(":message-type", "exception")], b""));
        bytes
    }

    /// The event type and payload of each frame.
    type Frames = Vec<(Option<String>, Vec<u8>)>;

    fn read(pieces: &[&[u8]]) -> (Frames, Option<Fault>) {
        let mut decoder = Decoder::default();
        let mut found = Vec::new();
        for piece in pieces {
            decoder.push(piece, &mut |frame| {
                found.push((
                    frame.header(":event-type").map(str::to_owned),
                    frame.payload().to_vec(),
                ))
            });
        }
        (found, decoder.fault())
    }

    #[test]
    fn any_cut_gives_the_same_frames() {
        let bytes = two_frames();
        let whole = read(&[&bytes]);
        assert_eq!(
            whole.0,
            vec![
                (Some("metadata".to_owned()), b"{\"a\":1}".to_vec()),
                (None, vec![])
            ]
        );
        for cut in 0..=bytes.len() {
            let (left, right) = bytes.split_at(cut);
            assert_eq!(read(&[left, right]), whole, "cut at {cut}");
        }
        assert_eq!(read(&bytes.chunks(1).collect::<Vec<_>>()), whole);
    }

    #[test]
    fn the_published_empty_frame() {
        // The empty message of the format's public description: no headers, no payload.
        let bytes = [
            0, 0, 0, 0x10, 0, 0, 0, 0, 0x05, 0xc2, 0x48, 0xeb, 0x7d, 0x98, 0xc8, 0xff,
        ];
        assert_eq!(encode(&[], b""), bytes);
        assert_eq!(read(&[&bytes]), (vec![(None, vec![])], None));
    }

    #[test]
    fn every_flipped_bit_is_a_fault_and_ends_reading() {
        let bytes = two_frames();
        let first = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        for at in 0..first {
            for bit in 0..8 {
                let mut broken = bytes.clone();
                broken[at] ^= 1 << bit;
                let (frames, fault) = read(&[&broken]);
                assert!(frames.is_empty(), "byte {at} bit {bit}");
                assert!(fault.is_some(), "byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn lengths_that_lie_are_faults() {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&20u32.to_be_bytes());
        bytes.extend_from_slice(&10u32.to_be_bytes());
        let sum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&sum.to_be_bytes());
        assert_eq!(read(&[&bytes]).1, Some(Fault::Lengths));
        bytes[..4].copy_from_slice(&u32::MAX.to_be_bytes());
        let sum = crc32fast::hash(&bytes[..8]);
        bytes[8..12].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(read(&[&bytes]).1, Some(Fault::TooLong));
    }
}
