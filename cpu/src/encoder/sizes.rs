//! An encoder's sizes, told by its tensors and checked against each other.

use super::build::{SIZE_MAX, bad};
use super::relative::positions_bytes;
use super::rotation::rotation_bytes;
use crate::error::CpuError;
use crate::kernels::Kernels;
use crate::pack::{group, packed_bytes};
use crate::spec::{EncoderSpec, LayerSpec, Linear, Positions, Precision};
use crate::tensor::TensorView;

/// The model's sizes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) hidden: usize,
    pub(super) heads: usize,
    pub(super) head_size: usize,
    pub(super) intermediate: usize,
    /// Where in a row of the feed-forward part the gates begin.
    pub(super) gates: usize,
    /// Width of the embedding tables.
    pub(super) embedding: usize,
    /// Widest row of f32 between two products.
    pub(super) widest: usize,
    pub(super) tokens_max: usize,
    /// What attention multiplies queries and keys in.
    pub(super) keys: Precision,
    /// Bytes of one element of a query, as it is multiplied.
    pub(super) query_bytes: usize,
    /// What attention multiplies shares and values in: bf16 or f32.
    pub(super) values: Precision,
}

impl Sizes {
    /// Elements of a query or key in a group.
    pub(super) fn key_group(&self) -> usize {
        group(self.keys)
    }

    /// Values in a group.
    pub(super) fn value_group(&self) -> usize {
        group(self.values)
    }
}

/// The sizes that `spec`'s tensors say, which agree with each other.
pub(super) fn sizes(
    spec: &EncoderSpec,
    precision: Precision,
    k: &Kernels,
) -> Result<Sizes, CpuError> {
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
    if !(1..=3).contains(&spec.score_terms) {
        return Err(bad(format!("scores of {} terms", spec.score_terms)));
    }
    if spec.heads == 0 || hidden % spec.heads != 0 {
        return Err(bad(format!("{} heads do not divide {hidden}", spec.heads)));
    }
    // Gates lie behind what they multiply.
    let gates = intermediate.next_multiple_of(k.lanes);
    let wide = if spec.layers.iter().any(|layer| layer.gate.is_some()) {
        gates + intermediate
    } else {
        intermediate
    };
    let widest = hidden.max(wide).max(embedding);
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
    if !head_size.is_multiple_of(2) && spec.layers.iter().any(|layer| layer.rotary_base.is_some()) {
        return Err(bad(format!("heads of {head_size} cannot be rotated")));
    }
    if spec.relative.is_some() && spec.layers.iter().any(|layer| layer.window.is_some()) {
        return Err(bad("relative positions are not known in windows"));
    }
    let values = match precision {
        Precision::Bf16 | Precision::Int8 if k.native_bf16 && head_size.is_multiple_of(2) => {
            Precision::Bf16
        }
        _ => Precision::F32,
    };
    // Relative positions are multiplied with the same queries and keys, and need more than 8 bits.
    let keys = match precision {
        Precision::Int8 if spec.relative.is_none() && head_size.is_multiple_of(4) => {
            Precision::Int8
        }
        _ => values,
    };
    Ok(Sizes {
        hidden,
        heads: spec.heads,
        head_size,
        intermediate,
        gates,
        embedding,
        widest,
        tokens_max: spec.tokens_max,
        keys,
        query_bytes: 4 / group(keys) * k.parts(keys),
        values,
    })
}

/// What packing will take, from the tensors' shapes.
pub(super) fn slab_bytes(
    spec: &EncoderSpec,
    sizes: Sizes,
    precision: Precision,
    k: &Kernels,
) -> Result<usize, CpuError> {
    let mut bases: Vec<f64> = spec.layers.iter().filter_map(|layer| layer.rotary_base).collect();
    bases.sort_by(f64::total_cmp);
    bases.dedup();
    let table = spec.relative.as_ref().and_then(|relative| relative.table.shape.first());
    let rows = table.copied().unwrap_or(0);
    if rows > SIZE_MAX {
        return Err(bad(format!("{rows} relative positions")));
    }
    let mut relative_bytes = 0;
    let mut bytes = bases.len() * rotation_bytes(sizes.tokens_max, sizes.head_size);
    let mut count = |linear: &Linear, precision| match linear.weight.shape[..] {
        [outputs, inputs] if outputs <= SIZE_MAX && inputs <= SIZE_MAX => {
            bytes += packed_bytes(k, precision, inputs, outputs);
            Ok(())
        }
        ref shape => Err(bad(format!("a dense layer has shape {shape:?}"))),
    };
    for layer in &spec.layers {
        let LayerSpec { query, key, value, attention_output, up, down, .. } = layer;
        let products = [query, key, value, attention_output, up, down];
        for linear in products.into_iter().chain(&layer.gate) {
            count(linear, precision)?;
        }
        let positions = [&layer.position_key, &layer.position_query].into_iter().flatten().count();
        relative_bytes += positions * positions_bytes(k, rows, sizes);
    }
    if let Some(projection) = &spec.embeddings.projection {
        count(projection, precision)?;
    }
    Ok(bytes + relative_bytes)
}
