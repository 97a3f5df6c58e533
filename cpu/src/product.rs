//! One dense layer by itself, to be measured beside other libraries' products.

use crate::encoder::kernels_of;
use crate::error::CpuError;
use crate::kernels::level::KernelLevel;
use crate::kernels::{Kernels, RowScale, RowsArgs};
use crate::pack::{Input, PackedLinear, Results, Rows, packed_bytes};
use crate::slab::Slab;
use crate::spec::{Linear, Precision};

/// A dense layer with packed weights and room for its operands, on one thread. What an encoder does
/// between two rows of f32, without what it is fused with there.
#[derive(Debug)]
pub struct Product {
    kernels: &'static Kernels,
    linear: PackedLinear,
    outputs: usize,
    /// `[rows][inputs]`.
    x: Vec<f32>,
    /// `[rows][coded_stride]`.
    coded: Vec<u8>,
    coded_stride: usize,
    scales: Vec<RowScale>,
    /// `[rows][columns]`: outputs padded to whole vectors.
    results: Vec<f32>,
    columns: usize,
    /// What the layer's pointers lead to.
    _weights: Slab,
}

impl Product {
    /// Packs `linear`, `[outputs, inputs]`, for the kernels of `level`.
    ///
    /// # Errors
    /// Tensors that do not fit together, or kernels that this CPU cannot run.
    pub fn new(
        linear: &Linear,
        precision: Precision,
        level: KernelLevel,
    ) -> Result<Self, CpuError> {
        let [outputs, inputs] = linear.weight.shape[..] else {
            let reason = format!("a dense layer has shape {:?}", linear.weight.shape);
            return Err(CpuError::BadSpec { reason });
        };
        let kernels = kernels_of(level)?;
        let mut slab = Slab::new(packed_bytes(kernels, precision, inputs, outputs))?;
        let name = ("product", linear);
        let input = (Input::default(), 1.0);
        let shape = [outputs, inputs];
        Ok(Self {
            kernels,
            linear: PackedLinear::new(kernels, &mut slab, name, shape, precision, input)?,
            outputs,
            x: Vec::new(),
            coded: Vec::new(),
            coded_stride: PackedLinear::coded_row_bytes(kernels, precision, inputs),
            scales: Vec::new(),
            results: Vec::new(),
            // Rows that lie a power of two apart would share few sets of the cache.
            columns: outputs.next_multiple_of(kernels.lanes) + 16,
            _weights: slab,
        })
    }

    /// Takes rows `[rows, inputs]` as the left operand, in the form that its precision multiplies.
    /// What is left of a whole row is not taken.
    pub fn set_rows(&mut self, x: &[f32]) {
        let inputs = self.linear.inputs;
        let rows = x.len() / inputs.max(1);
        self.x.clear();
        self.x.extend_from_slice(&x[..rows * inputs]);
        self.coded.resize(rows * self.coded_stride, 0);
        self.scales.resize(rows, RowScale::default());
        self.results.resize(rows * self.columns, 0.0);
        let Some(coding) = self.linear.coding else { return };
        // SAFETY: rows, codes and scales have the room that is stated; the kernels are this CPU's.
        unsafe {
            (self.kernels.code_rows)(&RowsArgs {
                x: self.x.as_ptr(),
                x_stride: inputs,
                rows,
                n: inputs,
                coding,
                factors: self.linear.factors,
                out: self.coded.as_mut_ptr(),
                out_stride: self.coded_stride,
                scales: self.scales.as_mut_ptr(),
            });
        }
    }

    /// Multiplies the rows with the weights.
    pub fn multiply(&mut self) {
        let (x, inputs) = (self.x.as_ptr(), self.linear.inputs);
        let (a, stride) = match self.linear.coding {
            Some(_) => (self.coded.as_ptr(), self.coded_stride),
            None => (x.cast(), inputs * 4),
        };
        let (rows, scales) = (self.scales.len(), self.scales.as_ptr());
        let rows = Rows { a, stride, rows, scales, x, x_stride: inputs };
        let to = Results { c: self.results.as_mut_ptr(), stride: self.columns, add: false };
        // SAFETY: as above; results have room for all rows, and the slab lives.
        unsafe { self.linear.apply(self.kernels, rows, to, None) };
    }

    /// The results, row by row, `[outputs]` each.
    pub fn results(&self) -> impl Iterator<Item = &[f32]> {
        self.results.chunks_exact(self.columns).map(|row| &row[..self.outputs])
    }
}
