//! What accounts may use: requests a minute and neurons a day. Both are off by default; neurons are counted in any case.
//!
//! A neuron is the API's unit of work. Each model has a price of so many a million tokens; models without a published one
//! have the configured one. Counted by this process alone: several instances each give the whole allowance, and a restart
//! begins the day anew.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use local_inference::TokenEvent;
use local_inference::catalogue::{self, Task};

use super::events::Tally;
use super::fault::Fault;
use crate::config::{Engine, RequestsPerMinute};

const SECONDS_A_DAY: u64 = 86_400;

/// Neurons a million tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    pub input: f64,
    /// Of prompt tokens that were not computed again.
    pub cached: f64,
    pub output: f64,
}

impl Rates {
    pub fn neurons(self, prompt: u64, cached: u64, completion: u64) -> f64 {
        let plain = prompt.saturating_sub(cached) as f64;
        (plain * self.input + cached as f64 * self.cached + completion as f64 * self.output) / 1e6
    }
}

/// A task as limits and clients name it.
pub fn slug(task: Task) -> &'static str {
    match task {
        Task::TextGeneration => "text-generation",
        Task::TextEmbeddings => "text-embeddings",
        Task::TextClassification => "text-classification",
    }
}

/// The original's documented limits a minute: of a task, and of single models that have their own.
fn documented() -> Vec<(String, u32)> {
    let tasks = [
        (Task::TextGeneration, 300),
        (Task::TextEmbeddings, 3000),
        (Task::TextClassification, 2000),
    ];
    let mut limits = Vec::new();
    for (task, usual) in tasks {
        limits.push((slug(task).to_owned(), usual));
        let own = catalogue::all()
            .iter()
            .filter(|entry| entry.task == task && entry.requests_per_minute != usual);
        limits.extend(own.map(|entry| (entry.id.to_string(), entry.requests_per_minute)));
    }
    limits
}

pub struct Meter {
    /// Of models without a price of their own.
    fallback: Rates,
    neurons_per_day: Option<u64>,
    /// By account: day since 1970 and neurons of that day. As many as there are accounts.
    spent: Mutex<HashMap<String, (u64, f64)>>,
    /// By task or model; empty: no limit.
    per_minute: HashMap<String, NonZeroU32>,
    /// By account and task or model: bounded by both.
    buckets: Mutex<HashMap<(String, String), Arc<DefaultDirectRateLimiter>>>,
    clock: DefaultClock,
}

impl Meter {
    pub(super) fn new(config: &Engine) -> Arc<Meter> {
        let table: Vec<(String, u32)> = match &config.requests_per_minute {
            RequestsPerMinute::Off => Vec::new(),
            RequestsPerMinute::Documented => documented(),
            RequestsPerMinute::Table(table) => table.clone().into_iter().collect(),
        };
        let counted = |(name, count): (String, u32)| {
            Some((name.to_ascii_lowercase(), NonZeroU32::new(count)?))
        };
        Arc::new(Meter {
            fallback: Rates {
                input: config.neurons_per_million_input,
                cached: config.neurons_per_million_input,
                output: config.neurons_per_million_output,
            },
            neurons_per_day: config.neurons_per_day,
            spent: Mutex::default(),
            per_minute: table.into_iter().filter_map(counted).collect(),
            buckets: Mutex::default(),
            clock: DefaultClock::default(),
        })
    }

    /// The price of a model.
    pub fn rates(&self, model: &str) -> Rates {
        published(model).unwrap_or(self.fallback)
    }

    /// Counts a request, and refuses it when the account has used up what it may.
    pub(super) fn admit(&self, account: &str, task: Task, model: &str) -> Result<(), Fault> {
        self.allowance(account)?;
        self.rate(account, task, model)
    }

    /// The day's allowance. A request is let in while anything is left of it, and may go past it.
    pub(super) fn allowance(&self, account: &str) -> Result<(), Fault> {
        let Some(most) = self.neurons_per_day else {
            return Ok(());
        };
        let spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        match spent.get(account) {
            Some((day, neurons)) if *day == today() && *neurons >= most as f64 => {
                Err(Fault::allowance(most))
            }
            _ => Ok(()),
        }
    }

    fn rate(&self, account: &str, task: Task, model: &str) -> Result<(), Fault> {
        // Other names of a model count as the model.
        let known = catalogue::find(model).map_or(model, |entry| &entry.id);
        let model = known.to_ascii_lowercase();
        let (name, most) = match (self.per_minute.get(&model), self.per_minute.get(slug(task))) {
            (Some(most), _) => (model.as_str(), *most),
            (None, Some(most)) => (slug(task), *most),
            (None, None) => return Ok(()),
        };
        let bucket = {
            let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
            let key = (account.to_owned(), name.to_owned());
            let new = || Arc::new(RateLimiter::direct(Quota::per_minute(most)));
            Arc::clone(buckets.entry(key).or_insert_with(new))
        };
        bucket.check().map_err(|refused| {
            let wait = refused.wait_time_from(self.clock.now());
            Fault::rate(name, most.get(), wait.max(Duration::from_millis(1)))
        })
    }

    fn spend(&self, account: &str, neurons: f64) {
        if self.neurons_per_day.is_none() || neurons <= 0.0 {
            return;
        }
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let today = today();
        let entry = spent.entry(account.to_owned()).or_insert((today, 0.0));
        if entry.0 != today {
            *entry = (today, 0.0);
        }
        entry.1 += neurons;
    }

    /// The account of one answer.
    pub(super) fn bill(self: &Arc<Meter>, account: &str, model: &str, tally: Tally) -> Bill {
        Bill {
            meter: Arc::clone(self),
            account: account.to_owned(),
            rates: self.rates(model),
            tally,
            told: 0,
        }
    }
}

/// What the original asks for this model.
fn published(model: &str) -> Option<Rates> {
    let neurons = catalogue::find(model)?.neurons?;
    Some(Rates {
        input: f64::from(neurons.input),
        cached: f64::from(neurons.input),
        output: f64::from(neurons.output),
    })
}

fn today() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |time| time.as_secs()) / SECONDS_A_DAY
}

/// What a whole answer took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Took {
    pub tally: Tally,
    pub neurons: f64,
}

/// Charged when dropped, so that an answer nobody waited for is charged too, for what there was of it.
pub(super) struct Bill {
    meter: Arc<Meter>,
    account: String,
    rates: Rates,
    tally: Tally,
    /// Pieces of choices that have not ended, each at least a token.
    told: u32,
}

impl Bill {
    /// Looks at an event on its way; `tally` is what is known after it.
    pub(super) fn count(&mut self, event: &TokenEvent, tally: Tally) {
        self.tally = tally;
        match event {
            TokenEvent::Text { .. } | TokenEvent::ToolCallArguments { .. } => self.told += 1,
            TokenEvent::Done {
                completion_tokens, ..
            } => self.told = self.told.saturating_sub(*completion_tokens),
            TokenEvent::ToolCallStart { .. } | TokenEvent::Failed(_) => {}
        }
    }

    /// All of it is known.
    pub(super) fn settle(mut self, tally: Tally) -> Took {
        self.tally = tally;
        self.told = 0;
        Took {
            tally,
            neurons: self.neurons(),
        }
    }

    fn neurons(&self) -> f64 {
        let completion = self.tally.completion_tokens.saturating_add(self.told);
        self.rates.neurons(
            self.tally.prompt_tokens.into(),
            self.tally.cached_tokens.into(),
            completion.into(),
        )
    }
}

impl Drop for Bill {
    fn drop(&mut self) {
        self.meter.spend(&self.account, self.neurons());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter(change: impl FnOnce(&mut Engine)) -> Arc<Meter> {
        let file = crate::config::Config::parse("", "test").expect("the defaults are valid");
        let mut engine = file.engine.expect("on by default");
        change(&mut engine);
        Meter::new(&engine)
    }

    const TALLY: Tally = Tally {
        prompt_tokens: 1000,
        cached_tokens: 400,
        completion_tokens: 100,
    };

    #[test]
    fn neurons_are_tokens_at_the_models_price() {
        let rates = Rates {
            input: 1000.0,
            cached: 100.0,
            output: 10_000.0,
        };
        assert_eq!(rates.neurons(1000, 400, 100), 1.64);
    }

    #[test]
    fn the_days_allowance_is_an_accounts_own_and_an_answer_cut_short_counts() {
        let meter = meter(|engine| {
            engine.neurons_per_day = Some(2);
            engine.neurons_per_million_input = 1000.0;
            engine.neurons_per_million_output = 10_000.0;
        });
        assert!(meter.allowance("a").is_ok());
        let took = meter.bill("a", "m", Tally::default()).settle(TALLY);
        assert_eq!(took.neurons, 2.0);
        let fault = meter.allowance("a").expect_err("used up");
        assert_eq!(
            (fault.code, fault.status, fault.retry_after_s),
            (4006, 429, None)
        );
        assert!(meter.allowance("b").is_ok());

        let prompt = Tally {
            prompt_tokens: 1990,
            ..Tally::default()
        };
        let mut bill = meter.bill("b", "m", prompt);
        let piece = TokenEvent::Text {
            choice: 0,
            text: "x".to_owned(),
            logprobs: Vec::new(),
        };
        bill.count(&piece, prompt);
        assert!(meter.allowance("b").is_ok());
        drop(bill);
        assert!(meter.allowance("b").is_err());
    }

    #[test]
    fn requests_a_minute_are_counted_by_account_and_task_or_model() {
        let table = [("text-generation", 2), ("@cf/Big/model", 1)];
        let table = table.map(|(name, count)| (name.to_owned(), count)).into();
        let meter = meter(|engine| engine.requests_per_minute = RequestsPerMinute::Table(table));
        let ask = |account, task, model| meter.admit(account, task, model).map_err(|f| f.code);
        let text = Task::TextGeneration;
        assert_eq!(
            [(); 3].map(|()| ask("a", text, "m")),
            [Ok(()), Ok(()), Err(3021)]
        );
        assert_eq!(ask("a", text, "n"), Err(3021), "models of a task share");
        assert_eq!(
            [(); 2].map(|()| ask("a", text, "@cf/big/MODEL")),
            [Ok(()), Err(3021)]
        );
        assert_eq!(ask("b", text, "m"), Ok(()));
        assert_eq!(
            ask("a", Task::TextEmbeddings, "e"),
            Ok(()),
            "no limit is set"
        );
        let fault = meter.admit("a", text, "m").expect_err("used up");
        assert!(
            fault
                .retry_after_s
                .is_some_and(|wait| (1..=30).contains(&wait))
        );
    }
}
