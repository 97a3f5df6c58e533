//! The threads that compute: one pool for all engines, one pass at a time.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::{Acquire, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::encoder::Arena;
use crate::error::CpuError;
use crate::seat::Seat;

/// How long a worker that has just computed, or was roused, looks for the next pass before it
/// sleeps: waking it costs 5–50 µs, which back-to-back passes should not pay.
const SPIN: Duration = Duration::from_micros(50);
/// How long it then goes on to look, letting whoever wants its CPU have it each time: of a virtual machine
/// a CPU that has nothing to do is halted, and rousing it costs the caller 20 µs and more of his own time.
const LINGER: Duration = Duration::from_micros(200);
/// Looks at what another thread is to finish before the CPU is offered to others.
const SPINS: u32 = 5_000;

/// Threads that run passes together, and the scratch memory that passes share.
///
/// A pass runs on the calling thread and on as many workers as it wants, up to the pool's size;
/// passes of several callers run one after another. Workers sleep when there is nothing to do.
pub struct ComputePool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held by the pass that runs.
    arena: Mutex<Arena>,
}

impl std::fmt::Debug for ComputePool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ComputePool").field("threads", &self.threads()).finish_non_exhaustive()
    }
}

type Job<'a> = dyn Fn(usize) + Sync + 'a;

struct Shared {
    /// Changes when a job is there or the pool ends.
    epoch: AtomicUsize,
    job: UnsafeCell<Option<*const Job<'static>>>,
    /// Workers in the job, plus [`CLOSED`] when none may enter it.
    entered: AtomicUsize,
    panicked: AtomicBool,
    ends: AtomicBool,
    /// One a worker.
    stations: Vec<Station>,
}

/// What a worker and its caller know of each other.
struct Station {
    sleeping: AtomicBool,
    seat: Seat,
}

/// Set in [`Shared::entered`] between jobs.
const CLOSED: usize = 1 << (usize::BITS - 1);

// SAFETY: `job` is written by the one caller who holds the arena's lock, while `entered` says that
// no worker is in a job and none may enter, and read by workers who have entered.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is to a `Sync` closure that outlives the job.
unsafe impl Send for Shared {}

/// Says whether a thread of the job that runs has panicked, so that others stop waiting for it.
#[derive(Clone, Copy)]
pub(crate) struct Alarm<'a>(&'a AtomicBool);

impl Alarm<'_> {
    /// Waits until `count` is `target`; what was written before it was counted is visible after.
    ///
    /// # Errors
    /// A thread panicked.
    pub(crate) fn wait(self, count: &AtomicUsize, target: usize) -> Result<(), CpuError> {
        let mut spins = 0;
        while count.load(Acquire) != target {
            if self.0.load(Acquire) {
                return Err(CpuError::Panicked);
            }
            pause(&mut spins);
        }
        Ok(())
    }
}

/// Spins for some microseconds; after that other threads are let on the CPU, one of which may be
/// the one that is waited for.
fn pause(spins: &mut u32) {
    *spins += 1;
    if *spins < SPINS {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

impl ComputePool {
    /// A pool of `threads`, the caller's included; 0 means as many as the control group and the
    /// affinity mask give.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn new(threads: usize) -> Result<Arc<Self>, CpuError> {
        let given = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = if threads == 0 { given() } else { threads };
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            entered: AtomicUsize::new(CLOSED),
            panicked: AtomicBool::new(false),
            ends: AtomicBool::new(false),
            stations: (1..threads)
                .map(|_| Station { sleeping: AtomicBool::new(false), seat: Seat::new() })
                .collect(),
        });
        let start = |index: usize| {
            let shared = Arc::clone(&shared);
            let builder = std::thread::Builder::new().name(format!("compute-{index}"));
            builder.spawn(move || work(&shared, index))
        };
        let workers = (1..threads).map(start).collect::<Result<_, _>>()?;
        Ok(Arc::new(Self { shared, workers, arena: Mutex::new(Arena::default()) }))
    }

    /// Threads that a pass can use.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Bytes of scratch memory that passes so far have needed.
    #[must_use]
    pub fn scratch_bytes(&self) -> usize {
        self.arena().bytes()
    }

    /// Wakes the workers for a pass that is about to come: they look for it as after a pass. Not
    /// beside a pass, whose workers it would send to other CPUs.
    pub fn rouse(&self) {
        for (worker, station) in self.workers.iter().zip(&self.shared.stations) {
            station.seat.keep_off_caller();
            if station.sleeping.swap(false, SeqCst) {
                worker.thread().unpark();
            }
        }
    }

    /// The scratch memory; whoever holds it may [`run`](Self::run).
    pub(crate) fn arena(&self) -> MutexGuard<'_, Arena> {
        self.arena.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `job` on the calling thread, as number 0, and on up to `threads - 1` workers, each with
    /// its number; the arena's guard proves that no other job runs.
    ///
    /// A worker that is slow to wake may come late or never, so a job hands out its work piece by
    /// piece, and is over when the caller returns from it.
    pub(crate) fn run(
        &self,
        _pass: &mut Arena,
        threads: usize,
        job: &(dyn Fn(Alarm<'_>, usize) + Sync),
    ) -> Result<(), CpuError> {
        let shared = &*self.shared;
        let alarm = Alarm(&shared.panicked);
        shared.panicked.store(false, SeqCst);
        let workers = threads.clamp(1, self.threads()) - 1;
        let each = |thread: usize| {
            if thread <= workers && catch_unwind(AssertUnwindSafe(|| job(alarm, thread))).is_err() {
                shared.panicked.store(true, SeqCst);
            }
        };
        if workers > 0 {
            let each: *const Job<'_> = &each;
            // SAFETY: no worker is in a job: the one before waited for that after it was closed.
            // The lifetime is extended only until this one is closed and left, below.
            unsafe {
                *shared.job.get() =
                    Some(std::mem::transmute::<*const Job<'_>, *const Job<'static>>(each));
            }
            // A worker may just be finding it closed, and its count must not be lost.
            shared.entered.fetch_and(!CLOSED, SeqCst);
            shared.epoch.fetch_add(1, SeqCst);
            for (worker, station) in self.workers.iter().zip(&shared.stations).take(workers) {
                station.seat.keep_off_caller();
                if station.sleeping.swap(false, SeqCst) {
                    worker.thread().unpark();
                }
            }
        }
        each(0);
        if workers > 0 {
            shared.entered.fetch_or(CLOSED, SeqCst);
            let mut spins = 0;
            while shared.entered.load(SeqCst) != CLOSED {
                pause(&mut spins);
            }
        }
        if shared.panicked.load(SeqCst) { Err(CpuError::Panicked) } else { Ok(()) }
    }
}

impl Drop for ComputePool {
    fn drop(&mut self) {
        self.shared.ends.store(true, SeqCst);
        self.shared.epoch.fetch_add(1, SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches panics of its jobs, so it has ended well.
            let _ = worker.join();
        }
    }
}

/// A worker's life.
fn work(shared: &Shared, index: usize) {
    let Station { sleeping, seat } = &shared.stations[index - 1];
    seat.take();
    let mut seen = 0;
    loop {
        let mut began = Instant::now();
        let mut looks = 0_u32;
        while shared.epoch.load(SeqCst) == seen {
            looks = looks.wrapping_add(1);
            std::hint::spin_loop();
            if !looks.is_multiple_of(64) {
                continue;
            }
            let looked = began.elapsed();
            if looked > SPIN + LINGER {
                sleeping.store(true, SeqCst);
                // The epoch is read again after the flag is set, so no job is slept through.
                while shared.epoch.load(SeqCst) == seen && sleeping.load(SeqCst) {
                    std::thread::park();
                }
                sleeping.store(false, SeqCst);
                began = Instant::now();
            } else if looked > SPIN {
                std::thread::yield_now();
            }
        }
        seen = shared.epoch.load(SeqCst);
        if shared.ends.load(SeqCst) {
            return;
        }
        // Entering and looking for the mark are one step, so a closed job is never run. Entering a
        // later job than the one of `seen` is well: there is nothing left to do the second time.
        if shared.entered.fetch_add(1, SeqCst) & CLOSED == 0 {
            // SAFETY: the caller stored the job before it opened it, and keeps it alive until this
            // worker has left.
            if let Some(job) = unsafe { *shared.job.get() } {
                // SAFETY: as above.
                unsafe { (*job)(index) };
            }
        }
        shared.entered.fetch_sub(1, SeqCst);
    }
}
