//! From a sequence's state to logits: a few rows through dense layers, on the calling thread.

use super::build::{SIZE_MAX, bad, function};
use super::{PackedNorm, kernels_of};
use crate::error::CpuError;
use crate::kernels::level::KernelLevel;
use crate::kernels::{Function, Kernels};
use crate::pack::{Input, PackedLinear, Results, Rows, packed_bytes};
use crate::slab::Slab;
use crate::spec::{HeadLayer, HeadSpec, Precision};

/// Rows that go through a layer together.
const BLOCK_ROWS: usize = 32;
/// Numbers of a cache line.
const LINE: usize = 16;

/// Dense layers over an encoder's states, packed, in f32: a state is one row, so that narrower
/// numbers would gain nothing.
#[derive(Debug)]
pub struct Head {
    kernels: &'static Kernels,
    layers: Vec<Layer>,
    inputs: usize,
    labels: usize,
    /// Numbers from row to row between layers.
    stride: usize,
    /// What the layers' pointers lead to.
    weights: Slab,
}

#[derive(Debug)]
struct Layer {
    dense: PackedLinear,
    function: Option<Function>,
    norm: Option<PackedNorm>,
}

/// One cache line, so that rows begin at one.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "used through pointers")] [f32; LINE]);

impl Head {
    /// Packs `spec` for states of `hidden` numbers.
    ///
    /// # Errors
    /// A tensor that does not fit the one before it, or kernels that this CPU cannot run.
    pub fn new(spec: &HeadSpec, hidden: usize, level: KernelLevel) -> Result<Self, CpuError> {
        let kernels = kernels_of(level)?;
        let (mut inputs, mut widest, mut bytes) = (hidden, hidden, 0);
        let mut shapes = Vec::with_capacity(spec.layers.len());
        for HeadLayer { dense, .. } in &spec.layers {
            let outputs = dense.weight.shape.first().copied().unwrap_or(0);
            if !(1..=SIZE_MAX).contains(&outputs) || !(1..=SIZE_MAX).contains(&inputs) {
                return Err(bad(format!("head has shape {:?}", dense.weight.shape)));
            }
            bytes += packed_bytes(kernels, Precision::F32, inputs, outputs);
            shapes.push([outputs, inputs]);
            (inputs, widest) = (outputs, widest.max(outputs));
        }
        if shapes.is_empty() {
            return Err(bad("its head has no layers"));
        }
        let mut weights = Slab::new(bytes)?;
        let mut layers = Vec::with_capacity(shapes.len());
        for (at, (layer, shape)) in spec.layers.iter().zip(shapes).enumerate() {
            let name = format!("head {at}");
            let input = (Input::default(), 1.0);
            let dense = (name.as_str(), &layer.dense);
            let dense =
                PackedLinear::new(kernels, &mut weights, dense, shape, Precision::F32, input)?;
            let function = layer.activation.map(|own| function(own, Precision::F32));
            let norm = layer.norm.as_ref();
            let norm = norm.map(|norm| PackedNorm::new(kernels, &name, norm, shape[0]));
            layers.push(Layer { dense, function, norm: norm.transpose()? });
        }
        // As between an encoder's rows: whole vectors, and not all rows in one set of the cache.
        let stride = widest.next_multiple_of(LINE) + LINE;
        Ok(Self { kernels, layers, inputs: hidden, labels: inputs, stride, weights })
    }

    /// Logits `[rows, labels]` of states `[rows, hidden]`. A row's do not depend on the others.
    ///
    /// # Errors
    /// States or logits of another length than the same number of rows.
    pub fn apply(&self, states: &[f32], logits: &mut [f32]) -> Result<(), CpuError> {
        let rows = states.len() / self.inputs;
        for (found, width) in [(states.len(), self.inputs), (logits.len(), self.labels)] {
            if found != rows * width {
                return Err(CpuError::ResultLength { expected: rows * width, found });
            }
        }
        let block = rows.min(BLOCK_ROWS);
        let room = block * self.stride / LINE;
        let (mut from, mut to) = (vec![Line([0.0; LINE]); room], vec![Line([0.0; LINE]); room]);
        let blocks = states.chunks(BLOCK_ROWS * self.inputs);
        for (states, logits) in blocks.zip(logits.chunks_mut(BLOCK_ROWS * self.labels)) {
            let rows = states.len() / self.inputs;
            for (at, state) in states.chunks_exact(self.inputs).enumerate() {
                // SAFETY: `from` has room for a block of rows of `stride` numbers, a state is no
                // longer than that.
                unsafe {
                    let row = from.as_mut_ptr().cast::<f32>().add(at * self.stride);
                    row.copy_from_nonoverlapping(state.as_ptr(), state.len());
                }
            }
            for Layer { dense, function, norm } in &self.layers {
                let x = from.as_ptr().cast::<f32>();
                let a = Rows {
                    a: x.cast(),
                    stride: self.stride * 4,
                    rows,
                    scales: std::ptr::null(),
                    x,
                    x_stride: self.stride,
                };
                let c = Results { c: to.as_mut_ptr().cast(), stride: self.stride, add: false };
                // SAFETY: both have room for a block's rows of the widest layer, padded to whole
                // vectors; the kernels are this CPU's.
                unsafe {
                    dense.apply(self.kernels, a, c, *function);
                    if let Some(norm) = norm {
                        norm.apply(self.kernels, c.c, self.stride, rows);
                    }
                }
                std::mem::swap(&mut from, &mut to);
            }
            for (at, logits) in logits.chunks_exact_mut(self.labels).enumerate() {
                // SAFETY: the last layer wrote `labels` numbers of each row.
                unsafe {
                    let row = from.as_ptr().cast::<f32>().add(at * self.stride);
                    logits.copy_from_slice(std::slice::from_raw_parts(row, self.labels));
                }
            }
        }
        Ok(())
    }

    /// Logits of a state.
    #[must_use]
    pub fn labels(&self) -> usize {
        self.labels
    }

    /// Numbers of a state.
    #[must_use]
    pub fn hidden(&self) -> usize {
        self.inputs
    }

    /// Bytes of packed weights.
    #[must_use]
    pub fn resident_bytes(&self) -> usize {
        self.weights.used()
    }
}
