//! Which windows of which queued jobs make the next forward pass: pure functions of the queue, the
//! limits and the time.
//!
//! - Deadlines first: if the job that would go next made another one late that would be in time
//!   otherwise, the jobs go by their deadlines instead (earliest deadline first, which meets them
//!   all if anything can: Liu and Layland, 1973).
//! - Then by class: the priority, lifted one step for each [`AGED_AFTER`] of waiting, so that
//!   nothing starves. Between models only waiting counts in which the model was not served at all:
//!   one that is asked more than it can do does not pass others by for its own queue.
//! - Within a class the model that used the engine least goes first: see [`Shares`].
//! - Within a model short jobs go before long ones, by a virtual deadline that grows with the cost:
//!   a job of cost `c` is overtaken by those that come up to [`STRETCH`]` × c` after it.
//!
//! A pass is filled with jobs of the same model and class while that pays: until its own cost, which
//! all that are in it share, is a twentieth of the whole. On a CPU that is soon, on a GPU late.
//! Beyond that a larger pass would only let its jobs, and those that come meanwhile, wait longer. A
//! job's windows need not be in one pass, so a long mail holds up others for one window only.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use super::job::Priority;

/// What the plan needs to know of a queued job.
#[derive(Clone, Copy, Debug)]
pub struct QueuedJob {
    /// Jobs of equal identity may share a forward pass.
    pub identity: usize,
    /// Whose share of the engine it uses.
    pub owner: usize,
    /// Which goes first.
    pub priority: Priority,
    /// When it joined the queue.
    pub queued_at: Instant,
    /// After this nobody wants the answer.
    pub deadline: Instant,
    /// Windows still to compute, at least one.
    pub windows: usize,
    /// Tokens of these windows.
    pub tokens: usize,
    /// What these windows will take; zero where nothing is known of the model.
    pub cost: Duration,
    /// What a pass takes beside its windows.
    pub pass_cost: Duration,
}

/// Bounds of one forward pass.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Most tokens; a single window that is larger runs alone.
    pub tokens_max: usize,
    /// Most jobs.
    pub jobs_max: usize,
}

/// The first windows of a queued job that are still to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// Position in the queue.
    pub at: usize,
    /// How many windows.
    pub windows: usize,
}

/// A job is lifted by one class when it has waited for so long.
pub const AGED_AFTER: Duration = Duration::from_secs(2);
/// How many times its own cost a job may be overtaken.
pub const STRETCH: u32 = 8;
/// Computing takes longer than expected by up to this part before a deadline is missed.
pub(super) const MARGIN: f64 = 0.15;
/// A pass is filled until its own cost is this part of the whole.
const PASS_PART: u32 = 20;

/// Engine time that owners have used, as start-time fair queueing counts it (Goyal, Vin, Cheng
/// 1996): who was idle has saved nothing up, who was busy owes nothing to those who were not there.
#[derive(Debug, Default)]
pub struct Shares {
    /// What the owner had used that was served last.
    clock: Duration,
    /// Owners that have used more than that.
    ahead: Vec<Used>,
}

#[derive(Clone, Copy, Debug)]
struct Used {
    owner: usize,
    used: Duration,
    served_at: Instant,
}

impl Shares {
    /// What the owner is taken to have used.
    #[must_use]
    pub fn used(&self, owner: usize) -> Duration {
        self.of(owner).map_or(self.clock, |known| known.used.max(self.clock))
    }

    /// The owner was served until `now`.
    pub fn charge(&mut self, owner: usize, cost: Duration, now: Instant) {
        let start = self.used(owner);
        self.clock = start;
        self.ahead.retain(|known| known.owner != owner && known.used > start);
        self.ahead.push(Used { owner, used: start + cost, served_at: now });
    }

    fn of(&self, owner: usize) -> Option<&Used> {
        self.ahead.iter().find(|known| known.owner == owner)
    }

    /// Since when the job waits without anything of its owner being served.
    fn neglected_since(&self, job: &QueuedJob) -> Instant {
        self.of(job.owner).map_or(job.queued_at, |known| known.served_at.max(job.queued_at))
    }
}

impl QueuedJob {
    /// After waiting since then; 0 goes first.
    fn class(&self, since: Instant, now: Instant) -> u32 {
        let waited = now.saturating_duration_since(since);
        let lifts = waited.as_millis() / AGED_AFTER.as_millis();
        (self.priority as u32).saturating_sub(u32::try_from(lifts).unwrap_or(u32::MAX))
    }

    /// What a job is overtaken until, but never into the last quarter of its time: what is begun at
    /// the last moment is late for any noise.
    fn virtual_deadline(&self) -> Instant {
        let time = self.deadline.saturating_duration_since(self.queued_at);
        let latest = (time - time / 4).saturating_sub(self.cost.mul_f64(1.0 + MARGIN));
        self.queued_at + (self.cost * STRETCH).min(latest)
    }

    /// With a pass of its own, which is the most that it can take.
    pub(super) fn cost_alone(&self) -> Duration {
        self.cost + self.pass_cost
    }

    /// Of one of its windows, which are alike but for the last.
    fn window(&self) -> (usize, Duration) {
        let windows = self.windows.max(1);
        (self.tokens.div_ceil(windows), self.cost / u32::try_from(windows).unwrap_or(u32::MAX))
    }
}

/// The next forward pass; empty only for an empty queue. The order of the queue decides nothing but
/// ties.
#[must_use]
pub fn next_batch(
    queue: &[QueuedJob],
    limits: BatchLimits,
    shares: &Shares,
    now: Instant,
) -> Vec<Pick> {
    if let [alone] = queue {
        return fill(queue, &[0], limits, alone.pass_cost);
    }
    let between_models = |job: &&QueuedJob| {
        (job.class(shares.neglected_since(job), now), shares.used(job.owner), job.queued_at)
    };
    let Some(model) = queue.iter().min_by_key(between_models) else { return Vec::new() };
    let class = |job: &QueuedJob| job.class(job.queued_at, now);
    let order = |job: &QueuedJob| (class(job), job.virtual_deadline(), job.queued_at);
    let of_model = (0..queue.len()).filter(|&at| queue[at].owner == model.owner);
    let Some(first) = of_model.min_by_key(|&at| order(&queue[at])) else { return Vec::new() };
    let urgent = most_urgent(queue, first, now);
    let leader_at = urgent.unwrap_or(first);
    let leader = &queue[leader_at];
    let joins = |job: &QueuedJob| {
        job.identity == leader.identity && (urgent.is_some() || class(job) == class(leader))
    };
    let mut members: Vec<usize> = (0..queue.len()).filter(|&at| joins(&queue[at])).collect();
    if urgent.is_some() {
        members.sort_by_key(|&at| (queue[at].deadline, queue[at].queued_at));
    } else {
        members.sort_by_key(|&at| order(&queue[at]));
    }
    // It is the first of them already, unless an earlier deadline cannot be met any more.
    if let Some(at) = members.iter().position(|&at| at == leader_at) {
        members[..=at].rotate_right(1);
    }
    fill(queue, &members, limits, leader.pass_cost)
}

/// Windows of `members`, in this order, while they fit and it pays. What does not fit is passed
/// over, so one long mail does not keep short ones out.
fn fill(
    queue: &[QueuedJob],
    members: &[usize],
    limits: BatchLimits,
    pass_cost: Duration,
) -> Vec<Pick> {
    let known = !pass_cost.is_zero();
    let cost_max = if known { pass_cost * (PASS_PART - 1) } else { Duration::MAX };
    let (mut picks, mut tokens, mut cost) = (Vec::new(), 0, Duration::ZERO);
    for &at in members {
        let (window_tokens, window_cost) = queue[at].window();
        let mut windows = 0;
        while windows < queue[at].windows
            && (tokens == 0
                || (tokens + window_tokens <= limits.tokens_max && cost + window_cost <= cost_max))
        {
            windows += 1;
            tokens += window_tokens.max(1);
            cost += window_cost;
        }
        if windows > 0 {
            picks.push(Pick { at, windows });
        }
        if picks.len() == limits.jobs_max {
            break;
        }
    }
    picks
}

/// The job with the nearest deadline that can be met, if running a window of `first` before it made
/// it or another one late.
fn most_urgent(queue: &[QueuedJob], first: usize, now: Instant) -> Option<usize> {
    let work: Duration = queue.iter().map(QueuedJob::cost_alone).sum();
    if queue.iter().all(|job| now + work.mul_f64(1.0 + MARGIN) <= job.deadline) {
        return None;
    }
    let mut by_deadline: Vec<usize> = (0..queue.len()).collect();
    by_deadline.sort_by_key(|&at| (queue[at].deadline, Reverse(queue[at].priority)));
    let held_up = queue[first].window().1 + queue[first].pass_cost;
    let (mut work, mut urgent) = (Duration::ZERO, None);
    for at in by_deadline {
        if at == first {
            // Whoever comes after it waits for it either way.
            return None;
        }
        let (job, with_it) = (&queue[at], work + queue[at].cost_alone());
        if now + with_it > job.deadline {
            continue;
        }
        work = with_it;
        urgent = urgent.or(Some(at));
        if now + work.mul_f64(1.0 + MARGIN) + held_up > job.deadline {
            return urgent;
        }
    }
    None
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
