//! Outlier channels: moved from activations, which have one scale a row, to weights.
//!
//! A layer norm's own weights say how large each of its channels gets: about `|bias| + 3·|weight|`.
//! Channels far above the others would leave those with few of the 8 bits, so each channel is
//! divided by a factor before it is coded and its weights are multiplied by it (SmoothQuant, Xiao
//! et al. 2022, with the norm's weights in place of calibration data).

use crate::error::CpuError;
use crate::spec::{Linear, read_f32};

/// Exponent that shares the difficulty out between activations and weights.
const SHARE: f32 = 0.5;

/// Factor of each channel of a norm's output before it is coded for `products`.
pub(super) fn factors(
    weight: &[f32],
    bias: &[f32],
    products: &[(&str, &Linear)],
) -> Result<Vec<f32>, CpuError> {
    let inputs = weight.len();
    let mut largest = vec![0.0_f32; inputs];
    let mut row = vec![0.0_f32; inputs];
    for (name, product) in products {
        let outputs = product.weight.shape.first().copied().unwrap_or(0);
        let bytes = product.weight.check(name, &[outputs, inputs])?;
        for bytes in bytes.chunks_exact((inputs * product.weight.dtype.bytes()).max(1)) {
            read_f32(product.weight.dtype, bytes, &mut row);
            for (largest, weight) in largest.iter_mut().zip(&row) {
                *largest = largest.max(weight.abs());
            }
        }
    }
    let factor = |at: usize| {
        let activation = (bias[at].abs() + 3.0 * weight[at].abs()).max(1e-5);
        let factor = largest[at].max(1e-5).powf(1.0 - SHARE) / activation.powf(SHARE);
        // Weights that are no numbers give answers that are none, whatever the factor.
        if factor.is_finite() { factor } else { 1.0 }
    };
    Ok((0..inputs).map(factor).collect())
}
