//! The thread that owns an encoder: jobs in, a batch at a time, answers out.

use super::Pooling;
use super::batch;
use super::encoder::{Encoder, Input};
use crate::error::EngineError;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// Tokens encoded together: beyond a few hundred more of them only cost memory, about 60 bytes a token and hidden unit.
const BATCH_TOKENS: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    Embed(Pooling),
    Score,
}

type Answer = Result<Vec<Vec<f32>>, EngineError>;

/// One request. The queue is bounded by the seats, of which each job holds one.
pub(super) struct Job {
    inputs: Vec<Input>,
    task: Task,
    /// Still to be done, each a list of input numbers.
    batches: VecDeque<Vec<usize>>,
    rows: Vec<Vec<f32>>,
    reply: oneshot::Sender<Answer>,
    seat: OwnedSemaphorePermit,
}

impl Job {
    pub(super) fn new(
        inputs: Vec<Input>,
        task: Task,
        reply: oneshot::Sender<Answer>,
        seat: OwnedSemaphorePermit,
    ) -> Job {
        let lengths: Vec<usize> = inputs.iter().map(|input| input.ids.len()).collect();
        Job {
            batches: batch::plan(&lengths, BATCH_TOKENS).into(),
            rows: vec![Vec::new(); inputs.len()],
            inputs,
            task,
            reply,
            seat,
        }
    }

    /// Encodes one batch; false when that was the last or its caller has left.
    fn advance(
        &mut self,
        encoder: &Encoder,
        threads: &rayon::ThreadPool,
    ) -> Result<bool, EngineError> {
        let Some(batch) = self.batches.pop_front() else {
            return Ok(false);
        };
        let inputs: Vec<&Input> = batch.iter().map(|text| &self.inputs[*text]).collect();
        let reply = &self.reply;
        let rows = threads
            .install(|| encoder.encode(&inputs, self.task, &|| reply.is_closed()))
            .map_err(|error| EngineError::Internal(format!("encoder: {error}")))?;
        let Some(rows) = rows else {
            return Ok(false);
        };
        for (text, row) in batch.into_iter().zip(rows) {
            self.rows[text] = row;
        }
        Ok(!self.batches.is_empty())
    }
}

/// Until told to stop or nobody is left who could ask. Jobs take turns, a batch each.
pub(super) fn run(
    encoder: &Encoder,
    threads: &rayon::ThreadPool,
    jobs: &Receiver<Job>,
    is_stopping: &AtomicBool,
) {
    let mut waiting: VecDeque<Job> = VecDeque::new();
    loop {
        if waiting.is_empty() {
            match jobs.recv() {
                Ok(job) => waiting.push_back(job),
                Err(_) => return,
            }
        }
        waiting.extend(jobs.try_iter());
        let Some(mut job) = waiting.pop_front() else {
            continue;
        };
        if is_stopping.load(Ordering::SeqCst) {
            // A caller who has left needs no answer.
            let _ = job.reply.send(Err(EngineError::Internal(
                "the engine is stopping".to_owned(),
            )));
            continue;
        }
        if job.reply.is_closed() {
            continue;
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| job.advance(encoder, threads)));
        let answer = match outcome {
            Ok(Ok(true)) => {
                waiting.push_back(job);
                continue;
            }
            Ok(Ok(false)) => Ok(std::mem::take(&mut job.rows)),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                tracing::error!("a batch panicked; its request is failed and the encoder goes on");
                Err(EngineError::Internal(
                    "a batch of the encoder failed".to_owned(),
                ))
            }
        };
        // Its place is free before its caller can ask again.
        let Job { reply, seat, .. } = job;
        drop(seat);
        let _ = reply.send(answer);
    }
}
