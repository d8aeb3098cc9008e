//! Which sequences get how many tokens in the next step, and with which blocks.
//!
//! It sees counts, block numbers and budgets; what a sequence is (`S`) it only carries. It reads no clock and draws no
//! numbers, so equal calls give equal plans. A turn of [`Scheduler::plan`]:
//!
//! 1. Running sequences, the oldest first, get the block their next token needs. When none is free, the last in rank gives its
//!    blocks up and goes back to the head of the waiting ([`preempt`]); its tokens are computed again later, mostly from
//!    what is still remembered of its blocks.
//! 2. If nobody had to give way, waiting sequences are let in ([`admission`]).
//! 3. Each ready sequence that has one token to compute gets it; prompts share what is left of the budget.
//!
//! The oldest ready sequence of the highest rank is never put off, so everything that is asked for ends.

mod admission;
mod cost;
mod preempt;

#[cfg(test)]
mod tests;

pub(crate) use cost::CostModel;

use crate::adapter::AdapterHash;
use crate::kv::{BlockTable, Kv, Owner};
use crate::request::Priority;
use admission::Waiting;
use std::sync::Arc;

/// Prompt tokens a step always has room for, however many decode: reading goes on, if slowly.
pub(crate) const MIN_PROMPT_TOKENS: usize = 16;

/// Whether a sequence could take part in the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readiness {
    Ready,
    /// Its adapter is on its way; others go first, and no place is held for it until then. Only of waiting ones.
    NotYet,
    /// Its reader has no room for what a step may bring. A running one keeps its place and costs nothing.
    Paused,
}

/// Tokens a step may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    pub step_tokens: usize,
    /// Of prompts, in a step that others decode in: what a token may be late because someone else's prompt is read.
    pub beside_decodes: usize,
}

/// A sequence in numbers.
pub(crate) struct Entry<S> {
    pub sequence: S,
    /// Tokens known: the prompt and what was sampled.
    pub known: usize,
    /// Of those, tokens whose keys and values are in the blocks.
    pub computed: usize,
    /// Prompt tokens found in attention memory when it was first let in; `None`: it never was.
    pub cached: Option<usize>,
    pub table: BlockTable,
    /// Order of arrival, and its name in the attention memory.
    pub owner: Owner,
    tenant: Arc<str>,
    adapter: Option<AdapterHash>,
    priority: Priority,
    /// The most positions it will fill: what it counts for among tenants.
    max_positions: usize,
    readiness: Readiness,
    /// Turns in which others were let in before it.
    skips: u32,
    was_passed_over: bool,
}

/// What a newcomer brings.
pub(crate) struct Arrival<S> {
    pub sequence: S,
    pub tenant: Arc<str>,
    /// A tenant's adapters take turns.
    pub adapter: Option<AdapterHash>,
    pub priority: Priority,
    pub known: usize,
    pub max_positions: usize,
    pub table: BlockTable,
}

impl<S> Entry<S> {
    pub(crate) fn unseen(&self) -> usize {
        self.known - self.computed
    }

    fn is_ready(&self) -> bool {
        self.readiness == Readiness::Ready
    }

    /// What it counts for among its tenant's. One that had to give way has paid already.
    fn cost(&self) -> usize {
        match self.cached {
            None => self.max_positions,
            Some(_) => 0,
        }
    }

    /// Smaller goes first, and gives way last.
    fn rank(&self) -> (std::cmp::Reverse<Priority>, Owner) {
        (std::cmp::Reverse(self.priority), self.owner)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PlannedRun {
    /// Its place among the running.
    pub index: usize,
    pub tokens: usize,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct StepPlan {
    /// Decodes, then prompts.
    pub runs: Vec<PlannedRun>,
    pub preempted: usize,
    pub admitted: usize,
}

pub(crate) struct Scheduler<S> {
    /// In order of rank.
    running: Vec<Entry<S>>,
    waiting: Waiting<S>,
    max_running: usize,
    next_owner: Owner,
}

impl<S> Scheduler<S> {
    pub(crate) fn new(max_running: usize) -> Scheduler<S> {
        Scheduler {
            running: Vec::new(),
            waiting: Waiting::default(),
            max_running: max_running.max(1),
            next_owner: 0,
        }
    }

    /// Bounded by the seats callers hold.
    pub(crate) fn enqueue(&mut self, arrival: Arrival<S>) {
        self.next_owner += 1;
        self.waiting.push_back(Entry {
            sequence: arrival.sequence,
            known: arrival.known,
            computed: 0,
            cached: None,
            table: arrival.table,
            owner: self.next_owner,
            tenant: arrival.tenant,
            adapter: arrival.adapter,
            priority: arrival.priority,
            max_positions: arrival.max_positions,
            readiness: Readiness::Ready,
            skips: 0,
            was_passed_over: false,
        });
    }

    pub(crate) fn running(&mut self) -> &mut [Entry<S>] {
        &mut self.running
    }

    pub(crate) fn running_count(&self) -> usize {
        self.running.len()
    }

    pub(crate) fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    /// What the next step computes. Every run's blocks are in its table.
    pub(crate) fn plan(
        &mut self,
        kv: &mut Kv,
        budget: Budget,
        readiness: &mut dyn FnMut(&mut S) -> Readiness,
    ) -> StepPlan {
        for entry in &mut self.running {
            entry.readiness = readiness(&mut entry.sequence);
        }
        let preempted = self.make_room(kv) + self.clear_paused(kv);
        let admitted = match preempted {
            0 => self.admit(kv, readiness),
            _ => 0,
        };
        StepPlan {
            runs: self.share(budget),
            preempted,
            admitted,
        }
    }

    /// Takes a running sequence out; its blocks are free and stay remembered.
    pub(crate) fn finish(&mut self, index: usize, kv: &mut Kv) -> S {
        let mut entry = self.running.remove(index);
        kv.release(&mut entry.table, entry.owner);
        entry.sequence
    }

    /// Takes out every sequence that `is_gone`, running or waiting.
    pub(crate) fn remove(
        &mut self,
        kv: &mut Kv,
        mut is_gone: impl FnMut(&mut S) -> bool,
    ) -> Vec<S> {
        let mut gone = Vec::new();
        for index in (0..self.running.len()).rev() {
            if is_gone(&mut self.running[index].sequence) {
                gone.push(self.finish(index, kv));
            }
        }
        self.waiting.remove(&mut is_gone, &mut gone);
        gone
    }

    /// Every ready decode gets its token; prompts share what is left evenly, short ones first, so that a long prompt holds
    /// up neither decodes nor a short prompt behind it.
    fn share(&self, budget: Budget) -> Vec<PlannedRun> {
        let ready = || {
            let entries = self.running.iter().enumerate();
            entries.filter(|(_, entry)| entry.is_ready() && entry.unseen() > 0)
        };
        let decodes = ready().filter(|(_, entry)| entry.unseen() == 1);
        let mut runs: Vec<PlannedRun> = decodes
            .map(|(index, _)| PlannedRun { index, tokens: 1 })
            .collect();
        let mut prompts: Vec<(usize, usize)> = ready()
            .filter(|(_, entry)| entry.unseen() > 1)
            .map(|(index, entry)| (entry.unseen(), index))
            .collect();
        prompts.sort_unstable();
        let mut left = match runs.len() {
            0 => budget.step_tokens,
            decodes => (budget.step_tokens.saturating_sub(decodes)).min(budget.beside_decodes),
        }
        .max(MIN_PROMPT_TOKENS);
        let count = prompts.len();
        for (place, (unseen, index)) in prompts.into_iter().enumerate() {
            let tokens = unseen.min(left.div_ceil(count - place));
            if tokens > 0 {
                runs.push(PlannedRun { index, tokens });
                left -= tokens;
            }
        }
        runs
    }
}
