//! Register tiles of matrix products: `MR` rows times one panel of packed columns.
//!
//! A panel is `[steps][NV·LANES][group]` with groups of 1 f32, 2 bf16 or 4 i8: what one step
//! multiplies. Where codes take 16 bits, a step's i8 are `[2][NV·LANES][2]`. Sums run over the steps in order for every element, wherever its tile lies, so an
//! answer does not depend on the rows beside it.

use super::rows::{Outliers, RowScale};
use crate::simd::Simd;

/// One tile's operands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tile {
    /// Rows of the left operand.
    pub(crate) a: *const u8,
    /// Bytes from row to row.
    pub(crate) a_stride: usize,
    /// The panel.
    pub(crate) b: *const u8,
    /// Steps: inputs over the group's size.
    pub(crate) steps: usize,
    pub(crate) ahead: Ahead,
    /// Result `[rows][NV·LANES]`.
    pub(crate) c: *mut f32,
    /// Elements from row to row.
    pub(crate) c_stride: usize,
    pub(crate) epilogue: Epilogue,
}

/// Memory that is wanted soon, brought near while a tile computes: each step asks for a line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    /// Any address will do.
    pub(crate) from: *const u8,
    /// Bytes from step to step.
    pub(crate) step: usize,
}

impl Ahead {
    /// Nothing: what is at `near` is there already. (An address that is not mapped would be looked
    /// up again and again.)
    pub(crate) fn nothing(near: *const u8) -> Self {
        Self { from: near, step: 0 }
    }

    /// # Safety
    /// The CPU has the features of `S`.
    #[inline(always)]
    unsafe fn ask<S: Simd, const NV: usize>(&mut self) {
        for line in 0..(NV * S::LANES * 4).div_ceil(64) {
            // SAFETY: granted by the caller.
            unsafe { S::prefetch(self.from.wrapping_add(line * 64)) };
        }
        self.from = self.from.wrapping_add(self.step);
    }
}

/// What is done to sums before they are stored. Pointers to columns are at the panel's first.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Epilogue {
    /// Stored as they are.
    Plain,
    /// Times the row's factor.
    RowScale(*const f32),
    /// Plus the column's bias.
    Bias(*const f32),
    /// Plus the column's bias, added to what is in the result.
    AddBias(*const f32),
    /// Of 8-bit products: `sum·columns[column]·scale[row] + sums[column]·low[row] + bias[column]` and
    /// the outliers' products, added to what is in the result if `add`. `sums` are those of the
    /// weights.
    Int8 {
        columns: *const f32,
        sums: *const f32,
        rows: *const RowScale,
        bias: *const f32,
        outliers: Outliers,
        add: bool,
    },
}

/// Products of f32.
///
/// # Safety
/// The CPU has the features of `S`; the operands are as [`Tile`] says, for `MR` rows.
#[inline(always)]
pub(crate) unsafe fn tile_f32<S: Simd, const MR: usize, const NV: usize>(t: &Tile) {
    // SAFETY: granted by the caller.
    unsafe {
        let mut sums = [[S::splat(0.0); NV]; MR];
        let (mut a, mut b) = (t.a.cast::<f32>(), t.b.cast::<f32>());
        let stride = t.a_stride / 4;
        let mut ahead = t.ahead;
        for _ in 0..t.steps {
            ahead.ask::<S, NV>();
            let w: [S::F; NV] = load_columns::<S, NV>(b);
            for (row, sums) in sums.iter_mut().enumerate() {
                let x = S::splat(*a.add(row * stride));
                for column in 0..NV {
                    sums[column] = S::fma(x, w[column], sums[column]);
                }
            }
            a = a.add(1);
            b = b.add(NV * S::LANES);
        }
        store::<S, MR, NV>(t, sums);
    }
}

/// Products of bf16, summed in f32.
///
/// # Safety
/// As [`tile_f32`].
#[inline(always)]
pub(crate) unsafe fn tile_bf16<S: Simd, const MR: usize, const NV: usize>(t: &Tile) {
    // SAFETY: granted by the caller.
    unsafe {
        let mut sums = [[S::splat(0.0); NV]; MR];
        let (mut a, mut b, mut ahead) = (t.a, t.b, t.ahead);
        for _ in 0..t.steps {
            ahead.ask::<S, NV>();
            let mut w = [S::zero_i(); NV];
            for (column, w) in w.iter_mut().enumerate() {
                *w = S::load_4(b.add(column * S::LANES * 4));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let x = S::splat_4(a.add(row * t.a_stride));
                for column in 0..NV {
                    sums[column] = S::dot_bf16(sums[column], x, w[column]);
                }
            }
            a = a.add(4);
            b = b.add(NV * S::LANES * 4);
        }
        store::<S, MR, NV>(t, sums);
    }
}

/// Products of codes and i8, summed exactly.
///
/// # Safety
/// As [`tile_f32`]; the epilogue is [`Epilogue::Int8`].
#[inline(always)]
pub(crate) unsafe fn tile_i8<S: Simd, const MR: usize, const NV: usize>(t: &Tile) {
    let Epilogue::Int8 { columns, sums: weights, rows, bias, outliers, add } = t.epilogue else {
        return;
    };
    // SAFETY: granted by the caller.
    unsafe {
        let mut sums = [[S::zero_i(); NV]; MR];
        let (mut a, mut b, mut ahead) = (t.a, t.b, t.ahead);
        for _ in 0..t.steps {
            ahead.ask::<S, NV>();
            for _ in 0..S::CODE_BYTES {
                let mut w = [S::zero_i(); NV];
                for w in &mut w {
                    *w = S::load_i8(b);
                    b = b.add(S::LANES * 4 / S::CODE_BYTES);
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let x = S::splat_4(a.add(row * t.a_stride));
                    for column in 0..NV {
                        sums[column] = S::dot_i8(sums[column], x, w[column]);
                    }
                }
                a = a.add(4);
            }
        }
        let scales: [S::F; NV] = load_columns::<S, NV>(columns);
        let weights: [S::F; NV] = load_columns::<S, NV>(weights);
        let biases: [S::F; NV] = load_columns::<S, NV>(bias);
        let to = |row: usize, column: usize| t.c.add(row * t.c_stride + column * S::LANES);
        let mut values = [[S::splat(0.0); NV]; MR];
        for (row, values) in values.iter_mut().enumerate() {
            let RowScale { scale, low } = *rows.add(row);
            let (scale, low) = (S::splat(scale), S::splat(low));
            for (column, value) in values.iter_mut().enumerate() {
                let start = S::fma(weights[column], low, biases[column]);
                let sum = S::to_f(sums[row][column]);
                *value = S::fma(S::mul(sum, scales[column]), scale, start);
                if add {
                    *value = S::add(S::load(to(row, column)), *value);
                }
            }
        }
        for outlier in 0..outliers.count {
            let w: [S::F; NV] =
                load_columns::<S, NV>(outliers.weights.add(outlier * outliers.weights_stride));
            let x = outliers.x.add(*outliers.elements.add(outlier) as usize);
            for (row, values) in values.iter_mut().enumerate() {
                let x = S::splat(*x.add(row * outliers.x_stride));
                for column in 0..NV {
                    values[column] = S::fma(x, w[column], values[column]);
                }
            }
        }
        for (row, values) in values.into_iter().enumerate() {
            for (column, value) in values.into_iter().enumerate() {
                S::store(to(row, column), value);
            }
        }
    }
}

#[inline(always)]
unsafe fn load_columns<S: Simd, const NV: usize>(p: *const f32) -> [S::F; NV] {
    // SAFETY: granted by the caller.
    unsafe {
        let mut columns = [S::splat(0.0); NV];
        for (at, column) in columns.iter_mut().enumerate() {
            *column = S::load(p.add(at * S::LANES));
        }
        columns
    }
}

#[inline(always)]
unsafe fn store<S: Simd, const MR: usize, const NV: usize>(t: &Tile, sums: [[S::F; NV]; MR]) {
    // SAFETY: granted by the caller.
    unsafe {
        let at = |row: usize, column: usize| t.c.add(row * t.c_stride + column * S::LANES);
        match t.epilogue {
            Epilogue::Plain | Epilogue::Int8 { .. } => {
                for (row, sums) in sums.into_iter().enumerate() {
                    for (column, sum) in sums.into_iter().enumerate() {
                        S::store(at(row, column), sum);
                    }
                }
            }
            Epilogue::RowScale(scales) => {
                for (row, sums) in sums.into_iter().enumerate() {
                    let scale = S::splat(*scales.add(row));
                    for (column, sum) in sums.into_iter().enumerate() {
                        S::store(at(row, column), S::mul(sum, scale));
                    }
                }
            }
            Epilogue::Bias(bias) => {
                let biases: [S::F; NV] = load_columns::<S, NV>(bias);
                for (row, sums) in sums.into_iter().enumerate() {
                    for (column, sum) in sums.into_iter().enumerate() {
                        S::store(at(row, column), S::add(sum, biases[column]));
                    }
                }
            }
            Epilogue::AddBias(bias) => {
                let biases: [S::F; NV] = load_columns::<S, NV>(bias);
                for (row, sums) in sums.into_iter().enumerate() {
                    for (column, sum) in sums.into_iter().enumerate() {
                        let c = at(row, column);
                        S::store(c, S::add(S::load(c), S::add(sum, biases[column])));
                    }
                }
            }
        }
    }
}
