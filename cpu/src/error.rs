//! What can be wrong with weights, settings or a batch.

use crate::kernels::level::KernelLevel;

/// Why an engine cannot be built or cannot run. Never carries a text.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// A tensor is not of the shape that its place asks for.
    #[error("{tensor} has shape {found:?}, expected {expected:?}")]
    Shape {
        /// The tensor's place in the model.
        tensor: String,
        /// Shape that the place asks for.
        expected: Vec<usize>,
        /// Shape that it has.
        found: Vec<usize>,
    },
    /// A tensor's bytes are not as many as its shape and type say, or lie outside their owner.
    #[error("{tensor} has {found} bytes, its shape says {expected}")]
    Bytes {
        /// The tensor's place in the model.
        tensor: String,
        /// Bytes of its shape.
        expected: usize,
        /// Bytes that are there.
        found: usize,
    },
    /// A tensor cannot be read, or its file ends in it.
    #[error("{tensor}: {bytes} bytes from byte {at} on cannot be read: {source}")]
    Read {
        /// The tensor's place in the model.
        tensor: String,
        /// Where in its owner, in bytes.
        at: usize,
        /// Bytes that were asked for.
        bytes: usize,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file was cut while its tensors were read.
    #[error("file has {found} bytes, had {expected} when it was opened: cut while it was read?")]
    Shorter {
        /// Bytes when it was opened.
        expected: u64,
        /// Bytes now.
        found: u64,
    },
    /// The model's sizes contradict each other.
    #[error("encoder cannot be built: {reason}")]
    BadSpec {
        /// What is wrong.
        reason: String,
    },
    /// `POSTSORT_KERNEL` names no level.
    #[error(
        "`{name}` names no kernels; there are scalar, neon, avx2, avxvnni, avx512, avx512vnni, avx512bf16"
    )]
    UnknownKernel {
        /// The name.
        name: String,
    },
    /// This CPU lacks the level that was asked for.
    #[error("this CPU cannot run the {level} kernels; its best are {best}")]
    KernelUnavailable {
        /// The level that was asked for.
        level: KernelLevel,
        /// The best one that it has.
        best: KernelLevel,
    },
    /// A sequence is empty or longer than the model's positions.
    #[error("sequence has {tokens} tokens, must be 1 to {tokens_max}")]
    SequenceLength {
        /// Its tokens.
        tokens: usize,
        /// The model's limit.
        tokens_max: usize,
    },
    /// A token id has no embedding.
    #[error("token id {id} is not below the vocabulary's {vocabulary}")]
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// Rows of the embedding.
        vocabulary: usize,
    },
    /// A token type has no embedding.
    #[error("token type {id} is not below {types}")]
    TypeOutOfRange {
        /// The type.
        id: u32,
        /// Rows of the embedding.
        types: usize,
    },
    /// The batch's slices do not fit together.
    #[error("batch is malformed: {reason}")]
    BadBatch {
        /// What does not fit.
        reason: &'static str,
    },
    /// The output has not room for exactly the batch's states or logits.
    #[error("room for {found} numbers, the batch has {expected}")]
    ResultLength {
        /// Sequences times numbers of one.
        expected: usize,
        /// Elements of the slice.
        found: usize,
    },
    /// A file cannot be mapped.
    #[error("file cannot be mapped: {0}")]
    Map(#[from] std::io::Error),
    /// A thread of the pool failed while it computed.
    #[error("a compute thread panicked")]
    Panicked,
}
