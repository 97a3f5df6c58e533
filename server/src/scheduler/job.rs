//! One mail on its way to the engine.

use std::time::{Duration, Instant};

use postsort_models::{Encoding, ModelError};
use tokio::sync::oneshot;

use super::cost::CostModel;

/// What the scheduler needs of a model; cheap to clone and keeping it alive.
pub trait BatchModel: Clone + Send + 'static {
    /// Jobs of equal identity may share a forward pass.
    fn identity(&self) -> usize;

    /// Whose share of the engine it uses: all revisions of a model are one owner.
    fn owner(&self) -> usize;

    /// What its forward passes take.
    fn cost(&self) -> &CostModel;

    /// States `[sequences][numbers]` of a batch.
    ///
    /// # Errors
    /// [`ModelError::OutOfMemory`]: the device has no memory left for it. Else the engine failed.
    fn encode(&self, batch: &[&Encoding]) -> Result<Vec<Vec<f32>>, ModelError>;

    /// Drops something idle from the device, which has no memory left; whether there was something.
    fn make_room(&self) -> bool;

    /// Told each time that the device had no memory left for a batch: what is done about it.
    fn ran_out_of_memory(&self, relief: Relief);

    /// Told when a job joins the queue.
    fn queued(&self, tokens: usize);

    /// Told when windows leave the queue, to run or not.
    fn dequeued(&self, tokens: usize);

    /// Told of each forward pass.
    fn batched(&self, tokens: usize, jobs: usize);

    /// Told of a job that is not computed, or not to its end.
    fn dropped(&self, reason: DropReason);
}

/// Why a job is not computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// Its deadline has passed, or would before it is done.
    Expired,
    /// Its client has gone away.
    Cancelled,
}

/// What is done where a device has no memory left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relief {
    /// Idle models were dropped from it, and the same is tried again.
    Evicted,
    /// The batch is computed in halves.
    Split,
    /// The CPU takes it.
    FellBack,
}

impl Relief {
    /// All, in the order in which they are tried.
    pub const ALL: [Self; 3] = [Self::Evicted, Self::Split, Self::FellBack];

    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Evicted => "evicted",
            Self::Split => "split",
            Self::FellBack => "fell_back",
        }
    }
}

/// Which mail goes first.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    serde::Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Somebody waits for it.
    Interactive,
    /// Ordinary traffic.
    #[default]
    Normal,
    /// Back-fills.
    Bulk,
}

impl Priority {
    /// All, the first first.
    pub const ALL: [Self; 3] = [Self::Interactive, Self::Normal, Self::Bulk];
}

/// One mail.
#[derive(Debug)]
pub struct Job<M> {
    /// The model, leased for as long as the job lives.
    pub model: M,
    /// The mail's windows, at least one.
    pub windows: Vec<Encoding>,
    /// Which goes first.
    pub priority: Priority,
    /// After this nobody wants the answer.
    pub deadline: Instant,
    /// When it joined the queue.
    pub queued_at: Instant,
    /// Where the answer goes. Closed when the client has gone away.
    pub reply: oneshot::Sender<Result<JobDone, JobError>>,
}

/// Tokens of these windows of one model, and what they add to a pass.
pub(super) fn work(model: &impl BatchModel, windows: &[Encoding]) -> (usize, Duration) {
    windows.iter().fold((0, Duration::ZERO), |(tokens, cost), window| {
        let more = window.ids.len();
        (tokens + more, cost + model.cost().sequence(more))
    })
}

/// A computed mail.
#[derive(Clone, Debug, PartialEq)]
pub struct JobDone {
    /// States `[windows][labels]`.
    pub states: Vec<Vec<f32>>,
    /// From joining the queue to the answer, less the forward passes.
    pub queue_wait: Duration,
    /// The forward passes that its windows were in.
    pub infer: Duration,
}

/// A job without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobError {
    /// Its deadline passed, or would have before it was done.
    Expired,
    /// The engine failed or panicked.
    Engine(String),
    /// The model's device has no memory for it, not even alone.
    OutOfMemory,
}
