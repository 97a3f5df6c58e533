//! What computes: the trait behind which engines differ.

use std::fmt;
use std::str::FromStr;

use crate::cpu::{Agreement, SharedEncoder};
use crate::error::ModelError;
use crate::tokenize::Encoding;

/// Which engine computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineKind {
    /// The fastest one that knows the architecture on the device.
    #[default]
    Auto,
    /// The reference: candle, in f32.
    Candle,
}

impl FromStr for EngineKind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "candle" => Ok(Self::Candle),
            _ => Err(format!("`{text}` is none of auto, candle")),
        }
    }
}

/// Computes logits in two steps: nearly all of the work is the encoder's, which other models may
/// share; then the head's. An answer never depends on what else is in the batch.
pub trait Engine: Send + Sync + fmt::Debug {
    /// States `[sequences][numbers]` of a batch of sequences of any lengths: what the head reads.
    ///
    /// # Errors
    /// A sequence that is empty or longer than the model's positions, a token id out of range, or
    /// a failure of the device.
    fn encode(&self, batch: &[&Encoding]) -> Result<Vec<Vec<f32>>, ModelError>;

    /// Logits `[sequences][labels]` of states; the states themselves where an engine computes both
    /// at once.
    ///
    /// # Errors
    /// States of another encoder.
    fn logits(&self, states: &[Vec<f32>]) -> Result<Vec<Vec<f32>>, ModelError> {
        Ok(states.to_vec())
    }

    /// Told that a batch is about to come while none runs: what sleeps may wake meanwhile.
    fn rouse(&self) {}

    /// Lengths of sequences, of at most `tokens_max` tokens, that take longer when they are met first.
    fn lengths_to_prepare(&self, tokens_max: usize) -> Vec<usize> {
        let _ = tokens_max;
        Vec::new()
    }

    /// The encoder, where other models may share it.
    fn encoder(&self) -> Option<&SharedEncoder> {
        None
    }

    /// The engine's name.
    fn name(&self) -> &'static str;

    /// The precision of its products.
    fn precision(&self) -> Precision;

    /// The device that it runs on.
    fn device(&self) -> String;

    /// Bytes of weights in the device's memory, those of a shared encoder included.
    fn resident_bytes(&self) -> u64;

    /// The instruction set that its products use, where it chooses one.
    fn kernels(&self) -> Option<&'static str> {
        None
    }

    /// How far its answers are from f32, where it computes in less.
    fn agreement(&self) -> Option<Agreement> {
        None
    }
}

/// Precision of the matrix products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// The fastest one that agrees with f32.
    #[default]
    Auto,
    /// IEEE single.
    F32,
    /// bfloat16 products, f32 sums.
    Bf16,
    /// 8-bit integer products, 32-bit sums.
    Int8,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        })
    }
}

impl FromStr for Precision {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Auto, Self::F32, Self::Bf16, Self::Int8]
            .into_iter()
            .find(|precision| precision.to_string() == text)
            .ok_or_else(|| format!("`{text}` is none of auto, f32, bf16, int8"))
    }
}
