//! `postsort.toml` in a model folder: what the Hugging Face files do not say.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::device::DeviceKind;
use crate::engine::Precision;
use crate::error::ModelError;

/// A model's own settings. Without the file: plain `transformers` behaviour.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Manifest {
    /// The model's name; the folder's unless given.
    pub name: Option<String>,
    /// What to do with text beyond the limit.
    pub long: LongText,
    /// How the windows of a long text become one answer.
    pub aggregation: Aggregation,
    /// How a long text is skimmed, where that is the way with it.
    pub skim: Skim,
    /// Logits are divided by it before they become scores (Guo et al. 2017).
    pub temperature: f32,
    /// Score from which on a label holds.
    pub thresholds: BTreeMap<String, f32>,
    /// Below this score of the best label the model abstains: no label holds.
    pub abstain_below: Option<f32>,
    /// A cheaper model that answers where it is sure enough.
    pub cascade: Option<Cascade>,
    /// What answers looked like when the model was measured; drift is told from it.
    pub reference: Option<Reference>,
    /// Most tokens of a sequence, if less than the model could.
    pub tokens_max: Option<usize>,
    /// Precision, if not the server's choice.
    pub precision: Option<Precision>,
    /// Where it is to be, if not where the server puts models.
    pub device: Option<DeviceKind>,
    /// Load it at the start and never evict it.
    pub pinned: bool,
    /// Mails that it reads once it is loaded, beside the usual lengths.
    pub warm_up: Vec<String>,
    /// Where `postsort preload` fetches the model from if it is not there.
    pub hub: Option<Hub>,
}

/// A model that is asked first. Its labels are those of the model that it stands in for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cascade {
    /// Its name.
    pub first: String,
    /// From this score of its best label on, after temperature, its answer is taken.
    pub confidence_min: f32,
}

/// How a long text is skimmed: not all mails that are long are hard.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Skim {
    /// Windows that are read first, spread evenly over the text, its head and its end among them.
    pub windows: usize,
    /// The others are read too unless these leave no doubt: see [`crate::Labels::sure`].
    pub confidence_min: f32,
}

impl Default for Skim {
    fn default() -> Self {
        Self { windows: 3, confidence_min: 0.95 }
    }
}

/// Means over texts that are like those the model was made for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// Share of each label among first labels.
    pub labels: BTreeMap<String, f32>,
    /// Mean score of the first label.
    pub confidence: f32,
    /// Share of tokens that the tokenizer does not know.
    pub unknown_tokens: f32,
    /// Mean tokens of a text.
    pub tokens: f32,
}

/// A repository of a Hugging Face hub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hub {
    /// `owner/name`.
    pub id: String,
    /// A branch, tag or commit.
    #[serde(default = "main_branch")]
    pub revision: String,
}

fn main_branch() -> String {
    "main".to_owned()
}

impl Default for Manifest {
    fn default() -> Self {
        Self {
            name: None,
            long: LongText::default(),
            aggregation: Aggregation::default(),
            skim: Skim::default(),
            temperature: 1.0,
            thresholds: BTreeMap::new(),
            abstain_below: None,
            cascade: None,
            reference: None,
            tokens_max: None,
            precision: None,
            device: None,
            pinned: false,
            warm_up: Vec::new(),
            hub: None,
        }
    }
}

/// What to do with text beyond the model's limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LongText {
    /// Read the head, as `transformers` does with `truncation=True`.
    #[default]
    Truncate,
    /// Read head and tail.
    HeadTail,
    /// Read overlapping windows, the subject in each.
    Window,
    /// Read some of those windows, and the others only where these leave doubt: [`Skim`].
    Skim,
}

/// Windows of one text.
pub(crate) const WINDOWS_MAX: usize = 8;

impl LongText {
    /// Most sequences that a text is read as.
    #[must_use]
    pub const fn windows_max(self) -> usize {
        match self {
            Self::Truncate | Self::HeadTail => 1,
            Self::Window | Self::Skim => WINDOWS_MAX,
        }
    }
}

/// How the windows of a long text become one answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// The strongest window: see [`crate::aggregate`].
    #[default]
    Max,
    /// The mean of the windows' logits.
    Mean,
    /// A label holds unless it holds in no window.
    NoisyOr,
}

impl Manifest {
    /// Reads a folder's `postsort.toml`, if it has one.
    ///
    /// # Errors
    /// It cannot be read, or makes no sense.
    pub fn read(folder: &Path) -> Result<Self, ModelError> {
        let path = folder.join("postsort.toml");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(ModelError::io(&path, error)),
        };
        let manifest: Self =
            toml::from_str(&text).map_err(|error| ModelError::bad_file(&path, error.message()))?;
        let wrong = |reason: &str| Err(ModelError::bad_file(&path, reason));
        if !(manifest.temperature.is_finite() && manifest.temperature > 0.0) {
            return wrong("`temperature` must be above 0");
        }
        if manifest.thresholds.values().any(|threshold| !(0.0..=1.0).contains(threshold)) {
            return wrong("`thresholds` must lie between 0 and 1");
        }
        let share = |value: &f32| (0.0..=1.0).contains(value);
        if manifest.abstain_below.is_some_and(|score| !share(&score)) {
            return wrong("`abstain_below` must lie between 0 and 1");
        }
        if manifest.cascade.as_ref().is_some_and(|cascade| !share(&cascade.confidence_min)) {
            return wrong("`cascade.confidence_min` must lie between 0 and 1");
        }
        let Skim { windows, confidence_min } = manifest.skim;
        if !(1..=WINDOWS_MAX).contains(&windows) {
            return wrong("`skim.windows` must lie between 1 and 8");
        }
        if !share(&confidence_min) {
            return wrong("`skim.confidence_min` must lie between 0 and 1");
        }
        if let Some(reference) = &manifest.reference {
            let Reference { labels, confidence, unknown_tokens, tokens } = reference;
            if !labels.values().chain([confidence, unknown_tokens]).all(share) {
                return wrong("shares in `reference` must lie between 0 and 1");
            }
            if !(tokens.is_finite() && *tokens >= 1.0) {
                return wrong("`reference.tokens` must be at least 1");
            }
        }
        if manifest.tokens_max.is_some_and(|tokens| tokens < 8) {
            return wrong("`tokens_max` must be at least 8");
        }
        Ok(manifest)
    }
}
