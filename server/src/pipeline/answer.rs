//! What a request gets: logits by mail, and where the time went.

use std::sync::Arc;
use std::time::Duration;

use postsort_cache::Weigh;

use super::Explanation;
use crate::catalog::{Entry, Version};

/// A request's answer.
#[derive(Clone, Debug)]
pub struct Classified {
    /// The model.
    pub entry: Arc<Entry>,
    /// The revision of it that answered, all inputs.
    pub version: Arc<Version>,
    /// One a input, in their order.
    pub answers: Vec<Answer>,
    /// Where the time went.
    pub timings: Timings,
}

/// One mail's answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What the model said.
    pub verdict: Arc<Verdict>,
    /// Whether it was known already.
    pub cached: bool,
    /// The cheaper model that answered in the place of the one that was asked; the verdict is in
    /// the latter's labels.
    pub by: Option<Arc<Entry>>,
    /// Which parts of the text moved the score, if that was asked for.
    pub explanation: Option<Arc<Explanation>>,
}

impl Answer {
    pub(super) fn new(verdict: Arc<Verdict>, cached: bool) -> Self {
        Self { verdict, cached, by: None, explanation: None }
    }
}

/// What a model said of one text; what the result cache keeps.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Logits of the labels, windows aggregated.
    pub logits: Box<[f32]>,
    /// Tokens computed, special tokens included.
    pub tokens: usize,
    /// Windows computed.
    pub windows: usize,
    /// Whether a part of the text was not read.
    pub truncated: bool,
    /// Position of the label with the best score.
    pub first: usize,
    /// That score, after temperature.
    pub confidence: f32,
    /// Tokens that the tokenizer does not know.
    pub unknown_tokens: usize,
}

impl Weigh for Verdict {
    fn heap_bytes(&self) -> usize {
        size_of_val(&*self.logits)
    }
}

/// Where a request's time went. Of a batch: the longest of each.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// Mail to text.
    pub decode: Duration,
    /// Looking the mails up, and waiting for whoever computes the same.
    pub cache: Duration,
    /// Waiting for the model to be loaded.
    pub load: Duration,
    /// Waiting for the engine.
    pub queue: Duration,
    /// Text to token ids.
    pub tokenize: Duration,
    /// The forward pass.
    pub infer: Duration,
    /// All of it.
    pub total: Duration,
}

impl Timings {
    /// What followed this.
    pub(super) fn then(self, next: Self) -> Self {
        Self {
            decode: self.decode + next.decode,
            cache: self.cache + next.cache,
            load: self.load + next.load,
            queue: self.queue + next.queue,
            tokenize: self.tokenize + next.tokenize,
            infer: self.infer + next.infer,
            total: self.total.max(next.total),
        }
    }

    /// In the order in which they take place.
    #[must_use]
    pub const fn stages(&self) -> [(&'static str, Duration); 6] {
        [
            ("decode", self.decode),
            ("cache", self.cache),
            ("load", self.load),
            ("tokenize", self.tokenize),
            ("queue", self.queue),
            ("infer", self.infer),
        ]
    }
}
