//! ModernBERT as the fast engine is told of it.

use std::ops::Range;

use postsort_cpu::{
    Embeddings, EncoderSpec, HeadLayer, HeadSpec, LayerSpec, Linear, NormPlace, Pooling, Positions,
};

use super::build::{Views, activation};
use crate::config::{ModelConfig, ModernBertConfig};
use crate::error::ModelError;
use crate::modern_bert::{self, ModernBertSpec};

pub(super) fn encoder(
    config: &ModelConfig,
    own: &ModernBertConfig,
    spec: &ModernBertSpec,
    views: &Views<'_>,
) -> Result<EncoderSpec, ModelError> {
    let layers = spec.layers.iter().zip(&own.sliding);
    let classifier = views.dense(&spec.head.classifier)?;
    Ok(EncoderSpec {
        embeddings: Embeddings {
            word: views.table(&spec.words)?,
            position: None,
            positions: Positions::FromZero,
            token_type: None,
            norm: views.norm(&spec.norm)?,
            projection: None,
            norm_place: NormPlace::BeforeProjection,
        },
        layers: layers
            .map(|(spec, &sliding)| layer(config, own, (spec, sliding), views))
            .collect::<Result<_, _>>()?,
        final_norm: Some(views.norm(&spec.final_norm)?),
        heads: config.heads,
        score_terms: 1,
        relative: None,
        activation: activation(config.activation),
        pooling: if own.mean_pooling { Pooling::Mean } else { Pooling::FirstToken },
        head: HeadSpec {
            layers: vec![
                HeadLayer {
                    dense: views.dense(&spec.head.dense)?,
                    activation: Some(activation(spec.head.activation)),
                    norm: Some(views.norm(&spec.head.norm)?),
                },
                HeadLayer { dense: classifier, activation: None, norm: None },
            ],
        },
        tokens_max: config.tokens_max(),
    })
}

fn layer(
    config: &ModelConfig,
    own: &ModernBertConfig,
    (spec, sliding): (&modern_bert::LayerSpec, bool),
    views: &Views<'_>,
) -> Result<LayerSpec, ModelError> {
    let (hidden, wide) = (config.hidden, config.intermediate);
    let both = views.dense(&spec.up)?;
    let all = views.dense(&spec.query_key_value)?;
    let norm = spec.attention_norm.as_ref();
    Ok(LayerSpec {
        attention_pre_norm: norm.map(|norm| views.norm(norm)).transpose()?,
        query: outputs(&all, 0..hidden),
        key: outputs(&all, hidden..2 * hidden),
        value: outputs(&all, 2 * hidden..3 * hidden),
        attention_output: views.dense(&spec.attention_output)?,
        attention_norm: None,
        output_pre_norm: Some(views.norm(&spec.mlp_norm)?),
        up: outputs(&both, 0..wide),
        gate: Some(outputs(&both, wide..2 * wide)),
        down: views.dense(&spec.down)?,
        output_norm: None,
        window: sliding.then_some(own.distance_max),
        rotary_base: Some(if sliding { own.theta_sliding } else { own.theta_full }),
        position_key: None,
        position_query: None,
    })
}

/// Some of a dense layer's outputs.
fn outputs(dense: &Linear, range: Range<usize>) -> Linear {
    let bias = dense.bias.as_ref().map(|bias| bias.rows(range.clone()));
    Linear { weight: dense.weight.rows(range), bias }
}
