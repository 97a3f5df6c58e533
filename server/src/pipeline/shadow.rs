//! Mails that a revision on trial reads beside the one that answers.

use std::sync::Arc;

use super::{ClassifyOptions, Request, Timings, Verdict};
use crate::catalog::{Shadow, Version};
use crate::input::Readable;
use crate::scheduler::Priority;

impl Request {
    /// Lets the revision on trial read the mail too, behind everybody else, if it is drawn.
    pub(super) fn try_shadow(
        &self,
        version: &Arc<Version>,
        texts: &Arc<Vec<Readable>>,
        at: usize,
        verdict: &Arc<Verdict>,
    ) {
        let Some(shadow) = self.entry.shadow().filter(|shadow| shadow.draw()) else { return };
        let (pipeline, entry, deadline) =
            (Arc::clone(&self.pipeline), Arc::clone(&self.entry), self.deadline);
        let options = ClassifyOptions { priority: Priority::Bulk, ..self.options };
        let (timings, lapped) = (Timings::default(), self.lapped);
        let request = Self { pipeline, entry, options, deadline, timings, lapped, encodings: None };
        let (version, texts, verdict) =
            (Arc::clone(version), Arc::clone(texts), Arc::clone(verdict));
        tokio::spawn(request.read_by_shadow(shadow, version, texts, at, verdict));
    }

    async fn read_by_shadow(
        mut self,
        shadow: Arc<Shadow>,
        version: Arc<Version>,
        texts: Arc<Vec<Readable>>,
        at: usize,
        verdict: Arc<Verdict>,
    ) {
        let tried = Arc::clone(&shadow.version);
        let long = self.options.long.unwrap_or(tried.folder.manifest().long);
        let read = self.compute(&tried, &texts, long, vec![(at, None)]).await;
        let Some((_, theirs)) = read.ok().and_then(|mut read| read.pop()) else {
            return shadow.given_up();
        };
        let agreed = version.folder.labels().first(&verdict.logits)
            == tried.folder.labels().first(&theirs.logits);
        shadow.compared(agreed);
        self.entry.metrics.shadowed(agreed);
    }
}
