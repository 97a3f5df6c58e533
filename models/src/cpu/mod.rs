//! The fast engine: `postsort-cpu` over a folder's weights, in the fastest precision that agrees.

mod agreement;
mod build;
mod calibration;
#[cfg(test)]
mod cut_tests;
mod deberta;
mod encoders;
mod modern_bert;

use std::path::Path;
use std::sync::Arc;

pub use agreement::Agreement;
pub(crate) use build::knows;
use calibration::{Calibration, Subject};
use encoders::Packing;
pub use encoders::{Encoders, SharedEncoder};
use postsort_cpu::{
    ChannelMaxima, ComputePool, CpuError, Encoder, EncoderSpec, KernelLevel, TokenBatch,
};

use crate::engine::{Engine, Precision};
use crate::error::ModelError;
use crate::folder::ModelFolder;
use crate::tokenize::{Encoding, TextTokenizer};

/// Packed weights, and how far their answers are from f32.
#[derive(Debug)]
pub(crate) struct CpuEngine {
    engine: postsort_cpu::Engine,
    encoder: SharedEncoder,
    precision: Precision,
    agreement: Option<Agreement>,
}

/// Where and how an engine is built.
pub(crate) struct Site<'a> {
    pub(crate) precision: Precision,
    pub(crate) pool: &'a Arc<ComputePool>,
    /// Encoders that are in memory.
    pub(crate) encoders: &'a Encoders,
    /// Where calibrations are kept, beside the model's own folder.
    pub(crate) cache_dir: Option<&'a Path>,
}

/// A folder's weights, still in their files, and how they are packed.
struct Packer<'a> {
    folder: &'a ModelFolder,
    spec: EncoderSpec,
    level: KernelLevel,
    pool: &'a Arc<ComputePool>,
    encoders: &'a Encoders,
}

impl Packer<'_> {
    /// The folder's head over its encoder, which may be in memory already.
    fn pack(
        &self,
        precision: Precision,
        maxima: Option<&ChannelMaxima>,
    ) -> Result<(postsort_cpu::Engine, SharedEncoder), ModelError> {
        let Self { folder, spec, level, pool, encoders } = self;
        let packing = Packing { precision, level: *level, maxima };
        let encoder = encoders.get(folder, packing, || {
            let precision = cpu_precision(precision);
            Encoder::new(spec, precision, Arc::clone(pool), *level, maxima)
                .map_err(|error| in_folder(folder.path(), error))
        })?;
        let engine = postsort_cpu::Engine::beside(Arc::clone(encoder.encoder()), &spec.head)
            .map_err(|error| in_folder(folder.path(), error))?;
        Ok((engine, encoder))
    }

    fn exact(&self) -> Result<CpuEngine, ModelError> {
        let (engine, encoder) = self.pack(Precision::F32, None)?;
        Ok(CpuEngine { engine, encoder, precision: Precision::F32, agreement: None })
    }
}

impl CpuEngine {
    /// The engine of `folder`; `None` for an architecture that it does not know.
    ///
    /// `auto` takes 8-bit products if they agree with f32 on the built-in mails, else bf16 where
    /// the kernels multiply it as such and it agrees, else f32. The comparison is made once for a revision.
    pub(crate) fn load(
        folder: &ModelFolder,
        tokenizer: &TextTokenizer,
        site: &Site<'_>,
    ) -> Result<Option<Self>, ModelError> {
        let Some(spec) = build::encoder(folder)? else { return Ok(None) };
        let level = KernelLevel::from_env()?;
        let packer = Packer { folder, spec, level, pool: site.pool, encoders: site.encoders };
        if site.precision == Precision::F32 {
            return packer.exact().map(Some);
        }
        let subject = Subject { folder, level };
        let (mut calibration, mut is_new) = match subject.kept(site.cache_dir) {
            Some(kept) => (kept, false),
            // The f32 weights are dropped before others are packed.
            None => {
                let sample = calibration::sample(tokenizer)?;
                (Calibration::measure(&packer.exact()?.engine, &sample)?, true)
            }
        };
        let mut chosen = None;
        for &precision in candidates(site.precision, level) {
            let forced = site.precision != Precision::Auto;
            let known = calibration.known(&subject, precision);
            if !forced && known.is_some_and(|known| !known.holds()) {
                continue;
            }
            let (engine, encoder) = packer.pack(precision, Some(&calibration.maxima))?;
            let (agreement, measured) = match known {
                Some(known) => (known, false),
                None => {
                    let sample = calibration::sample(tokenizer)?;
                    calibration.agreement(&subject, (precision, &engine), &sample)?
                }
            };
            is_new |= measured;
            if forced || agreement.holds() {
                chosen = Some(Self { engine, encoder, precision, agreement: Some(agreement) });
                break;
            }
        }
        if is_new {
            subject.write_to_cache(&calibration, site.cache_dir);
        }
        chosen.map_or_else(|| packer.exact(), Ok).map(Some)
    }

    /// Measures `folder` anew and keeps the result in it, so that it is loaded without measuring, also
    /// where attention multiplies otherwise. What the precisions' agreements are, and with which kernels.
    ///
    /// # Errors
    /// As loading, and a folder that cannot be written.
    pub(crate) fn calibrate(
        folder: &ModelFolder,
        tokenizer: &TextTokenizer,
        (pool, encoders): (&Arc<ComputePool>, &Encoders),
    ) -> Result<Vec<(KernelLevel, Agreement)>, ModelError> {
        let Some(spec) = build::encoder(folder)? else { return Ok(Vec::new()) };
        let level = KernelLevel::from_env()?;
        let mut packer = Packer { folder, spec, level, pool, encoders };
        let sample = calibration::sample(tokenizer)?;
        let mut calibration = Calibration::measure(&packer.exact()?.engine, &sample)?;
        let mut agreements = Vec::new();
        for level in [Some(level), level.with_other_attention()].into_iter().flatten() {
            packer.level = level;
            let subject = Subject { folder, level };
            for &precision in candidates(Precision::Auto, level) {
                let (engine, _) = packer.pack(precision, Some(&calibration.maxima))?;
                let of_engine = (precision, &engine);
                agreements.push((level, calibration.agreement(&subject, of_engine, &sample)?.0));
            }
        }
        let subject = Subject { folder, level };
        subject.write(&calibration, &folder.path().join(calibration::FILE_NAME))?;
        Ok(agreements)
    }

    /// What loading would choose, if that is known without measuring.
    pub(crate) fn known(
        folder: &ModelFolder,
        wanted: Precision,
        cache_dir: Option<&Path>,
    ) -> Option<Known> {
        let level = KernelLevel::from_env().ok()?;
        let exact = Known { precision: Precision::F32, level, maxima: None };
        if wanted == Precision::F32 {
            return Some(exact);
        }
        let subject = Subject { folder, level };
        let kept = subject.kept(cache_dir)?;
        for &precision in candidates(wanted, level) {
            if wanted != Precision::Auto || kept.known(&subject, precision)?.holds() {
                return Some(Known { precision, level, maxima: Some(kept.maxima) });
            }
        }
        Some(exact)
    }
}

/// How a folder will be packed.
pub(crate) struct Known {
    pub(crate) precision: Precision,
    level: KernelLevel,
    maxima: Option<ChannelMaxima>,
}

impl Known {
    /// What the folder's encoder so packed is most likely known by.
    pub(crate) fn key(&self, folder: &ModelFolder) -> Option<String> {
        let Self { precision, level, maxima } = self;
        let packing = Packing { precision: *precision, level: *level, maxima: maxima.as_ref() };
        packing.likely_key(folder).ok()?
    }
}

/// What `wanted` allows but f32, the fastest first.
fn candidates(wanted: Precision, level: KernelLevel) -> &'static [Precision] {
    match wanted {
        Precision::Auto if level == KernelLevel::Avx512Bf16 => &[Precision::Int8, Precision::Bf16],
        Precision::Auto | Precision::Int8 => &[Precision::Int8],
        Precision::Bf16 => &[Precision::Bf16],
        Precision::F32 => &[],
    }
}

fn cpu_precision(precision: Precision) -> postsort_cpu::Precision {
    match precision {
        Precision::Int8 => postsort_cpu::Precision::Int8,
        Precision::Bf16 => postsort_cpu::Precision::Bf16,
        Precision::F32 | Precision::Auto => postsort_cpu::Precision::F32,
    }
}

impl Engine for CpuEngine {
    fn encode(&self, batch: &[&Encoding]) -> Result<Vec<Vec<f32>>, ModelError> {
        let tokens = batch.iter().map(|sequence| sequence.ids.len()).sum();
        let mut ids = Vec::with_capacity(tokens);
        let mut offsets = Vec::with_capacity(batch.len() + 1);
        offsets.push(0);
        for sequence in batch {
            ids.extend_from_slice(&sequence.ids);
            offsets.push(u32::try_from(ids.len()).unwrap_or(u32::MAX));
        }
        // Nearly every text is of type 0 alone, which the engine knows without a list.
        let typed = batch.iter().any(|sequence| sequence.type_ids.iter().any(|&id| id != 0));
        let type_ids: Vec<u32> = if typed {
            batch.iter().flat_map(|sequence| &sequence.type_ids).copied().collect()
        } else {
            Vec::new()
        };
        let encoder = self.engine.encoder();
        let mut states = vec![0.0; batch.len() * encoder.hidden()];
        let sequences = TokenBatch { ids: &ids, type_ids: &type_ids, offsets: &offsets };
        encoder.forward(sequences, &mut states)?;
        Ok(states.chunks_exact(encoder.hidden()).map(<[f32]>::to_vec).collect())
    }

    fn logits(&self, states: &[Vec<f32>]) -> Result<Vec<Vec<f32>>, ModelError> {
        let head = self.engine.head();
        let mut logits = vec![0.0; states.len() * head.labels()];
        head.apply(&states.concat(), &mut logits)?;
        Ok(logits.chunks_exact(head.labels()).map(<[f32]>::to_vec).collect())
    }

    fn rouse(&self) {
        self.engine.encoder().rouse();
    }

    fn encoder(&self) -> Option<&SharedEncoder> {
        Some(&self.encoder)
    }

    fn name(&self) -> &'static str {
        "cpu"
    }

    fn precision(&self) -> Precision {
        self.precision
    }

    fn device(&self) -> String {
        "cpu".to_owned()
    }

    fn resident_bytes(&self) -> u64 {
        self.engine.resident_bytes() as u64
    }

    fn kernels(&self) -> Option<&'static str> {
        Some(self.engine.kernel_level().name())
    }

    fn agreement(&self) -> Option<Agreement> {
        self.agreement
    }
}

/// Names the folder whose files could not be read.
fn in_folder(folder: &Path, error: CpuError) -> ModelError {
    match error {
        CpuError::Bytes { .. } | CpuError::Read { .. } | CpuError::Shorter { .. } => {
            ModelError::io(folder, error)
        }
        other => other.into(),
    }
}

impl From<CpuError> for ModelError {
    fn from(error: CpuError) -> Self {
        match error {
            CpuError::SequenceLength { tokens, tokens_max } => {
                Self::SequenceLength { tokens, tokens_max }
            }
            CpuError::TokenOutOfRange { id, vocabulary } => {
                Self::TokenOutOfRange { id, vocabulary }
            }
            CpuError::TypeOutOfRange { id, types } => {
                Self::TokenOutOfRange { id, vocabulary: types }
            }
            other => Self::Engine { reason: other.to_string() },
        }
    }
}
