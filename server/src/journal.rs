//! What the pipeline tells the store: verdicts, and answers for another time. Nobody waits for it.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use postsort_cache::Digest;
use postsort_store::{AnswerRecord, ObjectivesRecord, Store, VerdictRecord};

use crate::error::Error;
use crate::pipeline::{Classified, Verdict as Answer};
use crate::telemetry::{Verdict, request_id};

/// A store, if there is one.
#[derive(Debug, Default)]
pub struct Journal(OnceLock<Store>);

impl Journal {
    /// From here on there is one.
    pub fn open(&self, store: Store) {
        // A second one would be a fault of ours; the first stays.
        let _ = self.0.set(store);
    }

    /// The store.
    ///
    /// # Errors
    /// [`Error::NoStore`] where there is none.
    pub fn store(&self) -> Result<&Store, Error> {
        self.0.get().ok_or(Error::NoStore)
    }

    /// Writes down what a model said of each mail of a request.
    pub(crate) fn note(&self, classified: &Classified, item_first: u32) {
        let Some(store) = self.0.get() else { return };
        let folder = &classified.version.folder;
        let (labels, temperature) = (folder.labels(), folder.manifest().temperature);
        let request_id = request_id().map(|id| id.text()).unwrap_or_default();
        let at = SystemTime::now();
        for (place, answer) in (item_first..).zip(&classified.answers) {
            let verdict = &answer.verdict;
            let ranked = labels.scores(&verdict.logits, labels.default_function(), temperature);
            let mut scores: Box<[f32]> = vec![0.0; labels.names().len()].into();
            ranked.iter().for_each(|score| scores[score.index] = score.score);
            let engine = |took: Duration| if answer.cached { Duration::ZERO } else { took };
            store.verdict(VerdictRecord {
                at,
                request_id: Arc::clone(&request_id),
                item: place,
                mail: answer.mail.to_bytes(),
                revision: Arc::clone(&classified.version.named),
                answered_by: answer.by.as_ref().map(|entry| entry.name.as_str().into()),
                label: verdict.first,
                confidence: verdict.confidence,
                scores,
                tokens: u32::try_from(verdict.tokens).unwrap_or(u32::MAX),
                windows: u32::try_from(verdict.windows).unwrap_or(u32::MAX),
                truncated: verdict.truncated,
                cached: answer.cached,
                queue: engine(classified.timings.queue),
                infer: engine(classified.timings.infer),
                total: classified.timings.total,
            });
        }
    }

    /// Keeps an answer for another time.
    pub(crate) fn keep(&self, key: Digest, verdict: &Answer) {
        if let Some(store) = self.0.get() {
            let value = verdict.to_bytes().into();
            store.answer(AnswerRecord { digest: key.to_bytes(), value });
        }
    }

    /// Hands over answers of another time, the newest first, while there is room.
    pub(crate) async fn remember(
        &self,
        mut put: impl FnMut(Digest, Answer),
        room: impl Fn() -> bool,
    ) -> Result<u64, Error> {
        /// Asking for the room that there is costs more than an answer does.
        const LOOK: u64 = 1024;
        let Some(store) = self.0.get() else { return Ok(0) };
        let mut taken = 0;
        store
            .newest_answers(|record| {
                if let Some(verdict) = Answer::from_bytes(&record.value) {
                    put(Digest::from_bytes(record.digest), verdict);
                }
                taken += 1;
                taken % LOOK != 0 || room()
            })
            .await
            .map_err(Error::from)
    }

    /// Writes down the objectives' figures of this minute.
    pub(crate) fn objectives(&self, verdicts: &[Verdict]) {
        let Some(store) = self.0.get() else { return };
        let of = |slo| verdicts.iter().find(|verdict| verdict.slo == slo);
        let value = |slo| of(slo).and_then(|verdict| verdict.value);
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        store.objectives(ObjectivesRecord {
            minute: i64::try_from(since.as_secs() / 60).unwrap_or(i64::MAX),
            requests: of("latency_p95").map_or(0, |verdict| verdict.requests),
            p95_seconds: value("latency_p95"),
            error_share: value("errors"),
            memory_share: value("memory"),
            availability: value("availability"),
        });
    }
}
