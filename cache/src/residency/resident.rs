//! A model in memory: its bytes on the budget's account, and its leases.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::account::Holding;

/// A model in use: while any lease lives, the model is not evicted.
#[derive(Debug)]
pub struct Lease<M>(Arc<Resident<M>>);

impl<M> Lease<M> {
    /// Taken under the table's lock, so that no eviction comes in between.
    pub(super) fn of(resident: &Arc<Resident<M>>) -> Self {
        resident.leases.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(resident))
    }
}

impl<M> Clone for Lease<M> {
    fn clone(&self) -> Self {
        Self::of(&self.0)
    }
}

impl<M> Drop for Lease<M> {
    fn drop(&mut self) {
        if self.0.leases.fetch_sub(1, Ordering::SeqCst) == 1 {
            // It can be evicted now. If it was unloaded, its room is there when its charge is given
            // back, and that tells by itself.
            self.0.holding.own.account.room.notify_waiters();
        }
    }
}

impl<M> std::ops::Deref for Lease<M> {
    type Target = M;
    fn deref(&self) -> &M {
        &self.0.model
    }
}

#[derive(Debug)]
pub(super) struct Resident<M> {
    // Dropped in this order: the bytes are given back after the model's memory is.
    model: M,
    pub(super) holding: Holding,
    pub(super) load_duration: Duration,
    leases: AtomicUsize,
}

impl<M> Resident<M> {
    pub(super) fn new(model: M, holding: Holding, load_duration: Duration) -> Self {
        Self { model, holding, load_duration, leases: AtomicUsize::new(0) }
    }

    pub(super) fn leases(&self) -> usize {
        self.leases.load(Ordering::SeqCst)
    }
}

/// Where a model is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelState {
    /// Known, not in memory.
    Unloaded,
    /// Being read, or next in line for it; its bytes are reserved before the first one is read.
    Loading,
    /// In memory.
    Ready,
    /// The last load failed and its back-off has not passed.
    Failed,
    /// Unloaded, but its last requests still use it.
    Draining,
}

impl ModelState {
    /// All states, in the order in which metrics list them.
    pub const ALL: [Self; 5] =
        [Self::Unloaded, Self::Loading, Self::Ready, Self::Failed, Self::Draining];

    /// The state's name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unloaded => "unloaded",
            Self::Loading => "loading",
            Self::Ready => "ready",
            Self::Failed => "failed",
            Self::Draining => "draining",
        }
    }
}

/// Why a model was dropped without anybody's asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvictionReason {
    /// Another model needed the room.
    Budget,
    /// Nobody asked for it.
    Idle,
    /// Its device had no memory left for another one.
    OutOfMemory,
}

impl EvictionReason {
    /// All reasons.
    pub const ALL: [Self; 3] = [Self::Budget, Self::Idle, Self::OutOfMemory];

    /// The reason's name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::Idle => "idle",
            Self::OutOfMemory => "out_of_memory",
        }
    }
}

/// A model's share of memory and its history.
#[derive(Clone, Debug)]
pub struct ResidencyStats<E> {
    /// Where it is in its life.
    pub state: ModelState,
    /// Where it is, or will be once it is loaded; by position among the budgets.
    pub device: Option<usize>,
    /// Bytes in memory, or reserved while loading; zero otherwise. Of what it has in common with
    /// others an equal share, so that all models' add up to what is used.
    pub resident_bytes: u64,
    /// That share.
    pub shared_bytes: u64,
    /// Leases that live now.
    pub leases: usize,
    /// Pinned models are never evicted.
    pub pinned: bool,
    /// Loads that succeeded.
    pub loads: u64,
    /// Times it was dropped without anybody's asking, by [`EvictionReason`].
    pub evictions: [u64; EvictionReason::ALL.len()],
    /// How long the load of the resident copy took.
    pub load_duration: Option<Duration>,
    /// The last failure, until a load succeeds.
    pub last_error: Option<E>,
}

impl<E> ResidencyStats<E> {
    /// Times it was dropped without anybody's asking.
    #[must_use]
    pub fn evictions_total(&self) -> u64 {
        self.evictions.iter().sum()
    }
}
