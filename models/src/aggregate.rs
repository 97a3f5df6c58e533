//! How the windows of a long text become one answer.

use crate::labels::{Labels, Problem, softmax};
use crate::manifest::Aggregation;

/// One answer out of the logits `[windows][labels]` of a long text's windows.
///
/// `Mean`: the mean of the logits. `Max`: where labels hold independently, each label's largest
/// logit; else the logits of the window that is surest of the label that the manifest sets a
/// threshold for (a mail is spam if a part of it is), or of any label if it sets none. `NoisyOr`:
/// windows are taken for independent witnesses (Pearl 1988), so that a label holds unless it holds in
/// none of them; of labels that exclude each other this is done for the one that the manifest sets a
/// threshold for, and without one it is `Max`.
#[must_use]
pub fn aggregate(windows: &[Vec<f32>], labels: &Labels, aggregation: Aggregation) -> Vec<f32> {
    let [first, rest @ ..] = windows else { return Vec::new() };
    if rest.is_empty() {
        return first.clone();
    }
    let independent = labels.problem() == Problem::MultiLabel || first.len() == 1;
    match (aggregation, labels.watched) {
        (Aggregation::Mean, _) => mean(first, rest),
        (_, _) if labels.problem() == Problem::Regression => mean(first, rest),
        (Aggregation::Max, _) if independent => fold(first, rest, f32::max),
        (Aggregation::NoisyOr, _) if independent => {
            let witness = |at: usize| noisy_or(windows.iter().map(|logits| logits[at]));
            (0..first.len()).map(witness).collect()
        }
        (Aggregation::NoisyOr, Some(watched)) => {
            let mut all = mean(first, rest);
            all[watched] = f32::NEG_INFINITY;
            let others = log_sum(&all);
            all.iter_mut().for_each(|logit| *logit -= others);
            all[watched] = noisy_or(windows.iter().map(|logits| {
                let mut others = logits.clone();
                let own = std::mem::replace(&mut others[watched], f32::NEG_INFINITY);
                own - log_sum(&others)
            }));
            all
        }
        (Aggregation::Max | Aggregation::NoisyOr, watched) => {
            let certainty = |logits: &Vec<f32>| {
                let scores = softmax(logits, 1.0);
                match watched {
                    Some(label) => scores.get(label).copied().unwrap_or(0.0),
                    None => scores.into_iter().fold(0.0, f32::max),
                }
            };
            let best = windows.iter().max_by(|a, b| certainty(a).total_cmp(&certainty(b)));
            best.unwrap_or(first).clone()
        }
    }
}

fn mean(first: &[f32], rest: &[Vec<f32>]) -> Vec<f32> {
    let sum = fold(first, rest, |a, b| a + b);
    #[expect(clippy::cast_precision_loss, reason = "a handful of windows")]
    let count = (rest.len() + 1) as f32;
    sum.into_iter().map(|logit| logit / count).collect()
}

fn fold(first: &[f32], rest: &[Vec<f32>], join: impl Fn(f32, f32) -> f32) -> Vec<f32> {
    let mut all = first.to_vec();
    for window in rest {
        for (joined, logit) in all.iter_mut().zip(window) {
            *joined = join(*joined, *logit);
        }
    }
    all
}

/// `1 - Π(1 - p)` in logits: the sum of `-ln(1 - p)` is that of `ln(1 + e^logit)`.
fn noisy_or(logits: impl Iterator<Item = f32>) -> f32 {
    let sum: f32 = logits.map(|logit| logit.max(0.0) + (-logit.abs()).exp().ln_1p()).sum();
    sum + (-(-sum).exp_m1()).ln()
}

fn log_sum(logits: &[f32]) -> f32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    max + logits.iter().map(|logit| (logit - max).exp()).sum::<f32>().ln()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::aggregate;
    use crate::labels::{Labels, softmax};
    use crate::manifest::{Aggregation, Manifest};

    fn labels(config: &serde_json::Value, rows: usize) -> Labels {
        Labels::new(config, rows, &Manifest::default()).expect("valid")
    }

    #[test]
    fn windows_become_one_answer() {
        let windows = [vec![2.0, 0.0], vec![0.0, 1.0], vec![3.0, 0.0]];
        let two = labels(&json!({}), 2);
        assert_eq!(aggregate(&windows, &two, Aggregation::Max), [3.0, 0.0], "the surest");
        let manifest =
            Manifest { thresholds: [("LABEL_1".to_owned(), 0.5)].into(), ..Manifest::default() };
        let watching = Labels::new(&json!({}), 2, &manifest).expect("valid");
        assert_eq!(
            aggregate(&windows, &watching, Aggregation::Max),
            [0.0, 1.0],
            "the watched label"
        );
        let multi = labels(&json!({"problem_type": "multi_label_classification"}), 2);
        assert_eq!(aggregate(&windows, &multi, Aggregation::Max), [3.0, 1.0]);
        let mean = aggregate(&windows, &two, Aggregation::Mean);
        assert!((mean[0] - 5.0 / 3.0).abs() < 1e-6 && (mean[1] - 1.0 / 3.0).abs() < 1e-6);
    }

    #[test]
    fn windows_are_witnesses() {
        let sigmoid = |logit: f32| 1.0 / (1.0 + (-logit).exp());
        let multi = labels(&json!({"problem_type": "multi_label_classification"}), 2);
        let windows = [vec![0.0, -2.0], vec![1.0, 3.0], vec![-1.0, -30.0]];
        let found = aggregate(&windows, &multi, Aggregation::NoisyOr);
        for at in 0..2 {
            let none: f32 = windows.iter().map(|logits| 1.0 - sigmoid(logits[at])).product();
            assert!((sigmoid(found[at]) - (1.0 - none)).abs() < 1e-6, "{found:?}");
        }
        let manifest =
            Manifest { thresholds: [("LABEL_2".to_owned(), 0.5)].into(), ..Manifest::default() };
        let watching = Labels::new(&json!({}), 3, &manifest).expect("valid");
        let windows = [vec![2.0, 0.0, 1.0], vec![1.0, 0.0, -3.0]];
        let scores = softmax(&aggregate(&windows, &watching, Aggregation::NoisyOr), 1.0);
        let none: f32 = windows.iter().map(|logits| 1.0 - softmax(logits, 1.0)[2]).product();
        assert!((scores[2] - (1.0 - none)).abs() < 1e-6, "{scores:?}");
        assert!((scores[0] / scores[1] - 1.5_f32.exp()).abs() < 1e-4, "the others as their mean");
        assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        // Sure windows stay finite.
        let sure = [vec![80.0, 0.0, 90.0], vec![-90.0, 80.0, 99.0]];
        let logits = aggregate(&sure, &watching, Aggregation::NoisyOr);
        assert!(logits.iter().all(|logit| logit.is_finite()), "{logits:?}");
        let plain = labels(&json!({}), 3);
        assert_eq!(
            aggregate(&windows, &plain, Aggregation::NoisyOr),
            aggregate(&windows, &plain, Aggregation::Max)
        );
    }
}
