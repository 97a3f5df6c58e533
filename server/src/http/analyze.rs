//! `POST /v1/analyze`: one mail, what several models say of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{FromRequest, Request, State};
use postsort_models::LongText;
use serde::{Deserialize, Serialize};

use super::App;
use super::call::{Said, message_or_json};
use super::classify::{ClassifyResult, Presentation, TimingsMs, ms};
use super::error::error_json;
use super::json::Json;
use crate::catalog::Entry;
use crate::error::Error;
use crate::input::Input;
use crate::pipeline::Classified;
use crate::scheduler::Priority;

/// What to analyze, and how.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AnalyzeRequest {
    /// A plain text, a mail object, or a whole message in base64 as `{"raw": …}`.
    #[schema(value_type = Object, example = json!({"subject": "You won!!!", "body": "Click here"}))]
    input: Input,
    /// The models; all of them unless given.
    pub models: Option<Vec<String>>,
    /// Only the best so many labels of each.
    pub top_k: Option<usize>,
    /// What to do with text beyond a model's limit; each model's own way unless given.
    #[schema(value_type = Option<String>, example = "truncate")]
    pub long: Option<LongText>,
    /// Which request goes first: `interactive`, `normal` (the default), `bulk`.
    pub priority: Option<Priority>,
    /// Time limit; a model that has not answered by then has an error for its result.
    pub timeout_ms: Option<u64>,
    /// `false`: neither look into the caches nor write to them.
    pub cache: Option<bool>,
    /// Below this score of the best label no label holds; each manifest's unless given.
    pub abstain_below: Option<f32>,
    /// `true`: say which parts of the text moved each score.
    pub explain: Option<bool>,
}

/// The answer.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct AnalyzeResponse {
    /// By model.
    #[schema(value_type = BTreeMap<String, AnalyzeResult>)]
    results: BTreeMap<String, Outcome>,
    timings_ms: AnalyzeTimings,
}

/// Milliseconds of the whole request.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct AnalyzeTimings {
    /// Mail to text, once for all models.
    decode: f64,
    /// All of it.
    total: f64,
}

/// A model's answer or error.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Outcome {
    Answer(Box<AnalyzeResult>),
    Error { error: serde_json::Value },
}

/// One model's answer; `{"error": …}` in its place if it failed.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct AnalyzeResult {
    /// The revision that answered, 16 hex digits.
    revision: String,
    #[serde(flatten)]
    result: ClassifyResult,
    /// Where this model's time went.
    timings_ms: TimingsMs,
}

/// Query of a whole message.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MessageQuery {
    models: Option<String>,
    top_k: Option<usize>,
    long: Option<LongText>,
    priority: Option<Priority>,
    timeout_ms: Option<u64>,
    cache: Option<bool>,
    abstain_below: Option<f32>,
    explain: Option<bool>,
}

/// Analyze a mail by several models
///
/// The mail is decoded once, tokenised once for each tokenizer and encoded once for each encoder:
/// models that differ in their heads alone cost little more than one of them. A model that fails has
/// an `error` for its result; the others answer. Reads `application/json`, or one whole message as
/// `message/rfc822` with the rest in the query (`?models=a,b`).
#[utoipa::path(
    post, path = "/v1/analyze", tag = "classify",
    request_body(content((AnalyzeRequest = "application/json"), (String = "message/rfc822"))),
    responses(
        (status = 200, body = AnalyzeResponse),
        (status = 400, description = "malformed"), (status = 404, description = "unknown model"),
        (status = 413, description = "too large"), (status = 415, description = "content type"),
        (status = 422, description = "unusable input"),
    )
)]
pub(super) async fn analyze(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<AnalyzeResponse>, Error> {
    let headers = super::call::options(request.headers())?;
    let call = AnalyzeRequest::from_request(request, &app).await?;
    let presentation = Presentation::new(None, call.top_k, call.abstain_below)?;
    let models = call.models.map(distinct).transpose()?;
    let options = Said {
        long: call.long,
        priority: call.priority,
        timeout_ms: call.timeout_ms,
        cache: call.cache,
        explain: call.explain,
    }
    .over(headers);
    let analyzed = app.pipeline.analyze(models.as_deref(), call.input, options).await?;
    let outcome =
        |(entry, answer): (Arc<Entry>, _)| (entry.name.clone(), Outcome::new(answer, presentation));
    Ok(Json(AnalyzeResponse {
        results: analyzed.results.into_iter().map(outcome).collect(),
        timings_ms: AnalyzeTimings { decode: ms(analyzed.decode), total: ms(analyzed.total) },
    }))
}

/// Names, each once and at least one.
fn distinct(mut names: Vec<String>) -> Result<Vec<String>, Error> {
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return Err(Error::malformed("models", "at least one model, or none named for all"));
    }
    Ok(names)
}

impl Outcome {
    fn new(answer: Result<Classified, Error>, presentation: Presentation) -> Self {
        let of = |answer: Classified| {
            let own = answer.answers.first().ok_or(Error::Internal)?;
            let folder = &answer.version.folder;
            Ok(AnalyzeResult {
                revision: folder.revision().to_owned(),
                result: ClassifyResult::new(folder, own, presentation),
                timings_ms: answer.timings.into(),
            })
        };
        match answer.and_then(of) {
            Ok(answer) => Self::Answer(Box::new(answer)),
            Err(error) => Self::Error { error: error_json(&error) },
        }
    }
}

impl FromRequest<Arc<App>> for AnalyzeRequest {
    type Rejection = Error;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Error> {
        let known = "models, top_k, long, priority, timeout_ms, cache, abstain_below, explain";
        let named = |names: String| names.split(',').map(str::to_owned).collect();
        message_or_json(request, app, known, |query: MessageQuery, message| Self {
            input: message,
            models: query.models.map(named),
            top_k: query.top_k,
            long: query.long,
            priority: query.priority,
            timeout_ms: query.timeout_ms,
            cache: query.cache,
            abstain_below: query.abstain_below,
            explain: query.explain,
        })
        .await
    }
}
