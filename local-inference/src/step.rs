//! One turn of the engine: schedule, batch, forward, sample, emit.

use crate::batch::StepBatch;
use crate::error::EngineError;
use crate::kv::BlockPool;
use crate::model::CausalModel;
use crate::prompt::tokenizer::Tokenizer;
use crate::scheduler::{self, PlannedRun, View};
use crate::sequence::Sequence;
use crate::stats::Counters;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Attention memory of a model, at most. Sequences that do not fit wait; one whole window always fits.
const MAX_KV_BYTES: usize = 1 << 30;

/// What a turn came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Worked,
    /// There are sequences, and all wait for their readers.
    Paused,
    /// There are none.
    Idle,
}

/// A model and everything that runs on it. Owned by one thread.
pub(crate) struct Runner {
    model: Box<dyn CausalModel>,
    tokenizer: Arc<Tokenizer>,
    pool: BlockPool,
    /// Blocks the running sequences may come to need; never above the pool.
    reserved: usize,
    max_running: usize,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    batch: StepBatch,
    logits: Vec<f32>,
    counters: Arc<Counters>,
}

impl Runner {
    pub(crate) fn new(
        mut model: Box<dyn CausalModel>,
        tokenizer: Arc<Tokenizer>,
        window: usize,
        max_running: usize,
        counters: Arc<Counters>,
    ) -> Runner {
        let window_blocks = BlockPool::blocks_for(window);
        let affordable = MAX_KV_BYTES / model.kv_block_bytes();
        let blocks = (max_running * window_blocks)
            .min(affordable)
            .max(window_blocks);
        model.reserve_kv(blocks);
        Runner {
            pool: BlockPool::new(blocks),
            model,
            tokenizer,
            reserved: 0,
            max_running,
            waiting: VecDeque::new(),
            running: Vec::new(),
            batch: StepBatch::default(),
            logits: Vec::new(),
            counters,
        }
    }

    /// Bounded by the seats callers hold.
    pub(crate) fn enqueue(&mut self, sequence: Sequence) {
        self.waiting.push_back(sequence);
    }

    pub(crate) fn turn(&mut self) -> Turn {
        self.drop_abandoned();
        self.admit();
        let views: Vec<View> = self
            .running
            .iter_mut()
            .map(|sequence| View {
                unseen: sequence.unseen(),
                is_ready: sequence.has_room(),
            })
            .collect();
        let plan = scheduler::plan(&views);
        if plan.is_empty() {
            return if self.running.is_empty() {
                Turn::Idle
            } else {
                Turn::Paused
            };
        }
        let started = Instant::now();
        self.fill_batch(&plan);
        self.model.forward(&self.batch, &mut self.logits);
        let finished = self.sample(&plan);
        self.remove(finished);
        Counters::add(&self.counters.steps, 1);
        Counters::add(
            &self.counters.step_micros,
            started.elapsed().as_micros() as u64,
        );
        self.publish_gauges();
        Turn::Worked
    }

    /// Ends every sequence with `error`. Used when a step panicked and when the engine stops.
    pub(crate) fn fail_all(&mut self, error: &EngineError) {
        for sequence in self.running.iter().chain(&self.waiting) {
            sequence.fail(error.clone());
        }
        self.waiting.clear();
        self.remove((0..self.running.len()).collect());
        self.publish_gauges();
    }

    fn drop_abandoned(&mut self) {
        let gone = |sequence: &Sequence| sequence.is_abandoned();
        let before = self.waiting.len();
        self.waiting.retain(|sequence| !gone(sequence));
        let indexes: Vec<usize> = (0..self.running.len())
            .filter(|index| gone(&self.running[*index]))
            .collect();
        let count = before - self.waiting.len() + indexes.len();
        if count > 0 {
            Counters::add(&self.counters.cancelled, count as u64);
            self.remove(indexes);
            self.publish_gauges();
        }
    }

    /// In order of arrival; the first that does not fit holds back the rest, so that a long one is not passed over for ever.
    fn admit(&mut self) {
        while self.running.len() < self.max_running {
            let Some(next) = self.waiting.front() else {
                return;
            };
            let needed = BlockPool::blocks_for(next.max_positions());
            let total = self.pool.free_blocks() + self.pool.used_blocks();
            if self.reserved + needed > total {
                return;
            }
            self.reserved += needed;
            self.running.extend(self.waiting.pop_front());
        }
    }

    fn fill_batch(&mut self, plan: &[PlannedRun]) {
        self.batch.clear();
        for run in plan {
            let sequence = &mut self.running[run.sequence];
            let (start, end) = (sequence.computed, sequence.computed + run.tokens);
            self.pool.grow(&mut sequence.blocks, end);
            let wants_logits = end == sequence.tokens.len();
            self.batch.push(
                &sequence.tokens[start..end],
                start,
                &sequence.blocks,
                wants_logits,
            );
            if start < sequence.tokens.len() - sequence.completion_tokens() {
                Counters::add(&self.counters.prompt_tokens, run.tokens as u64);
            }
        }
    }

    /// Gives each sequence that reached its end of known tokens the next one; says which are finished.
    fn sample(&mut self, plan: &[PlannedRun]) -> Vec<usize> {
        let mut finished = Vec::new();
        let mut rows = self.logits.chunks_exact_mut(self.model.vocabulary());
        for run in plan {
            let sequence = &mut self.running[run.sequence];
            sequence.computed += run.tokens;
            if sequence.unseen() > 0 {
                continue;
            }
            let logits = rows
                .next()
                .expect("a row of logits for each run that wants one");
            Counters::add(&self.counters.completion_tokens, 1);
            if sequence.advance(logits, &self.tokenizer) {
                finished.push(run.sequence);
            }
        }
        finished
    }

    fn remove(&mut self, mut indexes: Vec<usize>) {
        indexes.sort_unstable();
        for index in indexes.into_iter().rev() {
            let mut sequence = self.running.remove(index);
            self.reserved -= BlockPool::blocks_for(sequence.max_positions());
            self.pool.release(&mut sequence.blocks);
        }
    }

    fn publish_gauges(&self) {
        self.counters
            .running
            .store(self.running.len() as u64, Ordering::Relaxed);
        self.counters
            .kv_blocks
            .store(self.pool.used_blocks() as u64, Ordering::Relaxed);
    }
}
