//! The engine against a plain forward pass, with every kernel that this CPU can run.

mod support;

use std::sync::Arc;

use postsort_cpu::*;
use support::{Batch, Shape, reference, run};

fn levels() -> impl Iterator<Item = KernelLevel> {
    KernelLevel::ALL.into_iter().filter(|level| level.is_available())
}

fn engine(shape: &Shape, precision: Precision, pool: &Arc<ComputePool>, level: KernelLevel) -> Engine {
    Engine::with_kernels(&shape.spec(7), precision, Arc::clone(pool), level).expect("builds")
}

/// Largest difference from the reference, over its largest logit.
fn error(shape: &Shape, engine: &Engine, batch: &Batch) -> f64 {
    let spec = shape.spec(7);
    let logits = run(engine, batch);
    let mut worst = 0.0_f64;
    for (sequence, logits) in logits.chunks(engine.labels()).enumerate() {
        let alone = batch.alone(sequence);
        for (ours, theirs) in logits.iter().zip(reference(&spec, &alone.ids, &alone.type_ids)) {
            assert!(ours.is_finite());
            worst = worst.max((f64::from(*ours) - theirs).abs());
        }
    }
    worst
}

const GELU: Activation = Activation::Gelu;

fn shapes() -> Vec<(Shape, Vec<usize>)> {
    let bert = Shape::bert;
    vec![
        (bert(32, 1, 64, 1), vec![1]),
        (bert(32, 2, 37, 2), vec![5, 1, 17, 2]),
        (bert(128, 2, 512, 2), vec![33, 300, 1, 16]),
        (bert(48, 3, 101, 3), vec![49, 3]),
        (bert(72, 3, 96, 2), vec![19, 64, 65]),
        (bert(35, 7, 50, 2), vec![9, 30, 4]),
        (bert(384, 12, 1536, 1), vec![23, 50]),
        (bert(768, 12, 3072, 1), vec![7]),
        (Shape { types: 0, activation: Activation::Relu, ..bert(64, 2, 128, 2) }, vec![12, 13]),
        (Shape { types: 1, roberta: true, activation: Activation::GeluTanh, ..bert(64, 4, 80, 2) }, vec![40, 7]),
        (Shape { embedding: 24, activation: Activation::Silu, ..bert(64, 4, 80, 2) }, vec![31, 8]),
        (Shape { embedding: 96, activation: Activation::Tanh, ..bert(40, 4, 80, 2) }, vec![31, 8]),
        (Shape { labels: 21, activation: GELU, ..bert(64, 4, 80, 1) }, vec![3, 3, 3]),
    ]
}

#[test]
fn f32_is_the_reference() {
    let pool = ComputePool::new(2).expect("starts");
    for (shape, lengths) in shapes() {
        let mut batch = Batch::random(&shape, &lengths, 3);
        if shape.types == 1 {
            batch.type_ids.fill(0);
        }
        for level in levels() {
            let worst = error(&shape, &engine(&shape, Precision::F32, &pool, level), &batch);
            assert!(worst <= 1e-4, "{level}: {worst} for {shape:?} {lengths:?}");
        }
    }
}

#[test]
fn bf16_and_int8_are_near_the_reference() {
    let pool = ComputePool::new(2).expect("starts");
    for (shape, lengths) in shapes() {
        let batch = Batch::random(&shape, &lengths, 3);
        for level in levels() {
            for (precision, limit) in [(Precision::Bf16, 0.05), (Precision::Int8, 0.12)] {
                let worst = error(&shape, &engine(&shape, precision, &pool, level), &batch);
                assert!(worst <= limit, "{level}, {precision:?}: {worst} for {shape:?} {lengths:?}");
            }
        }
    }
}

#[test]
fn answers_do_not_depend_on_the_batch_or_the_threads() {
    let pools = [1, 2, 3].map(|threads| ComputePool::new(threads).expect("starts"));
    for (shape, lengths) in [
        (Shape::bert(128, 4, 300, 2), vec![1, 2, 90, 33, 128, 5, 5, 47]),
        (Shape::bert(384, 12, 768, 2), vec![100, 17, 63]),
        (Shape::bert(72, 3, 96, 1), vec![19, 64, 65]),
    ] {
        let batch = Batch::random(&shape, &lengths, 11);
        for level in levels() {
            for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
                let engines = pools.each_ref().map(|pool| engine(&shape, precision, pool, level));
                let together = run(&engines[2], &batch);
                assert_eq!(together, run(&engines[1], &batch), "{level} {precision:?}");
                for sequence in 0..batch.sequences() {
                    let alone = run(&engines[0], &batch.alone(sequence));
                    let part = &together[sequence * alone.len()..][..alone.len()];
                    assert_eq!(part, alone, "{level} {precision:?} {}", lengths[sequence]);
                }
            }
        }
    }
}
