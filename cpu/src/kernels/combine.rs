//! Rows with rows, element by element.

use crate::simd::Simd;

/// Rows that are changed, and those that change them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PairArgs {
    /// `[rows][stride]`.
    pub(crate) x: *mut f32,
    /// `[rows][stride]`.
    pub(crate) y: *const f32,
    /// Elements from row to row, of both.
    pub(crate) stride: usize,
    pub(crate) rows: usize,
    /// Elements of a row; rows have room for whole vectors.
    pub(crate) n: usize,
}

/// Mean over rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MeanArgs {
    /// `[rows][x_stride]`.
    pub(crate) x: *const f32,
    /// Elements from row to row.
    pub(crate) x_stride: usize,
    /// At least one.
    pub(crate) rows: usize,
    /// Elements of a row.
    pub(crate) n: usize,
    /// `[n]`, without room for more.
    pub(crate) out: *mut f32,
}

/// `x·y` in place of `x`.
///
/// # Safety
/// The CPU has the features of `S`; pointers are valid as [`PairArgs`] says.
#[inline(always)]
pub(crate) unsafe fn multiply_rows<S: Simd>(args: &PairArgs) {
    // SAFETY: granted by the caller.
    unsafe { pair_rows::<S>(args, |x, y| S::mul(x, y)) }
}

/// `x + y` in place of `x`.
///
/// # Safety
/// As [`multiply_rows`].
#[inline(always)]
pub(crate) unsafe fn add_rows<S: Simd>(args: &PairArgs) {
    // SAFETY: granted by the caller.
    unsafe { pair_rows::<S>(args, |x, y| S::add(x, y)) }
}

#[inline(always)]
unsafe fn pair_rows<S: Simd>(args: &PairArgs, each: impl Fn(S::F, S::F) -> S::F) {
    // SAFETY: granted by the caller.
    unsafe {
        for row in 0..args.rows {
            let (x, y) = (args.x.add(row * args.stride), args.y.add(row * args.stride));
            let mut at = 0;
            while at < args.n {
                S::store(x.add(at), each(S::load(x.add(at)), S::load(y.add(at))));
                at += S::LANES;
            }
        }
    }
}

/// Sums run over the rows in order.
///
/// # Safety
/// The CPU has the features of `S`; pointers are valid as [`MeanArgs`] says.
#[inline(always)]
pub(crate) unsafe fn mean_rows<S: Simd>(args: &MeanArgs) {
    let whole = args.n / S::LANES * S::LANES;
    let rest = args.n - whole;
    #[expect(clippy::cast_precision_loss, reason = "a sequence's tokens")]
    let over_rows = 1.0 / args.rows as f32;
    // SAFETY: granted by the caller.
    unsafe {
        let mut at = 0;
        while at < whole {
            let mut sum = S::splat(0.0);
            for row in 0..args.rows {
                sum = S::add(sum, S::load(args.x.add(row * args.x_stride + at)));
            }
            S::store(args.out.add(at), S::mul(sum, S::splat(over_rows)));
            at += S::LANES;
        }
        if rest > 0 {
            let mut sum = S::splat(0.0);
            for row in 0..args.rows {
                sum = S::add(sum, S::load_part(args.x.add(row * args.x_stride + whole), rest));
            }
            S::store_part(args.out.add(whole), S::mul(sum, S::splat(over_rows)), rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{MeanArgs, PairArgs};
    use crate::kernels::tests::{all, floats};

    #[test]
    fn products_and_sums_are_exact() {
        for k in all() {
            for [rows, n] in [[1, 1], [3, 7], [2, 16], [5, 33], [4, 100]] {
                let stride = n + 16;
                let (x, y) = (floats(15, rows * stride), floats(16, rows * stride));
                let (mut products, mut sums) = (x.clone(), x.clone());
                let args = |x: &mut Vec<f32>| PairArgs {
                    x: x.as_mut_ptr(),
                    y: y.as_ptr(),
                    stride,
                    rows,
                    n,
                };
                // SAFETY: rows have room for whole vectors.
                unsafe {
                    (k.multiply_rows)(&args(&mut products));
                    (k.add_rows)(&args(&mut sums));
                }
                for at in (0..rows * stride).filter(|at| at % stride < n) {
                    let expected = (x[at] * y[at], x[at] + y[at]);
                    assert_eq!((products[at], sums[at]), expected, "{} {rows} {n}", k.level);
                }
            }
        }
    }

    #[test]
    fn means_are_near() {
        for k in all() {
            for [rows, n] in [[1, 1], [3, 7], [2, 16], [50, 33], [301, 100]] {
                let stride = n + 5;
                let x = floats(17, rows * stride);
                let mut ours = vec![f32::NAN; n];
                // SAFETY: sizes as above.
                unsafe {
                    (k.mean_rows)(&MeanArgs {
                        x: x.as_ptr(),
                        x_stride: stride,
                        rows,
                        n,
                        out: ours.as_mut_ptr(),
                    });
                }
                for (at, ours) in ours.into_iter().enumerate() {
                    let sum: f64 = (0..rows).map(|row| f64::from(x[row * stride + at])).sum();
                    let error = (f64::from(ours) - sum / rows as f64).abs();
                    assert!(error < 1e-5, "{} {rows} {n}: {error}", k.level);
                }
            }
        }
    }
}
