//! BERT, DistilBERT, RoBERTa, XLM-RoBERTa and ELECTRA on candle.

use candle_core::Tensor;
use candle_nn::{Embedding, LayerNorm, Linear, Module};

use super::attention::{attend, scale};
use super::tensors::Tensors;
use super::{Batch, Classifier, Head, activate, first_token};
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
    /// One product of all three; queries are scaled.
    query_key_value: Linear,
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
                .map(|layer| Layer::new(layer, (eps, config.hidden / config.heads), tensors))
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
    fn new(
        spec: &LayerSpec,
        (eps, head_size): (f64, usize),
        tensors: &mut Tensors<'_>,
    ) -> Result<Self, ModelError> {
        let parts = [(&spec.query, scale(head_size)), (&spec.key, 1.0), (&spec.value, 1.0)];
        Ok(Self {
            query_key_value: tensors.joined(&parts)?,
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
        let bias = batch.mask_bias(self.heads)?;
        let biases: Vec<&Tensor> = bias.iter().collect();
        for layer in &self.layers {
            let all = layer.query_key_value.forward(&states)?;
            let (batch, tokens, width) = all.dims3()?;
            let all = all.reshape((batch, tokens, 3, self.heads, width / 3 / self.heads))?;
            let all = all.permute((2, 0, 3, 1, 4))?.contiguous()?;
            let mixed = attend(&all.get(0)?, &all.get(1)?, &all.get(2)?, &biases)?;
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
