//! Loaded models under a byte budget a device: lazy, loaded once, leased while in use.
//!
//! Invariants: a leased or pinned model is never evicted; resident bytes and reservations never
//! exceed a device's budget, not even while loading; what happens on one device evicts nothing from
//! another; requests that want the same model share one load.

mod account;
mod eviction;
mod resident;
mod source;
mod table;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use account::Account;
pub use account::Budget;
pub use resident::{EvictionReason, Lease, ModelState, ResidencyStats};
pub use source::{Backoff, Needs, ResidencyError, Source, Spec};
use table::{Ended, Evicted, Phase, Step, Table};

/// The models in memory, on each device at most its budget of them, reservations for loads included.
pub struct Residency<S: Source> {
    source: Arc<S>,
    table: Arc<Mutex<Table<S>>>,
    /// Loads take turns: side by side each would take as long as all of them, and the room that
    /// waiting ones need is better used until their turn comes.
    turns: Arc<Semaphore>,
    backoff: Backoff,
}

impl<S: Source> Residency<S> {
    /// Nothing resident yet; at most `loads_max` loads at once. What the source says of devices is
    /// their position in `budgets`.
    #[must_use]
    pub fn new(source: S, budgets: Vec<Budget>, loads_max: usize, backoff: Backoff) -> Self {
        Self {
            source: Arc::new(source),
            table: Arc::new(Mutex::new(Table::new(budgets))),
            turns: Arc::new(Semaphore::new(loads_max.max(1))),
            backoff,
        }
    }

    /// Where models come from.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// A lease if the model is in memory.
    #[must_use]
    pub fn lease(&self, key: &str) -> Option<Lease<S::Model>> {
        self.table.lock().lease(key)
    }

    /// A lease if the model is in memory, without counting as use: whoever only looks must not
    /// change what is evicted next.
    #[must_use]
    pub fn peek(&self, key: &str) -> Option<Lease<S::Model>> {
        self.table.lock().peek(key)
    }

    /// A lease; the model is loaded if need be. Requests that come while it loads wait for that
    /// one load, which goes on even if all of them are cancelled. While models in use fill the
    /// budget the load waits for one of them to fall idle; the caller bounds that time.
    ///
    /// # Errors
    /// See [`ResidencyError`].
    pub async fn acquire(
        &self,
        spec: &Arc<S::Spec>,
    ) -> Result<Lease<S::Model>, ResidencyError<S::Error>> {
        loop {
            let mut ended = match self.step(spec)? {
                Step::Leased(lease) => return Ok(lease),
                Step::Wait(ended) => ended,
                Step::Load(tell, ended) => {
                    self.spawn_load(Arc::clone(spec), tell);
                    ended
                }
            };
            if ended.changed().await.is_err() {
                self.table.lock().call_off_abandoned(spec.key());
                // While the runtime shuts down no load can begin, and this task has to end.
                tokio::task::yield_now().await;
            } else if let Some(lease) = ended.borrow().clone()? {
                return Ok(lease);
            }
        }
    }

    fn step(&self, spec: &S::Spec) -> Result<Step<S>, ResidencyError<S::Error>> {
        let mut table = self.table.lock();
        if let Some(step) = table.look(spec.key())? {
            return Ok(step);
        }
        let (tell, ended) = watch::channel(Ok(None));
        let waiting = ended.clone();
        table.slot(spec.key()).phase = Phase::Loading { reserved: None, ended };
        Ok(Step::Load(tell, waiting))
    }

    fn spawn_load(&self, spec: Arc<S::Spec>, tell: watch::Sender<Ended<S>>) {
        let (source, table) = (Arc::clone(&self.source), Arc::clone(&self.table));
        let (turns, backoff) = (Arc::clone(&self.turns), self.backoff);
        tokio::spawn(async move {
            // The semaphore is never closed.
            let _turn = turns.acquire_owned().await;
            let load = Load { source, table, spec, backoff };
            // All receivers may be gone; the table has the outcome.
            let _ = tell.send(load.run().await);
        });
    }

    /// Drops the model from memory once its leases end, and forgets a failure. Pinned models are
    /// unpinned: an operator's explicit word is stronger. Returns whether it was in memory.
    pub fn unload(&self, key: &str) -> bool {
        let mut table = self.table.lock();
        table.slot(key).pinned = false;
        table.forget_failure(key);
        let resident = table.take_resident(key);
        drop(table);
        resident.is_some()
    }

    /// As [`Self::unload`], and nobody is given the model again until [`Self::revive`]: another
    /// revision takes its place. What it was until now; its counts begin anew.
    pub fn retire(&self, key: &str) -> ResidencyStats<S::Error> {
        let mut table = self.table.lock();
        let stats = table.stats(key);
        let resident = table.retire(key);
        drop(table);
        drop(resident);
        stats
    }

    /// A retired model may be loaded again.
    pub fn revive(&self, key: &str) {
        self.table.lock().revive(key);
    }

    /// Drops idle models that nobody asked for in this time.
    pub fn evict_unused(&self, for_at_least: Duration) {
        let Some(before) = Instant::now().checked_sub(for_at_least) else { return };
        let evicted = self.table.lock().evict_unused(before);
        drop(evicted);
    }

    /// Drops the idle model of a device that is worth least, for a computation that found no memory
    /// left there. Whether there was one.
    #[must_use]
    pub fn evict_least_worth(&self, device: usize) -> bool {
        let evicted = self.table.lock().relieve(device, 1);
        !evicted.is_empty()
    }

    /// Keeps the model from being evicted, or allows it again.
    pub fn set_pinned(&self, key: &str, pinned: bool) {
        let mut table = self.table.lock();
        table.slot(key).pinned = pinned;
        // What was in the way may go now.
        table.tell_of_room();
    }

    /// One model's state; [`ModelState::Unloaded`] for a key that was never asked for.
    #[must_use]
    pub fn stats(&self, key: &str) -> ResidencyStats<S::Error> {
        self.table.lock().stats(key)
    }

    /// Bytes of models resident on each device, reservations included; and what they may take.
    #[must_use]
    pub fn usage(&self) -> Vec<(u64, Budget)> {
        let table = self.table.lock();
        let usage = |account: &Account| (account.used_bytes(), Budget::clone(&account.budget));
        table.accounts().iter().map(usage).collect()
    }
}

/// One load, from its turn to its end.
struct Load<S: Source> {
    source: Arc<S>,
    table: Arc<Mutex<Table<S>>>,
    spec: Arc<S::Spec>,
    backoff: Backoff,
}

impl<S: Source> Load<S> {
    async fn run(self) -> Ended<S> {
        let (source, spec) = (Arc::clone(&self.source), Arc::clone(&self.spec));
        // The estimate may read a file's header: neither here nor under the lock.
        let estimate = tokio::task::spawn_blocking(move || source.estimate(&spec)).await;
        match estimate.unwrap_or_else(|_| Err(self.source.panicked(&self.spec))) {
            Ok(needs) => {
                if let Err(error) = self.reserve(&needs).await {
                    self.table.lock().call_off(self.spec.key());
                    return Err(error);
                }
                // A panic in it is caught in it.
                Ok(tokio::task::spawn_blocking(move || self.load(&needs)).await.unwrap_or(None))
            }
            Err(error) => {
                let (mut table, took) = (self.table.lock(), Duration::ZERO);
                Ok(table.finish_load(self.spec.key(), Err(error), took, self.backoff))
            }
        }
    }

    /// Room for it, before a byte of its weights is read.
    async fn reserve(&self, needs: &Needs) -> Result<(), ResidencyError<S::Error>> {
        let told = Arc::clone(&self.table.lock().accounts()[needs.device].room);
        loop {
            // Listening before the look, so that no word comes between the look and the wait.
            let mut room = std::pin::pin!(told.notified());
            room.as_mut().enable();
            if let Some(evicted) = self.table.lock().reserve(self.spec.key(), needs)? {
                drop::<Evicted<S>>(evicted);
                return Ok(());
            }
            room.await;
        }
    }

    fn load(self, reserved: &Needs) -> Option<Lease<S::Model>> {
        let (spec, started) = (&self.spec, Instant::now());
        let loaded = loop {
            let load = std::panic::AssertUnwindSafe(|| self.source.load(spec, reserved.device));
            let loaded =
                std::panic::catch_unwind(load).unwrap_or_else(|_| Err(self.source.panicked(spec)));
            match loaded {
                Err(error) if self.source.is_out_of_memory(&error) && self.relieve(reserved) => {}
                loaded => break loaded,
            }
        };
        let mut table = self.table.lock();
        let (mut evicted, mut outgrown) = (Vec::new(), None);
        let loaded = match loaded {
            Ok((model, needs)) => {
                if let Some(freed) = table.settle(spec.key(), &needs) {
                    evicted = freed;
                    Ok((model, needs))
                } else {
                    outgrown = Some(model);
                    Err(self.source.outgrew(spec, needs.total_bytes()))
                }
            }
            Err(error) => Err(error),
        };
        let lease = table.finish_load(spec.key(), loaded, started.elapsed(), self.backoff);
        drop(table);
        drop((evicted, outgrown));
        lease
    }
}

impl<S: Source> Load<S> {
    /// The device has no memory left for it, though its budget has: whether others went for it.
    fn relieve(&self, reserved: &Needs) -> bool {
        let evicted = self.table.lock().relieve(reserved.device, reserved.total_bytes());
        self.source.ran_out_of_memory(reserved.device, evicted.len());
        !evicted.is_empty()
    }
}

impl<S: Source> std::fmt::Debug for Residency<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Residency").field("usage", &self.usage()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod device_tests;
#[cfg(test)]
mod tests;
