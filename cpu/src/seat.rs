//! Which CPUs a worker may run on: not that of the thread whose pass it shares.
//!
//! The system wakes a thread where it thinks best, which may be the CPU of the thread that woke it
//! if another process has the others just then; and there it stays, as a queue of two is no reason
//! to move for some milliseconds. The two would then take turns for passes on end.

#[cfg(target_os = "linux")]
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::Relaxed};

/// A worker's place.
#[cfg(target_os = "linux")]
#[derive(Debug)]
pub(crate) struct Seat {
    /// Of the worker; 0 before it runs.
    thread_id: AtomicI32,
    /// The CPU that it keeps off.
    kept_off: AtomicUsize,
}

#[cfg(target_os = "linux")]
impl Seat {
    pub(crate) fn new() -> Self {
        Self { thread_id: AtomicI32::new(0), kept_off: AtomicUsize::new(usize::MAX) }
    }

    /// The calling thread is the worker.
    pub(crate) fn take(&self) {
        self.thread_id.store(rustix::thread::gettid().as_raw_pid(), Relaxed);
    }

    /// Keeps the worker off the calling thread's CPU, if the caller may use any other: about a
    /// microsecond, and nothing where it is kept off already. What the system refuses is let be.
    pub(crate) fn keep_off_caller(&self) {
        use rustix::thread::{Pid, sched_getaffinity, sched_getcpu, sched_setaffinity};

        let cpu = sched_getcpu();
        if self.kept_off.load(Relaxed) == cpu {
            return;
        }
        let Some(worker) = Pid::from_raw(self.thread_id.load(Relaxed)) else { return };
        self.kept_off.store(cpu, Relaxed);
        // What the caller may use, rather than the worker: a mask that somebody set later counts.
        if let Ok(mut cpus) = sched_getaffinity(None) {
            cpus.unset(cpu);
            if cpus.count() > 0 {
                let _ = sched_setaffinity(Some(worker), &cpus);
            }
        }
    }
}

/// A worker's place: left to the system.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
pub(crate) struct Seat;

#[cfg(not(target_os = "linux"))]
impl Seat {
    pub(crate) fn new() -> Self {
        Self
    }

    pub(crate) fn take(&self) {}

    pub(crate) fn keep_off_caller(&self) {}
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::Ordering::Relaxed;

    use rustix::thread::{Pid, sched_getaffinity};

    use super::Seat;

    #[test]
    fn a_worker_keeps_off_its_callers_cpu() {
        let allowed = sched_getaffinity(None).expect("a mask");
        let (seat, both) = (Seat::new(), Barrier::new(2));
        seat.keep_off_caller();
        assert_eq!(seat.kept_off.load(Relaxed), usize::MAX, "there is no worker yet");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                seat.take();
                both.wait();
                both.wait();
            });
            both.wait();
            seat.keep_off_caller();
            let worker = Pid::from_raw(seat.thread_id.load(Relaxed)).expect("it runs");
            let cpus = sched_getaffinity(Some(worker)).expect("a mask");
            both.wait();
            assert_eq!(cpus.count(), allowed.count().saturating_sub(1).max(1));
            assert_eq!(cpus.is_set(seat.kept_off.load(Relaxed)), allowed.count() == 1);
        });
    }
}
