//! A model in memory: its bytes on the budget's account, and its leases.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

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
            self.0.charge.account.room.notify_waiters();
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
    pub(super) charge: Charge,
    pub(super) load_duration: Duration,
    leases: AtomicUsize,
}

impl<M> Resident<M> {
    pub(super) fn new(model: M, charge: Charge, load_duration: Duration) -> Self {
        Self { model, charge, load_duration, leases: AtomicUsize::new(0) }
    }

    pub(super) fn leases(&self) -> usize {
        self.leases.load(Ordering::SeqCst)
    }
}

/// The budget's account, and whoever waits for room on it.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    pub(super) used_bytes: Arc<AtomicU64>,
    pub(super) room: Arc<Notify>,
}

/// A model's bytes on the budget's account, given back once: at eviction, or when the last lease
/// of an unloaded model ends.
#[derive(Debug)]
pub(super) struct Charge {
    bytes: AtomicU64,
    account: Account,
}

impl Charge {
    pub(super) fn new(bytes: u64, account: &Account) -> Self {
        account.used_bytes.fetch_add(bytes, Ordering::SeqCst);
        Self { bytes: AtomicU64::new(bytes), account: account.clone() }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }

    pub(super) fn give_back(&self) {
        let bytes = self.bytes.swap(0, Ordering::SeqCst);
        self.account.used_bytes.fetch_sub(bytes, Ordering::SeqCst);
        self.account.room.notify_waiters();
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.give_back();
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
}

impl EvictionReason {
    /// All reasons.
    pub const ALL: [Self; 2] = [Self::Budget, Self::Idle];

    /// The reason's name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::Idle => "idle",
        }
    }
}

/// A model's share of memory and its history.
#[derive(Clone, Debug)]
pub struct ResidencyStats<E> {
    /// Where it is in its life.
    pub state: ModelState,
    /// Bytes in memory, or reserved while loading; zero otherwise.
    pub resident_bytes: u64,
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
