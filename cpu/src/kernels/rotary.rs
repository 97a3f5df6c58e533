//! Rotation of queries and keys by their position (Su et al. 2021).

use crate::simd::Simd;

/// Rows of consecutive tokens, turned in place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RotateArgs {
    /// `[rows][heads·head_size]`.
    pub(crate) x: *mut f32,
    /// Elements from row to row.
    pub(crate) x_stride: usize,
    pub(crate) rows: usize,
    pub(crate) heads: usize,
    /// Even.
    pub(crate) head_size: usize,
    /// `[rows][head_size]`: cosines, then sines, of a head's pairs.
    pub(crate) angles: *const f32,
}

/// The pairs are `x[i]` and `x[i + head_size/2]` of each head.
///
/// # Safety
/// The CPU has the features of `S`; pointers are valid as [`RotateArgs`] says.
#[inline(always)]
pub(crate) unsafe fn rotate_rows<S: Simd>(args: &RotateArgs) {
    let half = args.head_size / 2;
    let whole = half / S::LANES * S::LANES;
    let rest = half - whole;
    // SAFETY: granted by the caller.
    unsafe {
        let turned = |(a, b): (S::F, S::F), (cosine, sine): (S::F, S::F)| {
            let first = S::sub(S::mul(a, cosine), S::mul(b, sine));
            let second = S::add(S::mul(b, cosine), S::mul(a, sine));
            (first, second)
        };
        for row in 0..args.rows {
            let cosines = args.angles.add(row * args.head_size);
            let sines = cosines.add(half);
            for head in 0..args.heads {
                let a = args.x.add(row * args.x_stride + head * args.head_size);
                let b = a.add(half);
                let mut at = 0;
                while at < whole {
                    let angle = (S::load(cosines.add(at)), S::load(sines.add(at)));
                    let (first, second) = turned((S::load(a.add(at)), S::load(b.add(at))), angle);
                    S::store(a.add(at), first);
                    S::store(b.add(at), second);
                    at += S::LANES;
                }
                if rest > 0 {
                    let part = |p: *const f32| S::load_part(p.add(whole), rest);
                    let (first, second) = turned((part(a), part(b)), (part(cosines), part(sines)));
                    S::store_part(a.add(whole), first, rest);
                    S::store_part(b.add(whole), second, rest);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::RotateArgs;
    use crate::kernels::tests::{all, floats};

    #[test]
    fn rotations_are_near() {
        for k in all() {
            for [rows, heads, size] in [[1, 1, 2], [3, 2, 6], [2, 3, 30], [5, 2, 32], [4, 1, 70]] {
                let stride = heads * size + 3;
                let (x, angles) = (floats(12, rows * stride), floats(13, rows * size));
                let mut ours = x.clone();
                // SAFETY: sizes as above.
                unsafe {
                    (k.rotate_rows)(&RotateArgs {
                        x: ours.as_mut_ptr(),
                        x_stride: stride,
                        rows,
                        heads,
                        head_size: size,
                        angles: angles.as_ptr(),
                    });
                }
                let mut expected = x.clone();
                for row in 0..rows {
                    for head in 0..heads {
                        for pair in 0..size / 2 {
                            let at = row * stride + head * size + pair;
                            let (a, b) = (x[at], x[at + size / 2]);
                            let (cosine, sine) =
                                (angles[row * size + pair], angles[row * size + size / 2 + pair]);
                            expected[at] = a * cosine - b * sine;
                            expected[at + size / 2] = b * cosine + a * sine;
                        }
                    }
                }
                for (ours, expected) in ours.iter().zip(&expected) {
                    assert!((ours - expected).abs() < 1e-5, "{} {rows} {heads} {size}", k.level);
                }
            }
        }
    }
}
