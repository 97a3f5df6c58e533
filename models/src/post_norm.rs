//! BERT, DistilBERT, RoBERTa, XLM-RoBERTa and ELECTRA are one encoder, with the layer norms after
//! the residuals, under five sets of names. Here is which tensor plays which part, for any engine.

use crate::config::{Activation, Architecture, ModelConfig};
use crate::tensors::{DenseSpec, NormSpec, TableSpec};

/// The parts of an encoder with a classifier.
///
/// States are the norm of words + places (+ types), then projected if there is a projection, then
/// go through the layers; the head reads the first token's.
#[derive(Clone, Debug)]
pub(crate) struct PostNormSpec {
    pub(crate) words: TableSpec,
    pub(crate) places: TableSpec,
    pub(crate) types: Option<TableSpec>,
    pub(crate) norm: NormSpec,
    /// From the embedding's width to the states', where they differ (ELECTRA).
    pub(crate) projection: Option<DenseSpec>,
    pub(crate) layers: Vec<LayerSpec>,
    /// Down to the logits.
    pub(crate) head: Vec<(DenseSpec, Option<Activation>)>,
}

/// A layer: `attended = norm(output(attention) + states)`,
/// `states = norm(down(activation(up(attended))) + attended)`.
#[derive(Clone, Debug)]
pub(crate) struct LayerSpec {
    pub(crate) query: DenseSpec,
    pub(crate) key: DenseSpec,
    pub(crate) value: DenseSpec,
    pub(crate) attention_output: DenseSpec,
    pub(crate) attention_norm: NormSpec,
    pub(crate) up: DenseSpec,
    pub(crate) down: DenseSpec,
    pub(crate) output_norm: NormSpec,
}

/// What a family calls the parts of a layer.
pub(crate) struct LayerNames {
    pub(crate) layer: &'static str,
    pub(crate) query: &'static str,
    pub(crate) key: &'static str,
    pub(crate) value: &'static str,
    pub(crate) attention_output: &'static str,
    pub(crate) attention_norm: &'static str,
    pub(crate) up: &'static str,
    pub(crate) down: &'static str,
    pub(crate) output_norm: &'static str,
}

pub(crate) const BERT_NAMES: LayerNames = LayerNames {
    layer: "encoder.layer",
    query: "attention.self.query",
    key: "attention.self.key",
    value: "attention.self.value",
    attention_output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    output_norm: "output.LayerNorm",
};

const DISTILBERT_NAMES: LayerNames = LayerNames {
    layer: "transformer.layer",
    query: "attention.q_lin",
    key: "attention.k_lin",
    value: "attention.v_lin",
    attention_output: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    up: "ffn.lin1",
    down: "ffn.lin2",
    output_norm: "output_layer_norm",
};

impl PostNormSpec {
    /// The parts of a model of one of the five families, with `labels` logits.
    pub(crate) fn new(config: &ModelConfig, labels: usize) -> Self {
        let (hidden, width) = (config.hidden, config.embedding);
        let table = |name: &str, rows| TableSpec::new(format!("embeddings.{name}"), rows, width);
        let names = match config.architecture {
            Architecture::DistilBert => DISTILBERT_NAMES,
            _ => BERT_NAMES,
        };
        Self {
            words: table("word_embeddings", config.vocabulary),
            places: table("position_embeddings", config.positions),
            types: (config.token_types > 0)
                .then(|| table("token_type_embeddings", config.token_types)),
            norm: NormSpec::new("embeddings.LayerNorm", width, true),
            projection: (width != hidden)
                .then(|| DenseSpec::new("embeddings_project", width, hidden, true)),
            layers: (0..config.layers).map(|at| LayerSpec::new(config, &names, at)).collect(),
            head: head(config, labels),
        }
    }

    /// Name and shape of every tensor but the head's, always in one order.
    pub(crate) fn encoder_tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut found = Vec::new();
        for table in [Some(&self.words), Some(&self.places), self.types.as_ref()] {
            found.extend(table.map(TableSpec::tensor));
        }
        found.extend(self.norm.tensors());
        found.extend(self.projection.iter().flat_map(DenseSpec::tensors));
        found.extend(self.layers.iter().flat_map(LayerSpec::tensors));
        found
    }
}

impl LayerSpec {
    pub(crate) fn new(config: &ModelConfig, names: &LayerNames, at: usize) -> Self {
        let (hidden, wide) = (config.hidden, config.intermediate);
        let name = |part: &str| format!("{}.{at}.{part}", names.layer);
        let dense = |part, inputs, outputs| DenseSpec::new(name(part), inputs, outputs, true);
        let norm = |part| NormSpec::new(name(part), hidden, true);
        Self {
            query: dense(names.query, hidden, hidden),
            key: dense(names.key, hidden, hidden),
            value: dense(names.value, hidden, hidden),
            attention_output: dense(names.attention_output, hidden, hidden),
            attention_norm: norm(names.attention_norm),
            up: dense(names.up, hidden, wide),
            down: dense(names.down, wide, hidden),
            output_norm: norm(names.output_norm),
        }
    }

    /// Name and shape of every tensor, always in one order.
    pub(crate) fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let Self { query, key, value, attention_output, up, down, .. } = self;
        let products = [query, key, value, attention_output, up, down];
        let mut found: Vec<_> = products.into_iter().flat_map(DenseSpec::tensors).collect();
        found.extend(self.attention_norm.tensors());
        found.extend(self.output_norm.tensors());
        found
    }
}

fn head(config: &ModelConfig, labels: usize) -> Vec<(DenseSpec, Option<Activation>)> {
    let (pooler, activation, classifier) = match config.architecture {
        Architecture::DistilBert => ("pre_classifier", Activation::Relu, "classifier"),
        Architecture::Electra => ("classifier.dense", Activation::Gelu, "classifier.out_proj"),
        Architecture::Roberta | Architecture::XlmRoberta => {
            ("classifier.dense", Activation::Tanh, "classifier.out_proj")
        }
        _ => ("pooler.dense", Activation::Tanh, "classifier"),
    };
    vec![
        (DenseSpec::new(pooler, config.hidden, config.hidden, true), Some(activation)),
        (DenseSpec::new(classifier, config.hidden, labels, true), None),
    ]
}
