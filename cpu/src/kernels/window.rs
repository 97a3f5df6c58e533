//! Softmax of scores of which each row sees a window.

use super::math::{exp2, exp2_coarse};
use super::rows::Shares;
use crate::simd::Simd;

/// Softmax without the division, as [`super::SoftmaxArgs`], over the keys near to each row's own.
/// Shares of the others are zeros.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WindowArgs {
    /// `[rows][stride]`, the first `n` count; in units of log2.
    pub(crate) scores: *mut f32,
    /// At least `n`, padded to whole vectors.
    pub(crate) stride: usize,
    pub(crate) rows: usize,
    pub(crate) n: usize,
    /// The first row's own key; the next row's is the next one. Below `n` for every row.
    pub(crate) own: usize,
    /// Keys that a row sees on either side of its own.
    pub(crate) window: usize,
    /// Zeros follow up to a whole vector.
    pub(crate) shares: Shares,
    /// 1/sum of each row.
    pub(crate) inverse: *mut f32,
}

/// What a row sees lies in the same lanes whichever keys come before it, so that a row's sum does
/// not depend on the rows beside it, if `scores` begin at whole vectors of a sequence's keys.
///
/// # Safety
/// The CPU has the features of `S`; pointers are valid as [`WindowArgs`] says.
#[inline(always)]
pub(crate) unsafe fn softmax_window_rows<S: Simd>(args: &WindowArgs) {
    let padded = args.n.next_multiple_of(S::LANES);
    let (coarse, bf16) = (args.shares != Shares::Exact, args.shares == Shares::Bf16);
    // SAFETY: granted by the caller.
    unsafe {
        for row in 0..args.rows {
            let x = args.scores.add(row * args.stride);
            let own = args.own + row;
            let seen = own.saturating_sub(args.window)..(own + args.window + 1).min(args.n);
            // Whole vectors around them.
            let (start, end) =
                (seen.start / S::LANES * S::LANES, seen.end.next_multiple_of(S::LANES));
            let fill = |value: f32| {
                (start..seen.start).chain(seen.end..end).for_each(|at| *x.add(at) = value);
            };
            fill(f32::MIN);
            let mut most = S::splat(f32::MIN);
            let mut at = start;
            while at < end {
                most = S::max(most, S::load(x.add(at)));
                at += S::LANES;
            }
            let peak = S::splat(S::max_lane(most));
            at = start;
            while at < end {
                let power = S::sub(S::load(x.add(at)), peak);
                let share = if coarse { exp2_coarse::<S>(power) } else { exp2::<S>(power) };
                S::store(x.add(at), share);
                at += S::LANES;
            }
            fill(0.0);
            let (zero, mut sum) = (S::splat(0.0), S::splat(0.0));
            at = start;
            while at < end {
                let share = S::load(x.add(at));
                sum = S::add(sum, share);
                if bf16 {
                    S::store_bf16(x.cast::<u16>().add(at), share);
                }
                at += S::LANES;
            }
            for at in (0..start).chain(end..padded).step_by(S::LANES) {
                if bf16 {
                    S::store_bf16(x.cast::<u16>().add(at), zero);
                } else {
                    S::store(x.add(at), zero);
                }
            }
            *args.inverse.add(row) = 1.0 / S::sum(sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::WindowArgs;
    use crate::kernels::tests::{all, floats};
    use crate::kernels::{Kernels, Shares};

    /// Shares and inverse sums of rows whose own keys are `own` and those after it, of keys from
    /// `first` on.
    fn shares(
        k: &Kernels,
        scores: &[f32],
        first: usize,
        own: std::ops::Range<usize>,
        (window, kind): (usize, Shares),
    ) -> Vec<(Vec<f32>, f32)> {
        let (rows, n) = (own.len(), scores.len() - first);
        let stride = n.next_multiple_of(16) + 16;
        let mut x = vec![f32::NAN; rows * stride];
        for row in x.chunks_mut(stride) {
            row[..n].copy_from_slice(&scores[first..]);
        }
        let mut inverse = vec![f32::NAN; rows];
        let own = own.start - first;
        // SAFETY: sizes as above.
        unsafe {
            (k.softmax_window_rows)(&WindowArgs {
                scores: x.as_mut_ptr(),
                stride,
                rows,
                n,
                own,
                window,
                shares: kind,
                inverse: inverse.as_mut_ptr(),
            });
        }
        let share = |row: &[f32], at: usize| match kind {
            Shares::Exact | Shares::Coarse => row[at],
            Shares::Bf16 => f32::from_bits(row[at / 2].to_bits() >> (at % 2 * 16) << 16),
        };
        let row = |row: &[f32]| {
            let shares = (0..n.next_multiple_of(2)).map(|at| share(row, at)).collect::<Vec<_>>();
            [vec![0.0; first], shares].concat()
        };
        x.chunks(stride).map(row).zip(inverse).collect()
    }

    #[test]
    fn windows_are_near_and_alike_in_every_tile() {
        for k in all() {
            let panel = k.nv * k.lanes;
            for n in [1, 2, 7, 16, 17, 63, 100, 150] {
                let scores: Vec<f32> = floats(14, n).into_iter().map(|x| x * 20.0).collect();
                for (window, kind) in [
                    (0, Shares::Exact),
                    (3, Shares::Bf16),
                    (5, Shares::Coarse),
                    (40, Shares::Bf16),
                    (64, Shares::Exact),
                ] {
                    let together = shares(k, &scores, 0, 0..n, (window, kind));
                    for (own, (row, inverse)) in together.iter().enumerate() {
                        let seen = own.saturating_sub(window)..(own + window + 1).min(n);
                        let most = scores[seen.clone()].iter().copied().fold(f32::MIN, f32::max);
                        let power = |at: usize| match seen.contains(&at) {
                            true => f64::from(scores[at] - most).exp2(),
                            false => 0.0,
                        };
                        let sum: f64 = (0..n).map(power).sum();
                        let limit = kind.limit();
                        for (at, &share) in row.iter().enumerate() {
                            let expected = if at < n { power(at) / sum } else { 0.0 };
                            let ours = f64::from(share) * f64::from(*inverse);
                            assert!((ours - expected).abs() < limit, "{} {n} {at}", k.level);
                            assert!(seen.contains(&at) || share == 0.0, "not seen, no share");
                        }
                        // Alone, and without the panels before what it sees.
                        let first = seen.start / panel * panel;
                        let alone = shares(k, &scores, first, own..own + 1, (window, kind));
                        assert_eq!((&row[..n], *inverse), (&alone[0].0[..n], alone[0].1), "{n}");
                    }
                }
            }
        }
    }
}
