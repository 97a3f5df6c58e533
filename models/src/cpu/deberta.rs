//! DeBERTa as the fast engine is told of it.

use postsort_cpu::{
    Embeddings, EncoderSpec, HeadSpec, LayerSpec, NormPlace, Pooling, Positions, RelativePositions,
};

use super::build::{Views, activation, head, post_norm_layer};
use crate::config::{DebertaConfig, ModelConfig};
use crate::deberta::{self, DebertaSpec};
use crate::error::ModelError;

pub(super) fn encoder(
    config: &ModelConfig,
    own: &DebertaConfig,
    spec: &DebertaSpec,
    views: &Views<'_>,
) -> Result<EncoderSpec, ModelError> {
    let tokens_max = config.tokens_max();
    let relative =
        own.relative.as_ref().zip(spec.distances.as_ref()).map(|(own, (table, norm))| {
            let farthest = i64::try_from(tokens_max).unwrap_or(i64::MAX) - 1;
            Ok::<_, ModelError>(RelativePositions {
                table: views
                    .tensor(&format!("{}.weight", table.name), &[table.rows, table.size])?,
                norm: norm.as_ref().map(|norm| views.norm(norm)).transpose()?,
                rows: (-farthest..=farthest).map(|distance| own.row(distance)).collect(),
            })
        });
    Ok(EncoderSpec {
        embeddings: Embeddings {
            word: views.table(&spec.words)?,
            position: spec.places.as_ref().map(|places| views.table(places)).transpose()?,
            positions: Positions::FromZero,
            token_type: spec.types.as_ref().map(|types| views.table(types)).transpose()?,
            norm: views.norm(&spec.norm)?,
            projection: spec.projection.as_ref().map(|dense| views.dense(dense)).transpose()?,
            norm_place: NormPlace::AfterProjection,
        },
        layers: spec.layers.iter().map(|spec| layer(spec, views)).collect::<Result<_, _>>()?,
        final_norm: None,
        heads: config.heads,
        score_terms: own.score_terms,
        relative: relative.transpose()?,
        activation: activation(config.activation),
        pooling: Pooling::FirstToken,
        head: HeadSpec {
            layers: spec.head.iter().map(|own| head(own, views)).collect::<Result<_, _>>()?,
        },
        tokens_max,
    })
}

fn layer(spec: &deberta::LayerSpec, views: &Views<'_>) -> Result<LayerSpec, ModelError> {
    let (key, query) = (spec.position_key.as_ref(), spec.position_query.as_ref());
    Ok(LayerSpec {
        position_key: key.map(|dense| views.dense(dense)).transpose()?,
        position_query: query.map(|dense| views.dense(dense)).transpose()?,
        ..post_norm_layer(&spec.post_norm, views)?
    })
}
