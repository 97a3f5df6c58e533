//! `postsort calibrate`: measure a model once, before it is deployed.

use std::path::PathBuf;

use postsort_models::{LoadOptions, Model, ModelFolder};

use super::print;
use crate::error::Error;

#[derive(Debug, clap::Args)]
pub(super) struct Calibrate {
    /// Hugging Face model folders; each gets a calibration.safetensors
    #[arg(required = true, value_name = "DIR")]
    model_dirs: Vec<PathBuf>,
}

impl Calibrate {
    pub(super) fn run(self) -> Result<(), Error> {
        for path in self.model_dirs {
            let fails = |e| Error::setup(path.display().to_string(), e);
            let folder = ModelFolder::open(&path).map_err(fails)?;
            let agreements = Model::calibrate(&folder, &LoadOptions::default()).map_err(fails)?;
            if agreements.is_empty() {
                print(&format!("{}: computed in f32, nothing to calibrate", folder.name()))?;
            }
            for (level, found) in agreements {
                print(&format!(
                    "{} {} with {level}: first label equal for {:.2} % of {} texts, |Δprobability| ≤ {:.4} for 99 %: {}",
                    folder.name(),
                    found.precision,
                    found.top_label_share * 100.0,
                    found.texts,
                    found.probability_delta_p99,
                    if found.holds() { "agrees with f32" } else { "does NOT agree with f32" }
                ))?;
            }
        }
        Ok(())
    }
}
