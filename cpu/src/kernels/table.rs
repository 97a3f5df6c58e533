//! The kernels of each instruction set, as function pointers.
//!
//! The tables are private and [`Kernels::of`] checks the CPU before it hands one out: whoever
//! holds a `&'static Kernels` may call what is in it with valid pointers.

use super::combine::{self, MeanArgs, PairArgs};
use super::heads::{self, HeadsArgs};
use super::level::KernelLevel;
use super::math::Function;
use super::places::{self, PlaceArgs};
use super::rotary::{self, RotateArgs};
use super::rows::{self, NormArgs, RowsArgs, SoftmaxArgs};
use super::tile::{self, Tile};
use super::window::{self, WindowArgs};
use crate::simd::Simd;
use crate::spec::Precision;

/// A register tile.
pub(crate) type TileFn = unsafe fn(&Tile);

/// Tiles by rows - 1 and panel vectors - 1; those beyond the set's limits repeat the largest.
pub(crate) type Tiles = [[TileFn; 3]; 8];

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
    /// Rows of a full bf16 tile.
    pub(crate) mr_bf16: usize,
    /// Rows of a full 8-bit tile.
    pub(crate) mr_i8: usize,
    /// Bytes that an input's 8-bit code takes.
    pub(crate) code_bytes: usize,
    /// bf16 products are instructions rather than emulated.
    pub(crate) native_bf16: bool,
    pub(crate) tiles_f32: Tiles,
    pub(crate) tiles_bf16: Tiles,
    pub(crate) tiles_i8: Tiles,
    pub(crate) norm_rows: unsafe fn(&NormArgs),
    pub(crate) code_rows: unsafe fn(&RowsArgs),
    pub(crate) code_heads: unsafe fn(&HeadsArgs),
    pub(crate) softmax_rows: unsafe fn(&SoftmaxArgs),
    /// Function, rows, stride, number of rows, elements of a row.
    pub(crate) apply_rows: unsafe fn(Function, *mut f32, usize, usize, usize),
    /// Two rows, or one and null, as bf16 pairs.
    pub(crate) pair_rows: unsafe fn(*const f32, *const f32, *mut i32, usize),
    pub(crate) softmax_window_rows: unsafe fn(&WindowArgs),
    pub(crate) rotate_rows: unsafe fn(&RotateArgs),
    pub(crate) multiply_rows: unsafe fn(&PairArgs),
    pub(crate) add_rows: unsafe fn(&PairArgs),
    pub(crate) add_by_place: unsafe fn(&PlaceArgs),
    pub(crate) mean_rows: unsafe fn(&MeanArgs),
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
            // Levels of other architectures.
            _ => None,
        }
    }

    /// The tiles that multiply `precision`, and the rows of a full one.
    pub(crate) fn tiles(&self, precision: Precision) -> (&Tiles, usize) {
        match precision {
            Precision::F32 => (&self.tiles_f32, self.mr),
            Precision::Bf16 => (&self.tiles_bf16, self.mr_bf16),
            Precision::Int8 => (&self.tiles_i8, self.mr_i8),
        }
    }

    /// In how many parts a step of a panel lies: codes of 16 bits meet a step's weights two by two.
    pub(crate) fn parts(&self, precision: Precision) -> usize {
        if precision == Precision::Int8 { self.code_bytes } else { 1 }
    }
}

const fn at_most(number: usize, most: usize) -> usize {
    if number < most { number } else { most }
}

/// Compiles the kernels of one set. `f32`, `bf16` and `int8` say whose tiles are used: those of a
/// plainer set where more features do not change them, so that they are compiled once, and with them goes
/// how many rows a full one has.
macro_rules! kernels {
    (
        $module:ident, $simd:ty, $level:ident,
        f32: $f32:ident, bf16: $bf16:ident, int8: $int8:ident, native_bf16: $native_bf16:literal
        $(, $features:literal)?
    ) => {
        mod $module {
            use super::*;

            type S = $simd;

            // SAFETY of all below: the only way to these functions is `Kernels::of`, which checks
            // the features; callers grant the pointers.
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
            unsafe fn code_heads(args: &HeadsArgs) {
                // SAFETY: as above.
                unsafe { heads::code_heads::<S>(args) }
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
            $(#[target_feature(enable = $features)])?
            unsafe fn softmax_window_rows(args: &WindowArgs) {
                // SAFETY: as above.
                unsafe { window::softmax_window_rows::<S>(args) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn rotate_rows(args: &RotateArgs) {
                // SAFETY: as above.
                unsafe { rotary::rotate_rows::<S>(args) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn multiply_rows(args: &PairArgs) {
                // SAFETY: as above.
                unsafe { combine::multiply_rows::<S>(args) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn add_rows(args: &PairArgs) {
                // SAFETY: as above.
                unsafe { combine::add_rows::<S>(args) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn add_by_place(args: &PlaceArgs) {
                // SAFETY: as above.
                unsafe { places::add_by_place::<S>(args) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn mean_rows(args: &MeanArgs) {
                // SAFETY: as above.
                unsafe { combine::mean_rows::<S>(args) }
            }

            pub(super) static KERNELS: Kernels = Kernels {
                level: KernelLevel::$level,
                lanes: S::LANES,
                nv: S::NV,
                mr: tiles_f32::$f32::MR,
                mr_bf16: tiles_bf16::$bf16::MR,
                mr_i8: tiles_i8::$int8::MR,
                code_bytes: S::CODE_BYTES,
                native_bf16: $native_bf16,
                tiles_f32: tiles_f32::$f32::TILES,
                tiles_bf16: tiles_bf16::$bf16::TILES,
                tiles_i8: tiles_i8::$int8::TILES,
                norm_rows,
                code_rows,
                code_heads,
                softmax_rows,
                apply_rows,
                pair_rows,
                softmax_window_rows,
                rotate_rows,
                multiply_rows,
                add_rows,
                add_by_place,
                mean_rows,
            };
        }
    };
}

/// Compiles the tiles of one set and kind.
macro_rules! tiles {
    ($module:ident, $tile:ident, $simd:ty, $mr:ident $(, $features:literal)?) => {
        pub(super) mod $module {
            use super::super::*;

            type S = $simd;
            const NV: usize = <S as Simd>::NV;
            pub(in super::super) const MR: usize = <S as Simd>::$mr;

            // SAFETY: the only way here is `Kernels::of`, which checks the features.
            $(#[target_feature(enable = $features)])?
            unsafe fn f<const MR: usize, const NV: usize>(t: &Tile) {
                // SAFETY: as above; callers grant the pointers.
                unsafe { tile::$tile::<S, MR, NV>(t) }
            }

            pub(in super::super) const TILES: Tiles = rows_of_tiles!(f, 1 2 3 4 5 6 7 8);
        }
    };
}

macro_rules! rows_of_tiles {
    ($f:ident, $($rows:literal)*) => {
        [$([
            $f::<{ at_most($rows, MR) }, 1>,
            $f::<{ at_most($rows, MR) }, { at_most(2, NV) }>,
            $f::<{ at_most($rows, MR) }, { at_most(3, NV) }>,
        ]),*]
    };
}

mod tiles_f32 {
    tiles!(scalar, tile_f32, crate::simd::scalar::Scalar, MR);
    #[cfg(target_arch = "x86_64")]
    tiles!(avx2, tile_f32, crate::simd::avx2::Avx2<false>, MR, "avx2,fma");
    #[cfg(target_arch = "x86_64")]
    tiles!(avx512, tile_f32, crate::simd::avx512::Avx512<false, false>, MR, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma");
    #[cfg(target_arch = "aarch64")]
    tiles!(neon, tile_f32, crate::simd::neon::Neon, MR, "neon");
}

mod tiles_bf16 {
    tiles!(scalar, tile_bf16, crate::simd::scalar::Scalar, MR_BF16);
    #[cfg(target_arch = "x86_64")]
    tiles!(avx2, tile_bf16, crate::simd::avx2::Avx2<false>, MR_BF16, "avx2,fma");
    #[cfg(target_arch = "x86_64")]
    tiles!(avx512, tile_bf16, crate::simd::avx512::Avx512<false, false>, MR_BF16, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma");
    #[cfg(target_arch = "x86_64")]
    tiles!(avx512_bf16, tile_bf16, crate::simd::avx512::Avx512<false, true>, MR_BF16, "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma");
    #[cfg(target_arch = "aarch64")]
    tiles!(neon, tile_bf16, crate::simd::neon::Neon, MR_BF16, "neon");
}

mod tiles_i8 {
    tiles!(scalar, tile_i8, crate::simd::scalar::Scalar, MR_I8);
    #[cfg(target_arch = "x86_64")]
    tiles!(avx2, tile_i8, crate::simd::avx2::Avx2<false>, MR_I8, "avx2,fma");
    #[cfg(target_arch = "x86_64")]
    tiles!(avx_vnni, tile_i8, crate::simd::avx2::Avx2<true>, MR_I8, "avx2,fma,avxvnni");
    #[cfg(target_arch = "x86_64")]
    tiles!(avx512, tile_i8, crate::simd::avx512::Avx512<false, false>, MR_I8, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma");
    #[cfg(target_arch = "x86_64")]
    tiles!(avx512_vnni, tile_i8, crate::simd::avx512::Avx512<true, false>, MR_I8, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma");
    #[cfg(target_arch = "aarch64")]
    tiles!(neon, tile_i8, crate::simd::neon::Neon, MR_I8, "neon");
}

kernels!(scalar, crate::simd::scalar::Scalar, Scalar, f32: scalar, bf16: scalar, int8: scalar, native_bf16: false);
#[cfg(target_arch = "x86_64")]
kernels!(avx2, crate::simd::avx2::Avx2<false>, Avx2, f32: avx2, bf16: avx2, int8: avx2, native_bf16: false, "avx2,fma");
#[cfg(target_arch = "x86_64")]
kernels!(avx_vnni, crate::simd::avx2::Avx2<true>, AvxVnni, f32: avx2, bf16: avx2, int8: avx_vnni, native_bf16: false, "avx2,fma");
#[cfg(target_arch = "x86_64")]
kernels!(avx512, crate::simd::avx512::Avx512<false, false>, Avx512, f32: avx512, bf16: avx512, int8: avx512, native_bf16: false, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma");
#[cfg(target_arch = "x86_64")]
kernels!(avx512_vnni, crate::simd::avx512::Avx512<true, false>, Avx512Vnni, f32: avx512, bf16: avx512, int8: avx512_vnni, native_bf16: false, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma");
#[cfg(target_arch = "x86_64")]
kernels!(avx512_bf16, crate::simd::avx512::Avx512<true, true>, Avx512Bf16, f32: avx512, bf16: avx512_bf16, int8: avx512_vnni, native_bf16: true, "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma");
#[cfg(target_arch = "aarch64")]
kernels!(neon, crate::simd::neon::Neon, Neon, f32: neon, bf16: neon, int8: neon, native_bf16: false, "neon");
