//! A block that a store refuses for its content is halved until the bad row stands alone. After a
//! crash the same halves come again under the same ids, so the store can drop them.

use std::ops::Range;

/// What of a block is still to insert.
pub(super) struct Parts {
    block: String,
    length: usize,
    /// The next one last.
    waiting: Vec<Range<usize>>,
}

pub(super) struct Part {
    pub range: Range<usize>,
    /// The block's own id for the whole of it.
    pub id: String,
}

impl Parts {
    pub fn of(block: &str, length: usize) -> Parts {
        let whole = 0..length;
        let waiting = if length == 0 {
            Vec::new()
        } else {
            Vec::from([whole])
        };
        Parts {
            block: block.to_string(),
            length,
            waiting,
        }
    }

    pub fn next(&mut self) -> Option<Part> {
        let range = self.waiting.pop()?;
        let is_whole = range.len() == self.length;
        let id = if is_whole {
            self.block.clone()
        } else {
            format!("{}/{}-{}", self.block, range.start, range.end)
        };
        Some(Part { range, id })
    }

    /// Puts a refused part back as two; false when it is a single row.
    pub fn halve(&mut self, part: &Part) -> bool {
        let Range { start, end } = part.range;
        if end - start < 2 {
            return false;
        }
        let middle = start + (end - start) / 2;
        self.waiting.push(middle..end);
        self.waiting.push(start..middle);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halving_comes_to_the_bad_row_and_inserts_each_other_row_once() {
        for bad in 0..9 {
            let mut parts = Parts::of("b", 9);
            let mut inserted = Vec::new();
            let mut refused = Vec::new();
            while let Some(part) = parts.next() {
                if !part.range.contains(&bad) {
                    inserted.extend(part.range);
                } else if !parts.halve(&part) {
                    refused.push(part.range.start);
                }
            }
            assert_eq!(refused, [bad]);
            assert_eq!(
                inserted,
                (0..9).filter(|row| *row != bad).collect::<Vec<_>>()
            );
        }
        assert!(Parts::of("b", 0).next().is_none());
        assert_eq!(Parts::of("b", 9).next().unwrap().id, "b");
    }
}
