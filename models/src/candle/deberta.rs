//! DeBERTa v2 and v3: content attends to relative positions and they to content (He et al. 2020).

use candle_core::{D, Device, Tensor};
use candle_nn::{Conv1d, Conv1dConfig, Embedding, LayerNorm, Linear, Module};

use super::attention::{attend, split_heads};
use super::tensors::Tensors;
use super::{Batch, Classifier, Head, activate, first_token, zero_padding};
use crate::config::{Activation, DebertaConfig, ModelConfig, Relative};
use crate::error::ModelError;
use crate::tensors::{DenseSpec, NormSpec, TableSpec};

#[derive(Debug)]
pub(super) struct Deberta {
    words: Embedding,
    places: Option<Embedding>,
    types: Option<Embedding>,
    projection: Option<Linear>,
    norm: LayerNorm,
    /// `[2·span, hidden]`.
    distances: Option<Tensor>,
    layers: Vec<Layer>,
    convolution: Option<(Conv1d, Activation, LayerNorm)>,
    head: Head,
    config: DebertaConfig,
    heads: usize,
    activation: Activation,
}

#[derive(Debug)]
struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    /// Positions as keys `[heads, 2·span, size]`: the same for every text, so made at load.
    position_key: Option<Tensor>,
    /// Positions as queries `[heads, 2·span, size]`.
    position_query: Option<Tensor>,
    attention_output: Linear,
    attention_norm: LayerNorm,
    up: Linear,
    down: Linear,
    output_norm: LayerNorm,
}

impl Deberta {
    pub(super) fn new(
        config: &ModelConfig,
        own: &DebertaConfig,
        labels: usize,
        tensors: &mut Tensors<'_>,
    ) -> Result<Self, ModelError> {
        let (hidden, width, eps) = (config.hidden, config.embedding, config.norm_eps);
        let words = tensors.embedding(&TableSpec::new(
            "embeddings.word_embeddings",
            config.vocabulary,
            width,
        ))?;
        let places = own
            .position_biased_input
            .then(|| {
                tensors.embedding(&TableSpec::new(
                    "embeddings.position_embeddings",
                    config.positions,
                    width,
                ))
            })
            .transpose()?;
        let types = (config.token_types > 0)
            .then(|| {
                tensors.embedding(&TableSpec::new(
                    "embeddings.token_type_embeddings",
                    config.token_types,
                    width,
                ))
            })
            .transpose()?;
        let projection = (width != hidden)
            .then(|| tensors.dense(&DenseSpec::new("embeddings.embed_proj", width, hidden, false)))
            .transpose()?;
        let norm = tensors.norm(&NormSpec::new("embeddings.LayerNorm", hidden, true), eps)?;
        let distances = match &own.relative {
            None => None,
            Some(relative) => {
                let rows = relative.span() * 2;
                let table = tensors.tensor("encoder.rel_embeddings.weight", &[rows, hidden])?;
                Some(if relative.norm {
                    tensors
                        .norm(&NormSpec::new("encoder.LayerNorm", hidden, true), eps)?
                        .forward(&table)?
                } else {
                    table
                })
            }
        };
        let convolution = match own.convolution {
            None => None,
            Some((size, groups, activation)) => {
                let shape = [hidden, hidden / groups.min(hidden), size];
                let weight = tensors.tensor("encoder.conv.conv.weight", &shape)?;
                let bias = tensors.tensor("encoder.conv.conv.bias", &[hidden])?;
                let scheme =
                    Conv1dConfig { padding: (size - 1) / 2, groups, ..Conv1dConfig::default() };
                let norm =
                    tensors.norm(&NormSpec::new("encoder.conv.LayerNorm", hidden, true), eps)?;
                Some((Conv1d::new(weight, Some(bias), scheme), activation, norm))
            }
        };
        let layers = (0..config.layers)
            .map(|at| Layer::new(config, own, distances.as_ref(), at, tensors))
            .collect::<Result<_, _>>()?;
        let pooler =
            tensors.dense(&DenseSpec::new("pooler.dense", own.pooler, own.pooler, true))?;
        let classifier = tensors.dense(&DenseSpec::new("classifier", own.pooler, labels, true))?;
        let head = Head { layers: vec![(pooler, Some(own.pooler_activation)), (classifier, None)] };
        let (heads, activation, config) = (config.heads, config.activation, own.clone());
        Ok(Self {
            words,
            places,
            types,
            projection,
            norm,
            distances,
            layers,
            convolution,
            head,
            config,
            heads,
            activation,
        })
    }
}

impl Layer {
    fn new(
        config: &ModelConfig,
        own: &DebertaConfig,
        distances: Option<&Tensor>,
        at: usize,
        tensors: &mut Tensors<'_>,
    ) -> Result<Self, ModelError> {
        let (hidden, wide, eps) = (config.hidden, config.intermediate, config.norm_eps);
        let all_heads = config.heads * own.head_size;
        let name = |part: &str| format!("encoder.layer.{at}.{part}");
        let mut dense = |part: &str, inputs, outputs| {
            tensors.dense(&DenseSpec::new(name(part), inputs, outputs, true))
        };
        let query = dense("attention.self.query_proj", hidden, all_heads)?;
        let key = dense("attention.self.key_proj", hidden, all_heads)?;
        let value = dense("attention.self.value_proj", hidden, all_heads)?;
        let (mut position_key, mut position_query) = (None, None);
        if let (Some(relative), Some(distances)) = (&own.relative, distances) {
            let table = distances.unsqueeze(0)?;
            let project = |dense: &Linear| -> Result<Tensor, ModelError> {
                Ok(split_heads(&dense.forward(&table)?, config.heads)?.squeeze(0)?)
            };
            if relative.content_to_position {
                position_key = Some(if relative.share_att_key {
                    project(&key)?
                } else {
                    project(&dense("attention.self.pos_key_proj", hidden, all_heads)?)?
                });
            }
            if relative.position_to_content {
                position_query = Some(if relative.share_att_key {
                    project(&query)?
                } else {
                    project(&dense("attention.self.pos_query_proj", hidden, all_heads)?)?
                });
            }
        }
        let attention_output = dense("attention.output.dense", all_heads, hidden)?;
        let up = dense("intermediate.dense", hidden, wide)?;
        let down = dense("output.dense", wide, hidden)?;
        let attention_norm =
            tensors.norm(&NormSpec::new(name("attention.output.LayerNorm"), hidden, true), eps)?;
        let output_norm =
            tensors.norm(&NormSpec::new(name("output.LayerNorm"), hidden, true), eps)?;
        Ok(Self {
            query,
            key,
            value,
            position_key,
            position_query,
            attention_output,
            attention_norm,
            up,
            down,
            output_norm,
        })
    }

    /// Scores of content on positions and of positions on content `[batch, heads, tokens, tokens]`.
    ///
    /// `rows` are the [`distance_rows`] of both signs.
    fn position_scores(
        &self,
        query: &Tensor,
        key: &Tensor,
        rows: [&Tensor; 2],
    ) -> Result<Option<Tensor>, ModelError> {
        let (batch, heads, tokens, _) = query.dims4()?;
        // Row `a`, column `b` holds the row of the distance from `a` to `b`.
        let pick = |states: &Tensor, table: &Tensor, rows: &Tensor| -> Result<Tensor, ModelError> {
            let scores =
                states.broadcast_matmul(&table.transpose(D::Minus2, D::Minus1)?.unsqueeze(0)?)?;
            let rows = rows.broadcast_as((batch, heads, tokens, tokens))?.contiguous()?;
            Ok(scores.contiguous()?.gather(&rows, D::Minus1)?)
        };
        let mut sum: Option<Tensor> = None;
        if let Some(position_key) = &self.position_key {
            sum = Some(pick(query, position_key, rows[0])?);
        }
        if let Some(position_query) = &self.position_query {
            let scores = pick(key, position_query, rows[1])?.transpose(D::Minus2, D::Minus1)?;
            sum = Some(match sum {
                Some(sum) => (sum + scores)?,
                None => scores.contiguous()?,
            });
        }
        Ok(sum)
    }
}

impl Classifier for Deberta {
    /// [`distance_rows`] of both signs.
    fn constants(&self, tokens: usize, device: &Device) -> Result<Vec<Tensor>, ModelError> {
        let (Some(relative), Some(_)) = (&self.config.relative, &self.distances) else {
            return Ok(Vec::new());
        };
        let rows = |sign| {
            let rows = distance_rows(relative, tokens, sign);
            Tensor::from_vec(rows, (1, 1, tokens, tokens), device)
        };
        Ok(vec![rows(1)?, rows(-1)?])
    }

    fn logits(&self, batch: &Batch) -> Result<Tensor, ModelError> {
        let mask = batch.mask.as_ref();
        let mut states = self.words.forward(&batch.ids)?;
        if let Some(places) = &self.places {
            states = (states + places.forward(&batch.positions)?)?;
        }
        if let Some(types) = &self.types {
            states = (states + types.forward(&batch.type_ids)?)?;
        }
        if let Some(projection) = &self.projection {
            states = projection.forward(&states)?;
        }
        states = zero_padding(&self.norm.forward(&states)?, mask)?;
        let embedded = states.clone();

        let padding = batch.mask_bias(self.heads)?;
        #[expect(clippy::cast_precision_loss, reason = "a head's size")]
        let scale = 1.0 / ((self.config.head_size * self.config.score_terms) as f64).sqrt();
        for (at, layer) in self.layers.iter().enumerate() {
            let part = |dense: &Linear| split_heads(&dense.forward(&states)?, self.heads);
            let (query, key, value) = (part(&layer.query)?, part(&layer.key)?, part(&layer.value)?);
            let positions = match &*batch.constants {
                [there, back] => layer.position_scores(&query, &key, [there, back])?,
                _ => None,
            };
            let positions = positions.map(|scores| scores * scale).transpose()?;
            let biases: Vec<&Tensor> = positions.iter().chain(&padding).collect();
            let mixed = attend(&(query * scale)?, &key, &value, &biases)?;
            let attended = (layer.attention_output.forward(&mixed)? + &states)?;
            let attended = layer.attention_norm.forward(&attended)?;
            let wide = activate(self.activation, &layer.up.forward(&attended)?)?;
            states = layer.output_norm.forward(&(layer.down.forward(&wide)? + attended)?)?;
            if let (0, Some((convolution, activation, norm))) = (at, &self.convolution) {
                let mixed = convolution.forward(&embedded.transpose(1, 2)?.contiguous()?)?;
                let mixed = zero_padding(&mixed.transpose(1, 2)?.contiguous()?, mask)?;
                let mixed = (activate(*activation, &mixed)? + &states)?;
                states = zero_padding(&norm.forward(&mixed)?, mask)?;
            }
        }
        self.head.logits(&first_token(&states)?)
    }
}

/// Rows of the distance table for every pair of tokens `[tokens·tokens]`, each in `0..2·span`: of
/// the distance from the first to the second (`sign` 1) or from the second to the first (-1). The
/// clamp is not symmetric, so one does not follow from the other.
fn distance_rows(relative: &Relative, tokens: usize, sign: i64) -> Vec<u32> {
    let mut rows = Vec::with_capacity(tokens * tokens);
    for query in 0..tokens {
        for key in 0..tokens {
            rows.push(relative.row(sign * (query as i64 - key as i64)));
        }
    }
    rows
}
