//! Which tensors the fast engine computes a model with.

use crate::config::{Family, ModelConfig};
use crate::deberta::DebertaSpec;
use crate::modern_bert::ModernBertSpec;
use crate::post_norm::PostNormSpec;
use crate::tensors::{DenseSpec, NormSpec, TableSpec};

/// A model's parts by its family.
#[derive(Clone, Debug)]
pub(crate) enum Parts {
    PostNorm(PostNormSpec),
    ModernBert(ModernBertSpec),
    Deberta(DebertaSpec),
}

impl Parts {
    /// The parts of a model with `labels` logits; `None` for an architecture that the fast engine
    /// does not know.
    pub(crate) fn new(config: &ModelConfig, labels: usize) -> Option<Self> {
        match &config.family {
            Family::PostNorm => Some(Self::PostNorm(PostNormSpec::new(config, labels))),
            Family::ModernBert(own) => {
                Some(Self::ModernBert(ModernBertSpec::new(config, own, labels)))
            }
            Family::Deberta(own) => DebertaSpec::new(config, own, labels).map(Self::Deberta),
        }
    }

    /// Name and shape of every tensor but the head's, always in one order.
    pub(crate) fn encoder_tensors(&self) -> Vec<(String, Vec<usize>)> {
        match self {
            Self::PostNorm(spec) => spec.encoder_tensors(),
            Self::ModernBert(spec) => spec.encoder_tensors(),
            Self::Deberta(spec) => spec.encoder_tensors(),
        }
    }

    /// Numbers of the head's tensors.
    pub(crate) fn head_elements(&self) -> u64 {
        let dense = |dense: &DenseSpec| ((dense.inputs + 1) * dense.outputs) as u64;
        let norm = |norm: &NormSpec| 2 * norm.size as u64;
        match self {
            Self::PostNorm(PostNormSpec { head, .. }) | Self::Deberta(DebertaSpec { head, .. }) => {
                head.iter().map(|(own, _)| dense(own)).sum()
            }
            Self::ModernBert(spec) => {
                dense(&spec.head.dense) + norm(&spec.head.norm) + dense(&spec.head.classifier)
            }
        }
    }

    /// Embedding tables, which lie in memory as in the file.
    pub(crate) fn tables(&self) -> Vec<&TableSpec> {
        match self {
            Self::PostNorm(spec) => {
                [&spec.words, &spec.places].into_iter().chain(&spec.types).collect()
            }
            Self::ModernBert(spec) => vec![&spec.words],
            Self::Deberta(spec) => {
                std::iter::once(&spec.words).chain(&spec.places).chain(&spec.types).collect()
            }
        }
    }
}
