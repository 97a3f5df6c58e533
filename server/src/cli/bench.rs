//! `postsort bench`: the engine's latency by shape.

use std::time::{Duration, Instant};

use postsort_models::{Encoding, Model, ModelFolder};
use serde_json::{Value, json};

use super::{Settings, print};
use crate::error::Error;

/// A shape is measured for at least this long and at least this often.
const MEASURE: Duration = Duration::from_secs(2);
const RUNS_MIN: usize = 10;

#[derive(Debug, clap::Args)]
pub(super) struct Bench {
    #[command(flatten)]
    settings: Settings,
    /// Model [default: the default model]
    #[arg(long)]
    model: Option<String>,
    /// Tokens of a sequence, special tokens included
    #[arg(long, value_delimiter = ',', default_value = "16,128")]
    tokens: Vec<usize>,
    /// Sequences in a forward pass
    #[arg(long, value_delimiter = ',', default_value = "1")]
    batch: Vec<usize>,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

impl Bench {
    pub(super) fn run(self) -> Result<(), Error> {
        let config = self.settings.resolve()?;
        let folder = named_folder(&config.models_dir, self.model.as_deref())?;
        let model = Model::load(&folder, &config.load_options()?)
            .map_err(|e| Error::setup(folder.name().to_owned(), e))?;
        let mut shapes = Vec::new();
        for &tokens in &self.tokens {
            for &batch in &self.batch {
                shapes.push(measure(&model, tokens, batch)?);
            }
        }
        if self.json {
            let engine = model.engine();
            return print(
                &json!({
                    "model": folder.name(),
                    "engine": engine.name(),
                    "precision": engine.precision(),
                    "kernels": engine.kernels(),
                    "threads": config.threads,
                    "shapes": shapes,
                })
                .to_string(),
            );
        }
        let mut table = comfy_table::Table::new();
        table.load_preset(comfy_table::presets::UTF8_BORDERS_ONLY);
        table.set_header(["tokens", "batch", "min ms", "median ms", "p99 ms", "runs"]);
        for shape in &shapes {
            let ms = |key: &str| format!("{:.3}", shape[key].as_f64().unwrap_or(f64::NAN));
            table.add_row([
                shape["tokens"].to_string(),
                shape["batch"].to_string(),
                ms("min_ms"),
                ms("median_ms"),
                ms("p99_ms"),
                shape["runs"].to_string(),
            ]);
        }
        print(&table.to_string())
    }
}

fn named_folder(models_dir: &std::path::Path, name: Option<&str>) -> Result<ModelFolder, Error> {
    let found = postsort_models::discover(models_dir)
        .map_err(|e| Error::setup(models_dir.display().to_string(), e))?;
    let name = match (name, found.as_slice()) {
        (Some(name), _) => name.to_owned(),
        (None, [only]) => only.name.clone(),
        (None, _) => "spam".to_owned(),
    };
    let found = found.into_iter().find(|found| found.name == name);
    found
        .ok_or_else(|| Error::unknown_model(&name))?
        .folder
        .map_err(|e| Error::setup(format!("model {name}"), e))
}

fn measure(model: &Model, tokens: usize, batch: usize) -> Result<Value, Error> {
    let shape = format!("{tokens} tokens × {batch}");
    let tokens_max = model.tokenizer().tokens_max();
    if tokens < 3 || tokens > tokens_max || batch == 0 {
        return Err(Error::setup(shape, format!("the model takes 3 to {tokens_max} tokens")));
    }
    let sequence = model.tokenizer().encode_exact(tokens);
    let sequences: Vec<&Encoding> = vec![&sequence; batch];
    let run = || -> Result<f64, Error> {
        let started = Instant::now();
        let logits = model.forward(&sequences).map_err(|e| Error::setup(&*shape, e))?;
        std::hint::black_box(logits);
        Ok(started.elapsed().as_secs_f64() * 1e3)
    };
    let started = Instant::now();
    for _ in 0..3 {
        run()?;
    }
    let mut runs = Vec::new();
    while runs.len() < RUNS_MIN || started.elapsed() < MEASURE {
        runs.push(run()?);
    }
    runs.sort_by(f64::total_cmp);
    let at = |share: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a position in the list"
        )]
        let place = ((runs.len() - 1) as f64 * share).round() as usize;
        runs[place]
    };
    Ok(json!({
        "tokens": tokens, "batch": batch, "runs": runs.len(),
        "min_ms": runs[0], "median_ms": at(0.5), "p99_ms": at(0.99),
    }))
}
