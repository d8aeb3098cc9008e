//! Segments and ledgers that were cut short, damaged or left half written.

use super::*;

#[test]
fn a_truncated_or_damaged_segment_loses_only_what_is_damaged() {
    let root = TempDir::new().unwrap();
    let opened = open(root.path());
    (0..10).for_each(|number| opened.append(number));
    let end = opened.spool.lock().current().segment.end();

    // Every length the file may have been cut to: what is whole before the cut comes back.
    for cut in (0..=end).step_by(97) {
        let copy = copy_folder(root.path());
        let file = &segment_files(copy.path())[0];
        fs::OpenOptions::new()
            .write(true)
            .open(file)
            .unwrap()
            .set_len(cut as u64)
            .unwrap();
        let after = open(copy.path());
        let mut store = Delivered::default();
        after.deliver_all(&mut store);
        let whole = store.numbers.len() as u64;
        assert_eq!(
            store.numbers,
            (0..whole).collect::<Vec<u64>>(),
            "cut at {cut}"
        );
        assert!(whole < 10 || cut >= end - 16, "cut at {cut}");
    }

    // A flipped bit in a payload: that record is counted as corrupt, the others come.
    let copy = copy_folder(root.path());
    let file = &segment_files(copy.path())[0];
    let mut bytes = fs::read(file).unwrap();
    bytes[segment::HEADER_BYTES + 16 + 20] ^= 1;
    fs::write(file, bytes).unwrap();
    let after = open(copy.path());
    let block = after.spool.take(BLOCK).unwrap();
    assert_eq!(after.spool.read(&block).len() as u64, block.records - 1);
    assert_eq!(after.counters.corrupt_records.load(Ordering::Relaxed), 1);
}

#[test]
fn random_damage_never_panics() {
    let root = TempDir::new().unwrap();
    let opened = open(root.path());
    (0..10).for_each(|number| opened.append(number));
    let whole = fs::read(&segment_files(root.path())[0]).unwrap();
    let used = opened.spool.lock().current().segment.end() as u64;
    for seed in 1..=150 {
        println!("seed {seed}");
        let mut random = Random(seed * 0x9e37_79b9);
        let copy = TempDir::new().unwrap();
        let folder = copy.path().join("01ORPHAN");
        fs::create_dir(&folder).unwrap();
        let mut bytes = whole.clone();
        for _ in 0..1 + random.below(8) {
            bytes[random.below(used) as usize] = random.below(256) as u8;
        }
        fs::write(folder.join("00000001.seg"), &bytes).unwrap();
        let noise: Vec<u8> = (0..random.below(200))
            .map(|_| random.below(256) as u8)
            .collect();
        fs::write(folder.join("ledger"), noise).unwrap();
        let after = open(copy.path());
        while let Some(block) = after.spool.take(BLOCK) {
            after.spool.begin(&block).unwrap();
            assert!(after.spool.read(&block).len() as u64 <= block.records);
            after.spool.ack(&block);
        }
    }
}

#[test]
fn segments_this_version_cannot_read_are_kept_aside() {
    let root = TempDir::new().unwrap();
    let folder = root.path().join("01NEWER");
    fs::create_dir(&folder).unwrap();
    let mut segment = vec![0; 4_096];
    segment[..8].copy_from_slice(b"aigspool");
    segment[8] = 99;
    fs::write(folder.join("00000001.seg"), segment).unwrap();
    let opened = open(root.path());
    assert!(opened.spool.take(BLOCK).is_none());
    assert!(folder.join("00000001.unreadable").exists());
}

#[test]
fn a_frame_that_was_never_filled_is_skipped() {
    let root = TempDir::new().unwrap();
    let opened = open(root.path());
    opened.append(0);
    opened.spool.reserve(100, 50).unwrap(); // the process dies before the copy
    opened.append(1);
    // Alive, the frames behind it wait for it.
    let block = opened.spool.take(BLOCK).unwrap();
    assert_eq!(opened.numbers(&block), [0]);
    opened.spool.ack(&block);
    assert!(opened.spool.take(BLOCK).is_none());

    let copy = copy_folder(root.path());
    let after = open(copy.path());
    let mut store = Delivered::default();
    after.deliver_all(&mut store);
    assert_eq!(store.numbers, [1]);
    assert_eq!(after.counters.torn_frames.load(Ordering::Relaxed), 1);
}
