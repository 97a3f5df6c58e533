//! AVX2 with FMA: 256-bit vectors.
//!
//! `vpmaddubsw` saturates at u8·i8 pairs, so codes take 16 bits, weights are widened to as many where
//! they are loaded, and both are multiplied by `vpmaddwd`, which is exact.

use std::arch::x86_64::*;

use super::Simd;

/// AVX2 and FMA; `VNNI` says that the CPU has AVX-VNNI too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2<const VNNI: bool>;

// SAFETY of the impl: features and pointers are granted by the trait's contract.
#[expect(clippy::undocumented_unsafe_blocks, reason = "all by the trait's contract")]
impl<const VNNI: bool> Simd for Avx2<VNNI> {
    type F = __m256;
    type I = __m256i;
    const LANES: usize = 8;
    const NV: usize = 2;
    const MR: usize = 6;
    const MR_BF16: usize = 4;
    const MR_I8: usize = 6;
    const CODE_BYTES: usize = if VNNI { 1 } else { 2 };

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::F) {
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> Self::F {
        unsafe { _mm256_maskload_ps(p, mask(n)) }
    }
    #[inline(always)]
    unsafe fn store_part(p: *mut f32, v: Self::F, n: usize) {
        unsafe { _mm256_maskstore_ps(p, mask(n), v) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn abs(a: Self::F) -> Self::F {
        unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), a) }
    }
    #[inline(always)]
    unsafe fn sum(a: Self::F) -> f32 {
        unsafe {
            let half = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
            _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)))
        }
    }
    #[inline(always)]
    unsafe fn max_lane(a: Self::F) -> f32 {
        unsafe {
            let half = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let pair = _mm_max_ps(half, _mm_movehl_ps(half, half));
            _mm_cvtss_f32(_mm_max_ss(pair, _mm_movehdup_ps(pair)))
        }
    }
    #[inline(always)]
    unsafe fn round(a: Self::F) -> Self::F {
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    unsafe fn scale2(a: Self::F, n: Self::F) -> Self::F {
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        }
    }
    #[inline(always)]
    unsafe fn fraction(a: Self::F) -> Self::F {
        unsafe { _mm256_sub_ps(a, _mm256_floor_ps(a)) }
    }
    #[inline(always)]
    unsafe fn scale2_floor(a: Self::F, n: Self::F) -> Self::F {
        unsafe { Self::scale2(a, _mm256_max_ps(_mm256_floor_ps(n), _mm256_set1_ps(-126.0))) }
    }
    #[inline(always)]
    unsafe fn pair_bf16(a: Self::F, b: Self::F) -> Self::I {
        unsafe {
            let high = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
            let low = _mm256_srli_epi32::<16>(rounded_bf16(a));
            _mm256_or_si256(low, _mm256_and_si256(rounded_bf16(b), high))
        }
    }
    #[inline(always)]
    unsafe fn store_i(p: *mut i32, v: Self::I) {
        unsafe { _mm256_storeu_si256(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn zero_i() -> Self::I {
        unsafe { _mm256_setzero_si256() }
    }
    #[inline(always)]
    unsafe fn to_f(a: Self::I) -> Self::F {
        unsafe { _mm256_cvtepi32_ps(a) }
    }
    #[inline(always)]
    unsafe fn splat_4(p: *const u8) -> Self::I {
        unsafe { _mm256_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn load_4(p: *const u8) -> Self::I {
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> Self::I {
        unsafe {
            if VNNI { Self::load_4(p) } else { _mm256_cvtepi8_epi16(_mm_loadu_si128(p.cast())) }
        }
    }
    #[inline(always)]
    unsafe fn dot_i8(sum: Self::I, a: Self::I, w: Self::I) -> Self::I {
        unsafe {
            if VNNI {
                return _mm256_dpbusd_avx_epi32(sum, a, w);
            }
            _mm256_add_epi32(sum, _mm256_madd_epi16(a, w))
        }
    }
    #[inline(always)]
    unsafe fn dot_bf16(sum: Self::F, a: Self::I, w: Self::I) -> Self::F {
        unsafe {
            let high = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
            let sum = _mm256_fmadd_ps(
                _mm256_castsi256_ps(_mm256_and_si256(a, high)),
                _mm256_castsi256_ps(_mm256_and_si256(w, high)),
                sum,
            );
            _mm256_fmadd_ps(
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(a)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(w)),
                sum,
            )
        }
    }
    #[inline(always)]
    unsafe fn store_codes(p: *mut u8, v: Self::F) {
        unsafe {
            let whole = _mm256_cvtps_epi32(v);
            let (low, high) = (_mm256_castsi256_si128(whole), _mm256_extracti128_si256::<1>(whole));
            let words = _mm_packus_epi32(low, high);
            if VNNI {
                _mm_storel_epi64(p.cast(), _mm_packus_epi16(words, words));
            } else {
                _mm_storeu_si128(p.cast(), words);
            }
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, v: Self::F) {
        unsafe {
            let rounded = _mm256_srli_epi32::<16>(rounded_bf16(v));
            let (low, high) =
                (_mm256_castsi256_si128(rounded), _mm256_extracti128_si256::<1>(rounded));
            _mm_storeu_si128(p.cast(), _mm_packus_epi32(low, high));
        }
    }
}

/// The first `n` lanes.
#[inline(always)]
unsafe fn mask(n: usize) -> __m256i {
    // SAFETY: the caller has AVX2 by the contract of `Simd`.
    unsafe {
        let n = _mm256_set1_epi32(i32::try_from(n).unwrap_or(0));
        _mm256_cmpgt_epi32(n, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
    }
}

/// Bits whose high halves are the bf16 nearest to the lanes.
#[inline(always)]
unsafe fn rounded_bf16(v: __m256) -> __m256i {
    // SAFETY: the caller has AVX2 by the contract of `Simd`.
    unsafe {
        let bits = _mm256_castps_si256(v);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)))
    }
}
