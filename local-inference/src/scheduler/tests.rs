//! Plans of known mixes, and a million random steps of a simulated engine.

use super::*;
use kernels::BLOCK_TOKENS;

const BUDGET: Budget = Budget {
    step_tokens: 256,
    beside_decodes: 64,
};

/// What the simulation knows of a sequence: its text, how long it will get, how its reader behaves.
struct Simulated {
    tenant: usize,
    tokens: Vec<u32>,
    prompt: usize,
    max_tokens: usize,
    readiness: Readiness,
    /// Turns it took part in nothing, with nothing to blame but the scheduler.
    unserved: u32,
}

struct Simulation {
    kv: Kv,
    scheduler: Scheduler<Simulated>,
    budget: Budget,
}

impl Simulation {
    fn new(blocks: usize, max_running: usize) -> Simulation {
        Simulation {
            kv: Kv::new(blocks),
            scheduler: Scheduler::new(max_running),
            budget: BUDGET,
        }
    }

    fn ask(&mut self, tenant: usize, tokens: Vec<u32>, max_tokens: usize) {
        self.ask_with(tenant, tokens, max_tokens, Priority::Normal, None);
    }

    fn ask_with(
        &mut self,
        tenant: usize,
        tokens: Vec<u32>,
        max_tokens: usize,
        priority: Priority,
        adapter: Option<AdapterHash>,
    ) {
        let name = tenant.to_string();
        self.scheduler.enqueue(Arrival {
            tenant: name.as_str().into(),
            adapter,
            priority,
            known: tokens.len(),
            max_positions: tokens.len() + max_tokens,
            table: self.kv.table(&name, &tokens),
            sequence: Simulated {
                tenant,
                prompt: tokens.len(),
                tokens,
                max_tokens,
                readiness: Readiness::Ready,
                unserved: 0,
            },
        });
    }

    /// One turn; gives the plan and who finished.
    fn step(&mut self) -> (StepPlan, Vec<Simulated>) {
        let plan = self
            .scheduler
            .plan(&mut self.kv, self.budget, &mut |sequence| {
                sequence.readiness
            });
        let mut finished = Vec::new();
        for run in &plan.runs {
            let entry = &mut self.scheduler.running[run.index];
            entry.computed += run.tokens;
            self.kv.keep(&mut entry.table, entry.computed, entry.owner);
            let text = &mut entry.sequence;
            text.unserved = 0;
            if entry.computed < entry.known {
                continue;
            }
            // The next token is a function of the text: equal texts stay equal.
            text.tokens.push(text.tokens.len() as u32 % 7);
            if text.tokens.len() == text.prompt + text.max_tokens {
                finished.push(run.index);
            } else {
                entry.known += 1;
                self.kv.learn(&mut entry.table, &text.tokens);
            }
        }
        finished.sort_unstable();
        let finished = finished
            .into_iter()
            .rev()
            .map(|index| self.scheduler.finish(index, &mut self.kv))
            .collect();
        (plan, finished)
    }

    /// What must hold between any two turns, and for the plan just carried out.
    fn check(&self, plan: &StepPlan, decodes_bound: usize) {
        let rows: usize = plan.runs.iter().map(|run| run.tokens).sum();
        assert!(
            rows <= self
                .budget
                .step_tokens
                .max(decodes_bound + MIN_PROMPT_TOKENS)
        );
        assert!(self.scheduler.running.len() <= decodes_bound);
        assert!(plan.preempted == 0 || plan.admitted == 0);
        let mut held = Vec::new();
        let ranks: Vec<_> = self.scheduler.running.iter().map(Entry::rank).collect();
        assert!(ranks.is_sorted());
        for entry in &self.scheduler.running {
            assert!(entry.computed <= entry.known);
            assert!(entry.table.blocks().len() * BLOCK_TOKENS >= entry.computed);
            held.extend_from_slice(entry.table.blocks());
        }
        held.sort_unstable();
        held.dedup();
        assert_eq!(self.kv.used_blocks(), held.len());
    }
}

fn random(state: &mut u64, bound: usize) -> usize {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 32) as usize % bound
}

fn runs(plan: &StepPlan) -> Vec<(usize, usize)> {
    plan.runs
        .iter()
        .map(|run| (run.index, run.tokens))
        .collect()
}

/// A text of its own.
fn text(seed: u32, length: usize) -> Vec<u32> {
    (0..length as u32).map(|i| 1000 * seed + i).collect()
}

#[test]
fn decodes_go_first_and_prompts_share_the_rest() {
    let mut simulation = Simulation::new(1000, 8);
    assert_eq!(simulation.step().0, StepPlan::default());
    simulation.ask(0, text(1, 1000), 10);
    assert_eq!(runs(&simulation.step().0), [(0, 256)]);
    simulation.ask(0, text(2, 900), 10);
    assert_eq!(runs(&simulation.step().0), [(0, 128), (1, 128)]);
    simulation.ask(0, text(3, 2), 10);
    assert_eq!(runs(&simulation.step().0), [(2, 2), (0, 127), (1, 127)]);
    // The short one decodes beside two prompts.
    assert_eq!(runs(&simulation.step().0), [(2, 1), (0, 32), (1, 32)]);
    simulation.scheduler.running[2].sequence.readiness = Readiness::Paused;
    assert_eq!(runs(&simulation.step().0), [(0, 128), (1, 128)]);
    // However many decode, reading goes on.
    simulation.budget.beside_decodes = 0;
    simulation.scheduler.running[2].sequence.readiness = Readiness::Ready;
    assert_eq!(runs(&simulation.step().0), [(2, 1), (0, 8), (1, 8)]);
}

#[test]
fn tenants_take_turns_and_each_is_served_in_order_of_arrival() {
    let mut simulation = Simulation::new(1000, 1);
    for seed in 0..6 {
        simulation.ask(0, text(seed, 200), 56);
    }
    for seed in 6..8 {
        simulation.ask(1, text(seed, 400), 112);
    }
    let mut order = Vec::new();
    while order.len() < 8 {
        let (_, finished) = simulation.step();
        order.extend(finished.iter().map(|s| (s.tenant, s.tokens[0] / 1000)));
    }
    // A quantum pays for two of the one's requests and one of the other's.
    let expected = [
        (0, 0),
        (0, 1),
        (1, 6),
        (0, 2),
        (0, 3),
        (1, 7),
        (0, 4),
        (0, 5),
    ];
    assert_eq!(order, expected);
}

#[test]
fn the_newest_gives_way_and_goes_on_where_it_was() {
    let mut simulation = Simulation::new(8, 8);
    simulation.ask(0, text(1, 30), 60);
    simulation.ask(0, text(2, 62), 30);
    let mut preempted = 0;
    let mut finished = Vec::new();
    while finished.len() < 2 {
        let (plan, done) = simulation.step();
        preempted += plan.preempted;
        assert!(plan.preempted == 0 || runs(&plan) == [(0, 1)]);
        finished.extend(done.iter().map(|s| s.tokens[0] / 1000));
    }
    assert_eq!((finished, preempted), (vec![1, 2], 1));
    // Low priority gives way although it is older.
    let mut simulation = Simulation::new(8, 8);
    simulation.ask_with(0, text(1, 30), 60, Priority::Background, None);
    simulation.ask(0, text(2, 62), 30);
    let mut first = None;
    while first.is_none() {
        first = simulation.step().1.pop();
    }
    assert_eq!(first.map(|s| s.tokens[0]), Some(2000));
}

#[test]
fn equal_texts_are_computed_once() {
    let mut simulation = Simulation::new(1000, 8);
    for _ in 0..4 {
        simulation.ask(0, text(1, 500), 2);
    }
    let mut rows = 0;
    let mut finished = 0;
    while finished < 4 {
        let (plan, done) = simulation.step();
        rows += plan.runs.iter().map(|run| run.tokens).sum::<usize>();
        finished += done.len();
    }
    // 500, and for each of the others what lies after the last full block; one more token each.
    assert_eq!(rows, 500 + 3 * (500 - 496) + 4);
    // Another tenant computes for itself.
    simulation.ask(1, text(1, 500), 1);
    assert_eq!(runs(&simulation.step().0), [(0, 256)]);
}

#[test]
fn one_that_is_not_ready_holds_nobody_and_is_next_when_it_is() {
    let mut simulation = Simulation::new(1000, 2);
    simulation.ask(0, text(1, 8), 4);
    let late = |simulation: &mut Simulation, readiness| {
        let mut entries = simulation.scheduler.waiting.entries();
        let late = entries.find(|entry| entry.sequence.tokens[0] == 1000);
        late.expect("it waits").sequence.readiness = readiness;
    };
    late(&mut simulation, Readiness::NotYet);
    for turn in 0..200u32 {
        simulation.ask(0, text(2 + turn, 8), 3);
        simulation.step();
    }
    // However long it takes, no place is held for it.
    assert_eq!(simulation.scheduler.running_count(), 2);
    late(&mut simulation, Readiness::Ready);
    let is_late = |entry: &Entry<Simulated>| entry.sequence.tokens[0] == 1000;
    for _ in 0..4 {
        simulation.step();
        if simulation.scheduler.running.iter().any(is_late) {
            return;
        }
    }
    panic!("the oldest is let in as soon as a place is free");
}

#[test]
fn a_tenants_adapters_take_turns() {
    let mut simulation = Simulation::new(1000, 1);
    let adapter = |name: u8| Some(AdapterHash([name; 32]));
    let asked = [(1, 5), (2, 2), (0, 2)];
    for (name, count) in asked {
        let adapter = adapter(name).filter(|_| name > 0);
        for _ in 0..count {
            let tokens = text(u32::from(name), 4);
            simulation.ask_with(0, tokens, 1, Priority::Normal, adapter);
        }
    }
    let mut served = Vec::new();
    while served.len() < 9 {
        let finished = simulation.step().1;
        served.extend(finished.iter().map(|sequence| sequence.tokens[0] / 1000));
    }
    assert_eq!(served, [1, 2, 0, 1, 2, 0, 1, 1, 1]);
}

#[test]
fn a_paused_reader_gives_its_place_to_one_who_waits() {
    let mut simulation = Simulation::new(100, 1);
    simulation.ask(0, text(1, 40), 20);
    simulation.step();
    simulation.scheduler.running[0].sequence.readiness = Readiness::Paused;
    assert!(simulation.step().0.runs.is_empty());
    assert_eq!(
        simulation.scheduler.running_count(),
        1,
        "nobody else wants it"
    );
    simulation.ask(1, text(2, 8), 3);
    assert_eq!(simulation.step().0.preempted, 1);
    assert_eq!(runs(&simulation.step().0), [(0, 8)]);
    assert_eq!(simulation.scheduler.running[0].sequence.tenant, 1);
}

/// Few beginnings, so that prompts share; small pools, so that sequences give way.
#[test]
fn a_million_random_steps_lose_nothing_and_starve_nobody() {
    const STEPS: usize = 1_000_000;
    const EPISODES: usize = 40;
    let (mut preempted, mut ended, mut cancelled) = (0, 0, 0);
    for episode in 0..EPISODES {
        let mut state = episode as u64;
        let window = 16 * (2 + random(&mut state, 8));
        let blocks = window / BLOCK_TOKENS + random(&mut state, 24);
        let max_running = 1 + random(&mut state, 6);
        let mut simulation = Simulation::new(blocks, max_running);
        simulation.budget = Budget {
            step_tokens: 8 + random(&mut state, 60),
            beside_decodes: random(&mut state, 40),
        };
        let (mut asked, mut answered) = (0, 0);
        for step in 0..STEPS / EPISODES {
            let load = simulation.scheduler.waiting_count();
            if load < 12 && random(&mut state, 4) == 0 {
                let length = 1 + random(&mut state, window - 1);
                let fork = 16 * random(&mut state, 1 + length / 16);
                let tokens: Vec<u32> = (0..length)
                    .map(|i| if i < fork { 1 } else { asked })
                    .collect();
                let tenant = random(&mut state, 4);
                let max_tokens = 1 + random(&mut state, window - length);
                let priority = match random(&mut state, 8) {
                    0 => Priority::Background,
                    _ => Priority::Normal,
                };
                let adapter = random(&mut state, 3) as u8;
                let adapter = (adapter > 0).then_some(AdapterHash([adapter; 32]));
                simulation.ask_with(tenant, tokens, max_tokens, priority, adapter);
                if random(&mut state, 8) == 0 {
                    let mut entries = simulation.scheduler.waiting.entries();
                    let last = entries.find(|entry| entry.sequence.tokens.last() == Some(&asked));
                    last.into_iter()
                        .for_each(|entry| entry.sequence.readiness = Readiness::NotYet);
                }
                asked += 1;
            }
            let draw = random(&mut state, 64);
            if let Some(entry) = simulation.scheduler.running.get_mut(draw) {
                entry.sequence.readiness = match random(&mut state, 4) {
                    0 => Readiness::Paused,
                    _ => Readiness::Ready,
                };
            }
            if draw == 60 {
                let owner = random(&mut state, 8);
                let mut nth = 0;
                let gone = simulation.scheduler.remove(&mut simulation.kv, |_| {
                    nth += 1;
                    nth == owner
                });
                cancelled += gone.len();
                answered += gone.len();
            }
            for entry in simulation.scheduler.waiting.entries() {
                let is_late = entry.sequence.readiness != Readiness::Ready;
                if is_late && random(&mut state, 3) == 0 {
                    entry.sequence.readiness = Readiness::Ready;
                }
            }
            let (plan, done) = simulation.step();
            simulation.check(&plan, max_running);
            preempted += plan.preempted;
            for finished in done {
                assert_eq!(finished.tokens.len(), finished.prompt + finished.max_tokens);
                answered += 1;
                ended += 1;
            }
            let everyone = simulation.scheduler.running.iter_mut();
            for entry in everyone.chain(simulation.scheduler.waiting.entries()) {
                entry.sequence.unserved += 1;
                assert!(
                    entry.sequence.unserved < 20_000,
                    "step {step} of episode {episode} starves somebody"
                );
            }
        }
        // Everything that was asked for ends.
        for _ in 0..100_000 {
            for entry in simulation.scheduler.running.iter_mut() {
                entry.sequence.readiness = Readiness::Ready;
            }
            for entry in simulation.scheduler.waiting.entries() {
                entry.sequence.readiness = Readiness::Ready;
            }
            let (plan, done) = simulation.step();
            simulation.check(&plan, max_running);
            answered += done.len();
            if simulation.scheduler.running_count() + simulation.scheduler.waiting_count() == 0 {
                break;
            }
        }
        assert_eq!(answered, asked as usize, "episode {episode}");
        assert_eq!(simulation.kv.used_blocks(), 0);
    }
    assert!(preempted > 1000 && ended > 10_000 && cancelled > 100);
}
