//! Encoder forward passes on CPUs.

mod encoder;
mod error;
mod kernels;
mod pack;
mod pool;
mod simd;
mod slab;
mod spec;

pub use encoder::{Engine, Phase, PhaseTimes};
pub use error::CpuError;
pub use kernels::level::{KERNEL_VARIABLE, KernelLevel, KernelReport, kernels};
pub use pool::ComputePool;
pub use spec::{
    Activation, Dtype, Embeddings, EncoderSpec, HeadSpec, LayerSpec, Linear, Norm, Owner, Positions,
    Precision, TensorView, TokenBatch,
};
