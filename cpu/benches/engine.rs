//! Single products, one layer, and whole models by shape.

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use postsort_cpu::{ComputePool, KernelLevel, Linear, Precision, Product, TensorView, TokenBatch};

#[path = "../examples/support/mod.rs"]
mod support;

use support::Shape;

const PRECISIONS: [(&str, Precision); 3] =
    [("f32", Precision::F32), ("bf16", Precision::Bf16), ("int8", Precision::Int8)];

fn bench(criterion: &mut Criterion, name: &str, shape: Shape, batches: &[(usize, usize)]) {
    let pool = ComputePool::new(0).expect("threads start");
    let spec = support::spec(shape);
    let mut group = criterion.benchmark_group(name);
    group.sample_size(20);
    for (precision_name, precision) in PRECISIONS {
        let engine = support::engine(&spec, precision, &Arc::clone(&pool));
        for &(tokens, sequences) in batches {
            let (ids, offsets) = support::batch(tokens, sequences);
            let mut logits = vec![0.0; sequences * engine.labels()];
            group.throughput(Throughput::Elements((tokens * sequences) as u64));
            let id = BenchmarkId::new(precision_name, format!("{sequences}x{tokens}"));
            group.bench_function(id, |bencher| {
                let batch = TokenBatch { ids: &ids, type_ids: &[], offsets: &offsets };
                bencher.iter(|| engine.forward(batch, &mut logits));
            });
        }
    }
    group.finish();
}

/// A MiniLM layer's products on one thread.
fn products(criterion: &mut Criterion) {
    for [outputs, inputs] in [[384, 384], [1536, 384], [384, 1536]] {
        let mut group = criterion.benchmark_group(format!("product/{inputs}to{outputs}"));
        let values = |count: usize| (0..count).map(|at| (at % 255) as f32 / 127.0 - 1.0).collect();
        let weight: Vec<f32> = values(outputs * inputs);
        let weight = TensorView::from_f32(&[outputs, inputs], &weight);
        let linear = Linear { weight, bias: None };
        for (name, precision) in PRECISIONS {
            let mut product = Product::new(&linear, precision, KernelLevel::best()).expect("packs");
            for rows in [8, 64] {
                let x: Vec<f32> = values(rows * inputs);
                product.set_rows(&x);
                group.throughput(Throughput::Elements((rows * outputs * inputs) as u64));
                group.bench_function(BenchmarkId::new(name, rows), |bencher| {
                    bencher.iter(|| product.multiply());
                });
            }
        }
        group.finish();
    }
}

/// Two layers less one: what the first of two adds is a whole layer over all tokens.
fn layer(criterion: &mut Criterion) {
    bench(criterion, "layers/1", Shape::bert([1, 384, 12, 1536]), &[(128, 1)]);
    bench(criterion, "layers/2", Shape::bert([2, 384, 12, 1536]), &[(128, 1)]);
}

fn models(criterion: &mut Criterion) {
    for (name, shape) in support::SHAPES {
        bench(criterion, name, shape, &[(16, 1), (128, 1), (512, 1), (128, 8)]);
    }
}

criterion_group!(benches, products, layer, models);
criterion_main!(benches);
