//! Who is in memory, under one lock.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::account::{Account, Budget, Charge, Holding, Part, Stake};
use super::eviction::Popularity;
use super::resident::{EvictionReason, Lease, ModelState, ResidencyStats, Resident};
use super::source::{Backoff, Needs, ResidencyError, Source};

/// How long a retired model's mark is kept: longer than any request takes.
const RETIRED_KEPT: Duration = Duration::from_secs(600);

pub(super) struct Table<S: Source> {
    /// By device.
    accounts: Vec<Account>,
    /// Requests so far, for any model.
    clock: u64,
    slots: HashMap<String, Slot<S>>,
    /// What several models on a device may have in common, by its key.
    parts: HashMap<(usize, String), Weak<Part>>,
}

pub(super) struct Slot<S: Source> {
    pub(super) phase: Phase<S>,
    pub(super) pinned: bool,
    /// Another revision takes its place: nobody leases it again.
    retired: bool,
    used_at: Instant,
    popularity: Popularity,
    loads: u64,
    evictions: [u64; EvictionReason::ALL.len()],
    failures_in_a_row: u32,
    last_error: Option<S::Error>,
    /// The copy that was unloaded last, for as long as somebody uses it.
    draining: Weak<Resident<S::Model>>,
}

pub(super) enum Phase<S: Source> {
    Unloaded,
    /// Without a reservation while it is next in line.
    Loading {
        reserved: Option<Holding>,
        ended: watch::Receiver<Ended<S>>,
    },
    Ready(Arc<Resident<S::Model>>),
    Failed {
        until: Instant,
    },
}

impl<S: Source> Default for Slot<S> {
    fn default() -> Self {
        Self {
            phase: Phase::Unloaded,
            pinned: false,
            retired: false,
            used_at: Instant::now(),
            popularity: Popularity::default(),
            loads: 0,
            evictions: [0; EvictionReason::ALL.len()],
            failures_in_a_row: 0,
            last_error: None,
            draining: Weak::new(),
        }
    }
}

/// Models taken out of the table, to be dropped without its lock: freeing hundreds of megabytes
/// takes milliseconds.
pub(super) type Evicted<S> = Vec<Arc<Resident<<S as Source>::Model>>>;

/// What one look at the table led to.
pub(super) enum Step<S: Source> {
    Leased(Lease<S::Model>),
    Wait(watch::Receiver<Ended<S>>),
    Load(watch::Sender<Ended<S>>, watch::Receiver<Ended<S>>),
}

/// How a load ended, for those who wait: the model, so that it is not evicted before they have it;
/// an error if the load never began; nothing if a look at the table tells what became of it.
pub(super) type Ended<S> =
    Result<Option<Lease<<S as Source>::Model>>, ResidencyError<<S as Source>::Error>>;

impl<S: Source> Table<S> {
    pub(super) fn new(budgets: Vec<Budget>) -> Self {
        let accounts = budgets.into_iter().map(Account::new).collect();
        Self { accounts, clock: 0, slots: HashMap::new(), parts: HashMap::new() }
    }

    pub(super) fn accounts(&self) -> &[Account] {
        &self.accounts
    }

    /// What was in the way of those who wait may go now.
    pub(super) fn tell_of_room(&self) {
        self.accounts.iter().for_each(|account| account.room.notify_waiters());
    }

    pub(super) fn slot(&mut self, key: &str) -> &mut Slot<S> {
        if !self.slots.contains_key(key) {
            self.slots.insert(key.to_owned(), Slot::default());
        }
        self.slots.get_mut(key).unwrap_or_else(|| unreachable!("inserted above"))
    }

    pub(super) fn peek(&self, key: &str) -> Option<Lease<S::Model>> {
        match &self.slots.get(key)?.phase {
            Phase::Ready(resident) => Some(Lease::of(resident)),
            _ => None,
        }
    }

    pub(super) fn lease(&mut self, key: &str) -> Option<Lease<S::Model>> {
        let models = self.slots.len();
        let slot = self.slots.get_mut(key)?;
        let Phase::Ready(resident) = &slot.phase else { return None };
        self.clock += 1;
        slot.used_at = Instant::now();
        slot.popularity.count(self.clock, models);
        Some(Lease::of(resident))
    }

    /// `None`: the caller should load it.
    pub(super) fn look(&mut self, key: &str) -> Result<Option<Step<S>>, ResidencyError<S::Error>> {
        if let Some(lease) = self.lease(key) {
            return Ok(Some(Step::Leased(lease)));
        }
        self.clock += 1;
        let (now, models) = (self.clock, self.slots.len());
        let slot = self.slot(key);
        slot.popularity.count(now, models);
        match (&slot.phase, &slot.last_error) {
            _ if slot.retired => Err(ResidencyError::Retired),
            (Phase::Loading { ended, .. }, _) => Ok(Some(Step::Wait(ended.clone()))),
            (Phase::Failed { until }, Some(error)) if *until > Instant::now() => {
                Err(ResidencyError::Failed {
                    source_error: error.clone(),
                    retry_after: *until - Instant::now(),
                })
            }
            _ => Ok(None),
        }
    }

    /// Whether a model could ever come in.
    fn could_fit(&self, needs: &Needs) -> Result<(), ResidencyError<S::Error>> {
        let budget_bytes = self.accounts[needs.device].budget.bytes;
        let needed_bytes = needs.total_bytes();
        if needed_bytes > budget_bytes {
            return Err(ResidencyError::LargerThanBudget { needed_bytes, budget_bytes });
        }
        let pinned = self.slots.values().filter(|slot| slot.pinned).filter_map(Slot::ready);
        let (mut pinned_bytes, mut parts) = (0, Vec::new());
        for holding in pinned.map(|resident| &resident.holding) {
            if holding.device != needs.device {
                continue;
            }
            pinned_bytes += holding.own.bytes();
            if let Some((key, stake)) = &holding.shared {
                let known = parts.iter().any(|part| Arc::ptr_eq(part, stake.part()));
                let needed = needs.shared.as_ref().is_some_and(|(wanted, _)| wanted == key);
                if !known && !needed {
                    pinned_bytes += stake.part().bytes();
                    parts.push(Arc::clone(stake.part()));
                }
            }
        }
        let free_bytes = budget_bytes.saturating_sub(pinned_bytes);
        if needed_bytes > free_bytes {
            return Err(ResidencyError::NoRoom { needed_bytes, free_bytes });
        }
        Ok(())
    }

    /// Evicts the idle models of a device that are worth least until `needed_bytes` of its budget
    /// are free. All or nothing: `None` if those in the way are in use, or still being loaded.
    fn make_room(&mut self, device: usize, needed_bytes: u64) -> Option<Evicted<S>> {
        let missing_bytes = needed_bytes.saturating_sub(self.accounts[device].free_bytes());
        let (victims, freed_bytes) = self.least_worth(device, missing_bytes);
        (freed_bytes >= missing_bytes).then(|| self.evict_all(&victims, EvictionReason::Budget))
    }

    /// Evicts the idle models of a device that are worth least until `bytes` are free by it, or none
    /// is left: the device has less memory than its budget says.
    pub(super) fn relieve(&mut self, device: usize, bytes: u64) -> Evicted<S> {
        let (victims, _) = self.least_worth(device, bytes);
        self.evict_all(&victims, EvictionReason::OutOfMemory)
    }

    /// The idle models of a device that are worth least, so many that `bytes` are free when they
    /// go, or all; and what is.
    fn least_worth(&self, device: usize, bytes: u64) -> (Vec<String>, u64) {
        let (now, models) = (self.clock, self.slots.len());
        let mut idle: Vec<(f64, &Holding, &String)> = self
            .slots
            .iter()
            .filter_map(|(key, slot)| {
                let resident = slot.evictable()?;
                let (holding, load) = (&resident.holding, resident.load_duration);
                (holding.device == device).then_some(())?;
                Some((slot.popularity.worth(now, models, holding.bytes(), load), holding, key))
            })
            .collect();
        idle.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let (mut victims, mut freed_bytes) = (Vec::new(), 0);
        let mut stakes = Vec::<(&Arc<Part>, usize)>::new();
        for (_, holding, key) in idle {
            if freed_bytes >= bytes {
                break;
            }
            freed_bytes += holding.own.bytes();
            if let Some(part) = holding.shared.as_ref().map(|(_, stake)| stake.part()) {
                // What models share is free when the last of them goes.
                let at = stakes.iter().position(|(known, _)| Arc::ptr_eq(known, part));
                let at = at.unwrap_or_else(|| {
                    stakes.push((part, 0));
                    stakes.len() - 1
                });
                stakes[at].1 += 1;
                if stakes[at].1 == part.stakes() {
                    freed_bytes += part.bytes();
                }
            }
            victims.push(key.clone());
        }
        (victims, freed_bytes)
    }

    fn evict_all(&mut self, keys: &[String], reason: EvictionReason) -> Evicted<S> {
        keys.iter().filter_map(|key| self.evict(key, reason)).collect()
    }

    /// Idle models that nobody asked for since `before`.
    pub(super) fn evict_unused(&mut self, before: Instant) -> Evicted<S> {
        let unused = |slot: &Slot<S>| slot.used_at < before && slot.evictable().is_some();
        let keys: Vec<String> = self
            .slots
            .iter()
            .filter(|(_, slot)| unused(slot))
            .map(|(key, _)| key.clone())
            .collect();
        self.evict_all(&keys, EvictionReason::Idle)
    }

    fn evict(&mut self, key: &str, reason: EvictionReason) -> Option<Arc<Resident<S::Model>>> {
        let resident = self.take_resident(key)?;
        self.slot(key).evictions[reason as usize] += 1;
        let device = &resident.holding.own.account.budget.device;
        tracing::info!(model = key, device, reason = reason.as_str(), "evicted");
        // Idle, so its memory is free as soon as the caller lets go of the lock.
        resident.holding.give_back();
        Some(resident)
    }

    /// Drops the model once its leases end. Whether it was in memory.
    pub(super) fn take_resident(&mut self, key: &str) -> Option<Arc<Resident<S::Model>>> {
        let slot = self.slots.get_mut(key)?;
        let Phase::Ready(resident) = &slot.phase else { return None };
        let resident = Arc::clone(resident);
        slot.phase = Phase::Unloaded;
        slot.draining = Arc::downgrade(&resident);
        Some(resident)
    }

    /// Takes the model out for good: nobody leases it again. One that is being loaded goes when it
    /// is.
    pub(super) fn retire(&mut self, key: &str) -> Option<Arc<Resident<S::Model>>> {
        // Requests that chose it before now must meet the mark; those of minutes ago are over.
        self.slots.retain(|_, slot| {
            !slot.retired
                || !matches!(slot.phase, Phase::Unloaded)
                || slot.draining.strong_count() > 0
                || slot.used_at.elapsed() < RETIRED_KEPT
        });
        let resident = self.take_resident(key);
        let slot = self.slot(key);
        (slot.pinned, slot.retired, slot.used_at) = (false, true, Instant::now());
        (slot.loads, slot.evictions) = (0, [0; EvictionReason::ALL.len()]);
        resident
    }

    /// A retired model may be loaded again, at once.
    pub(super) fn revive(&mut self, key: &str) {
        self.forget_failure(key);
        self.slot(key).retired = false;
    }

    pub(super) fn forget_failure(&mut self, key: &str) {
        let slot = self.slot(key);
        if matches!(slot.phase, Phase::Failed { .. }) {
            slot.phase = Phase::Unloaded;
        }
        slot.last_error = None;
    }

    /// A stake in a part that is there.
    fn stake(&self, needs: &Needs) -> Option<(String, Stake)> {
        let (key, _) = needs.shared.as_ref()?;
        let part = self.parts.get(&(needs.device, key.clone()))?.upgrade()?;
        Some((key.clone(), Stake::join(&part)?))
    }

    /// Charges a model: its own bytes, and those of what it shares unless it has a stake in them.
    fn charge(&mut self, needs: &Needs, stake: Option<(String, Stake)>) -> Holding {
        let (device, account) = (needs.device, &self.accounts[needs.device]);
        let own = Charge::new(needs.own_bytes, account);
        let shared = stake.or_else(|| {
            let (key, bytes) = needs.shared.as_ref()?;
            let stake = Stake::new(*bytes, account);
            self.parts.retain(|_, part| part.strong_count() > 0);
            self.parts.insert((device, key.clone()), Arc::downgrade(stake.part()));
            Some((key.clone(), stake))
        });
        Holding { device, own, shared }
    }

    /// Bytes for a load that begins now; `None` if it has to wait for them.
    pub(super) fn reserve(
        &mut self,
        key: &str,
        needs: &Needs,
    ) -> Result<Option<Evicted<S>>, ResidencyError<S::Error>> {
        self.could_fit(needs)?;
        let stake = self.stake(needs);
        let needed_bytes = if stake.is_some() { needs.own_bytes } else { needs.total_bytes() };
        let Some(evicted) = self.make_room(needs.device, needed_bytes) else { return Ok(None) };
        let holding = self.charge(needs, stake);
        if let Phase::Loading { reserved, .. } = &mut self.slot(key).phase {
            *reserved = Some(holding);
        }
        Ok(Some(evicted))
    }

    /// Room for what a loaded model takes beyond its reservation; `None` if there is none.
    pub(super) fn settle(&mut self, key: &str, needs: &Needs) -> Option<Evicted<S>> {
        let reserved = match &self.slot(key).phase {
            Phase::Loading { reserved: Some(holding), .. } => holding.own.bytes(),
            _ => 0,
        };
        let shared_bytes = needs.shared.as_ref().map_or(0, |(_, bytes)| {
            let part = self.stake(needs);
            bytes.saturating_sub(part.map_or(0, |(_, stake)| stake.part().bytes()))
        });
        self.make_room(needs.device, (needs.own_bytes + shared_bytes).saturating_sub(reserved))
    }

    /// A load never began.
    pub(super) fn call_off(&mut self, key: &str) {
        self.slot(key).phase = Phase::Unloaded;
    }

    /// The same of one whose loader is gone, as it is when the runtime shuts down.
    pub(super) fn call_off_abandoned(&mut self, key: &str) {
        let slot = self.slot(key);
        if matches!(&slot.phase, Phase::Loading { ended, .. } if ended.has_changed().is_err()) {
            slot.phase = Phase::Unloaded;
        }
    }

    pub(super) fn finish_load(
        &mut self,
        key: &str,
        loaded: Result<(S::Model, Needs), S::Error>,
        took: Duration,
        backoff: Backoff,
    ) -> Option<Lease<S::Model>> {
        let slot = self.slot(key);
        slot.used_at = Instant::now();
        let mut lease = None;
        match loaded {
            Ok(_) if slot.retired => slot.phase = Phase::Unloaded,
            Ok((model, needs)) => {
                slot.loads += 1;
                slot.failures_in_a_row = 0;
                slot.last_error = None;
                let stake = self.stake(&needs);
                // The reservation goes before the charge comes.
                self.slot(key).phase = Phase::Unloaded;
                let holding = self.charge(&needs, stake);
                if let (Some((_, stake)), Some((_, bytes))) = (&holding.shared, &needs.shared) {
                    stake.correct(*bytes);
                }
                let resident = Arc::new(Resident::new(model, holding, took));
                lease = Some(Lease::of(&resident));
                self.slot(key).phase = Phase::Ready(resident);
            }
            Err(error) => {
                let wait = backoff.after(slot.failures_in_a_row);
                slot.failures_in_a_row += 1;
                slot.last_error = Some(error);
                slot.phase = Phase::Failed { until: Instant::now() + wait };
            }
        }
        // What waits may evict it, or whatever is in its way now.
        self.tell_of_room();
        lease
    }

    pub(super) fn stats(&self, key: &str) -> ResidencyStats<S::Error> {
        self.slots.get(key).map_or_else(|| Slot::<S>::default().stats(), Slot::stats)
    }
}

impl<S: Source> Slot<S> {
    fn ready(&self) -> Option<&Resident<S::Model>> {
        match &self.phase {
            Phase::Ready(resident) => Some(resident),
            _ => None,
        }
    }

    /// In memory, and neither pinned nor in use.
    fn evictable(&self) -> Option<&Resident<S::Model>> {
        match &self.phase {
            Phase::Ready(resident) if !self.pinned && resident.leases() == 0 => Some(resident),
            _ => None,
        }
    }

    fn stats(&self) -> ResidencyStats<S::Error> {
        let mut stats = ResidencyStats {
            state: ModelState::Unloaded,
            device: None,
            resident_bytes: 0,
            shared_bytes: 0,
            leases: 0,
            pinned: self.pinned,
            loads: self.loads,
            evictions: self.evictions,
            load_duration: None,
            last_error: self.last_error.clone(),
        };
        let mut of = |resident: &Resident<S::Model>| {
            stats.device = Some(resident.holding.device);
            stats.resident_bytes = resident.holding.bytes();
            stats.shared_bytes = resident.holding.shared_bytes();
            stats.leases = resident.leases();
            stats.load_duration = Some(resident.load_duration);
        };
        stats.state = match &self.phase {
            Phase::Ready(resident) => {
                of(resident);
                ModelState::Ready
            }
            Phase::Loading { reserved, .. } => {
                stats.device = reserved.as_ref().map(|holding| holding.device);
                stats.resident_bytes = reserved.as_ref().map_or(0, Holding::bytes);
                ModelState::Loading
            }
            Phase::Failed { until } if *until > Instant::now() => ModelState::Failed,
            Phase::Failed { .. } | Phase::Unloaded => match self.draining.upgrade() {
                Some(resident) if resident.leases() > 0 => {
                    of(&resident);
                    ModelState::Draining
                }
                _ => ModelState::Unloaded,
            },
        };
        stats
    }
}
