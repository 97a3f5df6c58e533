//! Where models come from, and why one cannot be had.

use std::sync::Arc;
use std::time::Duration;

/// What there is to load: one revision of one model.
pub trait Spec: Send + Sync + 'static {
    /// What it is known by in memory; another revision has another key.
    fn key(&self) -> &str;
}

/// Bytes that a model takes, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The device, by its position among the budgets.
    pub device: usize,
    /// For itself alone.
    pub own_bytes: u64,
    /// For a part that other models on the device may share: what it is known by, and its bytes. It is charged
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

    /// The device that it goes to and the bytes that it will take there at most, while it is loaded and after; known before its weights are
    /// packed.
    ///
    /// # Errors
    /// The model cannot be found or described.
    fn estimate(&self, spec: &Self::Spec) -> Result<Needs, Self::Error>;

    /// Loads it on the device that the estimate named; returns it with the bytes that it really
    /// takes there. What it shares it finds in memory, or leaves there for others.
    ///
    /// # Errors
    /// The model cannot be loaded.
    fn load(
        &self,
        spec: &Arc<Self::Spec>,
        device: usize,
    ) -> Result<(Self::Model, Needs), Self::Error>;

    /// Whether a load failed because its device had no memory left, whatever the budget says: others
    /// may use it, too. Idle models are then evicted from it and the load is tried again.
    fn is_out_of_memory(&self, error: &Self::Error) -> bool;

    /// Told of such a load: how many models were evicted for it; zero if none was idle, so that it
    /// has failed.
    fn ran_out_of_memory(&self, device: usize, evicted: usize);

    /// The error of a load that panicked.
    fn panicked(&self, spec: &Self::Spec) -> Self::Error;

    /// The error of a load that took more bytes than were estimated, and more than there were.
    fn outgrew(&self, spec: &Self::Spec, bytes: u64) -> Self::Error;
}

/// Why there is no lease.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ResidencyError<E> {
    /// The model alone is larger than its device's whole budget; nothing was evicted for it.
    #[error("model needs {needed_bytes} bytes, the budget is {budget_bytes}")]
    LargerThanBudget {
        /// Bytes that the model needs.
        needed_bytes: u64,
        /// Bytes that all models on the device together may take.
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
