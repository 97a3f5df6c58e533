//! The encoder: built from a spec, run over batches.

mod arena;
mod attention;
mod build;
mod calibrate;
mod embed;
mod ends;
mod head;
mod layer;
mod norm;
mod pass;
mod phases;
mod plan;
mod relative;
mod rotation;
mod sizes;

pub(crate) use arena::Arena;
pub use calibrate::ChannelMaxima;
pub use head::Head;
pub use phases::{Phase, PhaseTimes};

use std::sync::{Arc, Mutex, PoisonError};

use crate::error::CpuError;
use crate::kernels::level::KernelLevel;
use crate::kernels::{Function, Kernels};
use crate::pack::PackedLinear;
use crate::pool::ComputePool;
use crate::slab::Slab;
use crate::spec::{EncoderSpec, HeadSpec, Pooling, Precision, TokenBatch};
use calibrate::Gauge;
use embed::PackedEmbeddings;
use norm::PackedNorm;
use plan::Costs;
use relative::{Distances, PackedPositions};
use rotation::Rotation;
use sizes::Sizes;

/// An encoder with packed weights: from tokens to a state a sequence, which heads read.
///
/// A state is bit for bit the same whatever else is in the batch and however many threads compute.
#[derive(Debug)]
pub struct Encoder {
    kernels: &'static Kernels,
    precision: Precision,
    pool: Arc<ComputePool>,
    sizes: Sizes,
    embeddings: PackedEmbeddings,
    layers: Vec<Layer>,
    final_norm: Option<PackedNorm>,
    distances: Option<Distances>,
    pooling: Pooling,
    function: Function,
    costs: Costs,
    /// What the layers' pointers lead to.
    weights: Slab,
    table_bytes: usize,
}

#[derive(Debug)]
struct Layer {
    query: PackedLinear,
    key: PackedLinear,
    value: PackedLinear,
    attention_output: PackedLinear,
    up: PackedLinear,
    gate: Option<PackedLinear>,
    down: PackedLinear,
    attention_pre_norm: Option<PackedNorm>,
    attention_norm: Option<PackedNorm>,
    output_pre_norm: Option<PackedNorm>,
    output_norm: Option<PackedNorm>,
    rotation: Option<Rotation>,
    position_key: Option<PackedPositions>,
    position_query: Option<PackedPositions>,
    window: Option<usize>,
}

impl Encoder {
    /// Packs the weights of `spec` for the kernels of `level`, the head's not among them. Outlier
    /// channels of 8-bit products are evened out by `maxima`, what was measured on sample texts, if
    /// there are any; other precisions do not need them.
    ///
    /// # Errors
    /// A tensor that is not of its place's shape, sizes that contradict each other, kernels that
    /// this CPU cannot run, or maxima of another model.
    pub fn new(
        spec: &EncoderSpec,
        precision: Precision,
        pool: Arc<ComputePool>,
        level: KernelLevel,
        maxima: Option<&ChannelMaxima>,
    ) -> Result<Self, CpuError> {
        build::build(spec, precision, pool, kernels_of(level)?, maxima)
    }

    /// States `[sequences, hidden]` of a batch: of the first tokens, or the means of all.
    ///
    /// Runs on the calling thread and the pool's workers; calls of several threads run one after
    /// another. Does not allocate once the pool has seen a batch as large.
    ///
    /// # Errors
    /// A batch that does not fit together or the model, or `states` of another length.
    pub fn forward(&self, batch: TokenBatch<'_>, states: &mut [f32]) -> Result<(), CpuError> {
        self.run(batch, states, Watchers::default())
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
        let mut states = vec![0.0; batch.sequences() * hidden];
        self.run(batch, &mut states, Watchers { gauge: Some(&gauge), ..Watchers::default() })?;
        Ok(gauge.0.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn run(
        &self,
        batch: TokenBatch<'_>,
        states: &mut [f32],
        watchers: Watchers<'_>,
    ) -> Result<(), CpuError> {
        self.check(batch)?;
        let expected = batch.sequences() * self.sizes.hidden;
        if states.len() != expected {
            return Err(CpuError::ResultLength { expected, found: states.len() });
        }
        if expected == 0 {
            return Ok(());
        }
        pass::forward(self, batch, states, watchers)
    }

    /// Layers past whose keys and values all tokens are computed.
    fn whole_layers(&self) -> usize {
        match self.pooling {
            Pooling::FirstToken => self.layers.len() - 1,
            Pooling::Mean => self.layers.len(),
        }
    }

    /// Parts of a pass between which threads wait: embeddings, whole layers, ends.
    fn phases(&self) -> usize {
        self.whole_layers() + 2
    }

    /// Whether positions attend to keys.
    fn keeps_keys(&self) -> bool {
        self.layers.iter().any(|layer| layer.position_query.is_some())
    }

    fn has_pre_norms(&self) -> bool {
        let has =
            |layer: &Layer| layer.attention_pre_norm.is_some() || layer.output_pre_norm.is_some();
        self.layers.iter().any(has)
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

    /// Wakes the threads of its pool for a pass that is about to come; see [`ComputePool::rouse`].
    pub fn rouse(&self) {
        self.pool.rouse();
    }

    /// Numbers of a state.
    #[must_use]
    pub fn hidden(&self) -> usize {
        self.sizes.hidden
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

/// A whole classifier: an encoder, which others may share, and a head.
///
/// An answer is bit for bit the same whatever else is in the batch and however many threads
/// compute.
#[derive(Debug)]
pub struct Engine {
    encoder: Arc<Encoder>,
    head: Head,
}

impl Engine {
    /// Packs the weights of `spec` for the kernels that `POSTSORT_KERNEL` names, or the CPU's best.
    ///
    /// # Errors
    /// See [`Encoder::new`] and [`Head::new`].
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
        let encoder = Encoder::new(spec, precision, pool, level, None)?;
        Self::beside(Arc::new(encoder), &spec.head)
    }

    /// As [`Self::with_kernels`], with what was measured of the channels; see [`Encoder::new`].
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
        let encoder = Encoder::new(spec, precision, pool, level, Some(maxima))?;
        Self::beside(Arc::new(encoder), &spec.head)
    }

    /// A head over an encoder that is there already.
    ///
    /// # Errors
    /// See [`Head::new`].
    pub fn beside(encoder: Arc<Encoder>, head: &HeadSpec) -> Result<Self, CpuError> {
        let head = Head::new(head, encoder.hidden(), encoder.kernel_level())?;
        Ok(Self { encoder, head })
    }

    /// Logits `[sequences, labels]` of a batch; see [`Encoder::forward`].
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
        self.encoder.check(batch)?;
        let expected = batch.sequences() * self.labels();
        if logits.len() != expected {
            return Err(CpuError::ResultLength { expected, found: logits.len() });
        }
        let mut states = vec![0.0; batch.sequences() * self.encoder.hidden()];
        self.encoder.run(batch, &mut states, watchers)?;
        self.head.apply(&states, logits)
    }

    /// From tokens to states.
    #[must_use]
    pub fn encoder(&self) -> &Arc<Encoder> {
        &self.encoder
    }

    /// From states to logits.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Logits of a sequence.
    #[must_use]
    pub fn labels(&self) -> usize {
        self.head.labels()
    }

    /// Precision of the encoder's products.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.encoder.precision()
    }

    /// The instruction set in use.
    #[must_use]
    pub fn kernel_level(&self) -> KernelLevel {
        self.encoder.kernel_level()
    }

    /// Bytes of the encoder and of the head.
    #[must_use]
    pub fn resident_bytes(&self) -> usize {
        self.encoder.resident_bytes() + self.head.resident_bytes()
    }
}

pub(crate) fn kernels_of(level: KernelLevel) -> Result<&'static Kernels, CpuError> {
    let best = KernelLevel::best;
    Kernels::of(level).ok_or_else(|| CpuError::KernelUnavailable { level, best: best() })
}

/// Who looks on during a pass.
#[derive(Clone, Copy, Debug, Default)]
struct Watchers<'a> {
    times: Option<&'a PhaseTimes>,
    gauge: Option<&'a Gauge>,
}
