//! BERT, DistilBERT, RoBERTa, XLM-RoBERTa and ELECTRA: one encoder with the layer norms after the
//! residuals, under five sets of names.

use candle_core::Tensor;
use candle_nn::{Embedding, LayerNorm, Linear, Module};

use super::attention::{attend, scale, split_heads};
use super::tensors::Tensors;
use super::{Batch, Classifier, Head, activate, first_token, mask_bias};
use crate::config::{Activation, Architecture, ModelConfig};
use crate::error::ModelError;

#[derive(Debug)]
pub(super) struct PostNorm {
    words: Embedding,
    places: Embedding,
    types: Option<Embedding>,
    norm: LayerNorm,
    projection: Option<Linear>,
    layers: Vec<Layer>,
    head: Head,
    heads: usize,
    activation: Activation,
}

#[derive(Debug)]
struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    up: Linear,
    down: Linear,
    output_norm: LayerNorm,
}

/// What a family calls the parts of a layer.
struct LayerNames {
    layer: &'static str,
    query: &'static str,
    key: &'static str,
    value: &'static str,
    attention_output: &'static str,
    attention_norm: &'static str,
    up: &'static str,
    down: &'static str,
    output_norm: &'static str,
}

const BERT_NAMES: LayerNames = LayerNames {
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

impl PostNorm {
    pub(super) fn new(
        config: &ModelConfig,
        labels: usize,
        tensors: &mut Tensors,
    ) -> Result<Self, ModelError> {
        let (hidden, width, eps) = (config.hidden, config.embedding, config.norm_eps);
        let words = tensors.embedding("embeddings.word_embeddings", config.vocabulary, width)?;
        let places =
            tensors.embedding("embeddings.position_embeddings", config.positions, width)?;
        let types = (config.token_types > 0)
            .then(|| {
                tensors.embedding("embeddings.token_type_embeddings", config.token_types, width)
            })
            .transpose()?;
        let norm = tensors.norm("embeddings.LayerNorm", width, eps, true)?;
        let projection = (width != hidden)
            .then(|| tensors.dense("embeddings_project", width, hidden, true))
            .transpose()?;
        let names = match config.architecture {
            Architecture::DistilBert => DISTILBERT_NAMES,
            _ => BERT_NAMES,
        };
        let layers = (0..config.layers)
            .map(|at| Layer::new(config, &names, at, tensors))
            .collect::<Result<_, _>>()?;
        let head = Self::head(config, labels, tensors)?;
        let (heads, activation) = (config.heads, config.activation);
        Ok(Self { words, places, types, norm, projection, layers, head, heads, activation })
    }

    fn head(
        config: &ModelConfig,
        labels: usize,
        tensors: &mut Tensors,
    ) -> Result<Head, ModelError> {
        let (pooler, activation, classifier) = match config.architecture {
            Architecture::DistilBert => ("pre_classifier", Activation::Relu, "classifier"),
            Architecture::Electra => ("classifier.dense", Activation::Gelu, "classifier.out_proj"),
            Architecture::Roberta | Architecture::XlmRoberta => {
                ("classifier.dense", Activation::Tanh, "classifier.out_proj")
            }
            _ => ("pooler.dense", Activation::Tanh, "classifier"),
        };
        let pooler = tensors.dense(pooler, config.hidden, config.hidden, true)?;
        let classifier = tensors.dense(classifier, config.hidden, labels, true)?;
        Ok(Head { layers: vec![(pooler, Some(activation)), (classifier, None)] })
    }
}

impl Layer {
    fn new(
        config: &ModelConfig,
        names: &LayerNames,
        at: usize,
        tensors: &mut Tensors,
    ) -> Result<Self, ModelError> {
        let (hidden, wide, eps) = (config.hidden, config.intermediate, config.norm_eps);
        let name = |part: &str| format!("{}.{at}.{part}", names.layer);
        let mut dense =
            |part: &str, inputs, outputs| tensors.dense(&name(part), inputs, outputs, true);
        let query = dense(names.query, hidden, hidden)?;
        let key = dense(names.key, hidden, hidden)?;
        let value = dense(names.value, hidden, hidden)?;
        let attention_output = dense(names.attention_output, hidden, hidden)?;
        let up = dense(names.up, hidden, wide)?;
        let down = dense(names.down, wide, hidden)?;
        let attention_norm = tensors.norm(&name(names.attention_norm), hidden, eps, true)?;
        let output_norm = tensors.norm(&name(names.output_norm), hidden, eps, true)?;
        Ok(Self { query, key, value, attention_output, attention_norm, up, down, output_norm })
    }
}

impl Classifier for PostNorm {
    fn logits(&self, batch: &Batch) -> Result<Tensor, ModelError> {
        let mut states =
            (self.words.forward(&batch.ids)? + self.places.forward(&batch.positions)?)?;
        if let Some(types) = &self.types {
            states = (states + types.forward(&batch.type_ids)?)?;
        }
        states = self.norm.forward(&states)?;
        if let Some(projection) = &self.projection {
            states = projection.forward(&states)?;
        }
        let bias = batch.mask.as_ref().map(mask_bias).transpose()?;
        let biases: Vec<&Tensor> = bias.iter().collect();
        for layer in &self.layers {
            let part = |dense: &Linear| split_heads(&dense.forward(&states)?, self.heads);
            let (query, key, value) = (part(&layer.query)?, part(&layer.key)?, part(&layer.value)?);
            let scale = scale(query.dim(3)?);
            let mixed = attend(&query, &key, &value, scale, &biases)?;
            let attended = (layer.attention_output.forward(&mixed)? + &states)?;
            let attended = layer.attention_norm.forward(&attended)?;
            let wide = activate(self.activation, &layer.up.forward(&attended)?)?;
            states = layer.output_norm.forward(&(layer.down.forward(&wide)? + attended)?)?;
        }
        self.head.logits(&first_token(&states)?)
    }
}

/// Rows of the position embedding. RoBERTa counts from the padding token's on and gives a padding
/// token that stands in the text itself that token's own row.
pub(super) fn positions(config: &ModelConfig, ids: &[u32]) -> Vec<u32> {
    let roberta = matches!(config.architecture, Architecture::Roberta | Architecture::XlmRoberta);
    if !roberta {
        return (0..).zip(ids).map(|(at, _)| at).collect();
    }
    let padding = config.padding;
    let mut next = padding;
    let position = |&id: &u32| {
        if id == padding {
            return padding;
        }
        next += 1;
        next
    };
    ids.iter().map(position).collect()
}
