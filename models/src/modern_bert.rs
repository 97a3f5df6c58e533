//! Which tensor plays which part in ModernBERT (Warner et al. 2024).

use crate::config::{Activation, ModelConfig, ModernBertConfig};
use crate::tensors::{DenseSpec, NormSpec, TableSpec};

/// The parts of an encoder with a classifier.
///
/// States are the norm of words, then go through the layers and the final norm.
#[derive(Clone, Debug)]
pub(crate) struct ModernBertSpec {
    pub(crate) words: TableSpec,
    pub(crate) norm: NormSpec,
    pub(crate) layers: Vec<LayerSpec>,
    pub(crate) final_norm: NormSpec,
    pub(crate) head: HeadSpec,
}

/// A layer: `attended = output(attention(norm(states))) + states`,
/// `states = down(activation(input)·gate) + attended` with both of `up(norm(attended))`.
#[derive(Clone, Debug)]
pub(crate) struct LayerSpec {
    /// The first layer has none: the embeddings are normed already.
    pub(crate) attention_norm: Option<NormSpec>,
    /// Queries, keys and values, one after another.
    pub(crate) query_key_value: DenseSpec,
    pub(crate) attention_output: DenseSpec,
    pub(crate) mlp_norm: NormSpec,
    /// Inputs, then gates.
    pub(crate) up: DenseSpec,
    pub(crate) down: DenseSpec,
}

/// `classifier(norm(activation(dense(state))))`.
#[derive(Clone, Debug)]
pub(crate) struct HeadSpec {
    pub(crate) dense: DenseSpec,
    pub(crate) activation: Activation,
    pub(crate) norm: NormSpec,
    pub(crate) classifier: DenseSpec,
}

impl ModernBertSpec {
    pub(crate) fn new(config: &ModelConfig, own: &ModernBertConfig, labels: usize) -> Self {
        let (hidden, bias) = (config.hidden, own.norm_bias);
        Self {
            words: TableSpec::new("embeddings.tok_embeddings", config.vocabulary, hidden),
            norm: NormSpec::new("embeddings.norm", hidden, bias),
            layers: (0..config.layers).map(|at| LayerSpec::new(config, own, at)).collect(),
            final_norm: NormSpec::new("final_norm", hidden, bias),
            head: HeadSpec {
                dense: DenseSpec::new("head.dense", hidden, hidden, own.classifier_bias),
                activation: own.classifier_activation,
                norm: NormSpec::new("head.norm", hidden, bias),
                classifier: DenseSpec::new("classifier", hidden, labels, true),
            },
        }
    }

    /// Name and shape of every tensor but the head's, always in one order.
    pub(crate) fn encoder_tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut found = vec![self.words.tensor()];
        found.extend(self.norm.tensors());
        for layer in &self.layers {
            let LayerSpec { query_key_value, attention_output, up, down, .. } = layer;
            let products = [query_key_value, attention_output, up, down];
            found.extend(products.into_iter().flat_map(DenseSpec::tensors));
            found.extend(layer.attention_norm.iter().flat_map(NormSpec::tensors));
            found.extend(layer.mlp_norm.tensors());
        }
        found.extend(self.final_norm.tensors());
        found
    }
}

impl LayerSpec {
    fn new(config: &ModelConfig, own: &ModernBertConfig, at: usize) -> Self {
        let (hidden, wide) = (config.hidden, config.intermediate);
        let name = |part: &str| format!("layers.{at}.{part}");
        let dense = |part, inputs, outputs, bias| DenseSpec::new(name(part), inputs, outputs, bias);
        let norm = |part| NormSpec::new(name(part), hidden, own.norm_bias);
        Self {
            attention_norm: (at > 0).then(|| norm("attn_norm")),
            query_key_value: dense("attn.Wqkv", hidden, 3 * hidden, own.attention_bias),
            attention_output: dense("attn.Wo", hidden, hidden, own.attention_bias),
            mlp_norm: norm("mlp_norm"),
            up: dense("mlp.Wi", hidden, 2 * wide, own.mlp_bias),
            down: dense("mlp.Wo", wide, hidden, own.mlp_bias),
        }
    }
}
