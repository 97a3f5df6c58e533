//! Hugging Face folders to text classifiers. Synchronous: text in, logits out.
//!
//! [`discover`] finds [`ModelFolder`]s and reads all of them but their weights; [`Model::load`]
//! makes one computable. The reference for every number is `transformers`.
#![cfg_attr(not(feature = "cuda"), forbid(unsafe_code))]
#![deny(unsafe_code)]

mod aggregate;
mod bounded;
mod candle;
mod config;
mod cpu;
mod deberta;
mod device;
mod engine;
mod error;
mod folder;
mod labels;
mod manifest;
mod model;
mod modern_bert;
mod parts;
mod post_norm;
#[cfg(test)]
mod random;
mod registry;
mod template;
mod tensors;
mod tokenize;
mod weights;
mod wordpiece;

pub use aggregate::aggregate;
pub use config::{Activation, Architecture, ModelConfig};
pub use cpu::{Agreement, Encoders, SharedEncoder};
pub use device::{ComputeDevice, CpuDevice, DeviceKind, DeviceMemory, SystemMemory};
pub use engine::{Engine, EngineKind, Precision};
pub use error::ModelError;
pub use folder::ModelFolder;
pub use labels::{LabelScore, Labels, Problem, ScoreFunction};
pub use manifest::{Aggregation, Cascade, Hub, LongText, Manifest, Reference, Skim};
pub use model::{LoadOptions, MemoryNeeds, Model, PassTime};
pub use postsort_cpu::{ComputePool, KernelLevel, KernelReport, kernels};
pub use registry::{Found, Stamp, discover, find, model_paths, open_revision, stamp};
pub use tokenize::{Encoded, Encoding, TextTokenizer};
