//! Folders that are broken, each in its own way: a clear error, never a panic; and what a folder
//! says of itself.

use std::path::{Path, PathBuf};

use postsort_models::{
    DeviceKind, Encoding, EngineKind, LoadOptions, LongText, Model, ModelError, ModelFolder,
    Precision, SharedEncoder, discover,
};
use serde_json::{Value, json};
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn copy_to(name: &str, to: &Path) {
    std::fs::create_dir_all(to).expect("makes a folder");
    for entry in std::fs::read_dir(fixture(name)).expect("reads") {
        let entry = entry.expect("reads");
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copies");
    }
}

fn copy(name: &str) -> TempDir {
    let dir = tempfile::tempdir().expect("temporary folder");
    copy_to(name, dir.path());
    dir
}

fn options() -> LoadOptions {
    LoadOptions { precision: Precision::F32, ..LoadOptions::default() }
}

fn load(path: &Path) -> Result<Model, ModelError> {
    Model::load(&ModelFolder::open(path)?, &options())
}

fn edit_json(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut json = serde_json::from_slice(&std::fs::read(path).expect("reads")).expect("parses");
    change(&mut json);
    std::fs::write(path, json.to_string()).expect("writes");
}

/// What `change` to the settings of `name` is answered with.
fn with_config(name: &str, change: &Value) -> String {
    let dir = copy(name);
    edit_json(&dir.path().join("config.json"), |config| {
        for (key, value) in change.as_object().expect("an object") {
            config[key] = value.clone();
        }
    });
    load(dir.path()).expect_err(&change.to_string()).to_string()
}

#[test]
fn settings_that_lie_are_named() {
    for (name, change, said) in [
        ("bert", json!({"model_type": "gpt2"}), "`gpt2`"),
        ("bert", json!({"num_hidden_layers": 0}), "`num_hidden_layers` is 0"),
        ("bert", json!({"num_hidden_layers": 4}), "lack tensor `bert.encoder.layer.3."),
        ("bert", json!({"num_hidden_layers": 100_000}), "absurd"),
        ("bert", json!({"num_attention_heads": 5}), "does not divide"),
        ("bert", json!({"num_attention_heads": -4}), "`num_attention_heads`"),
        ("bert", json!({"hidden_size": null}), "`hidden_size` is missing"),
        ("bert", json!({"hidden_size": 64}), "has shape"),
        ("bert", json!({"hidden_size": 1e300}), "`hidden_size`"),
        ("bert", json!({"hidden_size": u64::MAX}), "`hidden_size`"),
        ("bert", json!({"intermediate_size": 57}), "has shape"),
        ("bert", json!({"vocab_size": 10}), "vocabulary has 10"),
        ("bert", json!({"vocab_size": 1_000_000}), "has shape"),
        ("bert", json!({"max_position_embeddings": 512}), "has shape"),
        ("bert", json!({"max_position_embeddings": 3}), "no room beside the special tokens"),
        ("bert", json!({"type_vocab_size": 3}), "has shape"),
        ("bert", json!({"layer_norm_eps": "small"}), "`layer_norm_eps`"),
        ("bert", json!({"hidden_act": "mish"}), "`mish`"),
        ("bert", json!({"position_embedding_type": "relative_key"}), "`relative_key`"),
        (
            "bert",
            json!({"id2label": {"0": "ham", "1": "spam"}}),
            "has 2 labels, the classifier has 3 rows",
        ),
        ("bert", json!({"problem_type": "ranking"}), "`ranking`"),
        ("roberta-multi-label", json!({"pad_token_id": 70}), "no room beside the special tokens"),
        ("electra", json!({"embedding_size": 24}), "has shape"),
        ("distilbert", json!({"n_heads": 3}), "does not divide"),
        ("modernbert-cls", json!({"layer_types": ["full_attention"]}), "1 entries for 4 layers"),
        ("modernbert-cls", json!({"classifier_pooling": "max"}), "`max`"),
        ("modernbert-cls", json!({"rope_scaling": {"rope_type": "yarn"}}), "`rope_scaling`"),
        ("modernbert-cls", json!({"num_attention_heads": 32}), "odd width"),
        ("deberta-v3", json!({"position_buckets": 17}), "has shape"),
        ("deberta-v3", json!({"attention_head_size": 7}), "has shape"),
        ("deberta-v2-conv", json!({"conv_kernel_size": 4}), "not odd"),
        ("deberta-v2-conv", json!({"conv_groups": 5}), "conv"),
    ] {
        let error = with_config(name, &change);
        assert!(error.contains(said), "{name} {change}: {error}");
    }
}

#[test]
fn files_that_are_missing_or_broken_are_named() {
    type Damage = fn(&Path);
    let cases: [(&str, &str, Damage, &str); 14] = [
        ("bert", "config", |dir| remove(dir, "config.json"), "config.json"),
        ("bert", "tokenizer", |dir| remove(dir, "tokenizer.json"), "tokenizer.json"),
        ("bert", "weights", |dir| remove(dir, "model.safetensors"), "no model.safetensors"),
        ("bert", "pickle", |dir| rename(dir, "model.safetensors", "pytorch_model.bin"), "pickle"),
        ("bert", "json", |dir| write(dir, "config.json", b"{\"model_type\": "), "config.json: EOF"),
        ("bert", "list", |dir| write(dir, "config.json", b"[1]"), "model_type"),
        (
            "bert",
            "tokenizer json",
            |dir| write(dir, "tokenizer.json", b"{\"model\": {}}"),
            "tokenizer.json",
        ),
        (
            "bert",
            "side",
            |dir| write(dir, "tokenizer_config.json", b"{\"truncation_side\": \"up\"}"),
            "`up`",
        ),
        ("bert", "empty", |dir| write(dir, "model.safetensors", b""), "no safetensors header"),
        ("bert", "garbage", |dir| write(dir, "model.safetensors", &[0xff; 64]), "header of"),
        ("bert", "cut", |dir| cut(dir, "model.safetensors", 4), "truncated?"),
        (
            "distilbert-shards",
            "shard",
            |dir| remove(dir, "model-00002-of-00003.safetensors"),
            "00002",
        ),
        (
            "distilbert-shards",
            "cut shard",
            |dir| cut(dir, "model-00003-of-00003.safetensors", 1),
            "00003",
        ),
        (
            "distilbert-shards",
            "path",
            |dir| {
                let index = dir.join("model.safetensors.index.json");
                edit_json(&index, |index| {
                    index["weight_map"]["x"] = json!("../../secret.safetensors");
                });
            },
            "outside the folder",
        ),
    ];
    for (name, what, damage, said) in cases {
        let dir = copy(name);
        damage(dir.path());
        let error = load(dir.path()).expect_err(what).to_string();
        assert!(error.contains(said), "{what}: {error}");
    }
}

fn remove(dir: &Path, file: &str) {
    std::fs::remove_file(dir.join(file)).expect("removes");
}

fn rename(dir: &Path, from: &str, to: &str) {
    std::fs::rename(dir.join(from), dir.join(to)).expect("renames");
}

fn write(dir: &Path, file: &str, bytes: &[u8]) {
    std::fs::write(dir.join(file), bytes).expect("writes");
}

fn cut(dir: &Path, file: &str, bytes: usize) {
    let content = std::fs::read(dir.join(file)).expect("reads");
    write(dir, file, &content[..content.len() - bytes]);
}

fn weights(header: &Value, data: usize) -> Vec<u8> {
    let header = header.to_string().into_bytes();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.resize(file.len() + data, 0);
    file
}

/// Headers that parse but do not add up, sizes near the overflow among them.
#[test]
fn headers_that_lie_are_refused() {
    let info = |shape: Value, offsets: Value| json!({"classifier.weight": {"dtype": "F32", "shape": shape, "data_offsets": offsets}});
    for (header, data) in [
        (info(json!([3, 32]), json!([0, 380])), 380),
        (info(json!([3, 32]), json!([384, 0])), 384),
        (info(json!([usize::MAX, 2]), json!([0, 8])), 8),
        (info(json!([1_u64 << 62]), json!([0, 0])), 0),
        (info(json!([3, 32]), json!([u64::MAX - 383, u64::MAX])), 384),
        (info(json!([3, 32]), json!([u64::MAX - 391, u64::MAX - 7])), 384),
        (info(json!([-3, 32]), json!([0, 384])), 384),
        (json!({"classifier.weight": 3}), 0),
        (json!([]), 0),
    ] {
        let dir = copy("bert");
        write(dir.path(), "model.safetensors", &weights(&header, data));
        let error = load(dir.path()).expect_err("refused").to_string();
        assert!(error.contains("model.safetensors"), "{header}: {error}");
    }
    let dir = copy("bert");
    let whole = json!({"dtype": "I64", "shape": [3, 32], "data_offsets": [0, 768]});
    write(dir.path(), "model.safetensors", &weights(&json!({"classifier.weight": whole}), 768));
    assert!(load(dir.path()).expect_err("refused").to_string().contains("lack tensor"));
}

/// Weights in a number type that no engine reads.
#[test]
fn the_type_of_a_tensor_is_named() {
    let dir = copy("bert");
    let path = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&path).expect("reads");
    let text = String::from_utf8_lossy(&bytes).into_owned();
    assert!(text.contains("\"dtype\":\"F32\""));
    let at = bytes.windows(13).position(|part| part == b"\"dtype\":\"F32\"").expect("there");
    let mut changed = bytes;
    changed[at..at + 13].copy_from_slice(b"\"dtype\":\"I32\"");
    std::fs::write(&path, changed).expect("writes");
    let error = load(dir.path()).expect_err("refused").to_string();
    assert!(error.contains("I32"), "{error}");
}

/// A thousand files with a few bytes changed at random: an error or a model, never a panic.
#[test]
fn no_damage_panics() {
    let dir = copy("bert-bf16");
    let mut state = 99_u64;
    let mut below = |limit: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).expect("31 bits") % limit
    };
    let mut refused = 0;
    for (file, rounds, reach) in [
        ("model.safetensors", 600, 5_000),
        ("config.json", 300, usize::MAX),
        ("tokenizer_config.json", 50, usize::MAX),
        ("tokenizer.json", 50, usize::MAX),
    ] {
        let path = dir.path().join(file);
        let whole = std::fs::read(&path).expect("reads");
        for _ in 0..rounds {
            let mut damaged = whole.clone();
            for _ in 0..1 + below(3) {
                let at = below(whole.len().min(reach));
                damaged[at] = [b'0', b'9', b'"', b'-', b'}', 0, 0xff, damaged[at] ^ 1][below(8)];
            }
            std::fs::write(&path, damaged).expect("writes");
            match load(dir.path()) {
                Ok(model) => {
                    let text = model.tokenizer().encode_exact(5);
                    let _ = model.forward(&[&text]).map(|logits| assert!(!logits[0].is_empty()));
                }
                Err(error) => {
                    assert!(!error.to_string().contains("panicked"), "{error}");
                    refused += 1;
                }
            }
        }
        std::fs::write(&path, whole).expect("writes");
    }
    assert!(refused > 300, "{refused} were noticed");
    assert!(load(dir.path()).is_ok());
}

#[test]
fn sequences_that_do_not_fit_are_refused() {
    for name in ["bert", "roberta-multi-label", "deberta-v3", "modernbert-cls"] {
        let model = load(&fixture(name)).expect("loads");
        let sequence = |ids: Vec<u32>| Encoding { type_ids: vec![0; ids.len()], ids };
        let tokens_max = model.tokenizer().tokens_max();
        let vocabulary = model.folder().config().vocabulary;
        let beyond = sequence(vec![2, u32::try_from(vocabulary).expect("small"), 3]);
        assert!(
            matches!(model.forward(&[&beyond]), Err(ModelError::TokenOutOfRange { .. })),
            "{name}"
        );
        let long = sequence(vec![5; tokens_max + 1]);
        assert!(
            matches!(model.forward(&[&long]), Err(ModelError::SequenceLength { .. })),
            "{name}"
        );
        let empty = sequence(Vec::new());
        assert!(
            matches!(model.forward(&[&empty]), Err(ModelError::SequenceLength { .. })),
            "{name}"
        );
        let full = sequence(vec![5; tokens_max]);
        assert_eq!(model.forward(&[&full, &full]).expect("fits").len(), 2, "{name}");
        assert!(model.forward(&[]).expect("nothing to do").is_empty(), "{name}");
        let mut types = sequence(vec![5; 4]);
        types.type_ids[2] = 9;
        let takes_any = model.folder().config().token_types < 2;
        assert_eq!(model.forward(&[&types]).is_ok(), takes_any, "{name}");
    }
}

#[test]
fn the_revision_follows_all_that_changes_an_answer() {
    let dir = copy("bert");
    let revision = |dir: &Path| ModelFolder::open(dir).expect("opens").revision().to_owned();
    let first = revision(dir.path());
    assert_eq!(first.len(), 16);
    assert_eq!(first, revision(&fixture("bert")), "not of the place");
    let mut seen = vec![first];
    let mut changed = |what: &str| {
        let now = revision(dir.path());
        assert!(!seen.contains(&now), "{what}");
        seen.push(now);
    };
    edit_json(&dir.path().join("config.json"), |config| config["layer_norm_eps"] = json!(1e-6));
    changed("config.json");
    edit_json(&dir.path().join("tokenizer_config.json"), |json| {
        json["model_max_length"] = json!(40);
    });
    changed("tokenizer_config.json");
    edit_json(&dir.path().join("tokenizer.json"), |json| {
        json["normalizer"]["lowercase"] = json!(false);
    });
    changed("tokenizer.json");
    write(dir.path(), "postsort.toml", b"temperature = 2.0");
    changed("postsort.toml");
    let weights = dir.path().join("model.safetensors");
    let mut bytes = std::fs::read(&weights).expect("reads");
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight")) as usize;
    let names = String::from_utf8(bytes[8..8 + header].to_vec()).expect("text");
    let names: Value = serde_json::from_str(&names).expect("parses");
    // A new head on a frozen encoder changes nothing else.
    let offset = names["classifier.weight"]["data_offsets"][0].as_u64().expect("a number") as usize;
    bytes[8 + header + offset + 200] ^= 1;
    std::fs::write(&weights, bytes).expect("writes");
    changed("one weight of the head");
}

#[test]
fn one_broken_folder_hides_no_other() {
    let dir = tempfile::tempdir().expect("temporary folder");
    copy_to("electra", &dir.path().join("z"));
    copy_to("bert", &dir.path().join("a"));
    copy_to("bert", &dir.path().join("m"));
    write(&dir.path().join("m"), "config.json", b"{");
    std::fs::create_dir(dir.path().join("not-a-model")).expect("makes a folder");
    write(dir.path(), "README.md", b"models");
    let found = discover(dir.path()).expect("reads");
    let names: Vec<_> =
        found.iter().map(|found| (found.name.as_str(), found.folder.is_ok())).collect();
    assert_eq!(names, [("a", true), ("m", false), ("z", true)]);
    let one = discover(&dir.path().join("z")).expect("reads");
    assert_eq!(one.len(), 1);
    assert_eq!(one[0].name, "z");
    write(&dir.path().join("z"), "postsort.toml", b"name = \"a\"");
    assert!(discover(dir.path()).expect_err("twice").to_string().contains("`a`"));
    assert!(
        discover(&dir.path().join("nowhere"))
            .expect_err("not there")
            .to_string()
            .contains("nowhere")
    );
}

#[test]
fn the_manifest_is_checked() {
    for (manifest, said) in [
        ("lnog = \"window\"", "lnog"),
        ("long = \"widnow\"", "widnow"),
        ("temperature = 0.0", "temperature"),
        ("temperature = nan", "temperature"),
        ("tokens_max = 1", "tokens_max"),
        ("[skim]\nwindows = 0", "skim.windows"),
        ("[skim]\nwindows = 9", "skim.windows"),
        ("[skim]\nconfidence_min = 1.1", "skim.confidence_min"),
        ("precision = \"int7\"", "int7"),
        ("[thresholds]\nspam = 1.5", "thresholds"),
        ("[thresholds]\nphishing = 0.5", "phishing"),
        ("name = ", "postsort.toml"),
    ] {
        let dir = copy("bert");
        write(dir.path(), "postsort.toml", manifest.as_bytes());
        let error = ModelFolder::open(dir.path()).expect_err(manifest).to_string();
        assert!(error.contains(said), "{manifest}: {error}");
    }
    let dir = copy("bert");
    let manifest =
        "name = \"inbox\"\nlong = \"head_tail\"\ntokens_max = 20\n[thresholds]\nspam = 0.9";
    write(dir.path(), "postsort.toml", manifest.as_bytes());
    let folder = ModelFolder::open(dir.path()).expect("opens");
    assert_eq!((folder.name(), folder.tokens_max()), ("inbox", 20));
    assert_eq!(folder.manifest().thresholds["spam"], 0.9);
}

#[test]
fn memory_is_known_before_the_weights_are_read() {
    for name in
        ["bert", "bert-bf16", "roberta-f16", "distilbert-shards", "deberta-v3", "modernbert-cls"]
    {
        let folder = ModelFolder::open(&fixture(name)).expect("opens");
        let estimate = options().resident_bytes_estimate(&folder);
        let resident = Model::load(&folder, &options()).expect("loads").resident_bytes();
        assert!(
            resident <= estimate && estimate < resident * 11 / 10 + (1 << 20),
            "{name}: {resident} of {estimate}"
        );
        assert!(folder.weight_bytes() > 0);
    }
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_device_or_precision_that_is_not_there_is_an_error() {
    let folder = ModelFolder::open(&fixture("bert")).expect("opens");
    let error = DeviceKind::Cuda(0).open().expect_err("no GPU").to_string();
    assert!(error.contains("`cuda`"), "{error}");
    let device = DeviceKind::Auto.open().expect("the CPU at least");
    let memory = device.memory().expect("a reading");
    assert!(device.name() == "cpu" && memory.free_bytes <= memory.total_bytes, "{memory:?}");
    let model =
        Model::load(&folder, &LoadOptions { device, ..LoadOptions::default() }).expect("loads");
    assert_eq!((model.engine().device().as_str(), model.engine().name()), ("cpu", "cpu"));
    let candle = EngineKind::Candle;
    let reference = LoadOptions { engine: candle, ..LoadOptions::default() };
    let model = Model::load(&folder, &reference).expect("loads");
    assert_eq!((model.engine().name(), model.engine().precision()), ("candle", Precision::F32));
    let int8 = LoadOptions { engine: candle, precision: Precision::Int8, ..options() };
    let error = Model::load(&folder, &int8).expect_err("candle has no int8").to_string();
    assert!(error.contains("int8"), "{error}");
    for text in ["auto", "cpu", "cuda:1"] {
        assert_eq!(text.parse::<DeviceKind>().expect("parses").to_string(), text);
    }
    assert!("gpu".parse::<DeviceKind>().is_err() && "f64".parse::<Precision>().is_err());
}

/// Flips the lowest bit of the number in the middle of a tensor.
fn edit_middle(folder: &Path, tensor: &str) {
    let path = folder.join("model.safetensors");
    let mut bytes = std::fs::read(&path).expect("reads");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("a header");
    let offset = |at: usize| header[tensor]["data_offsets"][at].as_u64().expect(tensor) as usize;
    let middle = 8 + length + (offset(0) + offset(1)) / 8 * 4;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).expect("writes");
}

#[test]
fn equal_encoders_are_in_memory_once() {
    let (one, other, near) = (copy("bert"), copy("bert"), copy("bert"));
    edit_middle(other.path(), "classifier.weight");
    // Between the samples that a revision is told by: only a look at every byte finds it.
    edit_middle(near.path(), "bert.embeddings.word_embeddings.weight");
    for precision in [Precision::F32, Precision::Int8] {
        let options = LoadOptions { precision, ..options() };
        let open = |dir: &TempDir| ModelFolder::open(dir.path()).expect("opens");
        let load = |dir: &TempDir| Model::load(&open(dir), &options).expect("loads");
        let (first, second, third) = (load(&one), load(&other), load(&near));
        let encoder = |model: &Model| {
            let encoder = model.encoder().expect("one of its own");
            (encoder.address(), encoder.key().to_owned())
        };
        assert_eq!(encoder(&first), encoder(&second), "{precision}");
        assert_ne!(encoder(&first).0, encoder(&third).0, "{precision}");
        assert_ne!(encoder(&first).1, encoder(&third).1, "{precision}");
        assert_eq!(first.encoder().map(SharedEncoder::models), Some(2));
        // In another precision it is another one.
        let exact = LoadOptions { precision: Precision::Bf16, ..options.clone() };
        let narrow = Model::load(&open(&one), &exact).expect("loads");
        assert_ne!(encoder(&first), encoder(&narrow));
        let text = first.tokenizer().encode("A mail", 0, LongText::Truncate).expect("encodes");
        let window = &text.windows[0];
        let states = first.engine().encode(&[window]).expect("computes");
        let of = |model: &Model| model.engine().logits(&states).expect("computes");
        assert_eq!(of(&first), first.forward(&[window]).expect("computes"));
        assert_eq!(of(&second), second.forward(&[window]).expect("computes"));
        let needs = options.memory_needs(first.folder());
        assert!(first.memory().own_bytes <= needs.own_bytes);
        drop(second);
        assert_eq!(first.encoder().map(SharedEncoder::models), Some(1));
        let own = first.memory().own_bytes;
        assert_eq!(first.resident_bytes(), own + first.memory().encoder.expect("one").1);
    }
}

/// Settings that change states make another encoder of the same weights; a head does not.
#[test]
fn an_encoder_is_known_by_all_that_changes_its_states() {
    for (name, settings) in [
        (
            "modernbert-cls",
            vec![
                ("classifier_pooling", json!("mean")),
                ("local_attention", json!(8)),
                ("layer_types", Value::from(vec!["full_attention"; 4])),
            ],
        ),
        (
            "deberta-v3",
            vec![
                ("max_relative_positions", json!(40)),
                ("pos_att_type", json!(["c2p"])),
                ("norm_rel_ebd", json!("none")),
            ],
        ),
    ] {
        let key = |dir: &TempDir| {
            let model = load(dir.path()).expect("loads");
            model.encoder().expect("one of its own").key().to_owned()
        };
        let (own, other) = (copy(name), copy(name));
        edit_middle(other.path(), "classifier.weight");
        assert_eq!(key(&own), key(&other), "{name}: another head");
        for (setting, value) in settings {
            let changed = copy(name);
            edit_json(&changed.path().join("config.json"), |config| config[setting] = value);
            assert_ne!(key(&own), key(&changed), "{name}: {setting}");
        }
    }
}
