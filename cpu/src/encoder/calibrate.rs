//! Outlier channels: measured on sample texts, then moved from activations, which have one scale a
//! row, to weights.
//!
//! A channel far above the others leaves those with few of the 8 bits. So each channel is divided
//! by a factor before it is coded, and its weights are multiplied by it (SmoothQuant, Xiao et al.
//! 2022). Where the outliers are cannot be told from the weights: in MiniLM they are an order above
//! what the layer norm's own weights suggest.

use std::sync::{Mutex, PoisonError};

use super::{Engine, Layer};
use crate::error::CpuError;
use crate::pack::PackedLinear;
use crate::spec::{Linear, read_f32};

/// Exponent that shares the difficulty out between activations and weights: of 0.35, 0.5, 0.65 and
/// 0.8 the one with the least error of MiniLM's first state.
const SHARE: f32 = 0.65;

/// Largest magnitude of each channel that went into products, layer by layer.
///
/// Measured by [`Engine::channel_maxima`], best of an f32 engine, for [`Engine::calibrated`].
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelMaxima {
    layers: Vec<[Vec<f32>; 3]>,
}

/// Products whose inputs are measured.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// Queries, keys and values.
    Attention,
    /// The product after attention.
    Output,
    /// The first feed-forward product.
    Up,
}

impl ChannelMaxima {
    pub(super) fn new(layers: usize, hidden: usize) -> Self {
        Self { layers: (0..layers).map(|_| [(); 3].map(|()| vec![0.0; hidden])).collect() }
    }

    /// Adds what was measured on other texts of the same model.
    pub fn merge(&mut self, other: &Self) {
        for (own, other) in self.layers.iter_mut().flatten().zip(other.layers.iter().flatten()) {
            for (own, other) in own.iter_mut().zip(other) {
                *own = own.max(*other);
            }
        }
    }

    /// All of them one after another, to be kept: `[layers, 3, hidden]`.
    #[must_use]
    pub fn to_values(&self) -> Vec<f32> {
        self.layers.iter().flatten().flatten().copied().collect()
    }

    /// From what [`Self::to_values`] gave; `None` if they are not as many as the sizes say.
    #[must_use]
    pub fn from_values(layers: usize, hidden: usize, values: &[f32]) -> Option<Self> {
        let count = layers.checked_mul(3)?.checked_mul(hidden)?;
        if hidden == 0 || values.len() != count {
            return None;
        }
        let mut places = values.chunks_exact(hidden).map(<[f32]>::to_vec);
        let mut next = || places.next().unwrap_or_default();
        Some(Self { layers: (0..layers).map(|_| [next(), next(), next()]).collect() })
    }

    /// Whether they are of a model of these sizes.
    pub(super) fn fit(&self, layers: usize, hidden: usize) -> bool {
        self.layers.len() == layers
            && self.layers.iter().flatten().all(|place| place.len() == hidden)
    }

    /// Factor of each channel before it is coded for `products`.
    pub(super) fn factors(
        &self,
        layer: usize,
        place: Place,
        products: &[(&str, &Linear)],
    ) -> Result<Vec<f32>, CpuError> {
        let maxima = &self.layers[layer][place as usize];
        let inputs = maxima.len();
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
        let factor = |(largest, maximum): (f32, f32)| {
            let factor = largest.max(1e-5).powf(1.0 - SHARE) / maximum.max(1e-5).powf(SHARE);
            // Weights that are no numbers give answers that are none, whatever the factor.
            if factor.is_finite() { factor } else { 1.0 }
        };
        Ok(largest.into_iter().zip(maxima.iter().copied()).map(factor).collect())
    }
}

/// Where threads of one pass report what goes into products.
#[derive(Debug)]
pub(super) struct Gauge(pub(super) Mutex<ChannelMaxima>);

impl Gauge {
    /// # Safety
    /// `x` has `rows` rows of the product's inputs.
    pub(super) unsafe fn read(
        &self,
        engine: &Engine,
        linear: &PackedLinear,
        x: *const f32,
        stride: usize,
        rows: usize,
    ) {
        let place = |layer: &Layer| {
            let of = |part: &PackedLinear| std::ptr::eq(part, linear);
            if of(&layer.key) || of(&layer.query) {
                Some(Place::Attention)
            } else if of(&layer.attention_output) {
                Some(Place::Output)
            } else {
                of(&layer.up).then_some(Place::Up)
            }
        };
        let found =
            engine.layers.iter().enumerate().find_map(|(at, layer)| Some((at, place(layer)?)));
        let Some((layer, place)) = found else { return };
        let mut maxima = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for row in 0..rows {
            // SAFETY: granted by the caller.
            let row = unsafe { std::slice::from_raw_parts(x.add(row * stride), linear.inputs) };
            for (maximum, value) in maxima.layers[layer][place as usize].iter_mut().zip(row) {
                *maximum = maximum.max(value.abs());
            }
        }
    }
}
