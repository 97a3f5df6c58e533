//! Named tensors in plain f32, read one by one with their names resolved and shapes checked: what
//! every engine is built from.

use crate::error::ModelError;
use crate::weights::WeightFiles;

/// A dense layer by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DenseSpec {
    /// Stem of `….weight` and `….bias`.
    pub(crate) name: String,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) bias: bool,
}

/// A layer norm by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NormSpec {
    /// Stem of `….weight` and `….bias`.
    pub(crate) name: String,
    pub(crate) size: usize,
    pub(crate) bias: bool,
}

/// An embedding table by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableSpec {
    /// Stem of `….weight`.
    pub(crate) name: String,
    pub(crate) rows: usize,
    pub(crate) size: usize,
}

impl DenseSpec {
    pub(crate) fn new(name: impl Into<String>, inputs: usize, outputs: usize, bias: bool) -> Self {
        Self { name: name.into(), inputs, outputs, bias }
    }

    /// Name and shape of each tensor.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = Tensor> + use<> {
        weight_and_bias(&self.name, vec![self.outputs, self.inputs], self.bias)
    }
}

impl NormSpec {
    pub(crate) fn new(name: impl Into<String>, size: usize, bias: bool) -> Self {
        Self { name: name.into(), size, bias }
    }

    /// Name and shape of each tensor.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = Tensor> + use<> {
        weight_and_bias(&self.name, vec![self.size], self.bias)
    }
}

impl TableSpec {
    pub(crate) fn new(name: impl Into<String>, rows: usize, size: usize) -> Self {
        Self { name: name.into(), rows, size }
    }

    /// Name and shape of its tensor.
    pub(crate) fn tensor(&self) -> Tensor {
        (format!("{}.weight", self.name), vec![self.rows, self.size])
    }
}

/// A tensor's name and shape.
type Tensor = (String, Vec<usize>);

fn weight_and_bias(
    name: &str,
    shape: Vec<usize>,
    bias: bool,
) -> impl Iterator<Item = Tensor> + use<> {
    let bias = bias.then(|| (format!("{name}.bias"), vec![shape[0]]));
    std::iter::once((format!("{name}.weight"), shape)).chain(bias)
}

/// Weight `[outputs, inputs]` row-major, bias `[outputs]`.
#[derive(Debug)]
pub(crate) struct DenseValues {
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Option<Vec<f32>>,
}

/// Weight and bias `[size]`.
#[derive(Debug)]
pub(crate) struct NormValues {
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Option<Vec<f32>>,
}

/// A checkpoint's tensors by the names that `transformers` gives them.
#[derive(Debug)]
pub(crate) struct TensorReader<'a> {
    files: &'a WeightFiles,
    prefix: &'static str,
    bytes_read: u64,
}

impl<'a> TensorReader<'a> {
    /// `prefix` is what names begin with in a checkpoint with a head.
    pub(crate) fn new(files: &'a WeightFiles, prefix: &'static str) -> Self {
        Self { files, prefix, bytes_read: 0 }
    }

    /// Bytes, as f32, of all that was read.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// The tensor `name`, with the architecture's prefix or without it, row-major.
    pub(crate) fn read(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let tensor = resolve(self.files, self.prefix, name, shape)?;
        let values = self.files.read(&tensor)?;
        self.bytes_read += size_of_val(values.as_slice()) as u64;
        Ok(values)
    }

    pub(crate) fn dense(&mut self, spec: &DenseSpec) -> Result<DenseValues, ModelError> {
        let weight = self.read(&format!("{}.weight", spec.name), &[spec.outputs, spec.inputs])?;
        let bias = format!("{}.bias", spec.name);
        let bias = spec.bias.then(|| self.read(&bias, &[spec.outputs])).transpose()?;
        Ok(DenseValues { weight, bias })
    }

    pub(crate) fn norm(&mut self, spec: &NormSpec) -> Result<NormValues, ModelError> {
        let weight = self.read(&format!("{}.weight", spec.name), &[spec.size])?;
        let bias = format!("{}.bias", spec.name);
        let bias = spec.bias.then(|| self.read(&bias, &[spec.size])).transpose()?;
        Ok(NormValues { weight, bias })
    }

    /// `[rows, size]`.
    pub(crate) fn table(&mut self, spec: &TableSpec) -> Result<Vec<f32>, ModelError> {
        self.read(&format!("{}.weight", spec.name), &[spec.rows, spec.size])
    }
}

/// What the checkpoint calls the tensor `name`, which must be of `shape`: with the architecture's
/// prefix or without it.
pub(crate) fn resolve(
    files: &WeightFiles,
    prefix: &str,
    name: &str,
    shape: &[usize],
) -> Result<String, ModelError> {
    let full = format!("{prefix}{name}");
    let candidates =
        [Some(full.clone()), Some(name.to_owned()), old_norm_name(&full), old_norm_name(name)];
    let known = candidates.into_iter().flatten().find_map(|name| {
        let found = files.shape(&name)?;
        Some((name, found))
    });
    let (tensor, found) = known.ok_or(ModelError::MissingTensor { tensor: full })?;
    if found == shape {
        Ok(tensor)
    } else {
        let (expected, found) = (shape.to_vec(), found.to_vec());
        Err(ModelError::Shape { tensor, expected, found })
    }
}

/// Checkpoints converted from TensorFlow call a norm's weight gamma and its bias beta.
fn old_norm_name(name: &str) -> Option<String> {
    let weight = name.strip_suffix("LayerNorm.weight").map(|stem| format!("{stem}LayerNorm.gamma"));
    weight
        .or_else(|| name.strip_suffix("LayerNorm.bias").map(|stem| format!("{stem}LayerNorm.beta")))
}
