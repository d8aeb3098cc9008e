//! Requests that wait for the engine to have time: queued together, asked for later by an id.
//!
//! A batch is in memory only: a restart forgets it. Its requests take running places that nobody else wants, never waiting
//! ones, and give way first when attention memory runs out. They count against the day's neurons and not against the requests of
//! a minute.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::events::Tally;
use super::fault::{Fault, to_json};
use super::input::{self, Asked, Ground};
use super::reply::Usage;
use super::values::Object;
use super::{Caller, Local, LocalBody, LocalEndpoint, LocalReply, Took};

/// Batches that are remembered; past it a new one pushes out the oldest that is done, and is refused while none is.
const MAX_BATCHES: usize = 1000;
/// Bytes of their requests and answers as they are written, with the same rule.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// How long answers can be asked for, counted from the request.
const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// Wait before a busy engine is asked again: doubled each time.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LAST_WAIT: Duration = Duration::from_secs(2);

/// What became of one request of a batch, for the record.
#[derive(Debug, Clone)]
pub struct Batched {
    pub caller: Caller,
    pub model: String,
    /// Of the batch, and the request's place in it.
    pub request_id: Uuid,
    pub index: usize,
    pub started: Instant,
    pub status: u16,
    pub took: Option<Took>,
}

pub type OnBatched = Box<dyn Fn(Batched) + Send + Sync>;

pub(super) struct Batches {
    jobs: Mutex<Jobs>,
    /// Requests of all batches that run at once.
    places: Arc<Semaphore>,
    on_done: OnBatched,
}

#[derive(Default)]
struct Jobs {
    by_id: HashMap<Uuid, Job>,
    bytes: usize,
}

struct Job {
    account: String,
    model: String,
    made: Instant,
    has_begun: bool,
    /// Requests that are not answered.
    left: usize,
    answers: Vec<Answer>,
    tally: Tally,
    bytes: usize,
}

struct Answer {
    index: usize,
    result: Option<Box<RawValue>>,
    error: Option<Error>,
    external_reference: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
struct Error {
    code: u32,
    message: String,
}

impl Batches {
    /// `max_running`: the engine's own places, of which batches take up to half.
    pub(super) fn new(max_running: usize, on_done: OnBatched) -> Batches {
        Batches {
            jobs: Mutex::default(),
            places: Arc::new(Semaphore::new((max_running / 2).max(1))),
            on_done,
        }
    }

    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Jobs {
    /// Makes room, forgetting what is old and then what is done.
    fn admit(&mut self, bytes: usize) -> Result<(), Fault> {
        let old: Vec<Uuid> = self
            .by_id
            .iter()
            .filter(|(_, job)| job.left == 0 && job.made.elapsed() > MAX_AGE)
            .map(|(id, _)| *id)
            .collect();
        old.into_iter().for_each(|id| self.forget(id));
        while self.by_id.len() >= MAX_BATCHES || self.bytes + bytes > MAX_BYTES {
            let done = self.by_id.iter().filter(|(_, job)| job.left == 0);
            let oldest = done.min_by_key(|(_, job)| job.made).map(|(id, _)| *id);
            self.forget(oldest.ok_or_else(Fault::busy)?);
        }
        Ok(())
    }

    fn forget(&mut self, id: Uuid) {
        if let Some(job) = self.by_id.remove(&id) {
            self.bytes -= job.bytes;
        }
    }
}

impl Local {
    /// Takes a batch. Its requests are looked at one by one when their time comes.
    pub(super) fn enqueue(
        self: &Arc<Local>,
        caller: &Caller,
        model: String,
        requests: Vec<Object>,
        bytes: usize,
    ) -> Result<LocalReply, Fault> {
        self.meter.allowance(&caller.account)?;
        let id = Uuid::new_v4();
        let job = Job {
            account: caller.account.to_string(),
            model: model.clone(),
            made: Instant::now(),
            has_begun: false,
            left: requests.len(),
            answers: Vec::with_capacity(requests.len()),
            tally: Tally::default(),
            bytes,
        };
        {
            let mut jobs = self.batches.jobs();
            jobs.admit(bytes)?;
            jobs.bytes += bytes;
            jobs.by_id.insert(id, job);
        }
        // Ends with its last request; an engine that stops ends those.
        tokio::spawn(run(
            Arc::clone(self),
            caller.clone(),
            id,
            model.clone(),
            requests,
        ));
        Ok(status(Status {
            status: "queued",
            request_id: id.to_string(),
            model: &model,
        }))
    }

    /// How a batch stands, or its answers.
    pub(super) fn poll(&self, account: &str, id: &str) -> Result<LocalReply, Fault> {
        let unknown = || {
            let text =
                "'/request_id' is of no batch of this account, or of one that is no longer kept";
            Fault::input("request_id", text)
        };
        let id = Uuid::parse_str(id).map_err(|_| unknown())?;
        let jobs = self.batches.jobs();
        let job = jobs.by_id.get(&id).filter(|job| job.account == account);
        let job = job.ok_or_else(unknown)?;
        if job.left > 0 {
            return Ok(status(Status {
                status: if job.has_begun { "running" } else { "queued" },
                request_id: id.to_string(),
                model: &job.model,
            }));
        }
        let responses = job.answers.iter().map(|answer| Response {
            id: answer.index,
            result: answer.result.as_deref(),
            success: answer.error.is_none(),
            external_reference: answer.external_reference.as_deref(),
            error: answer.error.as_ref(),
        });
        Ok(status(Done {
            responses: responses.collect(),
            usage: job.tally.into(),
        }))
    }

    async fn batched(&self, caller: &Caller, model: &str, request: &Object) -> LocalReply {
        let endpoint = LocalEndpoint::Run {
            model: model.to_owned(),
        };
        let ground = Ground {
            endpoint: &endpoint,
            tenant: &caller.account,
            is_queued: false,
        };
        let mut wait = FIRST_WAIT;
        loop {
            let answered = match input::read_object(ground, request) {
                Ok(Asked::Generate(mut asked)) => {
                    asked.is_stream = false;
                    asked.give_way();
                    match self.adapt(&caller.account, &mut asked) {
                        Ok(()) => self.generate(&caller.account, *asked).await,
                        Err(fault) => Err(fault),
                    }
                }
                Ok(Asked::Embed(asked)) => self.embed(&caller.account, asked).await,
                Ok(Asked::Rerank(asked)) => self.rerank(&caller.account, asked).await,
                Ok(Asked::Queue(_) | Asked::Poll(_)) => {
                    let text = "'/requests' cannot stand in a request of a batch";
                    Err(Fault::input("requests", text))
                }
                Err(fault) => Err(fault),
            };
            match answered {
                Err(fault) if fault.is_busy() => {
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(LAST_WAIT);
                }
                Err(fault) => return fault.reply(super::Host::Rest, false),
                Ok(reply) => return reply,
            }
        }
    }
}

async fn run(local: Arc<Local>, caller: Caller, id: Uuid, model: String, requests: Vec<Object>) {
    for (index, request) in requests.into_iter().enumerate() {
        // Handed out in the order of asking, so batches take turns.
        let Ok(place) = Arc::clone(&local.batches.places).acquire_owned().await else {
            return;
        };
        if let Some(job) = local.batches.jobs().by_id.get_mut(&id) {
            job.has_begun = true;
        }
        let (local, caller, model) = (Arc::clone(&local), caller.clone(), model.clone());
        tokio::spawn(async move {
            let started = Instant::now();
            let reply = local.batched(&caller, &model, &request).await;
            let (status, took) = (reply.status, reply.took);
            let reference = request.get("external_reference").and_then(Value::as_str);
            keep(&local.batches, id, index, reference, reply);
            (local.batches.on_done)(Batched {
                caller,
                model,
                request_id: id,
                index,
                started,
                status,
                took,
            });
            drop(place);
        });
    }
}

fn keep(batches: &Batches, id: Uuid, index: usize, reference: Option<&str>, reply: LocalReply) {
    let body = match reply.body {
        LocalBody::Full(bytes) => bytes,
        LocalBody::Stream(_) => Bytes::new(),
    };
    let (result, error) = match serde_json::from_slice::<Envelope>(&body) {
        Ok(envelope) if envelope.success => (Some(envelope.result), None),
        Ok(envelope) => (None, envelope.errors.into_iter().next().map(Error::from)),
        Err(error) => (None, Some(Error::from(error))),
    };
    let mut jobs = batches.jobs();
    let Some(job) = jobs.by_id.get_mut(&id) else {
        return;
    };
    if let Some(took) = reply.took {
        job.tally += took.tally;
    }
    job.bytes += body.len();
    job.left -= 1;
    job.answers.push(Answer {
        index,
        result,
        error,
        external_reference: reference.map(str::to_owned),
    });
    jobs.bytes += body.len();
}

/// Our own answer, read back.
#[derive(Deserialize)]
struct Envelope {
    success: bool,
    result: Box<RawValue>,
    errors: Vec<Told>,
}

#[derive(Deserialize)]
struct Told {
    code: u32,
    message: String,
}

impl From<Told> for Error {
    fn from(told: Told) -> Error {
        Error {
            code: told.code,
            message: told.message,
        }
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Error {
        Error {
            code: 3043,
            message: error.to_string(),
        }
    }
}

fn status(result: impl Serialize) -> LocalReply {
    let body = to_json(&Whole {
        result,
        success: true,
        errors: [],
        messages: [],
    });
    LocalReply {
        is_status_report: true,
        ..LocalReply::json(200, body)
    }
}

#[derive(Serialize)]
struct Whole<R> {
    result: R,
    success: bool,
    errors: [(); 0],
    messages: [(); 0],
}

#[derive(Serialize)]
struct Status<'a> {
    status: &'static str,
    request_id: String,
    model: &'a str,
}

#[derive(Serialize)]
struct Done<'a> {
    responses: Vec<Response<'a>>,
    usage: Usage,
}

#[derive(Serialize)]
struct Response<'a> {
    id: usize,
    result: Option<&'a RawValue>,
    success: bool,
    external_reference: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a Error>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(left: usize, age: u64, bytes: usize) -> Job {
        Job {
            account: "a".to_owned(),
            model: "m".to_owned(),
            made: Instant::now()
                .checked_sub(Duration::from_secs(age))
                .expect("an uptime"),
            has_begun: true,
            left,
            answers: Vec::new(),
            tally: Tally::default(),
            bytes,
        }
    }

    #[test]
    fn a_full_store_forgets_what_is_done_and_then_refuses() {
        let mut jobs = Jobs::default();
        let half = MAX_BYTES / 2;
        for (left, age) in [(0, 2), (1, 3)] {
            jobs.by_id.insert(Uuid::new_v4(), job(left, age, half));
            jobs.bytes += half;
        }
        jobs.admit(1).expect("the one that is done goes");
        assert_eq!((jobs.by_id.len(), jobs.bytes), (1, half));
        let fault = jobs.admit(half + 1).expect_err("nothing else is done");
        assert!(fault.is_busy() && fault.retry_after_s.is_some());
        for _ in 0..MAX_BATCHES {
            jobs.by_id.insert(Uuid::new_v4(), job(1, 0, 0));
        }
        assert!(jobs.admit(0).is_err());
    }
}
