//! The same checks without a fuzzer: seeds changed at random for a bounded time, on any compiler.

use std::time::{Duration, Instant};

const TIME: Duration = Duration::from_secs(2);

/// xorshift64*, so that a failing number can be run again.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as usize % bound
    }
}

fn changed(seeds: &[Vec<u8>], number: u64) -> Vec<u8> {
    let mut random = Random(number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..1 + random.below(8) {
        let at = random.below(bytes.len() + 1);
        match random.below(5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.below(256) as u8),
            2 => bytes.insert(at, b"\n\r:,\"{}[]0\\"[random.below(11)]),
            3 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            _ => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len());
                let length = random.below(other.len() - from + 1);
                bytes.splice(at..at, other[from..from + length].iter().copied());
            }
        }
    }
    bytes
}

fn feed(target: &str, check: fn(&[u8])) {
    let seeds = super::seeds(target);
    seeds.iter().for_each(|seed| check(seed));
    let until = Instant::now() + TIME;
    let mut number = 0;
    while Instant::now() < until {
        let bytes = changed(&seeds, number);
        if std::panic::catch_unwind(|| check(&bytes)).is_err() {
            panic!(
                "{target}, input {number}: {:?}",
                String::from_utf8_lossy(&bytes)
            );
        }
        number += 1;
    }
    println!("{target}: {number} inputs");
}

#[test]
fn sse_holds_for_changed_seeds() {
    feed("sse", super::sse);
}

#[test]
fn eventstream_holds_for_changed_seeds() {
    feed("eventstream", super::eventstream);
}

#[test]
fn reply_holds_for_changed_seeds() {
    feed("reply", super::reply);
}

#[cfg(feature = "gateway")]
#[test]
fn universal_holds_for_changed_seeds() {
    feed("universal", super::universal);
}
