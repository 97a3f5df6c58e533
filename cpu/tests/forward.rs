//! The engine against a plain forward pass, with every kernel that this CPU can run.

mod read;
mod support;

use std::sync::Arc;
use std::time::Duration;

use postsort_cpu::*;
use support::{Batch, Shape, reference, run};

fn levels() -> impl Iterator<Item = KernelLevel> {
    KernelLevel::ALL.into_iter().filter(|level| level.is_available())
}

fn engine(
    shape: &Shape,
    precision: Precision,
    pool: &Arc<ComputePool>,
    level: KernelLevel,
) -> Engine {
    Engine::with_kernels(&shape.spec(7), precision, Arc::clone(pool), level).expect("builds")
}

/// The reference's logits of a batch.
fn expected(shape: &Shape, batch: &Batch) -> Vec<f64> {
    let spec = shape.spec(7);
    let sequences = (0..batch.sequences()).map(|sequence| batch.alone(sequence));
    sequences.flat_map(|alone| reference(&spec, &alone.ids, &alone.type_ids)).collect()
}

/// Largest difference from the reference.
fn error(engine: &Engine, batch: &Batch, expected: &[f64]) -> f64 {
    let mut worst = 0.0_f64;
    for (ours, theirs) in run(engine, batch).into_iter().zip(expected) {
        assert!(ours.is_finite());
        worst = worst.max((f64::from(ours) - theirs).abs());
    }
    worst
}

const GELU: Activation = Activation::Gelu;

fn shapes() -> Vec<(Shape, Vec<usize>)> {
    let (bert, modern, deberta) = (Shape::bert, Shape::modern, Shape::deberta);
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
        (
            Shape {
                types: 1,
                roberta: true,
                activation: Activation::GeluTanh,
                ..bert(64, 4, 80, 2)
            },
            vec![40, 7],
        ),
        (Shape { embedding: 24, activation: Activation::Silu, ..bert(64, 4, 80, 2) }, vec![31, 8]),
        (Shape { embedding: 96, activation: Activation::Tanh, ..bert(40, 4, 80, 2) }, vec![31, 8]),
        (Shape { labels: 21, activation: GELU, ..bert(64, 4, 80, 1) }, vec![3, 3, 3]),
        (modern(64, 2, 96, 4, Pooling::FirstToken), vec![150, 10, 1, 29, 63]),
        (modern(36, 3, 50, 3, Pooling::Mean), vec![2, 77, 31]),
        (modern(384, 6, 576, 2, Pooling::Mean), vec![40]),
        (modern(24, 2, 40, 1, Pooling::FirstToken), vec![300, 3]),
        (modern(32, 2, 40, 1, Pooling::Mean), vec![11, 200, 1]),
        (deberta(64, 2, 96, 2, [true, true]), vec![150, 10, 1, 29, 63]),
        (deberta(36, 3, 50, 2, [true, false]), vec![2, 77, 31]),
        (deberta(72, 4, 50, 2, [false, true]), vec![300, 5]),
        (deberta(384, 6, 576, 1, [true, true]), vec![40, 3]),
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
        let expected = expected(&shape, &batch);
        for level in levels() {
            let engine = engine(&shape, Precision::F32, &pool, level);
            let worst = error(&engine, &batch, &expected);
            assert!(worst <= 1e-4, "{level}: {worst} for {shape:?} {lengths:?}");
        }
    }
}

#[test]
fn bf16_and_int8_are_near_the_reference() {
    let pool = ComputePool::new(2).expect("starts");
    for (shape, lengths) in shapes() {
        let batch = Batch::random(&shape, &lengths, 3);
        let expected = expected(&shape, &batch);
        for level in levels() {
            for (precision, limit) in [(Precision::Bf16, 0.05), (Precision::Int8, 0.12)] {
                let worst = error(&engine(&shape, precision, &pool, level), &batch, &expected);
                assert!(
                    worst <= limit,
                    "{level}, {precision:?}: {worst} for {shape:?} {lengths:?}"
                );
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
        (Shape::modern(128, 4, 200, 4, Pooling::FirstToken), vec![1, 150, 33, 128, 5, 47]),
        (Shape::modern(72, 3, 50, 3, Pooling::Mean), vec![19, 301, 64, 2, 65]),
        (Shape::deberta(64, 2, 200, 3, [true, true]), vec![1, 150, 33, 128, 5, 47]),
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

#[test]
fn calibration_tames_outliers() {
    tame(&Shape::bert(128, 4, 256, 2));
    tame(&Shape::modern(128, 4, 256, 2, Pooling::Mean));
}

fn tame(shape: &Shape) {
    let mut spec = shape.spec(7);
    // One channel of every norm's output is far above the others.
    let outlier = |norm: &mut Norm| {
        let mut bias = vec![0.0_f32; 128];
        bias[17] = 12.0;
        norm.bias = Some(TensorView::from_f32(&[128], &bias));
    };
    outlier(&mut spec.embeddings.norm);
    for layer in &mut spec.layers {
        let norms = [
            &mut layer.attention_pre_norm,
            &mut layer.attention_norm,
            &mut layer.output_pre_norm,
            &mut layer.output_norm,
        ];
        norms.into_iter().flatten().for_each(outlier);
    }
    let pool = ComputePool::new(2).expect("starts");
    let best = KernelLevel::best();
    let plain = |precision| Engine::new(&spec, precision, Arc::clone(&pool)).expect("builds");
    let (f32, int8) = (plain(Precision::F32), plain(Precision::Int8));
    let mut maxima =
        f32.encoder().channel_maxima(Batch::random(shape, &[40, 9], 1).view()).expect("runs");
    maxima
        .merge(&f32.encoder().channel_maxima(Batch::random(shape, &[70], 2).view()).expect("runs"));
    let kept = ChannelMaxima::from_values(2, 128, 256, &maxima.to_values()).expect("fits");
    assert_eq!(kept, maxima);
    assert_eq!(ChannelMaxima::from_values(3, 128, 256, &maxima.to_values()), None);
    let calibrated = Engine::calibrated(&spec, Precision::Int8, Arc::clone(&pool), best, &kept);
    let calibrated = calibrated.expect("builds");
    let batch = Batch::random(shape, &[50, 20, 100, 7, 3, 5, 8, 13, 21, 34], 5);
    let exact = run(&f32, &batch);
    let error = |engine: &Engine| {
        let logits = run(engine, &batch);
        logits.iter().zip(&exact).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt()
    };
    let (before, after) = (error(&int8), error(&calibrated));
    assert!(after < before * 0.85, "{before} before, {after} after");
    let other = Shape::bert(64, 4, 256, 2).spec(7);
    let wrong = Engine::calibrated(&other, Precision::Int8, pool, best, &maxima);
    assert!(matches!(wrong, Err(CpuError::BadSpec { .. })));
}

#[test]
fn heads_share_an_encoder() {
    let shape = Shape::bert(48, 3, 96, 2);
    let (first, mut second) = (shape.spec(7), shape.spec(7));
    second.head = shape.spec(8).head;
    let pool = ComputePool::new(2).expect("starts");
    let batch = Batch::random(&shape, &[9, 33, 1, 4, 17], 3);
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let alone =
            |spec: &EncoderSpec| Engine::new(spec, precision, Arc::clone(&pool)).expect("builds");
        let own = alone(&first);
        let beside = Engine::beside(Arc::clone(own.encoder()), &second.head).expect("builds");
        let (expected, found) = (run(&alone(&second), &batch), run(&beside, &batch));
        assert_eq!(found, expected, "{precision:?}");
        assert_ne!(found, run(&own, &batch), "another head");
        // States once, for both heads; a head's rows do not depend on each other.
        let mut states = vec![0.0; batch.sequences() * 48];
        own.encoder().forward(batch.view(), &mut states).expect("runs");
        let (labels, mut logits) = (beside.labels(), vec![0.0; found.len()]);
        for (state, logits) in states.chunks(48).zip(logits.chunks_mut(labels)) {
            beside.head().apply(state, logits).expect("fits");
        }
        assert_eq!(logits, found, "{precision:?}");
        assert!(matches!(
            beside.head().apply(&states[1..], &mut logits),
            Err(CpuError::ResultLength { .. })
        ));
    }
    let many: Vec<f32> = (0..48 * 75).map(|at| (at as f32 * 0.37).sin()).collect();
    let head = Engine::new(&first, Precision::F32, Arc::clone(&pool)).expect("builds");
    let mut together = vec![0.0; 75 * head.head().labels()];
    head.head().apply(&many, &mut together).expect("fits");
    for (state, logits) in many.chunks(48).zip(together.chunks(head.labels())) {
        let mut one = vec![0.0; logits.len()];
        head.head().apply(state, &mut one).expect("fits");
        assert_eq!(one, logits, "more rows than a block");
    }
}

#[test]
fn bad_input_is_told() {
    let shape = Shape { positions: 16, ..Shape::bert(32, 2, 64, 1) };
    let pool = ComputePool::new(2).expect("starts");
    let engine = engine(&shape, Precision::Int8, &pool, KernelLevel::best());
    let run = |ids: &[u32], type_ids: &[u32], offsets: &[u32], room: usize| {
        let mut logits = vec![0.0; room];
        engine.forward(TokenBatch { ids, type_ids, offsets }, &mut logits)
    };
    assert!(matches!(run(&[1], &[], &[], 3), Err(CpuError::BadBatch { .. })));
    assert!(matches!(run(&[1], &[], &[1], 3), Err(CpuError::BadBatch { .. })));
    assert!(matches!(run(&[1], &[], &[0, 2], 3), Err(CpuError::BadBatch { .. })));
    assert!(matches!(run(&[1], &[0, 0], &[0, 1], 3), Err(CpuError::BadBatch { .. })));
    assert!(matches!(
        run(&[1], &[], &[0, 0, 1], 6),
        Err(CpuError::SequenceLength { tokens: 0, .. })
    ));
    assert!(matches!(run(&[1, 2], &[], &[0, 2, 1, 2], 9), Err(CpuError::SequenceLength { .. })));
    assert!(matches!(
        run(&[1; 17], &[], &[0, 17], 3),
        Err(CpuError::SequenceLength { tokens: 17, tokens_max: 16 })
    ));
    assert!(matches!(
        run(&[200], &[], &[0, 1], 3),
        Err(CpuError::TokenOutOfRange { id: 200, vocabulary: 200 })
    ));
    assert!(matches!(
        run(&[1], &[2], &[0, 1], 3),
        Err(CpuError::TypeOutOfRange { id: 2, types: 2 })
    ));
    assert!(matches!(
        run(&[1], &[], &[0, 1], 4),
        Err(CpuError::ResultLength { expected: 3, found: 4 })
    ));
    assert!(run(&[], &[], &[0], 0).is_ok());
}

#[test]
fn bad_specs_are_told() {
    let pool = ComputePool::new(1).expect("starts");
    let shape = Shape::bert(32, 2, 64, 1);
    let build = |change: &dyn Fn(&mut EncoderSpec)| {
        let mut spec = shape.spec(7);
        change(&mut spec);
        Engine::new(&spec, Precision::Int8, Arc::clone(&pool)).map(|_| ())
    };
    assert!(build(&|_| {}).is_ok());
    assert!(matches!(build(&|spec| spec.layers.clear()), Err(CpuError::BadSpec { .. })));
    assert!(matches!(build(&|spec| spec.heads = 3), Err(CpuError::BadSpec { .. })));
    assert!(matches!(build(&|spec| spec.heads = 0), Err(CpuError::BadSpec { .. })));
    assert!(matches!(build(&|spec| spec.tokens_max = 321), Err(CpuError::BadSpec { .. })));
    assert!(matches!(build(&|spec| spec.head.layers.clear()), Err(CpuError::BadSpec { .. })));
    let shapes = |change: &dyn Fn(&mut EncoderSpec)| {
        assert!(matches!(build(change), Err(CpuError::Shape { .. })));
    };
    shapes(&|spec| spec.layers[0].key.weight = TensorView::from_f32(&[1, 1], &[0.0]));
    shapes(&|spec| {
        spec.layers[0].output_norm.as_mut().expect("has one").weight =
            TensorView::from_f32(&[1], &[0.0]);
    });
    shapes(&|spec| spec.head.layers[1].dense.bias = Some(TensorView::from_f32(&[1], &[0.0])));
    let bytes = build(&|spec| spec.layers[0].value.weight.range.end -= 4);
    assert!(matches!(bytes, Err(CpuError::Bytes { .. })));
    let outside = build(&|spec| spec.embeddings.word.range = usize::MAX - 8..usize::MAX);
    assert!(matches!(outside, Err(CpuError::Bytes { .. })));
}

#[test]
fn tables_and_weights_may_be_halves() {
    let pool = ComputePool::new(1).expect("starts");
    let mut spec = Shape::bert(32, 2, 64, 1).spec(7);
    let batch = Batch::random(&Shape::bert(32, 2, 64, 1), &[9, 4], 3);
    let halve = |tensor: &mut TensorView| {
        let mapped = Arc::clone(&tensor.owner).map().expect("lies in memory");
        let bytes = (*mapped).as_ref()[tensor.range.clone()].to_vec();
        // One byte in front, so that nothing is aligned.
        let mut halves = vec![0_u8];
        for value in bytes.as_chunks::<4>().0 {
            halves.extend_from_slice(&value[2..]);
        }
        tensor.range = 1..halves.len();
        tensor.owner = Arc::new(halves);
        tensor.dtype = Dtype::Bf16;
    };
    let exact =
        run(&Engine::new(&spec, Precision::F32, Arc::clone(&pool)).expect("builds"), &batch);
    halve(&mut spec.embeddings.word);
    halve(spec.embeddings.position.as_mut().expect("has positions"));
    halve(&mut spec.layers[0].up.weight);
    let halves = run(&Engine::new(&spec, Precision::F32, pool).expect("builds"), &batch);
    for (a, b) in exact.iter().zip(&halves) {
        assert!(a != b && (a - b).abs() < 0.1, "{a} {b}");
    }
}

#[test]
fn callers_share_a_pool() {
    let shape = Shape::bert(64, 4, 128, 2);
    let pool = ComputePool::new(2).expect("starts");
    let engines = [Precision::F32, Precision::Int8]
        .map(|precision| engine(&shape, precision, &pool, KernelLevel::best()));
    let batches = [
        Batch::random(&shape, &[30, 3], 1),
        Batch::random(&shape, &[1], 2),
        Batch::random(&shape, &[120; 4], 3),
    ];
    let alone: Vec<Vec<Vec<f32>>> = engines
        .iter()
        .map(|engine| batches.iter().map(|batch| run(engine, batch)).collect())
        .collect();
    std::thread::scope(|scope| {
        for caller in 0..4 {
            let (engines, batches, alone, pool) = (&engines, &batches, &alone, &pool);
            scope.spawn(move || {
                for round in 0..200 {
                    // Beside passes as well, and now and then before a worker that sleeps.
                    if round % 5 == caller {
                        pool.rouse();
                    }
                    if round % 50 == 49 {
                        std::thread::sleep(Duration::from_micros(200));
                    }
                    let (engine, batch) = ((caller + round) % 2, (caller * 7 + round) % 3);
                    assert_eq!(run(&engines[engine], &batches[batch]), alone[engine][batch]);
                }
            });
        }
    });
    assert!(pool.scratch_bytes() > 0);
}
