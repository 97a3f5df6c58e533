//! `POST /v1/classify`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequest, Request, State};
use axum::response::{IntoResponse, Response};
use postsort_models::{LabelScore as LabelOf, Labels, LongText, ModelFolder, ScoreFunction};
use serde::{Deserialize, Serialize};

use super::App;
use super::call::{Said, message_or_json};
use super::json::Json;
use crate::error::Error;
use crate::input::Input;
use crate::pipeline::{Answer, Classified, Explanation, Part, Timings};
use crate::scheduler::Priority;

/// What to classify, and how.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClassifyRequest {
    /// The model; the default model unless given.
    pub model: Option<String>,
    /// One input or a list: plain texts, mail objects, or whole messages in base64.
    #[schema(value_type = Vec<Object>, example = json!([
        "are we still on for lunch on Thursday?",
        {"subject": "You won!!!", "body": "Click here to claim your prize"}
    ]))]
    pub inputs: Inputs,
    /// Only the best so many labels.
    pub top_k: Option<usize>,
    /// How logits become scores; by the model's problem type unless given.
    #[schema(value_type = Option<String>, example = "softmax")]
    pub function_to_apply: Option<ScoreFunction>,
    /// What to do with text beyond the model's limit: `truncate`, `head_tail`, `window`, `skim`.
    #[schema(value_type = Option<String>, example = "truncate")]
    pub long: Option<LongText>,
    /// Which request goes first: `interactive`, `normal` (the default), `bulk`.
    pub priority: Option<Priority>,
    /// Time limit; beyond it the answer is 504.
    pub timeout_ms: Option<u64>,
    /// `false`: neither look into the result cache nor write to it.
    pub cache: Option<bool>,
    /// Below this score of the best label no label holds; the manifest's unless given.
    pub abstain_below: Option<f32>,
    /// `true`: say which parts of the text moved the score. Costs up to 32 more readings of it.
    pub explain: Option<bool>,
}

/// One input or several.
#[derive(Debug)]
pub struct Inputs(pub Vec<Input>);

impl<'de> Deserialize<'de> for Inputs {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Inputs;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text or a mail object, or a list of such")
            }
            fn visit_str<E>(self, text: &str) -> Result<Inputs, E> {
                Ok(Inputs(vec![Input::Text(text.to_owned())]))
            }
            fn visit_string<E>(self, text: String) -> Result<Inputs, E> {
                Ok(Inputs(vec![Input::Text(text)]))
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Inputs, A::Error> {
                let map = serde::de::value::MapAccessDeserializer::new(map);
                Input::deserialize(map).map(|input| Inputs(vec![input]))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut list: A,
            ) -> Result<Inputs, A::Error> {
                let mut inputs = Vec::with_capacity(list.size_hint().unwrap_or(0).min(1024));
                while let Some(input) = list.next_element()? {
                    inputs.push(input);
                }
                Ok(Inputs(inputs))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// How logits become labels.
#[derive(Clone, Copy, Debug, Default)]
pub struct Presentation {
    /// By the model's problem type unless given.
    pub function: Option<ScoreFunction>,
    /// Only the best so many labels.
    pub top_k: Option<usize>,
    /// Below this score of the best label no label holds; the manifest's unless given.
    pub abstain_below: Option<f32>,
}

/// A request's answer.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ClassifyResponse {
    /// The model that answered.
    pub model: String,
    /// Its revision, 16 hex digits.
    pub revision: String,
    /// One an input, in their order.
    pub results: Vec<ClassifyResult>,
    /// Where the time went.
    pub timings_ms: TimingsMs,
}

/// One input's labels.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ClassifyResult {
    /// The model that answered, where it is not the one that was asked: the first of a cascade.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// In descending score.
    pub labels: Vec<LabelScore>,
    /// Labels that hold by the model's thresholds; none if it abstains.
    pub verdict: Vec<String>,
    /// Whether the best score was too low for a verdict; absent where no limit is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abstained: Option<bool>,
    /// Tokens computed, special tokens included.
    pub tokens: usize,
    /// Windows computed.
    pub windows: usize,
    /// Whether a part of the text was not read.
    pub truncated: bool,
    /// Whether the answer was known already.
    pub cached: bool,
    /// What moved the score, if that was asked for and could be found out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explanation: Option<ExplanationInfo>,
}

/// What moved a score.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ExplanationInfo {
    /// The label whose score is explained: the best one.
    pub label: String,
    /// Its score with the whole text.
    pub score: f32,
    /// Sentences, the one that moved the score most first.
    pub parts: Vec<PartInfo>,
    /// Words of that one, in the same order.
    pub words: Vec<PartInfo>,
    /// Whether there was time for both.
    pub complete: bool,
}

/// A part of the text that the model reads.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct PartInfo {
    /// What it says.
    pub text: String,
    /// Where it begins, in bytes of the text that `postsort extract` gives.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
    /// What the score loses without it: above zero where it speaks for the label.
    pub weight: f32,
}

/// A label with its score.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct LabelScore {
    /// The label's name.
    pub label: String,
    /// Its score.
    pub score: f32,
}

/// Milliseconds by stage.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct TimingsMs {
    /// Mail to text.
    pub decode: f64,
    /// Waiting for the model to be loaded.
    pub load: f64,
    /// Waiting for the engine.
    pub queue: f64,
    /// Text to token ids.
    pub tokenize: f64,
    /// The forward pass.
    pub infer: f64,
    /// All of it.
    pub total: f64,
}

/// Query of a whole message: what the body of the others says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MessageQuery {
    model: Option<String>,
    top_k: Option<usize>,
    function_to_apply: Option<ScoreFunction>,
    long: Option<LongText>,
    priority: Option<Priority>,
    timeout_ms: Option<u64>,
    cache: Option<bool>,
    abstain_below: Option<f32>,
    explain: Option<bool>,
}

/// Classify mails
///
/// Reads `application/json`, or one whole message as `message/rfc822` with the rest in the query
/// (`?model=`, `top_k`, `function_to_apply`, `long`, `priority`, `timeout_ms`, `cache`,
/// `abstain_below`, `explain`). The headers `X-Request-Timeout`, `X-Priority` and `Cache-Control`
/// say the same where those say nothing.
#[utoipa::path(
    post, path = "/v1/classify", tag = "classify",
    request_body(content((ClassifyRequest = "application/json"), (String = "message/rfc822"))),
    responses(
        (status = 200, body = ClassifyResponse),
        (status = 400, description = "malformed"), (status = 404, description = "unknown model"),
        (status = 413, description = "too large"), (status = 415, description = "content type"),
        (status = 422, description = "unusable input"), (status = 429, description = "overloaded"),
        (status = 503, description = "loading failed or draining"),
        (status = 504, description = "deadline"), (status = 507, description = "larger than the budget"),
    )
)]
pub(super) async fn classify(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Error> {
    let headers = super::call::options(request.headers())?;
    let call = ClassifyRequest::from_request(request, &app).await?;
    let inputs = bounded(call.inputs.0, app.pipeline.limits.items_max)?;
    let options = Said {
        long: call.long,
        priority: call.priority,
        timeout_ms: call.timeout_ms,
        cache: call.cache,
        explain: call.explain,
    }
    .over(headers);
    if options.explain && inputs.len() > EXPLAINED_MAX {
        let (what, size) = ("inputs to explain".to_owned(), inputs.len());
        return Err(Error::TooLarge { what, size, size_max: EXPLAINED_MAX, unit: "items" });
    }
    let answer = app.pipeline.classify(call.model.as_deref(), inputs, options).await?;
    let presentation = Presentation::new(call.function_to_apply, call.top_k, call.abstain_below)?;
    let response = ClassifyResponse::new(&answer, presentation);
    Ok(Json(response).into_response())
}

/// Inputs that one request may have explained.
const EXPLAINED_MAX: usize = 16;

/// A list within the limit and not empty.
pub(super) fn bounded<T>(inputs: Vec<T>, items_max: usize) -> Result<Vec<T>, Error> {
    if inputs.is_empty() {
        return Err(Error::malformed("inputs", "at least one input"));
    }
    if inputs.len() > items_max {
        let (what, size) = ("inputs".to_owned(), inputs.len());
        return Err(Error::TooLarge { what, size, size_max: items_max, unit: "items" });
    }
    Ok(inputs)
}

impl FromRequest<Arc<App>> for ClassifyRequest {
    type Rejection = Error;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Error> {
        let known = "model, top_k, function_to_apply, long, priority, timeout_ms, cache, \
            abstain_below, explain";
        message_or_json(request, app, known, |query: MessageQuery, message| Self {
            model: query.model,
            inputs: Inputs(vec![message]),
            top_k: query.top_k,
            function_to_apply: query.function_to_apply,
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

impl Presentation {
    /// # Errors
    /// [`Error::Malformed`] for a limit that is no score.
    pub(super) fn new(
        function: Option<ScoreFunction>,
        top_k: Option<usize>,
        abstain_below: Option<f32>,
    ) -> Result<Self, Error> {
        if abstain_below.is_some_and(|score| !(0.0..=1.0).contains(&score)) {
            return Err(Error::malformed("abstain_below", "a score from 0 to 1"));
        }
        Ok(Self { function, top_k, abstain_below })
    }
}

impl ClassifyResponse {
    /// Scores the logits.
    #[must_use]
    pub fn new(answer: &Classified, presentation: Presentation) -> Self {
        let folder = &answer.version.folder;
        Self {
            model: answer.entry.name.clone(),
            revision: folder.revision().to_owned(),
            results: answer
                .answers
                .iter()
                .map(|answer| ClassifyResult::new(folder, answer, presentation))
                .collect(),
            timings_ms: answer.timings.into(),
        }
    }
}

impl ClassifyResult {
    /// Scores one answer's logits.
    #[must_use]
    pub fn new(folder: &ModelFolder, answer: &Answer, presentation: Presentation) -> Self {
        let (labels, manifest) = (folder.labels(), folder.manifest());
        let (own, top_k) = (labels.default_function(), presentation.top_k.unwrap_or(usize::MAX));
        let logits = &answer.verdict.logits;
        let mut scores = labels.scores(logits, own, manifest.temperature);
        let limit = presentation.abstain_below.or(manifest.abstain_below);
        let abstained = limit.map(|limit| answer.verdict.confidence < limit);
        let mut holding = labels.holding(&scores, &manifest.thresholds);
        if abstained == Some(true) {
            holding.clear();
        }
        if let Some(function) = presentation.function.filter(|function| *function != own) {
            scores = labels.scores(logits, function, manifest.temperature);
        }
        let name = |label: usize| labels.names()[label].clone();
        Self {
            model: answer.by.as_ref().map(|entry| entry.name.clone()),
            labels: named(labels, scores).take(top_k).collect(),
            verdict: holding.into_iter().map(name).collect(),
            abstained,
            explanation: answer
                .explanation
                .as_deref()
                .map(|found| ExplanationInfo::new(found, labels)),
            tokens: answer.verdict.tokens,
            windows: answer.verdict.windows,
            truncated: answer.verdict.truncated,
            cached: answer.cached,
        }
    }
}

impl ExplanationInfo {
    fn new(found: &Explanation, labels: &Labels) -> Self {
        let part = |part: &Part| PartInfo {
            text: part.text.clone(),
            start: part.range.start,
            end: part.range.end,
            weight: part.weight,
        };
        Self {
            label: labels.names().get(found.label).cloned().unwrap_or_default(),
            score: found.score,
            parts: found.parts.iter().map(part).collect(),
            words: found.words.iter().map(part).collect(),
            complete: found.complete,
        }
    }
}

/// Scores with the names of their labels.
pub(super) fn named(
    labels: &Labels,
    scores: Vec<LabelOf>,
) -> impl Iterator<Item = LabelScore> + use<'_> {
    scores
        .into_iter()
        .map(|score| LabelScore { label: labels.names()[score.index].clone(), score: score.score })
}

/// Microseconds are as fine as a reader needs.
pub(super) fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

impl From<Timings> for TimingsMs {
    fn from(timings: Timings) -> Self {
        Self {
            decode: ms(timings.decode),
            load: ms(timings.load),
            queue: ms(timings.queue),
            tokenize: ms(timings.tokenize),
            infer: ms(timings.infer),
            total: ms(timings.total),
        }
    }
}
