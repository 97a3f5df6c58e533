//! From a spec to an encoder: packs weights.

use std::sync::Arc;

use super::calibrate::{ChannelMaxima, Place};
use super::embed::PackedEmbeddings;
use super::norm::PackedNorm;
use super::plan::Costs;
use super::relative::{Distances, RelativeTable};
use super::rotation::Rotation;
use super::sizes::{Sizes, sizes, slab_bytes};
use super::{Encoder, Layer};
use crate::error::CpuError;
use crate::kernels::{Function, Kernels};
use crate::pack::{Input, PackedLinear, group};
use crate::pool::ComputePool;
use crate::slab::Slab;
use crate::spec::{Activation, EncoderSpec, Linear, Norm, NormPlace, Precision};
use crate::tensor::TensorView;

/// Beyond these a spec lies, and sizes could overflow when multiplied.
pub(super) const SIZE_MAX: usize = 1 << 24;

pub(super) fn build(
    spec: &EncoderSpec,
    precision: Precision,
    pool: Arc<ComputePool>,
    kernels: &'static Kernels,
    maxima: Option<&ChannelMaxima>,
) -> Result<Encoder, CpuError> {
    let sizes = sizes(spec, precision, kernels)?;
    if maxima.is_some_and(|maxima| !maxima.fit(spec.layers.len(), sizes.hidden, sizes.intermediate))
    {
        return Err(bad("the channel maxima are of another model"));
    }
    let mut packer = Packer {
        kernels,
        precision,
        maxima,
        slab: Slab::new(slab_bytes(spec, sizes, precision, kernels)?)?,
        rotations: Vec::new(),
        relative: None,
    };
    if let Some(relative) = &spec.relative {
        packer.relative = Some(RelativeTable::new(kernels, relative, sizes.hidden)?);
    }
    let mut layers: Vec<Layer> = Vec::with_capacity(spec.layers.len());
    for at in 0..spec.layers.len() {
        layers.push(packer.layer(spec, sizes, at)?);
    }
    let final_norm = packer.norm("final norm", spec.final_norm.as_ref(), sizes.hidden)?;
    // Last, so that a file that was cut while it was read is not mapped.
    let embeddings = packer.embeddings(spec, sizes)?;
    Ok(Encoder {
        kernels,
        precision,
        pool,
        sizes,
        table_bytes: embeddings.table_bytes(),
        embeddings,
        costs: costs(spec, sizes, precision, kernels),
        layers,
        final_norm,
        distances: spec
            .relative
            .as_ref()
            .map(|relative| Distances::new(kernels, relative, sizes.tokens_max))
            .transpose()?,
        pooling: spec.pooling,
        function: function(spec.activation, precision),
        weights: packer.slab,
    })
}

pub(super) fn bad(reason: impl Into<String>) -> CpuError {
    CpuError::BadSpec { reason: reason.into() }
}

/// Products are estimated at one vector of each operand a cycle.
fn costs(spec: &EncoderSpec, sizes: Sizes, precision: Precision, k: &Kernels) -> Costs {
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let number = |size: usize| size as f64;
    let layers = spec.layers.len();
    let gated = spec.layers.iter().filter(|layer| layer.gate.is_some()).count();
    let weights = sizes.hidden * (4 * sizes.hidden + 2 * sizes.intermediate) * layers
        + sizes.hidden * sizes.intermediate * gated;
    // Of scores and of the mix, and of positions as much again for each kind.
    let positions = [&spec.layers[0].position_key, &spec.layers[0].position_query];
    let key_products = (1 + positions.into_iter().flatten().count()) * sizes.hidden;
    // Codes of two bytes take two operations where bytes take one.
    let codes = |of: Precision| if of == Precision::Int8 { k.code_bytes } else { 1 };
    // An exponential takes about 14 instructions.
    let a_key = number(key_products * codes(sizes.keys)) / number(k.lanes * sizes.key_group())
        + number(sizes.hidden) / number(k.lanes * sizes.value_group())
        + number(sizes.heads * 14) / number(k.lanes);
    let row = 1.25 * number(weights * codes(precision)) / number(k.lanes * group(precision));
    // Windows are not counted: a batch's sequences are shared out by their lengths either way.
    Costs { row, key: a_key * number(layers) }
}

pub(super) fn function(activation: Activation, precision: Precision) -> Function {
    match activation {
        Activation::Gelu if precision == Precision::F32 => Function::Gelu,
        Activation::Gelu => Function::GeluCoarse,
        Activation::GeluTanh => Function::GeluTanh,
        Activation::Relu => Function::Relu,
        Activation::Silu => Function::Silu,
        Activation::Tanh => Function::Tanh,
    }
}

/// Packs tensors into one slab.
struct Packer<'a> {
    kernels: &'static Kernels,
    precision: Precision,
    maxima: Option<&'a ChannelMaxima>,
    slab: Slab,
    /// By base: layers share them.
    rotations: Vec<(f64, Rotation)>,
    relative: Option<RelativeTable>,
}

impl Packer<'_> {
    fn linear(
        &mut self,
        name: &str,
        linear: &Linear,
        shape: [usize; 2],
        input: (Input<'_>, f32),
    ) -> Result<PackedLinear, CpuError> {
        PackedLinear::new(
            self.kernels,
            &mut self.slab,
            (name, linear),
            shape,
            self.precision,
            input,
        )
    }

    fn norm(
        &self,
        name: &str,
        norm: Option<&Norm>,
        width: usize,
    ) -> Result<Option<PackedNorm>, CpuError> {
        norm.map(|norm| PackedNorm::new(self.kernels, name, norm, width)).transpose()
    }

    fn rotation(&mut self, base: f64, sizes: Sizes) -> Result<Rotation, CpuError> {
        if let Some((_, known)) = self.rotations.iter().find(|(of, _)| *of == base) {
            return Ok(*known);
        }
        let rotation = Rotation::new(&mut self.slab, sizes.tokens_max, sizes.head_size, base)?;
        self.rotations.push((base, rotation));
        Ok(rotation)
    }

    fn embeddings(
        &mut self,
        spec: &EncoderSpec,
        sizes: Sizes,
    ) -> Result<PackedEmbeddings, CpuError> {
        let own = &spec.embeddings;
        let projection = own.projection.as_ref().map(|projection| {
            let shape = [sizes.hidden, sizes.embedding];
            self.linear("embedding projection", projection, shape, (Input::default(), 1.0))
        });
        let normed = match own.norm_place {
            NormPlace::BeforeProjection => sizes.embedding,
            NormPlace::AfterProjection => sizes.hidden,
        };
        let projection = projection.transpose()?;
        let norm = PackedNorm::new(self.kernels, "embedding norm", &own.norm, normed)?;
        let table = |name: &str, table: &TensorView| {
            let rows = table.shape.first().copied().unwrap_or(0);
            table.table(name, [rows, sizes.embedding])
        };
        let position = own.position.as_ref().map(|own| table("position embedding", own));
        let token_type = own.token_type.as_ref().map(|own| table("type embedding", own));
        Ok(PackedEmbeddings {
            word: table("word embedding", &own.word)?,
            position: position.transpose()?,
            positions: own.positions,
            token_type: token_type.transpose()?,
            projection,
            norm,
            norm_place: own.norm_place,
        })
    }

    fn layer(&mut self, spec: &EncoderSpec, sizes: Sizes, at: usize) -> Result<Layer, CpuError> {
        let mut own = spec.layers[at].clone();
        let name = |part: &str| format!("layer {at}, {part}");
        let (hidden, wide) = (sizes.hidden, sizes.intermediate);
        let norm = |part: &str, norm: &Option<Norm>| self.norm(&name(part), norm.as_ref(), hidden);
        let attention_pre_norm = norm("attention pre-norm", &own.attention_pre_norm)?;
        let attention_norm = norm("attention norm", &own.attention_norm)?;
        let output_pre_norm = norm("output pre-norm", &own.output_pre_norm)?;
        let output_norm = norm("output norm", &own.output_norm)?;
        // What comes of the activation alone has a least value.
        let low = match own.gate {
            Some(_) => None,
            None => function(spec.activation, self.precision).minimum(),
        };
        let maxima = self.maxima.filter(|_| self.precision == Precision::Int8);
        let channels = |place: Place, low, products: &mut [(&str, &mut Linear)]| {
            maxima.map(|maxima| maxima.channels((at, place), low, products)).transpose()
        };
        let square = [hidden, hidden];
        // Scores come out in units of log2, for powers of 2 are cheaper than those of e.
        #[expect(clippy::cast_precision_loss, reason = "a head's size")]
        let scale = std::f32::consts::LOG2_E / ((sizes.head_size * spec.score_terms) as f32).sqrt();
        let (query, key, value) = (&mut own.query, &mut own.key, &mut own.value);
        let found = channels(
            Place::Attention,
            None,
            &mut [("query", query), ("key", key), ("value", value)],
        )?;
        let input = Input { low: None, channels: found.as_ref() };
        let key = self.linear(&name("key"), &own.key, square, (input, 1.0))?;
        let value = self.linear(&name("value"), &own.value, square, (input, 1.0))?;
        let query = self.linear(&name("query"), &own.query, square, (input, scale))?;
        drop((own.query, own.key, own.value));
        let output = &mut [("attention output", &mut own.attention_output)];
        let found = channels(Place::Output, None, output)?;
        let input = Input { low: None, channels: found.as_ref() };
        let output =
            self.linear(&name("attention output"), &own.attention_output, square, (input, 1.0))?;
        drop(own.attention_output);
        let mut ups: Vec<_> = std::iter::once(("up", &mut own.up))
            .chain(own.gate.as_mut().map(|gate| ("gate", gate)))
            .collect();
        let found = channels(Place::Up, None, &mut ups)?;
        let input = Input { low: None, channels: found.as_ref() };
        let up = self.linear(&name("up"), &own.up, [wide, hidden], (input, 1.0))?;
        let gate = own
            .gate
            .as_ref()
            .map(|gate| self.linear(&name("gate"), gate, [wide, hidden], (input, 1.0)));
        let gate = gate.transpose()?;
        drop((own.up, own.gate));
        let found = channels(Place::Down, low, &mut [("down", &mut own.down)])?;
        let input = Input { low, channels: found.as_ref() };
        let down = self.linear(&name("down"), &own.down, [hidden, wide], (input, 1.0))?;
        let mut positions = |part: &str, linear: &Option<Linear>, factor: f32| {
            let Some(linear) = linear else { return Ok(None) };
            let Some(table) = &self.relative else {
                return Err(bad("it projects relative positions that it has not"));
            };
            let name = name(part);
            let product = (name.as_str(), linear);
            table.pack(self.kernels, &mut self.slab, product, sizes, factor).map(Some)
        };
        let position_key = positions("position key", &own.position_key, 1.0)?;
        let position_query = positions("position query", &own.position_query, scale)?;
        let rotation = own.rotary_base.map(|base| self.rotation(base, sizes)).transpose()?;
        Ok(Layer {
            query,
            key,
            value,
            attention_output: output,
            up,
            gate,
            down,
            attention_pre_norm,
            attention_norm,
            output_pre_norm,
            output_norm,
            rotation,
            position_key,
            position_query,
            window: own.window,
        })
    }
}
