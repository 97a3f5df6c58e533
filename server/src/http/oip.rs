//! The Open Inference Protocol v2 (KServe), as Triton extends it: BYTES in, scores and labels out.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use postsort_cache::ModelState;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::App;
use super::body::IgnoredBody;
use super::call::Call;
use super::classify::bounded;
use super::json::Json;
use super::routes::Routes;
use crate::catalog::Entry;
use crate::error::Error;
use crate::input::Input;
use crate::pipeline::ClassifyOptions;

pub(super) fn routes() -> Routes {
    Routes::default()
        .route("/v2", get(server))
        .route("/v2/", get(server))
        .route("/v2/health/live", get(live))
        .route("/v2/health/ready", get(super::health::readyz))
        .route("/v2/models/{model}", get(metadata))
        .route("/v2/models/{model}/versions/{version}", get(metadata))
        .route("/v2/models/{model}/ready", get(ready))
        .route("/v2/models/{model}/versions/{version}/ready", get(ready))
        .route("/v2/models/{model}/infer", post(infer))
        .route("/v2/models/{model}/versions/{version}/infer", post(infer))
        .route("/v2/models/{model}/stats", get(stats))
        .route("/v2/repository/index", post(index))
        .route("/v2/repository/models/{model}/load", post(load))
        .route("/v2/repository/models/{model}/unload", post(unload))
}

/// `{model}` with or without `{version}`.
#[derive(Deserialize)]
pub(super) struct Named {
    model: String,
    version: Option<String>,
}

impl Named {
    /// The entry; a version that is not the one served is unknown.
    fn entry(&self, app: &App) -> Result<Arc<Entry>, Error> {
        let entry = app.pipeline.catalog.entry(Some(&self.model))?;
        match (&self.version, entry.current()) {
            (Some(version), Ok(current)) if version != current.folder.revision() => {
                Err(Error::unknown_model(&format!("{}/{version}", self.model)))
            }
            _ => Ok(entry),
        }
    }
}

/// OIP: the server
#[utoipa::path(get, path = "/v2", tag = "compatible", responses((status = 200)))]
pub(super) async fn server() -> Json<Value> {
    let version = env!("CARGO_PKG_VERSION");
    Json(
        json!({"name": "postsort", "version": version, "extensions": ["model_repository", "statistics"]}),
    )
}

async fn live() -> Json<Value> {
    Json(json!({"live": true}))
}

/// OIP: a model
#[utoipa::path(get, path = "/v2/models/{model}", tag = "compatible", responses((status = 200)))]
pub(super) async fn metadata(
    State(app): State<Arc<App>>,
    Path(named): Path<Named>,
) -> Result<Json<Value>, Error> {
    let entry = named.entry(&app)?;
    let folder = &entry.current()?.folder;
    Ok(Json(json!({
        "name": entry.name,
        "versions": [folder.revision()],
        "platform": "postsort",
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": "scores", "datatype": "FP32", "shape": [-1, folder.labels().names().len()]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
        ],
        "parameters": {"labels": folder.labels().names()},
    })))
}

/// Lazy models are ready: the first request loads them.
async fn ready(
    State(app): State<Arc<App>>,
    Path(named): Path<Named>,
) -> Result<(StatusCode, Json<Value>), Error> {
    let entry = named.entry(&app)?;
    let ready = app.pipeline.catalog.stats(&entry).state != ModelState::Failed;
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((status, Json(json!({"name": entry.name, "ready": ready}))))
}

/// An inference request.
#[derive(Deserialize, utoipa::ToSchema)]
pub(super) struct InferRequest {
    id: Option<String>,
    #[serde(default)]
    parameters: InferParameters,
    inputs: Vec<InputTensor>,
    #[serde(default)]
    outputs: Vec<OutputName>,
}

#[derive(Default, Deserialize, utoipa::ToSchema)]
struct InferParameters {
    /// Microseconds.
    timeout: Option<u64>,
}

#[derive(Deserialize, utoipa::ToSchema)]
struct InputTensor {
    name: String,
    shape: Vec<usize>,
    datatype: String,
    data: Vec<String>,
}

#[derive(Deserialize, utoipa::ToSchema)]
struct OutputName {
    name: String,
}

#[derive(Serialize, utoipa::ToSchema)]
struct OutputTensor {
    name: &'static str,
    datatype: &'static str,
    shape: Vec<usize>,
    #[schema(value_type = Vec<Object>)]
    data: Value,
}

/// OIP: infer
#[utoipa::path(post, path = "/v2/models/{model}/infer", tag = "compatible",
    request_body = InferRequest, responses((status = 200)))]
pub(super) async fn infer(
    State(app): State<Arc<App>>,
    Path(named): Path<Named>,
    Call { body: call, options }: Call<InferRequest>,
) -> Result<Json<Value>, Error> {
    let entry = named.entry(&app)?;
    let texts = text_tensor(call.inputs)?;
    for output in &call.outputs {
        if !matches!(output.name.as_str(), "scores" | "label") {
            return Err(Error::malformed("outputs", "`scores` or `label`"));
        }
    }
    let inputs = bounded(texts, app.pipeline.limits.items_max)?;
    let inputs = inputs.into_iter().map(Input::Text).collect();
    let timeout = call.parameters.timeout.map(Duration::from_micros).or(options.timeout);
    let options = ClassifyOptions { timeout, ..options };
    let answer = app.pipeline.classify(Some(&entry.name), inputs, options).await?;
    let folder = &answer.version.folder;
    let labels = folder.labels();
    let (count, width) = (answer.answers.len(), labels.names().len());
    let (mut scores, mut best) = (vec![0.0_f32; count * width], Vec::with_capacity(count));
    for (row, answer) in scores.chunks_mut(width).zip(&answer.answers) {
        let ranked = labels.scores(
            &answer.verdict.logits,
            labels.default_function(),
            folder.manifest().temperature,
        );
        best.push(ranked.first().map_or("", |first| &*labels.names()[first.index]));
        for score in ranked {
            row[score.index] = score.score;
        }
    }
    let wanted =
        |name: &str| call.outputs.is_empty() || call.outputs.iter().any(|out| out.name == name);
    let outputs = [
        OutputTensor {
            name: "scores",
            datatype: "FP32",
            shape: vec![count, width],
            data: json!(scores),
        },
        OutputTensor { name: "label", datatype: "BYTES", shape: vec![count], data: json!(best) },
    ];
    let outputs: Vec<OutputTensor> = outputs.into_iter().filter(|out| wanted(out.name)).collect();
    let mut response = json!({
        "model_name": entry.name,
        "model_version": folder.revision(),
        "outputs": outputs,
    });
    if let Some(id) = call.id {
        response["id"] = id.into();
    }
    Ok(Json(response))
}

fn text_tensor(inputs: Vec<InputTensor>) -> Result<Vec<String>, Error> {
    let [tensor] = <[InputTensor; 1]>::try_from(inputs)
        .map_err(|_| Error::malformed("inputs", "exactly one tensor, `text`"))?;
    if tensor.name != "text" {
        return Err(Error::malformed("inputs[0].name", "`text`"));
    }
    if tensor.datatype != "BYTES" {
        return Err(Error::malformed("inputs[0].datatype", "`BYTES`"));
    }
    let elements = tensor.shape.iter().try_fold(1_usize, |all, &size| all.checked_mul(size));
    if tensor.shape.is_empty() || elements != Some(tensor.data.len()) {
        let expected = format!("a shape of {} elements, as there are data", tensor.data.len());
        return Err(Error::malformed("inputs[0].shape", expected));
    }
    Ok(tensor.data)
}

async fn stats(
    State(app): State<Arc<App>>,
    Path(named): Path<Named>,
) -> Result<Json<Value>, Error> {
    let entry = named.entry(&app)?;
    let residency = app.pipeline.catalog.stats(&entry);
    Ok(Json(json!({"model_stats": [{
        "name": entry.name,
        "version": revision(&entry),
        "state": residency.state.as_str(),
        "resident_bytes": residency.resident_bytes,
        "loads": residency.loads,
        "evictions": residency.evictions_total(),
        "last_minute": entry.latency.summary(),
    }]})))
}

/// OIP: list the models
#[utoipa::path(post, path = "/v2/repository/index", tag = "compatible", responses((status = 200)))]
pub(super) async fn index(State(app): State<Arc<App>>, _: IgnoredBody) -> Json<Value> {
    let catalog = &app.pipeline.catalog;
    let row = |entry: &Arc<Entry>| {
        let stats = catalog.stats(entry);
        let state = match stats.state {
            ModelState::Ready => "READY",
            ModelState::Loading => "LOADING",
            ModelState::Draining => "UNLOADING",
            ModelState::Unloaded | ModelState::Failed => "UNAVAILABLE",
        };
        json!({
            "name": entry.name,
            "version": revision(entry),
            "state": state,
            "reason": stats.last_error.unwrap_or_default(),
        })
    };
    Json(catalog.entries().iter().map(row).collect())
}

fn revision(entry: &Entry) -> String {
    entry.current().map_or_else(|_| String::new(), |now| now.folder.revision().to_owned())
}

async fn load(
    State(app): State<Arc<App>>,
    Path(model): Path<String>,
    _: IgnoredBody,
) -> Result<Json<Value>, Error> {
    let entry = app.pipeline.catalog.entry(Some(&model))?;
    app.pipeline.catalog.load(&entry).await?;
    Ok(Json(json!({})))
}

async fn unload(
    State(app): State<Arc<App>>,
    Path(model): Path<String>,
    _: IgnoredBody,
) -> Result<Json<Value>, Error> {
    let entry = app.pipeline.catalog.entry(Some(&model))?;
    app.pipeline.catalog.unload(&entry);
    Ok(Json(json!({})))
}
