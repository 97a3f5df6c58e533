//! What a model's f32 answers to the built-in mails showed, kept in a file so that it is measured
//! once: where the outlier channels are, the answers, and how far each precision is from them.
//!
//! The file is a safetensors file, `calibration.safetensors` in the model's folder or
//! `REVISION.safetensors` in the server's cache folder. It never changes an f32 answer, and one of
//! another revision, engine or set of texts is as good as none.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use postsort_cpu::{ChannelMaxima, Engine, KernelLevel, TokenBatch};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use super::agreement::{Agreement, sample_digest, sample_texts};
use crate::engine::Precision;
use crate::error::ModelError;
use crate::folder::ModelFolder;
use crate::manifest::LongText;
use crate::tokenize::{Encoding, TextTokenizer};

/// Changes when the engine computes otherwise than before.
const ENGINE_VERSION: &str = "3";
/// In a model's folder.
pub(crate) const FILE_NAME: &str = "calibration.safetensors";
/// A larger file is none of ours.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Tokens of one pass while measuring: other models get the pool in between.
const PASS_TOKENS: usize = 256;

/// What was learned from the f32 engine.
#[derive(Debug)]
pub(super) struct Calibration {
    pub(super) maxima: ChannelMaxima,
    /// `[texts][labels]`.
    exact: Vec<Vec<f32>>,
    /// By precision and kind of attention.
    agreements: HashMap<String, Agreement>,
}

/// What a calibration must be of.
pub(super) struct Subject<'a> {
    pub(super) folder: &'a ModelFolder,
    pub(super) level: KernelLevel,
}

impl Subject<'_> {
    fn identity(&self) -> HashMap<String, String> {
        let own = [
            ("computation", self.folder.computation().to_owned()),
            ("engine", ENGINE_VERSION.to_owned()),
            ("texts", sample_digest()),
        ];
        own.map(|(key, value)| (key.to_owned(), value)).into()
    }

    /// Instruction sets give the same products, but not all multiply bf16 in attention.
    fn variant(&self, precision: Precision) -> String {
        let attention = if self.level == KernelLevel::Avx512Bf16 { "bf16" } else { "f32" };
        format!("{precision}-{attention}")
    }

    /// Where it may lie, in the order of looking.
    fn places(&self, cache_dir: Option<&Path>) -> Vec<PathBuf> {
        let cached =
            cache_dir.map(|dir| dir.join(format!("{}.safetensors", self.folder.computation())));
        [Some(self.folder.path().join(FILE_NAME)), cached].into_iter().flatten().collect()
    }

    /// The kept calibration, if there is one that fits.
    pub(super) fn kept(&self, cache_dir: Option<&Path>) -> Option<Calibration> {
        self.places(cache_dir).iter().find_map(|path| self.read(path))
    }

    fn read(&self, path: &Path) -> Option<Calibration> {
        if std::fs::metadata(path).ok()?.len() > FILE_BYTES_MAX {
            return None;
        }
        let bytes = std::fs::read(path).ok()?;
        let (_, header) = SafeTensors::read_metadata(&bytes).ok()?;
        let kept = header.metadata().as_ref()?;
        if self.identity().iter().any(|(key, value)| kept.get(key) != Some(value)) {
            return None;
        }
        let tensors = SafeTensors::deserialize(&bytes).ok()?;
        let values = |name: &str| {
            let tensor = tensors.tensor(name).ok().filter(|view| view.dtype() == Dtype::F32)?;
            let numbers = tensor.data().as_chunks::<4>().0.iter();
            Some(numbers.map(|bytes| f32::from_le_bytes(*bytes)).collect::<Vec<f32>>())
        };
        let config = self.folder.config();
        let (hidden, wide) = (config.hidden, config.intermediate);
        let maxima = ChannelMaxima::from_values(config.layers, hidden, wide, &values("maxima")?)?;
        let labels = self.folder.labels().names().len();
        let exact: Vec<Vec<f32>> =
            values("logits")?.chunks_exact(labels).map(<[f32]>::to_vec).collect();
        if exact.len() != sample_texts().len() {
            return None;
        }
        let agreements = kept
            .iter()
            .filter_map(|(key, value)| {
                let variant = key.strip_prefix("agreement-")?;
                Some((variant.to_owned(), serde_json::from_str(value).ok()?))
            })
            .collect();
        Some(Calibration { maxima, exact, agreements })
    }

    /// Keeps it at `path`, whole or not at all.
    pub(super) fn write(&self, calibration: &Calibration, path: &Path) -> Result<(), ModelError> {
        let io = |error: std::io::Error| ModelError::io(path, error);
        let mut header = self.identity();
        for (variant, agreement) in &calibration.agreements {
            let json = serde_json::to_string(agreement)
                .map_err(|error| ModelError::bad_file(path, error))?;
            header.insert(format!("agreement-{variant}"), json);
        }
        let bytes = |values: &[f32]| -> Vec<u8> {
            values.iter().flat_map(|value| value.to_le_bytes()).collect()
        };
        let (layers, maxima) = (self.folder.config().layers, calibration.maxima.to_values());
        let a_layer = maxima.len() / layers.max(1);
        let maxima = bytes(&maxima);
        let logits = bytes(&calibration.exact.concat());
        let labels = self.folder.labels().names().len();
        let shapes = [
            ("maxima", vec![layers, a_layer], &maxima),
            ("logits", vec![calibration.exact.len(), labels], &logits),
        ];
        let mut views = Vec::new();
        for (name, shape, data) in &shapes {
            let view = TensorView::new(Dtype::F32, shape.clone(), data)
                .map_err(|error| ModelError::bad_file(path, error))?;
            views.push((*name, view));
        }
        let file = safetensors::serialize(views, Some(header))
            .map_err(|error| ModelError::bad_file(path, error))?;
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(io)?;
        }
        let partial = path.with_extension(format!("{}.partial", std::process::id()));
        std::fs::write(&partial, file).map_err(io)?;
        std::fs::rename(&partial, path).map_err(io)
    }

    /// Keeps it in the cache folder; a folder that cannot be written costs a measurement at the
    /// next load, no more.
    pub(super) fn write_to_cache(&self, calibration: &Calibration, cache_dir: Option<&Path>) {
        let Some(path) = self.places(cache_dir).into_iter().nth(1) else { return };
        drop(self.write(calibration, &path));
    }
}

impl Calibration {
    /// Runs the f32 engine over the sample.
    pub(super) fn measure(engine: &Engine, sample: &[Encoding]) -> Result<Self, ModelError> {
        let mut maxima: Option<ChannelMaxima> = None;
        each_pass(sample, |batch| {
            let found = engine.encoder().channel_maxima(batch)?;
            match &mut maxima {
                Some(maxima) => maxima.merge(&found),
                None => maxima = Some(found),
            }
            Ok(())
        })?;
        let maxima = maxima.ok_or_else(|| ModelError::Engine { reason: "no sample".to_owned() })?;
        Ok(Self { maxima, exact: answers(engine, sample)?, agreements: HashMap::new() })
    }

    /// The agreement of `engine`, and whether it was measured only now.
    pub(super) fn agreement(
        &mut self,
        subject: &Subject<'_>,
        (precision, engine): (Precision, &Engine),
        sample: &[Encoding],
    ) -> Result<(Agreement, bool), ModelError> {
        let variant = subject.variant(precision);
        if let Some(known) = self.agreements.get(&variant) {
            return Ok((*known, false));
        }
        let folder = subject.folder;
        let logits = answers(engine, sample)?;
        let means = (folder.labels(), folder.manifest().temperature);
        let agreement = Agreement::measure(precision, &logits, &self.exact, means);
        self.agreements.insert(variant, agreement);
        Ok((agreement, true))
    }

    /// What is known of a precision without running it.
    pub(super) fn known(&self, subject: &Subject<'_>, precision: Precision) -> Option<Agreement> {
        self.agreements.get(&subject.variant(precision)).copied()
    }
}

/// The built-in mails as the model reads them.
pub(super) fn sample(tokenizer: &TextTokenizer) -> Result<Vec<Encoding>, ModelError> {
    let mut sample = Vec::new();
    for text in sample_texts() {
        sample.extend(tokenizer.encode(&text, 0, LongText::Truncate)?.windows);
    }
    Ok(sample)
}

/// Sequences in batches of about [`PASS_TOKENS`].
fn each_pass(
    sample: &[Encoding],
    mut pass: impl FnMut(TokenBatch<'_>) -> Result<(), postsort_cpu::CpuError>,
) -> Result<(), ModelError> {
    let (mut ids, mut offsets) = (Vec::new(), vec![0_u32]);
    for (at, sequence) in sample.iter().enumerate() {
        ids.extend_from_slice(&sequence.ids);
        offsets.push(u32::try_from(ids.len()).unwrap_or(u32::MAX));
        if ids.len() >= PASS_TOKENS || at + 1 == sample.len() {
            pass(TokenBatch { ids: &ids, type_ids: &[], offsets: &offsets })?;
            ids.clear();
            offsets.truncate(1);
        }
    }
    Ok(())
}

fn answers(engine: &Engine, sample: &[Encoding]) -> Result<Vec<Vec<f32>>, ModelError> {
    let (labels, mut all) = (engine.labels(), Vec::with_capacity(sample.len()));
    each_pass(sample, |batch| {
        let mut logits = vec![0.0; (batch.offsets.len() - 1) * labels];
        engine.forward(batch, &mut logits)?;
        all.extend(logits.chunks_exact(labels).map(<[f32]>::to_vec));
        Ok(())
    })?;
    Ok(all)
}
