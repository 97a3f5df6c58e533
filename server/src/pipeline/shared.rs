//! Answers that other processes have given.

use std::sync::{Arc, OnceLock};

use postsort_cache::{Digest, SharedCache, SharedReading};
use postsort_models::ModelFolder;

use super::{Ours, Verdict};

/// A cache that several processes share, if there is one.
#[derive(Debug, Default)]
pub struct SharedAnswers(OnceLock<SharedCache>);

impl SharedAnswers {
    /// From here on there is one.
    pub fn open(&self, cache: SharedCache) {
        // A second one would be a fault of ours; the first stays.
        let _ = self.0.set(cache);
    }

    /// How it is, if there is one.
    #[must_use]
    pub fn reading(&self) -> Option<SharedReading> {
        self.0.get().map(SharedCache::reading)
    }

    /// What is known of those that a request leads, handed to those who wait for the same; and the
    /// rest. One round trip.
    pub(super) async fn get(
        &self,
        folder: &ModelFolder,
        ours: Vec<Ours>,
        key: impl Fn(usize) -> Digest,
    ) -> (Vec<(usize, Arc<Verdict>)>, Vec<Ours>) {
        // Of a request that skips the caches no mail has a lead.
        let cache = self.0.get().filter(|_| ours.iter().any(|(_, lead)| lead.is_some()));
        let Some(cache) = cache else { return (Vec::new(), ours) };
        let keys: Vec<Digest> = ours.iter().map(|&(at, _)| key(at)).collect();
        let labels = folder.labels().names().len();
        let (mut known, mut rest) = (Vec::new(), Vec::new());
        for ((at, lead), value) in ours.into_iter().zip(Box::pin(cache.get(&keys)).await) {
            // Whoever may write there may write anything.
            let verdict = value.and_then(|value| Verdict::from_bytes(&value)).filter(|verdict| {
                verdict.logits.len() == labels && verdict.logits.iter().all(|logit| !logit.is_nan())
            });
            match (verdict.map(Arc::new), lead) {
                (Some(verdict), Some(lead)) => {
                    lead.fulfil(&verdict);
                    known.push((at, verdict));
                }
                (_, lead) => rest.push((at, lead)),
            }
        }
        (known, rest)
    }

    /// Tells the others, some time.
    pub(super) fn put(&self, key: Digest, verdict: &Verdict) {
        if let Some(cache) = self.0.get() {
            cache.put(key, || verdict.to_bytes());
        }
    }
}
