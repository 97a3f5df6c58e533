//! Every architecture against `transformers`: same ids, logits within 1e-3.
//!
//! `scripts/fixtures` makes the folders and what is expected of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use postsort_models::{EngineKind, LoadOptions, LongText, Model, ModelFolder, Precision};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::Deserialize;

const TOLERANCE: f32 = 1e-3;

#[derive(Deserialize)]
struct Expected {
    text: String,
    pair: Option<String>,
    ids: Vec<u32>,
    logits: Vec<f32>,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn load_on(path: &Path, engine: EngineKind) -> Model {
    let folder = ModelFolder::open(path).expect("opens");
    let precision = Precision::F32;
    let options = LoadOptions { precision, engine, ..LoadOptions::default() };
    Model::load(&folder, &options).expect("loads")
}

fn load(path: &Path) -> Model {
    load_on(path, EngineKind::Auto)
}

/// The engine that serves and the reference, each against `transformers`.
fn compare_engines(path: &Path, name: &str) {
    let served = load(path);
    compare(&served, name);
    // A convolution is all that only the reference computes.
    assert_eq!(served.engine().name() == "candle", name == "deberta-v2-conv", "{name}");
    if served.engine().name() != "candle" {
        compare(&load_on(path, EngineKind::Candle), name);
    }
}

fn compare(model: &Model, name: &str) {
    let expected = std::fs::read(fixture(name).join("expected.json")).expect("reads");
    let expected: Vec<Expected> = serde_json::from_slice(&expected).expect("parses");
    assert!(expected.len() >= 4);
    let mut worst = 0_f32;
    for (at, case) in expected.iter().enumerate() {
        let encoded = match &case.pair {
            None => model.tokenizer().encode(&case.text, 0, LongText::Truncate),
            Some(second) => model.tokenizer().encode_pair(&case.text, second),
        };
        let encoded = encoded.expect("encodes");
        assert_eq!(encoded.windows.len(), 1);
        assert_eq!(encoded.windows[0].ids, case.ids, "{name} case {at}");
        if encoded.truncated {
            assert_eq!(case.ids.len(), model.tokenizer().tokens_max(), "{name} case {at}");
        } else {
            assert!(case.text.len() < 5_000, "{name} case {at}: read whole");
        }
        let logits = model.forward(&[&encoded.windows[0]]).expect("computes").remove(0);
        assert_eq!(logits.len(), case.logits.len());
        for (found, wanted) in logits.iter().zip(&case.logits) {
            assert!(found.is_finite());
            worst = worst.max((found - wanted).abs());
        }
        assert!(
            worst <= TOLERANCE,
            "{name} case {at}: {logits:?}, transformers says {:?}",
            case.logits
        );
    }
    println!("| {name} | {} | {} | {worst:.1e} |", model.engine().name(), expected.len());
}

macro_rules! parity {
    ($($test:ident: $name:literal;)*) => {$(
        #[test]
        fn $test() {
            compare_engines(&fixture($name), $name);
        }
    )*};
}

parity! {
    bert: "bert";
    bert_with_version_4_settings_and_old_names: "bert-v4-old-names";
    bert_in_bf16: "bert-bf16";
    bert_cut_on_the_left: "bert-left";
    bert_with_relu_and_one_label: "bert-relu-one-label";
    distilbert: "distilbert";
    distilbert_in_shards: "distilbert-shards";
    roberta_with_several_labels: "roberta-multi-label";
    roberta_in_f16: "roberta-f16";
    xlm_roberta: "xlm-roberta";
    electra_with_projection: "electra";
    electra_with_gelu_new: "electra-gelu-new";
    deberta_v3: "deberta-v3";
    deberta_v3_with_version_4_settings: "deberta-v3-v4";
    deberta_v2_with_convolution: "deberta-v2-conv";
    deberta_v2_content_to_position: "deberta-v2-c2p";
    deberta_v2_position_to_content: "deberta-v2-p2c";
    deberta_v2_absolute: "deberta-v2-absolute";
    modernbert_by_first_token: "modernbert-cls";
    modernbert_by_mean_with_biases: "modernbert-mean-biases";
    modernbert_with_version_4_settings: "modernbert-v4";
}

/// The shapes of the seed application, with weights that are made here and in `transformers` by
/// the same rule.
fn compare_large(name: &str) {
    let dir = tempfile::tempdir().expect("temporary folder");
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixture(name).join(file), dir.path().join(file)).expect("copies");
    }
    let shapes = std::fs::read(fixture(name).join("shapes.json")).expect("reads");
    let shapes: BTreeMap<String, Vec<usize>> = serde_json::from_slice(&shapes).expect("parses");
    let data: BTreeMap<&String, Vec<u8>> =
        shapes.iter().map(|(name, shape)| (name, hashed(name, shape.iter().product()))).collect();
    let views = shapes.iter().map(|(name, shape)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), &data[name]).expect("fits"))
    });
    safetensors::serialize_to_file(views, None, &dir.path().join("model.safetensors"))
        .expect("writes");
    drop(data);
    compare_engines(dir.path(), name);
}

/// splitmix64 of the name's FNV-1a hash and the index; 24 bits of it, so that f32 is exact.
fn hashed(name: &str, count: usize) -> Vec<u8> {
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    let one = name.to_lowercase().contains("norm") && name.ends_with("weight");
    let mut bytes = Vec::with_capacity(count * 4);
    for index in 0..count as u64 {
        let mut z = index.wrapping_add(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let unit = (z >> 40) as f32 / (1 << 23) as f32 - 1.0;
        let value = unit * 0.0625 + if one { 1.0 } else { 0.0 };
        bytes.extend(value.to_le_bytes());
    }
    bytes
}

#[test]
fn bert_tiny_shape() {
    compare_large("large-bert-tiny");
}

#[test]
fn distilbert_base_shape() {
    compare_large("large-distilbert-base");
}

#[test]
fn roberta_base_shape() {
    compare_large("large-roberta-base");
}

#[test]
fn an_answer_does_not_depend_on_the_batch() {
    for name in [
        "bert",
        "roberta-multi-label",
        "deberta-v3",
        "deberta-v2-conv",
        "modernbert-cls",
        "modernbert-mean-biases",
    ] {
        let model = load(&fixture(name));
        let texts = ["a", "are we still on for lunch?", "Click here: http://x.example 50% off"];
        let encode = |text| model.tokenizer().encode(text, 0, LongText::Truncate).expect("encodes");
        let encodings: Vec<_> = texts.iter().flat_map(|text| encode(text).windows).collect();
        let batch: Vec<_> = encodings.iter().collect();
        let together = model.forward(&batch).expect("computes");
        for (alone, together) in batch.iter().zip(together) {
            assert_eq!(model.forward(&[*alone]).expect("computes")[0], together, "bit-equal");
        }
    }
}

/// An encoder saved on its own has names without the family's prefix.
#[test]
fn names_need_no_prefix() {
    for (name, prefix) in [
        ("bert", "bert."),
        ("distilbert", "distilbert."),
        ("roberta-multi-label", "roberta."),
        ("xlm-roberta", "roberta."),
        ("electra", "electra."),
        ("deberta-v2-conv", "deberta."),
        ("modernbert-cls", "model."),
    ] {
        let dir = tempfile::tempdir().expect("temporary folder");
        for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(fixture(name).join(file), dir.path().join(file)).expect("copies");
        }
        let bytes = std::fs::read(fixture(name).join("model.safetensors")).expect("reads");
        let tensors = SafeTensors::deserialize(&bytes).expect("parses");
        let stripped = tensors
            .iter()
            .map(|(name, tensor)| (name.strip_prefix(prefix).unwrap_or(name), tensor));
        assert!(tensors.names().iter().any(|name| name.starts_with(prefix)), "{name}");
        safetensors::serialize_to_file(stripped, None, &dir.path().join("model.safetensors"))
            .expect("writes");
        compare_engines(dir.path(), name);
    }
}

#[test]
fn labels_follow_the_folder() {
    let labels = |name: &str| ModelFolder::open(&fixture(name)).expect("opens").labels().clone();
    assert_eq!(labels("bert").names(), ["ham", "spam", "list"]);
    assert_eq!(labels("roberta-multi-label").names().len(), 5);
    assert_eq!(labels("bert-relu-one-label").names(), ["LABEL_0"]);
}
