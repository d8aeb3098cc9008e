//! Who gives way when no block is free.

use super::{Entry, Scheduler};
use crate::kv::Kv;

impl<S> Scheduler<S> {
    /// Gives every ready running sequence the blocks of its known tokens, those of high rank first; says how many others
    /// had to give theirs up for it. One whole window always fits, so the first in rank always gets them.
    pub(super) fn make_room(&mut self, kv: &mut Kv) -> usize {
        let mut preempted = 0;
        let mut index = 0;
        while index < self.running.len() {
            let entry = &mut self.running[index];
            if !entry.is_ready() || kv.grow(&mut entry.table, entry.known) {
                index += 1;
                continue;
            }
            let victim = self.victim();
            self.preempt(victim, kv);
            preempted += 1;
            // The place of one before it moved up; one behind it, or itself, did not.
            if victim < index {
                index -= 1;
            }
        }
        preempted
    }

    /// A reader that is far behind does not keep those who wait from working: where every place is taken, or nobody runs
    /// for want of blocks, a paused one goes back to the waiting.
    pub(super) fn clear_paused(&mut self, kv: &mut Kv) -> usize {
        if self.waiting.len() == 0 {
            return 0;
        }
        let is_full = self.running.len() >= self.max_running;
        let is_stuck = !self.running.iter().any(Entry::is_ready);
        let paused = self.running.iter().rposition(|entry| !entry.is_ready());
        match paused {
            Some(index) if is_full || is_stuck => {
                self.preempt(index, kv);
                1
            }
            _ => 0,
        }
    }

    /// A paused one, who loses no time by it; else the newest of the lowest priority.
    fn victim(&self) -> usize {
        let paused = self.running.iter().rposition(|entry| !entry.is_ready());
        paused.unwrap_or(self.running.len() - 1)
    }

    fn preempt(&mut self, index: usize, kv: &mut Kv) {
        let mut entry: Entry<S> = self.running.remove(index);
        kv.release(&mut entry.table, entry.owner);
        entry.computed = 0;
        self.waiting.push_front(entry);
    }
}
