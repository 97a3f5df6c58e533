//! Encoders in memory. Models that differ in their heads alone share one: it is packed once, kept
//! once, and its states of a text are good for all of them.
//!
//! What an encoder is known by is made of samples of its tensors, so that a model which shares with nobody
//! reads its weights once, to pack them. Those that seem equal are read whole and compared before they share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use postsort_cpu::{ChannelMaxima, Encoder, KernelLevel};

use crate::engine::Precision;
use crate::error::ModelError;
use crate::folder::ModelFolder;

/// The encoders that are in memory, by all that their states depend on.
#[derive(Clone, Debug, Default)]
pub struct Encoders(Arc<Mutex<HashMap<String, Slot>>>);

/// Held while its encoder is packed, so that nobody packs the same beside.
type Slot = Arc<Mutex<Weak<Kept>>>;

#[derive(Debug)]
struct Kept {
    key: String,
    encoder: Arc<Encoder>,
    /// Where its weights are from.
    folder: ModelFolder,
}

impl Kept {
    /// Whether `folder` has the same encoder, byte by byte.
    fn is_of(&self, folder: &ModelFolder) -> bool {
        let theirs = folder.encoder_digest().ok().flatten();
        theirs.is_some() && self.folder.encoder_digest_again().ok().flatten() == theirs
    }
}

/// A model's hold on an encoder that other models may use, too.
#[derive(Debug)]
pub struct SharedEncoder(Arc<Kept>);

impl SharedEncoder {
    /// Equal for equal states, and only for those.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.0.key
    }

    /// Bytes of its weights.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        self.0.encoder.resident_bytes() as u64
    }

    /// Tells encoders in memory apart.
    #[must_use]
    pub fn address(&self) -> usize {
        Arc::as_ptr(&self.0) as usize
    }

    /// Models in memory that use it.
    #[must_use]
    pub fn models(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    pub(super) fn encoder(&self) -> &Arc<Encoder> {
        &self.0.encoder
    }
}

/// How an encoder is packed.
#[derive(Clone, Copy)]
pub(super) struct Packing<'a> {
    pub(super) precision: Precision,
    pub(super) level: KernelLevel,
    pub(super) maxima: Option<&'a ChannelMaxima>,
}

impl Packing<'_> {
    /// What an encoder of that digest is known by; the channels that were measured count for 8 bits alone.
    fn key(self, digest: [u8; 32]) -> String {
        let Self { precision, level, maxima } = self;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&digest);
        if let Some(maxima) = maxima.filter(|_| precision == Precision::Int8) {
            maxima.to_values().iter().for_each(|value| {
                hasher.update(&value.to_le_bytes());
            });
        }
        let weights = &hasher.finalize().to_hex()[..32];
        format!("{weights}-{precision}-{}", level.name())
    }

    /// What `folder`'s encoder is known by, unless another one is by the same; reads nothing.
    pub(super) fn likely_key(self, folder: &ModelFolder) -> Result<Option<String>, ModelError> {
        Ok(folder.encoder_sample()?.map(|sample| self.key(sample)))
    }
}

impl Encoders {
    /// The encoder of `folder`; packed now if it is not in memory.
    pub(super) fn get(
        &self,
        folder: &ModelFolder,
        packing: Packing<'_>,
        pack: impl Fn() -> Result<Encoder, ModelError>,
    ) -> Result<SharedEncoder, ModelError> {
        let none = || ModelError::Engine { reason: "no encoder of its own".to_owned() };
        let key = packing.likely_key(folder)?.ok_or_else(none)?;
        if let Some(encoder) = self.get_or_pack(key, folder, &pack)? {
            return Ok(encoder);
        }
        // Another one seems equal by samples and is not.
        let key = packing.key(folder.encoder_digest()?.ok_or_else(none)?);
        self.get_or_pack(key, folder, &pack)?.ok_or_else(none)
    }

    /// `None` where another encoder is known by `key`.
    fn get_or_pack(
        &self,
        key: String,
        folder: &ModelFolder,
        pack: impl Fn() -> Result<Encoder, ModelError>,
    ) -> Result<Option<SharedEncoder>, ModelError> {
        let slot = {
            let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            slots.retain(|_, slot| {
                // One that somebody holds is being packed.
                Arc::strong_count(slot) > 1
                    || slot.lock().unwrap_or_else(PoisonError::into_inner).strong_count() > 0
            });
            Arc::clone(slots.entry(key.clone()).or_default())
        };
        let mut kept = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept.upgrade() {
            return Ok(known.is_of(folder).then_some(SharedEncoder(known)));
        }
        let packed = Arc::new(Kept { key, encoder: Arc::new(pack()?), folder: folder.clone() });
        *kept = Arc::downgrade(&packed);
        Ok(Some(SharedEncoder(packed)))
    }
}
