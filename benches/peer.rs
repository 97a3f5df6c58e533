//! One engine behind a pipe, for `scripts/bench-peers`, which measures it beside others.
//!
//! A line of JSON for each line of JSON. `{"op": "run", "ids": [[…], …], "reps": n}` gives
//! `{"ms": […], "logits": [[…], …]}`; `{"op": "peak"}` gives operations a second, in 10^9, that
//! the machine does at most. A first line says what is ready.

use std::error::Error;
use std::io::{BufRead, Write, stdin, stdout};
use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use postsort_models::{Encoding, EngineKind, LoadOptions, Model, ModelFolder, Precision};
use serde::{Deserialize, Serialize};

#[derive(Parser)]
struct Options {
    #[arg(long)]
    model_dir: PathBuf,
    #[arg(long)]
    precision: Precision,
    /// `auto` or `candle`
    #[arg(long, default_value = "auto")]
    engine: EngineKind,
    /// Where a calibration is kept for the next precision
    #[arg(long)]
    calibration_dir: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Request {
    Run { ids: Vec<Vec<u32>>, reps: usize },
    Peak,
}

#[derive(Serialize)]
struct Ready {
    engine: &'static str,
    kernels: Option<&'static str>,
    /// CPUs that the process may use: every engine here takes as many threads.
    threads: usize,
}

#[derive(Serialize)]
struct Answer {
    ms: Vec<f64>,
    logits: Vec<Vec<f32>>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let Options { model_dir, precision, engine, calibration_dir } = Options::parse();
    let folder = ModelFolder::open(&model_dir)?;
    let options = LoadOptions { precision, engine, calibration_dir, ..LoadOptions::default() };
    let model = Model::load(&folder, &options)?;
    if model.engine().precision() != precision {
        return Err(format!(
            "{} computes in {}",
            model.engine().name(),
            model.engine().precision()
        )
        .into());
    }
    let threads = peak::threads();
    answer(&Ready { engine: model.engine().name(), kernels: model.engine().kernels(), threads })?;
    for line in stdin().lock().lines() {
        match serde_json::from_str(&line?)? {
            Request::Run { ids, reps } => answer(&run(&model, ids, reps)?)?,
            Request::Peak => answer(&peak::measure())?,
        }
    }
    Ok(())
}

fn answer(value: &impl Serialize) -> Result<(), Box<dyn Error>> {
    let mut out = stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    writeln!(out)?;
    Ok(out.flush()?)
}

fn run(model: &Model, ids: Vec<Vec<u32>>, reps: usize) -> Result<Answer, Box<dyn Error>> {
    let encodings: Vec<Encoding> =
        ids.into_iter().map(|ids| Encoding { type_ids: vec![0; ids.len()], ids }).collect();
    let batch: Vec<&Encoding> = encodings.iter().collect();
    let (mut ms, mut logits) = (Vec::with_capacity(reps), Vec::new());
    for _ in 0..reps {
        let start = Instant::now();
        logits = model.forward(&batch)?;
        ms.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(Answer { ms, logits })
}

/// What the machine's vector units do at most: products whose sums never wait for one another, in
/// registers, on all threads.
mod peak {
    use std::hint::black_box;
    use std::num::NonZero;
    use std::thread;
    use std::time::{Duration, Instant};

    use serde::Serialize;

    /// Sums at a time: more than any CPU has products under way.
    const CHAINS: usize = 12;
    const STEPS: u32 = 1000;
    const WINDOW: Duration = Duration::from_micros(500);
    const WINDOWS: usize = 20;

    /// 10^9 operations a second, a product and a sum being two; none where the CPU has no instruction
    /// for it. Of 8 bits without AVX-512's: as exact ones of 16, two by two, and their sums.
    #[derive(Serialize)]
    pub(crate) struct Peak {
        int8: Option<f64>,
        bf16: Option<f64>,
        f32: Option<f64>,
    }

    /// Threads of every engine.
    pub(crate) fn threads() -> usize {
        thread::available_parallelism().map_or(1, NonZero::get)
    }

    /// `products` a call of one instruction; `kernel` calls it [`STEPS`] × [`CHAINS`] times. Each
    /// thread's best window counts: other work on the machine is no part of what it can do.
    fn rate(products: usize, kernel: impl Fn() + Sync) -> f64 {
        let window = || {
            let start = Instant::now();
            let mut calls = 0;
            while start.elapsed() < WINDOW {
                kernel();
                calls += STEPS as usize * CHAINS;
            }
            (calls * products * 2) as f64 / start.elapsed().as_secs_f64() / 1e9
        };
        let one_thread = || (0..WINDOWS).map(|_| window()).fold(0.0, f64::max);
        thread::scope(|scope| {
            let threads: Vec<_> = (0..threads()).map(|_| scope.spawn(one_thread)).collect();
            threads.into_iter().map(|thread| thread.join().expect("does not panic")).sum()
        })
    }

    #[cfg(target_arch = "x86_64")]
    mod kernels {
        use std::arch::x86_64::*;

        use super::{CHAINS, STEPS, black_box};

        /// `$sum = $product`, over and over; `$x` is what it multiplies.
        macro_rules! kernel {
            (
                $name:ident: $features:literal; $zero:expr; $x:ident = $value:expr;
                $sum:ident = $product:expr
            ) => {
                #[target_feature(enable = $features)]
                pub(super) fn $name() {
                    let $x = black_box($value);
                    let mut sums = [$zero; CHAINS];
                    for _ in 0..STEPS {
                        for $sum in &mut sums {
                            *$sum = $product;
                        }
                    }
                    black_box(sums);
                }
            };
        }

        kernel!(int8: "avx512f,avx512vnni"; _mm512_setzero_si512(); x = _mm512_set1_epi8(1);
            sum = _mm512_dpbusd_epi32(*sum, x, x));
        kernel!(bf16: "avx512f,avx512bf16"; _mm512_setzero_ps(); x = bits(_mm512_setzero_si512());
            sum = _mm512_dpbf16_ps(*sum, x, x));
        kernel!(f32: "avx512f"; _mm512_setzero_ps(); x = _mm512_set1_ps(1.0);
            sum = _mm512_fmadd_ps(x, x, *sum));

        // What is multiplied are the sums, else the product would be taken out of the loop.
        kernel!(int8_as_int16: "avx2"; _mm256_setzero_si256(); x = _mm256_set1_epi16(1);
            sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(*sum, x)));
        kernel!(f32_256: "avx2,fma"; _mm256_setzero_ps(); x = _mm256_set1_ps(1.0);
            sum = _mm256_fmadd_ps(x, x, *sum));

        #[target_feature(enable = "avx512f")]
        fn bits(x: __m512i) -> __m512bh {
            // SAFETY: both are 64 bytes of which every pattern is a value.
            unsafe { std::mem::transmute(x) }
        }
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) fn measure() -> Peak {
        let avx512 = is_x86_feature_detected!("avx512f");
        let vnni = avx512 && is_x86_feature_detected!("avx512vnni");
        let bf16 = avx512 && is_x86_feature_detected!("avx512bf16");
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        // Else its 8-bit products are faster than those of 16 bits, and are not measured.
        let pairs = avx2 && !is_x86_feature_detected!("avxvnni");
        // SAFETY of all: the CPU has the features that the function is compiled for.
        #[expect(clippy::undocumented_unsafe_blocks, reason = "as above")]
        Peak {
            int8: match (vnni, pairs) {
                (true, _) => Some(rate(64, || unsafe { kernels::int8() })),
                (_, true) => Some(rate(16, || unsafe { kernels::int8_as_int16() })),
                _ => None,
            },
            bf16: bf16.then(|| rate(32, || unsafe { kernels::bf16() })),
            f32: match (avx512, avx2) {
                (true, _) => Some(rate(16, || unsafe { kernels::f32() })),
                (_, true) => Some(rate(8, || unsafe { kernels::f32_256() })),
                _ => None,
            },
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn measure() -> Peak {
        Peak { int8: None, bf16: None, f32: None }
    }
}
