//! A loaded model.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use postsort_cpu::{ComputePool, KernelLevel};

use crate::cpu::{Agreement, CpuEngine, Encoders, SharedEncoder};
use crate::device::{ComputeDevice, CpuDevice, is_fast};
use crate::engine::{Engine, EngineKind, Precision};
use crate::error::ModelError;
use crate::folder::ModelFolder;
use crate::labels::Labels;
use crate::tokenize::{Encoding, TextTokenizer};

/// How to load.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Precision, unless the manifest forces one.
    pub precision: Precision,
    /// Where to compute.
    pub device: Arc<dyn ComputeDevice>,
    /// What to compute with.
    pub engine: EngineKind,
    /// The threads that all models share; without them, those of the process, as many as the
    /// control group and the affinity mask give.
    pub pool: Option<Arc<ComputePool>>,
    /// The encoders that models loaded with these options share.
    pub encoders: Encoders,
    /// Where measured calibrations are kept, so that a model is measured once; beside its folder,
    /// which is only read.
    pub calibration_dir: Option<PathBuf>,
}

impl Default for LoadOptions {
    /// On the CPU, as fast as it can.
    fn default() -> Self {
        Self {
            precision: Precision::default(),
            device: Arc::new(CpuDevice),
            engine: EngineKind::default(),
            pool: None,
            encoders: Encoders::default(),
            calibration_dir: None,
        }
    }
}

impl LoadOptions {
    pub(crate) fn pool(&self) -> Result<Arc<ComputePool>, ModelError> {
        static POOL: OnceLock<Arc<ComputePool>> = OnceLock::new();
        if let Some(pool) = self.pool.as_ref().or_else(|| POOL.get()) {
            return Ok(Arc::clone(pool));
        }
        let pool = ComputePool::new(0)?;
        Ok(Arc::clone(POOL.get_or_init(|| pool)))
    }

    pub(crate) fn precision(&self, folder: &ModelFolder) -> Precision {
        folder.manifest().precision.unwrap_or(self.precision)
    }

    /// Bytes that `folder` takes at most, while it is loaded and after.
    #[must_use]
    pub fn resident_bytes_estimate(&self, folder: &ModelFolder) -> u64 {
        self.device.bytes_max(folder, self)
    }

    /// What is to be reserved for `folder` before its weights are packed: at most this is taken,
    /// while it is loaded and after.
    #[must_use]
    pub fn memory_needs(&self, folder: &ModelFolder) -> MemoryNeeds {
        self.device.memory_needs(folder, self)
    }
}

/// Bytes that a model takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryNeeds {
    /// For itself alone.
    pub own_bytes: u64,
    /// For an encoder that other models may share: [`SharedEncoder::key`] and its bytes.
    pub encoder: Option<(String, u64)>,
}

/// What a forward pass took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassTime {
    /// Sequences in it, of equal length.
    pub sequences: usize,
    /// Tokens of each.
    pub sequence_tokens: usize,
    /// From call to logits.
    pub took: Duration,
}

/// Sequences, tokens of each, and runs of which the fastest counts: as long as the model reads, a
/// mail, a line, and lines at once. The longest is first: it makes room for all that follow.
const WARM_UP_PASSES: [(usize, usize, usize); 4] =
    [(1, usize::MAX, 1), (1, 128, 2), (1, 16, 2), (4, 32, 1)];

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
        let engine = options.device.load(folder, &tokenizer, options)?;
        Ok(Self { folder: folder.clone(), tokenizer, engine })
    }

    /// Measures the folder's model on the CPU, on the built-in mails, and keeps the result in the folder, so
    /// that loading it need not measure; how far each precision is from f32, with which kernels. Empty
    /// where only f32 is to be had.
    ///
    /// # Errors
    /// As [`Self::load`], and a folder that cannot be written.
    pub fn calibrate(
        folder: &ModelFolder,
        options: &LoadOptions,
    ) -> Result<Vec<(KernelLevel, Agreement)>, ModelError> {
        if !is_fast(folder, options.engine) {
            return Ok(Vec::new());
        }
        let tools = (&options.pool()?, &options.encoders);
        CpuEngine::calibrate(folder, &TextTokenizer::open(folder)?, tools)
    }

    /// Reads sequences of usual lengths, and the manifest's mails, so that the first request is no
    /// slower than the tenth: memory for the longest sequence is there, and what the processor and
    /// the pages of the file's tables have to learn is learnt. What the passes took.
    ///
    /// # Errors
    /// See [`Engine::encode`].
    pub fn warm_up(&self) -> Result<Vec<PassTime>, ModelError> {
        let tokens_max = self.folder.tokens_max();
        for tokens in self.engine.lengths_to_prepare(tokens_max) {
            self.forward(&[&self.tokenizer.encode_exact(tokens)])?;
        }
        let mut passes = Vec::with_capacity(WARM_UP_PASSES.len());
        for (sequences, tokens, runs) in WARM_UP_PASSES {
            let sequence_tokens = tokens.min(tokens_max);
            let sequence = self.tokenizer.encode_exact(sequence_tokens);
            let batch = vec![&sequence; sequences];
            let mut took = Duration::MAX;
            for _ in 0..runs {
                let started = Instant::now();
                self.forward(&batch)?;
                took = took.min(started.elapsed());
            }
            passes.push(PassTime { sequences, sequence_tokens, took });
        }
        for text in &self.folder.manifest().warm_up {
            if let Ok(encoded) = self.tokenizer.encode(text, 0, self.folder.manifest().long) {
                self.forward(&encoded.windows.iter().collect::<Vec<_>>())?;
            }
        }
        Ok(passes)
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
    /// See [`Engine::encode`].
    pub fn forward(&self, batch: &[&Encoding]) -> Result<Vec<Vec<f32>>, ModelError> {
        self.engine.logits(&self.engine.encode(batch)?)
    }

    /// The encoder, where other models may share it.
    #[must_use]
    pub fn encoder(&self) -> Option<&SharedEncoder> {
        self.engine.encoder()
    }

    /// Bytes of weights in memory, those of a shared encoder included.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        self.engine.resident_bytes()
    }

    /// Bytes of weights in memory, with those of a shared encoder apart.
    #[must_use]
    pub fn memory(&self) -> MemoryNeeds {
        let encoder = self.encoder().map(|own| (own.key().to_owned(), own.resident_bytes()));
        let shared_bytes = encoder.as_ref().map_or(0, |(_, bytes)| *bytes);
        MemoryNeeds { own_bytes: self.resident_bytes() - shared_bytes, encoder }
    }
}
