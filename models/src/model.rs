//! A loaded model.

use crate::candle::CandleEngine;
use crate::device::DeviceKind;
use crate::engine::{Engine, Precision};
use crate::error::ModelError;
use crate::folder::ModelFolder;
use crate::labels::Labels;
use crate::tokenize::{Encoding, TextTokenizer};

/// How to load.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions {
    /// Precision, unless the manifest forces one.
    pub precision: Precision,
    /// Where to compute.
    pub device: DeviceKind,
}

/// A tokenizer and an engine.
#[derive(Debug)]
pub struct Model {
    folder: ModelFolder,
    tokenizer: TextTokenizer,
    engine: Box<dyn Engine>,
}

impl Model {
    /// Reads the tokenizer and the weights.
    ///
    /// # Errors
    /// A file that is missing, broken or does not fit the configuration; a device or precision
    /// that is not available.
    pub fn load(folder: &ModelFolder, options: &LoadOptions) -> Result<Self, ModelError> {
        // Libraries that meet what they did not expect in a file may panic; one file must not
        // take down the process that serves the others.
        let load = || Self::load_unguarded(folder, options);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(load)).unwrap_or_else(|_| {
            Err(ModelError::bad_file(folder.path(), "a library panicked while reading this folder"))
        })
    }

    fn load_unguarded(folder: &ModelFolder, options: &LoadOptions) -> Result<Self, ModelError> {
        let tokenizer = TextTokenizer::open(folder)?;
        let (id_max, vocabulary) = (tokenizer.id_max(), folder.config().vocabulary);
        if id_max as usize >= vocabulary {
            return Err(ModelError::TokenOutOfRange { id: id_max, vocabulary });
        }
        let precision = folder.manifest().precision.unwrap_or(options.precision);
        if matches!(precision, Precision::Bf16 | Precision::Int8) {
            let (precision, device) = (precision.to_string(), options.device.to_string());
            return Err(ModelError::Precision { precision, device });
        }
        let engine = Box::new(CandleEngine::load(folder, options.device)?);
        Ok(Self { folder: folder.clone(), tokenizer, engine })
    }

    /// What is known of the model without its weights.
    #[must_use]
    pub fn folder(&self) -> &ModelFolder {
        &self.folder
    }

    /// The tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &TextTokenizer {
        &self.tokenizer
    }

    /// The labels.
    #[must_use]
    pub fn labels(&self) -> &Labels {
        self.folder.labels()
    }

    /// What computes.
    #[must_use]
    pub fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    /// Logits `[sequences][labels]`.
    ///
    /// # Errors
    /// See [`Engine::forward`].
    pub fn forward(&self, batch: &[&Encoding]) -> Result<Vec<Vec<f32>>, ModelError> {
        self.engine.forward(batch)
    }

    /// Bytes of weights in memory.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        self.engine.resident_bytes()
    }
}
