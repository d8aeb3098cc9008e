//! A few threads that share the items of one op at a time.
//!
//! Items are handed out one by one, and a worker that is not running does not hold anything up: the
//! caller works through the items itself and waits only for workers that are in the middle of one. That matters
//! on a machine the proxy uses too, where a worker may lose its core for milliseconds. Which thread does
//! an item never changes its result.
//!
//! `state` is one word: `generation << 32 | open << 31 | workers inside`. A worker enters by a
//! compare-and-swap that fails once the job is closed, so a closed job with nobody inside may be forgotten.

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long an idle worker spins before it sleeps: about the gap between two ops of a step. Longer would
/// burn the proxy's cores between steps, shorter would pay a wake-up per op.
const SPIN: Duration = Duration::from_micros(30);

const OPEN: u64 = 1 << 31;
const INSIDE: u64 = OPEN - 1;

type Job = dyn Fn(usize) + Sync;

struct Shared {
    state: AtomicU64,
    next: AtomicUsize,
    /// The open job and its number of items. Written only while closed and empty.
    job: UnsafeCell<Option<(*const Job, usize)>>,
    parked: Vec<AtomicBool>,
    stop: AtomicBool,
    /// An item panicked on a worker; the caller panics in its stead.
    failed: AtomicBool,
}

// SAFETY: `job` is written by the pool's owner only while `state` is closed with nobody inside, and read only by
// workers that entered after the release store that opened it. The closure behind it is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: the raw pointer is only followed while the caller of `run` keeps the closure alive.
unsafe impl Send for Shared {}

/// The worker threads. One owner runs one job at a time.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// `run` may not be entered by two threads at once, so a pool is not shared.
    not_sync: PhantomData<UnsafeCell<()>>,
}

impl Pool {
    /// A pool of `threads`, the calling one included; fewer when the system gives no more.
    pub fn new(threads: usize) -> Pool {
        Pool::with_setup(threads, || {})
    }

    /// As [`Pool::new`], running `setup` first on each new thread (its priority, say).
    pub fn with_setup(threads: usize, setup: fn()) -> Pool {
        let helpers = threads.max(1) - 1;
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            next: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            parked: (0..helpers).map(|_| AtomicBool::new(false)).collect(),
            stop: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        });
        let workers = (0..helpers)
            .filter_map(|index| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
                    .name(format!("engine-{index}"))
                    .spawn(move || {
                        setup();
                        work(&shared, index);
                    })
                    .ok()
            })
            .collect();
        Pool {
            shared,
            workers,
            not_sync: PhantomData,
        }
    }

    /// Threads that work on a job, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `job` once for every item below `items`, on all threads; returns when all are done.
    ///
    /// # Panics
    /// When an item panics, on whichever thread.
    pub fn run(&self, items: usize, job: &(dyn Fn(usize) + Sync)) {
        if items <= 1 || self.workers.is_empty() {
            (0..items).for_each(job);
            return;
        }
        // SAFETY: only the lifetime changes. `closing` below leaves no worker inside the job before this
        // function ends, by return or by panic, so the pointer is never followed after that.
        let job_pointer: *const Job =
            unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const Job>(job) };
        let shared = &*self.shared;
        // SAFETY: the job is closed and empty (constructed so, or left so by `closing`), hence nobody reads it.
        unsafe { *shared.job.get() = Some((job_pointer, items)) };
        shared.next.store(0, Ordering::Relaxed);
        let generation = (shared.state.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        shared
            .state
            .store(generation << 32 | OPEN, Ordering::SeqCst);
        for (parked, worker) in shared.parked.iter().zip(&self.workers) {
            if parked.load(Ordering::SeqCst) && parked.swap(false, Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        let closing = Closing(shared);
        take_items(shared, items, job);
        drop(closing);
        if shared.failed.swap(false, Ordering::Relaxed) {
            panic!("an item of a kernel job panicked on a worker thread");
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches its items' panics, so joining cannot fail in a way that matters.
            let _ = worker.join();
        }
    }
}

/// Closes the job and waits for the workers inside, also when the caller's own item panicked.
struct Closing<'a>(&'a Shared);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.fetch_and(!OPEN, Ordering::AcqRel) & !OPEN;
        let mut spins = 0u32;
        while state & INSIDE != 0 {
            spins += 1;
            // A worker inside may have lost its core: let it have ours.
            if spins > 2000 {
                std::thread::yield_now()
            } else {
                std::hint::spin_loop()
            }
            state = self.0.state.load(Ordering::Acquire);
        }
    }
}

fn take_items(shared: &Shared, items: usize, job: &(dyn Fn(usize) + Sync)) {
    loop {
        let item = shared.next.fetch_add(1, Ordering::Relaxed);
        if item >= items {
            return;
        }
        job(item);
    }
}

fn work(shared: &Shared, index: usize) {
    let mut last_generation = 0;
    let mut idle_since: Option<Instant> = None;
    while !shared.stop.load(Ordering::Relaxed) {
        let state = shared.state.load(Ordering::SeqCst);
        let generation = state >> 32;
        let is_new = state & OPEN != 0 && generation != last_generation;
        if is_new {
            let entered = shared.state.compare_exchange(
                state,
                state + 1,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            if entered.is_err() {
                continue;
            }
            last_generation = generation;
            // SAFETY: we are inside an open job, so the owner waits for us before it changes the cell.
            let (job, items) = unsafe { *shared.job.get() }.expect("an open job is set");
            // SAFETY: the caller of `run` keeps the closure alive until nobody is inside.
            let job = unsafe { &*job };
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                take_items(shared, items, job);
            }));
            if result.is_err() {
                shared.failed.store(true, Ordering::Relaxed);
            }
            shared.state.fetch_sub(1, Ordering::AcqRel);
            idle_since = None;
            continue;
        }
        let since = *idle_since.get_or_insert_with(Instant::now);
        if since.elapsed() < SPIN {
            std::hint::spin_loop();
            continue;
        }
        shared.parked[index].store(true, Ordering::SeqCst);
        // Look again after saying so: the owner either sees `parked`, or we see its job.
        let state = shared.state.load(Ordering::SeqCst);
        let missed = state & OPEN != 0 && state >> 32 != last_generation;
        if !missed && !shared.stop.load(Ordering::SeqCst) {
            std::thread::park();
        }
        shared.parked[index].store(false, Ordering::SeqCst);
        idle_since = None;
    }
}

/// A slice that the items of one job write disjoint parts of.
pub(crate) struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: handing out parts is `unsafe` and promises they do not overlap; then it is `&mut T` split among threads.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Disjoint<'a, T> {
        Disjoint {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            borrow: PhantomData,
        }
    }

    /// # Safety
    /// No other part handed out and still in use may overlap this one.
    pub(crate) unsafe fn slice(&self, offset: usize, len: usize) -> &'a mut [T] {
        assert!(
            offset <= self.len && len <= self.len - offset,
            "a part outside its slice"
        );
        // SAFETY: inside the borrowed slice by the assertion, not overlapping by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(offset), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_done_exactly_once_over_many_jobs() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads);
            for items in [0, 1, 2, 3, 17, 200] {
                for _ in 0..200 {
                    let counts: Vec<AtomicUsize> =
                        (0..items).map(|_| AtomicUsize::new(0)).collect();
                    pool.run(items, &|item| {
                        counts[item].fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(
                        counts
                            .iter()
                            .all(|count| count.load(Ordering::Relaxed) == 1)
                    );
                }
            }
        }
    }

    #[test]
    fn a_panic_in_an_item_reaches_the_caller_and_the_pool_goes_on() {
        let pool = Pool::new(3);
        for bad in 0..8 {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                pool.run(8, &|item| assert_ne!(item, bad, "on purpose"));
            }));
            assert!(result.is_err());
            let done = AtomicUsize::new(0);
            pool.run(8, &|_| {
                done.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(done.load(Ordering::Relaxed), 8);
        }
    }
}
