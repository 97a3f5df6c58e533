//! NEON: 128-bit vectors of aarch64.

use std::arch::aarch64::*;

use super::Simd;

/// NEON, which every aarch64 CPU of servers has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neon;

// SAFETY of the impl: features and pointers are granted by the trait's contract.
#[expect(clippy::undocumented_unsafe_blocks, reason = "all by the trait's contract")]
impl Simd for Neon {
    type F = float32x4_t;
    type I = int32x4_t;
    const LANES: usize = 4;
    const NV: usize = 3;
    const MR: usize = 6;
    const MR_BF16: usize = 4;
    const MR_I8: usize = 4;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        unsafe { vld1q_f32(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::F) {
        unsafe { vst1q_f32(p, v) }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> Self::F {
        let mut lanes = [0.0_f32; 4];
        for (lane, value) in lanes.iter_mut().enumerate().take(n) {
            *value = unsafe { *p.add(lane) };
        }
        unsafe { vld1q_f32(lanes.as_ptr()) }
    }
    #[inline(always)]
    unsafe fn store_part(p: *mut f32, v: Self::F, n: usize) {
        let mut lanes = [0.0_f32; 4];
        unsafe { vst1q_f32(lanes.as_mut_ptr(), v) };
        for (lane, value) in lanes.into_iter().enumerate().take(n) {
            unsafe { *p.add(lane) = value };
        }
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        unsafe { vsubq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        unsafe { vdivq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        unsafe { vfmaq_f32(c, a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        unsafe { vminq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        unsafe { vmaxq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn abs(a: Self::F) -> Self::F {
        unsafe { vabsq_f32(a) }
    }
    #[inline(always)]
    unsafe fn sum(a: Self::F) -> f32 {
        unsafe { vaddvq_f32(a) }
    }
    #[inline(always)]
    unsafe fn max_lane(a: Self::F) -> f32 {
        unsafe { vmaxvq_f32(a) }
    }
    #[inline(always)]
    unsafe fn round(a: Self::F) -> Self::F {
        unsafe { vrndnq_f32(a) }
    }
    #[inline(always)]
    unsafe fn scale2(a: Self::F, n: Self::F) -> Self::F {
        unsafe {
            let exponent = vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127));
            vmulq_f32(a, vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent)))
        }
    }
    #[inline(always)]
    unsafe fn fraction(a: Self::F) -> Self::F {
        unsafe { vsubq_f32(a, vrndmq_f32(a)) }
    }
    #[inline(always)]
    unsafe fn scale2_floor(a: Self::F, n: Self::F) -> Self::F {
        unsafe { Self::scale2(a, vmaxq_f32(vrndmq_f32(n), vdupq_n_f32(-126.0))) }
    }
    #[inline(always)]
    unsafe fn pair_bf16(a: Self::F, b: Self::F) -> Self::I {
        unsafe {
            let low = vshrq_n_u32::<16>(rounded_bf16(a));
            let high = vandq_u32(rounded_bf16(b), vdupq_n_u32(0xffff_0000));
            vreinterpretq_s32_u32(vorrq_u32(low, high))
        }
    }
    #[inline(always)]
    unsafe fn store_i(p: *mut i32, v: Self::I) {
        unsafe { vst1q_s32(p, v) }
    }
    #[inline(always)]
    unsafe fn zero_i() -> Self::I {
        unsafe { vdupq_n_s32(0) }
    }
    #[inline(always)]
    unsafe fn to_f(a: Self::I) -> Self::F {
        unsafe { vcvtq_f32_s32(a) }
    }
    #[inline(always)]
    unsafe fn splat_4(p: *const u8) -> Self::I {
        unsafe { vdupq_n_s32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn load_4(p: *const u8) -> Self::I {
        unsafe { vreinterpretq_s32_u8(vld1q_u8(p)) }
    }
    #[inline(always)]
    unsafe fn dot_i8(sum: Self::I, a: Self::I, w: Self::I) -> Self::I {
        unsafe {
            let (a, w) = (vreinterpretq_u8_s32(a), vreinterpretq_s8_s32(w));
            let a_low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(a)));
            let a_high = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(a)));
            let (w_low, w_high) = (vmovl_s8(vget_low_s8(w)), vmovl_s8(vget_high_s8(w)));
            let p0 = vmull_s16(vget_low_s16(a_low), vget_low_s16(w_low));
            let p1 = vmull_s16(vget_high_s16(a_low), vget_high_s16(w_low));
            let p2 = vmull_s16(vget_low_s16(a_high), vget_low_s16(w_high));
            let p3 = vmull_s16(vget_high_s16(a_high), vget_high_s16(w_high));
            vaddq_s32(sum, vpaddq_s32(vpaddq_s32(p0, p1), vpaddq_s32(p2, p3)))
        }
    }
    #[inline(always)]
    unsafe fn dot_bf16(sum: Self::F, a: Self::I, w: Self::I) -> Self::F {
        unsafe {
            let high = |v: int32x4_t| {
                vreinterpretq_f32_s32(vandq_s32(v, vdupq_n_s32(0xffff_0000_u32.cast_signed())))
            };
            let low = |v: int32x4_t| vreinterpretq_f32_s32(vshlq_n_s32::<16>(v));
            vfmaq_f32(vfmaq_f32(sum, high(a), high(w)), low(a), low(w))
        }
    }
    #[inline(always)]
    unsafe fn store_codes(p: *mut u8, v: Self::F) {
        unsafe {
            let words = vmovn_u32(vcvtnq_u32_f32(v));
            let bytes = vqmovn_u16(vcombine_u16(words, words));
            p.cast::<u32>().write_unaligned(vget_lane_u32::<0>(vreinterpret_u32_u8(bytes)));
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, v: Self::F) {
        unsafe { vst1_u16(p, vshrn_n_u32::<16>(rounded_bf16(v))) }
    }
}

/// Bits whose high halves are the bf16 nearest to the lanes.
#[inline(always)]
unsafe fn rounded_bf16(v: float32x4_t) -> uint32x4_t {
    // SAFETY: the caller has NEON by the contract of `Simd`.
    unsafe {
        let bits = vreinterpretq_u32_f32(v);
        let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
        vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)))
    }
}
