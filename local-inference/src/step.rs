//! One turn of the engine: schedule, batch, forward, sample, emit.

use crate::adapter::AdapterHash;
use crate::batch::StepBatch;
use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::kv::Kv;
use crate::model::CausalModel;
use crate::prompt::tokenizer::Tokenizer;
use crate::sample::Buffers;
use crate::scheduler::{Arrival, Budget, CostModel, PlannedRun, Readiness, Scheduler, StepPlan};
use crate::sequence::Sequence;
use crate::stats::Counters;
use kernels::BLOCK_TOKENS;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Prompt tokens beside running decodes, until it is known what a step takes.
const FIRST_PROMPT_TOKENS: usize = 64;

/// What a turn came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Worked,
    /// There are sequences, and all wait for their readers.
    Paused,
    /// There are sequences, and all wait for their adapters.
    Waiting,
    /// There are none.
    Idle,
}

/// A model and everything that runs on it. Owned by one thread.
pub(crate) struct Runner {
    model: Box<dyn CausalModel>,
    tokenizer: Arc<Tokenizer>,
    kv: Kv,
    scheduler: Scheduler<Sequence>,
    cost: CostModel,
    max_step_tokens: usize,
    target_step: Duration,
    share_prefixes: bool,
    /// Finished, with something left to tell.
    draining: Vec<Sequence>,
    batch: StepBatch,
    logits: Vec<f32>,
    buffers: Buffers,
    counters: Arc<Counters>,
}

impl Runner {
    /// A runner and the window it can serve: `window`, or what the attention memory holds of it.
    pub(crate) fn new(
        mut model: Box<dyn CausalModel>,
        tokenizer: Arc<Tokenizer>,
        window: usize,
        config: &EngineConfig,
        counters: Arc<Counters>,
    ) -> (Runner, usize) {
        let affordable = config.kv_cache_bytes() / model.kv_block_bytes().max(1);
        // More than a window for every seat would never be filled.
        let useful = Kv::blocks_for(window).saturating_mul(config.max_seats());
        let blocks = affordable.min(useful).clamp(1, u32::MAX as usize - 1);
        let served = window.min(blocks * BLOCK_TOKENS);
        if served < window {
            tracing::warn!(
                window,
                served,
                "the window is bounded by `kv_cache_mib`, which holds no longer text"
            );
        }
        model.reserve_kv(blocks);
        Counters::set(&counters.kv_blocks_total, blocks);
        let runner = Runner {
            kv: Kv::new(blocks),
            model,
            tokenizer,
            scheduler: Scheduler::new(config.max_running),
            cost: CostModel::default(),
            max_step_tokens: config.max_step_tokens.max(1),
            target_step: Duration::from_millis(config.target_step_ms),
            share_prefixes: config.share_prefixes,
            draining: Vec::new(),
            batch: StepBatch::default(),
            logits: Vec::new(),
            buffers: Buffers::default(),
            counters,
        };
        (runner, served)
    }

    /// Bytes of attention memory, all of it touched.
    pub(crate) fn kv_bytes(&self) -> usize {
        self.kv.total_blocks() * self.model.kv_block_bytes()
    }

    /// One step that nobody asked for: brings weights and buffers in, so that the first caller does not wait for them.
    pub(crate) fn warm_up(&mut self) {
        self.batch.clear();
        let tokens = [0; BLOCK_TOKENS];
        self.batch.push(&tokens, 0, &[0], false, None);
        self.model.forward(&self.batch, &mut self.logits);
    }

    /// Bounded by the seats callers hold.
    pub(crate) fn enqueue(&mut self, sequence: Sequence) {
        let tenant = match self.share_prefixes {
            true => "",
            false => &sequence.tenant,
        };
        let adapter = sequence.adapter_hash();
        let namespace = namespace(tenant, adapter);
        self.scheduler.enqueue(Arrival {
            tenant: Arc::clone(&sequence.tenant),
            adapter,
            priority: sequence.priority,
            known: sequence.tokens.len(),
            max_positions: sequence.max_positions(),
            table: self.kv.table(&namespace, &sequence.tokens),
            sequence,
        });
    }

    pub(crate) fn turn(&mut self) -> Turn {
        self.drop_abandoned();
        self.fail_without_adapter();
        self.draining
            .retain_mut(|sequence| !sequence.is_told() && !sequence.is_abandoned());
        let budget = self.budget();
        let mut is_pausing = !self.draining.is_empty();
        let mut readiness = |sequence: &mut Sequence| {
            if sequence.waits_for_adapter() {
                Readiness::NotYet
            } else if sequence.has_room() {
                Readiness::Ready
            } else {
                is_pausing = true;
                Readiness::Paused
            }
        };
        let mut plan = self.scheduler.plan(&mut self.kv, budget, &mut readiness);
        Counters::add(&self.counters.preemptions, plan.preempted as u64);
        if plan.runs.is_empty() {
            self.publish_gauges();
            let is_empty = self.scheduler.running_count() + self.scheduler.waiting_count() == 0;
            return match (is_pausing, is_empty) {
                (true, _) => Turn::Paused,
                (false, false) => Turn::Waiting,
                (false, true) => Turn::Idle,
            };
        }
        self.sort_by_adapter(&mut plan.runs);
        self.step(&plan);
        // Held longer, an adapter would outlive its last lease.
        self.batch.clear();
        self.publish_gauges();
        Turn::Worked
    }

    /// Ends every sequence with `error`. Used when a step panicked and when the engine stops.
    pub(crate) fn fail_all(&mut self, error: &EngineError) {
        for mut sequence in self.scheduler.remove(&mut self.kv, |_| true) {
            sequence.fail(error.clone());
        }
        // A panic may have come between two halves of a change.
        self.kv = Kv::new(self.kv.total_blocks());
        self.publish_gauges();
    }

    fn drop_abandoned(&mut self) {
        let gone = self
            .scheduler
            .remove(&mut self.kv, |sequence| sequence.is_abandoned());
        if !gone.is_empty() {
            Counters::add(&self.counters.cancelled, gone.len() as u64);
            drop(gone);
            self.publish_gauges();
        }
    }

    /// Those whose adapter will not come hear why.
    fn fail_without_adapter(&mut self) {
        let has_failed = |sequence: &mut Sequence| sequence.adapter_failure().is_some();
        for mut sequence in self.scheduler.remove(&mut self.kv, has_failed) {
            if let Some(error) = sequence.adapter_failure() {
                sequence.fail(error);
            }
            self.drain(sequence);
        }
    }

    fn budget(&self) -> Budget {
        let target = self.target_step.as_micros() as u64;
        let within = self.cost.tokens_within(target);
        Budget {
            step_tokens: self.max_step_tokens,
            beside_decodes: within.map_or(FIRST_PROMPT_TOKENS, |tokens| {
                tokens.saturating_sub(self.scheduler.running_count())
            }),
        }
    }

    fn step(&mut self, plan: &StepPlan) {
        let started = Instant::now();
        self.fill_batch(&plan.runs);
        self.model.forward(&self.batch, &mut self.logits);
        let computed = started.elapsed();
        let finished = self.sample(&plan.runs);
        self.remove(finished);
        let elapsed = started.elapsed();
        let tokens = self.batch.tokens.len();
        self.cost.observe(tokens, elapsed.as_micros() as u64);
        let add = |counter, value: u128| Counters::add(counter, value as u64);
        add(&self.counters.steps, 1);
        add(&self.counters.step_tokens, tokens as u128);
        add(&self.counters.step_micros, elapsed.as_micros());
        add(
            &self.counters.sample_micros,
            (elapsed - computed).as_micros(),
        );
    }

    /// Rows of one adapter lie together, decodes before prompts, so that they are one product; first those without any.
    fn sort_by_adapter(&mut self, runs: &mut [PlannedRun]) {
        let running = self.scheduler.running();
        runs.sort_by_key(|run| {
            running[run.index]
                .sequence
                .adapter_hash()
                .map(|hash| hash.0)
        });
    }

    fn fill_batch(&mut self, runs: &[PlannedRun]) {
        self.batch.clear();
        for run in runs {
            let entry = &self.scheduler.running()[run.index];
            let (start, end) = (entry.computed, entry.computed + run.tokens);
            self.batch.push(
                &entry.sequence.tokens[start..end],
                start,
                entry.table.blocks(),
                end == entry.known,
                entry.sequence.adapter(),
            );
            let prompt_end = end.min(entry.sequence.prompt_tokens());
            let of_prompt = prompt_end.saturating_sub(start);
            Counters::add(&self.counters.prompt_tokens, of_prompt as u64);
        }
    }

    /// Gives each sequence that reached its end of known tokens the next one; says which are finished.
    fn sample(&mut self, runs: &[PlannedRun]) -> Vec<usize> {
        let mut finished = Vec::new();
        let mut rows = self.logits.chunks_exact_mut(self.model.vocabulary());
        for run in runs {
            let entry = &mut self.scheduler.running()[run.index];
            entry.computed += run.tokens;
            self.kv.keep(&mut entry.table, entry.computed, entry.owner);
            if entry.unseen() > 0 {
                continue;
            }
            let logits = rows
                .next()
                .expect("a row of logits for each run that wants one");
            let sequence = &mut entry.sequence;
            if sequence.completion_tokens() == 0 {
                sequence.cached_tokens = entry.cached.unwrap_or(0);
                Counters::add(&self.counters.cached_tokens, sequence.cached_tokens as u64);
            }
            Counters::add(&self.counters.completion_tokens, 1);
            if sequence.advance(logits, &self.tokenizer, &mut self.buffers) {
                finished.push(run.index);
                continue;
            }
            entry.known = sequence.tokens.len();
            self.kv.learn(&mut entry.table, &sequence.tokens);
        }
        finished
    }

    fn remove(&mut self, mut indexes: Vec<usize>) {
        indexes.sort_unstable();
        for index in indexes.into_iter().rev() {
            let sequence = self.scheduler.finish(index, &mut self.kv);
            self.drain(sequence);
        }
    }

    fn drain(&mut self, mut sequence: Sequence) {
        if !sequence.is_told() {
            sequence.give_adapter_back();
            self.draining.push(sequence);
        }
    }

    fn publish_gauges(&self) {
        Counters::set(&self.counters.running, self.scheduler.running_count());
        Counters::set(&self.counters.waiting, self.scheduler.waiting_count());
        Counters::set(&self.counters.kv_blocks, self.kv.used_blocks());
    }
}

/// Whose blocks a text may take over: its tenant's, under the same adapter.
fn namespace(tenant: &str, adapter: Option<AdapterHash>) -> String {
    match adapter {
        // No hash begins so.
        None => format!("-{tenant}"),
        Some(hash) => format!("{hash}{tenant}"),
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        for gauge in [
            &self.counters.running,
            &self.counters.waiting,
            &self.counters.kv_blocks,
            &self.counters.kv_blocks_total,
        ] {
            Counters::set(gauge, 0);
        }
    }
}
