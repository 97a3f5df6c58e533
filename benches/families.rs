//! The fast engine beside the reference engine, on generated models of the shapes of ModernBERT-base
//! and DeBERTa-v3-small.
//!
//! `cargo run --release -p postsort-benches --bin families -- DIR [tokens] [rounds]`
//!
//! Models, and what was measured of their channels, are kept in `DIR`. Passes of the engines take
//! turns; medians and their ratios to the reference's count.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

use postsort_models::{
    DeviceKind, Encoding, EngineKind, LoadOptions, Model, ModelFolder, Precision,
};
use serde_json::{Value, json};

/// Name, shape and mean of a tensor's numbers.
type Tensor = (String, Vec<usize>, f32);

const VOCABULARY: usize = 1000;
const POSITIONS: usize = 512;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().ok_or("a folder for the models")?;
    let tokens = arguments.next().map_or(Ok(128), |text| text.parse())?;
    let rounds = arguments.next().map_or(Ok(9), |text| text.parse())?;
    println!("| model | tokens | engine | median ms | reference / it |");
    println!("|---|---|---|---|---|");
    for (name, fixture, (config, tensors)) in [
        ("ModernBERT-base", "modernbert-cls", modern_bert()),
        ("DeBERTa-v3-small", "deberta-v3", deberta()),
    ] {
        let path = Path::new(&dir).join(name);
        if !path.is_dir() {
            write(&path, fixture, &config, &tensors)?;
        }
        measure(&path, name, tokens, rounds)?;
    }
    Ok(())
}

fn modern_bert() -> (Value, Vec<Tensor>) {
    let (hidden, layers, wide) = (768, 22, 1152);
    let mut tensors = vec![
        ("model.embeddings.tok_embeddings.weight".to_owned(), vec![VOCABULARY, hidden], 0.0),
        ("model.embeddings.norm.weight".to_owned(), vec![hidden], 1.0),
        ("model.final_norm.weight".to_owned(), vec![hidden], 1.0),
        ("head.norm.weight".to_owned(), vec![hidden], 1.0),
        ("head.dense.weight".to_owned(), vec![hidden, hidden], 0.0),
        ("classifier.weight".to_owned(), vec![2, hidden], 0.0),
        ("classifier.bias".to_owned(), vec![2], 0.0),
    ];
    for at in 0..layers {
        let name = |part: &str| format!("model.layers.{at}.{part}.weight");
        if at > 0 {
            tensors.push((name("attn_norm"), vec![hidden], 1.0));
        }
        tensors.extend([
            (name("mlp_norm"), vec![hidden], 1.0),
            (name("attn.Wqkv"), vec![3 * hidden, hidden], 0.0),
            (name("attn.Wo"), vec![hidden, hidden], 0.0),
            (name("mlp.Wi"), vec![2 * wide, hidden], 0.0),
            (name("mlp.Wo"), vec![hidden, wide], 0.0),
        ]);
    }
    let config = json!({
        "model_type": "modernbert", "hidden_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": 12, "intermediate_size": wide, "vocab_size": VOCABULARY,
        "max_position_embeddings": POSITIONS, "local_attention": 128, "pad_token_id": 1,
    });
    (config, tensors)
}

fn deberta() -> (Value, Vec<Tensor>) {
    let (hidden, layers, wide, buckets) = (768, 6, 3072, 256);
    let mut tensors = vec![
        ("deberta.embeddings.word_embeddings.weight".to_owned(), vec![VOCABULARY, hidden], 0.0),
        ("deberta.encoder.rel_embeddings.weight".to_owned(), vec![2 * buckets, hidden], 0.0),
    ];
    let mut pair = |name: String, shape: [usize; 2], mean: f32| {
        let shape = if shape[1] == 0 { vec![shape[0]] } else { shape.to_vec() };
        tensors.push((format!("{name}.bias"), vec![shape[0]], 0.0));
        tensors.push((format!("{name}.weight"), shape, mean));
    };
    for name in ["deberta.embeddings.LayerNorm", "deberta.encoder.LayerNorm"] {
        pair(name.to_owned(), [hidden, 0], 1.0);
    }
    pair("pooler.dense".to_owned(), [hidden, hidden], 0.0);
    pair("classifier".to_owned(), [2, hidden], 0.0);
    for at in 0..layers {
        let name = |part: &str| format!("deberta.encoder.layer.{at}.{part}");
        for part in ["self.query_proj", "self.key_proj", "self.value_proj", "output.dense"] {
            pair(name(&format!("attention.{part}")), [hidden, hidden], 0.0);
        }
        pair(name("intermediate.dense"), [wide, hidden], 0.0);
        pair(name("output.dense"), [hidden, wide], 0.0);
        for part in ["attention.output.LayerNorm", "output.LayerNorm"] {
            pair(name(part), [hidden, 0], 1.0);
        }
    }
    let config = json!({
        "model_type": "deberta-v2", "hidden_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": 12, "intermediate_size": wide, "vocab_size": VOCABULARY,
        "max_position_embeddings": POSITIONS, "position_buckets": buckets,
        "relative_attention": true, "pos_att_type": ["p2c", "c2p"], "share_att_key": true,
        "norm_rel_ebd": "layer_norm", "position_biased_input": false, "type_vocab_size": 0,
    });
    (config, tensors)
}

/// A folder with numbers made up for the tensors and a small tokenizer.
fn write(
    path: &Path,
    fixture: &str,
    config: &Value,
    tensors: &[Tensor],
) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(path)?;
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures");
    std::fs::copy(fixtures.join(fixture).join("tokenizer.json"), path.join("tokenizer.json"))?;
    std::fs::write(path.join("config.json"), config.to_string())?;
    // Enough of the built-in mails to measure the channels by, and soon done.
    std::fs::write(path.join("postsort.toml"), "tokens_max = 16\n")?;
    let (mut header, mut data) = (BTreeMap::new(), Vec::new());
    let mut state = 7_u32;
    for (name, shape, mean) in tensors {
        let start = data.len();
        for _ in 0..shape.iter().product() {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let unit = (state >> 8) as f32 / (1 << 24) as f32;
            data.extend((mean + (unit - 0.5) * 0.1).to_le_bytes());
        }
        let offsets = [start, data.len()];
        header.insert(name, json!({"dtype": "F32", "shape": shape, "data_offsets": offsets}));
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let length = (header.len() as u64).to_le_bytes();
    let file = [&length[..], &header, &data].concat();
    Ok(std::fs::write(path.join("model.safetensors"), file)?)
}

fn measure(path: &Path, name: &str, tokens: usize, rounds: usize) -> Result<(), Box<dyn Error>> {
    let folder = ModelFolder::open(path)?;
    let load = |engine, precision| {
        let calibration_dir = path.parent().map(Path::to_owned);
        let device = DeviceKind::Cpu.open()?;
        let options =
            LoadOptions { precision, device, engine, calibration_dir, ..LoadOptions::default() };
        Model::load(&folder, &options)
    };
    let models = [
        load(EngineKind::Candle, Precision::F32)?,
        load(EngineKind::Auto, Precision::F32)?,
        load(EngineKind::Auto, Precision::Bf16)?,
        load(EngineKind::Auto, Precision::Int8)?,
    ];
    let ids = (0..tokens).map(|at| (at * 37 % 200) as u32).collect();
    let sequence = Encoding { ids, type_ids: vec![0; tokens] };
    let mut times = models.each_ref().map(|_| Vec::new());
    for round in 0..rounds + 2 {
        for (model, times) in models.iter().zip(&mut times) {
            let start = Instant::now();
            model.forward(&[&sequence])?;
            // The first rounds make room and fill caches.
            if round >= 2 {
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    let medians = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    });
    for (model, median) in models.iter().zip(medians) {
        let engine = format!("{} {}", model.engine().name(), model.engine().precision());
        println!("| {name} | {tokens} | {engine} | {median:.1} | {:.2} |", medians[0] / median);
    }
    Ok(())
}
