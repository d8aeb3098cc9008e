//! Which blocks were cut and which are in the store. An append-only file of small checked entries:
//!
//! ```text
//! entry     kind u32 (1 begun, 2 done) · crc32 of the rest u32 · segment u64 · start u64 · end u64
//! ```
//!
//! `begin` reaches the disk before it returns, so a block is never cut twice in different ways.
//! `done` need not: a block whose `done` is lost goes again under its old id and is dropped by the
//! store. The file is rewritten when it grows past a bound, so its size does not follow the traffic.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const ENTRY_BYTES: usize = 32;
const BEGUN: u32 = 1;
const DONE: u32 = 2;
/// Past this the file is rewritten with one or two entries a segment.
const MAX_FILE_BYTES: u64 = 256 << 10;

/// How far a segment has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Everything before it is in the store.
    pub done: u64,
    /// A block that was cut and may or may not be in the store.
    pub begun: Option<(u64, u64)>,
}

pub(super) struct Ledger {
    path: PathBuf,
    file: File,
    file_bytes: u64,
    progress: HashMap<u64, Progress>,
}

impl Ledger {
    /// Opens or makes the ledger; entries behind a damaged one are not believed.
    pub fn open(path: &Path) -> io::Result<Ledger> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let mut progress = HashMap::new();
        let mut valid_bytes = 0;
        for entry in bytes.chunks_exact(ENTRY_BYTES) {
            if !apply(&mut progress, entry) {
                break;
            }
            valid_bytes += ENTRY_BYTES as u64;
        }
        file.set_len(valid_bytes)?;
        Ok(Ledger {
            path: path.to_path_buf(),
            file,
            file_bytes: valid_bytes,
            progress,
        })
    }

    pub fn begin(&mut self, segment: u64, start: u64, end: u64) -> io::Result<()> {
        self.append(BEGUN, segment, start, end)?;
        self.file.sync_data()
    }

    pub fn done(&mut self, segment: u64, end: u64) -> io::Result<()> {
        self.append(DONE, segment, 0, end)
    }

    pub fn progress(&self, segment: u64) -> Progress {
        self.progress.get(&segment).copied().unwrap_or_default()
    }

    /// The segment's file is gone; its entries go at the next rewrite.
    pub fn forget(&mut self, segment: u64) {
        self.progress.remove(&segment);
    }

    fn append(&mut self, kind: u32, segment: u64, start: u64, end: u64) -> io::Result<()> {
        if self.file_bytes >= MAX_FILE_BYTES {
            self.rewrite()?;
        }
        let entry = entry(kind, segment, start, end);
        if let Err(error) = self.file.write_all(&entry) {
            let _ = self.file.set_len(self.file_bytes); // half an entry would hide the later ones
            return Err(error);
        }
        self.file_bytes += ENTRY_BYTES as u64;
        apply(&mut self.progress, &entry);
        Ok(())
    }

    fn rewrite(&mut self) -> io::Result<()> {
        let mut bytes = Vec::new();
        for (segment, progress) in &self.progress {
            bytes.extend(entry(DONE, *segment, 0, progress.done));
            if let Some((start, end)) = progress.begun {
                bytes.extend(entry(BEGUN, *segment, start, end));
            }
        }
        let fresh = self.path.with_extension("new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)?;
        file.write_all(&bytes)?;
        file.sync_data()?;
        std::fs::rename(&fresh, &self.path)?;
        self.file = OpenOptions::new().append(true).open(&self.path)?;
        self.file_bytes = bytes.len() as u64;
        Ok(())
    }
}

fn entry(kind: u32, segment: u64, start: u64, end: u64) -> [u8; ENTRY_BYTES] {
    let mut entry = [0; ENTRY_BYTES];
    entry[..4].copy_from_slice(&kind.to_le_bytes());
    entry[8..16].copy_from_slice(&segment.to_le_bytes());
    entry[16..24].copy_from_slice(&start.to_le_bytes());
    entry[24..32].copy_from_slice(&end.to_le_bytes());
    let checksum = checksum(&entry);
    entry[4..8].copy_from_slice(&checksum.to_le_bytes());
    entry
}

fn checksum(entry: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&entry[..4]);
    hasher.update(&entry[8..]);
    hasher.finalize()
}

/// Takes an entry into account; false when it is damaged.
fn apply(progress: &mut HashMap<u64, Progress>, entry: &[u8]) -> bool {
    let word = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().expect("four bytes"));
    let long = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().expect("eight bytes"));
    if word(4) != checksum(entry) {
        return false;
    }
    let (segment, start, end) = (long(8), long(16), long(24));
    let progress = progress.entry(segment).or_default();
    match word(0) {
        BEGUN => progress.begun = Some((start, end)),
        DONE => {
            progress.done = end;
            progress.begun = progress.begun.filter(|(_, begun_end)| *begun_end > end);
        }
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    #[test]
    fn progress_survives_reopening_and_a_damaged_tail() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("ledger");
        let mut ledger = Ledger::open(&path).unwrap();
        ledger.begin(1, 64, 128).unwrap();
        ledger.done(1, 128).unwrap();
        ledger.begin(1, 128, 256).unwrap();
        drop(ledger);
        let expected = Progress {
            done: 128,
            begun: Some((128, 256)),
        };
        assert_eq!(Ledger::open(&path).unwrap().progress(1), expected);

        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend([9; 50]);
        std::fs::write(&path, bytes).unwrap();
        let mut ledger = Ledger::open(&path).unwrap();
        assert_eq!(ledger.progress(1), expected);
        ledger.done(1, 256).unwrap();
        drop(ledger);
        assert_eq!(
            Ledger::open(&path).unwrap().progress(1),
            Progress {
                done: 256,
                begun: None
            }
        );
    }

    #[test]
    fn the_file_stays_small_however_many_blocks_go_by() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("ledger");
        let mut ledger = Ledger::open(&path).unwrap();
        for block in 0..20_000 {
            ledger
                .append(BEGUN, block / 1_000, block, block + 1)
                .unwrap();
            ledger.done(block / 1_000, block + 1).unwrap();
            if block % 1_000 == 999 {
                ledger.forget(block / 1_000);
            }
        }
        ledger.begin(77, 64, 99).unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() <= MAX_FILE_BYTES + ENTRY_BYTES as u64);
        drop(ledger);
        let expected = Progress {
            done: 0,
            begun: Some((64, 99)),
        };
        assert_eq!(Ledger::open(&path).unwrap().progress(77), expected);
    }
}
