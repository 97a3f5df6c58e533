//! What is written.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A digest of a mail's text, or of all that an answer depends on.
pub type DigestBytes = [u8; 16];

/// A model's revision.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RevisionName {
    /// The model.
    pub model: String,
    /// Its revision.
    pub revision: String,
    /// Names of the labels, in the order of scores.
    pub labels: Vec<String>,
}

/// What was said of one mail.
#[derive(Clone, Debug)]
pub struct VerdictRecord {
    /// When.
    pub at: SystemTime,
    /// The request's id.
    pub request_id: Arc<str>,
    /// The mail's place in the request.
    pub item: u32,
    /// Digest of the mail's text.
    pub mail: DigestBytes,
    /// Who was asked.
    pub revision: Arc<RevisionName>,
    /// The model that answered, where it is another.
    pub answered_by: Option<Arc<str>>,
    /// Position of the best label.
    pub label: usize,
    /// Its score.
    pub confidence: f32,
    /// Scores of all labels, in their order.
    pub scores: Box<[f32]>,
    /// Tokens read.
    pub tokens: u32,
    /// Windows read.
    pub windows: u32,
    /// Whether a part of the text was not read.
    pub truncated: bool,
    /// Whether the answer was known already.
    pub cached: bool,
    /// Waiting for the engine.
    pub queue: Duration,
    /// The forward pass.
    pub infer: Duration,
    /// All of it.
    pub total: Duration,
}

impl VerdictRecord {
    pub(crate) fn flags(&self) -> i64 {
        i64::from(self.truncated) | (i64::from(self.cached) << 1)
    }

    pub(crate) fn label_name(&self) -> &str {
        self.revision.labels.get(self.label).map_or("", String::as_str)
    }

    pub(crate) fn scores_bytes(&self) -> Vec<u8> {
        self.scores.iter().flat_map(|score| score.to_le_bytes()).collect()
    }
}

/// Scores as [`VerdictRecord::scores_bytes`] wrote them.
pub(crate) fn scores_of(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

/// A memoized answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerRecord {
    /// Digest of all that it depends on.
    pub digest: DigestBytes,
    /// The answer, as whoever reads it again writes it.
    pub value: Box<[u8]>,
}

/// The objectives' figures at one minute.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct ObjectivesRecord {
    /// Minutes since 1970.
    pub minute: i64,
    /// Requests of the last five minutes.
    pub requests: u64,
    /// 95th percentile of the latency.
    pub p95_seconds: Option<f64>,
    /// Share of requests that failed by our fault.
    pub error_share: Option<f64>,
    /// Share of the memory that is resident.
    pub memory_share: Option<f64>,
    /// Share of requests of the last hour that were answered.
    pub availability: Option<f64>,
}

/// One row to be written.
#[derive(Debug)]
pub(crate) enum Row {
    Verdict(Box<VerdictRecord>),
    Answer(AnswerRecord),
    Objectives(ObjectivesRecord),
    /// Tells when all rows before it are in the database, or lost.
    Flushed(tokio::sync::oneshot::Sender<()>),
}
