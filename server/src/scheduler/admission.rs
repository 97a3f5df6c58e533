//! Who may wait: bounds on mails and tokens, in all and of one model, and no promise that cannot be
//! kept.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::job::{BatchModel, Priority};
use super::plan::MARGIN;
use super::run::{Shared, State};

/// Bounds of what waits and runs.
#[derive(Clone, Copy, Debug)]
pub struct AdmissionLimits {
    /// Most mails.
    pub jobs_max: usize,
    /// Most tokens, guessed until a text is tokenised. A request that is larger is let in alone.
    pub tokens_max: usize,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// Whose share of the engine it uses.
    pub owner: usize,
    /// Mails.
    pub jobs: usize,
    /// Their tokens, guessed.
    pub tokens: usize,
    /// What they will take, guessed; zero where nothing is known of the model.
    pub cost: Duration,
    /// Which goes first.
    pub priority: Priority,
    /// After this nobody wants the answer.
    pub deadline: Instant,
}

/// Why a request may not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no room.
    Full {
        /// Mails or tokens that wait or run.
        queued: usize,
        /// The limit.
        queued_max: usize,
        /// `mails` or `tokens`.
        unit: &'static str,
        /// When those will be done.
        retry_after: Duration,
    },
    /// It could not be answered in time.
    Late {
        /// When it would be answered.
        expected: Duration,
        /// When the backlog will have shrunk to what leaves time for it.
        retry_after: Duration,
    },
}

/// A place in the queue for some jobs; given back when dropped.
#[derive(Debug)]
pub struct Admission<M: BatchModel> {
    shared: Arc<Shared<M>>,
    demand: Demand,
    /// Until its jobs are in the queue, which knows what they will take.
    pending: bool,
}

/// One model may take so many fifths of the room while others are there to want the rest.
const MODEL_FIFTHS: usize = 4;
/// Back-fills of all models leave room for whoever comes.
const BULK_FIFTHS: usize = 3;

/// What is admitted.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    all: Held,
    owners: Vec<(usize, Held)>,
    /// What admitted jobs will take that are not in the queue yet, by priority.
    pending: [Duration; Priority::ALL.len()],
}

#[derive(Clone, Copy, Debug, Default)]
struct Held {
    jobs: usize,
    tokens: usize,
}

impl AdmissionLimits {
    /// What all models together may take for such a demand, and what one may.
    fn of(self, demand: &Demand) -> (Self, Self) {
        let part = |fifths: usize| Self {
            jobs_max: (self.jobs_max * fifths).div_ceil(5),
            tokens_max: (self.tokens_max * fifths).div_ceil(5),
        };
        let all = if demand.priority == Priority::Bulk { part(BULK_FIFTHS) } else { self };
        (all, part(MODEL_FIFTHS))
    }
}

impl Held {
    fn refuses(
        &self,
        demand: &Demand,
        limits: AdmissionLimits,
    ) -> Option<(usize, usize, &'static str)> {
        let within =
            |held: usize, more: usize, max| held.checked_add(more).is_some_and(|n| n <= max);
        if !within(self.jobs, demand.jobs, limits.jobs_max) {
            return Some((self.jobs, limits.jobs_max, "mails"));
        }
        let fits = self.jobs == 0 || within(self.tokens, demand.tokens, limits.tokens_max);
        (!fits).then_some((self.tokens, limits.tokens_max, "tokens"))
    }
}

impl Ledger {
    fn of(&self, owner: usize) -> Held {
        let known = self.owners.iter().find(|(known, _)| *known == owner);
        known.map_or(Held::default(), |&(_, held)| held)
    }

    fn change(&mut self, owner: usize, change: impl Fn(&mut Held)) {
        change(&mut self.all);
        match self.owners.iter_mut().find(|(known, _)| *known == owner) {
            Some((_, held)) => change(held),
            None => {
                let mut held = Held::default();
                change(&mut held);
                self.owners.push((owner, held));
            }
        }
        self.owners.retain(|(_, held)| held.jobs > 0);
    }

    pub(super) fn jobs(&self) -> usize {
        self.all.jobs
    }

    /// What admitted jobs of this priority and those before it will take that are not queued yet.
    fn pending(&self, priority: Priority) -> Duration {
        self.pending[..=priority as usize].iter().sum()
    }
}

impl<M: BatchModel> State<M> {
    /// Lets a request in, all of it or nothing.
    pub(super) fn admit(
        &mut self,
        demand: &Demand,
        limits: AdmissionLimits,
        now: Instant,
    ) -> Result<(), Refused> {
        let (all_max, own_max) = limits.of(demand);
        let (all, own) = (self.ledger.all, self.ledger.of(demand.owner));
        // With nobody else there, nothing is kept free for others.
        let own_max = if all.jobs == own.jobs { all_max } else { own_max };
        let full = all.refuses(demand, all_max).or_else(|| own.refuses(demand, own_max));
        if let Some((queued, queued_max, unit)) = full {
            let retry_after = self.backlog(now);
            return Err(Refused::Full { queued, queued_max, unit, retry_after });
        }
        self.is_in_time(demand, 0, now)?;
        self.ledger.change(demand.owner, |held| {
            held.jobs += demand.jobs;
            held.tokens += demand.tokens;
        });
        self.ledger.pending[demand.priority as usize] += demand.cost;
        Ok(())
    }

    /// Refuses what would be late for what is admitted already, `own_jobs` of it the demand's. Whoever
    /// finds nobody before him tries, however little time he has.
    fn is_in_time(&self, demand: &Demand, own_jobs: usize, now: Instant) -> Result<(), Refused> {
        if self.ledger.jobs() == own_jobs {
            return Ok(());
        }
        let who = (demand.owner, demand.priority);
        let ahead = self.queue.ahead(who, demand.cost, now) + self.ledger.pending(demand.priority);
        let expected = (ahead + demand.cost).mul_f64(1.0 + MARGIN);
        let left = demand.deadline.saturating_duration_since(now);
        if expected > left {
            return Err(Refused::Late { expected, retry_after: expected - left });
        }
        Ok(())
    }

    /// What all that is admitted will take.
    pub(super) fn backlog(&self, now: Instant) -> Duration {
        self.queue.backlog(now) + self.ledger.pending(Priority::Bulk)
    }
}

impl<M: BatchModel> Admission<M> {
    pub(super) fn new(shared: Arc<Shared<M>>, demand: Demand) -> Self {
        Self { shared, demand, pending: true }
    }

    /// Its jobs are about to join the queue: now it is known what they have and what they take.
    ///
    /// # Errors
    /// [`Refused::Late`] if that is so much more than was guessed that they would be late.
    pub(super) fn queued(
        &mut self,
        state: &mut State<M>,
        (tokens, cost): (usize, Duration),
        now: Instant,
    ) -> Result<(), Refused> {
        self.leave_pending(&mut state.ledger);
        let guessed = std::mem::replace(&mut self.demand.tokens, tokens);
        state.ledger.change(self.demand.owner, |held| held.tokens = held.tokens - guessed + tokens);
        let guessed = std::mem::replace(&mut self.demand.cost, cost);
        if cost > guessed { state.is_in_time(&self.demand, self.demand.jobs, now) } else { Ok(()) }
    }

    fn leave_pending(&mut self, ledger: &mut Ledger) {
        if std::mem::take(&mut self.pending) {
            ledger.pending[self.demand.priority as usize] -= self.demand.cost;
        }
    }
}

impl<M: BatchModel> Drop for Admission<M> {
    fn drop(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state.lock();
        self.leave_pending(&mut state.ledger);
        let Demand { owner, jobs, tokens, .. } = self.demand;
        state.ledger.change(owner, |held| {
            held.jobs -= jobs;
            held.tokens -= tokens;
        });
        drop(state);
        shared.room.notify_waiters();
    }
}
