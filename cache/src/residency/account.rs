//! A device's account: what is charged to its budget, by one model or by several that share a part.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Notify;

/// What models may take of a device's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The device's name.
    pub device: String,
    /// Bytes that all models on it together may take.
    pub bytes: u64,
}

/// A device's account, and whoever waits for room on it.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) budget: Arc<Budget>,
    used_bytes: Arc<AtomicU64>,
    pub(super) room: Arc<Notify>,
}

impl Account {
    pub(super) fn new(budget: Budget) -> Self {
        let (used_bytes, room) = (Arc::default(), Arc::default());
        Self { budget: Arc::new(budget), used_bytes, room }
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::SeqCst)
    }

    pub(super) fn free_bytes(&self) -> u64 {
        self.budget.bytes.saturating_sub(self.used_bytes())
    }
}

/// A model's bytes on the account, given back once: at eviction, or when the last lease
/// of an unloaded model ends.
#[derive(Debug)]
pub(super) struct Charge {
    bytes: AtomicU64,
    pub(super) account: Account,
}

impl Charge {
    pub(super) fn new(bytes: u64, account: &Account) -> Self {
        account.used_bytes.fetch_add(bytes, Ordering::SeqCst);
        Self { bytes: AtomicU64::new(bytes), account: account.clone() }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }

    /// What was estimated is known now.
    fn correct(&self, bytes: u64) {
        let before = self.bytes.swap(bytes, Ordering::SeqCst);
        self.account.used_bytes.fetch_add(bytes, Ordering::SeqCst);
        self.account.used_bytes.fetch_sub(before, Ordering::SeqCst);
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

/// Something that several models have in common, charged once for all of them.
#[derive(Debug)]
pub(super) struct Part {
    charge: Charge,
    /// Stakes in it. None can be taken once there are none.
    stakes: AtomicUsize,
}

impl Part {
    pub(super) fn bytes(&self) -> u64 {
        self.charge.bytes()
    }

    pub(super) fn stakes(&self) -> usize {
        self.stakes.load(Ordering::SeqCst)
    }
}

/// One model's stake in a [`Part`]: the last to go gives its bytes back.
#[derive(Debug)]
pub(super) struct Stake {
    part: Arc<Part>,
    gone: AtomicBool,
}

impl Stake {
    /// The first one.
    pub(super) fn new(bytes: u64, account: &Account) -> Self {
        let part = Part { charge: Charge::new(bytes, account), stakes: AtomicUsize::new(1) };
        Self { part: Arc::new(part), gone: AtomicBool::new(false) }
    }

    /// Another one, if the part is still there.
    pub(super) fn join(part: &Arc<Part>) -> Option<Self> {
        let more = |stakes: usize| (stakes > 0).then_some(stakes + 1);
        part.stakes.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok()?;
        Some(Self { part: Arc::clone(part), gone: AtomicBool::new(false) })
    }

    pub(super) fn part(&self) -> &Arc<Part> {
        &self.part
    }

    pub(super) fn correct(&self, bytes: u64) {
        self.part.charge.correct(bytes);
    }

    pub(super) fn give_back(&self) {
        if !self.gone.swap(true, Ordering::SeqCst)
            && self.part.stakes.fetch_sub(1, Ordering::SeqCst) == 1
        {
            self.part.charge.give_back();
        }
    }
}

impl Drop for Stake {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// What one model, or the load of one, is charged.
#[derive(Debug)]
pub(super) struct Holding {
    /// Position of the device.
    pub(super) device: usize,
    pub(super) own: Charge,
    /// Its key, and the stake in it.
    pub(super) shared: Option<(String, Stake)>,
}

impl Holding {
    /// Its own bytes, and its share of what it has in common with others.
    pub(super) fn bytes(&self) -> u64 {
        self.own.bytes() + self.shared_bytes()
    }

    /// An equal share of the common part's bytes.
    pub(super) fn shared_bytes(&self) -> u64 {
        let share = |part: &Part| part.bytes() / part.stakes().max(1) as u64;
        self.shared.as_ref().map_or(0, |(_, stake)| share(stake.part()))
    }

    pub(super) fn give_back(&self) {
        self.own.give_back();
        if let Some((_, stake)) = &self.shared {
            stake.give_back();
        }
    }
}
