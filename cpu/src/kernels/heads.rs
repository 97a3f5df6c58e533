//! Heads' parts of rows, each coded in 8 bits by itself.

use crate::simd::Simd;

/// What a head's codes stand for: `(code - 128)·scale`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct HeadScale {
    pub(crate) scale: f32,
    /// Of all that the codes stand for; 0 where it is not wanted.
    pub(crate) sum: f32,
}

/// Rows and the coded ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadsArgs {
    /// `[rows][x_stride]`, heads one after another.
    pub(crate) x: *const f32,
    /// Elements from row to row.
    pub(crate) x_stride: usize,
    pub(crate) rows: usize,
    pub(crate) heads: usize,
    pub(crate) head_size: usize,
    /// Coded rows, each with room for a vector's bytes beyond its last head.
    pub(crate) out: *mut u8,
    /// Bytes from row to row.
    pub(crate) out_stride: usize,
    /// `[rows][heads]`.
    pub(crate) scales: *mut HeadScale,
    /// Sums are wanted.
    pub(crate) sums: bool,
}

/// # Safety
/// The CPU has the features of `S`; pointers are valid as [`HeadsArgs`] says.
#[inline(always)]
pub(crate) unsafe fn code_heads<S: Simd>(args: &HeadsArgs) {
    // SAFETY: granted by the caller.
    unsafe {
        if args.sums {
            code_heads_summed::<S, true>(args);
        } else {
            code_heads_summed::<S, false>(args);
        }
    }
}

#[inline(always)]
unsafe fn code_heads_summed<S: Simd, const SUMS: bool>(args: &HeadsArgs) {
    let whole = args.head_size / S::LANES * S::LANES;
    let rest = args.head_size - whole;
    // SAFETY: granted by the caller. What a partial vector stores beyond its head is overwritten by the
    // next one's, or lies in the row's spare room.
    unsafe {
        let middle = S::splat(128.0);
        for row in 0..args.rows {
            for head in 0..args.heads {
                let x = args.x.add(row * args.x_stride + head * args.head_size);
                let out =
                    args.out.add(row * args.out_stride + head * args.head_size * S::CODE_BYTES);
                let mut most = S::splat(0.0);
                let mut at = 0;
                while at < whole {
                    most = S::max(most, S::abs(S::load(x.add(at))));
                    at += S::LANES;
                }
                if rest > 0 {
                    most = S::max(most, S::abs(S::load_part(x.add(whole), rest)));
                }
                let most = S::max_lane(most);
                let inverse = S::splat(if most > 0.0 { 127.0 / most } else { 0.0 });
                let mut sum = S::splat(0.0);
                at = 0;
                while at < whole {
                    let code = S::round(S::mul(S::load(x.add(at)), inverse));
                    sum = if SUMS { S::add(sum, code) } else { sum };
                    S::store_codes(out.add(at * S::CODE_BYTES), S::add(code, middle));
                    at += S::LANES;
                }
                if rest > 0 {
                    let code = S::round(S::mul(S::load_part(x.add(whole), rest), inverse));
                    sum = if SUMS { S::add(sum, code) } else { sum };
                    S::store_codes(out.add(whole * S::CODE_BYTES), S::add(code, middle));
                }
                let scale = most / 127.0;
                // Whole numbers: exact in any order.
                let sum = if SUMS { S::sum(sum) * scale } else { 0.0 };
                *args.scales.add(row * args.heads + head) = HeadScale { scale, sum };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{HeadScale, HeadsArgs};
    use crate::kernels::tests::{all, codes as codes_of, floats};

    #[test]
    fn heads_are_coded_the_same_everywhere() {
        let (rows, heads) = (3, 5);
        for (head_size, sums) in [
            (4, true),
            (8, false),
            (12, true),
            (16, true),
            (20, false),
            (32, true),
            (36, true),
            (64, true),
        ] {
            let width = heads * head_size;
            let mut x = floats(21, rows * width);
            // One of nothing but zeros, one of a single number.
            x[..head_size].fill(0.0);
            x[head_size + 1..2 * head_size].fill(0.0);
            let mut expected: Option<(Vec<u8>, Vec<HeadScale>)> = None;
            for k in all() {
                let stride = (width + 16) * k.code_bytes;
                let mut codes = vec![0_u8; rows * stride];
                let mut scales = vec![HeadScale::default(); rows * heads];
                // SAFETY: sizes as above.
                unsafe {
                    (k.code_heads)(&HeadsArgs {
                        x: x.as_ptr(),
                        x_stride: width,
                        rows,
                        heads,
                        head_size,
                        out: codes.as_mut_ptr(),
                        out_stride: stride,
                        scales: scales.as_mut_ptr(),
                        sums,
                    });
                }
                let codes: Vec<u8> =
                    codes.chunks(stride).flat_map(|row| codes_of(k, row, width)).collect();
                let heads_of = x.chunks(head_size).zip(codes.chunks(head_size)).zip(&scales);
                for ((x, codes), HeadScale { scale, sum }) in heads_of {
                    let values = codes.iter().map(|&code| (f32::from(code) - 128.0) * scale);
                    for (value, x) in values.clone().zip(x) {
                        assert!((value - x).abs() <= scale * 0.501, "{} {head_size}", k.level);
                    }
                    let total: f32 = if sums { values.sum() } else { 0.0 };
                    assert!((total - sum).abs() <= scale * 1e-3, "{} {head_size}", k.level);
                }
                let ours = (codes, scales);
                assert_eq!(expected.get_or_insert_with(|| ours.clone()), &ours, "{}", k.level);
            }
        }
    }
}
