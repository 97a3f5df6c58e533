//! Everything that can go wrong with a request, as facts. [`crate::http`] maps them to statuses.

use std::time::Duration;

use postsort_store::StoreError;

/// Why there is no answer. Never carries a word of the message.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The body is not what the endpoint reads.
    #[error("malformed request at `{path}`: expected {expected}")]
    Malformed {
        /// JSON path (`inputs[3].subject`), header or query parameter.
        path: String,
        /// What should be there.
        expected: String,
        /// Line of a JSON body, from 1; zero where that says nothing.
        line: usize,
        /// Column of a JSON body, from 1; zero where that says nothing.
        column: usize,
    },
    /// No such endpoint.
    #[error("no such endpoint: {method} {path}")]
    UnknownEndpoint {
        /// HTTP method.
        method: String,
        /// Request path.
        path: String,
    },
    /// No model of that name is in the models folder.
    #[error("unknown model `{model}`")]
    UnknownModel {
        /// The name asked for, shortened.
        model: String,
    },
    /// A body, a text or a list over its limit.
    #[error("{what} has {size} {unit}, the limit is {size_max}")]
    TooLarge {
        /// What is too large: `body`, `inputs[3]`, `inputs`.
        what: String,
        /// Its size; a body that is cut off says the least that it must have.
        size: usize,
        /// The limit.
        size_max: usize,
        /// `bytes`, `items` or `tokens`.
        unit: &'static str,
    },
    /// The content type is not one that the endpoint reads.
    #[error("unsupported content type; this endpoint reads {supported}")]
    UnsupportedMediaType {
        /// What the endpoint reads.
        supported: &'static str,
    },
    /// Well-formed, but no model can read it.
    #[error("inputs[{index}] is unusable: {reason}")]
    Unusable {
        /// Position in `inputs`.
        index: usize,
        /// Why.
        reason: String,
    },
    /// The body did not arrive in time.
    #[error("the body did not arrive within {} ms", limit.as_millis())]
    BodyTimeout {
        /// The limit.
        limit: Duration,
    },
    /// The queue is full.
    #[error("overloaded: {queued} {unit} are queued, the limit is {queued_max}")]
    Overloaded {
        /// What waits or runs.
        queued: usize,
        /// The limit.
        queued_max: usize,
        /// `mails` or `tokens`.
        unit: &'static str,
        /// When that will be done, by the measured cost.
        retry_after: Duration,
    },
    /// What waits already leaves no time for it: refused before anything is done for it.
    #[error(
        "overloaded: the answer is expected in {} ms, the time limit is {} ms",
        expected.as_millis(), timeout.as_millis()
    )]
    NotInTime {
        /// When it would be answered, by the measured cost.
        expected: Duration,
        /// The limit that the request set.
        timeout: Duration,
        /// When there will be time for it.
        retry_after: Duration,
    },
    /// The request's own time limit passed.
    #[error("deadline of {} ms exceeded", timeout.as_millis())]
    Deadline {
        /// The limit that the request set.
        timeout: Duration,
    },
    /// The model's files are unusable.
    #[error("model `{model}` failed to load: {reason}")]
    LoadFailed {
        /// The model.
        model: String,
        /// Which file, and what is wrong with it.
        reason: String,
        /// When a load is tried again.
        retry_after: Duration,
    },
    /// Other models in use or pinned fill the memory.
    #[error("no room for model `{model}`: it needs {needed_bytes} bytes, {free_bytes} are free")]
    NoRoom {
        /// The model.
        model: String,
        /// Bytes that it needs.
        needed_bytes: u64,
        /// Bytes that are free.
        free_bytes: u64,
    },
    /// It would not fit if it were alone.
    #[error("model `{model}` needs {needed_bytes} bytes, the budget is {budget_bytes}")]
    LargerThanBudget {
        /// The model.
        model: String,
        /// Bytes that it needs.
        needed_bytes: u64,
        /// The budget.
        budget_bytes: u64,
    },
    /// The model has no revision of that name.
    #[error("model `{model}` has no revision `{revision}`")]
    UnknownRevision {
        /// The model.
        model: String,
        /// The name asked for, shortened.
        revision: String,
    },
    /// What an operator asks for does not go with the model's state.
    #[error("model `{model}`: {reason}")]
    Conflict {
        /// The model.
        model: String,
        /// Why not now.
        reason: &'static str,
    },
    /// A page of another site asks to change what is served.
    #[error("another site's page may not change what is served")]
    OtherSite,
    /// Another revision answers by now: the request starts over with that one.
    #[error("model `{model}` has changed its revision")]
    Superseded {
        /// The model.
        model: String,
    },
    /// There is no store.
    #[error("this server keeps nothing: it was started with `--store none`")]
    NoStore,
    /// The store does not answer.
    #[error("{reason}")]
    StoreAway {
        /// Why.
        reason: String,
    },
    /// Feedback to what the store does not know.
    #[error("no verdict of model `{model}` for that mail is in the store")]
    UnknownVerdict {
        /// The model.
        model: String,
    },
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Draining,
    /// The forward pass failed.
    #[error("inference failed on model `{model}`: {reason}")]
    Inference {
        /// The model.
        model: String,
        /// What the engine said.
        reason: String,
    },
    /// A fault of ours.
    #[error("internal error")]
    Internal,
    /// Reading a setting, a folder or a socket failed, while starting or on the command line.
    #[error("{what}: {reason}")]
    Setup {
        /// What was being done.
        what: String,
        /// Why it failed.
        reason: String,
    },
}

impl Error {
    /// A stable name for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "malformed_request",
            Self::UnknownEndpoint { .. } => "unknown_endpoint",
            Self::UnknownModel { .. } => "unknown_model",
            Self::TooLarge { .. } => "too_large",
            Self::UnsupportedMediaType { .. } => "unsupported_media_type",
            Self::Unusable { .. } => "unusable_input",
            Self::BodyTimeout { .. } => "body_timeout",
            Self::Overloaded { .. } | Self::NotInTime { .. } => "overloaded",
            Self::Deadline { .. } => "deadline_exceeded",
            Self::LoadFailed { .. } => "model_load_failed",
            Self::NoRoom { .. } => "no_room_for_model",
            Self::LargerThanBudget { .. } => "model_larger_than_budget",
            Self::UnknownRevision { .. } => "unknown_revision",
            Self::Conflict { .. } => "conflict",
            Self::OtherSite => "other_site",
            Self::Superseded { .. } => "superseded",
            Self::NoStore => "no_store",
            Self::StoreAway { .. } => "store_unavailable",
            Self::UnknownVerdict { .. } => "unknown_verdict",
            Self::Draining => "draining",
            Self::Inference { .. } => "inference_failed",
            Self::Internal | Self::Setup { .. } => "internal",
        }
    }

    /// When asking again makes sense.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Overloaded { retry_after, .. }
            | Self::NotInTime { retry_after, .. }
            | Self::LoadFailed { retry_after, .. } => Some(*retry_after),
            Self::NoRoom { .. }
            | Self::Superseded { .. }
            | Self::StoreAway { .. }
            | Self::Draining => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    /// The same error told of another input: items of a batch are decoded one by one.
    #[must_use]
    pub fn at_index(self, at: usize) -> Self {
        self.at_place(|_| at)
    }

    /// The same error of an input that has another place in the request than where it was met.
    pub(crate) fn at_place(mut self, place: impl Fn(usize) -> usize) -> Self {
        if let Self::Unusable { index, .. } = &mut self {
            *index = place(*index);
        }
        self
    }

    pub(crate) fn malformed(path: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::Malformed { path: path.into(), expected: expected.into(), line: 0, column: 0 }
    }

    /// `name` may be anything a client sent, so it is shortened.
    pub(crate) fn unknown_model(name: &str) -> Self {
        Self::UnknownModel { model: name.chars().take(100).collect() }
    }

    pub(crate) fn setup(what: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Setup { what: what.into(), reason: reason.to_string() }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::StoreAway { reason: error.to_string() }
    }
}
