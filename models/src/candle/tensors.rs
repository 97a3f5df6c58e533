//! A checkpoint's tensors as candle's layers on a device.

use candle_core::{Device, Tensor};
use candle_nn::{Embedding, LayerNorm, Linear};

use crate::error::ModelError;
use crate::tensors::{DenseSpec, NormSpec, TableSpec, TensorReader};

/// Reads named tensors onto a device.
pub(super) struct Tensors<'a> {
    reader: TensorReader<'a>,
    device: &'a Device,
}

impl<'a> Tensors<'a> {
    pub(super) fn new(reader: TensorReader<'a>, device: &'a Device) -> Self {
        Self { reader, device }
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.reader.bytes_read()
    }

    /// The tensor `name`, with the architecture's prefix or without it.
    pub(super) fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        let values = self.reader.read(name, shape)?;
        Ok(Tensor::from_vec(values, shape, self.device)?)
    }

    /// A dense layer `[inputs] → [outputs]`.
    pub(super) fn dense(&mut self, spec: &DenseSpec) -> Result<Linear, ModelError> {
        let values = self.reader.dense(spec)?;
        let weight = Tensor::from_vec(values.weight, (spec.outputs, spec.inputs), self.device)?;
        let bias = values.bias.map(|bias| Tensor::from_vec(bias, spec.outputs, self.device));
        Ok(Linear::new(weight, bias.transpose()?))
    }

    /// Dense layers of the same inputs as one, each times its factor.
    pub(super) fn joined(&mut self, parts: &[(&DenseSpec, f64)]) -> Result<Linear, ModelError> {
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        for (spec, factor) in parts {
            let dense = self.dense(spec)?;
            weights.push((dense.weight() * *factor)?);
            biases.extend(dense.bias().map(|bias| bias * *factor).transpose()?);
        }
        let bias = (!biases.is_empty()).then(|| Tensor::cat(&biases, 0)).transpose()?;
        Ok(Linear::new(Tensor::cat(&weights, 0)?, bias))
    }

    pub(super) fn norm(&mut self, spec: &NormSpec, eps: f64) -> Result<LayerNorm, ModelError> {
        let values = self.reader.norm(spec)?;
        let weight = Tensor::from_vec(values.weight, spec.size, self.device)?;
        Ok(match values.bias {
            Some(bias) => {
                LayerNorm::new(weight, Tensor::from_vec(bias, spec.size, self.device)?, eps)
            }
            // The norm of one kernel has a bias.
            None => LayerNorm::new(weight.clone(), weight.zeros_like()?, eps),
        })
    }

    pub(super) fn embedding(&mut self, spec: &TableSpec) -> Result<Embedding, ModelError> {
        let values = self.reader.table(spec)?;
        let table = Tensor::from_vec(values, (spec.rows, spec.size), self.device)?;
        Ok(Embedding::new(table, spec.size))
    }
}
