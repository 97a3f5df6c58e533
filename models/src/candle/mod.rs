//! The reference engine: every supported architecture on candle, CPU or CUDA.

mod attention;
mod deberta;
mod modernbert;
mod post_norm;
mod tensors;

use candle_core::{D, Device, Tensor};
use candle_nn::{Linear, Module};

use crate::config::{Activation, Family, ModelConfig};
use crate::engine::{Engine, Precision};
use crate::error::ModelError;
use crate::folder::ModelFolder;
use crate::tensors::TensorReader;
use crate::tokenize::Encoding;
use tensors::Tensors;

/// Weights on a device.
#[derive(Debug)]
struct CandleEngine {
    classifier: Box<dyn Classifier>,
    config: ModelConfig,
    device: Device,
    device_name: String,
    resident_bytes: u64,
}

/// Bytes that `folder` takes at most.
pub(crate) fn bytes_max(folder: &ModelFolder) -> u64 {
    folder.weights.elements() * 4 + folder.config().derived_bytes()
}

/// The engine of `folder` on `device`.
pub(crate) fn load(
    folder: &ModelFolder,
    precision: Precision,
    device: &Device,
    device_name: &str,
) -> Result<Box<dyn Engine>, ModelError> {
    if matches!(precision, Precision::Bf16 | Precision::Int8) {
        let (precision, device) = (precision.to_string(), device_name.to_owned());
        return Err(ModelError::Precision { precision, device });
    }
    Ok(Box::new(CandleEngine::load(folder, device, device_name)?))
}

/// One architecture's forward pass.
trait Classifier: Send + Sync + std::fmt::Debug {
    /// Logits `[batch, labels]`.
    fn logits(&self, batch: &Batch) -> Result<Tensor, ModelError>;
}

/// Sequences of one length, the shorter ones padded.
struct Batch {
    /// `[batch, tokens]` u32.
    ids: Tensor,
    /// `[batch, tokens]` u32.
    type_ids: Tensor,
    /// `[batch, tokens]` u32, counted from 0.
    positions: Tensor,
    /// `[batch, tokens]` f32, 1 for a token and 0 for padding; none where nothing is padded.
    mask: Option<Tensor>,
}

impl CandleEngine {
    fn load(folder: &ModelFolder, device: &Device, name: &str) -> Result<Self, ModelError> {
        let config = folder.config().clone();
        let reader = TensorReader::new(&folder.weights, config.architecture.prefix());
        let mut tensors = Tensors::new(reader, device);
        let labels = folder.labels().names().len();
        let classifier: Box<dyn Classifier> = match &config.family {
            Family::PostNorm => Box::new(post_norm::PostNorm::new(&config, labels, &mut tensors)?),
            Family::Deberta(own) => {
                Box::new(deberta::Deberta::new(&config, own, labels, &mut tensors)?)
            }
            Family::ModernBert(own) => {
                Box::new(modernbert::ModernBert::new(&config, own, labels, &mut tensors)?)
            }
        };
        let resident_bytes = tensors.bytes_read() + config.derived_bytes();
        let (device, device_name) = (device.clone(), name.to_owned());
        Ok(Self { classifier, config, device, device_name, resident_bytes })
    }

    /// One pass over sequences padded to the longest.
    fn forward_padded(&self, batch: &[&Encoding]) -> Result<Vec<Vec<f32>>, ModelError> {
        let batch = self.pad(batch)?;
        Ok(self.classifier.logits(&batch)?.to_vec2::<f32>()?)
    }

    fn pad(&self, batch: &[&Encoding]) -> Result<Batch, ModelError> {
        let width = batch.iter().map(|sequence| sequence.ids.len()).max().unwrap_or(0);
        let shape = (batch.len(), width);
        let size = batch.len() * width;
        let [mut ids, mut type_ids, mut positions] = [(); 3].map(|()| Vec::with_capacity(size));
        let mut mask = Vec::with_capacity(size);
        for sequence in batch {
            let (tokens, rest) = (sequence.ids.len(), width - sequence.ids.len());
            ids.extend(&sequence.ids);
            ids.extend(std::iter::repeat_n(self.config.padding, rest));
            if self.config.token_types > 1 {
                type_ids.extend(&sequence.type_ids);
            } else {
                type_ids.extend(std::iter::repeat_n(0, tokens));
            }
            type_ids.extend(std::iter::repeat_n(0, rest));
            positions.extend(post_norm::positions(&self.config, &sequence.ids));
            positions.extend(std::iter::repeat_n(0, rest));
            mask.extend(std::iter::repeat_n(1_f32, tokens));
            mask.extend(std::iter::repeat_n(0_f32, rest));
        }
        let padded = mask.contains(&0.0);
        let u32s = |values: Vec<u32>| Tensor::from_vec(values, shape, &self.device);
        Ok(Batch {
            ids: u32s(ids)?,
            type_ids: u32s(type_ids)?,
            positions: u32s(positions)?,
            mask: padded.then(|| Tensor::from_vec(mask, shape, &self.device)).transpose()?,
        })
    }

    fn check(&self, sequence: &Encoding) -> Result<(), ModelError> {
        let (tokens, tokens_max) = (sequence.ids.len(), self.config.tokens_max());
        if tokens == 0 || tokens > tokens_max || sequence.type_ids.len() != tokens {
            return Err(ModelError::SequenceLength { tokens, tokens_max });
        }
        let out_of_range = |ids: &[u32], vocabulary: usize| {
            let id = ids.iter().copied().find(|&id| id as usize >= vocabulary);
            id.map_or(Ok(()), |id| Err(ModelError::TokenOutOfRange { id, vocabulary }))
        };
        out_of_range(&sequence.ids, self.config.vocabulary)?;
        match self.config.token_types {
            0 | 1 => Ok(()),
            types => out_of_range(&sequence.type_ids, types),
        }
    }
}

impl Engine for CandleEngine {
    /// Logits: head and encoder are one.
    fn encode(&self, batch: &[&Encoding]) -> Result<Vec<Vec<f32>>, ModelError> {
        for sequence in batch {
            self.check(sequence)?;
        }
        if self.device.is_cpu() {
            // Nothing is gained by padding on a CPU, and alone an answer cannot depend on others.
            let mut logits = Vec::with_capacity(batch.len());
            for sequence in batch {
                logits.extend(self.forward_padded(&[*sequence])?);
            }
            Ok(logits)
        } else {
            self.forward_padded(batch)
        }
    }

    fn name(&self) -> &'static str {
        "candle"
    }

    fn precision(&self) -> Precision {
        Precision::F32
    }

    fn device(&self) -> String {
        self.device_name.clone()
    }

    fn resident_bytes(&self) -> u64 {
        self.resident_bytes
    }
}

fn activate(activation: Activation, input: &Tensor) -> candle_core::Result<Tensor> {
    match activation {
        Activation::Gelu => input.gelu_erf(),
        Activation::GeluTanh => input.gelu(),
        Activation::Relu => input.relu(),
        Activation::Silu => input.silu(),
        Activation::Tanh => input.tanh(),
    }
}

/// Dense layers with activations over one state a sequence, down to the logits.
#[derive(Debug)]
struct Head {
    layers: Vec<(Linear, Option<Activation>)>,
}

impl Head {
    /// `states [batch, hidden]` → `[batch, labels]`.
    fn logits(&self, states: &Tensor) -> Result<Tensor, ModelError> {
        let mut states = states.clone();
        for (dense, activation) in &self.layers {
            states = dense.forward(&states)?;
            if let Some(activation) = activation {
                states = activate(*activation, &states)?;
            }
        }
        Ok(states)
    }
}

/// States of the first tokens: `[batch, tokens, hidden]` → `[batch, hidden]`.
fn first_token(states: &Tensor) -> Result<Tensor, ModelError> {
    Ok(states.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?)
}

/// Added to scores: 0 for a token, very negative for padding; `[batch, 1, 1, tokens]`.
fn mask_bias(mask: &Tensor) -> Result<Tensor, ModelError> {
    let bias = ((mask - 1.0)? * f64::from(f32::MAX))?;
    let (batch, tokens) = bias.dims2()?;
    Ok(bias.reshape((batch, 1, 1, tokens))?)
}

/// States times mask: padding is zeroed.
fn zero_padding(states: &Tensor, mask: Option<&Tensor>) -> Result<Tensor, ModelError> {
    match mask {
        Some(mask) => Ok(states.broadcast_mul(&mask.unsqueeze(D::Minus1)?)?),
        None => Ok(states.clone()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candle_core::Device;

    use super::CandleEngine;
    use crate::folder::ModelFolder;
    use crate::manifest::LongText;
    use crate::tokenize::TextTokenizer;

    /// The padded path serves GPUs; here it runs on the CPU against the path without padding.
    #[test]
    fn padding_changes_no_answer() {
        let texts =
            ["a", "are we still on for lunch on Thursday?", "日本語 and English, 20% off!!"];
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let names = [
            "bert",
            "roberta-multi-label",
            "electra",
            "deberta-v3",
            "deberta-v2-conv",
            "modernbert-cls",
            "modernbert-mean-biases",
        ];
        for name in names {
            let folder = ModelFolder::open(&fixtures.join(name)).expect("opens");
            let engine = CandleEngine::load(&folder, &Device::Cpu, "cpu").expect("loads");
            let tokenizer = TextTokenizer::open(&folder).expect("opens");
            let encode = |text| tokenizer.encode(text, 0, LongText::Truncate).expect("encodes");
            let encodings: Vec<_> = texts.iter().flat_map(|text| encode(text).windows).collect();
            let batch: Vec<_> = encodings.iter().collect();
            let padded = engine.forward_padded(&batch).expect("computes");
            for (sequence, padded) in batch.iter().zip(padded) {
                let alone = engine.forward_padded(&[*sequence]).expect("computes").remove(0);
                for (a, b) in alone.iter().zip(&padded) {
                    assert!((a - b).abs() <= 1e-4, "{name}: {alone:?} alone, {padded:?} padded");
                }
            }
        }
    }
}
