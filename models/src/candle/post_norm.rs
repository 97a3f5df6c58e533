//! BERT, DistilBERT, RoBERTa, XLM-RoBERTa and ELECTRA on candle.

use candle_core::Tensor;
use candle_nn::{Embedding, LayerNorm, Linear, Module};

use super::attention::{attend, scale, split_heads};
use super::tensors::Tensors;
use super::{Batch, Classifier, Head, activate, first_token, mask_bias};
use crate::config::{Activation, Architecture, ModelConfig};
use crate::error::ModelError;
use crate::post_norm::{LayerSpec, PostNormSpec};

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

impl PostNorm {
    pub(super) fn new(
        config: &ModelConfig,
        labels: usize,
        tensors: &mut Tensors<'_>,
    ) -> Result<Self, ModelError> {
        let spec = PostNormSpec::new(config, labels);
        let eps = config.norm_eps;
        let dense = |(spec, activation): &(_, _), tensors: &mut Tensors<'_>| {
            tensors.dense(spec).map(|dense| (dense, *activation))
        };
        Ok(Self {
            words: tensors.embedding(&spec.words)?,
            places: tensors.embedding(&spec.places)?,
            types: spec.types.as_ref().map(|types| tensors.embedding(types)).transpose()?,
            norm: tensors.norm(&spec.norm, eps)?,
            projection: spec.projection.as_ref().map(|dense| tensors.dense(dense)).transpose()?,
            layers: spec
                .layers
                .iter()
                .map(|layer| Layer::new(layer, eps, tensors))
                .collect::<Result<_, _>>()?,
            head: Head {
                layers: spec
                    .head
                    .iter()
                    .map(|part| dense(part, tensors))
                    .collect::<Result<_, _>>()?,
            },
            heads: config.heads,
            activation: config.activation,
        })
    }
}

impl Layer {
    fn new(spec: &LayerSpec, eps: f64, tensors: &mut Tensors<'_>) -> Result<Self, ModelError> {
        Ok(Self {
            query: tensors.dense(&spec.query)?,
            key: tensors.dense(&spec.key)?,
            value: tensors.dense(&spec.value)?,
            attention_output: tensors.dense(&spec.attention_output)?,
            attention_norm: tensors.norm(&spec.attention_norm, eps)?,
            up: tensors.dense(&spec.up)?,
            down: tensors.dense(&spec.down)?,
            output_norm: tensors.norm(&spec.output_norm, eps)?,
        })
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
