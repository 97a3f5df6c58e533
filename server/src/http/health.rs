//! Health: nothing here waits for inference or loading.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use postsort_cache::ModelState;
use postsort_store::Store;
use serde_json::{Value, json};

use super::App;
use crate::devices::CPU;
use crate::memory::MemoryReading;
use crate::telemetry::{Alarm, Situation, Verdict, alarms};

/// The process lives
#[utoipa::path(get, path = "/livez", tag = "health", responses((status = 200)))]
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// The server can answer; 503 with the reasons while it cannot
#[utoipa::path(get, path = "/readyz", tag = "health", responses((status = 200), (status = 503)))]
pub(super) async fn readyz(State(app): State<Arc<App>>) -> Response {
    let reasons = reasons(&app);
    (status(&reasons), Json(json!({"ready": reasons.is_empty(), "reasons": reasons})))
        .into_response()
}

/// Why the server cannot answer; nothing if it can.
pub(super) fn reasons(app: &App) -> Vec<&'static str> {
    let usable = app.pipeline.catalog.entries().iter().any(|entry| entry.current().is_ok());
    let checks = [
        (app.life.is_draining(), "the server is shutting down"),
        (!app.life.is_preloaded(), "models to preload are being loaded"),
        (!usable, "no usable model in the models folder"),
    ];
    checks.into_iter().filter_map(|(holds, reason)| holds.then_some(reason)).collect()
}

fn status(reasons: &[&str]) -> StatusCode {
    if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// The objectives judged, and what deserves an operator's eye.
pub(super) struct Judgement {
    /// Why the server cannot answer.
    pub(super) reasons: Vec<&'static str>,
    pub(super) verdicts: [Verdict; 4],
    pub(super) alarms: Vec<Alarm>,
    /// Models that failed to load, with the error.
    failed: Vec<(String, String)>,
}

pub(super) fn judge(app: &App, memory: &MemoryReading) -> Judgement {
    let (catalog, slo) = (&app.pipeline.catalog, &app.pipeline.slo);
    let failed: Vec<_> = catalog
        .entries()
        .into_iter()
        .map(|entry| (catalog.stats(&entry), entry))
        // The state is `failed` only while the back-off lasts; the error stays until a load
        // succeeds or an operator unloads the model.
        .filter(|(stats, _)| stats.state != ModelState::Ready && stats.last_error.is_some())
        .map(|(stats, entry)| (entry.name.clone(), stats.last_error.unwrap_or_default()))
        .collect();
    let (reasons, verdicts) = (reasons(app), slo.verdicts(memory.process_share()));
    let store = app.pipeline.journal.store().ok().map(Store::reading);
    let shared = app.pipeline.shared.reading();
    let alarms = alarms(&Situation {
        reasons: &reasons,
        failed: &failed,
        verdicts: &verdicts,
        devices: &catalog.devices(),
        refused_share: slo.refused_share(),
        store_error: store.as_ref().and_then(|store| store.error.as_deref()),
        shared_error: shared.as_ref().and_then(|shared| shared.error.as_deref()),
    });
    Judgement { reasons, verdicts, alarms, failed }
}

/// Everything an operator asks first
#[utoipa::path(get, path = "/health", tag = "health", responses((status = 200), (status = 503)))]
pub(super) async fn health(State(app): State<Arc<App>>) -> Response {
    let (catalog, memory) = (&app.pipeline.catalog, MemoryReading::take());
    let judgement = judge(&app, &memory);
    let models: Vec<Value> = catalog
        .entries()
        .iter()
        .map(|entry| {
            let stats = catalog.stats(entry);
            json!({
                "name": entry.name,
                "state": stats.state.as_str(),
                "resident_bytes": stats.resident_bytes,
                "device": catalog.device_of(&stats),
                "last_error": stats.last_error,
                "last_minute": entry.latency.summary(),
            })
        })
        .collect();
    let word = match (judgement.reasons.is_empty(), judgement.failed.is_empty()) {
        (false, _) => "unavailable",
        (true, true) => "ok",
        (true, false) => "degraded",
    };
    let results = app.pipeline.result_stats();
    let body = json!({
        "status": word,
        "reasons": judgement.reasons,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": app.life.uptime().as_secs_f64(),
        "slo": judgement.verdicts,
        "alerts": judgement.alarms,
        "models": models,
        "store": app.pipeline.journal.store().ok().map(Store::reading),
        "shared_cache": app.pipeline.shared.reading(),
        "queued_jobs": app.pipeline.admitted_jobs(),
        "memory": memory_json(&app, &memory),
        "result_cache": {
            "entries": results.entries,
            "bytes": results.bytes,
            "bytes_max": results.bytes_max,
            "evictions": results.evictions,
        },
    });
    (status(&judgement.reasons), Json(body)).into_response()
}

pub(super) fn memory_json(app: &App, memory: &MemoryReading) -> Value {
    let devices = app.pipeline.catalog.devices();
    json!({
        "models_bytes": devices[CPU].models_bytes,
        "models_budget_bytes": devices[CPU].budget_bytes,
        "process_bytes": memory.process_bytes,
        "used_bytes": memory.used_bytes,
        "total_bytes": memory.total_bytes,
        "devices": devices,
    })
}
