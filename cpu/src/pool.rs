//! The threads that compute: one pool for all engines, one pass at a time.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::{self, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::encoder::Arena;
use crate::error::CpuError;

/// How long a worker that has just computed looks for the next pass before it sleeps: waking it
/// costs 5–50 µs, which back-to-back passes should not pay.
const SPIN: Duration = Duration::from_micros(50);
/// Looks at a barrier before the thread offers its CPU to others.
const BARRIER_SPINS: u32 = 20_000;
const TEAM_BITS: u32 = 16;

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

type Job<'a> = dyn Fn(&Team<'_>, usize) + Sync + 'a;

struct Shared {
    /// Jobs begun so far, and in the low [`TEAM_BITS`] the threads of the last one. One word, so
    /// that a worker that wakes late never takes one job's team for another's.
    epoch: AtomicU64,
    job: UnsafeCell<Option<*const Job<'static>>>,
    /// Workers of the job that have not finished it.
    running: AtomicUsize,
    panicked: AtomicBool,
    ends: AtomicBool,
    sleeping: Vec<AtomicBool>,
    barrier: Barrier,
}

// SAFETY: `job` is written by the one caller who holds the arena's lock, while no worker runs, and
// read by workers after they have seen the new epoch (SeqCst), before `running` reaches 0.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is to a `Sync` closure that outlives the job.
unsafe impl Send for Shared {}

#[derive(Default)]
struct Barrier {
    arrived: AtomicUsize,
    round: AtomicUsize,
}

/// The threads of one job.
pub(crate) struct Team<'a> {
    shared: &'a Shared,
    pub(crate) threads: usize,
}

impl Team<'_> {
    /// Waits for the job's other threads; what they wrote before is visible after.
    ///
    /// # Errors
    /// One of them panicked.
    pub(crate) fn wait(&self) -> Result<(), CpuError> {
        if self.threads == 1 {
            return Ok(());
        }
        let barrier = &self.shared.barrier;
        let round = barrier.round.load(Ordering::Acquire);
        if barrier.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.threads {
            barrier.arrived.store(0, Ordering::Relaxed);
            barrier.round.store(round.wrapping_add(1), Ordering::Release);
            return Ok(());
        }
        let mut spins = 0;
        while barrier.round.load(Ordering::Acquire) == round {
            if self.shared.panicked.load(Ordering::Acquire) {
                return Err(CpuError::Panicked);
            }
            spins += 1;
            if spins < BARRIER_SPINS {
                std::hint::spin_loop();
            } else {
                // The other thread is slow or has no CPU: give it this one.
                std::thread::yield_now();
            }
        }
        Ok(())
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
        let threads = if threads == 0 { given() } else { threads }.min((1 << TEAM_BITS) - 1);
        let shared = Arc::new(Shared {
            epoch: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            running: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            ends: AtomicBool::new(false),
            sleeping: (1..threads).map(|_| AtomicBool::new(false)).collect(),
            barrier: Barrier::default(),
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

    /// The scratch memory; whoever holds it may [`run`](Self::run).
    pub(crate) fn arena(&self) -> MutexGuard<'_, Arena> {
        self.arena.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `job` on `threads` threads, each with its number; the arena's guard proves that no
    /// other job runs.
    pub(crate) fn run(
        &self,
        _pass: &mut Arena,
        threads: usize,
        job: &(dyn Fn(&Team<'_>, usize) + Sync),
    ) -> Result<(), CpuError> {
        let threads = threads.clamp(1, self.threads());
        let shared = &*self.shared;
        let team = Team { shared, threads };
        if threads == 1 {
            let done = catch_unwind(AssertUnwindSafe(|| job(&team, 0)));
            return done.map_err(|_| CpuError::Panicked);
        }
        shared.panicked.store(false, SeqCst);
        shared.barrier.arrived.store(0, SeqCst);
        shared.running.store(threads - 1, SeqCst);
        // SAFETY: no worker reads `job` now: those of the job before have left it (`running` was 0)
        // and others read it only after the epoch below names a team that they are in. The
        // lifetime is extended only until `running` is 0 again, which this function waits for.
        unsafe {
            *shared.job.get() = Some(std::mem::transmute::<*const Job<'_>, *const Job<'static>>(job));
        }
        let jobs = (shared.epoch.load(SeqCst) >> TEAM_BITS).wrapping_add(1);
        shared.epoch.store(jobs << TEAM_BITS | threads as u64, SeqCst);
        for (worker, sleeping) in self.workers.iter().zip(&shared.sleeping).take(threads - 1) {
            if sleeping.swap(false, SeqCst) {
                worker.thread().unpark();
            }
        }
        let own = catch_unwind(AssertUnwindSafe(|| job(&team, 0)));
        if own.is_err() {
            shared.panicked.store(true, SeqCst);
        }
        let mut spins = 0_u32;
        while shared.running.load(SeqCst) != 0 {
            spins += 1;
            if spins < BARRIER_SPINS {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
        if shared.panicked.load(SeqCst) { Err(CpuError::Panicked) } else { Ok(()) }
    }
}

impl Drop for ComputePool {
    fn drop(&mut self) {
        self.shared.ends.store(true, SeqCst);
        self.shared.epoch.fetch_add(1 << TEAM_BITS, SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches panics of its jobs, so it has ended well.
            let _ = worker.join();
        }
    }
}

/// A worker's life.
fn work(shared: &Shared, index: usize) {
    let sleeping = &shared.sleeping[index - 1];
    let mut seen = 0;
    loop {
        let began = Instant::now();
        let mut looks = 0_u32;
        while shared.epoch.load(SeqCst) == seen {
            looks = looks.wrapping_add(1);
            std::hint::spin_loop();
            if looks % 64 == 0 && began.elapsed() > SPIN {
                sleeping.store(true, SeqCst);
                // The epoch is read again after the flag is set, so no job is slept through.
                while shared.epoch.load(SeqCst) == seen && sleeping.load(SeqCst) {
                    std::thread::park();
                }
                sleeping.store(false, SeqCst);
            }
        }
        seen = shared.epoch.load(SeqCst);
        if shared.ends.load(SeqCst) {
            return;
        }
        let threads = (seen & ((1 << TEAM_BITS) - 1)) as usize;
        if index >= threads {
            continue;
        }
        // SAFETY: the caller stored the job before it changed the epoch, and keeps it alive until
        // `running` is 0, which this worker of the job's team is counted in.
        let job = unsafe { *shared.job.get() };
        if let Some(job) = job {
            let team = Team { shared, threads };
            // SAFETY: as above.
            let done = catch_unwind(AssertUnwindSafe(|| unsafe { (*job)(&team, index) }));
            if done.is_err() {
                shared.panicked.store(true, SeqCst);
            }
        }
        shared.running.fetch_sub(1, SeqCst);
    }
}
