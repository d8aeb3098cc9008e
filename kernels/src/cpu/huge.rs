//! Memory for weights, on pages as large as the system gives.
//!
//! A step reads every weight once, so with pages of 4 KiB it pays a translation for each 64 lines: here, on a virtual machine
//! of two cores, 27 GB/s were read that way and 39 GB/s from pages of 2 MiB. Matrices are smaller than such a page, so they
//! share slabs; a slab goes back to the system with the last matrix in it. Adapters come and go, so theirs are as small as a
//! page: one that is gone leaves behind at most the two it shared with its neighbours. Where large pages are not to be had, nothing
//! but speed is lost.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Bytes of a slab that weights share; what needs more than a fourth gets its own.
const SLAB_BYTES: usize = 32 << 20;
/// Of slabs: the size of a large page on x86-64 and most others.
const PAGE_BYTES: usize = 2 << 20;
/// Of buffers in a slab: a cache line.
const LINE_BYTES: usize = 64;

/// Types that may begin as zero bytes and need no drop.
///
/// # Safety
/// All bits zero is a valid value, and the alignment is at most [`LINE_BYTES`].
pub(crate) unsafe trait Plain: Copy {}

/// A run of values that lives in a slab.
pub(crate) struct Buffer<T> {
    start: *mut T,
    len: usize,
    _slab: Arc<Slab>,
    owns: PhantomData<T>,
}

// SAFETY: a buffer is the only owner of its part of the slab, as a `Vec<T>` is of its memory.
unsafe impl<T: Send> Send for Buffer<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Buffer<T> {}

impl<T: Plain> Buffer<T> {
    /// `len` values of zero bytes.
    pub(crate) fn zeroed(len: usize) -> Buffer<T> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        Buffer::placed(len, &mut open, SLAB_BYTES)
    }

    /// The same for what will not stay as long as the model: in small slabs that only this thread fills.
    pub(crate) fn zeroed_for_a_while(len: usize) -> Buffer<T> {
        OPEN_HERE.with_borrow_mut(|open| Buffer::placed(len, open, PAGE_BYTES))
    }

    fn placed(len: usize, open: &mut Open, slab_bytes: usize) -> Buffer<T> {
        let bytes = size_of::<T>()
            .checked_mul(len)
            .filter(|bytes| *bytes <= isize::MAX as usize - SLAB_BYTES)
            .expect("a matrix of a loaded file is smaller than the address space");
        let (slab, start) = place(bytes, open, slab_bytes);
        Buffer {
            start: start.cast(),
            len,
            _slab: slab,
            owns: PhantomData,
        }
    }
}

impl<T> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `place` gave this buffer `len` zeroed values of its own, alive as long as the slab it holds.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl<T> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

/// The slab that small buffers are put into, and how much of it is taken.
type Open = (Weak<Slab>, usize);

static OPEN: Mutex<Open> = Mutex::new((Weak::new(), 0));

thread_local! {
    static OPEN_HERE: RefCell<Open> = const { RefCell::new((Weak::new(), 0)) };
}

/// A slab with `bytes` of its own for the caller, zero and aligned to a cache line.
fn place(bytes: usize, open: &mut Open, slab_bytes: usize) -> (Arc<Slab>, *mut u8) {
    if bytes > slab_bytes / 4 {
        let slab = Arc::new(Slab::new(bytes));
        let start = slab.start;
        return (slab, start);
    }
    let (slab, used) = match open.0.upgrade() {
        Some(slab) if open.1 + bytes <= slab_bytes => (slab, open.1),
        _ => {
            let slab = Arc::new(Slab::new(slab_bytes));
            open.0 = Arc::downgrade(&slab);
            (slab, 0)
        }
    };
    open.1 = (used + bytes).next_multiple_of(LINE_BYTES);
    // SAFETY: `used + bytes` lies inside the slab, and nobody else was or will be given this part of it.
    let start = unsafe { slab.start.add(used) };
    (slab, start)
}

/// Zeroed memory from the system; pages become real when they are first touched.
struct Slab {
    /// On the boundary of a large page.
    start: *mut u8,
    _mapping: Mapping,
}

// SAFETY: a slab is an address and a size; buffers hand out disjoint parts of it.
unsafe impl Send for Slab {}
// SAFETY: as above.
unsafe impl Sync for Slab {}

impl Slab {
    fn new(bytes: usize) -> Slab {
        // A page more, since the system begins a mapping where it likes; what lies before the boundary is never touched.
        let mapping = Mapping::new(bytes + PAGE_BYTES);
        let offset = mapping.start.align_offset(PAGE_BYTES).min(PAGE_BYTES);
        // SAFETY: at most the page the mapping is longer.
        let start = unsafe { mapping.start.add(offset) };
        #[cfg(target_os = "linux")]
        // SAFETY: a hint about memory of our own; it can only fail, harmlessly.
        unsafe {
            libc::madvise(start.cast(), bytes, libc::MADV_HUGEPAGE);
        }
        Slab {
            start,
            _mapping: mapping,
        }
    }
}

#[cfg(unix)]
struct Mapping {
    start: *mut u8,
    bytes: usize,
}

#[cfg(unix)]
impl Mapping {
    fn new(bytes: usize) -> Mapping {
        // SAFETY: a new private mapping, of no file, wherever the system has room.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANON,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            std::alloc::handle_alloc_error(std::alloc::Layout::new::<[u8; SLAB_BYTES]>());
        }
        Mapping {
            start: start.cast(),
            bytes,
        }
    }
}

#[cfg(unix)]
impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; the last buffer in it is gone.
        unsafe {
            libc::munmap(self.start.cast(), self.bytes);
        }
    }
}

/// Other systems give it from the allocator.
#[cfg(not(unix))]
struct Mapping {
    start: *mut u8,
    layout: std::alloc::Layout,
}

#[cfg(not(unix))]
impl Mapping {
    fn new(bytes: usize) -> Mapping {
        let layout = std::alloc::Layout::from_size_align(bytes, LINE_BYTES)
            .expect("the caller checked the size");
        // SAFETY: the size is not zero: the caller adds a page.
        let start = unsafe { std::alloc::alloc_zeroed(layout) };
        if start.is_null() {
            std::alloc::handle_alloc_error(layout);
        }
        Mapping { start, layout }
    }
}

#[cfg(not(unix))]
impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout; the last buffer in it is gone.
        unsafe { std::alloc::dealloc(self.start, self.layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // SAFETY: a number.
    unsafe impl Plain for u64 {}

    #[test]
    fn buffers_are_zero_aligned_and_do_not_overlap() {
        let mut buffers: Vec<Buffer<u64>> =
            [3, 0, 100_000, 700_000, 2_000_000, 1, 900_000, 900_000]
                .into_iter()
                .map(Buffer::zeroed)
                .collect();
        for (i, buffer) in buffers.iter_mut().enumerate() {
            assert!(buffer.iter().all(|value| *value == 0));
            assert!(buffer.as_ptr().addr().is_multiple_of(LINE_BYTES));
            buffer.fill(i as u64 + 1);
        }
        for (i, buffer) in buffers.iter().enumerate() {
            assert!(buffer.iter().all(|value| *value == i as u64 + 1));
        }
    }

    #[test]
    fn buffers_of_a_thread_share_small_slabs_of_their_own() {
        let mut buffers: Vec<Buffer<u64>> = [1000, 70_000, 1000, 60_000, 60_000, 60_000, 60_000]
            .into_iter()
            .map(Buffer::zeroed_for_a_while)
            .collect();
        let slab = |buffer: &Buffer<u64>| Arc::as_ptr(&buffer._slab);
        assert_eq!(slab(&buffers[0]), slab(&buffers[2]));
        assert_ne!(slab(&buffers[0]), slab(&buffers[1]), "above a fourth");
        let elsewhere = std::thread::spawn(|| Buffer::<u64>::zeroed_for_a_while(1000));
        let elsewhere = elsewhere.join().expect("a buffer");
        assert_ne!(slab(&buffers[0]), slab(&elsewhere));
        for (i, buffer) in buffers.iter_mut().enumerate() {
            assert!(buffer.iter().all(|value| *value == 0));
            buffer.fill(i as u64 + 1);
        }
        for (i, buffer) in buffers.iter().enumerate() {
            assert!(buffer.iter().all(|value| *value == i as u64 + 1));
        }
        let first = Arc::downgrade(&buffers[0]._slab);
        drop(buffers);
        assert!(first.upgrade().is_none(), "gone with the last buffer in it");
    }

    #[test]
    fn a_slab_outlives_the_buffers_that_leave_before_others() {
        let first: Buffer<u64> = Buffer::zeroed(10);
        let mut second: Buffer<u64> = Buffer::zeroed(10);
        drop(first);
        second[9] = 7;
        assert_eq!(second.iter().sum::<u64>(), 7);
    }
}
