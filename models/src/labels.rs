//! From logits to named scores.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::ModelError;
use crate::manifest::Manifest;

/// A model's labels and what its logits mean.
#[derive(Clone, Debug, PartialEq)]
pub struct Labels {
    names: Vec<String>,
    problem: Problem,
    /// The label that a manifest's threshold names: the one that windows are searched for.
    pub(crate) watched: Option<usize>,
}

/// `problem_type` of `config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Problem {
    /// Exactly one label holds.
    SingleLabel,
    /// Each label holds or not.
    MultiLabel,
    /// The logits are values.
    Regression,
}

/// How logits become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScoreFunction {
    /// Scores that add up to 1.
    Softmax,
    /// A score from 0 to 1 for each label on its own.
    Sigmoid,
    /// The logits.
    None,
}

/// A label by its position in [`Labels::names`], with its score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LabelScore {
    /// Position in [`Labels::names`].
    pub index: usize,
    /// Its score.
    pub score: f32,
}

impl Labels {
    /// From `config.json` and the number of rows of the classifier.
    pub(crate) fn new(
        config: &Value,
        rows: usize,
        manifest: &Manifest,
    ) -> Result<Self, ModelError> {
        let names = match config.get("id2label").and_then(Value::as_object) {
            Some(map) if !map.is_empty() => {
                if map.len() != rows {
                    let reason =
                        format!("has {} labels, the classifier has {rows} rows", map.len());
                    return Err(ModelError::bad_config("id2label", reason));
                }
                let name = |id: usize| {
                    let name = map.get(&id.to_string()).and_then(Value::as_str);
                    name.map(str::to_owned).ok_or_else(|| {
                        ModelError::bad_config("id2label", format!("has no text for label {id}"))
                    })
                };
                (0..rows).map(name).collect::<Result<_, _>>()?
            }
            // What transformers calls them, and leaves out of the file.
            _ => (0..rows).map(|id| format!("LABEL_{id}")).collect::<Vec<_>>(),
        };
        let problem = match config.get("problem_type").and_then(Value::as_str) {
            None | Some("single_label_classification") => Problem::SingleLabel,
            Some("multi_label_classification") => Problem::MultiLabel,
            Some("regression") => Problem::Regression,
            Some(other) => {
                return Err(ModelError::bad_config(
                    "problem_type",
                    format!("`{other}` is unknown"),
                ));
            }
        };
        for label in manifest.thresholds.keys() {
            if !names.contains(label) {
                let reason = format!("has no `{label}`, which postsort.toml sets a threshold for");
                return Err(ModelError::bad_config("id2label", reason));
            }
        }
        let watched = manifest.thresholds.keys().next();
        let watched = watched.and_then(|label| names.iter().position(|name| name == label));
        Ok(Self { names, problem, watched })
    }

    /// Names, in the order of the logits.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The label of the largest logit.
    #[must_use]
    pub fn first(&self, logits: &[f32]) -> Option<&str> {
        let largest = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1))?.0;
        self.names.get(largest).map(String::as_str)
    }

    /// What the logits mean.
    #[must_use]
    pub const fn problem(&self) -> Problem {
        self.problem
    }

    /// Positions of the labels that hold, of `scores` in descending order.
    ///
    /// Of labels that hold independently, all from their threshold on (0.5 unless given). Of labels
    /// that exclude each other one: the best of those that reach a threshold of their own, else the
    /// best of those that have none. Values hold nothing.
    #[must_use]
    pub fn holding(&self, scores: &[LabelScore], thresholds: &BTreeMap<String, f32>) -> Vec<usize> {
        let threshold = |score: &LabelScore| thresholds.get(&self.names[score.index]).copied();
        let index = |score: &LabelScore| score.index;
        match self.problem {
            Problem::Regression if self.names.len() > 1 => Vec::new(),
            Problem::SingleLabel if self.names.len() > 1 => {
                let reaches =
                    |score: &&LabelScore| threshold(score).is_some_and(|t| score.score >= t);
                let own = scores.iter().find(reaches);
                own.or_else(|| scores.iter().find(|score| threshold(score).is_none()))
                    .map(index)
                    .into_iter()
                    .collect()
            }
            _ => {
                let holds = |score: &&LabelScore| score.score >= threshold(score).unwrap_or(0.5);
                scores.iter().filter(holds).map(index).collect()
            }
        }
    }

    /// Whether logits leave no doubt which labels hold: the best one has at least this score; of labels that
    /// hold independently each one has it, or so much is left of 1. Of values nothing is known.
    #[must_use]
    pub fn sure(&self, logits: &[f32], temperature: f32, score_min: f32) -> bool {
        let function = self.default_function();
        let scores = self.scores(logits, function, temperature);
        match (self.problem, function) {
            (Problem::Regression, _) => false,
            (_, ScoreFunction::Sigmoid) => {
                scores.iter().all(|own| own.score.max(1.0 - own.score) >= score_min)
            }
            _ => scores.first().is_some_and(|best| best.score >= score_min),
        }
    }

    /// Sigmoid for several labels at once and for a single logit, else softmax.
    #[must_use]
    pub fn default_function(&self) -> ScoreFunction {
        match self.problem {
            Problem::MultiLabel => ScoreFunction::Sigmoid,
            Problem::Regression if self.names.len() > 1 => ScoreFunction::None,
            _ if self.names.len() == 1 => ScoreFunction::Sigmoid,
            _ => ScoreFunction::Softmax,
        }
    }

    /// Scores in descending order, equal ones in the order of the labels. `temperature` divides
    /// the logits, but not those that are asked for as they are.
    #[must_use]
    pub fn scores(
        &self,
        logits: &[f32],
        function: ScoreFunction,
        temperature: f32,
    ) -> Vec<LabelScore> {
        let scores = match function {
            ScoreFunction::None => logits.to_vec(),
            ScoreFunction::Sigmoid => {
                logits.iter().map(|logit| 1.0 / (1.0 + (-logit / temperature).exp())).collect()
            }
            ScoreFunction::Softmax => softmax(logits, temperature),
        };
        let mut scores: Vec<LabelScore> = scores
            .into_iter()
            .take(self.names.len())
            .enumerate()
            .map(|(index, score)| LabelScore { index, score })
            .collect();
        scores.sort_by(|a, b| b.score.total_cmp(&a.score));
        scores
    }
}

pub(crate) fn softmax(logits: &[f32], temperature: f32) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = logits.iter().map(|logit| ((logit - max) / temperature).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Labels, ScoreFunction};
    use crate::manifest::Manifest;

    fn labels(config: &serde_json::Value, rows: usize) -> Labels {
        Labels::new(config, rows, &Manifest::default()).expect("valid")
    }

    #[test]
    fn names_and_functions_follow_the_config() {
        let ten: serde_json::Map<_, _> =
            (0..11).map(|id| (id.to_string(), json!(format!("l{id}")))).collect();
        let many =
            labels(&json!({"id2label": ten, "problem_type": "multi_label_classification"}), 11);
        assert_eq!(many.names()[10], "l10", "keys are numbers, not texts");
        assert_eq!(many.default_function(), ScoreFunction::Sigmoid);
        assert_eq!(labels(&json!({}), 2).names(), ["LABEL_0", "LABEL_1"]);
        assert_eq!(labels(&json!({}), 2).default_function(), ScoreFunction::Softmax);
        assert_eq!(labels(&json!({}), 1).default_function(), ScoreFunction::Sigmoid);
        assert_eq!(
            labels(&json!({"problem_type": "regression"}), 1).default_function(),
            ScoreFunction::Sigmoid
        );
        for wrong in [
            json!({"id2label": {"0": "a"}}),
            json!({"id2label": {"0": "a", "7": "b"}}),
            json!({"problem_type": "guess"}),
        ] {
            assert!(Labels::new(&wrong, 2, &Manifest::default()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn scores_are_sorted_and_calibrated() {
        let two = labels(&json!({}), 2);
        let scores = two.scores(&[0.0, 2.0], ScoreFunction::Softmax, 2.0);
        assert_eq!(scores[0].index, 1);
        assert!((scores[0].score - 0.731_058_6).abs() < 1e-6);
        assert!((scores[0].score + scores[1].score - 1.0).abs() < 1e-6);
        let raw = two.scores(&[3.0, -1.0], ScoreFunction::None, 2.0);
        assert_eq!((raw[0].score, raw[1].score), (3.0, -1.0));
        let huge = two.scores(&[1e30, -1e30], ScoreFunction::Softmax, 1.0);
        assert_eq!((huge[0].score, huge[1].score), (1.0, 0.0));
    }

    #[test]
    fn doubt_is_of_all_labels_that_hold_independently() {
        let sure = |config: &serde_json::Value, logits: &[f32]| {
            labels(config, logits.len()).sure(logits, 1.0, 0.9)
        };
        let one = json!({});
        assert!(sure(&one, &[4.0, 0.0, 0.0]) && !sure(&one, &[4.0, 3.0, 0.0]));
        assert!(sure(&one, &[-4.0]) && sure(&one, &[4.0]) && !sure(&one, &[0.5]));
        let many = json!({"problem_type": "multi_label_classification"});
        assert!(sure(&many, &[4.0, 4.0, -4.0]) && !sure(&many, &[4.0, 0.0, -4.0]));
        assert!(!sure(&json!({"problem_type": "regression"}), &[9.0]));
        assert!(!labels(&one, 2).sure(&[4.0, 0.0], 4.0, 0.9), "temperature counts");
    }

    #[test]
    fn labels_hold_by_threshold() {
        let held = |config: &serde_json::Value, thresholds: &[(&str, f32)], logits: &[f32]| {
            let labels = labels(config, logits.len());
            let scores = labels.scores(logits, labels.default_function(), 1.0);
            let thresholds =
                thresholds.iter().map(|&(name, value)| (name.to_owned(), value)).collect();
            labels.holding(&scores, &thresholds)
        };
        let one = json!({});
        assert_eq!(held(&one, &[], &[1.0, 0.0]), [0]);
        assert_eq!(held(&one, &[("LABEL_1", 0.2)], &[1.0, 0.0]), [1], "it reaches its own");
        assert_eq!(held(&one, &[("LABEL_0", 0.9)], &[1.0, 0.0]), [1], "0 does not reach its own");
        assert!(held(&one, &[("LABEL_0", 0.9), ("LABEL_1", 0.9)], &[1.0, 0.0]).is_empty());
        let many = json!({"problem_type": "multi_label_classification"});
        assert_eq!(held(&many, &[], &[1.0, -1.0, 2.0]), [2, 0]);
        assert_eq!(held(&many, &[("LABEL_1", 0.1), ("LABEL_0", 0.9)], &[1.0, -1.0, 2.0]), [2, 1]);
        assert!(held(&many, &[], &[-1.0]).is_empty());
        let values = json!({"problem_type": "regression"});
        assert!(held(&values, &[], &[3.0, 4.0]).is_empty());
    }
}
