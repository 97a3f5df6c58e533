//! One model's metrics: handles looked up once, not once a request.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use postsort_cache::{EvictionReason, ModelState};

use super::metrics::Metrics;
use super::names;
use super::registry::{Counter, Gauge, Histogram};
use crate::error::Error;
use crate::scheduler::DropReason;

/// A part of a request's time; the `stage` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Mail to text.
    Decode,
    /// Waiting for the engine.
    Queue,
    /// Text to token ids.
    Tokenize,
    /// The forward pass that the mail was in.
    Infer,
    /// From the parsed request to the answer.
    Total,
}

impl Stage {
    const NAMES: [&'static str; 5] = ["decode", "queue", "tokenize", "infer", "total"];
}

/// How a request to a model ended; the `outcome` label. All but the first are failures, named as
/// Triton names their reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered.
    Ok,
    /// The client's fault.
    Invalid,
    /// Refused for want of room.
    Rejected,
    /// Its deadline passed.
    Expired,
    /// The client went away.
    Cancelled,
    /// Our fault: loading or inference.
    Backend,
}

impl Outcome {
    const ALL: [Self; 6] =
        [Self::Ok, Self::Invalid, Self::Rejected, Self::Expired, Self::Cancelled, Self::Backend];

    /// The outcome's name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Invalid => "invalid",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Backend => "backend",
        }
    }
}

impl From<&Error> for Outcome {
    fn from(error: &Error) -> Self {
        match error {
            Error::Malformed { .. }
            | Error::UnknownEndpoint { .. }
            | Error::UnknownModel { .. }
            | Error::UnknownRevision { .. }
            | Error::UnknownVerdict { .. }
            | Error::NoStore
            | Error::Conflict { .. }
            | Error::OtherSite
            | Error::TooLarge { .. }
            | Error::UnsupportedMediaType { .. }
            | Error::BodyTimeout { .. }
            | Error::Unusable { .. } => Self::Invalid,
            Error::Overloaded { .. }
            | Error::NotInTime { .. }
            | Error::NoRoom { .. }
            | Error::Draining => Self::Rejected,
            Error::Deadline { .. } => Self::Expired,
            Error::LoadFailed { .. }
            | Error::LargerThanBudget { .. }
            | Error::Superseded { .. }
            | Error::StoreAway { .. }
            | Error::Inference { .. }
            | Error::Internal
            | Error::Setup { .. } => Self::Backend,
        }
    }
}

/// Why a request was refused; the `reason` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectReason {
    /// The queue is full.
    QueueFull,
    /// Models in use fill the memory.
    NoRoom,
    /// The server is shutting down.
    Draining,
    /// What waits already leaves no time for it.
    NotInTime,
}

impl RejectReason {
    const NAMES: [&'static str; 4] = ["queue_full", "no_room", "draining", "not_in_time"];

    /// The reason of an error whose outcome is [`Outcome::Rejected`].
    #[must_use]
    pub const fn of(error: &Error) -> Option<Self> {
        match error {
            Error::Overloaded { .. } => Some(Self::QueueFull),
            Error::NoRoom { .. } => Some(Self::NoRoom),
            Error::Draining => Some(Self::Draining),
            Error::NotInTime { .. } => Some(Self::NotInTime),
            _ => None,
        }
    }
}

/// One model's handles, and the counts that the dashboard reads back.
#[derive(Debug)]
pub struct ModelMetrics {
    outcomes: [Counter; Outcome::ALL.len()],
    mails: Counter,
    stages: [Histogram; Stage::NAMES.len()],
    batch_tokens: Histogram,
    batch_jobs: Histogram,
    queue_tokens: Gauge,
    /// What the gauge is set to when somebody looks.
    queued: AtomicI64,
    rejected: [Counter; RejectReason::NAMES.len()],
    dropped: [Counter; 2],
    /// By tier: this process's memory, what several share.
    cache_hits: [Counter; 2],
    cache_misses: Counter,
    state_hits: Counter,
    state_misses: Counter,
    /// By device.
    resident_bytes: Vec<Gauge>,
    pinned: Gauge,
    leases: Gauge,
    states: [Gauge; ModelState::ALL.len()],
    load_duration: Histogram,
    load_failures: Counter,
    evictions: [Counter; EvictionReason::ALL.len()],
    switches: Counter,
    shadow_mails: [Counter; 2],
    cascade_mails: [Counter; 2],
    skimmed_mails: [Counter; 2],
    feedback: [Counter; 2],
}

/// Counts of one model since the start, and its queue now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ModelTally {
    /// Mails answered from memory, or from what several processes share.
    pub cache_hits_total: u64,
    /// Mails that had to be computed.
    pub cache_misses_total: u64,
    /// Tokens that wait for the engine.
    pub queue_tokens: u64,
}

impl ModelMetrics {
    /// All series of the model exist from here on, at zero.
    pub(super) fn new(metrics: &Metrics, model: &str) -> Self {
        let counter = |name| metrics.counter(name, &[("model", model)]);
        let gauge = |name| metrics.gauge(name, &[("model", model)]);
        let histogram = |name| metrics.histogram(name, &[("model", model)]);
        let counter_of =
            |name, key, value| metrics.counter(name, &[("model", model), (key, value)]);
        let gauge_of = |name, key, value| metrics.gauge(name, &[("model", model), (key, value)]);
        Self {
            outcomes: Outcome::ALL
                .map(|outcome| counter_of(names::INFERENCE_REQUESTS, "outcome", outcome.as_str())),
            mails: counter(names::INFERENCE_MAILS),
            stages: Stage::NAMES.map(|stage| {
                metrics.histogram(names::INFERENCE_DURATION, &[("model", model), ("stage", stage)])
            }),
            batch_tokens: histogram(names::BATCH_TOKENS),
            batch_jobs: histogram(names::BATCH_JOBS),
            queue_tokens: gauge(names::QUEUE_TOKENS),
            queued: AtomicI64::default(),
            rejected: RejectReason::NAMES
                .map(|reason| counter_of(names::REJECTED, "reason", reason)),
            dropped: ["expired", "cancelled"]
                .map(|reason| counter_of(names::DROPPED, "reason", reason)),
            cache_hits: ["memory", "shared"]
                .map(|tier| counter_of(names::CACHE_HITS, "tier", tier)),
            cache_misses: counter(names::CACHE_MISSES),
            state_hits: counter(names::STATE_HITS),
            state_misses: counter(names::STATE_MISSES),
            resident_bytes: metrics
                .devices()
                .iter()
                .map(|device| gauge_of(names::RESIDENT_BYTES, "device", device))
                .collect(),
            pinned: gauge(names::MODEL_PINNED),
            leases: gauge(names::MODEL_LEASES),
            states: ModelState::ALL
                .map(|state| gauge_of(names::MODEL_STATE, "state", state.as_str())),
            load_duration: histogram(names::LOAD_DURATION),
            load_failures: counter(names::LOAD_FAILURES),
            evictions: EvictionReason::ALL
                .map(|reason| counter_of(names::EVICTIONS, "reason", reason.as_str())),
            switches: counter(names::MODEL_SWITCHES),
            shadow_mails: ["false", "true"]
                .map(|agreed| counter_of(names::SHADOW_MAILS, "agreed", agreed)),
            cascade_mails: ["false", "true"]
                .map(|escalated| counter_of(names::CASCADE_MAILS, "escalated", escalated)),
            skimmed_mails: ["false", "true"]
                .map(|escalated| counter_of(names::SKIMMED_MAILS, "escalated", escalated)),
            feedback: ["false", "true"].map(|agreed| counter_of(names::FEEDBACK, "agreed", agreed)),
        }
    }

    pub(crate) fn outcome(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].increment(1);
    }

    pub(crate) fn mails(&self, mails: usize) {
        self.mails.increment(mails as u64);
    }

    pub(crate) fn stage(&self, stage: Stage, duration: Duration) {
        self.stages[stage as usize].time(duration);
    }

    #[expect(clippy::cast_precision_loss, reason = "histograms are floats on the wire")]
    pub(crate) fn batch(&self, tokens: usize, jobs: usize) {
        self.batch_tokens.record(tokens as f64);
        self.batch_jobs.record(jobs as f64);
    }

    pub(crate) fn queued(&self, tokens: usize) {
        self.queued.fetch_add(tokens as i64, Ordering::Relaxed);
    }

    pub(crate) fn dequeued(&self, tokens: usize) {
        self.queued.fetch_sub(tokens as i64, Ordering::Relaxed);
    }

    pub(crate) fn rejected(&self, reason: RejectReason) {
        self.rejected[reason as usize].increment(1);
    }

    /// A mail that was let in is not computed.
    pub(crate) fn dropped(&self, reason: DropReason) {
        self.dropped[reason as usize].increment(1);
    }

    /// Mails answered by each tier, and by none.
    pub(crate) fn cache(&self, hits: [usize; 2], misses: usize) {
        for (counter, hits) in self.cache_hits.iter().zip(hits) {
            counter.increment(hits as u64);
        }
        self.cache_misses.increment(misses as u64);
    }

    /// Mails whose states were there, and those that were computed.
    pub(crate) fn states(&self, hits: usize, misses: usize) {
        self.state_hits.increment(hits as u64);
        self.state_misses.increment(misses as u64);
    }

    pub(crate) fn loaded(&self, duration: Duration) {
        self.load_duration.time(duration);
    }

    pub(crate) fn load_failed(&self) {
        self.load_failures.increment(1);
    }

    /// Another revision answers.
    pub(crate) fn switched(&self) {
        self.switches.increment(1);
    }

    /// A mail was read by the revision that is tried, too.
    pub(crate) fn shadowed(&self, agreed: bool) {
        self.shadow_mails[usize::from(agreed)].increment(1);
    }

    /// Somebody said what is true of a mail.
    pub(crate) fn feedback(&self, agreed: bool) {
        self.feedback[usize::from(agreed)].increment(1);
    }

    /// Mails that the model had to answer itself, and those that a cheaper one answered.
    pub(crate) fn cascade(&self, escalated: usize, spared: usize) {
        self.cascade_mails[1].increment(escalated as u64);
        self.cascade_mails[0].increment(spared as u64);
    }

    /// A long text was skimmed, or all of it read in the end.
    pub(crate) fn skimmed(&self, whole: bool) {
        self.skimmed_mails[usize::from(whole)].increment(1);
    }

    /// The model is gone: nothing of it is in memory, in whatever state.
    pub(crate) fn removed(&self) {
        let gauges = [&self.pinned, &self.leases, &self.queue_tokens];
        for gauge in gauges.into_iter().chain(&self.states).chain(&self.resident_bytes) {
            gauge.set(0.0);
        }
    }

    /// What the dashboard shows.
    #[must_use]
    pub fn tally(&self) -> ModelTally {
        let queue_tokens = self.queued.load(Ordering::Relaxed);
        ModelTally {
            cache_hits_total: self.cache_hits.iter().map(Counter::value).sum(),
            cache_misses_total: self.cache_misses.value(),
            queue_tokens: u64::try_from(queue_tokens).unwrap_or(0),
        }
    }

    /// What is in memory of it now; the bytes by device.
    #[expect(clippy::cast_precision_loss, reason = "gauges are floats on the wire")]
    pub(crate) fn set_residency<E>(
        &self,
        stats: &postsort_cache::ResidencyStats<E>,
        resident_bytes: &[(String, u64)],
    ) {
        self.queue_tokens.set(self.tally().queue_tokens as f64);
        for (gauge, (_, bytes)) in self.resident_bytes.iter().zip(resident_bytes) {
            gauge.set(*bytes as f64);
        }
        self.pinned.set(f64::from(stats.pinned));
        self.leases.set(stats.leases as f64);
        for (counter, evictions) in self.evictions.iter().zip(stats.evictions) {
            counter.absolute(evictions);
        }
        for (gauge, state) in self.states.iter().zip(ModelState::ALL) {
            gauge.set(f64::from(state == stats.state));
        }
    }
}
