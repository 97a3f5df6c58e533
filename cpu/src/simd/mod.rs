//! One set of vector operations behind which instruction sets differ.
//!
//! Kernels are written once over [`Simd`]; `kernels::table` compiles them for each instruction set
//! in functions that enable its features, so everything here must inline into them.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
pub(crate) mod scalar;

/// Vectors of f32 and of 32-bit integers, and what kernels do with them.
///
/// # Safety
/// Every function needs a CPU with the implementation's features, and pointers that are valid for
/// the vector that is loaded or stored (`LANES` elements unless said otherwise); no alignment.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// `LANES` f32.
    type F: Copy;
    /// `LANES` 32-bit integers, or as many groups of four bytes or two bf16.
    type I: Copy;
    /// Elements of a vector.
    const LANES: usize;
    /// Vectors beside each other in a panel of packed weights.
    const NV: usize;
    /// Most rows of a tile; `MR·NV` sums must fit the registers.
    const MR: usize;
    /// Most rows of a bf16 tile.
    const MR_BF16: usize;
    /// Most rows of an 8-bit tile.
    const MR_I8: usize;
    /// Bytes that the code of an input takes: 1, or 2 where 16-bit words are multiplied. As often
    /// are a step's four inputs taken from weights and codes.
    const CODE_BYTES: usize = 1;

    /// Asks for the cache line at `p` to be brought near; any address will do.
    #[inline(always)]
    unsafe fn prefetch(_p: *const u8) {}
    unsafe fn splat(x: f32) -> Self::F;
    unsafe fn load(p: *const f32) -> Self::F;
    unsafe fn store(p: *mut f32, v: Self::F);
    /// The first `n < LANES` elements, the rest 0.
    unsafe fn load_part(p: *const f32, n: usize) -> Self::F;
    /// Stores the first `n < LANES` elements.
    unsafe fn store_part(p: *mut f32, v: Self::F, n: usize);
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a·b + c`.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn abs(a: Self::F) -> Self::F;
    unsafe fn sum(a: Self::F) -> f32;
    unsafe fn max_lane(a: Self::F) -> f32;
    /// To the nearest whole number, ties to even.
    unsafe fn round(a: Self::F) -> Self::F;
    /// `a·2^n` for whole `n` in -126..=126.
    unsafe fn scale2(a: Self::F, n: Self::F) -> Self::F;

    /// `a - floor(a)`.
    unsafe fn fraction(a: Self::F) -> Self::F;
    /// `a·2^floor(n)` for `n` in -126..=126; for smaller ones 0 or something tinier than 2^-125.
    unsafe fn scale2_floor(a: Self::F, n: Self::F) -> Self::F;
    /// `a` as bf16 in the low halves of the lanes, `b` in the high ones, to nearest even.
    unsafe fn pair_bf16(a: Self::F, b: Self::F) -> Self::I;
    unsafe fn store_i(p: *mut i32, v: Self::I);
    unsafe fn zero_i() -> Self::I;
    unsafe fn to_f(a: Self::I) -> Self::F;
    /// Four bytes, in every lane.
    unsafe fn splat_4(p: *const u8) -> Self::I;
    /// `LANES·4` bytes.
    unsafe fn load_4(p: *const u8) -> Self::I;
    /// `LANES·4 / CODE_BYTES` i8, each as wide as a code.
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> Self::I {
        // SAFETY: granted by the caller.
        unsafe { Self::load_4(p) }
    }
    /// Adds to each lane the products of its codes of `a` and weights of `w`, exactly.
    unsafe fn dot_i8(sum: Self::I, a: Self::I, w: Self::I) -> Self::I;
    /// Adds to each lane the products of its two bf16 of `a` and of `w`.
    unsafe fn dot_bf16(sum: Self::F, a: Self::I, w: Self::I) -> Self::F;
    /// Rounds to nearest even and stores as `LANES` codes; values must lie in 0..=255.
    unsafe fn store_codes(p: *mut u8, v: Self::F);
    /// Rounds to nearest even and stores as `LANES` bf16.
    unsafe fn store_bf16(p: *mut u16, v: Self::F);
}
