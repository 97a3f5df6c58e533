//! Two models for one question: a cheap one first, and only where it is not sure the other.

use std::sync::Arc;
use std::time::Instant;

use postsort_models::{Labels, ModelFolder};

use super::{
    Answer, Classified, ClassifyOptions, Explanation, Mails, Pipeline, Timings, Verdict, decode,
};
use crate::catalog::Entry;
use crate::error::Error;

/// The model that is asked first.
pub(super) struct Cheaper {
    entry: Arc<Entry>,
    confidence_min: f32,
}

impl Pipeline {
    /// The cheaper model that the manifest names, if it is there and its labels are the model's.
    pub(super) fn cheaper(&self, entry: &Entry) -> Option<Cheaper> {
        let own = entry.has_cascade().then(|| entry.current().ok())??;
        let cascade = own.folder.manifest().cascade.as_ref()?;
        let cheaper = self.catalog.entry(Some(&cascade.first)).ok()?;
        let first = cheaper.current().ok()?;
        let fits = places(first.folder.labels(), own.folder.labels()).is_some();
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
        let unsure = |at: &usize| answers[*at].verdict.confidence < cheaper.confidence_min;
        let open: Vec<usize> = (0..answers.len()).filter(unsure).collect();
        entry.metrics.cascade(open.len(), answers.len() - open.len());
        let mut done = Classified {
            entry,
            version,
            answers: Vec::new(),
            timings: decoded.then(first.timings),
        };
        let mut own = Vec::new();
        if !open.is_empty() {
            let rest = if open.len() == texts.len() {
                Mails::Read(texts, encodings)
            } else {
                // Places in the request are others now, so what was tokenised is not found by them.
                let texts = open.iter().map(|&at| texts[at].clone()).collect();
                Mails::Read(Arc::new(texts), Arc::default())
            };
            let asked = self.ask(Arc::clone(&done.entry), rest, options, started).await;
            let place = |at| open.get(at).copied().unwrap_or(at);
            let asked = asked.map_err(|error| error.at_place(place))?;
            (done.version, own) = (asked.version, asked.answers);
            done.timings = done.timings.then(asked.timings);
        }
        for answer in &mut answers {
            translate(answer, &first.version.folder, &done.version.folder);
            answer.by = Some(Arc::clone(&first.entry));
        }
        for (at, answer) in open.into_iter().zip(own) {
            answers[at] = answer;
        }
        done.answers = answers;
        Ok(done)
    }
}

/// Where each label of `to` is among those of `from`; `None` unless they are the same and mean the
/// same.
fn places(from: &Labels, to: &Labels) -> Option<Vec<usize>> {
    let (known, wanted) = (from.names(), to.names());
    let same = from.problem() == to.problem() && known.len() == wanted.len();
    let place = |label| known.iter().position(|other| other == label);
    same.then(|| wanted.iter().map(place).collect())?
}

/// Puts an answer into the labels of another model, so that its scores stay what they are.
fn translate(answer: &mut Answer, from: &ModelFolder, to: &ModelFolder) {
    let Some(places) = places(from.labels(), to.labels()) else { return };
    let ratio = to.manifest().temperature / from.manifest().temperature;
    let place_of = |label: usize| places.iter().position(|&place| place == label).unwrap_or(label);
    let verdict = &*answer.verdict;
    answer.verdict = Arc::new(Verdict {
        logits: places.iter().map(|&place| verdict.logits[place] * ratio).collect(),
        first: place_of(verdict.first),
        ..verdict.clone()
    });
    if let Some(explanation) = &answer.explanation {
        let label = place_of(explanation.label);
        answer.explanation = Some(Arc::new(Explanation { label, ..(**explanation).clone() }));
    }
}

#[cfg(test)]
mod tests {
    use postsort_cache::Digest;
    use postsort_models::ModelFolder;
    use std::path::Path;
    use std::sync::Arc;

    use super::{Answer, Verdict, translate};

    fn folder(labels: &str, manifest: &str) -> (tempfile::TempDir, ModelFolder) {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/bert");
        let dir = tempfile::tempdir().expect("temporary folder");
        for file in std::fs::read_dir(fixture).expect("lists") {
            let path = file.expect("lists").path();
            std::fs::copy(&path, dir.path().join(path.file_name().expect("a file")))
                .expect("copies");
        }
        let path = dir.path().join("config.json");
        let config = std::fs::read_to_string(&path).expect("reads");
        let mut config: serde_json::Value = serde_json::from_str(&config).expect("parses");
        config["id2label"] = serde_json::from_str(labels).expect("parses");
        std::fs::write(path, config.to_string()).expect("writes");
        std::fs::write(dir.path().join("postsort.toml"), manifest).expect("writes");
        let folder = ModelFolder::open(dir.path()).expect("opens");
        (dir, folder)
    }

    #[test]
    fn scores_stay_what_they_are() {
        let (_a, small) = folder(r#"{"0":"spam","1":"ham","2":"list"}"#, "temperature = 2.0");
        let (_b, large) = folder(r#"{"0":"ham","1":"list","2":"spam"}"#, "temperature = 0.5");
        let (_c, other) = folder(r#"{"0":"ham","1":"news","2":"spam"}"#, "");
        assert!(super::places(small.labels(), other.labels()).is_none());
        let scores = |folder: &ModelFolder, logits: &[f32]| {
            let labels = folder.labels();
            let scores =
                labels.scores(logits, labels.default_function(), folder.manifest().temperature);
            let name = |index: usize| labels.names()[index].clone();
            scores.into_iter().map(|score| (name(score.index), score.score)).collect::<Vec<_>>()
        };
        let logits = vec![3.0, -1.0, 0.5];
        let before = scores(&small, &logits);
        let verdict = Verdict {
            logits: logits.into(),
            tokens: 9,
            windows: 1,
            truncated: false,
            first: 0,
            confidence: before[0].1,
            unknown_tokens: 0,
        };
        let mut answer = Answer::new(Digest::of(&[]), Arc::new(verdict), false);
        translate(&mut answer, &small, &large);
        let after = scores(&large, &answer.verdict.logits);
        assert_eq!(large.labels().names()[answer.verdict.first], "spam");
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(before.0, after.0);
            assert!((before.1 - after.1).abs() < 1e-6);
        }
    }
}
