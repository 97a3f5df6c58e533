//! Text Embeddings Inference's `/predict`: its shapes, errors and headers, so that its clients work
//! unchanged.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use postsort_models::{LongText, ScoreFunction};
use serde::{Deserialize, Serialize};

use super::App;
use super::call::Call;
use super::classify::{LabelScore, bounded, named};
use super::json::Json;
use super::routes::Routes;
use crate::error::Error;
use crate::input::Input;
use crate::pipeline::{Classified, ClassifyOptions};

pub(super) fn routes() -> Routes {
    Routes::default()
        .route("/predict", post(predict))
        .route("/models/{model}/predict", post(predict_by))
        .route("/info", get(info))
}

/// TEI's request.
#[derive(Deserialize, utoipa::ToSchema)]
pub(super) struct PredictRequest {
    /// A text, a pair of texts, or a list of one-text lists and pairs.
    #[schema(value_type = Object, example = json!([["first mail"], ["second mail"]]))]
    inputs: PredictInputs,
    /// The logits instead of scores.
    #[serde(default)]
    raw_scores: bool,
    /// Cut long texts; without it they are refused.
    #[serde(default)]
    truncate: Option<bool>,
    #[serde(default)]
    truncation_direction: Option<Direction>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq, utoipa::ToSchema)]
enum Direction {
    #[serde(alias = "left")]
    Left,
    #[serde(alias = "right")]
    Right,
}

/// `["a","b"]` is a pair here; a batch is `[["a"],["b"]]`.
enum PredictInputs {
    One(Input),
    Batch(Vec<Input>),
}

/// Why not an untagged enum: its errors say nothing of where and what.
impl<'de> Deserialize<'de> for PredictInputs {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Shape {
            Text(String),
            Pair((String, String)),
            Batch(Vec<Item>),
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Item {
            Text((String,)),
            Pair((String, String)),
            Bare(String),
        }
        let wrong =
            |_| serde::de::Error::custom("expected a text, a pair, or a list of [text] and pairs");
        Ok(match Shape::deserialize(deserializer).map_err(wrong)? {
            Shape::Text(text) => Self::One(Input::Text(text)),
            Shape::Pair((first, second)) => Self::One(Input::Pair(first, second)),
            Shape::Batch(items) => {
                let input = |item| match item {
                    Item::Text((text,)) | Item::Bare(text) => Input::Text(text),
                    Item::Pair((first, second)) => Input::Pair(first, second),
                };
                Self::Batch(items.into_iter().map(input).collect())
            }
        })
    }
}

#[derive(Serialize, utoipa::ToSchema)]
#[serde(untagged)]
enum PredictResponse {
    One(Vec<LabelScore>),
    Batch(Vec<Vec<LabelScore>>),
}

/// TEI: predict with the default model
#[utoipa::path(post, path = "/predict", tag = "compatible", request_body = PredictRequest,
    responses((status = 200, body = PredictResponse)))]
pub(super) async fn predict(
    State(app): State<Arc<App>>,
    call: Call<PredictRequest>,
) -> Result<Response, Error> {
    answer(&app, None, call).await
}

/// TEI: predict with a model
#[utoipa::path(post, path = "/models/{model}/predict", tag = "compatible",
    request_body = PredictRequest, responses((status = 200, body = PredictResponse)))]
pub(super) async fn predict_by(
    State(app): State<Arc<App>>,
    Path(model): Path<String>,
    call: Call<PredictRequest>,
) -> Result<Response, Error> {
    answer(&app, Some(&model), call).await
}

async fn answer(
    app: &App,
    model: Option<&str>,
    Call { body: call, options }: Call<PredictRequest>,
) -> Result<Response, Error> {
    if call.truncation_direction == Some(Direction::Left) {
        return Err(Error::malformed("truncation_direction", "`Right`; `Left` is not supported"));
    }
    let (inputs, single) = match call.inputs {
        PredictInputs::One(input) => (vec![input], true),
        PredictInputs::Batch(inputs) => (bounded(inputs, app.pipeline.limits.items_max)?, false),
    };
    let characters: usize = inputs.iter().map(Input::bytes).sum();
    // Cut means cut here, whatever a manifest says of long text: TEI reads the head.
    let long = Some(LongText::Truncate);
    let options = ClassifyOptions { refuse_long: call.truncate != Some(true), long, ..options };
    let answer = app.pipeline.classify(model, inputs, options).await?;
    let folder = &answer.version.folder;
    let labels = folder.labels();
    let function = if call.raw_scores { ScoreFunction::None } else { labels.default_function() };
    let temperature = folder.manifest().temperature;
    let mut rows: Vec<Vec<LabelScore>> = answer
        .answers
        .iter()
        .map(|answer| labels.scores(&answer.verdict.logits, function, temperature))
        .map(|scores| named(labels, scores).collect())
        .collect();
    let headers = headers(&answer, characters);
    let body = match rows.pop() {
        Some(row) if single => PredictResponse::One(row),
        last => {
            rows.extend(last);
            PredictResponse::Batch(rows)
        }
    };
    Ok((headers, Json(body)).into_response())
}

/// TEI's `x-*` headers; times in milliseconds.
fn headers(answer: &Classified, characters: usize) -> HeaderMap {
    let tokens: usize = answer.answers.iter().map(|answer| answer.verdict.tokens).sum();
    let ms = |duration: Duration| duration.as_millis().to_string();
    let timings = &answer.timings;
    let fields = [
        ("x-compute-type", "cpu".to_owned()),
        ("x-compute-characters", characters.to_string()),
        ("x-compute-tokens", tokens.to_string()),
        ("x-compute-time", ms(timings.total)),
        ("x-total-time", ms(timings.total)),
        ("x-tokenization-time", ms(timings.tokenize)),
        ("x-queue-time", ms(timings.queue)),
        ("x-inference-time", ms(timings.infer)),
    ];
    let fields = fields.into_iter().filter_map(|(name, value)| {
        Some((HeaderName::from_static(name), HeaderValue::from_str(&value).ok()?))
    });
    fields.collect()
}

/// TEI: what is served
#[utoipa::path(get, path = "/info", tag = "compatible", responses((status = 200)))]
pub(super) async fn info(State(app): State<Arc<App>>) -> Result<Json<serde_json::Value>, Error> {
    let entry = app.pipeline.catalog.entry(None)?;
    let folder = &entry.current()?.folder;
    let labels = folder.labels().names();
    let id2label: serde_json::Map<String, serde_json::Value> = labels
        .iter()
        .enumerate()
        .map(|(id, name)| (id.to_string(), name.as_str().into()))
        .collect();
    let label2id: serde_json::Map<String, serde_json::Value> =
        labels.iter().enumerate().map(|(id, name)| (name.clone(), id.into())).collect();
    Ok(Json(serde_json::json!({
        "model_id": entry.name,
        "model_sha": folder.revision(),
        "model_dtype": "float32",
        "model_type": {"classifier": {"id2label": id2label, "label2id": label2id}},
        "max_input_length": folder.tokens_max(),
        "max_client_batch_size": app.pipeline.limits.items_max,
        "auto_truncate": false,
        "version": env!("CARGO_PKG_VERSION"),
    })))
}
