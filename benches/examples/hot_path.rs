//! One part of a request's way, so many times: what `scripts/perf-guard` counts instructions of.
//!
//! `hot_path decode|lookup|tokenize|cached|scrape ITERATIONS` does its part that often on one
//! thread, with the same input each time, within [`repeat`]: what is counted is what that takes.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::http::Request;
use postsort_cache::{Claim, Digest, ResultCache};
use postsort_email::{ReadOptions, read_rfc822};
use postsort_models::{LoadOptions, LongText, Model, ModelFolder};
use postsort_server::config::Options;
use postsort_server::http::{App, router};
use postsort_server::pipeline::Pipeline;
use sample::{Logits, MAIL};
use tower::ServiceExt;

#[path = "../sample.rs"]
mod sample;

fn root() -> PathBuf {
    std::env::var_os("POSTSORT_ROOT")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), PathBuf::from)
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let part = arguments.next().expect("a part");
    let times: u32 = arguments.next().and_then(|n| n.parse().ok()).expect("a number");
    let took = match part.as_str() {
        "decode" => {
            let options = ReadOptions::default();
            repeat(times, || read_rfc822(black_box(MAIL.as_bytes()), &options))
        }
        "lookup" => {
            let digest = || Digest::of(&[b"0123456789abcdef", MAIL.as_bytes()]);
            let results = ResultCache::new(1 << 20);
            if let Claim::Lead(lead) = results.claim(digest(), 1) {
                lead.fulfil(&Arc::new(Logits([0.5, -0.5].into())));
            }
            repeat(times, || results.get(black_box(digest())).is_some())
        }
        "tokenize" => {
            let folder = ModelFolder::open(&root().join("bundled/spam")).expect("the model");
            let model = Model::load(&folder, &LoadOptions::default()).expect("loads");
            let text = "please find the attached figures of the third quarter ".repeat(12);
            repeat(times, || model.tokenizer().encode(&text, 0, LongText::Truncate))
        }
        "cached" => {
            serve("/v1/classify", Some(r#"{"inputs":"are we still on for lunch?"}"#), times)
        }
        "scrape" => serve("/metrics", None, times),
        other => panic!("no such part: {other}"),
    };
    println!("{part}: {:.3} us each", took / f64::from(times.max(1)) * 1e6);
}

#[inline(never)]
fn repeat<T>(times: u32, mut work: impl FnMut() -> T) -> f64 {
    let clock = Instant::now();
    (0..times).for_each(|_| drop(black_box(work())));
    clock.elapsed().as_secs_f64()
}

/// Requests through every layer of the server but the socket, after one that warms it.
fn serve(path: &str, body: Option<&str>, times: u32) -> f64 {
    let models_dir = root().join("models/tests/fixtures");
    let options = Options {
        models_dir: Some(models_dir),
        default_model: Some("bert".to_owned()),
        threads: Some(1),
        ..Options::default()
    };
    let config = options.resolve().expect("valid settings");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let pipeline = Arc::new(Pipeline::new(&config).expect("opens"));
    let app = router(App::new(Arc::clone(&pipeline), &config).expect("starts"));
    let ask = async || {
        let request = match body {
            Some(body) => Request::post(path)
                .header("content-type", "application/json")
                .header("content-length", body.len())
                .body(Body::from(body.to_owned())),
            None => Request::get(path).body(Body::empty()),
        };
        let answer = app.clone().oneshot(request.expect("a request")).await.expect("answers");
        assert_eq!(answer.status(), 200);
        axum::body::to_bytes(answer.into_body(), usize::MAX).await.expect("a body")
    };
    drop(runtime.block_on(ask()));
    repeat(times, || runtime.block_on(ask()))
}
