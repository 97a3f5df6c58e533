//! The encoder: built from a spec, run over batches.

mod arena;
mod attention;
mod build;
mod calibrate;
mod embed;
mod pass;
mod phases;
mod plan;

pub(crate) use arena::Arena;
pub use calibrate::ChannelMaxima;
pub use phases::{Phase, PhaseTimes};

use std::sync::{Arc, Mutex, PoisonError};

use crate::error::CpuError;
use crate::kernels::level::KernelLevel;
use crate::kernels::{Function, Kernels};
use crate::pack::PackedLinear;
use crate::pool::ComputePool;
use crate::slab::Slab;
use crate::spec::{EncoderSpec, Precision, TokenBatch};
use calibrate::Gauge;
use embed::PackedEmbeddings;
use plan::Costs;

/// A classifier with packed weights.
///
/// An answer is bit for bit the same whatever else is in the batch and however many threads
/// compute.
#[derive(Debug)]
pub struct Engine {
    kernels: &'static Kernels,
    precision: Precision,
    pool: Arc<ComputePool>,
    sizes: Sizes,
    embeddings: PackedEmbeddings,
    layers: Vec<Layer>,
    function: Function,
    head: Vec<(PackedLinear, Option<Function>)>,
    costs: Costs,
    /// What the layers' pointers lead to.
    weights: Slab,
    table_bytes: usize,
}

/// The model's sizes.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    hidden: usize,
    heads: usize,
    head_size: usize,
    intermediate: usize,
    /// Width of the embedding tables.
    embedding: usize,
    /// Widest row of f32 between two products.
    widest: usize,
    labels: usize,
    tokens_max: usize,
    /// Attention multiplies bf16 rather than f32.
    bf16_attention: bool,
}

#[derive(Debug)]
struct Layer {
    query: PackedLinear,
    key: PackedLinear,
    value: PackedLinear,
    attention_output: PackedLinear,
    attention_norm: PackedNorm,
    up: PackedLinear,
    down: PackedLinear,
    output_norm: PackedNorm,
}

/// A layer norm's weights, padded to whole vectors.
#[derive(Debug)]
struct PackedNorm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    eps: f32,
}

impl Engine {
    /// Packs the weights of `spec` for the kernels that `POSTSORT_KERNEL` names, or the CPU's best.
    ///
    /// # Errors
    /// A tensor that is not of its place's shape, sizes that contradict each other, or kernels that
    /// this CPU cannot run.
    pub fn new(
        spec: &EncoderSpec,
        precision: Precision,
        pool: Arc<ComputePool>,
    ) -> Result<Self, CpuError> {
        Self::with_kernels(spec, precision, pool, KernelLevel::from_env()?)
    }

    /// As [`Self::new`], with the kernels of `level`.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_kernels(
        spec: &EncoderSpec,
        precision: Precision,
        pool: Arc<ComputePool>,
        level: KernelLevel,
    ) -> Result<Self, CpuError> {
        build::build(spec, precision, pool, kernels_of(level)?, None)
    }

    /// As [`Self::with_kernels`], with outlier channels of 8-bit products evened out by what was
    /// measured on sample texts; other precisions do not need it.
    ///
    /// # Errors
    /// As [`Self::new`], and maxima of another model.
    pub fn calibrated(
        spec: &EncoderSpec,
        precision: Precision,
        pool: Arc<ComputePool>,
        level: KernelLevel,
        maxima: &ChannelMaxima,
    ) -> Result<Self, CpuError> {
        build::build(spec, precision, pool, kernels_of(level)?, Some(maxima))
    }

    /// Largest magnitudes of the channels that go into products on a batch of sample texts. A few
    /// hundred tokens are enough to find the channels that stand out.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn channel_maxima(&self, batch: TokenBatch<'_>) -> Result<ChannelMaxima, CpuError> {
        let Sizes { hidden, intermediate, .. } = self.sizes;
        let maxima = ChannelMaxima::new(self.layers.len(), hidden, intermediate);
        let gauge = Gauge(Mutex::new(maxima));
        let sequences = batch.offsets.len().saturating_sub(1);
        let mut logits = vec![0.0; sequences * self.sizes.labels];
        self.run(batch, &mut logits, Watchers { gauge: Some(&gauge), ..Watchers::default() })?;
        Ok(gauge.0.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Logits `[sequences, labels]` of a batch.
    ///
    /// Runs on the calling thread and the pool's workers; calls of several threads run one after
    /// another. Does not allocate once the pool has seen a batch as large.
    ///
    /// # Errors
    /// A batch that does not fit together or the model, or `logits` of another length.
    pub fn forward(&self, batch: TokenBatch<'_>, logits: &mut [f32]) -> Result<(), CpuError> {
        self.run(batch, logits, Watchers::default())
    }

    /// As [`Self::forward`], and adds up where the time went.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_timed(
        &self,
        batch: TokenBatch<'_>,
        logits: &mut [f32],
        times: &PhaseTimes,
    ) -> Result<(), CpuError> {
        self.run(batch, logits, Watchers { times: Some(times), ..Watchers::default() })
    }

    fn run(
        &self,
        batch: TokenBatch<'_>,
        logits: &mut [f32],
        watchers: Watchers<'_>,
    ) -> Result<(), CpuError> {
        self.check(batch)?;
        let expected = (batch.offsets.len() - 1) * self.sizes.labels;
        if logits.len() != expected {
            return Err(CpuError::LogitsLength { expected, found: logits.len() });
        }
        if expected == 0 {
            return Ok(());
        }
        pass::forward(self, batch, logits, watchers)
    }

    fn check(&self, batch: TokenBatch<'_>) -> Result<(), CpuError> {
        let bad = |reason| Err(CpuError::BadBatch { reason });
        let (Some(&0), Some(&end)) = (batch.offsets.first(), batch.offsets.last()) else {
            return bad("offsets do not begin with 0");
        };
        if end as usize != batch.ids.len() {
            return bad("the last offset is not the number of ids");
        }
        if !batch.type_ids.is_empty() && batch.type_ids.len() != batch.ids.len() {
            return bad("there are not as many types as ids");
        }
        for pair in batch.offsets.windows(2) {
            let tokens = pair[1].saturating_sub(pair[0]) as usize;
            if tokens == 0 || tokens > self.sizes.tokens_max {
                return Err(CpuError::SequenceLength { tokens, tokens_max: self.sizes.tokens_max });
            }
        }
        self.embeddings.check(batch)
    }

    /// Logits of a sequence.
    #[must_use]
    pub fn labels(&self) -> usize {
        self.sizes.labels
    }

    /// Longest sequence.
    #[must_use]
    pub fn tokens_max(&self) -> usize {
        self.sizes.tokens_max
    }

    /// Precision of its products.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The instruction set in use.
    #[must_use]
    pub fn kernel_level(&self) -> KernelLevel {
        self.kernels.level
    }

    /// Bytes of packed weights and of the embedding tables, which may be mapped; scratch memory is
    /// the pool's.
    #[must_use]
    pub fn resident_bytes(&self) -> usize {
        self.weights.used() + self.table_bytes
    }
}

fn kernels_of(level: KernelLevel) -> Result<&'static Kernels, CpuError> {
    let best = KernelLevel::best;
    Kernels::of(level).ok_or_else(|| CpuError::KernelUnavailable { level, best: best() })
}

/// Who looks on during a pass.
#[derive(Clone, Copy, Debug, Default)]
struct Watchers<'a> {
    times: Option<&'a PhaseTimes>,
    gauge: Option<&'a Gauge>,
}
