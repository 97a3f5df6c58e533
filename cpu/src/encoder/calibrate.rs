//! Outlier channels: measured on sample texts, then kept from spoiling the 8 bits of the others.
//!
//! A channel above the others leaves those with few of the 8 bits, for a row has one scale. So each
//! channel is divided by a factor before it is coded, and its weights are multiplied by it
//! (SmoothQuant, Xiao et al. 2022); and the few that still stand out, with their weights, are
//! multiplied in f32 instead (LLM.int8(), Dettmers et al. 2022). Where they are cannot be told from
//! the weights: in MiniLM they are an order above what the layer norm's own weights suggest.

use std::sync::{Mutex, PoisonError};

use super::{Encoder, Layer};
use crate::error::CpuError;
use crate::pack::{Channels, OUTLIERS_MAX, PackedLinear};
use crate::spec::Linear;

/// Exponent that shares the difficulty out between activations and weights: of 0.35, 0.5, 0.65 and
/// 0.8 the one with the least error of MiniLM's first state.
const SHARE: f32 = 0.65;
/// Outliers are as few as leave the others a range at most this much wider than [`OUTLIERS_MAX`]
/// would: the error of the 8 bits grows with the range, time with each outlier.
const WIDER_MOST: f32 = 1.05;

/// Largest magnitude of each channel that went into products, layer by layer.
///
/// Measured by [`Encoder::channel_maxima`], best of an f32 encoder, for [`Encoder::new`].
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelMaxima {
    layers: Vec<[Vec<f32>; 4]>,
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
    /// The second one.
    Down,
}

impl Place {
    /// Channels at each place, in the order of their declaration.
    fn widths(hidden: usize, intermediate: usize) -> [usize; 4] {
        [hidden, hidden, hidden, intermediate]
    }
}

impl ChannelMaxima {
    pub(super) fn new(layers: usize, hidden: usize, intermediate: usize) -> Self {
        let widths = Place::widths(hidden, intermediate);
        Self { layers: (0..layers).map(|_| widths.map(|width| vec![0.0; width])).collect() }
    }

    /// Adds what was measured on other texts of the same model.
    pub fn merge(&mut self, other: &Self) {
        for (own, other) in self.layers.iter_mut().flatten().zip(other.layers.iter().flatten()) {
            for (own, other) in own.iter_mut().zip(other) {
                *own = own.max(*other);
            }
        }
    }

    /// All of them one after another, to be kept: `[layers, 3·hidden + intermediate]`.
    #[must_use]
    pub fn to_values(&self) -> Vec<f32> {
        self.layers.iter().flatten().flatten().copied().collect()
    }

    /// From what [`Self::to_values`] gave; `None` if they are not as many as the sizes say.
    #[must_use]
    pub fn from_values(
        layers: usize,
        hidden: usize,
        intermediate: usize,
        values: &[f32],
    ) -> Option<Self> {
        let widths = Place::widths(hidden, intermediate);
        let a_layer = widths.into_iter().try_fold(0, usize::checked_add)?;
        if values.len() != layers.checked_mul(a_layer)? {
            return None;
        }
        let mut maxima = Self::new(layers, hidden, intermediate);
        let mut values = values.iter().copied();
        for own in maxima.layers.iter_mut().flatten().flatten() {
            *own = values.next()?;
        }
        Some(maxima)
    }

    /// Whether they are of a model of these sizes.
    pub(super) fn fit(&self, layers: usize, hidden: usize, intermediate: usize) -> bool {
        let widths = Place::widths(hidden, intermediate);
        self.layers.len() == layers
            && self.layers.iter().all(|places| places.each_ref().map(Vec::len) == widths)
    }

    /// What is done to each channel before it is coded for `products`; `low` is the least value that
    /// channels have, if they have one. Holds the weights: they are read once, though they are looked through
    /// before they are packed.
    pub(super) fn channels(
        &self,
        (layer, place): (usize, Place),
        low: Option<f32>,
        products: &mut [(&str, &mut Linear)],
    ) -> Result<Channels, CpuError> {
        let maxima = &self.layers[layer][place as usize];
        let inputs = maxima.len();
        let mut largest = vec![0.0_f32; inputs];
        for (name, product) in products {
            let name = format!("layer {layer}, {name}");
            product.weight = product.weight.held(&name)?;
            let outputs = product.weight.shape.first().copied().unwrap_or(0);
            product.weight.each_row(&name, [outputs, inputs], |_, row| {
                for (largest, weight) in largest.iter_mut().zip(row) {
                    *largest = largest.max(weight.abs());
                }
            })?;
        }
        let factor = |(largest, maximum): (f32, f32)| {
            // What the activation gives has its own coding, with one zero for all channels.
            if low.is_some() {
                return 1.0;
            }
            let factor = largest.max(1e-5).powf(1.0 - SHARE) / maximum.max(1e-5).powf(SHARE);
            // Weights that are no numbers give answers that are none, whatever the factor.
            if factor.is_finite() { factor } else { 1.0 }
        };
        let factors: Vec<f32> =
            largest.iter().copied().zip(maxima.iter().copied()).map(factor).collect();
        let coded: Vec<f32> =
            factors.iter().zip(maxima).map(|(factor, maximum)| factor * maximum).collect();
        let outliers = outliers(&coded);
        Ok(Channels { factors, outliers })
    }
}

/// The channels that stand out of what is coded, at most [`OUTLIERS_MAX`], in ascending order.
fn outliers(coded: &[f32]) -> Vec<u32> {
    let mut order: Vec<usize> = (0..coded.len()).collect();
    order.sort_unstable_by(|&a, &b| coded[b].total_cmp(&coded[a]));
    let Some(&least) = order.get(OUTLIERS_MAX) else { return Vec::new() };
    let range = coded[least] * WIDER_MOST;
    let mut outliers: Vec<u32> = order
        .into_iter()
        .take(OUTLIERS_MAX)
        .take_while(|&channel| coded[channel] > range)
        .filter_map(|channel| u32::try_from(channel).ok())
        .collect();
    outliers.sort_unstable();
    outliers
}

/// Where threads of one pass report what goes into products.
#[derive(Debug)]
pub(super) struct Gauge(pub(super) Mutex<ChannelMaxima>);

impl Gauge {
    /// # Safety
    /// `x` has `rows` rows of the product's inputs.
    pub(super) unsafe fn read(
        &self,
        encoder: &Encoder,
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
            } else if of(&layer.up) {
                Some(Place::Up)
            } else {
                of(&layer.down).then_some(Place::Down)
            }
        };
        let found =
            encoder.layers.iter().enumerate().find_map(|(at, layer)| Some((at, place(layer)?)));
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
