//! Content encodings, undone on a copy: the caller gets the provider's bytes as they came, the reader sees
//! what they mean. Flush points of the encoder need not match events.

use std::io::{self, Write};

use brotli_decompressor::DecompressorWriter;
use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

/// Encoded bytes given to a decoder at a time; with the step bound below it limits what one call may grow to.
const STEP_BYTES: usize = 1024;
/// Plain bytes one step may give. Deflate cannot reach it; a brotli bomb can, and ends the reading.
const MAX_STEP_OUTPUT_BYTES: usize = 4 << 20;
/// A body may grow to this many times its encoded size once it is past the allowance. More ends the reading:
/// repeated event heads compress well, but not like this.
const MAX_RATIO: u64 = 400;
const RATIO_ALLOWANCE_BYTES: u64 = 16 << 20;
const BROTLI_BUFFER_BYTES: usize = 4096;

/// A decoder for one body.
pub(super) struct Inflate {
    stage: Stage,
    bytes_in: u64,
    bytes_out: u64,
}

enum Stage {
    Gzip(Box<MultiGzDecoder<Sink>>),
    /// `deflate`, before its first byte told which of the two formats the sender means.
    Deflate,
    Zlib(Box<ZlibDecoder<Sink>>),
    Raw(Box<DeflateDecoder<Sink>>),
    Brotli(Box<DecompressorWriter<Sink>>),
    /// Damaged, too large, or an encoding nobody here reads.
    Stopped,
}

impl Inflate {
    /// A decoder for a `content-encoding` value; `None` when the bytes are plain. Encodings unknown here, and
    /// several on top of each other, give a decoder that is stopped from the start.
    pub fn new(encoding: Option<&str>) -> Option<Inflate> {
        let name = encoding?.trim().to_ascii_lowercase();
        let stage = match name.as_str() {
            "" | "identity" => return None,
            "gzip" | "x-gzip" => Stage::Gzip(Box::new(MultiGzDecoder::new(Sink::default()))),
            "deflate" => Stage::Deflate,
            "br" => Stage::Brotli(Box::new(DecompressorWriter::new(
                Sink::default(),
                BROTLI_BUFFER_BYTES,
            ))),
            _ => Stage::Stopped,
        };
        Some(Inflate {
            stage,
            bytes_in: 0,
            bytes_out: 0,
        })
    }

    /// Takes encoded bytes, hands over plain ones. False once nothing more can be read.
    pub fn push(&mut self, bytes: &[u8], on_plain: &mut impl FnMut(&[u8])) -> bool {
        for step in bytes.chunks(STEP_BYTES) {
            if let (Stage::Deflate, Some(first)) = (&self.stage, step.first()) {
                // A zlib header names method 8 in its low half byte; a raw stream practically never does.
                self.stage = if first & 0x0f == 8 {
                    Stage::Zlib(Box::new(ZlibDecoder::new(Sink::default())))
                } else {
                    Stage::Raw(Box::new(DeflateDecoder::new(Sink::default())))
                };
            }
            let written = match &mut self.stage {
                Stage::Gzip(decoder) => write(&mut **decoder, step).map(|()| decoder.get_mut()),
                Stage::Zlib(decoder) => write(&mut **decoder, step).map(|()| decoder.get_mut()),
                Stage::Raw(decoder) => write(&mut **decoder, step).map(|()| decoder.get_mut()),
                Stage::Brotli(decoder) => write(&mut **decoder, step).map(|()| decoder.get_mut()),
                Stage::Deflate | Stage::Stopped => return false,
            };
            let Ok(sink) = written else {
                self.stage = Stage::Stopped;
                return false;
            };
            self.bytes_in += step.len() as u64;
            self.bytes_out += sink.plain.len() as u64;
            if !sink.plain.is_empty() {
                on_plain(&sink.plain);
                sink.plain.clear();
            }
            if self.bytes_out > RATIO_ALLOWANCE_BYTES + self.bytes_in * MAX_RATIO {
                self.stage = Stage::Stopped;
                return false;
            }
        }
        true
    }
}

fn write(decoder: &mut dyn Write, mut step: &[u8]) -> io::Result<()> {
    while !step.is_empty() {
        match decoder.write(step)? {
            // The stream ended; what follows it is padding.
            0 => break,
            taken => step = &step[taken..],
        }
    }
    decoder.flush()
}

/// Collects one step's output, and refuses more than a step may give.
#[derive(Default)]
struct Sink {
    plain: Vec<u8>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.plain.len() + bytes.len() > MAX_STEP_OUTPUT_BYTES {
            return Err(io::Error::other("body grows too fast when decoded"));
        }
        self.plain.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    fn plain() -> Vec<u8> {
        (0..4000u32)
            .flat_map(|n| format!("data: {{\"n\":{n}}}\n\n").into_bytes())
            .collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).expect("a vector takes everything");
        encoder.finish().expect("a vector takes everything")
    }

    fn decode(encoding: &str, encoded: &[u8], cut: usize) -> (Vec<u8>, bool) {
        let mut decoder = Inflate::new(Some(encoding)).expect("encoded");
        let mut found = Vec::new();
        let mut is_reading = true;
        for piece in encoded.chunks(cut) {
            is_reading &= decoder.push(piece, &mut |plain| found.extend_from_slice(plain));
        }
        (found, is_reading)
    }

    #[test]
    fn gzip_and_both_kinds_of_deflate() {
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(&plain()).expect("a vector takes everything");
        let zlib = zlib.finish().expect("a vector takes everything");
        let mut raw = DeflateEncoder::new(Vec::new(), Compression::default());
        raw.write_all(&plain()).expect("a vector takes everything");
        let raw = raw.finish().expect("a vector takes everything");
        for cut in [1, 7, 1 << 20] {
            assert_eq!(decode("gzip", &gzip(&plain()), cut), (plain(), true));
            assert_eq!(decode("Deflate", &zlib, cut), (plain(), true));
            assert_eq!(decode("deflate", &raw, cut), (plain(), true));
        }
    }

    #[test]
    fn brotli() {
        // Hand-made: one uncompressed meta-block of five bytes, then the empty last one.
        let encoded = [0x0b, 0x02, 0x80, b'h', b'e', b'l', b'l', b'o', 0x03];
        for cut in [1, 100] {
            assert_eq!(decode("br", &encoded, cut), (b"hello".to_vec(), true));
        }
    }

    #[test]
    fn events_come_out_before_the_end_of_the_stream() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(b"data: 1\n\n").expect("a vector");
        encoder.flush().expect("a vector takes everything");
        let (found, _) = decode("gzip", encoder.get_ref(), 1);
        assert_eq!(found, b"data: 1\n\n");
    }

    #[test]
    fn a_bomb_ends_the_reading() {
        let bomb = gzip(&vec![0; 64 << 20]);
        let mut decoder = Inflate::new(Some("gzip")).expect("encoded");
        let mut largest = 0;
        let is_reading = decoder.push(&bomb, &mut |plain| largest = largest.max(plain.len()));
        assert!(!is_reading);
        assert!(largest <= MAX_STEP_OUTPUT_BYTES);
    }

    #[test]
    fn damage_and_unknown_encodings_stop() {
        assert!(!decode("gzip", b"not gzip at all", 3).1);
        assert!(!decode("zstd", b"x", 1).1);
        assert!(!decode("gzip, br", b"x", 1).1);
        assert!(Inflate::new(Some("identity")).is_none());
        assert!(Inflate::new(None).is_none());
    }
}
