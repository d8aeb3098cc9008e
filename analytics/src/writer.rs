//! The writer thread: spool → block → store → ack. It has its own thread and runtime, so that a slow
//! store or a large insert never sits on a thread that serves requests.
//!
//! A store that does not answer is asked again for ever, with growing pauses; the spool keeps what
//! comes meanwhile. A record that the store refuses for its content goes to the dead letters and
//! holds up nothing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout};

use crate::dead_letter::DeadLetters;
use crate::record::LogRecord;
use crate::spool::{Block, BlockLimits, Spool};
use crate::stats::Counters;
use crate::store::Sink;

const FIRST_RETRY: Duration = Duration::from_millis(100);
const MAX_RETRY: Duration = Duration::from_secs(5);
/// How often orphaned folders are looked for: a process that was replaced while the store was down
/// leaves one behind.
const ADOPT_PERIOD: Duration = Duration::from_secs(30);
const SWEEP_PERIOD: Duration = Duration::from_secs(600);

/// Owns the writer thread. Dropping it stops the thread; what was not sent stays in the spool.
pub struct WriterHandle {
    shared: Arc<Shared>,
    ended: Option<oneshot::Receiver<()>>,
}

#[derive(Default)]
struct Shared {
    is_draining: AtomicBool,
    is_stopped: AtomicBool,
    changed: Notify,
}

impl WriterHandle {
    /// Sends what is spooled and ends the thread. What is not sent at the deadline stays in the
    /// spool and is adopted at the next start.
    pub async fn drain(mut self, deadline: Duration) {
        self.shared.is_draining.store(true, Ordering::Release);
        self.shared.changed.notify_one();
        let Some(mut ended) = self.ended.take() else {
            return;
        };
        if timeout(deadline, &mut ended).await.is_err() {
            self.stop();
            let _ = ended.await; // an insert under way is let go, so this does not wait for the store
        }
    }

    fn stop(&self) {
        self.shared.is_stopped.store(true, Ordering::Release);
        self.shared.changed.notify_one();
    }
}

impl Drop for WriterHandle {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) struct Writer {
    pub spool: Arc<Spool>,
    pub sink: Sink,
    pub limits: BlockLimits,
    pub max_block_age: Duration,
    pub dead_letters: DeadLetters,
    pub counters: Arc<Counters>,
}

/// Starts the thread.
pub(crate) fn start(writer: Writer) -> io::Result<WriterHandle> {
    let shared = Arc::new(Shared::default());
    let (end, ended) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let thread_shared = shared.clone();
    std::thread::Builder::new()
        .name("analytics-writer".into())
        .spawn(move || {
            let mut run = Run {
                writer,
                shared: thread_shared,
            };
            runtime.block_on(run.until_stopped());
            run.writer.spool.stop();
            drop(run);
            let _ = end.send(()); // nobody may be waiting
        })?;
    Ok(WriterHandle {
        shared,
        ended: Some(ended),
    })
}

struct Run {
    writer: Writer,
    shared: Arc<Shared>,
}

impl Run {
    async fn until_stopped(&mut self) {
        let mut next_adoption = Instant::now();
        let mut next_sweep = Instant::now() + Duration::from_secs(5);
        while !self.is_stopped() {
            if Instant::now() >= next_adoption {
                self.writer.spool.adopt();
                next_adoption = Instant::now() + ADOPT_PERIOD;
            }
            if Instant::now() >= next_sweep {
                self.sweep().await;
                next_sweep = Instant::now() + SWEEP_PERIOD;
            }
            let (records, bytes) = self.writer.spool.waiting();
            if records == 0 {
                if self.is_draining() && self.writer.spool.close_if_empty() {
                    return;
                }
                // A drain waits for frames that are still being copied.
                let soon = Instant::now() + Duration::from_millis(10);
                let later = next_adoption.min(next_sweep);
                self.wait_for_work(if self.is_draining() { soon } else { later })
                    .await;
                continue;
            }
            let limits = self.writer.limits;
            let is_due =
                records >= limits.max_records || bytes >= limits.max_bytes || self.is_draining();
            if !is_due {
                self.pause(self.writer.max_block_age).await; // others may join the block
            }
            while !self.is_stopped()
                && let Some(block) = self.writer.spool.take(limits)
            {
                self.send(&block).await;
                if !block.is_full && !self.is_draining() {
                    break;
                }
            }
        }
    }

    /// Brings one block to the store, however long it takes; returns early only when stopped, and
    /// then without an ack.
    async fn send(&mut self, block: &Block) {
        let mut pause = FIRST_RETRY;
        while let Err(error) = self.writer.spool.begin(block) {
            self.failed(&format!("the spool's ledger cannot be written: {error}"));
            if self.is_stopped() {
                return;
            }
            self.pause(pause).await;
            pause = (pause * 2).min(MAX_RETRY);
        }
        let records = self.writer.spool.read(block);
        pause = FIRST_RETRY;
        loop {
            let insert = self.writer.sink.insert(&block.id, &records);
            let result = tokio::select! {
                result = insert => result,
                () = stopped(&self.shared) => return,
            };
            match result {
                Ok(refused) => {
                    for refusal in &refused {
                        self.bury(block, &records[refusal.index], &refusal.error);
                    }
                    let counters = &self.writer.counters;
                    counters
                        .inserted
                        .fetch_add((records.len() - refused.len()) as u64, Ordering::Relaxed);
                    counters.blocks.fetch_add(1, Ordering::Relaxed);
                    if counters.store_is_up() {
                        tracing::info!("the log store answers again");
                    }
                    self.writer.spool.ack(block);
                    return;
                }
                Err(error) => self.failed(&error.to_string()),
            }
            self.pause(pause).await;
            if self.is_stopped() {
                return;
            }
            pause = (pause * 2).min(MAX_RETRY);
        }
    }

    fn failed(&self, error: &str) {
        if self.writer.counters.store_is_down(error) {
            tracing::warn!(
                error,
                "cannot write records; they stay in the spool until it works again"
            );
        }
    }

    fn bury(&self, block: &Block, record: &LogRecord, error: &str) {
        let counters = &self.writer.counters;
        match self.writer.dead_letters.write(&block.id, record, error) {
            Ok(()) => {
                counters.dead_letters.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    event_id = record.request.event_id,
                    "the log store refused a record; it is in the dead letter file"
                );
            }
            Err(failure) => {
                counters.dead_letters_lost.fetch_add(1, Ordering::Relaxed);
                tracing::error!(event_id = record.request.event_id, %failure, "the log store refused a record and the dead letter file did not take it");
            }
        }
    }

    async fn sweep(&mut self) {
        if let Err(error) = self.writer.sink.sweep().await {
            tracing::warn!(%error, "cannot remove rows past their retention; tried again later");
        }
    }

    async fn wait_for_work(&self, until: Instant) {
        tokio::select! {
            () = self.writer.spool.appended.notified() => {}
            () = self.shared.changed.notified() => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }

    /// A pause that a stop or a drain cuts short.
    async fn pause(&self, length: Duration) {
        tokio::select! {
            () = sleep(length) => {}
            () = self.shared.changed.notified() => {}
        }
    }

    fn is_stopped(&self) -> bool {
        self.shared.is_stopped.load(Ordering::Acquire)
    }

    fn is_draining(&self) -> bool {
        self.shared.is_draining.load(Ordering::Acquire)
    }
}

/// Ends when the writer is told to stop (a drain alone does not end it).
async fn stopped(shared: &Shared) {
    while !shared.is_stopped.load(Ordering::Acquire) {
        shared.changed.notified().await;
    }
}
