//! What answers of the last hour look like, and how far that is from when the model was measured: a
//! model that reads other mail than it was made for gives no errors, only wrong answers.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use postsort_models::Reference;
use serde::Serialize;

use super::shards::Sharded;
use super::window::{Ring, Slice};
use crate::pipeline::Verdict;

const SLICES: usize = 12;
const SLICE: Duration = Duration::from_secs(300);

/// Answers of the last hour.
#[derive(Debug)]
pub struct DriftWindow(Sharded<Mutex<Ring<Answers>>>);

/// Sums over the answers of one slice of time.
#[derive(Debug, Default)]
struct Answers {
    mails: u64,
    confidence: f64,
    tokens: u64,
    unknown_tokens: u64,
    /// First labels, by position.
    labels: Vec<u64>,
}

/// What answers look like.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DriftSummary {
    /// Mails of the last hour.
    pub mails: u64,
    /// Share of each label among first labels, by position.
    pub labels: Vec<f64>,
    /// Mean score of the first label.
    pub confidence: f64,
    /// Share of tokens that the tokenizer does not know.
    pub unknown_tokens: f64,
    /// Mean tokens of a mail.
    pub tokens: f64,
    /// How far that is from the manifest's reference, if it has one.
    pub drift: Option<Drift>,
}

/// Distances from the reference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Drift {
    /// Total variation of the labels' shares: from 0, equal, to 1, nothing in common.
    pub labels: f64,
    /// Change of the mean score.
    pub confidence: f64,
    /// Change of the share of unknown tokens.
    pub unknown_tokens: f64,
    /// Logarithm of the ratio of mean lengths: 0.7 is twice as long.
    pub tokens: f64,
}

impl Drift {
    /// By their names on the wire.
    #[must_use]
    pub const fn by_name(&self) -> [(&'static str, f64); 4] {
        [
            ("labels", self.labels),
            ("confidence", self.confidence),
            ("unknown_tokens", self.unknown_tokens),
            ("tokens", self.tokens),
        ]
    }
}

impl Slice for Answers {
    fn clear(&mut self) {
        let mut labels = std::mem::take(&mut self.labels);
        labels.clear();
        *self = Self { labels, ..Self::default() };
    }
}

impl Default for DriftWindow {
    fn default() -> Self {
        let started = Instant::now();
        Self(Sharded::new(|| Mutex::new(Ring::new(started, SLICES, SLICE))))
    }
}

impl DriftWindow {
    /// Counts a request's answers, which were there at `now`.
    pub(crate) fn observe_at<'a>(&self, now: Instant, verdicts: impl Iterator<Item = &'a Verdict>) {
        let mut ring = self.0.own().lock();
        let answers = ring.at(now);
        for verdict in verdicts {
            answers.mails += 1;
            answers.confidence += f64::from(verdict.confidence);
            answers.tokens += verdict.tokens as u64;
            answers.unknown_tokens += verdict.unknown_tokens as u64;
            if answers.labels.len() <= verdict.first {
                answers.labels.resize(verdict.first + 1, 0);
            }
            answers.labels[verdict.first] += 1;
        }
    }

    /// Another revision answers: its answers are counted anew.
    pub(crate) fn clear(&self) {
        for ring in self.0.iter() {
            *ring.lock() = Ring::new(Instant::now(), SLICES, SLICE);
        }
    }

    /// The last hour, of a model with these labels.
    #[must_use]
    pub fn summary(&self, names: &[String], reference: Option<&Reference>) -> DriftSummary {
        self.summary_at(Instant::now(), names, reference)
    }

    #[expect(clippy::cast_precision_loss, reason = "means")]
    fn summary_at(
        &self,
        now: Instant,
        names: &[String],
        reference: Option<&Reference>,
    ) -> DriftSummary {
        let mut all = Answers { labels: vec![0; names.len()], ..Answers::default() };
        for ring in self.0.iter() {
            for slice in ring.lock().last(now, SLICES) {
                all.mails += slice.mails;
                all.confidence += slice.confidence;
                all.tokens += slice.tokens;
                all.unknown_tokens += slice.unknown_tokens;
                for (sum, count) in all.labels.iter_mut().zip(&slice.labels) {
                    *sum += count;
                }
            }
        }
        if all.mails == 0 {
            return DriftSummary::default();
        }
        let mails = all.mails as f64;
        let mut summary = DriftSummary {
            mails: all.mails,
            labels: all.labels.iter().map(|&count| count as f64 / mails).collect(),
            confidence: all.confidence / mails,
            unknown_tokens: all.unknown_tokens as f64 / all.tokens.max(1) as f64,
            tokens: all.tokens as f64 / mails,
            drift: None,
        };
        summary.drift = reference.map(|reference| summary.from(names, reference));
        summary
    }
}

impl DriftSummary {
    fn from(&self, names: &[String], reference: &Reference) -> Drift {
        let usual = |name| reference.labels.get(name).copied().map_or(0.0, f64::from);
        let apart = names.iter().zip(&self.labels).map(|(name, share)| (share - usual(name)).abs());
        Drift {
            labels: apart.sum::<f64>() / 2.0,
            confidence: (self.confidence - f64::from(reference.confidence)).abs(),
            unknown_tokens: (self.unknown_tokens - f64::from(reference.unknown_tokens)).abs(),
            tokens: (self.tokens / f64::from(reference.tokens)).ln().abs(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use postsort_models::Reference;

    use super::{DriftSummary, DriftWindow};
    use crate::pipeline::Verdict;

    fn verdict(first: usize, confidence: f32, tokens: usize, unknown_tokens: usize) -> Verdict {
        let (logits, windows, truncated) = (Box::default(), 1, false);
        Verdict { logits, tokens, windows, truncated, first, confidence, unknown_tokens }
    }

    #[test]
    fn the_last_hour_is_compared_with_the_reference() {
        let (window, now) = (DriftWindow::default(), Instant::now());
        let names = ["ham", "spam"].map(str::to_owned);
        assert_eq!(window.summary_at(now, &names, None), DriftSummary::default());
        let verdicts = [verdict(0, 0.9, 100, 1), verdict(1, 0.7, 300, 3)];
        window.observe_at(now, verdicts.iter());
        window.observe_at(now, verdicts[..1].iter().chain(&verdicts[..1]));
        let labels = [("ham".to_owned(), 0.5), ("spam".to_owned(), 0.5)].into();
        let reference = Reference { labels, confidence: 0.95, unknown_tokens: 0.0, tokens: 75.0 };
        let summary = window.summary_at(now, &names, Some(&reference));
        assert_eq!((summary.mails, summary.labels.as_slice()), (4, &[0.75, 0.25][..]));
        assert!((summary.confidence - 0.85).abs() < 1e-6 && (summary.tokens - 150.0).abs() < 1e-9);
        let drift = summary.drift.expect("there is a reference");
        for (found, expected) in
            drift.by_name().into_iter().zip([0.25, 0.1, 0.01, std::f64::consts::LN_2])
        {
            assert!((found.1 - expected).abs() < 1e-6, "{found:?}, not {expected}");
        }
        let later = now + Duration::from_secs(2 * 3600);
        assert_eq!(window.summary_at(later, &names, None).mails, 0);
        window.observe_at(later, verdicts.iter());
        window.clear();
        assert_eq!(window.summary_at(later, &names, None).mails, 0);
    }
}
