//! Kernels over rows: layer norm, coding for the next product, softmax, element-wise functions.

use super::math::{Function, apply, exp2, exp2_coarse};
use crate::simd::Simd;

/// How f32 rows become the left operand of a product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Coding {
    /// u8 from the row's least value, or 0, to its largest one, or 0.
    Int8,
    /// u8 from `low`, which no value is below, to the row's largest one.
    Int8Above {
        /// Not above 0.
        low: f32,
    },
    /// bf16.
    Bf16,
}

/// What a row's 8-bit codes stand for: `low + code·scale`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct RowScale {
    pub(crate) scale: f32,
    pub(crate) low: f32,
}

/// Rows and the coded ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowsArgs {
    pub(crate) x: *const f32,
    /// Elements from row to row.
    pub(crate) x_stride: usize,
    pub(crate) rows: usize,
    /// Elements of a row.
    pub(crate) n: usize,
    pub(crate) coding: Coding,
    /// Factor of each element before it is coded, or null: `n` elements, padded to whole vectors.
    pub(crate) factors: *const f32,
    /// Coded rows, each with room for whole vectors.
    pub(crate) out: *mut u8,
    /// Bytes from row to row.
    pub(crate) out_stride: usize,
    /// One a row, of 8-bit codings.
    pub(crate) scales: *mut RowScale,
}

/// Layer norm of rows in place, after Ba et al. 2016.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NormArgs {
    pub(crate) x: *mut f32,
    pub(crate) x_stride: usize,
    pub(crate) rows: usize,
    pub(crate) n: usize,
    pub(crate) weight: *const f32,
    pub(crate) bias: *const f32,
    pub(crate) eps: f32,
}

/// What softmax makes of scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shares {
    /// f32 in place.
    Exact,
    /// f32 in place, relative error below 1e-4: beside products that are rounded to 8 bits.
    Coarse,
    /// bf16 at the row's start, of the coarse ones, an odd last one followed by 0.
    Bf16,
}

/// Softmax without the division: scores become powers of 2, sums are inverted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SoftmaxArgs {
    /// `[rows][stride]`, the first `n` count; in units of log2.
    pub(crate) scores: *mut f32,
    pub(crate) stride: usize,
    pub(crate) rows: usize,
    pub(crate) n: usize,
    pub(crate) shares: Shares,
    /// 1/sum of each row.
    pub(crate) inverse: *mut f32,
}

/// Elements of a product's rows that are not coded: what they add to a tile's columns in f32, after
/// Dettmers et al. 2022.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outliers {
    pub(crate) count: usize,
    /// `[count]`: their places in a row.
    pub(crate) elements: *const u32,
    /// `[count][weights_stride]`, at the tile's first column.
    pub(crate) weights: *const f32,
    pub(crate) weights_stride: usize,
    /// The tile's rows before they were coded.
    pub(crate) x: *const f32,
    pub(crate) x_stride: usize,
}

impl Outliers {
    /// All elements are coded.
    pub(crate) fn none() -> Self {
        let (elements, weights, x) = (std::ptr::null(), std::ptr::null(), std::ptr::null());
        Self { count: 0, elements, weights, weights_stride: 0, x, x_stride: 0 }
    }
}

/// # Safety
/// The CPU has the features of `S`; pointers are valid as [`NormArgs`] says.
#[inline(always)]
pub(crate) unsafe fn norm_rows<S: Simd>(args: &NormArgs) {
    let (n, whole) = (args.n, args.n / S::LANES * S::LANES);
    let rest = n - whole;
    // SAFETY: granted by the caller.
    unsafe {
        for row in 0..args.rows {
            let x = args.x.add(row * args.x_stride);
            let mut sums = [S::splat(0.0); 2];
            let mut at = 0;
            while at + 2 * S::LANES <= whole {
                sums[0] = S::add(sums[0], S::load(x.add(at)));
                sums[1] = S::add(sums[1], S::load(x.add(at + S::LANES)));
                at += 2 * S::LANES;
            }
            if at < whole {
                sums[0] = S::add(sums[0], S::load(x.add(at)));
            }
            if rest > 0 {
                sums[1] = S::add(sums[1], S::load_part(x.add(whole), rest));
            }
            #[expect(clippy::cast_precision_loss, reason = "a row's width")]
            let over_n = 1.0 / n as f32;
            let mean = S::sum(S::add(sums[0], sums[1])) * over_n;
            let mean_v = S::splat(mean);
            let mut squares = [S::splat(0.0); 2];
            at = 0;
            while at + 2 * S::LANES <= whole {
                let d0 = S::sub(S::load(x.add(at)), mean_v);
                let d1 = S::sub(S::load(x.add(at + S::LANES)), mean_v);
                squares[0] = S::fma(d0, d0, squares[0]);
                squares[1] = S::fma(d1, d1, squares[1]);
                at += 2 * S::LANES;
            }
            if at < whole {
                let d = S::sub(S::load(x.add(at)), mean_v);
                squares[0] = S::fma(d, d, squares[0]);
            }
            let mut square = S::sum(S::add(squares[0], squares[1]));
            for at in whole..n {
                let d = *x.add(at) - mean;
                square += d * d;
            }
            let deviation = S::splat(1.0 / (square * over_n + args.eps).sqrt());
            let normed = |value: S::F, weight: S::F, bias: S::F| {
                S::fma(S::mul(S::sub(value, mean_v), deviation), weight, bias)
            };
            at = 0;
            while at < whole {
                let (weight, bias) = (S::load(args.weight.add(at)), S::load(args.bias.add(at)));
                S::store(x.add(at), normed(S::load(x.add(at)), weight, bias));
                at += S::LANES;
            }
            if rest > 0 {
                let weight = S::load_part(args.weight.add(whole), rest);
                let bias = S::load_part(args.bias.add(whole), rest);
                let value = normed(S::load_part(x.add(whole), rest), weight, bias);
                S::store_part(x.add(whole), value, rest);
            }
        }
    }
}

/// # Safety
/// The CPU has the features of `S`; pointers are valid as [`RowsArgs`] says.
#[inline(always)]
pub(crate) unsafe fn code_rows<S: Simd>(args: &RowsArgs) {
    // SAFETY: granted by the caller.
    unsafe {
        if args.factors.is_null() {
            code_rows_factors::<S, false>(args);
        } else {
            code_rows_factors::<S, true>(args);
        }
    }
}

#[inline(always)]
unsafe fn code_rows_factors<S: Simd, const FACTORS: bool>(args: &RowsArgs) {
    let (n, whole) = (args.n, args.n / S::LANES * S::LANES);
    let rest = n - whole;
    // SAFETY: granted by the caller.
    unsafe {
        let value = |x: *const f32, at: usize| {
            let value = S::load(x.add(at));
            if FACTORS { S::mul(value, S::load(args.factors.add(at))) } else { value }
        };
        let last = |x: *const f32| {
            let value = S::load_part(x.add(whole), rest);
            if FACTORS { S::mul(value, S::load(args.factors.add(whole))) } else { value }
        };
        for row in 0..args.rows {
            let x = args.x.add(row * args.x_stride);
            let out = args.out.add(row * args.out_stride);
            let known = match args.coding {
                Coding::Bf16 => {
                    let mut at = 0;
                    while at < whole {
                        S::store_bf16(out.cast::<u16>().add(at), value(x, at));
                        at += S::LANES;
                    }
                    if rest > 0 {
                        S::store_bf16(out.cast::<u16>().add(whole), last(x));
                    }
                    continue;
                }
                Coding::Int8 => None,
                Coding::Int8Above { low } => Some(low),
            };
            let mut most = [S::splat(0.0); 2];
            let mut least = [S::splat(0.0); 2];
            let mut at = 0;
            if known.is_some() {
                while at + 2 * S::LANES <= whole {
                    most[0] = S::max(most[0], value(x, at));
                    most[1] = S::max(most[1], value(x, at + S::LANES));
                    at += 2 * S::LANES;
                }
            } else {
                while at + 2 * S::LANES <= whole {
                    let (a, b) = (value(x, at), value(x, at + S::LANES));
                    (least[0], most[0]) = (S::min(least[0], a), S::max(most[0], a));
                    (least[1], most[1]) = (S::min(least[1], b), S::max(most[1], b));
                    at += 2 * S::LANES;
                }
            }
            if at < whole {
                let a = value(x, at);
                (least[0], most[0]) = (S::min(least[0], a), S::max(most[0], a));
            }
            let (mut low, mut high) = (S::min(least[0], least[1]), S::max(most[0], most[1]));
            if rest > 0 {
                // The lanes beyond the row hold 0, which the range includes.
                let a = last(x);
                (low, high) = (S::min(low, a), S::max(high, a));
            }
            let high = S::max_lane(high);
            let low = match known {
                Some(low) => low,
                None => -S::max_lane(S::sub(S::splat(0.0), low)),
            };
            let scale = (high - low) / 255.0;
            *args.scales.add(row) = RowScale { scale, low };
            let inverse = S::splat(if scale > 0.0 { 1.0 / scale } else { 0.0 });
            let low = S::splat(low);
            let (least, most) = (S::splat(0.0), S::splat(255.0));
            // Subtracted and multiplied in two roundings, so that every set gives one code.
            let code =
                |value: S::F| S::min(S::max(S::mul(S::sub(value, low), inverse), least), most);
            let mut at = 0;
            while at < whole {
                S::store_codes(out.add(at * S::CODE_BYTES), code(value(x, at)));
                at += S::LANES;
            }
            if rest > 0 {
                S::store_codes(out.add(whole * S::CODE_BYTES), code(last(x)));
            }
        }
    }
}

/// # Safety
/// The CPU has the features of `S`; pointers are valid as [`SoftmaxArgs`] says.
#[inline(always)]
pub(crate) unsafe fn softmax_rows<S: Simd>(args: &SoftmaxArgs) {
    // SAFETY: granted by the caller.
    unsafe {
        match args.shares {
            Shares::Exact => softmax_rows_of::<S, false, false>(args),
            Shares::Coarse => softmax_rows_of::<S, true, false>(args),
            Shares::Bf16 => softmax_rows_of::<S, true, true>(args),
        }
    }
}

#[inline(always)]
unsafe fn softmax_rows_of<S: Simd, const COARSE: bool, const BF16: bool>(args: &SoftmaxArgs) {
    let (n, whole) = (args.n, args.n / S::LANES * S::LANES);
    let rest = n - whole;
    // SAFETY: granted by the caller.
    unsafe {
        for row in 0..args.rows {
            let x = args.scores.add(row * args.stride);
            // Four maxima, so that one need not wait for the other.
            let mut most = [S::splat(f32::NEG_INFINITY); 4];
            let mut at = 0;
            while at + 4 * S::LANES <= whole {
                for (lane, most) in most.iter_mut().enumerate() {
                    *most = S::max(*most, S::load(x.add(at + lane * S::LANES)));
                }
                at += 4 * S::LANES;
            }
            while at < whole {
                most[0] = S::max(most[0], S::load(x.add(at)));
                at += S::LANES;
            }
            let most = S::max(S::max(most[0], most[1]), S::max(most[2], most[3]));
            let mut peak = S::max_lane(most);
            for at in whole..n {
                peak = peak.max(*x.add(at));
            }
            let peak = S::splat(peak);
            let mut sum = S::splat(0.0);
            at = 0;
            while at < whole {
                let share = share_of::<S, COARSE>(S::sub(S::load(x.add(at)), peak));
                sum = S::add(sum, share);
                if BF16 {
                    S::store_bf16(x.cast::<u16>().add(at), share);
                } else {
                    S::store(x.add(at), share);
                }
                at += S::LANES;
            }
            let mut total = 0.0;
            if rest > 0 {
                let power = S::sub(S::load_part(x.add(whole), rest), peak);
                // A whole vector is free to be written: rows have room for whole vectors.
                S::store(x.add(whole), share_of::<S, COARSE>(power));
                for at in whole..n {
                    total += *x.add(at);
                }
                if BF16 {
                    let share = S::load_part(x.add(whole), rest);
                    S::store_bf16(x.cast::<u16>().add(whole), share);
                }
            }
            *args.inverse.add(row) = 1.0 / (S::sum(sum) + total);
        }
    }
}

#[inline(always)]
unsafe fn share_of<S: Simd, const COARSE: bool>(power: S::F) -> S::F {
    // SAFETY: granted by the caller.
    unsafe { if COARSE { exp2_coarse::<S>(power) } else { exp2::<S>(power) } }
}

/// `function` of every element, in place.
///
/// # Safety
/// The CPU has the features of `S`; `x` has `rows` rows of `n` elements, padded to whole vectors.
#[inline(always)]
pub(crate) unsafe fn apply_rows<S: Simd>(
    function: Function,
    x: *mut f32,
    stride: usize,
    rows: usize,
    n: usize,
) {
    macro_rules! each {
        ($function:expr) => {
            for row in 0..rows {
                // SAFETY: granted by the caller.
                unsafe {
                    let x = x.add(row * stride);
                    let mut at = 0;
                    while at < n {
                        S::store(x.add(at), apply::<S>($function, S::load(x.add(at))));
                        at += S::LANES;
                    }
                }
            }
        };
    }
    match function {
        Function::Gelu => each!(Function::Gelu),
        Function::GeluCoarse => each!(Function::GeluCoarse),
        Function::GeluTanh => each!(Function::GeluTanh),
        Function::Relu => each!(Function::Relu),
        Function::Silu => each!(Function::Silu),
        Function::Tanh => each!(Function::Tanh),
    }
}

/// Two rows of f32 as pairs of bf16 in `out`, whole vectors; `b` may be null for zeros.
///
/// # Safety
/// The CPU has the features of `S`; rows and `out` have room for whole vectors.
#[inline(always)]
pub(crate) unsafe fn pair_rows<S: Simd>(a: *const f32, b: *const f32, out: *mut i32, n: usize) {
    // SAFETY: granted by the caller.
    unsafe {
        let mut at = 0;
        while at < n {
            let low = S::load(a.add(at));
            let high = if b.is_null() { S::splat(0.0) } else { S::load(b.add(at)) };
            S::store_i(out.add(at), S::pair_bf16(low, high));
            at += S::LANES;
        }
    }
}
