//! ModernBERT: rotary positions, gated feed-forward, norms before the residuals, most layers with
//! a window (Warner et al. 2024).

use candle_core::{Device, Tensor};
use candle_nn::{Embedding, LayerNorm, Linear, Module};

use super::attention::{attend, scale, split_heads};
use super::tensors::Tensors;
use super::{Batch, Classifier, activate, first_token, zero_padding};
use crate::config::{Activation, ModelConfig, ModernBertConfig};
use crate::error::ModelError;
use crate::tensors::{DenseSpec, NormSpec, TableSpec};

#[derive(Debug)]
pub(super) struct ModernBert {
    words: Embedding,
    norm: LayerNorm,
    layers: Vec<Layer>,
    final_norm: LayerNorm,
    head_dense: Linear,
    head_norm: LayerNorm,
    classifier: Linear,
    config: ModernBertConfig,
    heads: usize,
    head_size: usize,
    activation: Activation,
}

#[derive(Debug)]
struct Layer {
    /// The first layer has none: the embeddings are normed already.
    attention_norm: Option<LayerNorm>,
    query_key_value: Linear,
    attention_output: Linear,
    mlp_norm: LayerNorm,
    /// Input and gate.
    up: Linear,
    down: Linear,
    sliding: bool,
}

impl ModernBert {
    pub(super) fn new(
        config: &ModelConfig,
        own: &ModernBertConfig,
        labels: usize,
        tensors: &mut Tensors<'_>,
    ) -> Result<Self, ModelError> {
        let (hidden, wide, eps) = (config.hidden, config.intermediate, config.norm_eps);
        let words = tensors.embedding(&TableSpec::new(
            "embeddings.tok_embeddings",
            config.vocabulary,
            hidden,
        ))?;
        let norm = tensors.norm(&NormSpec::new("embeddings.norm", hidden, own.norm_bias), eps)?;
        let mut layers = Vec::with_capacity(config.layers);
        for (at, &sliding) in own.sliding.iter().enumerate() {
            let name = |part: &str| format!("layers.{at}.{part}");
            let attention_norm = (at > 0)
                .then(|| {
                    tensors.norm(&NormSpec::new(name("attn_norm"), hidden, own.norm_bias), eps)
                })
                .transpose()?;
            let mlp_norm =
                tensors.norm(&NormSpec::new(name("mlp_norm"), hidden, own.norm_bias), eps)?;
            let mut dense = |part: &str, inputs, outputs, bias| {
                tensors.dense(&DenseSpec::new(name(part), inputs, outputs, bias))
            };
            layers.push(Layer {
                attention_norm,
                query_key_value: dense("attn.Wqkv", hidden, 3 * hidden, own.attention_bias)?,
                attention_output: dense("attn.Wo", hidden, hidden, own.attention_bias)?,
                mlp_norm,
                up: dense("mlp.Wi", hidden, 2 * wide, own.mlp_bias)?,
                down: dense("mlp.Wo", wide, hidden, own.mlp_bias)?,
                sliding,
            });
        }
        Ok(Self {
            words,
            norm,
            layers,
            final_norm: tensors.norm(&NormSpec::new("final_norm", hidden, own.norm_bias), eps)?,
            head_dense: tensors.dense(&DenseSpec::new(
                "head.dense",
                hidden,
                hidden,
                own.classifier_bias,
            ))?,
            head_norm: tensors.norm(&NormSpec::new("head.norm", hidden, own.norm_bias), eps)?,
            classifier: tensors.dense(&DenseSpec::new("classifier", hidden, labels, true))?,
            config: own.clone(),
            heads: config.heads,
            head_size: hidden / config.heads,
            activation: config.activation,
        })
    }

    fn pool(&self, states: &Tensor, mask: Option<&Tensor>) -> Result<Tensor, ModelError> {
        if !self.config.mean_pooling {
            return first_token(states);
        }
        let sum = zero_padding(states, mask)?.sum(1)?;
        match mask {
            Some(mask) => Ok(sum.broadcast_div(&mask.sum_keepdim(1)?)?),
            #[expect(clippy::cast_precision_loss, reason = "a sequence's tokens")]
            None => Ok((sum / states.dim(1)? as f64)?),
        }
    }
}

impl Classifier for ModernBert {
    /// [`angles`] of layers that see all and of those with a window, and the [`window_bias`].
    fn constants(&self, tokens: usize, device: &Device) -> Result<Vec<Tensor>, ModelError> {
        let angles = |theta: f64| angles(tokens, self.head_size, theta, device);
        let (full, sliding) = (angles(self.config.theta_full)?, angles(self.config.theta_sliding)?);
        let window = window_bias(tokens, self.config.distance_max, device)?;
        Ok([full.0, full.1, sliding.0, sliding.1].into_iter().chain(window).collect())
    }

    fn logits(&self, batch: &Batch) -> Result<Tensor, ModelError> {
        let mut states = self.norm.forward(&self.words.forward(&batch.ids)?)?;
        let hidden = self.heads * self.head_size;
        let [full_cos, full_sin, sliding_cos, sliding_sin, window @ ..] = &*batch.constants else {
            return Err(ModelError::Engine { reason: "a batch without angles".to_owned() });
        };
        let padding = batch.mask_bias(self.heads)?;
        for layer in &self.layers {
            let normed = match &layer.attention_norm {
                Some(norm) => norm.forward(&states)?,
                None => states.clone(),
            };
            let all = layer.query_key_value.forward(&normed)?;
            let part = |at: usize| {
                split_heads(&all.narrow(2, at * hidden, hidden)?.contiguous()?, self.heads)
            };
            let (cos, sin) =
                if layer.sliding { (sliding_cos, sliding_sin) } else { (full_cos, full_sin) };
            let query = candle_nn::rotary_emb::rope(&part(0)?, cos, sin)?;
            let key = candle_nn::rotary_emb::rope(&part(1)?, cos, sin)?;
            let window = window.first().filter(|_| layer.sliding);
            let biases: Vec<&Tensor> = padding.iter().chain(window).collect();
            let mixed = attend(&(query * scale(self.head_size))?, &key, &part(2)?, &biases)?;
            states = (states + layer.attention_output.forward(&mixed)?)?;
            let both = layer.up.forward(&layer.mlp_norm.forward(&states)?)?.chunk(2, 2)?;
            let gated = (activate(self.activation, &both[0].contiguous()?)? * &both[1])?;
            states = (states + layer.down.forward(&gated)?)?;
        }
        let pooled = self.pool(&self.final_norm.forward(&states)?, batch.mask.as_ref())?;
        let headed =
            activate(self.config.classifier_activation, &self.head_dense.forward(&pooled)?)?;
        Ok(self.classifier.forward(&self.head_norm.forward(&headed)?)?)
    }
}

/// Cosines and sines `[tokens, size/2]` of the rotary embedding (Su et al. 2021).
#[expect(clippy::cast_precision_loss, reason = "positions and sizes")]
fn angles(
    tokens: usize,
    size: usize,
    theta: f64,
    device: &Device,
) -> Result<(Tensor, Tensor), ModelError> {
    let frequency = |at: usize| (1.0 / theta.powf((2 * at) as f64 / size as f64)) as f32;
    let frequencies: Vec<f32> = (0..size / 2).map(frequency).collect();
    let angles: Vec<f32> = (0..tokens)
        .flat_map(|token| frequencies.iter().map(move |frequency| token as f32 * frequency))
        .collect();
    let angles = Tensor::from_vec(angles, (tokens, size / 2), device)?;
    Ok((angles.cos()?, angles.sin()?))
}

/// Hides what is farther than `distance_max`: `[1, 1, tokens, tokens]`; none if nothing is.
fn window_bias(
    tokens: usize,
    distance_max: usize,
    device: &Device,
) -> Result<Option<Tensor>, ModelError> {
    if tokens <= distance_max + 1 {
        return Ok(None);
    }
    let bias =
        |query: usize, key: usize| if query.abs_diff(key) > distance_max { f32::MIN } else { 0.0 };
    let biases: Vec<f32> =
        (0..tokens).flat_map(|query| (0..tokens).map(move |key| bias(query, key))).collect();
    Ok(Some(Tensor::from_vec(biases, (1, 1, tokens, tokens), device)?))
}
