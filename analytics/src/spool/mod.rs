//! The on-disk write-ahead of records: what is appended here survives `kill -9` at once and a power
//! cut after a second. It opens no sockets and knows nothing of the store behind the writer.
//!
//! ```text
//! <data_dir>/spool/
//!   .lock                        held while a folder is made or adopted
//!   01JC…/                       one folder per process, named by a ULID
//!     lock                       held (flock) while the process lives; free = orphan, to be adopted
//!     ledger                     which blocks were begun and which are in the store (ledger.rs)
//!     00000001.seg               memory-mapped, allocated ahead, deleted when all of it is acked
//!
//! segment   ┌────────────┬───────┬───────┬───────┬─ ─ ─ ─ ─ ─ ─ ─ ─┐
//!           │ header 64  │ frame │ frame │ frame │ zeros: free room │
//!           └────────────┴───────┴───────┴───────┴─ ─ ─ ─ ─ ─ ─ ─ ─┘
//! header    magic "aigspool", version u32, zero u32, number u64, zeros up to 64 bytes
//! frame     ┌───────────┬────────────┬──────────┬───────┬───────────┬────────┬───────────┐
//!           │ bytes u32 │ meta u32   │ crc32    │ state │ meta      │ bodies │ up to the │
//!           │ (payload) │ (its part) │ (payload)│ u32   │ (msgpack) │ (raw)  │ next 16   │
//!           └───────────┴────────────┴──────────┴───────┴───────────┴────────┴───────────┘
//! state     0 free · "RSVD" room taken, bytes still being copied · "DONE" whole
//! ```
//!
//! Integers are little-endian. A frame is one record: `meta` is MessagePack with named fields
//! (`codec.rs`), so a column added later reads as its default and a column taken away is skipped;
//! bodies follow as they are. Room is taken under a lock (two words written), the bytes are copied
//! outside of it, and the state is published last: an append is a copy, not a system call. A frame
//! left at "RSVD" by a dead process is skipped by its length; that request never ended.
//!
//! A *block* is a run of frames within one segment. Its two ends are written to the ledger before
//! it is sent, so that after a crash the same rows go again under the same id, which the store
//! knows how to drop.
//!
//! Bounded: the segments of a process (adopted ones included) take at most `spool_max_bytes` of
//! disk. Past it the **oldest** segment is given up and its rows not yet sent are counted as
//! dropped. The same happens when the disk itself is full.

mod codec;
mod keeper;
mod ledger;
mod recover;
mod segment;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::error::{Error, Lost};
use crate::record::LogRecord;
use crate::stats::Counters;
use ledger::Ledger;
use segment::{Segment, Slot};

/// Bounds of the spool, all in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub segment_bytes: u64,
    pub max_bytes: u64,
}

impl Limits {
    /// A quarter of the whole: one record may not push out everything before it.
    fn max_frame_bytes(&self) -> u64 {
        (self.max_bytes / 4).min(u64::from(u32::MAX) / 2)
    }
}

/// The frames of one insert: a run within one segment.
pub(crate) struct Block {
    /// Names the block for the store, the same after a restart.
    pub id: String,
    pub records: u64,
    /// A bound was reached, or no more frames will follow in this segment.
    pub is_full: bool,
    segment: Arc<Segment>,
    start: usize,
    end: usize,
}

/// Bounds of a block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockLimits {
    pub max_records: u64,
    pub max_bytes: u64,
}

/// A folder of segments, ours or adopted, held by its lock as long as this lives.
pub(crate) struct Folder {
    id: String,
    path: PathBuf,
    is_own: bool,
    ledger: Mutex<Ledger>,
    _lock: File,
}

/// A segment in line for the store. `taken` frames are in the store or on their way.
struct Queued {
    segment: Arc<Segment>,
    taken: usize,
    taken_records: u64,
    acked: usize,
    /// End of a block that a dead process had begun: it must be cut there again.
    begun_end: Option<usize>,
}

struct State {
    /// Oldest first; the last one is ours and takes the appends.
    queue: VecDeque<Queued>,
    /// Made ahead by the keeper, so that an append seldom has to make a file.
    spare: Option<Arc<Segment>>,
    /// Segments whose files the keeper deletes.
    garbage: Vec<Arc<Segment>>,
    next_number: u64,
    bytes: u64,
    /// The keeper could not make a spare; no more are made ahead until a roll succeeds.
    is_disk_full: bool,
    closed: bool,
}

pub(crate) struct Spool {
    root: PathBuf,
    folder: Arc<Folder>,
    limits: Limits,
    state: Mutex<State>,
    keeper: Condvar,
    keeper_stop: AtomicBool,
    /// Woken at each append; holds one permit, so no append is missed.
    pub appended: tokio::sync::Notify,
    counters: Arc<Counters>,
}

impl Spool {
    /// Makes this process's folder and its first segment, and starts the keeper thread.
    pub fn open(root: &Path, limits: Limits, counters: Arc<Counters>) -> Result<Arc<Spool>, Error> {
        let folder = Arc::new(recover::make_folder(root)?);
        let first =
            Segment::create(&folder, 1, limits.segment_bytes).map_err(Error::io(&folder.path))?;
        let spool = Arc::new(Spool {
            root: root.to_path_buf(),
            folder,
            limits,
            state: Mutex::new(State {
                bytes: first.capacity(),
                queue: VecDeque::from([Queued::new(Arc::new(first))]),
                spare: None,
                garbage: Vec::new(),
                next_number: 2,
                is_disk_full: false,
                closed: false,
            }),
            keeper: Condvar::new(),
            keeper_stop: AtomicBool::new(false),
            appended: tokio::sync::Notify::new(),
            counters,
        });
        keeper::start(&spool).map_err(Error::io(root))?;
        Ok(spool)
    }

    /// Appends one record: encode, take room, copy. Blocks only on the short lock, and on making a
    /// segment when the spare one is not ready yet.
    pub fn append(&self, record: &LogRecord) -> Result<(), Lost> {
        codec::encode(record, self.limits.max_frame_bytes(), |meta, bodies| {
            let bytes = meta.len() + bodies.iter().map(|body| body.len()).sum::<usize>();
            let (segment, offset) = self.reserve(bytes, meta.len())?;
            self.counters
                .pending_records
                .fetch_add(1, Ordering::Relaxed);
            segment.fill(offset, meta, bodies);
            Ok(())
        })?;
        self.appended.notify_one();
        Ok(())
    }

    /// Cuts the next block, oldest frames first; `None` when nothing waits. The caller acks it
    /// before it takes another.
    pub fn take(&self, limits: BlockLimits) -> Option<Block> {
        loop {
            let (segment, start, begun_end) = {
                let mut state = self.lock();
                self.retire(&mut state);
                let queued = state
                    .queue
                    .iter()
                    .find(|queued| queued.taken < queued.segment.end())?;
                (queued.segment.clone(), queued.taken, queued.begun_end)
            };
            let cut = segment.cut(start, begun_end, limits);
            if cut.end == start {
                return None; // the oldest frame is still being copied
            }
            let mut state = self.lock();
            let is_appended_to = state.is_current(&segment);
            let Some(queued) = state.find(&segment) else {
                continue; // given up meanwhile, to make room
            };
            queued.taken = cut.end;
            queued.taken_records += cut.records;
            queued.begun_end = None;
            self.counters
                .torn_frames
                .fetch_add(cut.torn, Ordering::Relaxed);
            if cut.records == 0 {
                queued.acked = cut.end;
                continue; // only torn frames
            }
            let is_full = cut.is_full || (!is_appended_to && cut.end == segment.end());
            let id = format!(
                "{}-{}-{}-{}",
                segment.folder.id, segment.number, start, cut.end
            );
            return Some(Block {
                id,
                records: cut.records,
                is_full,
                segment,
                start,
                end: cut.end,
            });
        }
    }

    /// Writes down where the block is cut. Must succeed before the first row of it is sent.
    pub fn begin(&self, block: &Block) -> io::Result<()> {
        let folder = &block.segment.folder;
        let mut ledger = folder
            .ledger
            .lock()
            .expect("the ledger lock is not poisoned");
        ledger.begin(block.segment.number, block.start as u64, block.end as u64)
    }

    /// The records of a block. Frames that do not read are counted and left out, each time the same.
    pub fn read(&self, block: &Block) -> Vec<LogRecord> {
        let mut records = Vec::with_capacity(block.records as usize);
        let mut offset = block.start;
        while offset < block.end {
            let (slot, next) = block.segment.slot(offset);
            if let Slot::Done(payload) = slot {
                match payload
                    .checked()
                    .and_then(|(meta, bodies)| codec::decode(meta, bodies))
                {
                    Some(record) => records.push(record),
                    None => {
                        self.counters
                            .corrupt_records
                            .fetch_add(1, Ordering::Relaxed);
                        tracing::error!(segment = %block.segment.path.display(), offset, "a spooled record cannot be read");
                    }
                }
            }
            offset = next;
        }
        records
    }

    /// The block is in the store (or in the dead letters): it need not be sent again.
    pub fn ack(&self, block: &Block) {
        let folder = &block.segment.folder;
        let written = folder
            .ledger
            .lock()
            .expect("the ledger lock is not poisoned")
            .done(block.segment.number, block.end as u64);
        if let Err(error) = written {
            // The block goes again after a crash, under the same id, and the store drops it.
            tracing::warn!(%error, folder = %folder.path.display(), "cannot write the spool's ledger");
        }
        self.counters
            .pending_records
            .fetch_sub(block.records, Ordering::Relaxed);
        let mut state = self.lock();
        if let Some(queued) = state.find(&block.segment) {
            queued.acked = block.end;
        }
        self.retire(&mut state);
    }

    /// Records and bytes not yet taken into a block.
    pub fn waiting(&self) -> (u64, u64) {
        let state = self.lock();
        state.queue.iter().fold((0, 0), |(records, bytes), queued| {
            let left = queued.segment.end() - queued.taken;
            (
                records
                    + queued
                        .segment
                        .records()
                        .saturating_sub(queued.taken_records),
                bytes + left as u64,
            )
        })
    }

    /// Brings in the segments of processes that died. Blocking file work: called by the writer.
    pub fn adopt(&self) {
        let adopted = match recover::adopt_orphans(&self.root, &self.folder) {
            Ok(adopted) => adopted,
            Err(error) => {
                tracing::warn!(%error, "cannot look for orphaned spool folders");
                return;
            }
        };
        let mut state = self.lock();
        for queued in adopted.into_iter().rev() {
            let records = queued.segment.records() - queued.taken_records;
            tracing::info!(segment = %queued.segment.path.display(), records, "adopted a spool segment");
            self.counters
                .adopted_records
                .fetch_add(records, Ordering::Relaxed);
            self.counters
                .pending_records
                .fetch_add(records, Ordering::Relaxed);
            state.bytes += queued.segment.capacity();
            state.queue.push_front(queued);
        }
        self.keep_bound(&mut state, 0);
    }

    /// Disk taken by segments.
    pub fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// Refuses appends from now on, if everything appended was acked; says whether it did.
    pub fn close_if_empty(&self) -> bool {
        let mut state = self.lock();
        let is_empty = state
            .queue
            .iter()
            .all(|queued| queued.acked >= queued.segment.end());
        state.closed |= is_empty;
        is_empty
    }

    /// Stops the keeper after a last sync; removes the folder when nothing is left in it.
    pub fn stop(&self) {
        keeper::stop(self);
    }

    fn reserve(&self, bytes: usize, meta_bytes: usize) -> Result<(Arc<Segment>, usize), Lost> {
        let mut state = self.lock();
        if state.closed {
            return Err(Lost::Closed);
        }
        let current = &state.current().segment;
        if let Some(offset) = current.reserve(bytes, meta_bytes) {
            return Ok((current.clone(), offset));
        }
        let segment = self.roll(&mut state, bytes)?;
        let offset = segment
            .reserve(bytes, meta_bytes)
            .expect("a fresh segment was made large enough");
        Ok((segment, offset))
    }

    /// Starts the next segment, giving up the oldest ones where the bound or the disk asks for it.
    fn roll(&self, state: &mut State, bytes: usize) -> Result<Arc<Segment>, Lost> {
        let needed = Segment::capacity_for(bytes).max(self.limits.segment_bytes);
        let spare = state.spare.take_if(|spare| spare.capacity() >= needed);
        let segment = match spare {
            Some(spare) => spare, // already counted in `bytes`
            None => {
                self.keep_bound(state, needed);
                let number = state.next_number;
                state.next_number += 1;
                let made = loop {
                    match Segment::create(&self.folder, number, needed) {
                        Err(error) if is_disk_full(&error) && self.give_up_oldest(state) => {
                            keeper::delete(state.garbage.drain(..)); // room is needed now
                        }
                        result => break result,
                    }
                };
                let made = Arc::new(made.map_err(|error| Lost::Disk(error.kind()))?);
                state.bytes += made.capacity();
                state.is_disk_full = false;
                made
            }
        };
        state.queue.push_back(Queued::new(segment.clone()));
        self.keep_bound(state, 0);
        self.keeper.notify_one();
        Ok(segment)
    }

    fn keep_bound(&self, state: &mut State, needed: u64) {
        self.retire(state);
        while state.bytes + needed > self.limits.max_bytes && self.give_up_oldest(state) {}
    }

    /// Drops the oldest segment that takes no appends; false when there is none.
    fn give_up_oldest(&self, state: &mut State) -> bool {
        if state.queue.len() < 2 {
            return false;
        }
        let queued = state.queue.pop_front().expect("the queue has two segments");
        // What was taken is in the store or in the writer's hands, which does not let go of it.
        let dropped = queued.segment.records() - queued.taken_records;
        self.counters
            .dropped_records
            .fetch_add(dropped, Ordering::Relaxed);
        self.counters
            .pending_records
            .fetch_sub(dropped, Ordering::Relaxed);
        if dropped > 0 {
            tracing::error!(
                records = dropped,
                "the spool is full: the oldest records were given up"
            );
        }
        state.bytes -= queued.segment.capacity();
        state.garbage.push(queued.segment);
        self.keeper.notify_one();
        true
    }

    /// Lets go of segments that are wholly in the store and take no more appends.
    fn retire(&self, state: &mut State) {
        while state.queue.len() > 1 && state.queue[0].acked >= state.queue[0].segment.end() {
            let queued = state.queue.pop_front().expect("the queue has two segments");
            state.bytes -= queued.segment.capacity();
            state.garbage.push(queued.segment);
            self.keeper.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no thread panics while it holds the spool's lock")
    }
}

impl State {
    fn current(&self) -> &Queued {
        self.queue
            .back()
            .expect("the queue always ends with the segment that takes appends")
    }

    fn is_current(&self, segment: &Arc<Segment>) -> bool {
        Arc::ptr_eq(&self.current().segment, segment)
    }

    fn find(&mut self, segment: &Arc<Segment>) -> Option<&mut Queued> {
        self.queue
            .iter_mut()
            .find(|queued| Arc::ptr_eq(&queued.segment, segment))
    }
}

impl Queued {
    fn new(segment: Arc<Segment>) -> Queued {
        let start = segment::HEADER_BYTES;
        Queued {
            segment,
            taken: start,
            taken_records: 0,
            acked: start,
            begun_end: None,
        }
    }
}

fn is_disk_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
