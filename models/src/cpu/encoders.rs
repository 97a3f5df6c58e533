//! Encoders in memory. Models that differ in their heads alone share one: it is packed once, kept
//! once, and its states of a text are good for all of them.

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

/// What an encoder is known by; the channels that were measured count for 8 bits alone.
pub(super) fn key_of(
    folder: &ModelFolder,
    precision: Precision,
    level: KernelLevel,
    maxima: Option<&ChannelMaxima>,
) -> Result<Option<String>, ModelError> {
    let Some(digest) = folder.encoder_digest()? else { return Ok(None) };
    let mut hasher = blake3::Hasher::new();
    hasher.update(&digest);
    if let Some(maxima) = maxima.filter(|_| precision == Precision::Int8) {
        maxima.to_values().iter().for_each(|value| {
            hasher.update(&value.to_le_bytes());
        });
    }
    let weights = &hasher.finalize().to_hex()[..32];
    Ok(Some(format!("{weights}-{precision}-{}", level.name())))
}

impl Encoders {
    /// The encoder of `key`; packed now if it is not in memory.
    pub(super) fn get(
        &self,
        key: String,
        pack: impl FnOnce() -> Result<Encoder, ModelError>,
    ) -> Result<SharedEncoder, ModelError> {
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
            return Ok(SharedEncoder(known));
        }
        let packed = Arc::new(Kept { key, encoder: Arc::new(pack()?) });
        *kept = Arc::downgrade(&packed);
        Ok(SharedEncoder(packed))
    }
}
