//! Microseconds of each phase of a pass, and what the products' share of the machine's peak is.
//!
//! `cargo run --release -p postsort-cpu --example phases -- [model] [precision] [tokens] [threads]`
//!
//! Passes are repeated and the fastest one is shown, so that other load on the machine counts least.

mod support;

use std::time::{Duration, Instant};

use postsort_cpu::{ComputePool, Phase, PhaseTimes, Precision, TokenBatch};
use support::{Family, Shape};

fn main() {
    let argument = |at: usize| std::env::args().nth(at);
    let model = argument(1).unwrap_or_else(|| "minilm-l6".to_owned());
    let precision = match argument(2).as_deref() {
        Some("f32") => Precision::F32,
        Some("bf16") => Precision::Bf16,
        _ => Precision::Int8,
    };
    let tokens: usize = argument(3).and_then(|text| text.parse().ok()).unwrap_or(128);
    let threads: usize = argument(4).and_then(|text| text.parse().ok()).unwrap_or(0);
    let Some((_, shape)) = support::SHAPES.into_iter().find(|(name, _)| *name == model) else {
        eprintln!("models: {:?}", support::SHAPES.map(|(name, _)| name));
        std::process::exit(2);
    };
    let Shape { family, layers, hidden, intermediate, .. } = shape;
    let pool = ComputePool::new(threads).expect("threads start");
    let engine = support::engine(&support::spec(shape), precision, &pool);
    let (ids, offsets) = support::batch(tokens, 1);
    let batch = TokenBatch { ids: &ids, type_ids: &[], offsets: &offsets };
    let mut logits = vec![0.0; engine.labels()];
    let mut best: Option<(Duration, PhaseTimes)> = None;
    for _ in 0..200 {
        let times = PhaseTimes::default();
        let began = Instant::now();
        engine.forward_timed(batch, &mut logits, &times).expect("runs");
        let took = began.elapsed();
        if best.as_ref().is_none_or(|(least, _)| took < *least) {
            best = Some((took, times));
        }
    }
    let Some((took, times)) = best else { return };
    // Billions of multiply-adds a second of the plain products, by phase.
    let rows = (tokens * (layers - 1)) as f64;
    let (square, wide) = ((hidden * hidden) as f64, (hidden * intermediate) as f64);
    let products = |phase: Phase| match phase {
        Phase::KeysValues => Some((tokens * layers * 2) as f64 * square),
        Phase::Queries | Phase::Output => Some(rows * square),
        // With the gates.
        Phase::Up if family == Family::ModernBert => Some(rows * 2.0 * wide),
        Phase::Up | Phase::Down => Some(rows * wide),
        Phase::Attention => Some(rows * (2 * tokens * hidden) as f64),
        _ => None,
    };
    let micros = took.as_secs_f64() * 1e6;
    println!("{model} {precision:?} {tokens} tokens, {} threads: {micros:.0} µs", pool.threads());
    println!("phase times are sums over threads and layers");
    let all: f64 = times.iter().map(|(_, time)| time.as_secs_f64()).sum();
    for (phase, time) in times.iter() {
        let seconds = time.as_secs_f64();
        let rate = products(phase)
            .map_or(String::new(), |macs| format!("{:>8.1} GMAC/s a thread", macs / seconds / 1e9));
        println!(
            "{:<12} {:>9.1} µs {:>5.1} % {rate}",
            format!("{phase:?}"),
            seconds * 1e6,
            seconds / all * 100.0
        );
    }
}
