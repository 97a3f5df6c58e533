//! Two models for one question: a cheap one first, and only where it is not sure the other.

use std::sync::Arc;
use std::time::Instant;

use super::{Classified, ClassifyOptions, Mails, Pipeline, Timings, decode};
use crate::catalog::Entry;
use crate::error::Error;

/// The model that is asked first.
pub(super) struct Cheaper {
    entry: Arc<Entry>,
    confidence_min: f32,
}

impl Pipeline {
    /// The cheaper model that the manifest names, if it is there and its labels are among the
    /// model's.
    pub(super) fn cheaper(&self, entry: &Entry) -> Option<Cheaper> {
        let own = entry.current().ok()?;
        let cascade = own.folder.manifest().cascade.as_ref()?;
        let cheaper = self.catalog.entry(Some(&cascade.first)).ok()?;
        let first = cheaper.current().ok()?;
        let known = own.folder.labels().names();
        let fits = first.folder.labels().names().iter().all(|label| known.contains(label));
        // One that is itself asked second could lead in a circle.
        let ends = first.folder.manifest().cascade.is_none();
        (fits && ends).then_some(Cheaper { entry: cheaper, confidence_min: cascade.confidence_min })
    }

    pub(super) async fn cascade(
        self: &Arc<Self>,
        entry: Arc<Entry>,
        cheaper: Cheaper,
        mails: Mails,
        options: ClassifyOptions,
    ) -> Result<Classified, Error> {
        let started = Instant::now();
        let version = entry.current()?;
        let (texts, encodings) = match mails {
            Mails::Sent(inputs) => (Arc::new(decode(inputs, self.limits).await?), Arc::default()),
            Mails::Read(texts, encodings) => (texts, encodings),
        };
        let decoded = Timings { decode: started.elapsed(), ..Timings::default() };
        let first = Mails::Read(Arc::clone(&texts), Arc::clone(&encodings));
        let Ok(first) = self.ask(cheaper.entry, first, options, started).await else {
            // Without it the model answers alone.
            return self.ask(entry, Mails::Read(texts, encodings), options, started).await;
        };
        let mut answers = first.answers;
        let by = (first.entry, first.version);
        let unsure = |at: &usize| answers[*at].verdict.confidence < cheaper.confidence_min;
        let open: Vec<usize> = (0..answers.len()).filter(unsure).collect();
        entry.metrics.cascade(open.len(), answers.len() - open.len());
        for answer in &mut answers {
            answer.by = Some(by.clone());
        }
        let timings = decoded.then(first.timings);
        if open.is_empty() {
            return Ok(Classified { entry, version, answers, timings });
        }
        let rest = if open.len() == texts.len() {
            Mails::Read(texts, encodings)
        } else {
            // Places in the request are others now, so what was tokenised is not found by them.
            let texts = open.iter().map(|&at| texts[at].clone()).collect();
            Mails::Read(Arc::new(texts), Arc::default())
        };
        let own = self.ask(entry, rest, options, started).await;
        let own = own.map_err(|error| error.at_place(|at| open.get(at).copied().unwrap_or(at)))?;
        for (at, answer) in open.into_iter().zip(own.answers) {
            answers[at] = answer;
        }
        let timings = timings.then(own.timings);
        Ok(Classified { entry: own.entry, version: own.version, answers, timings })
    }
}
