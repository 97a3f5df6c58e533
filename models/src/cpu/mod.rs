//! The fast engine: `postsort-cpu` over a folder's weights, in the fastest precision that agrees.

mod agreement;
mod build;
mod calibration;

use std::path::Path;
use std::sync::Arc;

pub use agreement::Agreement;
pub(crate) use build::knows;
use calibration::{Calibration, Subject};
use postsort_cpu::{ComputePool, CpuError, KernelLevel, TokenBatch};

use crate::engine::{Engine, Precision};
use crate::error::ModelError;
use crate::folder::ModelFolder;
use crate::tokenize::{Encoding, TextTokenizer};

/// Packed weights, and how far their answers are from f32.
#[derive(Debug)]
pub(crate) struct CpuEngine {
    engine: postsort_cpu::Engine,
    precision: Precision,
    agreement: Option<Agreement>,
}

/// Where and how an engine is built.
pub(crate) struct Site<'a> {
    pub(crate) precision: Precision,
    pub(crate) pool: &'a Arc<ComputePool>,
    /// Where calibrations are kept, beside the model's own folder.
    pub(crate) cache_dir: Option<&'a Path>,
}

impl CpuEngine {
    /// The engine of `folder`; `None` for an architecture that it does not know.
    ///
    /// `auto` takes 8-bit products if they agree with f32 on the built-in mails, else bf16 where
    /// the CPU multiplies it and it agrees, else f32. The comparison is made once for a revision.
    pub(crate) fn load(
        folder: &ModelFolder,
        tokenizer: &TextTokenizer,
        site: &Site<'_>,
    ) -> Result<Option<Self>, ModelError> {
        let Some(spec) = build::encoder(folder)? else { return Ok(None) };
        let level = KernelLevel::from_env()?;
        let exact = || {
            let pool = Arc::clone(site.pool);
            postsort_cpu::Engine::with_kernels(&spec, postsort_cpu::Precision::F32, pool, level)
        };
        if site.precision == Precision::F32 {
            let engine = exact()?;
            return Ok(Some(Self { engine, precision: Precision::F32, agreement: None }));
        }
        let subject = Subject { folder, level };
        let (mut calibration, mut is_new) = match subject.kept(site.cache_dir) {
            Some(kept) => (kept, false),
            // The f32 weights are dropped before others are packed.
            None => (Calibration::measure(&exact()?, &calibration::sample(tokenizer)?)?, true),
        };
        let mut chosen = None;
        for &precision in candidates(site.precision, level) {
            let forced = site.precision != Precision::Auto;
            let known = calibration.known(&subject, precision);
            if !forced && known.is_some_and(|known| !known.holds()) {
                continue;
            }
            let weights = (level, &calibration.maxima);
            let engine = calibration::calibrated(&spec, precision, site.pool, weights)?;
            let (agreement, measured) = match known {
                Some(known) => (known, false),
                None => {
                    let sample = calibration::sample(tokenizer)?;
                    calibration.agreement(&subject, (precision, &engine), &sample)?
                }
            };
            is_new |= measured;
            if forced || agreement.holds() {
                chosen = Some(Self { engine, precision, agreement: Some(agreement) });
                break;
            }
        }
        if is_new {
            subject.write_to_cache(&calibration, site.cache_dir);
        }
        match chosen {
            Some(chosen) => Ok(Some(chosen)),
            None => {
                let engine = exact()?;
                Ok(Some(Self { engine, precision: Precision::F32, agreement: None }))
            }
        }
    }

    /// Measures `folder` anew and keeps the result in it, so that it is loaded without measuring.
    /// What the precisions' agreements are.
    ///
    /// # Errors
    /// As loading, and a folder that cannot be written.
    pub(crate) fn calibrate(
        folder: &ModelFolder,
        tokenizer: &TextTokenizer,
        pool: &Arc<ComputePool>,
    ) -> Result<Vec<Agreement>, ModelError> {
        let Some(spec) = build::encoder(folder)? else { return Ok(Vec::new()) };
        let level = KernelLevel::from_env()?;
        let subject = Subject { folder, level };
        let sample = calibration::sample(tokenizer)?;
        let exact = postsort_cpu::Engine::with_kernels(
            &spec,
            postsort_cpu::Precision::F32,
            Arc::clone(pool),
            level,
        )?;
        let mut calibration = Calibration::measure(&exact, &sample)?;
        drop(exact);
        let mut agreements = Vec::new();
        for &precision in candidates(Precision::Auto, level) {
            let weights = (level, &calibration.maxima);
            let engine = calibration::calibrated(&spec, precision, pool, weights)?;
            agreements.push(calibration.agreement(&subject, (precision, &engine), &sample)?.0);
        }
        subject.write(&calibration, &folder.path().join(calibration::FILE_NAME))?;
        Ok(agreements)
    }

    /// The precision that loading would choose, if that is known without measuring.
    pub(crate) fn known_precision(
        folder: &ModelFolder,
        wanted: Precision,
        cache_dir: Option<&Path>,
    ) -> Option<Precision> {
        if wanted == Precision::F32 {
            return Some(wanted);
        }
        let level = KernelLevel::from_env().ok()?;
        let subject = Subject { folder, level };
        let kept = subject.kept(cache_dir)?;
        if wanted != Precision::Auto {
            return Some(wanted);
        }
        for &precision in candidates(wanted, level) {
            if kept.known(&subject, precision)?.holds() {
                return Some(precision);
            }
        }
        Some(Precision::F32)
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
    fn forward(&self, batch: &[&Encoding]) -> Result<Vec<Vec<f32>>, ModelError> {
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
        let labels = self.engine.labels();
        let mut logits = vec![0.0; batch.len() * labels];
        let sequences = TokenBatch { ids: &ids, type_ids: &type_ids, offsets: &offsets };
        self.engine.forward(sequences, &mut logits)?;
        Ok(logits.chunks_exact(labels).map(<[f32]>::to_vec).collect())
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
