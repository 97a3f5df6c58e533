//! The parts of a request's way, one by one: decode, digest and look up, tokenise, compute.
//!
//! `cargo bench -p postsort-benches`

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use postsort_cache::{Claim, Digest, ResultCache};
use postsort_email::{ReadOptions, read_rfc822};
use postsort_models::{LoadOptions, LongText, Model, ModelFolder};
use sample::{Logits, MAIL};

mod sample;

fn bundled() -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bundled/spam");
    let folder = ModelFolder::open(&path).expect("the bundled model");
    Model::load(&folder, &LoadOptions::default()).expect("loads")
}

fn parts(c: &mut Criterion) {
    let options = ReadOptions::default();
    c.bench_function("decode", |b| b.iter(|| read_rfc822(black_box(MAIL.as_bytes()), &options)));

    let text = read_rfc822(MAIL.as_bytes(), &options).expect("readable").into_model_text();
    let digest = || Digest::of(&[b"0123456789abcdef", text.text.as_bytes()]);
    let results = ResultCache::new(1 << 20);
    if let Claim::Lead(lead) = results.claim(digest(), 1) {
        lead.fulfil(&Arc::new(Logits([0.5, -0.5].into())));
    }
    c.bench_function("digest and cache hit", |b| {
        b.iter(|| results.get(black_box(digest())).is_some());
    });

    let model = bundled();
    let mut group = c.benchmark_group("tokenise");
    for words in [8, 80, 800] {
        let text = "please find the attached figures ".repeat(words / 5);
        group.bench_with_input(BenchmarkId::from_parameter(words), &text, |b, text| {
            b.iter(|| model.tokenizer().encode(text, 0, LongText::Truncate));
        });
    }
    group.finish();

    let mut group = c.benchmark_group("infer");
    group.sample_size(20);
    for tokens in [16, 128] {
        let sequence = model.tokenizer().encode_exact(tokens);
        group.bench_with_input(BenchmarkId::from_parameter(tokens), &sequence, |b, sequence| {
            b.iter(|| model.forward(&[sequence]));
        });
    }
    group.finish();
}

criterion_group!(benches, parts);
criterion_main!(benches);
