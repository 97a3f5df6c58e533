//! Mails without end: one answer a mail, in their order, in constant memory, behind everybody else.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use serde::Serialize;
use serde_json::Value;

use crate::error::Error;
use crate::http::{ClassifyResult, Presentation, error_json};
use crate::input::Input;
use crate::pipeline::{ClassifyOptions, Pipeline};
use crate::scheduler::Priority;
use crate::telemetry::{RequestId, noting, request_id};

/// Mails of one back-fill that are under way: enough to keep the engine busy while answers are
/// written, too few to matter in the queue.
const IN_FLIGHT: usize = 32;
/// Nobody waits for one of these mails; that all of them end is what matters.
const TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// What is the same for all mails of a back-fill.
#[derive(Clone, Debug)]
pub struct BackFill {
    pipeline: Arc<Pipeline>,
    model: Option<String>,
    options: ClassifyOptions,
    presentation: Presentation,
    /// The request that it came by.
    request_id: Option<RequestId>,
}

/// One mail's line.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Line {
    Answer {
        index: u64,
        model: String,
        revision: String,
        #[serde(flatten)]
        result: ClassifyResult,
    },
    Failure {
        index: u64,
        error: Value,
    },
}

impl BackFill {
    /// Of a model, the default one unless named. `options` keeps its way with long text and the
    /// cache; the rest is what a back-fill is.
    ///
    /// # Errors
    /// There is no such model.
    pub fn new(
        pipeline: Arc<Pipeline>,
        model: Option<String>,
        options: ClassifyOptions,
        presentation: Presentation,
    ) -> Result<Self, Error> {
        pipeline.catalog.entry(model.as_deref())?;
        let (priority, timeout) = (Priority::Bulk, Some(TIMEOUT));
        let options = ClassifyOptions { priority, timeout, in_turn: true, ..options };
        Ok(Self { pipeline, model, options, presentation, request_id: request_id() })
    }

    /// A JSON line for each mail, in their order. What cannot be read or answered is a line that
    /// says so. Mails are taken as answers are.
    pub fn run(
        self,
        mails: impl Stream<Item = (u64, Result<Input, Error>)>,
    ) -> impl Stream<Item = String> {
        let this = Arc::new(self);
        mails
            .map(move |(index, mail)| {
                let this = Arc::clone(&this);
                async move {
                    // Answers are made when the request has long been answered.
                    match this.request_id.clone() {
                        Some(id) => noting(id, this.line(index, mail)).await,
                        None => this.line(index, mail).await,
                    }
                }
            })
            .buffered(IN_FLIGHT)
    }

    async fn line(&self, index: u64, mail: Result<Input, Error>) -> String {
        let line = match self.answer(index, mail).await {
            Ok((model, revision, result)) => Line::Answer { index, model, revision, result },
            Err(error) => Line::Failure { index, error: error_json(&error) },
        };
        // Strings, numbers and lists only: it cannot fail.
        let mut line = serde_json::to_string(&line).unwrap_or_default();
        line.push('\n');
        line
    }

    async fn answer(
        &self,
        index: u64,
        mail: Result<Input, Error>,
    ) -> Result<(String, String, ClassifyResult), Error> {
        let item_first = u32::try_from(index).unwrap_or(u32::MAX);
        let options = ClassifyOptions { item_first, ..self.options };
        let classified =
            self.pipeline.classify(self.model.as_deref(), vec![mail?], options).await?;
        let answer = classified.answers.first().ok_or(Error::Internal)?;
        let folder = &classified.version.folder;
        let result = ClassifyResult::new(folder, answer, self.presentation);
        Ok((classified.entry.name.clone(), folder.revision().to_owned(), result))
    }
}
