//! Loaded models under a byte budget: lazy, loaded once, leased while in use.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

/// Where models come from. `load` runs on a blocking thread and may take seconds.
pub trait Source: Send + Sync + 'static {
    /// A loaded model.
    type Model: Send + Sync + 'static;
    /// Why a model could not be loaded; kept and handed to everyone who asks during the back-off.
    type Error: Clone + Send + Sync + 'static;

    /// Bytes that `name` will take, known before its weights are read.
    ///
    /// # Errors
    /// The model cannot be found or described.
    fn estimate_bytes(&self, name: &str) -> Result<u64, Self::Error>;

    /// Loads `name`; returns it with the bytes that it really takes.
    ///
    /// # Errors
    /// The model cannot be loaded.
    fn load(&self, name: &str) -> Result<(Self::Model, u64), Self::Error>;

    /// The error of a load that panicked.
    fn panicked(&self, name: &str) -> Self::Error;
}

/// Why there is no lease.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ResidencyError<E> {
    /// The model alone is larger than the whole budget; nothing was evicted for it.
    #[error("model needs {needed_bytes} bytes, the budget is {budget_bytes}")]
    LargerThanBudget {
        /// Bytes that the model needs.
        needed_bytes: u64,
        /// Bytes that all models together may take.
        budget_bytes: u64,
    },
    /// It would fit, but what is resident now is in use or pinned.
    #[error(
        "model needs {needed_bytes} bytes, {free_bytes} are free and the rest is in use or pinned"
    )]
    NoRoom {
        /// Bytes that the model needs.
        needed_bytes: u64,
        /// Bytes not taken by resident or loading models.
        free_bytes: u64,
    },
    /// The load failed, now or not long ago.
    #[error("model failed to load; next try in {retry_after:?}")]
    Failed {
        /// What [`Source::load`] said.
        source_error: E,
        /// Until then the failure is answered from memory.
        retry_after: Duration,
    },
}

/// A model in use: while any lease lives, the model is not evicted.
#[derive(Debug)]
pub struct Lease<M>(Arc<Resident<M>>);

impl<M> Clone for Lease<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M> std::ops::Deref for Lease<M> {
    type Target = M;
    fn deref(&self) -> &M {
        &self.0.model
    }
}

#[derive(Debug)]
struct Resident<M> {
    // Dropped in this order: the bytes are given back after the model's memory is.
    model: M,
    charge: Charge,
    load_duration: Duration,
}

/// A model's bytes on the budget's account, given back once: at eviction, or when the last lease
/// of an unloaded model ends.
#[derive(Debug)]
struct Charge {
    bytes: AtomicU64,
    used_bytes: Arc<AtomicU64>,
}

impl Charge {
    fn new(bytes: u64, used_bytes: &Arc<AtomicU64>) -> Self {
        used_bytes.fetch_add(bytes, Ordering::SeqCst);
        Self { bytes: AtomicU64::new(bytes), used_bytes: Arc::clone(used_bytes) }
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }

    fn give_back(&self) {
        self.used_bytes.fetch_sub(self.bytes.swap(0, Ordering::SeqCst), Ordering::SeqCst);
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
    /// Being read; its bytes are already reserved.
    Loading,
    /// In memory.
    Ready,
    /// The last load failed and its back-off has not passed.
    Failed,
}

impl ModelState {
    /// All states, in the order in which metrics list them.
    pub const ALL: [Self; 4] = [Self::Unloaded, Self::Loading, Self::Ready, Self::Failed];

    /// The state's name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unloaded => "unloaded",
            Self::Loading => "loading",
            Self::Ready => "ready",
            Self::Failed => "failed",
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
    /// Times it was dropped to make room.
    pub evictions: u64,
    /// How long the load of the resident copy took.
    pub load_duration: Option<Duration>,
    /// The last failure, until a load succeeds.
    pub last_error: Option<E>,
}

/// How long a failed load is remembered: doubled from `first` at each failure in a row, up to `max`.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// After the first failure.
    pub first: Duration,
    /// At most.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), max: Duration::from_secs(60) }
    }
}

/// The models in memory, at most `budget_bytes` of them, reservations for loads included.
pub struct Residency<S: Source> {
    source: Arc<S>,
    table: Arc<Mutex<Table<S>>>,
    backoff: Backoff,
}

struct Table<S: Source> {
    budget_bytes: u64,
    used_bytes: Arc<AtomicU64>,
    clock: u64,
    slots: HashMap<String, Slot<S>>,
}

struct Slot<S: Source> {
    phase: Phase<S>,
    used_at: u64,
    pinned: bool,
    loads: u64,
    evictions: u64,
    failures_in_a_row: u32,
    last_error: Option<S::Error>,
}

enum Phase<S: Source> {
    Unloaded,
    Loading { reserved: Charge, done: watch::Receiver<bool> },
    Ready(Arc<Resident<S::Model>>),
    Failed { until: Instant },
}

impl<S: Source> Default for Slot<S> {
    fn default() -> Self {
        Self {
            phase: Phase::Unloaded,
            used_at: 0,
            pinned: false,
            loads: 0,
            evictions: 0,
            failures_in_a_row: 0,
            last_error: None,
        }
    }
}

/// Models taken out of the table, to be dropped without its lock.
type Evicted<S> = Vec<Arc<Resident<<S as Source>::Model>>>;

/// What one look at the table led to.
enum Step<S: Source> {
    Leased(Lease<S::Model>),
    Wait(watch::Receiver<bool>),
    Load(watch::Sender<bool>),
}

impl<S: Source> Residency<S> {
    /// Nothing resident yet.
    #[must_use]
    pub fn new(source: S, budget_bytes: u64, backoff: Backoff) -> Self {
        let table =
            Table { budget_bytes, used_bytes: Arc::default(), clock: 0, slots: HashMap::new() };
        Self { source: Arc::new(source), table: Arc::new(Mutex::new(table)), backoff }
    }

    /// Where models come from.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// A lease if the model is in memory.
    #[must_use]
    pub fn lease(&self, name: &str) -> Option<Lease<S::Model>> {
        self.table.lock().lease(name)
    }

    /// A lease if the model is in memory, without counting as use: whoever only looks must not
    /// change what is evicted next.
    #[must_use]
    pub fn peek(&self, name: &str) -> Option<Lease<S::Model>> {
        match &self.table.lock().slots.get(name)?.phase {
            Phase::Ready(resident) => Some(Lease(Arc::clone(resident))),
            _ => None,
        }
    }

    /// A lease; the model is loaded if need be. Requests that come while it loads wait for that
    /// one load, which goes on even if all of them are cancelled.
    ///
    /// # Errors
    /// See [`ResidencyError`].
    pub async fn acquire(&self, name: &str) -> Result<Lease<S::Model>, ResidencyError<S::Error>> {
        loop {
            match self.step(name)? {
                Step::Leased(lease) => return Ok(lease),
                // An error means that the loader is gone: the next look tells what became of it.
                Step::Wait(mut done) => drop(done.changed().await),
                Step::Load(done) => self.spawn_load(name, done),
            }
        }
    }

    fn step(&self, name: &str) -> Result<Step<S>, ResidencyError<S::Error>> {
        // Cheap look first: the estimate may read a file header, which must not happen under the lock.
        if let Some(step) = self.table.lock().look(name)? {
            return Ok(step);
        }
        let needed_bytes = self.source.estimate_bytes(name).map_err(|source_error| {
            ResidencyError::Failed { source_error, retry_after: self.backoff.first }
        })?;
        let mut table = self.table.lock();
        if let Some(step) = table.look(name)? {
            return Ok(step);
        }
        let evicted = table.make_room(needed_bytes)?;
        let reserved = Charge::new(needed_bytes, &table.used_bytes);
        let (tx, rx) = watch::channel(false);
        table.slot(name).phase = Phase::Loading { reserved, done: rx };
        drop(table);
        // Freeing hundreds of megabytes takes milliseconds: not under the lock.
        drop(evicted);
        Ok(Step::Load(tx))
    }

    fn spawn_load(&self, name: &str, done: watch::Sender<bool>) {
        let (source, table, backoff) =
            (Arc::clone(&self.source), Arc::clone(&self.table), self.backoff);
        let name = name.to_owned();
        tokio::task::spawn_blocking(move || {
            let started = Instant::now();
            let load = std::panic::AssertUnwindSafe(|| source.load(&name));
            let loaded =
                std::panic::catch_unwind(load).unwrap_or_else(|_| Err(source.panicked(&name)));
            table.lock().finish_load(&name, loaded, started.elapsed(), backoff);
            // All receivers may be gone; the table has the outcome.
            let _ = done.send(true);
        });
    }

    /// Drops the model from memory once its leases end, and forgets a failure. Pinned models are
    /// unpinned: an operator's explicit word is stronger. Returns whether it was in memory.
    pub fn unload(&self, name: &str) -> bool {
        let mut table = self.table.lock();
        let Some(slot) = table.slots.get_mut(name) else { return false };
        slot.pinned = false;
        match &slot.phase {
            Phase::Ready(_) => {
                let resident = table.remove_resident(name);
                drop(table);
                resident.is_some()
            }
            Phase::Failed { .. } | Phase::Unloaded => {
                slot.phase = Phase::Unloaded;
                slot.last_error = None;
                false
            }
            Phase::Loading { .. } => false,
        }
    }

    /// Keeps the model from being evicted, or allows it again.
    pub fn set_pinned(&self, name: &str, pinned: bool) {
        self.table.lock().slot(name).pinned = pinned;
    }

    /// One model's state; [`ModelState::Unloaded`] for a name that was never asked for.
    #[must_use]
    pub fn stats(&self, name: &str) -> ResidencyStats<S::Error> {
        let mut table = self.table.lock();
        table.slot(name).stats()
    }

    /// Bytes of resident models and of reservations.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.table.lock().used_bytes.load(Ordering::SeqCst)
    }

    /// Bytes that all models together may take.
    #[must_use]
    pub fn budget_bytes(&self) -> u64 {
        self.table.lock().budget_bytes
    }
}

impl<S: Source> Table<S> {
    fn slot(&mut self, name: &str) -> &mut Slot<S> {
        if !self.slots.contains_key(name) {
            self.slots.insert(name.to_owned(), Slot::default());
        }
        self.slots.get_mut(name).unwrap_or_else(|| unreachable!("inserted above"))
    }

    fn lease(&mut self, name: &str) -> Option<Lease<S::Model>> {
        self.clock += 1;
        let clock = self.clock;
        let slot = self.slots.get_mut(name)?;
        let Phase::Ready(resident) = &slot.phase else { return None };
        slot.used_at = clock;
        Some(Lease(Arc::clone(resident)))
    }

    /// `None`: the caller should load it.
    fn look(&mut self, name: &str) -> Result<Option<Step<S>>, ResidencyError<S::Error>> {
        if let Some(lease) = self.lease(name) {
            return Ok(Some(Step::Leased(lease)));
        }
        let Some(slot) = self.slots.get(name) else { return Ok(None) };
        match (&slot.phase, &slot.last_error) {
            (Phase::Loading { done, .. }, _) => Ok(Some(Step::Wait(done.clone()))),
            (Phase::Failed { until }, Some(error)) if *until > Instant::now() => {
                Err(ResidencyError::Failed {
                    source_error: error.clone(),
                    retry_after: *until - Instant::now(),
                })
            }
            _ => Ok(None),
        }
    }

    /// Evicts the least recently used idle models until `needed_bytes` are free. All or nothing.
    fn make_room(&mut self, needed_bytes: u64) -> Result<Evicted<S>, ResidencyError<S::Error>> {
        let budget_bytes = self.budget_bytes;
        if needed_bytes > budget_bytes {
            return Err(ResidencyError::LargerThanBudget { needed_bytes, budget_bytes });
        }
        let free_now_bytes = budget_bytes.saturating_sub(self.used_bytes.load(Ordering::SeqCst));
        let mut free_bytes = free_now_bytes;
        let mut idle: Vec<(u64, u64, String)> = self
            .slots
            .iter()
            .filter(|(_, slot)| !slot.pinned)
            .filter_map(|(name, slot)| match &slot.phase {
                Phase::Ready(resident) if Arc::strong_count(resident) == 1 => {
                    Some((slot.used_at, resident.charge.bytes(), name.clone()))
                }
                _ => None,
            })
            .collect();
        idle.sort_unstable();
        let mut victims = Vec::new();
        for (_, bytes, name) in idle {
            if free_bytes >= needed_bytes {
                break;
            }
            free_bytes += bytes;
            victims.push(name);
        }
        if free_bytes < needed_bytes {
            return Err(ResidencyError::NoRoom { needed_bytes, free_bytes: free_now_bytes });
        }
        let mut evicted = Vec::with_capacity(victims.len());
        for name in victims {
            self.slot(&name).evictions += 1;
            tracing::info!(model = name, reason = "budget", "evicted");
            if let Some(resident) = self.remove_resident(&name) {
                // Idle, so its memory is free as soon as the caller lets go of the lock.
                resident.charge.give_back();
                evicted.push(resident);
            }
        }
        Ok(evicted)
    }

    fn remove_resident(&mut self, name: &str) -> Option<Arc<Resident<S::Model>>> {
        let slot = self.slots.get_mut(name)?;
        if !matches!(slot.phase, Phase::Ready(_)) {
            return None;
        }
        let Phase::Ready(resident) = std::mem::replace(&mut slot.phase, Phase::Unloaded) else {
            return None;
        };
        Some(resident)
    }

    fn finish_load(
        &mut self,
        name: &str,
        loaded: Result<(S::Model, u64), S::Error>,
        load_duration: Duration,
        backoff: Backoff,
    ) {
        self.clock += 1;
        let clock = self.clock;
        let used_bytes = Arc::clone(&self.used_bytes);
        let slot = self.slot(name);
        // Replacing the phase drops the reservation.
        match loaded {
            Ok((model, bytes)) => {
                slot.loads += 1;
                slot.failures_in_a_row = 0;
                slot.last_error = None;
                slot.used_at = clock;
                slot.phase = Phase::Unloaded;
                let charge = Charge::new(bytes, &used_bytes);
                slot.phase = Phase::Ready(Arc::new(Resident { model, charge, load_duration }));
            }
            Err(error) => {
                let wait = backoff.first.saturating_mul(1 << slot.failures_in_a_row.min(16));
                slot.failures_in_a_row += 1;
                slot.last_error = Some(error);
                slot.phase = Phase::Failed { until: Instant::now() + wait.min(backoff.max) };
            }
        }
    }
}

impl<S: Source> Slot<S> {
    fn stats(&self) -> ResidencyStats<S::Error> {
        let (state, resident_bytes, leases, load_duration) = match &self.phase {
            Phase::Unloaded => (ModelState::Unloaded, 0, 0, None),
            Phase::Loading { reserved, .. } => (ModelState::Loading, reserved.bytes(), 0, None),
            Phase::Ready(resident) => {
                let leases = Arc::strong_count(resident) - 1;
                (ModelState::Ready, resident.charge.bytes(), leases, Some(resident.load_duration))
            }
            Phase::Failed { until } if *until > Instant::now() => (ModelState::Failed, 0, 0, None),
            Phase::Failed { .. } => (ModelState::Unloaded, 0, 0, None),
        };
        ResidencyStats {
            state,
            resident_bytes,
            leases,
            pinned: self.pinned,
            loads: self.loads,
            evictions: self.evictions,
            load_duration,
            last_error: self.last_error.clone(),
        }
    }
}

impl<S: Source> std::fmt::Debug for Residency<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Residency").field("used_bytes", &self.used_bytes()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "residency_tests.rs"]
mod tests;
