//! Where models come from, and why one cannot be had.

use std::sync::Arc;
use std::time::Duration;

/// What there is to load: one revision of one model.
pub trait Spec: Send + Sync + 'static {
    /// What it is known by in memory; another revision has another key.
    fn key(&self) -> &str;
}

/// Bytes that a model takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// For itself alone.
    pub own_bytes: u64,
    /// For a part that other models may share: what it is known by, and its bytes. It is charged
    /// once for all that have it.
    pub shared: Option<(String, u64)>,
}

impl Needs {
    /// All of it, as if nothing were shared.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.own_bytes + self.shared.as_ref().map_or(0, |(_, bytes)| *bytes)
    }
}

/// Where models come from. `load` runs on a thread of its own and may take seconds.
pub trait Source: Send + Sync + 'static {
    /// What there is to load.
    type Spec: Spec;
    /// A loaded model.
    type Model: Send + Sync + 'static;
    /// Why a model could not be loaded; kept and handed to everyone who asks during the back-off.
    type Error: Clone + Send + Sync + 'static;

    /// Bytes that it will take at most, while it is loaded and after; known before its weights are
    /// packed.
    ///
    /// # Errors
    /// The model cannot be found or described.
    fn estimate(&self, spec: &Self::Spec) -> Result<Needs, Self::Error>;

    /// Loads it; returns it with the bytes that it really takes. What it shares it finds in memory,
    /// or leaves there for others.
    ///
    /// # Errors
    /// The model cannot be loaded.
    fn load(&self, spec: &Arc<Self::Spec>) -> Result<(Self::Model, Needs), Self::Error>;

    /// The error of a load that panicked.
    fn panicked(&self, spec: &Self::Spec) -> Self::Error;

    /// The error of a load that took more bytes than were estimated, and more than there were.
    fn outgrew(&self, spec: &Self::Spec, bytes: u64) -> Self::Error;
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
    /// It would fit, but for what is pinned.
    #[error("model needs {needed_bytes} bytes, {free_bytes} are not taken by pinned models")]
    NoRoom {
        /// Bytes that the model needs.
        needed_bytes: u64,
        /// Bytes that pinned models leave.
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
    /// The revision was retired: another one takes its place.
    #[error("the revision was retired")]
    Retired,
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

impl Backoff {
    pub(super) fn after(self, failures_in_a_row: u32) -> Duration {
        self.first.saturating_mul(1 << failures_in_a_row.min(16)).min(self.max)
    }
}
