//! From a checkpoint's names to what the fast engine is built of.

use postsort_cpu::{
    Activation as CpuActivation, Embeddings, EncoderSpec, HeadLayer, HeadSpec, LayerSpec, Linear,
    Norm, NormPlace, Pooling, Positions, TensorView,
};

use super::{deberta, modern_bert};
use crate::config::{Activation, Architecture, Family, ModelConfig};
use crate::error::ModelError;
use crate::folder::ModelFolder;
use crate::parts::Parts;
use crate::post_norm::{self, PostNormSpec};
use crate::tensors::{DenseSpec, NormSpec, TableSpec, resolve};
use crate::weights::{OpenWeights, WeightFiles};

/// Whether the fast engine knows the architecture.
pub(crate) fn knows(config: &ModelConfig) -> bool {
    Parts::new(config, 1).is_some()
}

/// The encoder of `folder`, its tensors still in their files; `None` for an architecture that the
/// engine does not know.
pub(super) fn encoder(folder: &ModelFolder) -> Result<Option<EncoderSpec>, ModelError> {
    let (config, labels) = (folder.config(), folder.labels().names().len());
    let Some(parts) = Parts::new(config, labels) else { return Ok(None) };
    let views = Views {
        files: &folder.weights,
        open: folder.weights.open_files()?,
        prefix: config.architecture.prefix(),
        eps: config.norm_eps,
    };
    match (&parts, &config.family) {
        (Parts::PostNorm(spec), _) => post_norm_encoder(config, spec, &views).map(Some),
        (Parts::ModernBert(spec), Family::ModernBert(own)) => {
            modern_bert::encoder(config, own, spec, &views).map(Some)
        }
        (Parts::Deberta(spec), Family::Deberta(own)) => {
            deberta::encoder(config, own, spec, &views).map(Some)
        }
        _ => Ok(None),
    }
}

fn post_norm_encoder(
    config: &ModelConfig,
    spec: &PostNormSpec,
    views: &Views<'_>,
) -> Result<EncoderSpec, ModelError> {
    let roberta = matches!(config.architecture, Architecture::Roberta | Architecture::XlmRoberta);
    Ok(EncoderSpec {
        embeddings: Embeddings {
            word: views.table(&spec.words)?,
            position: Some(views.table(&spec.places)?),
            positions: if roberta {
                Positions::AfterPadding { padding: config.padding }
            } else {
                Positions::FromZero
            },
            token_type: spec.types.as_ref().map(|types| views.table(types)).transpose()?,
            norm: views.norm(&spec.norm)?,
            projection: spec.projection.as_ref().map(|dense| views.dense(dense)).transpose()?,
            norm_place: NormPlace::BeforeProjection,
        },
        layers: spec
            .layers
            .iter()
            .map(|layer| post_norm_layer(layer, views))
            .collect::<Result<_, _>>()?,
        final_norm: None,
        heads: config.heads,
        score_terms: 1,
        relative: None,
        activation: activation(config.activation),
        pooling: Pooling::FirstToken,
        head: HeadSpec {
            layers: spec.head.iter().map(|own| head(own, views)).collect::<Result<_, _>>()?,
        },
        tokens_max: config.tokens_max(),
    })
}

/// A layer with its norms after the residuals, and no positions of its own.
pub(super) fn post_norm_layer(
    layer: &post_norm::LayerSpec,
    views: &Views<'_>,
) -> Result<LayerSpec, ModelError> {
    Ok(LayerSpec {
        query: views.dense(&layer.query)?,
        key: views.dense(&layer.key)?,
        value: views.dense(&layer.value)?,
        attention_output: views.dense(&layer.attention_output)?,
        attention_pre_norm: None,
        attention_norm: Some(views.norm(&layer.attention_norm)?),
        output_pre_norm: None,
        up: views.dense(&layer.up)?,
        gate: None,
        down: views.dense(&layer.down)?,
        output_norm: Some(views.norm(&layer.output_norm)?),
        window: None,
        rotary_base: None,
        position_key: None,
        position_query: None,
    })
}

pub(super) fn head(
    (dense, function): &(DenseSpec, Option<Activation>),
    views: &Views<'_>,
) -> Result<HeadLayer, ModelError> {
    Ok(HeadLayer { dense: views.dense(dense)?, activation: function.map(activation), norm: None })
}

pub(super) fn activation(activation: Activation) -> CpuActivation {
    match activation {
        Activation::Gelu => CpuActivation::Gelu,
        Activation::GeluTanh => CpuActivation::GeluTanh,
        Activation::Relu => CpuActivation::Relu,
        Activation::Silu => CpuActivation::Silu,
        Activation::Tanh => CpuActivation::Tanh,
    }
}

/// Finds tensors by the names that `transformers` gives them.
pub(super) struct Views<'a> {
    files: &'a WeightFiles,
    open: OpenWeights<'a>,
    prefix: &'static str,
    eps: f64,
}

impl Views<'_> {
    pub(super) fn tensor(&self, name: &str, shape: &[usize]) -> Result<TensorView, ModelError> {
        self.open.view(&resolve(self.files, self.prefix, name, shape)?)
    }

    fn weight_and_bias(
        &self,
        name: &str,
        shape: &[usize],
        bias: bool,
    ) -> Result<(TensorView, Option<TensorView>), ModelError> {
        let weight = self.tensor(&format!("{name}.weight"), shape)?;
        let bias = bias.then(|| self.tensor(&format!("{name}.bias"), &shape[..1])).transpose()?;
        Ok((weight, bias))
    }

    pub(super) fn dense(&self, spec: &DenseSpec) -> Result<Linear, ModelError> {
        let shape = [spec.outputs, spec.inputs];
        let (weight, bias) = self.weight_and_bias(&spec.name, &shape, spec.bias)?;
        Ok(Linear { weight, bias })
    }

    pub(super) fn norm(&self, spec: &NormSpec) -> Result<Norm, ModelError> {
        let (weight, bias) = self.weight_and_bias(&spec.name, &[spec.size], spec.bias)?;
        #[expect(clippy::cast_possible_truncation, reason = "a small number")]
        Ok(Norm { weight, bias, eps: self.eps as f32 })
    }

    pub(super) fn table(&self, spec: &TableSpec) -> Result<TensorView, ModelError> {
        let (name, shape) = (format!("{}.weight", spec.name), [spec.rows, spec.size]);
        self.open.view(&resolve(self.files, self.prefix, &name, &shape)?)
    }
}
