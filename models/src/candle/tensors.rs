//! Named tensors, in f32 on a device, taken one by one with their shapes checked.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use candle_nn::{Embedding, LayerNorm, Linear};
use half::{bf16, f16};
use safetensors::tensor::Dtype;

use crate::error::ModelError;
use crate::weights::{RawTensor, WeightFiles};

/// What a checkpoint holds. What nobody takes is dropped.
pub(super) struct Tensors {
    tensors: HashMap<String, Tensor>,
    prefix: &'static str,
    taken_bytes: u64,
}

impl Tensors {
    pub(super) fn read(
        files: &WeightFiles,
        prefix: &'static str,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let mut tensors = HashMap::new();
        files.for_each(|name, raw| {
            // Buffers such as position_ids are integers, and never asked for.
            if matches!(raw.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
                let values = to_f32(&raw);
                tensors.insert(name.to_owned(), Tensor::from_vec(values, raw.shape, device)?);
            }
            Ok(())
        })?;
        Ok(Self { tensors, prefix, taken_bytes: 0 })
    }

    pub(super) fn taken_bytes(&self) -> u64 {
        self.taken_bytes
    }

    /// The tensor `name`, with the architecture's prefix or without it.
    pub(super) fn take(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        let full = format!("{}{name}", self.prefix);
        let tensor = self.tensors.remove(&full).or_else(|| self.tensors.remove(name));
        let tensor = tensor.or_else(|| self.old_norm_name(name));
        let tensor = tensor.ok_or(ModelError::MissingTensor { tensor: full })?;
        if tensor.dims() != shape {
            let (tensor, found) = (name.to_owned(), tensor.dims().to_vec());
            return Err(ModelError::Shape { tensor, expected: shape.to_vec(), found });
        }
        self.taken_bytes += (tensor.elem_count() * size_of::<f32>()) as u64;
        Ok(tensor)
    }

    /// Checkpoints converted from TensorFlow call a norm's weight gamma and its bias beta.
    fn old_norm_name(&mut self, name: &str) -> Option<Tensor> {
        let old = name
            .strip_suffix("LayerNorm.weight")
            .map(|stem| format!("{stem}LayerNorm.gamma"))
            .or_else(|| {
                name.strip_suffix("LayerNorm.bias").map(|stem| format!("{stem}LayerNorm.beta"))
            })?;
        self.tensors.remove(&format!("{}{old}", self.prefix)).or_else(|| self.tensors.remove(&old))
    }

    /// A dense layer `[inputs] → [outputs]`.
    pub(super) fn dense(
        &mut self,
        name: &str,
        inputs: usize,
        outputs: usize,
        bias: bool,
    ) -> Result<Linear, ModelError> {
        let weight = self.take(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = bias.then(|| self.take(&format!("{name}.bias"), &[outputs])).transpose()?;
        Ok(Linear::new(weight, bias))
    }

    pub(super) fn norm(
        &mut self,
        name: &str,
        size: usize,
        eps: f64,
        bias: bool,
    ) -> Result<LayerNorm, ModelError> {
        let weight = self.take(&format!("{name}.weight"), &[size])?;
        Ok(if bias {
            LayerNorm::new(weight, self.take(&format!("{name}.bias"), &[size])?, eps)
        } else {
            LayerNorm::new_no_bias(weight, eps)
        })
    }

    pub(super) fn embedding(
        &mut self,
        name: &str,
        rows: usize,
        size: usize,
    ) -> Result<Embedding, ModelError> {
        Ok(Embedding::new(self.take(&format!("{name}.weight"), &[rows, size])?, size))
    }
}

fn to_f32(raw: &RawTensor<'_>) -> Vec<f32> {
    let halves = || raw.bytes.as_chunks::<2>().0.iter();
    match raw.dtype {
        Dtype::F16 => halves().map(|&bytes| f16::from_le_bytes(bytes).to_f32()).collect(),
        Dtype::BF16 => halves().map(|&bytes| bf16::from_le_bytes(bytes).to_f32()).collect(),
        _ => raw.bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
    }
}
