//! Functions of vectors.

use crate::simd::Simd;

/// Functions that kernels apply to every element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    /// x·Φ(x), absolute error below 1e-6.
    Gelu,
    /// x·Φ(x), absolute error below 4.5e-4: for results that are rounded to 8 bits or bf16.
    GeluCoarse,
    /// The tanh form of x·Φ(x).
    GeluTanh,
    /// max(0, x).
    Relu,
    /// x·σ(x).
    Silu,
    /// tanh.
    Tanh,
}

impl Function {
    /// Least value that it takes, where there is one.
    pub(crate) fn minimum(self) -> Option<f32> {
        match self {
            Self::Gelu => Some(-0.1702),
            Self::GeluTanh => Some(-0.1704),
            Self::GeluCoarse => Some(-0.1706),
            Self::Silu => Some(-0.2786),
            Self::Relu => Some(0.0),
            Self::Tanh => None,
        }
    }
}

/// 2^x, relative error below 1e-7; `x` is clamped to -126..=126.
///
/// # Safety
/// The CPU has the features of `S`.
#[inline(always)]
pub(crate) unsafe fn exp2<S: Simd>(x: S::F) -> S::F {
    // SAFETY: granted by the caller.
    unsafe {
        let x = S::max(S::min(x, S::splat(126.0)), S::splat(-126.0));
        let whole = S::round(x);
        let f = S::sub(x, whole);
        // Taylor about 0 of 2^f, |f| ≤ 1/2, the last terms adjusted (Cephes' exp2f).
        let mut p = S::splat(1.535_336_2e-4);
        p = S::fma(p, f, S::splat(1.339_887_4e-3));
        p = S::fma(p, f, S::splat(9.618_437e-3));
        p = S::fma(p, f, S::splat(5.550_332_5e-2));
        p = S::fma(p, f, S::splat(2.402_264_7e-1));
        p = S::fma(p, f, S::splat(6.931_472e-1));
        p = S::fma(p, f, S::splat(1.0));
        S::scale2(p, whole)
    }
}

/// 2^x for `x` ≤ 0, relative error below 1e-4: for shares that are rounded to bf16.
///
/// # Safety
/// The CPU has the features of `S`.
#[inline(always)]
pub(crate) unsafe fn exp2_coarse<S: Simd>(x: S::F) -> S::F {
    // SAFETY: granted by the caller.
    unsafe {
        let f = S::fraction(x);
        // Minimax of degree 3 on 0..1.
        let mut p = S::splat(7.802_529e-2);
        p = S::fma(p, f, S::splat(2.260_660_5e-1));
        p = S::fma(p, f, S::splat(6.958_339e-1));
        p = S::fma(p, f, S::splat(9.999_252_4e-1));
        S::scale2_floor(p, x)
    }
}

const LOG2_E: f32 = std::f32::consts::LOG2_E;

/// `function(x)` for each lane.
///
/// # Safety
/// The CPU has the features of `S`.
#[inline(always)]
pub(crate) unsafe fn apply<S: Simd>(function: Function, x: S::F) -> S::F {
    // SAFETY: granted by the caller.
    unsafe {
        match function {
            Function::Gelu => gelu::<S>(x),
            Function::GeluCoarse => gelu_coarse::<S>(x),
            Function::GeluTanh => {
                // x·σ(2u) with u = √(2/π)·(x + 0.044715·x³).
                let cube = S::mul(S::mul(x, x), x);
                let u = S::fma(cube, S::splat(0.044_715), x);
                S::mul(x, sigmoid::<S>(S::mul(u, S::splat(1.595_769_2))))
            }
            Function::Relu => S::max(x, S::splat(0.0)),
            Function::Silu => S::mul(x, sigmoid::<S>(x)),
            Function::Tanh => {
                let double = sigmoid::<S>(S::add(x, x));
                S::sub(S::add(double, double), S::splat(1.0))
            }
        }
    }
}

#[inline(always)]
unsafe fn sigmoid<S: Simd>(x: S::F) -> S::F {
    // SAFETY: granted by the caller.
    unsafe {
        let one = S::splat(1.0);
        S::div(one, S::add(one, exp2::<S>(S::mul(x, S::splat(-LOG2_E)))))
    }
}

/// Φ's tail by Abramowitz and Stegun 7.1.26, error below 1e-7.
#[inline(always)]
unsafe fn gelu<S: Simd>(x: S::F) -> S::F {
    // SAFETY: granted by the caller.
    unsafe {
        let size = S::abs(x);
        // z = |x|/√2, t = 1/(1 + 0.3275911·z)
        let t = S::div(S::splat(1.0), S::fma(size, S::splat(0.231_641_89), S::splat(1.0)));
        let mut p = S::splat(0.530_702_7);
        p = S::fma(p, t, S::splat(-0.726_576));
        p = S::fma(p, t, S::splat(0.710_706_9));
        p = S::fma(p, t, S::splat(-0.142_248_37));
        p = S::fma(p, t, S::splat(0.127_414_8));
        let bell = exp2::<S>(S::mul(S::mul(x, x), S::splat(-0.5 * LOG2_E)));
        let tail = S::mul(S::mul(p, t), bell);
        S::sub(S::max(x, S::splat(0.0)), S::mul(size, tail))
    }
}

/// Φ - 1/2 as an odd polynomial on |x| ≤ 3.6, with the least largest error of x·Φ(x) on |x| ≤ 12.
#[inline(always)]
unsafe fn gelu_coarse<S: Simd>(x: S::F) -> S::F {
    // SAFETY: granted by the caller.
    unsafe {
        let c = S::max(S::min(x, S::splat(3.6)), S::splat(-3.6));
        let u = S::mul(c, c);
        let mut p = S::splat(-5.214_071e-7);
        p = S::fma(p, u, S::splat(2.805_837e-5));
        p = S::fma(p, u, S::splat(-6.334_893e-4));
        p = S::fma(p, u, S::splat(7.946_338e-3));
        p = S::fma(p, u, S::splat(-6.284_264e-2));
        p = S::fma(p, u, S::splat(3.966_852_4e-1));
        S::mul(x, S::fma(p, c, S::splat(0.5)))
    }
}
