//! The reference engine: every supported architecture on candle, CPU or CUDA.

mod attention;
mod deberta;
mod modernbert;
mod post_norm;
#[cfg(feature = "cuda")]
mod recorded;
#[cfg(any(test, feature = "cuda"))]
mod shapes;
mod tensors;

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{D, DType, Device, Tensor};
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
    site: Site,
    resident_bytes: u64,
    #[cfg(feature = "cuda")]
    recordings: recorded::Recordings,
}

/// Where candle computes.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) device: Device,
    pub(crate) name: String,
    /// Held during a pass on a GPU: what the libraries use as scratch memory there is one for all
    /// threads, and a model that is loaded warms up beside those that answer.
    pub(crate) turn: Arc<Mutex<()>>,
}

impl Site {
    pub(crate) fn new(device: Device, name: String) -> Self {
        Self { device, name, turn: Arc::default() }
    }
}

/// Bytes that `folder` takes at most.
pub(crate) fn bytes_max(folder: &ModelFolder) -> u64 {
    folder.weights.elements() * 4 + folder.config().derived_bytes()
}

/// The engine of `folder` at `site`.
pub(crate) fn load(
    folder: &ModelFolder,
    precision: Precision,
    site: &Site,
) -> Result<Box<dyn Engine>, ModelError> {
    if matches!(precision, Precision::Bf16 | Precision::Int8) {
        let (precision, device) = (precision.to_string(), site.name.clone());
        return Err(ModelError::Precision { precision, device });
    }
    Ok(Box::new(CandleEngine::load(folder, site)?))
}

/// One architecture's forward pass.
trait Classifier: Send + Sync + std::fmt::Debug {
    /// What all passes over sequences of so many tokens need beside their batch.
    fn constants(&self, tokens: usize, device: &Device) -> Result<Vec<Tensor>, ModelError> {
        let (_, _) = (tokens, device);
        Ok(Vec::new())
    }

    /// Logits `[batch, labels]`; makes no tensor of anything but its weights and the batch.
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
    /// [`Classifier::constants`] for as many tokens.
    constants: Vec<Tensor>,
}

impl Batch {
    /// Of `input`, `[4, batch, tokens]` u32: ids, types, positions, and 1 for what is no padding.
    fn new(input: &Tensor, constants: &[Tensor], padded: bool) -> Result<Self, ModelError> {
        let mask = || input.get(3)?.to_dtype(DType::F32);
        Ok(Self {
            ids: input.get(0)?,
            type_ids: input.get(1)?,
            positions: input.get(2)?,
            mask: padded.then(mask).transpose()?,
            constants: constants.to_vec(),
        })
    }

    /// Added to scores: 0 for a token, very negative for padding; `[batch, heads, tokens, tokens]`; none where
    /// nothing is padded. As large as the scores: adding what lies otherwise takes a GPU several times as
    /// long, and each layer does.
    fn mask_bias(&self, heads: usize) -> Result<Option<Tensor>, ModelError> {
        let Some(mask) = &self.mask else { return Ok(None) };
        let bias = mask.affine(f64::from(f32::MAX), -f64::from(f32::MAX))?;
        let (batch, tokens) = bias.dims2()?;
        let bias = bias.reshape((batch, 1, 1, tokens))?;
        Ok(Some(bias.broadcast_as((batch, heads, tokens, tokens))?.contiguous()?))
    }
}

impl CandleEngine {
    fn load(folder: &ModelFolder, site: &Site) -> Result<Self, ModelError> {
        let config = folder.config().clone();
        let reader = TensorReader::new(&folder.weights, config.architecture.prefix());
        let mut tensors = Tensors::new(reader, &site.device);
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
        Ok(Self {
            classifier,
            config,
            site: site.clone(),
            resident_bytes,
            #[cfg(feature = "cuda")]
            recordings: recorded::Recordings::default(),
        })
    }

    /// One pass over sequences padded to the longest.
    fn forward_padded(&self, batch: &[&Encoding]) -> Result<Vec<Vec<f32>>, ModelError> {
        self.forward_in((batch.len(), width(batch)), batch)
    }

    /// One pass over so many sequences of so many tokens, of which `batch` is the first.
    fn forward_in(
        &self,
        shape: (usize, usize),
        batch: &[&Encoding],
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        let input = self.pad(batch, shape)?;
        let constants = self.classifier.constants(shape.1, &self.site.device)?;
        let input = Batch::new(&input, &constants, is_padded(batch, shape))?;
        let mut logits = self.classifier.logits(&input)?.to_vec2::<f32>()?;
        logits.truncate(batch.len());
        Ok(logits)
    }

    /// The same with all kernels started at once, where that is possible.
    #[cfg(feature = "cuda")]
    fn forward_recorded(&self, batch: &[&Encoding]) -> Result<Vec<Vec<f32>>, ModelError> {
        if width(batch) > shapes::RECORDED_TOKENS_MAX {
            return self.forward_padded(batch);
        }
        let shape = shapes::shape(batch.len(), width(batch));
        let input = self.pad(batch, shape)?;
        // Of one sequence there is one recording, for most have padding; of several a mask is dear.
        let padded = batch.len() == 1 || is_padded(batch, shape);
        match self.recordings.logits(&*self.classifier, &input, padded)? {
            Some(mut logits) => {
                logits.truncate(batch.len());
                Ok(logits)
            }
            None => self.forward_padded(batch),
        }
    }

    #[cfg(not(feature = "cuda"))]
    fn forward_recorded(&self, batch: &[&Encoding]) -> Result<Vec<Vec<f32>>, ModelError> {
        self.forward_padded(batch)
    }

    /// What [`Batch::new`] reads: `[4, sequences, width]`, of which `batch` fills as much as it is.
    fn pad(
        &self,
        batch: &[&Encoding],
        (sequences, width): (usize, usize),
    ) -> Result<Tensor, ModelError> {
        let size = sequences * width;
        let mut values = vec![0; 4 * size];
        let (ids, rest) = values.split_at_mut(size);
        let (type_ids, rest) = rest.split_at_mut(size);
        let (positions, mask) = rest.split_at_mut(size);
        ids.fill(self.config.padding);
        for (sequence, start) in batch.iter().zip((0..).step_by(width.max(1))) {
            let tokens = start..start + sequence.ids.len();
            ids[tokens.clone()].copy_from_slice(&sequence.ids);
            if self.config.token_types > 1 {
                type_ids[tokens.clone()].copy_from_slice(&sequence.type_ids);
            }
            positions[tokens.clone()]
                .copy_from_slice(&post_norm::positions(&self.config, &sequence.ids));
            mask[tokens].fill(1);
        }
        Ok(Tensor::from_vec(values, (4, sequences, width), &self.site.device)?)
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
        if self.site.device.is_cpu() {
            // Nothing is gained by padding on a CPU, and alone an answer cannot depend on others.
            let mut logits = Vec::with_capacity(batch.len());
            for sequence in batch {
                logits.extend(self.forward_padded(&[*sequence])?);
            }
            Ok(logits)
        } else {
            let _turn = self.site.turn.lock().unwrap_or_else(PoisonError::into_inner);
            self.forward_recorded(batch)
        }
    }

    #[cfg(feature = "cuda")]
    fn lengths_to_prepare(&self, tokens_max: usize) -> Vec<usize> {
        if self.site.device.is_cpu() { Vec::new() } else { shapes::lengths(tokens_max) }
    }

    fn name(&self) -> &'static str {
        "candle"
    }

    fn precision(&self) -> Precision {
        Precision::F32
    }

    fn device(&self) -> String {
        self.site.name.clone()
    }

    fn resident_bytes(&self) -> u64 {
        self.resident_bytes
    }
}

/// Whether there is anything in so many sequences of so many tokens that is not in `batch`.
fn is_padded(batch: &[&Encoding], (sequences, width): (usize, usize)) -> bool {
    sequences > batch.len() || batch.iter().any(|own| own.ids.len() < width)
}

/// Tokens of the longest sequence.
fn width(batch: &[&Encoding]) -> usize {
    batch.iter().map(|sequence| sequence.ids.len()).max().unwrap_or(0)
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

    use super::{CandleEngine, Site};
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
            let site = Site::new(Device::Cpu, "cpu".to_owned());
            let engine = CandleEngine::load(&folder, &site).expect("loads");
            let tokenizer = TextTokenizer::open(&folder).expect("opens");
            let encode = |text| tokenizer.encode(text, 0, LongText::Truncate).expect("encodes");
            let encodings: Vec<_> = texts.iter().flat_map(|text| encode(text).windows).collect();
            let batch: Vec<_> = encodings.iter().collect();
            let padded = engine.forward_padded(&batch).expect("computes");
            // As recordings are: wider than any, and with a sequence that is nothing but padding.
            let shape = super::shapes::shape(batch.len() + 1, super::width(&batch) + 1);
            let wide = engine.forward_in(shape, &batch).expect("computes");
            for ((sequence, padded), wide) in batch.iter().zip(padded).zip(wide) {
                let alone = engine.forward_padded(&[*sequence]).expect("computes").remove(0);
                for ((a, b), c) in alone.iter().zip(&padded).zip(&wide) {
                    let apart = (a - b).abs().max((a - c).abs());
                    assert!(apart <= 1e-4, "{name}: {alone:?} alone, {padded:?}, {wide:?}");
                }
            }
        }
    }
}
