//! The kernels of each instruction set, as function pointers.
//!
//! The tables are private and [`Kernels::of`] checks the CPU before it hands one out: whoever
//! holds a `&'static Kernels` may call what is in it with valid pointers.

use super::level::KernelLevel;
use super::math::Function;
use super::rows::{self, NormArgs, RowsArgs, SoftmaxArgs};
use super::tile::{self, Tile};
use crate::simd::Simd;

/// A register tile.
pub(crate) type TileFn = unsafe fn(&Tile);

/// Tiles by rows - 1 and panel vectors - 1; those beyond the set's limits repeat the largest.
type Tiles = [[TileFn; 3]; 8];

/// One instruction set's kernels.
#[derive(Debug)]
pub(crate) struct Kernels {
    pub(crate) level: KernelLevel,
    /// f32 in a vector.
    pub(crate) lanes: usize,
    /// Vectors in a full panel.
    pub(crate) nv: usize,
    /// Rows of a full f32 tile.
    pub(crate) mr: usize,
    /// Rows of a full 8-bit or bf16 tile.
    pub(crate) mr_narrow: usize,
    /// bf16 products are instructions rather than emulated.
    pub(crate) native_bf16: bool,
    pub(crate) tiles_f32: Tiles,
    pub(crate) tiles_bf16: Tiles,
    pub(crate) tiles_i8: Tiles,
    pub(crate) norm_rows: unsafe fn(&NormArgs),
    pub(crate) code_rows: unsafe fn(&RowsArgs),
    pub(crate) softmax_rows: unsafe fn(&SoftmaxArgs),
    /// Function, rows, stride, number of rows, elements of a row.
    pub(crate) apply_rows: unsafe fn(Function, *mut f32, usize, usize, usize),
    /// Two rows, or one and null, as bf16 pairs.
    pub(crate) pair_rows: unsafe fn(*const f32, *const f32, *mut i32, usize),
}

impl Kernels {
    /// The kernels of `level`, if this CPU has its features.
    pub(crate) fn of(level: KernelLevel) -> Option<&'static Self> {
        if !level.is_available() {
            return None;
        }
        match level {
            KernelLevel::Scalar => Some(&scalar::KERNELS),
            #[cfg(target_arch = "x86_64")]
            KernelLevel::Avx2 => Some(&avx2::KERNELS),
            #[cfg(target_arch = "x86_64")]
            KernelLevel::AvxVnni => Some(&avx_vnni::KERNELS),
            #[cfg(target_arch = "x86_64")]
            KernelLevel::Avx512 => Some(&avx512::KERNELS),
            #[cfg(target_arch = "x86_64")]
            KernelLevel::Avx512Vnni => Some(&avx512_vnni::KERNELS),
            #[cfg(target_arch = "x86_64")]
            KernelLevel::Avx512Bf16 => Some(&avx512_bf16::KERNELS),
            #[cfg(target_arch = "aarch64")]
            KernelLevel::Neon => Some(&neon::KERNELS),
            #[expect(unreachable_patterns, reason = "levels of other architectures")]
            _ => None,
        }
    }
}

const fn at_most(number: usize, most: usize) -> usize {
    if number < most { number } else { most }
}

macro_rules! tiles {
    ($tile:ident, $nv:expr, $mr:expr, $($rows:literal)*) => {
        [$([
            $tile::<{ at_most($rows, $mr) }, 1>,
            $tile::<{ at_most($rows, $mr) }, { at_most(2, $nv) }>,
            $tile::<{ at_most($rows, $mr) }, { at_most(3, $nv) }>,
        ]),*]
    };
}

macro_rules! kernels {
    ($module:ident, $simd:ty, $level:ident, $native_bf16:literal $(, $features:literal)?) => {
        mod $module {
            use super::*;

            type S = $simd;

            // SAFETY of all below: the only way to these functions is `Kernels::of`, which checks
            // the features; callers grant the pointers.
            $(#[target_feature(enable = $features)])?
            unsafe fn tile_f32<const MR: usize, const NV: usize>(t: &Tile) {
                // SAFETY: as above.
                unsafe { tile::tile_f32::<S, MR, NV>(t) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn tile_bf16<const MR: usize, const NV: usize>(t: &Tile) {
                // SAFETY: as above.
                unsafe { tile::tile_bf16::<S, MR, NV>(t) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn tile_i8<const MR: usize, const NV: usize>(t: &Tile) {
                // SAFETY: as above.
                unsafe { tile::tile_i8::<S, MR, NV>(t) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn norm_rows(args: &NormArgs) {
                // SAFETY: as above.
                unsafe { rows::norm_rows::<S>(args) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn code_rows(args: &RowsArgs) {
                // SAFETY: as above.
                unsafe { rows::code_rows::<S>(args) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn softmax_rows(args: &SoftmaxArgs) {
                // SAFETY: as above.
                unsafe { rows::softmax_rows::<S>(args) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn apply_rows(f: Function, x: *mut f32, stride: usize, rows: usize, n: usize) {
                // SAFETY: as above.
                unsafe { rows::apply_rows::<S>(f, x, stride, rows, n) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn pair_rows(a: *const f32, b: *const f32, out: *mut i32, n: usize) {
                // SAFETY: as above.
                unsafe { rows::pair_rows::<S>(a, b, out, n) }
            }

            const NV: usize = S::NV;
            const MR: usize = S::MR;
            const NARROW: usize = S::MR_NARROW;

            pub(super) static KERNELS: Kernels = Kernels {
                level: KernelLevel::$level,
                lanes: S::LANES,
                nv: NV,
                mr: MR,
                mr_narrow: NARROW,
                native_bf16: $native_bf16,
                tiles_f32: tiles!(tile_f32, NV, MR, 1 2 3 4 5 6 7 8),
                tiles_bf16: tiles!(tile_bf16, NV, NARROW, 1 2 3 4 5 6 7 8),
                tiles_i8: tiles!(tile_i8, NV, NARROW, 1 2 3 4 5 6 7 8),
                norm_rows,
                code_rows,
                softmax_rows,
                apply_rows,
                pair_rows,
            };
        }
    };
}

kernels!(scalar, crate::simd::scalar::Scalar, Scalar, false);
#[cfg(target_arch = "x86_64")]
kernels!(avx2, crate::simd::avx2::Avx2<false>, Avx2, false, "avx2,fma");
#[cfg(target_arch = "x86_64")]
kernels!(avx_vnni, crate::simd::avx2::Avx2<true>, AvxVnni, false, "avx2,fma,avxvnni");
#[cfg(target_arch = "x86_64")]
kernels!(
    avx512,
    crate::simd::avx512::Avx512<false, false>,
    Avx512,
    false,
    "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"
);
#[cfg(target_arch = "x86_64")]
kernels!(
    avx512_vnni,
    crate::simd::avx512::Avx512<true, false>,
    Avx512Vnni,
    false,
    "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma"
);
#[cfg(target_arch = "x86_64")]
kernels!(
    avx512_bf16,
    crate::simd::avx512::Avx512<true, true>,
    Avx512Bf16,
    true,
    "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma"
);
#[cfg(target_arch = "aarch64")]
kernels!(neon, crate::simd::neon::Neon, Neon, false, "neon");
