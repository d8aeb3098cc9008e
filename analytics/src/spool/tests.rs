//! The spool against a simple model, crashes included. Damaged files are in `damage.rs`.

mod damage;

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tempfile::TempDir;

use super::*;
use crate::record::{AttemptRow, Bodies, RequestRow};

const LIMITS: Limits = Limits {
    segment_bytes: 16 << 10,
    max_bytes: 1 << 20,
};
const BLOCK: BlockLimits = BlockLimits {
    max_records: 7,
    max_bytes: 8 << 10,
};

struct Opened {
    spool: Arc<Spool>,
    counters: Arc<Counters>,
}

fn open_with(root: &Path, limits: Limits) -> Opened {
    let counters = Arc::new(Counters::default());
    let spool = Spool::open(root, limits, counters.clone()).unwrap();
    spool.adopt();
    Opened { spool, counters }
}

fn open(root: &Path) -> Opened {
    open_with(root, LIMITS)
}

impl Opened {
    fn append(&self, number: u64) {
        self.spool
            .append(&record(number, (number * 37 % 900) as usize))
            .unwrap();
    }

    /// Takes one block to the "store", which drops blocks it has seen.
    fn deliver(&self, store: &mut Delivered) -> bool {
        let Some(block) = self.spool.take(BLOCK) else {
            return false;
        };
        self.spool.begin(&block).unwrap();
        store.insert(&block.id, self.numbers(&block));
        self.spool.ack(&block);
        true
    }

    /// As a killed process: what it holds is let go of, the lock too, and nothing is tidied.
    fn die(self) {
        self.spool.keeper_stop.store(true, Ordering::Release);
        self.spool.keeper.notify_all();
        let spool = Arc::downgrade(&self.spool);
        drop(self);
        while spool.strong_count() > 0 {
            std::thread::yield_now(); // the keeper thread is on its way out
        }
    }

    fn deliver_all(&self, store: &mut Delivered) {
        while self.deliver(store) {}
    }

    fn numbers(&self, block: &Block) -> Vec<u64> {
        let records = self.spool.read(block);
        assert_eq!(records.len() as u64, block.records);
        records
            .iter()
            .map(|record| record.request.duration_us as u64)
            .collect()
    }
}

/// A store as simple as can be: what came, in order, and which blocks it has seen.
#[derive(Default)]
struct Delivered {
    blocks: std::collections::HashMap<String, Vec<u64>>,
    numbers: Vec<u64>,
}

impl Delivered {
    fn insert(&mut self, id: &str, numbers: Vec<u64>) {
        if let Some(before) = self.blocks.get(id) {
            assert_eq!(before, &numbers, "block {id} came again with other rows");
            return;
        }
        self.numbers.extend(&numbers);
        self.blocks.insert(id.to_string(), numbers);
    }

    fn sorted(&self) -> Vec<u64> {
        let mut numbers = self.numbers.clone();
        numbers.sort();
        numbers
    }
}

fn record(number: u64, body_bytes: usize) -> LogRecord {
    let body = Bodies {
        request: vec![number as u8; body_bytes],
        ..Bodies::default()
    };
    LogRecord {
        request: RequestRow {
            duration_us: number as i64,
            ..RequestRow::default()
        },
        attempts: vec![AttemptRow {
            body: Some(body),
            ..AttemptRow::default()
        }],
    }
}

/// What a `kill -9` at this moment would leave: the mapped pages are the file's pages.
fn copy_folder(root: &Path) -> TempDir {
    let copy = TempDir::new().unwrap();
    for folder in folders(root) {
        let target = copy.path().join(folder.file_name().unwrap());
        fs::create_dir(&target).unwrap();
        // The keeper may delete files and folders between the listing and the copy; a crash at that
        // moment would not have left them either.
        for file in fs::read_dir(folder).into_iter().flatten().flatten() {
            let _ = fs::copy(file.path(), target.join(file.file_name()));
        }
    }
    copy
}

fn folders(root: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root)
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    entries.filter(|path| path.is_dir()).collect()
}

fn segment_files(root: &Path) -> Vec<PathBuf> {
    let files = folders(root)
        .into_iter()
        .flat_map(|folder| fs::read_dir(folder).unwrap().flatten());
    let mut paths: Vec<PathBuf> = files.map(|file| file.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    paths.sort();
    paths
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[test]
fn records_come_out_in_order_and_once() {
    let root = TempDir::new().unwrap();
    let opened = open(root.path());
    let mut store = Delivered::default();
    for number in 0..500 {
        opened.append(number);
        if number % 90 == 0 {
            opened.deliver_all(&mut store);
        }
    }
    opened.deliver_all(&mut store);
    assert_eq!(store.numbers, (0..500).collect::<Vec<u64>>());
    assert_eq!(opened.counters.pending_records.load(Ordering::Relaxed), 0);
    assert_eq!(opened.spool.waiting(), (0, 0));
}

#[test]
fn random_operations_and_crashes_agree_with_a_queue() {
    for seed in 1..=15 {
        println!("seed {seed}");
        let mut random = Random(seed * 0x9e37_79b9);
        let mut root = TempDir::new().unwrap();
        let mut opened = open(root.path());
        let mut store = Delivered::default();
        let mut waiting: VecDeque<u64> = VecDeque::new();
        let mut next = 0;
        for _ in 0..400 {
            match random.below(100) {
                0..70 => {
                    opened
                        .spool
                        .append(&record(next, random.below(2_000) as usize))
                        .unwrap();
                    waiting.push_back(next);
                    next += 1;
                }
                70..85 => {
                    if opened.deliver(&mut store) {
                        let last = store.numbers.last().unwrap();
                        while waiting.front().is_some_and(|number| number <= last) {
                            waiting.pop_front();
                        }
                    }
                }
                // Dies before the block is begun, before it is sent, or before it is acked.
                85..89 => {
                    let stage = random.below(4);
                    if stage > 0
                        && let Some(block) = opened.spool.take(BLOCK)
                    {
                        if stage > 1 {
                            opened.spool.begin(&block).unwrap();
                        }
                        if stage > 2 {
                            store.insert(&block.id, opened.numbers(&block));
                        }
                    }
                    let copy = copy_folder(root.path());
                    drop(opened);
                    root = copy;
                    opened = open(root.path());
                }
                _ => opened.spool.adopt(), // finds nothing: nobody else died
            }
            let pending = opened.counters.pending_records.load(Ordering::Relaxed);
            let (left, _) = opened.spool.waiting();
            assert_eq!(pending, left, "seed {seed}: nothing is on its way");
            assert!(
                pending >= waiting.len() as u64,
                "seed {seed}: nothing acknowledged is lost"
            );
        }
        opened.deliver_all(&mut store);
        assert_eq!(
            store.sorted(),
            (0..next).collect::<Vec<u64>>(),
            "seed {seed}"
        );
        assert_eq!(opened.counters.dropped_records.load(Ordering::Relaxed), 0);
        assert_eq!(opened.counters.corrupt_records.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn a_block_begun_before_a_crash_is_cut_the_same_after_it() {
    let root = TempDir::new().unwrap();
    let opened = open(root.path());
    (0..5).for_each(|number| opened.append(number));
    let block = opened.spool.take(BLOCK).unwrap();
    opened.spool.begin(&block).unwrap();
    let (id, numbers) = (block.id.clone(), opened.numbers(&block));
    (5..30).for_each(|number| opened.append(number)); // would make the block longer, were it cut anew
    let copy = copy_folder(root.path());

    let after = open(copy.path());
    let again = after.spool.take(BLOCK).unwrap();
    assert_eq!((again.id.clone(), after.numbers(&again)), (id, numbers));
    assert!(again.is_full, "the rest does not wait for more rows");
}

#[test]
fn threads_append_at_once_while_blocks_are_taken() {
    let root = TempDir::new().unwrap();
    let opened = open_with(
        root.path(),
        Limits {
            segment_bytes: 64 << 10,
            max_bytes: 64 << 20,
        },
    );
    let mut store = Delivered::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let spool = &opened.spool;
                scope.spawn(move || {
                    for index in 0..500 {
                        spool
                            .append(&record(thread * 1_000 + index, (index % 700) as usize))
                            .unwrap();
                    }
                })
            })
            .collect();
        while threads.iter().any(|thread| !thread.is_finished()) {
            opened.deliver_all(&mut store);
        }
    });
    opened.deliver_all(&mut store);
    let expected: Vec<u64> = (0..4)
        .flat_map(|thread| (0..500).map(move |index| thread * 1_000 + index))
        .collect();
    assert_eq!(store.sorted(), expected);
}

#[test]
fn past_the_bound_the_oldest_go_and_are_counted() {
    let root = TempDir::new().unwrap();
    let limits = Limits {
        segment_bytes: 16 << 10,
        max_bytes: 128 << 10,
    };
    let opened = open_with(root.path(), limits);
    for number in 0..1_000 {
        opened.append(number);
        assert!(opened.spool.bytes() <= limits.max_bytes);
    }
    let dropped = opened.counters.dropped_records.load(Ordering::Relaxed);
    assert!(dropped > 0);
    let mut store = Delivered::default();
    opened.deliver_all(&mut store);
    assert_eq!(store.numbers, (dropped..1_000).collect::<Vec<u64>>());
    assert_eq!(opened.counters.pending_records.load(Ordering::Relaxed), 0);
}

#[test]
fn a_block_on_its_way_survives_its_segment_being_given_up() {
    let root = TempDir::new().unwrap();
    let limits = Limits {
        segment_bytes: 16 << 10,
        max_bytes: 64 << 10,
    };
    let opened = open_with(root.path(), limits);
    (0..20).for_each(|number| opened.append(number));
    let block = opened.spool.take(BLOCK).unwrap();
    opened.spool.begin(&block).unwrap();
    (20..600).for_each(|number| opened.append(number));
    let mut store = Delivered::default();
    store.insert(&block.id, opened.numbers(&block)); // its bytes are still there
    opened.spool.ack(&block);
    opened.deliver_all(&mut store);
    let dropped = opened.counters.dropped_records.load(Ordering::Relaxed);
    assert_eq!(store.numbers.len() as u64 + dropped, 600);
    assert_eq!(store.numbers[..7], [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(opened.counters.pending_records.load(Ordering::Relaxed), 0);
}

#[test]
fn a_record_larger_than_a_segment_gets_one_of_its_own() {
    let root = TempDir::new().unwrap();
    let opened = open(root.path());
    opened.append(0);
    opened.spool.append(&record(1, 100 << 10)).unwrap();
    opened.append(2);
    let mut store = Delivered::default();
    opened.deliver_all(&mut store);
    assert_eq!(store.numbers, [0, 1, 2]);
}

#[test]
fn a_living_process_is_left_alone_and_a_dead_one_adopted_once() {
    let root = TempDir::new().unwrap();
    let living = open(root.path());
    living.append(1);
    let other = open(root.path());
    assert!(
        other.spool.take(BLOCK).is_none(),
        "the first process still lives"
    );
    living.die();
    other.spool.adopt();
    let third = open(root.path());
    assert!(third.spool.take(BLOCK).is_none(), "the second has it now");
    let mut store = Delivered::default();
    other.deliver_all(&mut store);
    assert_eq!(store.numbers, [1]);
    assert_eq!(other.counters.adopted_records.load(Ordering::Relaxed), 1);
}

#[test]
fn nothing_is_left_behind_by_a_process_that_sent_everything() {
    let root = TempDir::new().unwrap();
    let opened = open(root.path());
    (0..200).for_each(|number| opened.append(number));
    assert!(!opened.spool.close_if_empty());
    let mut store = Delivered::default();
    opened.deliver_all(&mut store);
    assert!(opened.spool.close_if_empty());
    assert_eq!(opened.spool.append(&record(9, 0)), Err(Lost::Closed));
    opened.spool.stop();
    assert_eq!(folders(root.path()), Vec::<PathBuf>::new());
}

#[test]
fn folders_and_files_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let root = TempDir::new().unwrap();
    let spool_root = root.path().join("spool");
    let opened = open(&spool_root);
    opened.append(1);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&spool_root), 0o700);
    for folder in folders(&spool_root) {
        assert_eq!(mode(&folder), 0o700);
        for file in fs::read_dir(folder).unwrap().flatten() {
            assert_eq!(mode(&file.path()), 0o600, "{:?}", file.path());
        }
    }
}
