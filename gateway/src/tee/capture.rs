//! Keeps what passes by for the record, within two bounds: bytes of one body, and one memory
//! budget for the whole process. Past either the copy is cut and marked; the answer never is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// Memory that captured bodies may hold at once, over all requests.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    max: usize,
}

impl Budget {
    pub fn new(max: usize) -> Arc<Budget> {
        Arc::new(Budget {
            used: AtomicUsize::new(0),
            max,
        })
    }

    fn take(&self, bytes: usize) -> bool {
        let taken = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= self.max)
            });
        taken.is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// The copy of one body. Pieces are shared with the answer, not copied.
pub struct Capture {
    budget: Arc<Budget>,
    max_bytes: usize,
    pieces: Vec<Bytes>,
    bytes: usize,
    is_complete: bool,
    is_on: bool,
}

impl Capture {
    pub fn new(budget: &Arc<Budget>, max_bytes: usize, is_on: bool) -> Capture {
        Capture {
            budget: budget.clone(),
            max_bytes,
            pieces: Vec::new(),
            bytes: 0,
            is_complete: true,
            is_on,
        }
    }

    pub fn push(&mut self, piece: &Bytes) {
        if !self.is_on || !self.is_complete {
            return;
        }
        let room = self.max_bytes - self.bytes;
        let kept = if piece.len() > room {
            piece.slice(..room)
        } else {
            piece.clone()
        };
        if !self.budget.take(kept.len()) {
            self.is_complete = false;
            return;
        }
        self.is_complete = kept.len() == piece.len();
        self.bytes += kept.len();
        self.pieces.push(kept);
    }

    /// What was kept, and whether it is all.
    pub fn take(&mut self) -> (Vec<Bytes>, bool) {
        (std::mem::take(&mut self.pieces), self.is_complete)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_past_its_bound_is_cut_and_marked() {
        let budget = Budget::new(100);
        let mut capture = Capture::new(&budget, 5, true);
        capture.push(&Bytes::from_static(b"abc"));
        capture.push(&Bytes::from_static(b"defg"));
        capture.push(&Bytes::from_static(b"h"));
        let (pieces, complete) = capture.take();
        assert_eq!(pieces.concat(), b"abcde");
        assert!(!complete);
        drop(capture);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn the_budget_is_shared_and_given_back() {
        let budget = Budget::new(4);
        let mut first = Capture::new(&budget, 100, true);
        let mut second = Capture::new(&budget, 100, true);
        first.push(&Bytes::from_static(b"abcd"));
        second.push(&Bytes::from_static(b"e"));
        assert!(!second.take().1);
        drop(first);
        let mut third = Capture::new(&budget, 100, true);
        third.push(&Bytes::from_static(b"abcd"));
        assert!(third.take().1);
    }
}
