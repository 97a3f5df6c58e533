//! What a request gets: logits by mail, and where the time went.

use std::sync::Arc;
use std::time::Duration;

use postsort_cache::{Digest, Weigh};

use super::Explanation;
use crate::catalog::{Entry, Version};
use crate::telemetry::STAGES;

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
    /// Digest of the mail's text.
    pub mail: Digest,
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
    pub(super) fn new(mail: Digest, verdict: Arc<Verdict>, cached: bool) -> Self {
        Self { mail, verdict, cached, by: None, explanation: None }
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

/// How [`Verdict::to_bytes`] is laid out; one that is unknown is not read.
const LAYOUT: u8 = 1;

impl Verdict {
    /// As it is kept outside of the process: all numbers in little endian.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes();
        let mut bytes = vec![LAYOUT, u8::from(self.truncated)];
        for number in [self.tokens, self.windows, self.first, self.unknown_tokens] {
            bytes.extend(count(number));
        }
        bytes.extend(self.confidence.to_le_bytes());
        bytes.extend(self.logits.iter().flat_map(|logit| logit.to_le_bytes()));
        bytes
    }

    /// What [`Self::to_bytes`] gave; nothing for whatever else.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let ([layout, truncated], rest) = bytes.split_first_chunk::<2>()?;
        let (words, more) = rest.as_chunks::<4>();
        let (head, logits) = words.split_first_chunk::<5>()?;
        let count = |at: usize| u32::from_le_bytes(head[at]) as usize;
        let logits: Box<[f32]> = logits.iter().map(|&word| f32::from_le_bytes(word)).collect();
        let known = *layout == LAYOUT && more.is_empty() && count(2) < logits.len();
        known.then_some(Self {
            logits,
            tokens: count(0),
            windows: count(1),
            truncated: *truncated != 0,
            first: count(2),
            confidence: f32::from_le_bytes(head[4]),
            unknown_tokens: count(3),
        })
    }
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

    /// As [`STAGES`] name them.
    #[must_use]
    pub const fn stages(&self) -> [Duration; STAGES.len()] {
        [self.decode, self.cache, self.load, self.tokenize, self.queue, self.infer]
    }
}

#[cfg(test)]
mod tests {
    use super::Verdict;

    #[test]
    fn a_verdict_is_read_as_it_was_written_and_nothing_else_is() {
        let verdict = Verdict {
            logits: [1.5, -0.25, 3.0e-9].into(),
            tokens: 77,
            windows: 3,
            truncated: true,
            first: 2,
            confidence: 0.875,
            unknown_tokens: 4,
        };
        let bytes = verdict.to_bytes();
        assert_eq!(Verdict::from_bytes(&bytes), Some(verdict));
        (0..bytes.len()).filter(|length| (length + 2) % 4 != 0 || *length < 34).for_each(
            |length| {
                assert_eq!(Verdict::from_bytes(&bytes[..length]), None, "{length}");
            },
        );
        let mut other = bytes;
        other[0] = 2;
        assert_eq!(Verdict::from_bytes(&other), None);
    }
}
