//! Encoder forward passes on CPUs: packed weights, padding-free batches, fused kernels.
//!
//! An [`EncoderSpec`] names tensors by their places, so this crate knows neither files nor
//! checkpoints; an [`Encoder`] packs them once for the CPU's best kernels; [`Encoder::forward`] turns
//! a [`TokenBatch`] into states on a [`ComputePool`] that all encoders share, and a [`Head`] turns
//! states into logits. Several heads may read one encoder's states; an [`Engine`] is both.
//!
//! Families are settings of one encoder: norms after the residuals (BERT and its kin) or before the
//! products (ModernBERT), gates, rotary positions, windows, relative positions (DeBERTa), and the
//! first token's state or the mean of all for the heads.
//!
//! # Map
//!
//! ```text
//! spec.rs       what the caller hands in
//! tensor.rs     its tensors: read in blocks to be packed, tables used where they lie
//! file.rs       files that tensors are in: read, and mapped for the tables
//! pool.rs       threads: hand-out of a job, wake-up, sleep
//! slab.rs       memory for weights and scratch, in huge pages
//! cache_sizes.rs how large the CPU's caches are
//! pack.rs       dense layers in panels, and the loop over tiles
//! product.rs    a dense layer by itself, to be measured
//! simd/         one trait of vector operations, one file an instruction set
//! kernels/      written once over the trait
//!   tile.rs       register tiles of f32, bf16 and 8-bit products
//!   rows.rs       layer norm, coding for the next product, softmax
//!   heads.rs      heads of queries and keys in 8 bits
//!   window.rs     softmax of which each row sees a window
//!   rotary.rs     queries and keys turned by their positions
//!   places.rs     scores by where a key is seen from
//!   combine.rs    products, sums and means of rows
//!   math.rs       2^x, GELU and its kin
//!   table.rs      all of these compiled for each instruction set
//!   level.rs      which set is used
//! encoder/
//!   build.rs      spec to encoder
//!   calibrate.rs  outlier channels of 8-bit products
//!   plan.rs       whose rows are whose, and what memory a pass needs
//!   sizes.rs      what a spec's tensors say of its sizes
//!   pass.rs       THE forward pass
//!   layer.rs      a layer's products over a block of rows
//!   ends.rs       what heads read of a sequence
//!   head.rs       from states to logits
//!   attention.rs  one tile of queries, one head at a time
//!   relative.rs   DeBERTa's relative positions, projected once
//!   rotation.rs   angles of rotary positions, tabulated once
//!   embed.rs, norm.rs, arena.rs, phases.rs
//! ```
//!
//! # How it is fast
//!
//! Sequences lie one after another without padding. Rows are shared out in blocks that stay in a
//! core's L2 cache, however large, through all of a layer's products; a thread that is done takes blocks that
//! another has not begun, so a thread that wakes late or loses its CPU costs little. Threads wait
//! for each other once a layer, for keys and values. 8-bit rows are coded once, with a scale of
//! their own; bias, activation, residual and correction are added as sums leave the registers. Queries
//! and keys of 8-bit encoders are coded head by head, for scores are half of attention's products. The
//! last layer computes first tokens only, past keys and values, unless heads read the mean of all.
//! In layers with a window keys beyond it are not read.
//!
//! # Invariants
//!
//! - An answer is bit for bit the same whatever is in the batch and however many threads compute:
//!   sums run over inputs in one order in every tile, and attention sees only its sequence. Of a
//!   window, too: shares of what a row does not see are zeros, and lanes are counted from the
//!   sequence's first key.
//! - 8-bit sums are exact on every instruction set: nothing saturates.
//! - `unsafe` kernels are reached only through a table that is handed out after the CPU's features
//!   were checked, and get memory that the pass's layout made room for.
//! - A pass does not allocate once its pool has seen one as large.
//! - Nothing spins while there is nothing to do.
//! - Bytes that cannot be read are an error of the load: only embedding tables are mapped.

mod cache_sizes;
mod encoder;
mod error;
mod file;
mod kernels;
mod pack;
mod pool;
mod product;
mod seat;
mod simd;
mod slab;
mod spec;
mod tensor;

pub use encoder::{ChannelMaxima, Encoder, Engine, Head, Phase, PhaseTimes};
pub use error::CpuError;
pub use file::open_file;
pub use kernels::level::{KERNEL_VARIABLE, KernelLevel, KernelReport, kernels};
pub use pool::ComputePool;
pub use product::Product;
pub use spec::{
    Activation, Embeddings, EncoderSpec, HeadLayer, HeadSpec, LayerSpec, Linear, Norm, NormPlace,
    Pooling, Positions, Precision, RelativePositions, TokenBatch,
};
pub use tensor::{Dtype, Mapped, Owner, Source, TensorView};
