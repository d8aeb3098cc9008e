//! One memory-mapped spool file: room is reserved, filled, published, and read once it is whole.
//! The picture of the format is in `mod.rs`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use memmap2::MmapRaw;

use super::{BlockLimits, Folder};

pub(crate) const HEADER_BYTES: usize = 64;
const MAGIC: &[u8; 8] = b"aigspool";
const VERSION: u32 = 1;
const FRAME_HEADER_BYTES: usize = 16;
const ALIGNMENT: usize = 16;

const FREE: u32 = 0;
const RESERVED: u32 = u32::from_le_bytes(*b"RSVD");
const DONE: u32 = u32::from_le_bytes(*b"DONE");

pub(crate) struct Segment {
    pub path: PathBuf,
    pub number: u64,
    pub folder: Arc<Folder>,
    map: MmapRaw,
    /// Where the next frame goes. Moves under the spool's lock only.
    end: AtomicUsize,
    records: AtomicU64,
}

/// What stands at an offset.
pub(crate) enum Slot<'a> {
    Done(Payload<'a>),
    /// Room taken; in a live segment the bytes are on their way, in a dead one they never came.
    Reserved,
    /// Free room, or bytes that are no frame.
    Nothing,
}

/// The bytes of a whole frame, not yet checked.
pub(crate) struct Payload<'a> {
    bytes: &'a [u8],
    meta_bytes: usize,
    checksum: u32,
}

impl<'a> Payload<'a> {
    /// Meta and bodies, or `None` when the bytes are not the ones that were written.
    pub fn checked(self) -> Option<(&'a [u8], &'a [u8])> {
        let is_whole = crc32fast::hash(self.bytes) == self.checksum;
        is_whole.then_some(())?;
        self.bytes.split_at_checked(self.meta_bytes)
    }
}

/// Where a block may end.
pub(crate) struct Cut {
    pub end: usize,
    pub records: u64,
    pub torn: u64,
    pub is_full: bool,
}

impl Segment {
    /// Makes an empty segment with all its blocks allocated, so that a full disk is an error here
    /// and not a fault in the middle of a copy. The folder's entry for it is not synced here.
    pub fn create(folder: &Arc<Folder>, number: u64, capacity: u64) -> io::Result<Segment> {
        let path = folder.path.join(format!("{number:08}.seg"));
        let made =
            Self::create_file(&path, number, capacity).and_then(|file| MmapRaw::map_raw(&file));
        match made {
            Ok(map) => Ok(Segment {
                path,
                number,
                folder: folder.clone(),
                map,
                end: AtomicUsize::new(HEADER_BYTES),
                records: AtomicU64::new(0),
            }),
            Err(error) => {
                let _ = std::fs::remove_file(&path); // half a segment helps nobody
                Err(error)
            }
        }
    }

    fn create_file(path: &Path, number: u64, capacity: u64) -> io::Result<File> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, capacity) {
            Ok(()) => {}
            // A file system without fallocate: write the zeros.
            Err(rustix::io::Errno::OPNOTSUPP) => {
                io::copy(&mut io::Read::take(io::repeat(0), capacity), &mut file)?;
                io::Seek::rewind(&mut file)?;
            }
            Err(error) => return Err(error.into()),
        }
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[16..24].copy_from_slice(&number.to_le_bytes());
        file.write_all(&header)?;
        Ok(file)
    }

    /// Opens a segment that a dead process left, and finds where its frames end.
    pub fn open(folder: &Arc<Folder>, path: PathBuf) -> io::Result<Segment> {
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        if file.metadata()?.len() < HEADER_BYTES as u64 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "shorter than a segment header",
            ));
        }
        let map = MmapRaw::map_raw(&file)?;
        let mut segment = Segment {
            path,
            number: 0,
            folder: folder.clone(),
            map,
            end: AtomicUsize::new(HEADER_BYTES),
            records: AtomicU64::new(0),
        };
        let header = segment.bytes(0, HEADER_BYTES);
        let version = u32::from_le_bytes(header[8..12].try_into().expect("four bytes"));
        let is_unwritten = header.iter().all(|byte| *byte == 0); // died while making it: no frames
        if !is_unwritten && (&header[..8] != MAGIC || version != VERSION) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "not a spool segment of this version",
            ));
        }
        segment.number = u64::from_le_bytes(header[16..24].try_into().expect("eight bytes"));
        let (end, records) = segment.walk(usize::MAX);
        segment.end.store(end, Ordering::Release);
        segment.records.store(records, Ordering::Release);
        Ok(segment)
    }

    /// Whole frames that begin before `offset`.
    pub fn records_before(&self, offset: usize) -> u64 {
        self.walk(offset).1
    }

    /// Follows the frames up to `limit`: where it came to, and how many of them are whole.
    fn walk(&self, limit: usize) -> (usize, u64) {
        let mut offset = HEADER_BYTES;
        let mut records = 0;
        while offset < limit {
            match self.slot(offset) {
                (Slot::Nothing, _) => break,
                (Slot::Done(_), next) => {
                    records += 1;
                    offset = next;
                }
                (Slot::Reserved, next) => offset = next,
            }
        }
        (offset, records)
    }

    /// File size that takes one frame of so many payload bytes.
    pub fn capacity_for(payload_bytes: usize) -> u64 {
        (HEADER_BYTES + frame_bytes(payload_bytes)) as u64
    }

    pub fn capacity(&self) -> u64 {
        self.map.len() as u64
    }

    pub fn end(&self) -> usize {
        self.end.load(Ordering::Acquire)
    }

    /// Whole frames before `end`; those still being copied are counted already.
    pub fn records(&self) -> u64 {
        self.records.load(Ordering::Acquire)
    }

    /// Takes room for a frame; `None` when there is not enough. Call under the spool's lock.
    pub fn reserve(&self, payload_bytes: usize, meta_bytes: usize) -> Option<usize> {
        let offset = self.end.load(Ordering::Relaxed);
        let end = offset.checked_add(frame_bytes(payload_bytes))?;
        if end > self.map.len() {
            return None;
        }
        self.word(offset)
            .store((payload_bytes as u32).to_le(), Ordering::Relaxed);
        self.word(offset + 4)
            .store((meta_bytes as u32).to_le(), Ordering::Relaxed);
        self.word(offset + 12)
            .store(RESERVED.to_le(), Ordering::Release);
        self.records.fetch_add(1, Ordering::Relaxed);
        self.end.store(end, Ordering::Release);
        Some(offset)
    }

    /// Copies the bytes into reserved room and publishes the frame. Once for each reserved offset.
    pub fn fill(&self, offset: usize, meta: &[u8], bodies: &[&[u8]]) {
        debug_assert_eq!(
            self.word(offset + 12).load(Ordering::Relaxed),
            RESERVED.to_le()
        );
        let mut checksum = crc32fast::Hasher::new();
        let mut at = offset + FRAME_HEADER_BYTES;
        for part in std::iter::once(&meta).chain(bodies) {
            assert!(
                at + part.len() <= self.map.len(),
                "the frame was reserved with its full length"
            );
            // SAFETY: the target lies within the mapping (asserted) and within room that `reserve`
            // gave to this caller alone; readers do not look at it before its state says DONE.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    part.as_ptr(),
                    self.map.as_mut_ptr().add(at),
                    part.len(),
                )
            };
            checksum.update(part);
            at += part.len();
        }
        self.word(offset + 8)
            .store(checksum.finalize().to_le(), Ordering::Relaxed);
        self.word(offset + 12)
            .store(DONE.to_le(), Ordering::Release);
    }

    /// What stands at `offset`, and where the next frame would begin.
    pub fn slot(&self, offset: usize) -> (Slot<'_>, usize) {
        if offset + FRAME_HEADER_BYTES > self.map.len() {
            return (Slot::Nothing, offset);
        }
        let state = u32::from_le(self.word(offset + 12).load(Ordering::Acquire));
        if state == FREE {
            return (Slot::Nothing, offset);
        }
        let payload_bytes = u32::from_le(self.word(offset).load(Ordering::Relaxed)) as usize;
        let next = offset + frame_bytes(payload_bytes);
        if next > self.map.len() {
            return (Slot::Nothing, offset); // a damaged length: nothing behind it can be found
        }
        let slot = match state {
            DONE => Slot::Done(Payload {
                bytes: self.bytes(offset + FRAME_HEADER_BYTES, payload_bytes),
                meta_bytes: u32::from_le(self.word(offset + 4).load(Ordering::Relaxed)) as usize,
                checksum: u32::from_le(self.word(offset + 8).load(Ordering::Relaxed)),
            }),
            RESERVED => Slot::Reserved,
            _ => return (Slot::Nothing, offset),
        };
        (slot, next)
    }

    /// Finds the end of a block from `start`: at `begun_end` when a dead process had cut it there,
    /// else at the limits. A frame still being copied ends the block before it.
    pub fn cut(&self, start: usize, begun_end: Option<usize>, limits: BlockLimits) -> Cut {
        let end = begun_end.unwrap_or(usize::MAX).min(self.end());
        let mut cut = Cut {
            end: start,
            records: 0,
            torn: 0,
            is_full: false,
        };
        while cut.end < end {
            let (slot, next) = self.slot(cut.end);
            match slot {
                Slot::Done(_) => {
                    let is_past_bytes = (next - start) as u64 > limits.max_bytes && cut.records > 0;
                    if begun_end.is_none() && (is_past_bytes || cut.records == limits.max_records) {
                        cut.is_full = true;
                        break;
                    }
                    cut.records += 1;
                }
                Slot::Reserved if self.folder.is_own => break,
                Slot::Reserved => cut.torn += 1,
                Slot::Nothing => break,
            }
            cut.end = next;
        }
        cut.is_full |= begun_end.is_some();
        cut
    }

    /// Writes the bytes of a range to the disk.
    pub fn sync(&self, from: usize, to: usize) -> io::Result<()> {
        self.map.flush_range(from, to - from)
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(
            offset.is_multiple_of(4) && offset + 4 <= self.map.len(),
            "frame headers lie within the mapping"
        );
        // SAFETY: in bounds and aligned (asserted; the mapping begins on a page). Header words are
        // only ever accessed as atomics, and the mapping lives as long as `self`.
        unsafe { AtomicU32::from_ptr(self.map.as_mut_ptr().add(offset).cast()) }
    }

    fn bytes(&self, offset: usize, length: usize) -> &[u8] {
        assert!(
            offset + length <= self.map.len(),
            "frames lie within the mapping"
        );
        // SAFETY: in bounds (asserted). Callers ask for the file header, written before the mapping
        // was made, or for a payload whose state is DONE; neither is written again. Another process
        // changing the file under our lock would break this, as with any mapping of a file.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(offset), length) }
    }
}

fn frame_bytes(payload_bytes: usize) -> usize {
    (FRAME_HEADER_BYTES + payload_bytes).next_multiple_of(ALIGNMENT)
}
