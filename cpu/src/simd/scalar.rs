//! Plain Rust: the twin that every other instruction set is tested against, and the fallback.

use super::Simd;

/// Four lanes, which compilers turn into whatever baseline vectors there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalar;

#[inline(always)]
fn zip(a: [f32; 4], b: [f32; 4], op: impl Fn(f32, f32) -> f32) -> [f32; 4] {
    std::array::from_fn(|lane| op(a[lane], b[lane]))
}

// SAFETY of the impl: no CPU features are needed; pointers are valid by the trait's contract.
#[expect(clippy::undocumented_unsafe_blocks, reason = "all by the trait's contract on pointers")]
impl Simd for Scalar {
    type F = [f32; 4];
    type I = [i32; 4];
    const LANES: usize = 4;
    const NV: usize = 2;
    const MR: usize = 4;
    const MR_BF16: usize = 4;
    const MR_I8: usize = 4;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        [x; 4]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        unsafe { p.cast::<[f32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::F) {
        unsafe { p.cast::<[f32; 4]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> Self::F {
        std::array::from_fn(|lane| if lane < n { unsafe { *p.add(lane) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_part(p: *mut f32, v: Self::F, n: usize) {
        for (lane, value) in v.into_iter().enumerate().take(n) {
            unsafe { *p.add(lane) = value };
        }
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // Two roundings: a fused one is a library call where the CPU has none.
        std::array::from_fn(|lane| a[lane] * b[lane] + c[lane])
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn abs(a: Self::F) -> Self::F {
        a.map(f32::abs)
    }
    #[inline(always)]
    unsafe fn sum(a: Self::F) -> f32 {
        (a[0] + a[2]) + (a[1] + a[3])
    }
    #[inline(always)]
    unsafe fn max_lane(a: Self::F) -> f32 {
        a[0].max(a[1]).max(a[2].max(a[3]))
    }
    #[inline(always)]
    unsafe fn round(a: Self::F) -> Self::F {
        // Adding and taking away 1.5·2²³ rounds what is below 2²²; larger is clamped by callers.
        const MAGIC: f32 = 12_582_912.0;
        a.map(|x| (x + MAGIC) - MAGIC)
    }
    #[inline(always)]
    unsafe fn scale2(a: Self::F, n: Self::F) -> Self::F {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "whole, -126..=126"
        )]
        zip(a, n, |a, n| a * f32::from_bits(((n as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn fraction(a: Self::F) -> Self::F {
        a.map(|x| x - x.floor())
    }
    #[inline(always)]
    unsafe fn scale2_floor(a: Self::F, n: Self::F) -> Self::F {
        unsafe { Self::scale2(a, n.map(|n| n.floor().max(-126.0))) }
    }
    #[inline(always)]
    unsafe fn pair_bf16(a: Self::F, b: Self::F) -> Self::I {
        let bits = |x: f32| u32::from(half::bf16::from_f32(x).to_bits());
        std::array::from_fn(|lane| (bits(a[lane]) | bits(b[lane]) << 16).cast_signed())
    }
    #[inline(always)]
    unsafe fn store_i(p: *mut i32, v: Self::I) {
        unsafe { p.cast::<[i32; 4]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn zero_i() -> Self::I {
        [0; 4]
    }
    #[inline(always)]
    unsafe fn to_f(a: Self::I) -> Self::F {
        #[expect(clippy::cast_precision_loss, reason = "what the vector instructions do")]
        a.map(|x| x as f32)
    }
    #[inline(always)]
    unsafe fn splat_4(p: *const u8) -> Self::I {
        [unsafe { p.cast::<i32>().read_unaligned() }; 4]
    }
    #[inline(always)]
    unsafe fn load_4(p: *const u8) -> Self::I {
        unsafe { p.cast::<[i32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn dot_i8(sum: Self::I, a: Self::I, w: Self::I) -> Self::I {
        std::array::from_fn(|lane| {
            let (a, w) = (a[lane].to_le_bytes(), w[lane].to_le_bytes());
            #[expect(clippy::cast_possible_wrap, reason = "weights are i8")]
            let products = a.iter().zip(w).map(|(&a, w)| i32::from(a) * i32::from(w as i8));
            sum[lane] + products.sum::<i32>()
        })
    }
    #[inline(always)]
    unsafe fn dot_bf16(sum: Self::F, a: Self::I, w: Self::I) -> Self::F {
        #[expect(clippy::cast_sign_loss, reason = "bits")]
        std::array::from_fn(|lane| {
            let (a, w) = (a[lane] as u32, w[lane] as u32);
            let low = f32::from_bits(a << 16) * f32::from_bits(w << 16);
            let high = f32::from_bits(a & 0xffff_0000) * f32::from_bits(w & 0xffff_0000);
            (sum[lane] + high) + low
        })
    }
    #[inline(always)]
    unsafe fn store_codes(p: *mut u8, v: Self::F) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "rounded, 0..=255"
        )]
        let bytes = unsafe { Self::round(v) }.map(|x| x as u8);
        unsafe { p.cast::<[u8; 4]>().write_unaligned(bytes) };
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, v: Self::F) {
        let halves = v.map(|x| half::bf16::from_f32(x).to_bits());
        unsafe { p.cast::<[u16; 4]>().write_unaligned(halves) };
    }
}
