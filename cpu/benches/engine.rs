//! Single products through one layer, and whole models by shape.

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use postsort_cpu::{ComputePool, Precision, TokenBatch};

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

criterion_group!(benches, layer, models);
criterion_main!(benches);
