//! Layer norms with their weights padded to whole vectors.

use crate::error::CpuError;
use crate::kernels::{Kernels, NormArgs};
use crate::spec::Norm;
use crate::tensor::TensorView;

/// A layer norm's weights.
#[derive(Debug)]
pub(super) struct PackedNorm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    eps: f32,
    width: usize,
}

impl PackedNorm {
    pub(super) fn new(
        k: &Kernels,
        name: &str,
        norm: &Norm,
        width: usize,
    ) -> Result<Self, CpuError> {
        let padded = width.next_multiple_of(k.lanes);
        let read = |part: &str, tensor: &TensorView| {
            let mut values = vec![0.0; padded];
            tensor.read(&format!("{name}, {part}"), &[width], &mut values[..width])?;
            Ok::<_, CpuError>(values)
        };
        let weight = read("weight", &norm.weight)?;
        let bias =
            norm.bias.as_ref().map_or_else(|| Ok(vec![0.0; padded]), |bias| read("bias", bias))?;
        Ok(Self { weight, bias, eps: norm.eps, width })
    }

    /// # Safety
    /// `x` has `rows` rows of its width; the kernels are this CPU's.
    pub(super) unsafe fn apply(&self, k: &Kernels, x: *mut f32, x_stride: usize, rows: usize) {
        // SAFETY: the weights are padded to whole vectors.
        unsafe {
            (k.norm_rows)(&NormArgs {
                x,
                x_stride,
                rows,
                n: self.width,
                weight: self.weight.as_ptr(),
                bias: self.bias.as_ptr(),
                eps: self.eps,
            });
        }
    }
}
