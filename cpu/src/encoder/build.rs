//! From a spec to an encoder: checks sizes, packs weights.

use std::sync::Arc;

use super::calibrate::{ChannelMaxima, Place};
use super::embed::PackedEmbeddings;
use super::plan::Costs;
use super::{Encoder, Layer, PackedNorm, Sizes};
use crate::error::CpuError;
use crate::kernels::{Function, Kernels};
use crate::pack::{Input, PackedLinear, packed_bytes};
use crate::pool::ComputePool;
use crate::slab::Slab;
use crate::spec::{Activation, EncoderSpec, Linear, Norm, Positions, Precision, TensorView};

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
        slab: Slab::new(slab_bytes(spec, precision, kernels)?)?,
    };
    let embeddings = packer.embeddings(spec, sizes)?;
    let mut layers: Vec<Layer> = Vec::with_capacity(spec.layers.len());
    for at in 0..spec.layers.len() {
        layers.push(packer.layer(spec, sizes, at)?);
    }
    let tables = [
        Some(&spec.embeddings.word),
        spec.embeddings.position.as_ref(),
        spec.embeddings.token_type.as_ref(),
    ];
    let table_bytes = tables.into_iter().flatten().map(|table| table.range.len()).sum();
    Ok(Encoder {
        kernels,
        precision,
        pool,
        sizes,
        embeddings,
        costs: costs(sizes, layers.len(), precision, kernels),
        layers,
        function: function(spec.activation, precision),
        weights: packer.slab,
        table_bytes,
    })
}

pub(super) fn bad(reason: impl Into<String>) -> CpuError {
    CpuError::BadSpec { reason: reason.into() }
}

fn sizes(spec: &EncoderSpec, precision: Precision, k: &Kernels) -> Result<Sizes, CpuError> {
    let size = |tensor: &TensorView, axis: usize, what: &str| {
        let size = tensor.shape.get(axis).copied().filter(|size| (1..=SIZE_MAX).contains(size));
        size.ok_or_else(|| bad(format!("{what} has shape {:?}", tensor.shape)))
    };
    let Some(layer) = spec.layers.first() else { return Err(bad("it has no layers")) };
    let hidden = size(&layer.query.weight, 1, "query")?;
    let intermediate = size(&layer.up.weight, 0, "up")?;
    let embedding = size(&spec.embeddings.word, 1, "word embedding")?;
    size(&spec.embeddings.word, 0, "word embedding")?;
    if embedding != hidden && spec.embeddings.projection.is_none() {
        return Err(bad(format!("embeddings of {embedding} are not projected to {hidden}")));
    }
    if spec.heads == 0 || hidden % spec.heads != 0 {
        return Err(bad(format!("{} heads do not divide {hidden}", spec.heads)));
    }
    let widest = hidden.max(intermediate).max(embedding);
    let rows = spec
        .embeddings
        .position
        .as_ref()
        .map_or(Ok(SIZE_MAX), |table| size(table, 0, "positions"))?;
    let tokens_max = match (spec.embeddings.positions, &spec.embeddings.position) {
        (Positions::AfterPadding { padding }, Some(_)) => rows.saturating_sub(padding as usize + 1),
        _ => rows,
    };
    if spec.tokens_max == 0 || spec.tokens_max > tokens_max {
        return Err(bad(format!("{} tokens do not fit {tokens_max} positions", spec.tokens_max)));
    }
    let head_size = hidden / spec.heads;
    let bf16_attention =
        precision != Precision::F32 && k.native_bf16 && head_size.is_multiple_of(2);
    Ok(Sizes {
        hidden,
        heads: spec.heads,
        head_size,
        intermediate,
        embedding,
        widest,
        tokens_max: spec.tokens_max,
        bf16_attention,
    })
}

/// What packing will take, from the tensors' shapes.
fn slab_bytes(spec: &EncoderSpec, precision: Precision, k: &Kernels) -> Result<usize, CpuError> {
    let mut bytes = 0;
    let mut count = |linear: &Linear, precision| match linear.weight.shape[..] {
        [outputs, inputs] if outputs <= SIZE_MAX && inputs <= SIZE_MAX => {
            bytes += packed_bytes(k, precision, inputs, outputs);
            Ok(())
        }
        ref shape => Err(bad(format!("a dense layer has shape {shape:?}"))),
    };
    for layer in &spec.layers {
        for linear in [
            &layer.query,
            &layer.key,
            &layer.value,
            &layer.attention_output,
            &layer.up,
            &layer.down,
        ] {
            count(linear, precision)?;
        }
    }
    if let Some(projection) = &spec.embeddings.projection {
        count(projection, precision)?;
    }
    Ok(bytes)
}

/// Products are estimated at one vector of each operand a cycle.
fn costs(sizes: Sizes, layers: usize, precision: Precision, k: &Kernels) -> Costs {
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let number = |size: usize| size as f64;
    let group = match precision {
        Precision::F32 => 1,
        Precision::Bf16 => 2,
        Precision::Int8 => 4,
    };
    let weights = sizes.hidden * (4 * sizes.hidden + 2 * sizes.intermediate);
    let attention_group = if sizes.bf16_attention { 2 } else { 1 };
    // An exponential takes about 14 instructions.
    let a_key = number(2 * sizes.hidden) / number(k.lanes * attention_group)
        + number(sizes.heads * 14) / number(k.lanes);
    let row = 1.25 * number(weights) / number(k.lanes * group);
    Costs { row: row * number(layers), key: a_key * number(layers) }
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

    fn norm(&self, name: &str, norm: &Norm, width: usize) -> Result<PackedNorm, CpuError> {
        let padded = width.next_multiple_of(self.kernels.lanes);
        let read = |part: &str, tensor: &TensorView| {
            let bytes = tensor.check(&format!("{name}, {part}"), &[width])?;
            let mut values = vec![0.0; padded];
            crate::spec::read_f32(tensor.dtype, bytes, &mut values[..width]);
            Ok::<_, CpuError>(values)
        };
        let weight = read("weight", &norm.weight)?;
        let bias =
            norm.bias.as_ref().map_or_else(|| Ok(vec![0.0; padded]), |bias| read("bias", bias))?;
        Ok(PackedNorm { weight, bias, eps: norm.eps })
    }

    fn embeddings(
        &mut self,
        spec: &EncoderSpec,
        sizes: Sizes,
    ) -> Result<PackedEmbeddings, CpuError> {
        let own = &spec.embeddings;
        let table = |name: &str, table: &TensorView| {
            let rows = table.shape.first().copied().unwrap_or(0);
            table.check(name, &[rows, sizes.embedding]).map(|_| ())
        };
        table("word embedding", &own.word)?;
        if let Some(position) = &own.position {
            table("position embedding", position)?;
        }
        if let Some(token_type) = &own.token_type {
            table("type embedding", token_type)?;
        }
        let projection = own.projection.as_ref().map(|projection| {
            let shape = [sizes.hidden, sizes.embedding];
            self.linear("embedding projection", projection, shape, (Input::default(), 1.0))
        });
        Ok(PackedEmbeddings {
            word: own.word.clone(),
            position: own.position.clone(),
            positions: own.positions,
            token_type: own.token_type.clone(),
            projection: projection.transpose()?,
            norm: self.norm("embedding norm", &own.norm, sizes.embedding)?,
        })
    }

    fn layer(&mut self, spec: &EncoderSpec, sizes: Sizes, at: usize) -> Result<Layer, CpuError> {
        let own = &spec.layers[at];
        let name = |part: &str| format!("layer {at}, {part}");
        let (hidden, wide) = (sizes.hidden, sizes.intermediate);
        let attention_norm = self.norm(&name("attention norm"), &own.attention_norm, hidden)?;
        let output_norm = self.norm(&name("output norm"), &own.output_norm, hidden)?;
        let channels = |place: Place, products: &[(&str, &Linear)]| match self.maxima {
            Some(maxima) if self.precision == Precision::Int8 => {
                maxima.channels(at, place, products).map(Some)
            }
            _ => Ok(None),
        };
        let attention = [("query", &own.query), ("key", &own.key), ("value", &own.value)];
        let attention_channels = channels(Place::Attention, &attention)?;
        let output_channels =
            channels(Place::Output, &[("attention output", &own.attention_output)])?;
        let up_channels = channels(Place::Up, &[("up", &own.up)])?;
        let down_channels = channels(Place::Down, &[("down", &own.down)])?;
        let square = [hidden, hidden];
        // Scores come out in units of log2, for powers of 2 are cheaper than those of e.
        #[expect(clippy::cast_precision_loss, reason = "a head's size")]
        let scale = std::f32::consts::LOG2_E / (sizes.head_size as f32).sqrt();
        let input = Input { low: None, channels: attention_channels.as_ref() };
        let key = self.linear(&name("key"), &own.key, square, (input, 1.0))?;
        let value = self.linear(&name("value"), &own.value, square, (input, 1.0))?;
        let query = self.linear(&name("query"), &own.query, square, (input, scale))?;
        let input = Input { low: None, channels: output_channels.as_ref() };
        let output =
            self.linear(&name("attention output"), &own.attention_output, square, (input, 1.0))?;
        let input = Input { low: None, channels: up_channels.as_ref() };
        let up = self.linear(&name("up"), &own.up, [wide, hidden], (input, 1.0))?;
        let low = function(spec.activation, self.precision).minimum();
        let input = Input { low, channels: down_channels.as_ref() };
        let down = self.linear(&name("down"), &own.down, [hidden, wide], (input, 1.0))?;
        Ok(Layer {
            query,
            key,
            value,
            attention_output: output,
            attention_norm,
            up,
            down,
            output_norm,
        })
    }
}
