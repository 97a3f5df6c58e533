//! `/v1/models`: what there is, what is in memory, and the operator's hand on it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use postsort_models::{Architecture, Cascade, Manifest, Problem};
use serde::{Deserialize, Serialize};

use super::App;
use super::body::{IgnoredBody, OptionalJson};
use crate::catalog::{Catalog, Choice, Entry, Rescanned, Version, Versions};
use crate::devices::{CPU, DeviceUsage};
use crate::error::Error;
use crate::scheduler::CostModel;
use crate::telemetry::LatencySummary;

/// A model's description and state.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct ModelInfo {
    /// Its name.
    name: String,
    /// `unloaded`, `loading`, `ready`, `failed`, `draining`.
    state: &'static str,
    /// Whether it answers where a request names no model.
    default: bool,
    /// Never evicted.
    pinned: bool,
    /// Bytes in memory, or reserved while loading; of what it shares with other models its part.
    resident_bytes: u64,
    /// That part.
    shared_bytes: u64,
    /// Bytes by device, where there are any.
    resident_bytes_by_device: BTreeMap<String, u64>,
    /// Requests that use it now.
    leases: usize,
    /// Successful loads since the start.
    loads: u64,
    /// Times it was dropped without anybody's asking.
    evictions: u64,
    /// How long the last load took.
    load_ms: Option<f64>,
    /// What is wrong with it.
    last_error: Option<String>,
    /// What its folder says, if that is readable.
    #[serde(flatten)]
    folder: Option<FolderInfo>,
    /// Its revisions.
    revisions: Revisions,
    /// What computes it, once loaded.
    #[serde(flatten)]
    engine: Option<EngineInfo>,
    /// Requests of the last minute.
    last_minute: LatencySummary,
}

/// What a folder says.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct FolderInfo {
    /// 16 hex digits that change with whatever could change an answer.
    revision: String,
    #[schema(value_type = String)]
    architecture: Architecture,
    labels: Vec<String>,
    #[schema(value_type = String)]
    problem: Problem,
    thresholds: BTreeMap<String, f32>,
    temperature: f32,
    abstain_below: Option<f32>,
    /// The model that is asked first.
    #[schema(value_type = Option<Object>)]
    cascade: Option<Cascade>,
    #[schema(value_type = String)]
    long: postsort_models::LongText,
    tokens_max: usize,
    weight_bytes: u64,
}

/// A model's revisions.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Revisions {
    /// Name of the folder of the one that answers, if the model has revisions.
    label: Option<String>,
    /// Names of all of them, in natural order.
    available: Vec<String>,
    /// Whether a newer one in the folder is taken by itself.
    following: bool,
    /// What answered before.
    previous: Option<RevisionInfo>,
    /// What is tried beside the one that answers.
    shadow: Option<ShadowInfo>,
    /// Why the last change of the revision failed.
    last_change_error: Option<String>,
}

/// One revision.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct RevisionInfo {
    revision: String,
    label: Option<String>,
    /// `draining` while its last requests use it.
    state: &'static str,
}

/// A revision on trial.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct ShadowInfo {
    #[serde(flatten)]
    revision: RevisionInfo,
    /// Share of the mails that it reads too.
    share: f64,
    /// Mails that both have read.
    mails: u64,
    /// Share of them with the same first label.
    agreement: Option<f64>,
}

/// What computes.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct EngineInfo {
    engine: &'static str,
    #[schema(value_type = String)]
    precision: postsort_models::Precision,
    device: String,
    /// The instruction set of the products.
    kernels: Option<&'static str>,
    /// How far answers are from those in f32, where it computes in less.
    #[schema(value_type = Option<Object>)]
    agreement: Option<postsort_models::Agreement>,
    cost: CostInfo,
    /// What it has in common with all models whose `encoder` is equal: memory and forward passes.
    encoder: Option<String>,
}

/// What forward passes take now, as measured: by this they are planned.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct CostInfo {
    /// A pass beside its sequences, in microseconds.
    pass_us: f64,
    /// What a sequence of 128 tokens adds to it.
    tokens_128_us: f64,
    /// Passes of late over what was measured at loading.
    scale: f64,
}

impl CostInfo {
    fn new(cost: &CostModel) -> Self {
        let us = |duration: Duration| (duration.as_secs_f64() * 1e7).round() / 10.0;
        let (pass_us, tokens_128_us) = (us(cost.pass()), us(cost.sequence(128)));
        Self { pass_us, tokens_128_us, scale: cost.scale() }
    }
}

impl ModelInfo {
    fn new(catalog: &Catalog, entry: &Entry) -> Self {
        let stats = catalog.stats(entry);
        let versions = entry.versions();
        let folder = versions.current.as_ref().ok().map(|version| {
            let folder = &version.folder;
            let manifest = folder.manifest();
            let Manifest { long, temperature, abstain_below, .. } = *manifest;
            FolderInfo {
                revision: folder.revision().to_owned(),
                architecture: folder.config().architecture,
                labels: folder.labels().names().to_vec(),
                problem: folder.labels().problem(),
                thresholds: manifest.thresholds.clone(),
                temperature,
                abstain_below,
                cascade: manifest.cascade.clone(),
                long,
                tokens_max: folder.tokens_max(),
                weight_bytes: folder.weight_bytes(),
            }
        });
        // Looking must not count as use: only a model that is ready anyway is touched.
        let engine = catalog.resident(entry).map(|served| {
            let engine = served.model.engine();
            EngineInfo {
                engine: engine.name(),
                precision: engine.precision(),
                device: engine.device(),
                kernels: engine.kernels(),
                agreement: engine.agreement(),
                cost: CostInfo::new(&served.version.cost),
                encoder: served.model.encoder().map(|encoder| encoder.key().to_owned()),
            }
        });
        Self {
            name: entry.name.clone(),
            state: stats.state.as_str(),
            default: catalog.default_model().as_ref() == Some(&entry.name),
            pinned: stats.pinned,
            resident_bytes: stats.resident_bytes,
            shared_bytes: stats.shared_bytes,
            resident_bytes_by_device: catalog
                .resident_bytes(entry)
                .into_iter()
                .filter(|(_, bytes)| *bytes > 0)
                .collect(),
            leases: stats.leases,
            loads: stats.loads,
            evictions: stats.evictions_total(),
            load_ms: stats.load_duration.map(|took| took.as_secs_f64() * 1e3),
            last_error: stats.last_error,
            folder,
            revisions: Revisions::new(catalog, versions),
            engine,
            last_minute: entry.latency.summary(),
        }
    }
}

impl Revisions {
    pub(super) fn new(catalog: &Catalog, versions: Versions) -> Self {
        let info = |version: &Version| RevisionInfo {
            revision: version.folder.revision().to_owned(),
            label: version.label.clone(),
            state: catalog.version_state(version).as_str(),
        };
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let shadow = versions.shadow.map(|shadow| {
            let (mails, agreed) = shadow.counts();
            ShadowInfo {
                revision: info(&shadow.version),
                share: shadow.share(),
                mails,
                agreement: (mails > 0).then(|| agreed as f64 / mails as f64),
            }
        });
        Self {
            label: versions.current.ok().and_then(|version| version.label.clone()),
            available: versions.available,
            following: versions.following,
            previous: versions.previous.as_deref().map(info),
            shadow,
            last_change_error: versions.last_change_error,
        }
    }
}

/// All models.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct ModelList {
    models: Vec<ModelInfo>,
    /// Bytes of models on the CPU, those being loaded included.
    memory_used_bytes: u64,
    /// Bytes that models may take there.
    memory_budget_bytes: u64,
    /// The same of every device, with its own memory; the CPU first.
    devices: Vec<DeviceUsage>,
}

/// List the models
#[utoipa::path(get, path = "/v1/models", tag = "models", responses((status = 200, body = ModelList)))]
pub(super) async fn list(State(app): State<Arc<App>>) -> Json<ModelList> {
    let catalog = &app.pipeline.catalog;
    let devices = catalog.devices();
    Json(ModelList {
        models: catalog.entries().iter().map(|entry| ModelInfo::new(catalog, entry)).collect(),
        memory_used_bytes: devices[CPU].models_bytes,
        memory_budget_bytes: devices[CPU].budget_bytes,
        devices,
    })
}

type Shown = Result<Json<ModelInfo>, Error>;

fn shown(app: &App, entry: &Entry) -> Shown {
    Ok(Json(ModelInfo::new(&app.pipeline.catalog, entry)))
}

/// Show a model
#[utoipa::path(get, path = "/v1/models/{model}", tag = "models",
    responses((status = 200, body = ModelInfo), (status = 404)))]
pub(super) async fn show(State(app): State<Arc<App>>, Path(model): Path<String>) -> Shown {
    shown(&app, &*app.pipeline.catalog.entry(Some(&model))?)
}

/// Load a model; answers when it is ready
#[utoipa::path(post, path = "/v1/models/{model}/load", tag = "models",
    responses((status = 200, body = ModelInfo), (status = 503), (status = 507)))]
pub(super) async fn load(
    State(app): State<Arc<App>>,
    Path(model): Path<String>,
    _: IgnoredBody,
) -> Shown {
    let catalog = &app.pipeline.catalog;
    let entry = catalog.entry(Some(&model))?;
    drop(catalog.load(&entry).await?);
    shown(&app, &entry)
}

/// Drop a model from memory when its last request ends
#[utoipa::path(post, path = "/v1/models/{model}/unload", tag = "models",
    responses((status = 200, body = ModelInfo)))]
pub(super) async fn unload(
    State(app): State<Arc<App>>,
    Path(model): Path<String>,
    _: IgnoredBody,
) -> Shown {
    let catalog = &app.pipeline.catalog;
    let entry = catalog.entry(Some(&model))?;
    catalog.unload(&entry);
    shown(&app, &entry)
}

/// Keep a model from being evicted
#[utoipa::path(post, path = "/v1/models/{model}/pin", tag = "models",
    responses((status = 200, body = ModelInfo)))]
pub(super) async fn pin(
    State(app): State<Arc<App>>,
    Path(model): Path<String>,
    _: IgnoredBody,
) -> Shown {
    set_pinned(&app, &model, true)
}

/// Allow a model to be evicted
#[utoipa::path(post, path = "/v1/models/{model}/unpin", tag = "models",
    responses((status = 200, body = ModelInfo)))]
pub(super) async fn unpin(
    State(app): State<Arc<App>>,
    Path(model): Path<String>,
    _: IgnoredBody,
) -> Shown {
    set_pinned(&app, &model, false)
}

fn set_pinned(app: &App, model: &str, pinned: bool) -> Shown {
    let catalog = &app.pipeline.catalog;
    let entry = catalog.entry(Some(model))?;
    catalog.set_pinned(&entry, pinned);
    shown(app, &entry)
}

/// Read the models folder again: new, changed and removed models
#[utoipa::path(post, path = "/v1/models", tag = "models",
    responses((status = 200, body = Rescanned)))]
pub(super) async fn rescan(
    State(app): State<Arc<App>>,
    _: IgnoredBody,
) -> Result<Json<Rescanned>, Error> {
    Ok(Json(app.pipeline.catalog.rescan().await?))
}

/// Which revision to change to.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReloadRequest {
    /// Name of the revision's folder; what the models folder says now if none is given.
    revision: Option<String>,
    /// Try it on this share of the mails first, 0 to 1, beside the one that answers.
    shadow: Option<f64>,
}

/// Change to another revision, or try it; answers when it is loaded
#[utoipa::path(post, path = "/v1/models/{model}/reload", tag = "models",
    request_body = Option<ReloadRequest>,
    responses((status = 200, body = ModelInfo), (status = 404), (status = 409), (status = 503)))]
pub(super) async fn reload(
    State(app): State<Arc<App>>,
    Path(model): Path<String>,
    OptionalJson(call): OptionalJson<ReloadRequest>,
) -> Shown {
    if call.shadow.is_some_and(|share| !(share > 0.0 && share <= 1.0)) {
        return Err(Error::malformed("shadow", "a share above 0 and up to 1"));
    }
    let catalog = &app.pipeline.catalog;
    let entry = catalog.entry(Some(&model))?;
    catalog.reload(&entry, Choice { revision: call.revision, shadow: call.shadow }).await?;
    shown(&app, &entry)
}

/// Let the revision on trial answer
#[utoipa::path(post, path = "/v1/models/{model}/promote", tag = "models",
    responses((status = 200, body = ModelInfo), (status = 409)))]
pub(super) async fn promote(
    State(app): State<Arc<App>>,
    Path(model): Path<String>,
    _: IgnoredBody,
) -> Shown {
    let catalog = &app.pipeline.catalog;
    let entry = catalog.entry(Some(&model))?;
    catalog.promote(&entry).await?;
    shown(&app, &entry)
}

/// Give up the revision on trial, or change back to the previous one and stay there
#[utoipa::path(post, path = "/v1/models/{model}/rollback", tag = "models",
    responses((status = 200, body = ModelInfo), (status = 409), (status = 503)))]
pub(super) async fn rollback(
    State(app): State<Arc<App>>,
    Path(model): Path<String>,
    _: IgnoredBody,
) -> Shown {
    let catalog = &app.pipeline.catalog;
    let entry = catalog.entry(Some(&model))?;
    catalog.rollback(&entry).await?;
    shown(&app, &entry)
}
