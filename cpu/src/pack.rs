//! Dense layers packed for the tiles: panels of columns, and what the epilogue needs.

use crate::cache_sizes::last_level_cache_bytes;
use crate::error::CpuError;
use crate::kernels::level::is_intel;
use crate::kernels::{Ahead, Coding, Epilogue, Function, Kernels, Outliers, RowScale, Tile};
use crate::slab::{ALIGN, Slab};
use crate::spec::{Linear, Precision};

/// What is known of a product's input when its weights are packed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Input<'a> {
    /// No value is below it.
    pub(crate) low: Option<f32>,
    /// How its elements differ, if that was measured.
    pub(crate) channels: Option<&'a Channels>,
}

/// How the elements of an 8-bit product's input are told apart.
#[derive(Clone, Debug, Default)]
pub(crate) struct Channels {
    /// Each element is multiplied by its factor before it is coded.
    pub(crate) factors: Vec<f32>,
    /// Elements that are not coded: their part of the product is computed in f32.
    pub(crate) outliers: Vec<u32>,
}

/// A dense layer's packed weights. Pointers are into the slab that it was packed into, which
/// outlives it by the engine's construction.
#[derive(Debug)]
pub(crate) struct PackedLinear {
    pub(crate) precision: Precision,
    pub(crate) inputs: usize,
    /// How rows are coded for this product; f32 rows are used as they are.
    pub(crate) coding: Option<Coding>,
    /// Factor of each input, or null; 0 for outliers.
    pub(crate) factors: *const f32,
    /// Inputs that are multiplied in f32.
    outliers: Vec<u32>,
    /// `[outliers][columns]`.
    outlier_weights: *const f32,
    /// Outputs, padded to whole vectors.
    columns: usize,
    /// Inputs over the group's size.
    steps: usize,
    panels: *const u8,
    /// Fewest rows for which the next panel is asked for.
    ahead_rows_min: usize,
    bias: *const f32,
    scales: *const f32,
    /// Of each column's weights.
    sums: *const f32,
}

// SAFETY: what the pointers lead to is written while packing and only read after.
unsafe impl Send for PackedLinear {}
// SAFETY: as above.
unsafe impl Sync for PackedLinear {}

/// Inputs that one step multiplies.
pub(crate) const fn group(precision: Precision) -> usize {
    match precision {
        Precision::F32 => 1,
        Precision::Bf16 => 2,
        Precision::Int8 => 4,
    }
}

/// Weights that come out of the memory are asked for ahead only for as many rows by AMD's CPUs with
/// 512-bit vectors: for fewer, what is computed takes less time than they do, and the CPU's own
/// prefetching, which follows what is really read, is faster by a tenth. Beside Intel's asking is
/// faster by a quarter, beside AMD's with 256 bits by a third.
const AHEAD_ROWS_MIN: usize = 17;

/// Most outliers of a product: beyond, f32 costs more than it saves.
pub(crate) const OUTLIERS_MAX: usize = 8;

/// Bytes that [`PackedLinear::new`] takes from the slab, at most.
pub(crate) fn packed_bytes(
    k: &Kernels,
    precision: Precision,
    inputs: usize,
    outputs: usize,
) -> usize {
    let columns = outputs.next_multiple_of(k.lanes);
    let steps = inputs.div_ceil(group(precision));
    // Panels; bias, scales, sums and outliers' weights of each column; factors.
    let outliers = if precision == Precision::Int8 { OUTLIERS_MAX } else { 0 };
    columns * steps * 4
        + columns * (12 + 4 * outliers)
        + inputs.next_multiple_of(k.lanes) * 4
        + 6 * ALIGN
}

impl PackedLinear {
    /// Packs `linear`, `[outputs, inputs]`, times `factor`.
    pub(crate) fn new(
        k: &Kernels,
        slab: &mut Slab,
        (name, linear): (&str, &Linear),
        [outputs, inputs]: [usize; 2],
        precision: Precision,
        (input, factor): (Input<'_>, f32),
    ) -> Result<Self, CpuError> {
        let columns = outputs.next_multiple_of(k.lanes);
        let steps = inputs.div_ceil(group(precision));
        let panels = slab.take(columns * steps * 4)?;
        let bias = slab.take(columns * 4)?.cast::<f32>();
        let (scales, sums) = match precision {
            Precision::Int8 => {
                (slab.take(columns * 4)?.cast::<f32>(), slab.take(columns * 4)?.cast::<f32>())
            }
            _ => (std::ptr::null_mut(), std::ptr::null_mut()),
        };
        // SAFETY: `take` gave `columns` zeroed and aligned f32 that nobody else has.
        let biases = unsafe { std::slice::from_raw_parts_mut(bias, columns) };
        if let Some(values) = &linear.bias {
            values.read(&format!("{name}, bias"), &[outputs], &mut biases[..outputs])?;
            biases.iter_mut().for_each(|bias| *bias *= factor);
        }
        let coding = match precision {
            Precision::F32 => None,
            Precision::Bf16 => Some(Coding::Bf16),
            Precision::Int8 => {
                Some(input.low.map_or(Coding::Int8, |low| Coding::Int8Above { low }))
            }
        };
        let channels = input.channels.filter(|_| precision == Precision::Int8);
        let factors = match channels {
            Some(channels) => {
                let factors = slab.take(inputs.next_multiple_of(k.lanes) * 4)?.cast::<f32>();
                // SAFETY: `take` gave room for `inputs` that nobody else has.
                let values = unsafe { std::slice::from_raw_parts_mut(factors, inputs) };
                values.copy_from_slice(&channels.factors);
                channels.outliers.iter().for_each(|&outlier| values[outlier as usize] = 0.0);
                factors
            }
            None => std::ptr::null_mut(),
        };
        let outliers = channels.map(|channels| channels.outliers.clone()).unwrap_or_default();
        let outlier_weights = slab.take(outliers.len() * columns * 4)?.cast::<f32>();
        let mut groups = vec![[0_u8; 4]; steps];
        let width = k.nv * k.lanes;
        linear.weight.each_row(name, [outputs, inputs], |output, row| {
            row.iter_mut().for_each(|weight| *weight *= factor);
            for (at, &outlier) in outliers.iter().enumerate() {
                let weight = std::mem::take(&mut row[outlier as usize]);
                // SAFETY: `take` gave room for `columns` of each outlier.
                unsafe { *outlier_weights.add(at * columns + output) = weight };
            }
            if let Some(channels) = channels {
                row.iter_mut()
                    .zip(&channels.factors)
                    .for_each(|(weight, factor)| *weight /= factor);
            }
            let (panel, column) = (output / width, output % width);
            let panel_width = width.min(columns - panel * width);
            match precision {
                Precision::F32 => {
                    for (group, weight) in groups.iter_mut().zip(row.iter()) {
                        *group = weight.to_ne_bytes();
                    }
                }
                Precision::Bf16 => {
                    for (group, weights) in groups.iter_mut().zip(row.chunks(2)) {
                        for (bytes, &weight) in group.as_chunks_mut::<2>().0.iter_mut().zip(weights)
                        {
                            *bytes = half::bf16::from_f32(weight).to_bits().to_ne_bytes();
                        }
                    }
                }
                Precision::Int8 => {
                    let most = row.iter().fold(0.0_f32, |most, weight| most.max(weight.abs()));
                    let scale = most / 127.0;
                    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
                    let codes = groups.as_flattened_mut();
                    let sum: i32 = codes
                        .iter_mut()
                        .zip(row.iter())
                        .map(|(byte, weight)| {
                            let code = nearest(weight * inverse);
                            *byte = code.cast_unsigned();
                            i32::from(code)
                        })
                        .sum();
                    #[expect(clippy::cast_precision_loss, reason = "below 2^24 for 10^5 inputs")]
                    let sum = sum as f32;
                    // SAFETY: output < columns, for which `take` gave room.
                    unsafe {
                        *scales.add(output) = scale;
                        *sums.add(output) = scale * sum;
                    }
                }
            }
            // A copy, for what the closure borrows would be loaded again after each write.
            let (panels, parts) = (panels, k.parts(precision));
            for (step, group) in groups.iter().enumerate() {
                // SAFETY: within the panels: panel · width · steps · 4 + panel_width · steps · 4 is
                // at most columns · steps · 4.
                unsafe {
                    let to = panels.add((panel * width * steps + step * panel_width) * 4);
                    place(to, (column, panel_width), *group, parts);
                }
            }
        })?;
        Ok(Self {
            precision,
            inputs,
            coding,
            factors,
            outliers,
            outlier_weights,
            columns,
            steps,
            panels,
            ahead_rows_min: if slab.capacity() > last_level_cache_bytes()
                && k.lanes == 16
                && !is_intel()
            {
                AHEAD_ROWS_MIN
            } else {
                0
            },
            bias,
            scales,
            sums,
        })
    }

    /// Bytes of a coded row, with room for whole vectors; 0 for f32, which is not coded.
    pub(crate) fn coded_row_bytes(k: &Kernels, precision: Precision, inputs: usize) -> usize {
        let padded = inputs.next_multiple_of(k.lanes.max(16));
        match precision {
            Precision::F32 => 0,
            Precision::Bf16 => padded * 2 + ALIGN,
            Precision::Int8 => padded * k.code_bytes + ALIGN,
        }
    }

    /// The product of `rows` with the weights into `c`, or added to it.
    ///
    /// # Safety
    /// `a` is as [`Self::coding`] says, `c` has room for `rows` of the outputs padded to whole
    /// vectors, and the slab lives.
    pub(crate) unsafe fn apply(
        &self,
        k: &Kernels,
        a: Rows,
        c: Results,
        function: Option<Function>,
    ) {
        let width = k.nv * k.lanes;
        let (tiles, mr) = k.tiles(self.precision);
        let mut column = 0;
        while column < self.columns {
            let panel_width = width.min(self.columns - column);
            let tiles_of = |rows: usize| tiles[rows - 1][panel_width / k.lanes - 1];
            // SAFETY: panels lie one after another, `width` columns of `steps` groups each.
            let b = unsafe { self.panels.add(column * self.steps * 4) };
            let panel_bytes = panel_width * self.steps * 4;
            for_tiles(a.rows, mr, |row, rows| {
                // SAFETY: row + rows ≤ a.rows and column + panel_width ≤ columns; the kernels are
                // this CPU's by construction of `Kernels`.
                unsafe {
                    let bias = self.bias.add(column);
                    let epilogue = match self.precision {
                        Precision::Int8 => Epilogue::Int8 {
                            columns: self.scales.add(column),
                            sums: self.sums.add(column),
                            rows: a.scales.add(row),
                            bias,
                            outliers: Outliers {
                                count: self.outliers.len(),
                                elements: self.outliers.as_ptr(),
                                weights: self.outlier_weights.add(column),
                                weights_stride: self.columns,
                                x: a.x.add(row * a.x_stride),
                                x_stride: a.x_stride,
                            },
                            add: c.add,
                        },
                        _ if c.add => Epilogue::AddBias(bias),
                        _ => Epilogue::Bias(bias),
                    };
                    let to = c.c.add(row * c.stride + column);
                    tiles_of(rows)(&Tile {
                        a: a.a.add(row * a.stride),
                        a_stride: a.stride,
                        b,
                        steps: self.steps,
                        // Each tile asks for its share of the panel that comes next.
                        ahead: if a.rows < self.ahead_rows_min {
                            Ahead::nothing(b)
                        } else {
                            Ahead {
                                from: b.wrapping_add(panel_bytes + panel_bytes * row / a.rows),
                                step: panel_width * 4 * rows / a.rows,
                            }
                        },
                        c: to,
                        c_stride: c.stride,
                        epilogue,
                    });
                    if let Some(function) = function {
                        (k.apply_rows)(function, to, c.stride, rows, panel_width);
                    }
                }
            });
            column += panel_width;
        }
    }
}

/// Puts a column's group into its step of a panel, which lies in `parts` ([`Kernels::parts`]).
///
/// # Safety
/// `step` has room for `width` groups, and `column` is one of them.
#[inline(always)]
pub(crate) unsafe fn place(
    step: *mut u8,
    (column, width): (usize, usize),
    group: [u8; 4],
    parts: usize,
) {
    // SAFETY: granted by the caller.
    unsafe {
        if parts == 1 {
            step.add(column * 4).cast::<[u8; 4]>().write(group);
        } else {
            let [a, b, c, d] = group;
            step.add(column * 2).cast::<[u8; 2]>().write([a, b]);
            step.add((width + column) * 2).cast::<[u8; 2]>().write([c, d]);
        }
    }
}

/// The nearest whole number, ties to even; `x` is within ±127, or no number and then 0. Adding
/// 1.5·2²³ leaves it in the low bits, without the call that rounding is where SSE4.1 is not known.
fn nearest(x: f32) -> i8 {
    #[expect(clippy::cast_possible_truncation, reason = "the low bits are meant")]
    let code = (x + 12_582_912.0).to_bits() as i8;
    if x.is_nan() { 0 } else { code }
}

/// Left operand of a product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    pub(crate) a: *const u8,
    /// Bytes from row to row.
    pub(crate) stride: usize,
    pub(crate) rows: usize,
    /// One a row, of 8-bit codings.
    pub(crate) scales: *const RowScale,
    /// The rows before they were coded: outliers are taken from here.
    pub(crate) x: *const f32,
    /// Elements from row to row of `x`.
    pub(crate) x_stride: usize,
}

/// Where a product goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Results {
    pub(crate) c: *mut f32,
    /// Elements from row to row.
    pub(crate) stride: usize,
    /// Added to what is there.
    pub(crate) add: bool,
}

/// Calls `each(first row, rows)` for tiles of at most `mr` rows, as even as can be: a tile of one
/// row loads as many weights as one of eight.
#[inline]
pub(crate) fn for_tiles(rows: usize, mr: usize, mut each: impl FnMut(usize, usize)) {
    let tiles = rows.div_ceil(mr);
    let mut row = 0;
    for tile in 0..tiles {
        let end = rows * (tile + 1) / tiles;
        each(row, end - row);
        row = end;
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn nearest_is_rounding_to_even() {
        for at in -127_000_i32..=127_000 {
            let x = at as f32 / 1000.0;
            assert_eq!(i32::from(super::nearest(x)), x.round_ties_even() as i32, "{x}");
        }
        assert_eq!(super::nearest(f32::NAN), 0);
    }
}
