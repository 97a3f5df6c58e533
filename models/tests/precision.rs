//! The bundled model in less than f32: which precision is picked, what is kept of the measurement.

use std::path::{Path, PathBuf};

use postsort_models::{Encoding, LoadOptions, LongText, Model, ModelFolder, Precision, kernels};

const MAILS: [&str; 6] = [
    "Lunch?\nShall we meet at noon?",
    "WIN A PRIZE NOW\nClick http://prize.example to claim your $5000, no purchase necessary!!!",
    "Re: patch for the resolver\nApplied, thanks. I changed the error path so that it frees the buffer.",
    "x",
    "Ihre Rechnung\nSehr geehrte Damen und Herren, anbei die Rechnung über 240 € für März.",
    "会议通知\n周五下午三点开会 📅",
];

fn bundled() -> ModelFolder {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bundled/spam");
    ModelFolder::open(&path).expect("opens")
}

fn load(precision: Precision, dir: Option<PathBuf>) -> Model {
    let options = LoadOptions { precision, calibration_dir: dir, ..LoadOptions::default() };
    Model::load(&bundled(), &options).expect("loads")
}

fn encodings(model: &Model) -> Vec<Encoding> {
    let encode = |text: &&str| model.tokenizer().encode(text, 0, LongText::Truncate);
    MAILS.iter().flat_map(|text| encode(text).expect("encodes").windows).collect()
}

fn logits(model: &Model) -> Vec<Vec<f32>> {
    let encodings = encodings(model);
    model.forward(&encodings.iter().collect::<Vec<_>>()).expect("computes")
}

#[test]
fn less_than_f32_is_near_it_and_says_how_near() {
    let exact = logits(&load(Precision::F32, None));
    for (precision, limit) in [(Precision::Bf16, 0.05), (Precision::Int8, 0.25)] {
        let model = load(precision, None);
        assert_eq!(model.engine().precision(), precision);
        let agreement = model.engine().agreement().expect("measured");
        assert_eq!((agreement.precision, agreement.texts), (precision, 256));
        assert!(agreement.top_label_share > 0.98, "{agreement:?}");
        let ours = logits(&model);
        assert_ne!(ours, exact, "not f32");
        for (ours, exact) in ours.iter().flatten().zip(exact.iter().flatten()) {
            assert!((ours - exact).abs() <= limit, "{precision}: {ours} {exact}");
        }
        let estimate = LoadOptions { precision, ..LoadOptions::default() }
            .resident_bytes_estimate(model.folder());
        assert!(model.resident_bytes() <= estimate);
    }
}

#[test]
fn the_batch_changes_no_answer_in_any_precision() {
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let model = load(precision, None);
        let together = logits(&model);
        for (sequence, together) in encodings(&model).iter().zip(together) {
            assert_eq!(model.forward(&[sequence]).expect("computes")[0], together, "{precision}");
        }
    }
}

/// Small generated models of the other families: near f32, and the batch changes no answer.
#[test]
fn other_families_compute_in_less_than_f32() {
    for name in [
        "deberta-v3",
        "deberta-v2-c2p",
        "deberta-v2-p2c",
        "deberta-v2-absolute",
        "modernbert-cls",
        "modernbert-mean-biases",
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        let folder = ModelFolder::open(&path).expect("opens");
        let load = |precision| {
            let options = LoadOptions { precision, ..LoadOptions::default() };
            let model = Model::load(&folder, &options).expect("loads");
            assert!(model.resident_bytes() <= options.resident_bytes_estimate(&folder), "{name}");
            model
        };
        let exact = logits(&load(Precision::F32));
        let largest = exact.iter().flatten().fold(0.0_f32, |most, logit| most.max(logit.abs()));
        for (precision, limit) in [(Precision::Bf16, 0.03), (Precision::Int8, 0.06)] {
            let model = load(precision);
            assert_eq!((model.engine().name(), model.engine().precision()), ("cpu", precision));
            let ours = logits(&model);
            assert_ne!(ours, exact, "{name}: not f32");
            for (ours, exact) in ours.iter().flatten().zip(exact.iter().flatten()) {
                let error = (ours - exact).abs() / largest;
                assert!(error <= limit, "{name} in {precision}: {ours}, {exact} in f32");
            }
            for (sequence, together) in encodings(&model).iter().zip(ours) {
                assert_eq!(model.forward(&[sequence]).expect("computes")[0], together, "{name}");
            }
        }
    }
}

#[test]
fn auto_picks_what_agrees() {
    let model = load(Precision::Auto, None);
    match model.engine().agreement() {
        Some(agreement) => {
            assert!(agreement.holds(), "{agreement:?}");
            assert_eq!(agreement.precision, model.engine().precision());
        }
        None => assert_eq!(model.engine().precision(), Precision::F32),
    }
}

#[test]
fn a_measurement_is_kept_and_trusted_only_whole() {
    let dir = tempfile::tempdir().expect("temporary folder");
    // A copy without the calibration that comes with the bundled model.
    let copy = dir.path().join("model");
    std::fs::create_dir(&copy).expect("creates");
    for file in std::fs::read_dir(bundled().path()).expect("lists") {
        let path = file.expect("lists").path();
        std::fs::copy(&path, copy.join(path.file_name().expect("a file"))).expect("copies");
    }
    std::fs::remove_file(copy.join("calibration.safetensors")).expect("there is one");
    let folder = ModelFolder::open(&copy).expect("opens");
    let kept = dir.path().join("kept");
    let options = LoadOptions { calibration_dir: Some(kept.clone()), ..LoadOptions::default() };
    let unmeasured = options.resident_bytes_estimate(&folder);
    let first = Model::load(&folder, &options).expect("loads");
    let file = kept.join(format!("{}.safetensors", folder.computation()));
    let bytes = std::fs::read(&file).expect("kept");
    if first.engine().precision() != Precision::F32 {
        assert!(options.resident_bytes_estimate(&folder) < unmeasured, "no f32 while loading");
    }
    let second = Model::load(&folder, &options).expect("loads");
    assert_eq!(first.engine().agreement(), second.engine().agreement());
    assert_eq!(logits(&first), logits(&second));
    assert_eq!(std::fs::read(&file).expect("reads"), bytes, "not measured again");
    // Damaged, or of another model: measured again, with the same result.
    let mut other = bytes.clone();
    let at = bytes.windows(16).position(|part| part == folder.computation().as_bytes());
    other[at.expect("names its revision")] ^= 1;
    for damaged in [&bytes[..bytes.len() / 2], &other] {
        std::fs::write(&file, damaged).expect("writes");
        let again = Model::load(&folder, &options).expect("loads");
        assert_eq!(logits(&again), logits(&first));
        assert_eq!(std::fs::read(&file).expect("reads").len(), bytes.len(), "kept again");
    }
    // In the folder itself it is found without the other.
    let found = Model::calibrate(&folder, &LoadOptions::default()).expect("measures");
    assert!(!found.is_empty() && copy.join("calibration.safetensors").is_file());
    // For CPUs whose attention multiplies otherwise, too.
    let level = kernels().level;
    let other = level.with_other_attention();
    assert_eq!(found.iter().any(|(level, _)| Some(*level) == other), other.is_some());
    let own = Model::load(&folder, &LoadOptions::default()).expect("loads");
    assert_eq!(own.engine().agreement(), first.engine().agreement());
    assert_eq!(ModelFolder::open(&copy).expect("opens").revision(), folder.revision());
}
