//! Cells that CPUs do not take from one another: a cache line that two cores write by turns costs more
//! than all else that counting does.

use std::cell::Cell;

use crossbeam_utils::CachePadded;

/// Twice as many as there are network threads: the CPUs that these run on should have cells of their own.
const SHARDS: usize = 4;

/// How often a thread's shard is used before it is looked up again, for threads move, rarely.
const USES: u32 = 256;

thread_local! {
    /// This thread's shard and how often it may still be used.
    static SHARD: Cell<(usize, u32)> = const { Cell::new((0, 0)) };
}

/// A cell for some CPUs each. Any thread may use any cell, so each must be safe to share.
#[derive(Debug, Default)]
pub(super) struct Sharded<T>([CachePadded<T>; SHARDS]);

impl<T> Sharded<T> {
    pub(super) fn new(make: impl Fn() -> T) -> Self {
        Self(std::array::from_fn(|_| CachePadded::new(make())))
    }

    /// The cell of the CPU that the calling thread runs on, or ran on not long ago. Not of the thread:
    /// which of many threads serve the network changes with every pass that one of them computes.
    pub(super) fn own(&self) -> &T {
        &self.0[shard()]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|cell| &**cell)
    }
}

fn shard() -> usize {
    let (mut shard, mut uses) = SHARD.get();
    if uses == 0 {
        (shard, uses) = (cpu() % SHARDS, USES);
    }
    SHARD.set((shard, uses - 1));
    shard
}

#[cfg(target_os = "linux")]
fn cpu() -> usize {
    rustix::thread::sched_getcpu()
}

/// Where the system does not tell, a thread keeps a number.
#[cfg(not(target_os = "linux"))]
fn cpu() -> usize {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    NUMBER.with(|&number| number)
}
