//! What can be wrong with a model folder or a forward pass. Never carries a word of a message.

use std::path::{Path, PathBuf};

/// Why a model cannot be described, loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file or folder cannot be read.
    #[error("{}: {reason}", path.display())]
    Io {
        /// What was read.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// A file is not what its name says.
    #[error("{}: {reason}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// A setting of `config.json` that is missing, absurd or not supported.
    #[error("config.json: `{field}` {reason}")]
    BadConfig {
        /// The setting.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Neither `model.safetensors` nor its index is there.
    #[error("no model.safetensors{}", if *pickle { " (pytorch_model.bin is a pickle, which can run code when read: convert it to safetensors)" } else { "" })]
    NoWeights {
        /// A pickle is there instead.
        pickle: bool,
    },
    /// The model's folder has no revision of this name.
    #[error("no revision `{label}`")]
    NoRevision {
        /// The name, shortened.
        label: String,
    },
    /// The manifest names a hub's repository that has not been fetched.
    #[error("not fetched yet from the hub's repository `{id}`")]
    NotFetched {
        /// `owner/name`.
        id: String,
    },
    /// The weights lack a tensor that the configuration asks for.
    #[error("weights lack tensor `{tensor}`")]
    MissingTensor {
        /// Its name with the architecture's prefix.
        tensor: String,
    },
    /// A tensor is not of the shape that the configuration says.
    #[error("tensor `{tensor}` has shape {found:?}, config.json says {expected:?}")]
    Shape {
        /// Its name.
        tensor: String,
        /// From `config.json`.
        expected: Vec<usize>,
        /// In the weights.
        found: Vec<usize>,
    },
    /// A tensor is of a number type that is not supported.
    #[error("tensor `{tensor}` is of type {dtype}, supported are F32, F16 and BF16")]
    Dtype {
        /// Its name.
        tensor: String,
        /// Its type.
        dtype: String,
    },
    /// The tokenizer could not read a text.
    #[error("tokenizer: {reason}")]
    Tokenize {
        /// What it said.
        reason: String,
    },
    /// A token id that the embedding does not have.
    #[error("token id {id}, the vocabulary has {vocabulary}")]
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// Rows of the embedding.
        vocabulary: usize,
    },
    /// More tokens than the model has positions for, or none.
    #[error("sequence of {tokens} tokens, the model takes 1 to {tokens_max}")]
    SequenceLength {
        /// Tokens of the sequence.
        tokens: usize,
        /// The model's positions.
        tokens_max: usize,
    },
    /// The device is not there or not compiled in.
    #[error("device {device}: {reason}")]
    Device {
        /// The device asked for.
        device: String,
        /// Why it cannot be used.
        reason: String,
    },
    /// No engine computes in this precision on this device.
    #[error("precision {precision} is not available on {device}")]
    Precision {
        /// The precision asked for.
        precision: String,
        /// The device.
        device: String,
    },
    /// The device has no memory left for a load or a batch. What was there before is there still.
    #[error("out of memory on the device: {reason}")]
    OutOfMemory {
        /// What the device said.
        reason: String,
    },
    /// The engine failed.
    #[error("engine: {reason}")]
    Engine {
        /// What it said.
        reason: String,
    },
}

impl ModelError {
    pub(crate) fn io(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self::Io { path: path.to_owned(), reason: reason.to_string() }
    }
    pub(crate) fn bad_file(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self::BadFile { path: path.to_owned(), reason: reason.to_string() }
    }
    pub(crate) fn bad_config(field: &str, reason: impl Into<String>) -> Self {
        Self::BadConfig { field: field.to_owned(), reason: reason.into() }
    }
}

impl From<candle_core::Error> for ModelError {
    fn from(error: candle_core::Error) -> Self {
        // The display of a candle error ends in a backtrace where one was taken.
        let reason = error.to_string().lines().next().unwrap_or_default().to_owned();
        #[cfg(feature = "cuda")]
        if crate::device::is_out_of_memory(&error) {
            return Self::OutOfMemory { reason };
        }
        Self::Engine { reason }
    }
}
