//! From a checkpoint's names to what the fast engine is built of.

use postsort_cpu::{
    Activation as CpuActivation, Embeddings, EncoderSpec, HeadSpec, LayerSpec, Linear, Norm,
    Positions, TensorView,
};

use crate::config::{Activation, Architecture, Family, ModelConfig};
use crate::error::ModelError;
use crate::folder::ModelFolder;
use crate::post_norm::PostNormSpec;
use crate::tensors::{DenseSpec, NormSpec, TableSpec, resolve};
use crate::weights::{MappedWeights, WeightFiles};

/// Whether the fast engine knows the architecture.
pub(crate) fn knows(config: &ModelConfig) -> bool {
    matches!(config.family, Family::PostNorm)
}

/// The encoder of `folder`, its tensors still in their files; `None` for an architecture that the
/// engine does not know.
pub(super) fn encoder(folder: &ModelFolder) -> Result<Option<EncoderSpec>, ModelError> {
    let (config, labels) = (folder.config(), folder.labels().names().len());
    if !knows(config) {
        return Ok(None);
    }
    let views = Views {
        files: &folder.weights,
        products: folder.weights.map()?,
        tables: folder.weights.map()?,
        prefix: config.architecture.prefix(),
        eps: config.norm_eps,
    };
    post_norm(config, &PostNormSpec::new(config, labels), &views).map(Some)
}

fn post_norm(
    config: &ModelConfig,
    spec: &PostNormSpec,
    views: &Views<'_>,
) -> Result<EncoderSpec, ModelError> {
    let roberta = matches!(config.architecture, Architecture::Roberta | Architecture::XlmRoberta);
    let layer = |layer: &crate::post_norm::LayerSpec| {
        Ok(LayerSpec {
            query: views.dense(&layer.query)?,
            key: views.dense(&layer.key)?,
            value: views.dense(&layer.value)?,
            attention_output: views.dense(&layer.attention_output)?,
            attention_norm: views.norm(&layer.attention_norm)?,
            up: views.dense(&layer.up)?,
            down: views.dense(&layer.down)?,
            output_norm: views.norm(&layer.output_norm)?,
        })
    };
    let head = |(dense, function): &(DenseSpec, Option<Activation>)| {
        Ok::<_, ModelError>((views.dense(dense)?, function.map(activation)))
    };
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
        },
        layers: spec.layers.iter().map(layer).collect::<Result<_, ModelError>>()?,
        heads: config.heads,
        activation: activation(config.activation),
        head: HeadSpec { layers: spec.head.iter().map(head).collect::<Result<_, _>>()? },
        tokens_max: config.tokens_max(),
    })
}

fn activation(activation: Activation) -> CpuActivation {
    match activation {
        Activation::Gelu => CpuActivation::Gelu,
        Activation::GeluTanh => CpuActivation::GeluTanh,
        Activation::Relu => CpuActivation::Relu,
        Activation::Silu => CpuActivation::Silu,
        Activation::Tanh => CpuActivation::Tanh,
    }
}

/// Finds tensors by the names that `transformers` gives them.
struct Views<'a> {
    files: &'a WeightFiles,
    /// Read once and let go, so that their pages do not stay with the process.
    products: MappedWeights<'a>,
    /// Kept mapped: read where they lie.
    tables: MappedWeights<'a>,
    prefix: &'static str,
    eps: f64,
}

impl Views<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<TensorView, ModelError> {
        self.products.view(&resolve(self.files, self.prefix, name, shape)?)
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

    fn dense(&self, spec: &DenseSpec) -> Result<Linear, ModelError> {
        let shape = [spec.outputs, spec.inputs];
        let (weight, bias) = self.weight_and_bias(&spec.name, &shape, spec.bias)?;
        Ok(Linear { weight, bias })
    }

    fn norm(&self, spec: &NormSpec) -> Result<Norm, ModelError> {
        let (weight, bias) = self.weight_and_bias(&spec.name, &[spec.size], spec.bias)?;
        #[expect(clippy::cast_possible_truncation, reason = "a small number")]
        Ok(Norm { weight, bias, eps: self.eps as f32 })
    }

    fn table(&self, spec: &TableSpec) -> Result<TensorView, ModelError> {
        let (name, shape) = (format!("{}.weight", spec.name), [spec.rows, spec.size]);
        self.tables.view(&resolve(self.files, self.prefix, &name, &shape)?)
    }
}
