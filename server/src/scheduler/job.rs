//! One mail on its way to the engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use postsort_models::{Encoding, ModelError};
use tokio::sync::oneshot;

/// What the scheduler needs of a model; cheap to clone and keeping it alive.
pub trait BatchModel: Clone + Send + 'static {
    /// Jobs of equal identity may share a forward pass.
    fn identity(&self) -> usize;

    /// Logits `[sequences][labels]` of a batch.
    ///
    /// # Errors
    /// The engine failed; the whole batch has no answer.
    fn forward(&self, batch: &[&Encoding]) -> Result<Vec<Vec<f32>>, ModelError>;

    /// Told when a job joins the queue.
    fn queued(&self, tokens: usize);

    /// Told when a job leaves the queue, to run or not.
    fn dequeued(&self, tokens: usize);

    /// Told of each forward pass.
    fn batched(&self, tokens: usize, jobs: usize);
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

/// One mail: all its windows run in one forward pass.
#[derive(Debug)]
pub struct Job<M> {
    /// The model, leased for as long as the job lives.
    pub model: M,
    /// The mail's windows, at least one.
    pub windows: Vec<Encoding>,
    /// Tokens of all windows.
    pub tokens: usize,
    /// Which goes first.
    pub priority: Priority,
    /// After this nobody wants the answer.
    pub deadline: Instant,
    /// When it joined the queue.
    pub queued_at: Instant,
    /// Where the answer goes. Closed when the client has gone away.
    pub reply: oneshot::Sender<Result<JobDone, JobError>>,
}

/// A computed mail.
#[derive(Clone, Debug, PartialEq)]
pub struct JobDone {
    /// Logits `[windows][labels]`.
    pub logits: Vec<Vec<f32>>,
    /// From joining the queue to the start of the forward pass.
    pub queue_wait: Duration,
    /// The forward pass that it was in.
    pub infer: Duration,
}

/// A job without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobError {
    /// Its deadline passed before the forward pass began.
    Expired,
    /// The engine failed or panicked.
    Engine(String),
}

/// A place in the queue for some jobs; given back when dropped.
#[derive(Debug)]
pub struct Admission {
    pub(super) jobs: usize,
    pub(super) admitted_jobs: Arc<AtomicUsize>,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.admitted_jobs.fetch_sub(self.jobs, Ordering::AcqRel);
    }
}
