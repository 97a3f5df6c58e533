//! How far a precision's answers are from the same model's in f32, on a built-in set of mails.

use serde::{Deserialize, Serialize};

use crate::engine::Precision;
use crate::labels::Labels;

/// What was measured. Texts are mails written for this purpose, in six languages: their
/// subjects, their beginnings, the whole, and the whole with a quoted answer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// The precision that was compared with f32.
    pub precision: Precision,
    /// Texts that were compared.
    pub texts: usize,
    /// Share of texts whose first label is the same.
    pub top_label_share: f32,
    /// 99th percentile, over texts and labels, of |probability - probability in f32|.
    pub probability_delta_p99: f32,
}

/// Least share of texts with the same first label.
const TOP_LABEL_SHARE_MIN: f32 = 0.995;
/// Most that 99 % of the probabilities may differ by.
const PROBABILITY_DELTA_P99_MAX: f32 = 0.03;

impl Agreement {
    /// Compares logits `[texts][labels]` with those of f32.
    pub(super) fn measure(
        precision: Precision,
        logits: &[Vec<f32>],
        exact: &[Vec<f32>],
        (labels, temperature): (&Labels, f32),
    ) -> Self {
        let function = labels.default_function();
        let (mut same, mut deltas) = (0_usize, Vec::new());
        for (logits, exact) in logits.iter().zip(exact) {
            let found = labels.scores(logits, function, temperature);
            let wanted = labels.scores(exact, function, temperature);
            let first = |scores: &[crate::labels::LabelScore]| scores.first().map(|s| s.index);
            same += usize::from(first(&found) == first(&wanted));
            for label in &wanted {
                let ours = found.iter().find(|score| score.index == label.index);
                let delta = ours.map_or(f32::NAN, |score| (score.score - label.score).abs());
                // What is not a number agrees with nothing.
                deltas.push(if delta.is_nan() { f32::INFINITY } else { delta });
            }
        }
        deltas.sort_by(f32::total_cmp);
        let at = deltas.len().saturating_sub(1) * 99 / 100;
        #[expect(clippy::cast_precision_loss, reason = "some hundred texts")]
        let top_label_share = same as f32 / exact.len().max(1) as f32;
        Self {
            precision,
            texts: exact.len(),
            top_label_share,
            probability_delta_p99: deltas.get(at).copied().unwrap_or(f32::INFINITY),
        }
    }

    /// Whether `auto` may pick the precision.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.top_label_share >= TOP_LABEL_SHARE_MIN
            && self.probability_delta_p99 <= PROBABILITY_DELTA_P99_MAX
    }
}

const SAMPLE_MAILS: &str = include_str!("sample_mails.txt");

/// The built-in texts.
pub(super) fn sample_texts() -> Vec<String> {
    let mut texts = Vec::new();
    let mails: Vec<&str> = SAMPLE_MAILS.trim().split("\n\n").collect();
    for (at, mail) in mails.iter().enumerate() {
        let (subject, body) = mail.split_once('\n').unwrap_or((mail, ""));
        let beginning = body.split_inclusive(['.', '!', '?', '。']).next().unwrap_or_default();
        let quoted = mails[(at + 1) % mails.len()].lines().last().unwrap_or_default();
        texts.push(subject.to_owned());
        texts.push(beginning.trim().to_owned());
        texts.push(format!("{subject}\n{body}"));
        texts.push(format!("Re: {subject}\n{body}\n> {quoted}"));
    }
    texts
}

/// Tells a set of texts from another one.
pub(super) fn sample_digest() -> String {
    blake3::hash(SAMPLE_MAILS.as_bytes()).to_hex()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Agreement, sample_texts};
    use crate::engine::Precision;
    use crate::labels::Labels;
    use crate::manifest::Manifest;

    #[test]
    fn texts_are_many_and_differ() {
        let mut texts = sample_texts();
        assert_eq!(texts.len(), 256);
        assert!(texts.iter().all(|text| !text.is_empty()));
        texts.sort();
        texts.dedup();
        assert_eq!(texts.len(), 256);
    }

    #[test]
    fn agreement_is_measured() {
        let labels = Labels::new(&json!({}), 2, &Manifest::default()).expect("valid");
        let measure = |logits: &[Vec<f32>], exact: &[Vec<f32>]| {
            Agreement::measure(Precision::Int8, logits, exact, (&labels, 1.0))
        };
        let exact = vec![vec![0.0, 4.0]; 200];
        let same = measure(&exact, &exact);
        assert_eq!((same.top_label_share, same.probability_delta_p99), (1.0, 0.0));
        assert!(same.holds());
        let mut one = exact.clone();
        one[7] = vec![4.0, 0.0];
        assert!(measure(&one, &exact).holds(), "one of 200");
        one[8] = vec![4.0, 0.0];
        assert!(!measure(&one, &exact).holds(), "two of 200");
        let near = vec![vec![0.0, 2.0]; 200];
        let near = measure(&near, &exact);
        assert_eq!(near.top_label_share, 1.0);
        assert!((near.probability_delta_p99 - 0.101_217).abs() < 1e-4 && !near.holds());
        assert!(!measure(&vec![vec![f32::NAN, 0.0]; 200], &exact).holds());
    }
}
