//! What is kept in memory, and for how long.
//!
//! [`ResultCache`] memoizes answers by a 128-bit [`Digest`] and lets identical questions that are
//! in flight wait for one computation; [`SharedCache`] asks Redis what other processes know.
//! [`Residency`] keeps loaded models under a byte budget a device and loads them once, on first use.
//! None knows what an answer or a model is.
#![forbid(unsafe_code)]

mod digest;
mod residency;
mod results;
mod shared;

pub use digest::Digest;
pub use residency::{
    Backoff, Budget, EvictionReason, Lease, ModelState, Needs, Residency, ResidencyError,
    ResidencyStats, Source, Spec,
};
pub use results::{Claim, Lead, ResultCache, ResultStats, Weigh};
pub use shared::{
    ObserveShared, SharedCache, SharedCacheError, SharedOutcome, SharedReading, SharedSettings,
};
