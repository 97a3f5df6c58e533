//! Cells that threads do not take from one another: a cache line that two cores write by turns costs
//! more than all else that counting does.

use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_utils::CachePadded;

/// As many as there are network threads at most, which count nearly all that is counted.
pub(crate) const SHARDS: usize = 2;

static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SHARD: usize = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
}

/// A cell for each of some threads. Any thread may use any cell, so each must be safe to share.
#[derive(Debug, Default)]
pub(super) struct Sharded<T>([CachePadded<T>; SHARDS]);

impl<T> Sharded<T> {
    pub(super) fn new(make: impl Fn() -> T) -> Self {
        Self(std::array::from_fn(|_| CachePadded::new(make())))
    }

    /// The calling thread's cell.
    pub(super) fn own(&self) -> &T {
        &self.0[claim_shard()]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|cell| &**cell)
    }
}

/// The calling thread's shard; threads that ask one after another get different ones.
pub(crate) fn claim_shard() -> usize {
    SHARD.with(|&shard| shard)
}
