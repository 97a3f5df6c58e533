//! Multi-head attention over padded batches.

use candle_core::{D, Tensor};

use crate::error::ModelError;

/// `[batch, tokens, heads·size]` → `[batch, heads, tokens, size]`.
pub(super) fn split_heads(states: &Tensor, heads: usize) -> Result<Tensor, ModelError> {
    let (batch, tokens, width) = states.dims3()?;
    let split = states.reshape((batch, tokens, heads, width / heads))?;
    Ok(split.transpose(1, 2)?.contiguous()?)
}

/// Softmax(query·keyᵀ + biases)·value, heads joined: `[batch, tokens, heads·size]`.
///
/// Query (which is scaled), key and value are `[batch, heads, tokens, size]`; biases broadcast to
/// `[batch, heads, tokens, tokens]`.
pub(super) fn attend(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    biases: &[&Tensor],
) -> Result<Tensor, ModelError> {
    let mut scores = query.matmul(&key.transpose(D::Minus2, D::Minus1)?)?;
    for bias in biases {
        scores = scores.broadcast_add(bias)?;
    }
    let shares = candle_nn::ops::softmax_last_dim(&scores)?;
    let mixed = shares.matmul(value)?.transpose(1, 2)?.contiguous()?;
    Ok(mixed.flatten_from(2)?)
}

/// Root of the head size, inverted.
pub(super) fn scale(head_size: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a head's size")]
    let size = head_size as f64;
    1.0 / size.sqrt()
}
