//! The keeper thread: once a second it writes dirty pages to the disk; in between it makes the next
//! segment ahead and deletes files of segments that are done with. All of it is slow work that an
//! append must not do.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::segment::Segment;
use super::{Spool, State, recover};

/// A power cut loses what was appended within this time.
const SYNC_PERIOD: Duration = Duration::from_secs(1);

/// What of a segment was written to the disk. Each range is synced twice: a frame may have been
/// reserved before the first time and filled after it.
#[derive(Default, Clone, Copy)]
struct Synced {
    twice: usize,
    once: usize,
}

pub(super) fn start(spool: &Arc<Spool>) -> io::Result<()> {
    let weak = Arc::downgrade(spool);
    std::thread::Builder::new()
        .name("analytics-sync".into())
        .spawn(move || run(weak))?;
    Ok(())
}

/// Ends the thread's work: a last sync, then the folder goes if it is empty.
pub(super) fn stop(spool: &Spool) {
    if spool.keeper_stop.swap(true, Ordering::AcqRel) {
        return;
    }
    spool.keeper.notify_all();
    let (segments, garbage, is_done) = {
        let mut state = spool.lock();
        let is_done = state.closed
            && state
                .queue
                .iter()
                .all(|queued| queued.acked >= queued.segment.end());
        let mut garbage = std::mem::take(&mut state.garbage);
        garbage.extend(state.spare.take());
        let segments: Vec<Arc<Segment>> = state
            .queue
            .iter()
            .map(|queued| queued.segment.clone())
            .collect();
        (segments, garbage, is_done)
    };
    delete(garbage);
    if is_done {
        delete(segments);
        recover::remove_folder_if_empty(&spool.folder);
    } else {
        for segment in segments {
            report(segment.sync(0, segment.end()));
        }
    }
}

fn run(spool: Weak<Spool>) {
    let mut synced = HashMap::new();
    let mut next_sync = Instant::now() + SYNC_PERIOD;
    while let Some(spool) = spool.upgrade() {
        if spool.keeper_stop.load(Ordering::Acquire) {
            return;
        }
        make_spare(&spool);
        let garbage = std::mem::take(&mut spool.lock().garbage);
        delete(garbage);
        if Instant::now() >= next_sync {
            sync(&spool, &mut synced);
            next_sync = Instant::now() + SYNC_PERIOD;
        }
        let state = spool.lock();
        if state.garbage.is_empty() && !wants_spare(&spool, &state) {
            let wait = next_sync.saturating_duration_since(Instant::now());
            drop(spool.keeper.wait_timeout(state, wait));
        }
    }
}

fn sync(spool: &Spool, synced: &mut HashMap<u64, Synced>) {
    let own: Vec<Arc<Segment>> = {
        let state = spool.lock();
        let segments = state.queue.iter().map(|queued| &queued.segment);
        segments
            .filter(|segment| segment.folder.is_own)
            .cloned()
            .collect()
    };
    synced.retain(|number, _| own.iter().any(|segment| segment.number == *number));
    if own
        .iter()
        .any(|segment| !synced.contains_key(&segment.number))
    {
        report(File::open(&spool.folder.path).and_then(|folder| folder.sync_all()));
    }
    for segment in own {
        let synced = synced.entry(segment.number).or_default();
        let end = segment.end();
        if synced.twice < end {
            report(segment.sync(synced.twice, end));
            synced.twice = std::mem::replace(&mut synced.once, end);
        }
    }
}

/// Past the bound no spare is made: the next roll decides what goes.
fn wants_spare(spool: &Spool, state: &State) -> bool {
    let has_room = state.bytes + spool.limits.segment_bytes <= spool.limits.max_bytes;
    state.spare.is_none() && !state.closed && has_room && !state.is_disk_full
}

fn make_spare(spool: &Spool) {
    let number = {
        let mut state = spool.lock();
        if !wants_spare(spool, &state) {
            return;
        }
        state.next_number += 1;
        state.next_number - 1
    };
    match Segment::create(&spool.folder, number, spool.limits.segment_bytes) {
        Ok(segment) => {
            let segment = Arc::new(segment);
            let mut state = spool.lock();
            // A roll may have taken the room while the file was made.
            if !wants_spare(spool, &state) {
                drop(state);
                return delete([segment]);
            }
            state.bytes += segment.capacity();
            state.spare = Some(segment);
        }
        Err(error) => {
            // Left to the next roll, which may give up old segments for it.
            tracing::warn!(%error, "cannot make a spool segment ahead");
            spool.lock().is_disk_full = true;
        }
    }
}

/// Deletes the files of segments that are in the store or given up.
pub(super) fn delete(segments: impl IntoIterator<Item = Arc<Segment>>) {
    for segment in segments {
        if let Err(error) = fs::remove_file(&segment.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, segment = %segment.path.display(), "cannot delete a spool segment");
        }
        let folder = &segment.folder;
        folder
            .ledger
            .lock()
            .expect("the ledger lock is not poisoned")
            .forget(segment.number);
        if !folder.is_own {
            recover::remove_folder_if_empty(folder);
        }
    }
}

fn report(result: io::Result<()>) {
    if let Err(error) = result {
        tracing::error!(%error, "cannot write the spool to the disk");
    }
}
