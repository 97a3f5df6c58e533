//! Milliseconds of a forward pass by tokens × batch and precision, on generated weights.
//!
//! `cargo run --release -p postsort-cpu --example shapes -- [model] [precision] [repetitions] [threads]`

mod support;

use std::time::Instant;

use postsort_cpu::{ComputePool, Precision, TokenBatch};

fn main() {
    let argument = |at: usize| std::env::args().nth(at);
    let model = argument(1).unwrap_or_else(|| "minilm-l6".to_owned());
    let wanted = argument(2).unwrap_or_else(|| "all".to_owned());
    let repetitions: usize = argument(3).and_then(|text| text.parse().ok()).unwrap_or(20);
    let threads: usize = argument(4).and_then(|text| text.parse().ok()).unwrap_or(0);
    let Some((_, shape)) = support::SHAPES.into_iter().find(|(name, _)| *name == model) else {
        eprintln!("models: {:?}", support::SHAPES.map(|(name, _)| name));
        std::process::exit(2);
    };
    let report = postsort_cpu::kernels();
    let pool = ComputePool::new(threads).expect("threads start");
    println!("{model}, {} threads, kernels {}", pool.threads(), report.level);
    println!("{:>6} {:>6} {:>6} {:>9} {:>9}", "prec", "tokens", "batch", "min ms", "median ms");
    let spec = support::spec(shape);
    let precisions =
        [("f32", Precision::F32), ("bf16", Precision::Bf16), ("int8", Precision::Int8)];
    for (name, precision) in precisions {
        if wanted != "all" && wanted != name {
            continue;
        }
        let engine = support::engine(&spec, precision, &pool);
        for (tokens, batch) in
            [(16, 1), (32, 1), (64, 1), (128, 1), (256, 1), (512, 1), (128, 8), (128, 32)]
        {
            let (ids, offsets) = support::batch(tokens, batch);
            let batch_view = TokenBatch { ids: &ids, type_ids: &[], offsets: &offsets };
            let mut logits = vec![0.0; batch * engine.labels()];
            let mut seconds = Vec::new();
            for round in 0..repetitions + 3 {
                let began = Instant::now();
                engine.forward(batch_view, &mut logits).expect("runs");
                if round >= 3 {
                    seconds.push(began.elapsed().as_secs_f64());
                }
            }
            seconds.sort_by(f64::total_cmp);
            let (min, median) = (seconds[0] * 1e3, seconds[seconds.len() / 2] * 1e3);
            println!("{name:>6} {tokens:>6} {batch:>6} {min:>9.3} {median:>9.3}");
        }
    }
}
