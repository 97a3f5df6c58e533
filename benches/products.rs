//! Our products beside those of published crates, on one thread, in the shapes of a MiniLM layer.
//!
//! `RAYON_NUM_THREADS=1 cargo run --release -p postsort-benches --features products --bin products`
//!
//! Weights are packed beforehand where a library can. There are as many copies of them as a model has
//! layers, used in turn, so that they come from the L3 cache as in a forward pass. Libraries take
//! turns; medians count. Ours turn 8-bit sums into f32 with scales, correction and bias, which the
//! others' do not.

use std::hint::black_box;
use std::time::Instant;

use postsort_cpu::{KernelLevel, Linear, Precision, Product, TensorView};
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions};
use rten_tensor::NdTensor;
use rten_tensor::prelude::*;

/// Copies of the weights.
const COPIES: usize = 12;
const ROUNDS: usize = 41;
/// Outputs and inputs.
const SHAPES: [[usize; 2]; 3] = [[384, 384], [1536, 384], [384, 1536]];
const ROWS: [usize; 4] = [8, 16, 64, 256];

/// Takes the next copy of the weights at each call.
type Run = Box<dyn FnMut(usize)>;

fn main() {
    let titles: Vec<String> = SHAPES
        .iter()
        .flat_map(|[outputs, inputs]| ROWS.map(|rows| format!("{rows}×{inputs}→{outputs}")))
        .collect();
    println!("10^9 multiply-adds a second\n\n| product | {} |", titles.join(" | "));
    println!("|---|{}", "---|".repeat(titles.len()));
    let mut table: Vec<(&str, Vec<String>)> = Vec::new();
    for [outputs, inputs] in SHAPES {
        for rows in ROWS {
            let runs = runs(rows, outputs, inputs);
            let products = (rows * outputs * inputs) as f64;
            for (at, (name, nanoseconds)) in measure(runs).into_iter().enumerate() {
                if table.len() == at {
                    table.push((name, Vec::new()));
                }
                table[at].1.push(format!("{:.0}", products / nanoseconds));
            }
        }
    }
    for (name, rates) in table {
        println!("| {name} | {} |", rates.join(" | "));
    }
}

/// Median nanoseconds of each, taken in turn.
fn measure(mut runs: Vec<(&'static str, Run)>) -> Vec<(&'static str, f64)> {
    let mut times: Vec<Vec<u128>> = vec![Vec::new(); runs.len()];
    for round in 0..ROUNDS {
        for ((_, run), times) in runs.iter_mut().zip(&mut times) {
            // What the other libraries did has emptied the caches: each begins with a round uncounted.
            (0..COPIES).for_each(&mut *run);
            let start = Instant::now();
            (0..COPIES).for_each(&mut *run);
            if round > 0 {
                times.push(start.elapsed().as_nanos());
            }
        }
    }
    let median = |mut times: Vec<u128>| {
        times.sort_unstable();
        times[times.len() / 2] as f64 / COPIES as f64
    };
    runs.into_iter().zip(times).map(|((name, _), times)| (name, median(times))).collect()
}

fn runs(rows: usize, outputs: usize, inputs: usize) -> Vec<(&'static str, Run)> {
    let number = |at: usize| (at * 37 % 255) as f32 / 127.0 - 1.0;
    let x: Vec<f32> = (0..rows * inputs).map(number).collect();
    // `[outputs, inputs]`.
    let weight: Vec<f32> = (0..outputs * inputs).map(number).collect();
    let mut runs: Vec<(&'static str, Run)> = Vec::new();
    for (name, precision) in [
        ("ours int8", Precision::Int8),
        ("ours bf16", Precision::Bf16),
        ("ours f32", Precision::F32),
    ] {
        let linear =
            Linear { weight: TensorView::from_f32(&[outputs, inputs], &weight), bias: None };
        let product = || Product::new(&linear, precision, KernelLevel::best()).expect("packs");
        let mut products: Vec<Product> = (0..COPIES).map(|_| product()).collect();
        products.iter_mut().for_each(|product| product.set_rows(&x));
        runs.push((name, Box::new(move |copy| products[copy].multiply())));
    }
    runs.push(("rten-gemm int8", rten_int8(&x, &weight, [rows, outputs, inputs])));
    runs.push(("rten-gemm f32", rten_f32(&x, &weight, [rows, outputs, inputs])));
    runs.push(("gemm f32", gemm_f32(x, &weight, [rows, outputs, inputs])));
    runs
}

fn rten_int8(x: &[f32], weight: &[f32], [rows, outputs, inputs]: [usize; 3]) -> Run {
    let executor = GemmExecutor::<u8, i8, i32>::new();
    let a: Vec<u8> = x.iter().map(|x| (x * 127.0 + 128.0) as u8).collect();
    let a = NdTensor::from_data([rows, inputs], a);
    let b: Vec<i8> = weight.iter().map(|weight| (weight * 127.0) as i8).collect();
    let b = NdTensor::from_data([outputs, inputs], b);
    let packed: Vec<_> = (0..COPIES).map(|_| executor.prepack_b(b.view().transposed())).collect();
    let mut out = vec![0_i32; rows * outputs];
    Box::new(move |copy| {
        let (a, b) = (GemmInputA::Unpacked(a.view()), GemmInputB::Packed(&packed[copy]));
        executor.gemm(&mut out, a, b, GemmOptions::default()).expect("multiplies");
        black_box(&out);
    })
}

fn rten_f32(x: &[f32], weight: &[f32], [rows, outputs, inputs]: [usize; 3]) -> Run {
    let executor = GemmExecutor::<f32>::new();
    let a = NdTensor::from_data([rows, inputs], x.to_vec());
    let b = NdTensor::from_data([outputs, inputs], weight.to_vec());
    let packed: Vec<_> = (0..COPIES).map(|_| executor.prepack_b(b.view().transposed())).collect();
    let mut out = vec![0.0_f32; rows * outputs];
    Box::new(move |copy| {
        let (a, b) = (GemmInputA::Unpacked(a.view()), GemmInputB::Packed(&packed[copy]));
        executor.gemm(&mut out, a, b, GemmOptions::default()).expect("multiplies");
        black_box(&out);
    })
}

fn gemm_f32(x: Vec<f32>, weight: &[f32], [rows, outputs, inputs]: [usize; 3]) -> Run {
    let weights: Vec<Vec<f32>> = (0..COPIES).map(|_| weight.to_vec()).collect();
    let mut out = vec![0.0_f32; rows * outputs];
    let stride = |elements: usize| elements.cast_signed();
    Box::new(move |copy| {
        // SAFETY: the operands have the sizes and strides that are stated: x `[rows, inputs]`, the
        // weights `[outputs, inputs]` read as their transpose, results `[rows, outputs]`.
        unsafe {
            gemm::gemm(
                rows,
                outputs,
                inputs,
                out.as_mut_ptr(),
                1,
                stride(outputs),
                false,
                x.as_ptr(),
                1,
                stride(inputs),
                weights[copy].as_ptr(),
                stride(inputs),
                1,
                0.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
        black_box(&out);
    })
}
