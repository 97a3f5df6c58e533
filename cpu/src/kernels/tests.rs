//! Every instruction set that this CPU has, against plain loops over odd sizes.

use super::{Coding, Function, Kernels, NormArgs, RowScale, RowsArgs, Shares, SoftmaxArgs};
use crate::kernels::level::KernelLevel;
use crate::pack::{Channels, Input, PackedLinear, Results, Rows, packed_bytes};
use crate::slab::Slab;
use crate::spec::{Linear, Precision};
use crate::tensor::TensorView;

pub(super) fn all() -> impl Iterator<Item = &'static Kernels> {
    KernelLevel::ALL.into_iter().filter_map(Kernels::of)
}

/// Whole numbers from a counter, in `-most..=most`.
fn noise(seed: u32, count: usize, most: i32) -> Vec<i32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8).cast_signed() % (2 * most + 1) - most
    };
    (0..count).map(next).collect()
}

impl Shares {
    /// How far a share may be from what it should be.
    pub(super) fn limit(self) -> f64 {
        match self {
            Self::Exact => 1e-6,
            Self::Coarse => 1e-4,
            Self::Bf16 => 4e-3,
        }
    }
}

pub(super) fn floats(seed: u32, count: usize) -> Vec<f32> {
    noise(seed, count, 1000).into_iter().map(|x| x as f32 / 500.0).collect()
}

/// The first `n` of a row's codes, a byte each.
pub(super) fn codes(k: &Kernels, row: &[u8], n: usize) -> Vec<u8> {
    let each = row.chunks(k.code_bytes).take(n);
    each.map(|code| {
        assert!(code[1..].iter().all(|&high| high == 0), "codes are bytes");
        code[0]
    })
    .collect()
}

fn packed(
    k: &Kernels,
    weight: &[f32],
    bias: &[f32],
    [n, m]: [usize; 2],
    precision: Precision,
) -> (PackedLinear, Slab) {
    let mut slab = Slab::new(packed_bytes(k, precision, m, n)).expect("room");
    let linear = Linear {
        weight: TensorView::from_f32(&[n, m], weight),
        bias: Some(TensorView::from_f32(&[n], bias)),
    };
    let packed = PackedLinear::new(
        k,
        &mut slab,
        ("test", &linear),
        [n, m],
        precision,
        (Input::default(), 1.0),
    );
    (packed.expect("packs"), slab)
}

/// Sizes of products: rows, outputs, inputs.
fn sizes() -> impl Iterator<Item = [usize; 3]> {
    let odd = [1, 2, 3, 5, 7, 8, 9, 13, 17, 31, 48, 49, 65, 97, 131];
    let mut state = 1_usize;
    let mut pick = move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        odd[(state >> 33) % odd.len()]
    };
    (1..=20).map(|rows| [rows, 50, 24]).chain((0..60).map(move |_| [pick(), pick(), pick()]))
}

#[test]
fn int8_products_are_exact() {
    for k in all() {
        for [rows, outputs, inputs] in sizes() {
            // With 127 in every row of weights the scale is 1 and codes are the weights.
            let mut weights = noise(1, outputs * inputs, 127);
            weights.iter_mut().step_by(inputs).for_each(|weight| *weight = -127);
            let weight: Vec<f32> = weights.iter().map(|&x| x as f32).collect();
            let (linear, _slab) =
                packed(k, &weight, &vec![0.0; outputs], [outputs, inputs], Precision::Int8);
            let room = inputs.next_multiple_of(4) + 3;
            let stride = room * k.code_bytes;
            // Beyond the inputs anything may stand.
            let mut codes = vec![0xa5_u8; rows * stride + 64];
            // Where codes take two bytes, the higher one is 0.
            let code_at = |row: usize, at: usize| row * stride + at * k.code_bytes;
            let values = noise(2, rows * inputs, 127);
            for row in 0..rows {
                for at in 0..inputs {
                    // Extremes are what saturating instructions get wrong.
                    let value = if (row + at) % 3 == 0 { 127 } else { values[row * inputs + at] };
                    let code = &mut codes[code_at(row, at)..][..k.code_bytes];
                    code.fill(0);
                    code[0] = (value + 128) as u8;
                }
            }
            let wide = outputs.next_multiple_of(16);
            let mut c = vec![f32::NAN; rows * wide];
            // A code stands for what it is above 128.
            let scales = vec![RowScale { scale: 1.0, low: -128.0 }; rows];
            // SAFETY: sizes as above.
            unsafe {
                let a = codes.as_ptr();
                let (scales, x) = (scales.as_ptr(), std::ptr::null());
                let a = Rows { a, stride, rows, scales, x, x_stride: 0 };
                linear.apply(k, a, Results { c: c.as_mut_ptr(), stride: wide, add: false }, None);
            }
            for row in 0..rows {
                for output in 0..outputs {
                    let product = |at: usize| {
                        (i32::from(codes[code_at(row, at)]) - 128) * weights[output * inputs + at]
                    };
                    let sum: i32 = (0..inputs).map(product).sum();
                    assert_eq!(
                        c[row * wide + output],
                        sum as f32,
                        "{} {rows} {outputs} {inputs}",
                        k.level
                    );
                }
            }
        }
    }
}

/// A thousandfold channel leaves the others their 8 bits.
#[test]
fn outliers_are_multiplied_in_f32() {
    let [rows, inputs] = [5, 70];
    for k in all() {
        for outputs in [1, 16, 33, 100] {
            let weight = floats(4, outputs * inputs);
            let mut x = floats(5, rows * inputs);
            (0..rows).for_each(|row| x[row * inputs + 41] *= 1000.0);
            let linear =
                Linear { weight: TensorView::from_f32(&[outputs, inputs], &weight), bias: None };
            let mut slab =
                Slab::new(packed_bytes(k, Precision::Int8, inputs, outputs)).expect("room");
            let channels = Channels { factors: vec![0.5; inputs], outliers: vec![3, 41] };
            let input = Input { low: None, channels: Some(&channels) };
            let (shape, int8) = ([outputs, inputs], Precision::Int8);
            let packed =
                PackedLinear::new(k, &mut slab, ("test", &linear), shape, int8, (input, 1.0))
                    .expect("packs");
            let stride = PackedLinear::coded_row_bytes(k, Precision::Int8, inputs);
            let (mut codes, mut scales) =
                (vec![0_u8; rows * stride], vec![RowScale::default(); rows]);
            let wide = outputs.next_multiple_of(16);
            let mut c = vec![0.0_f32; rows * wide];
            // SAFETY: sizes as above.
            unsafe {
                (k.code_rows)(&RowsArgs {
                    x: x.as_ptr(),
                    x_stride: inputs,
                    rows,
                    n: inputs,
                    coding: Coding::Int8,
                    factors: packed.factors,
                    out: codes.as_mut_ptr(),
                    out_stride: stride,
                    scales: scales.as_mut_ptr(),
                });
                let (a, scales) = (codes.as_ptr(), scales.as_ptr());
                let a = Rows { a, stride, rows, scales, x: x.as_ptr(), x_stride: inputs };
                packed.apply(k, a, Results { c: c.as_mut_ptr(), stride: wide, add: false }, None);
            }
            for row in 0..rows {
                for output in 0..outputs {
                    let product = |at: usize| x[row * inputs + at] * weight[output * inputs + at];
                    let sum: f32 = (0..inputs).map(product).sum();
                    let error = (c[row * wide + output] - sum).abs();
                    // 70 products of numbers up to 2, coded in steps of 2/127, and f32's own error.
                    assert!(error <= 0.6 + sum.abs() * 1e-5, "{} {outputs}: {error}", k.level);
                }
            }
        }
    }
}

#[test]
fn f32_and_bf16_products_are_near() {
    for k in all() {
        for precision in [Precision::F32, Precision::Bf16] {
            for [rows, outputs, inputs] in sizes() {
                // bf16 holds these exactly.
                let number = |x: i32| x as f32 / 16.0;
                let weight: Vec<f32> =
                    noise(3, outputs * inputs, 120).into_iter().map(number).collect();
                let bias: Vec<f32> = floats(4, outputs);
                let (linear, _slab) = packed(k, &weight, &bias, [outputs, inputs], precision);
                let values: Vec<f32> =
                    noise(5, rows * inputs, 120).into_iter().map(number).collect();
                let stride = inputs.next_multiple_of(32) * 4;
                let mut a = vec![0_u8; rows * stride + 64];
                let coded = Coding::Bf16;
                let wide = outputs.next_multiple_of(16);
                let mut c = vec![1.0_f32; rows * wide];
                // SAFETY: sizes as above.
                unsafe {
                    let rows_of = |a, stride| {
                        let (scales, x) = (std::ptr::null(), std::ptr::null());
                        Rows { a, stride, rows, scales, x, x_stride: 0 }
                    };
                    let rows = if precision == Precision::Bf16 {
                        (k.code_rows)(&RowsArgs {
                            x: values.as_ptr(),
                            x_stride: inputs,
                            rows,
                            n: inputs,
                            coding: coded,
                            factors: std::ptr::null(),
                            out: a.as_mut_ptr(),
                            out_stride: stride,
                            scales: std::ptr::null_mut(),
                        });
                        rows_of(a.as_ptr(), stride)
                    } else {
                        rows_of(values.as_ptr().cast(), inputs * 4)
                    };
                    linear.apply(
                        k,
                        rows,
                        Results { c: c.as_mut_ptr(), stride: wide, add: true },
                        None,
                    );
                }
                for row in 0..rows {
                    for output in 0..outputs {
                        let product = |at: usize| {
                            f64::from(values[row * inputs + at])
                                * f64::from(weight[output * inputs + at])
                        };
                        let sum: f64 =
                            (0..inputs).map(product).sum::<f64>() + f64::from(bias[output]) + 1.0;
                        let size: f64 = (0..inputs).map(|at| product(at).abs()).sum::<f64>() + 3.0;
                        let ours = f64::from(c[row * wide + output]);
                        assert!(
                            (ours - sum).abs() <= 1e-6 * size,
                            "{} {precision:?}: {ours} {sum}",
                            k.level
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn codes_are_the_same_everywhere() {
    for n in [1, 3, 4, 8, 15, 16, 17, 33, 100, 384] {
        let x = floats(6, n);
        let factors: Vec<f32> = floats(7, n + 16).into_iter().map(|x| x.abs() + 0.5).collect();
        for coding in [Coding::Int8, Coding::Int8Above { low: -2.0 }] {
            for factors in [None, Some(&factors)] {
                let mut expected: Option<(Vec<u8>, RowScale)> = None;
                for k in all() {
                    let (mut out, mut scale) = (vec![0_u8; 2 * n + 64], RowScale::default());
                    // SAFETY: one row of n.
                    unsafe {
                        (k.code_rows)(&RowsArgs {
                            x: x.as_ptr(),
                            x_stride: n,
                            rows: 1,
                            n,
                            coding,
                            factors: factors.map_or(std::ptr::null(), Vec::as_ptr),
                            out: out.as_mut_ptr(),
                            out_stride: n,
                            scales: &raw mut scale,
                        });
                    }
                    let out = codes(k, &out, n);
                    let RowScale { scale: step, low } = scale;
                    for (at, (&code, &x)) in out.iter().zip(&x).enumerate() {
                        let factor = factors.map_or(1.0, |factors| factors[at]);
                        // Factors may take values below the least that the coding allows for.
                        let least = if coding == Coding::Int8 { f32::MIN } else { -2.0 };
                        let value = (x * factor).max(least);
                        assert!((f32::from(code) * step + low - value).abs() <= step * 0.51);
                    }
                    let ours = (out, scale);
                    assert_eq!(
                        expected.get_or_insert_with(|| ours.clone()),
                        &ours,
                        "{} {n}",
                        k.level
                    );
                }
            }
        }
    }
}

#[test]
fn a_row_of_zeros_is_coded_as_zeros() {
    for k in all() {
        for coding in [Coding::Int8, Coding::Int8Above { low: 0.0 }] {
            let (x, mut out) = ([0.0_f32; 20], [9_u8; 64]);
            let mut scale = RowScale { scale: 1.0, low: 1.0 };
            // SAFETY: one row of 20.
            unsafe {
                (k.code_rows)(&RowsArgs {
                    x: x.as_ptr(),
                    x_stride: 20,
                    rows: 1,
                    n: 20,
                    coding,
                    factors: std::ptr::null(),
                    out: out.as_mut_ptr(),
                    out_stride: 64,
                    scales: &raw mut scale,
                });
            }
            let expected = (vec![0; 20], RowScale::default());
            assert_eq!((codes(k, &out, 20), scale), expected, "{}", k.level);
        }
    }
}

#[test]
fn norms_are_near() {
    for k in all() {
        for n in [1, 3, 4, 15, 16, 17, 32, 33, 100, 384] {
            let (x, weight, bias) = (floats(8, n), floats(9, n + 16), floats(10, n + 16));
            let mut ours = x.clone();
            // SAFETY: one row of n.
            unsafe {
                (k.norm_rows)(&NormArgs {
                    x: ours.as_mut_ptr(),
                    x_stride: n,
                    rows: 1,
                    n,
                    weight: weight.as_ptr(),
                    bias: bias.as_ptr(),
                    eps: 1e-5,
                });
            }
            let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64;
            let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n as f64;
            for at in 0..n {
                let normed = (f64::from(x[at]) - mean) / (variance + 1e-5).sqrt();
                let expected = normed * f64::from(weight[at]) + f64::from(bias[at]);
                assert!((f64::from(ours[at]) - expected).abs() < 1e-5, "{} {n}", k.level);
            }
        }
    }
}

#[test]
fn softmax_is_near() {
    for k in all() {
        for n in [1, 2, 3, 15, 16, 17, 31, 64, 65, 130] {
            for kind in [Shares::Exact, Shares::Coarse, Shares::Bf16] {
                let scores: Vec<f32> = floats(11, n).into_iter().map(|x| x * 40.0).collect();
                let mut x = scores.clone();
                x.resize(n.next_multiple_of(16) + 16, f32::NAN);
                let mut inverse = f32::NAN;
                // SAFETY: one row of n, padded.
                unsafe {
                    (k.softmax_rows)(&SoftmaxArgs {
                        scores: x.as_mut_ptr(),
                        stride: x.len(),
                        rows: 1,
                        n,
                        shares: kind,
                        inverse: &raw mut inverse,
                    });
                }
                let most = scores.iter().copied().fold(f32::MIN, f32::max);
                let power = |x: f32| f64::from(x - most).exp2();
                let sum: f64 = scores.iter().map(|&x| power(x)).sum();
                let share = |at: usize| {
                    if kind != Shares::Bf16 {
                        return x[at];
                    }
                    let bits = x[at / 2].to_bits() >> (at % 2 * 16);
                    f32::from_bits(bits << 16)
                };
                let limit = kind.limit();
                for (at, &score) in scores.iter().enumerate() {
                    let ours = f64::from(share(at)) * f64::from(inverse);
                    assert!((ours - power(score) / sum).abs() < limit, "{} {n} {kind:?}", k.level);
                }
                if kind == Shares::Bf16 && n % 2 == 1 {
                    assert_eq!(share(n), 0.0, "an odd row ends in 0");
                }
            }
        }
    }
}

#[test]
fn functions_are_near() {
    let xs: Vec<f32> = (-12_000..12_000).map(|x| x as f32 / 1000.0).collect();
    // Reference of Φ by integrating its density, from far below.
    let tanh_gelu =
        |x: f64| 0.5 * x * (1.0 + (0.797_884_560_802_865_4 * (x + 0.044_715 * x.powi(3))).tanh());
    let mut phi = vec![0.0_f64; xs.len()];
    let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
    for at in 1..xs.len() {
        let (a, b) = (f64::from(xs[at - 1]), f64::from(xs[at]));
        let simpson = density(a) + 4.0 * density(f64::midpoint(a, b)) + density(b);
        phi[at] = phi[at - 1] + (b - a) / 6.0 * simpson;
    }
    for k in all() {
        for (function, limit) in [
            (Function::Gelu, 2e-6),
            (Function::GeluCoarse, 4.5e-4),
            (Function::GeluTanh, 2e-6),
            (Function::Relu, 0.0),
            (Function::Silu, 2e-6),
            (Function::Tanh, 1e-6),
        ] {
            let mut ours = xs.clone();
            ours.resize(xs.len() + 16, 0.0);
            // SAFETY: one padded row.
            unsafe { (k.apply_rows)(function, ours.as_mut_ptr(), xs.len(), 1, xs.len()) };
            for (at, &x) in xs.iter().enumerate() {
                let x = f64::from(x);
                let expected = match function {
                    Function::Gelu | Function::GeluCoarse => x * phi[at],
                    Function::GeluTanh => tanh_gelu(x),
                    Function::Relu => x.max(0.0),
                    Function::Silu => x / (1.0 + (-x).exp()),
                    Function::Tanh => x.tanh(),
                };
                let error = (f64::from(ours[at]) - expected).abs();
                assert!(error <= limit, "{} {function:?}({x}): {error}", k.level);
                if let Some(least) = function.minimum() {
                    assert!(ours[at] >= least, "{function:?}({x}) = {}", ours[at]);
                }
            }
        }
    }
}
