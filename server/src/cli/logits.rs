//! `postsort logits`: JSON lines in, JSON lines out.

use std::io::BufRead;
use std::path::PathBuf;

use postsort_models::{
    ComputePool, DeviceKind, EngineKind, LoadOptions, LongText, Model, ModelFolder, Precision,
};
use serde::Deserialize;

use super::{print, use_threads};
use crate::config::cpus;
use crate::error::Error;

#[derive(Debug, clap::Args)]
pub(super) struct Logits {
    /// A Hugging Face model folder
    #[arg(long, value_name = "DIR")]
    model_dir: PathBuf,
    /// Precision: auto, f32, bf16, int8
    #[arg(long, default_value = "auto")]
    precision: Precision,
    /// Device: auto, cpu, cuda:N
    #[arg(long, default_value = "auto")]
    device: DeviceKind,
    /// Engine: auto, candle
    #[arg(long, default_value = "auto")]
    engine: EngineKind,
    /// Compute threads
    #[arg(long)]
    threads: Option<usize>,
}

#[derive(Deserialize)]
struct Line {
    text: String,
}

impl Logits {
    pub(super) fn run(self) -> Result<(), Error> {
        let describe = || self.model_dir.display().to_string();
        let folder = ModelFolder::open(&self.model_dir).map_err(|e| Error::setup(describe(), e))?;
        let threads = self.threads.unwrap_or_else(cpus);
        use_threads(threads);
        let pool = ComputePool::new(threads).map_err(|e| Error::setup("compute threads", e))?;
        let options = LoadOptions {
            precision: self.precision,
            device: self.device.open().map_err(|e| Error::setup("device", e))?,
            engine: self.engine,
            pool: Some(pool),
            ..LoadOptions::default()
        };
        let model = Model::load(&folder, &options).map_err(|e| Error::setup(describe(), e))?;
        for (number, line) in (1..).zip(std::io::stdin().lock().lines()) {
            let fails = |reason: String| Error::setup(format!("line {number}"), reason);
            let line = line.map_err(|e| fails(e.to_string()))?;
            if line.trim().is_empty() {
                continue;
            }
            let Line { text } = serde_json::from_str(&line)
                .map_err(|_| fails("expected {\"text\": \"…\"}".to_owned()))?;
            let encoded = model
                .tokenizer()
                .encode(&text, 0, LongText::Truncate)
                .map_err(|e| fails(e.to_string()))?;
            let batch: Vec<_> = encoded.windows.iter().collect();
            let logits = model.forward(&batch).map_err(|e| fails(e.to_string()))?;
            let line = serde_json::json!({"logits": logits[0], "tokens": encoded.tokens});
            print(&line.to_string())?;
        }
        Ok(())
    }
}
