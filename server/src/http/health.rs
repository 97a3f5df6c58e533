//! Health and metrics. Nothing here waits for inference or loading.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use postsort_cache::ModelState;
use serde_json::{Value, json};

use super::App;
use crate::memory::MemoryReading;
use crate::telemetry::Readings;

/// The process lives
#[utoipa::path(get, path = "/livez", tag = "health", responses((status = 200)))]
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// The server can answer; 503 with the reasons while it cannot
#[utoipa::path(get, path = "/readyz", tag = "health", responses((status = 200), (status = 503)))]
pub(super) async fn readyz(State(app): State<App>) -> Response {
    let reasons = reasons(&app);
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({"ready": reasons.is_empty(), "reasons": reasons}))).into_response()
}

fn reasons(app: &App) -> Vec<&'static str> {
    let usable = app.pipeline.catalog.entries().any(|entry| entry.folder.is_ok());
    let checks = [
        (app.life.is_draining(), "the server is shutting down"),
        (!app.life.is_preloaded(), "models to preload are being loaded"),
        (!usable, "no usable model in the models folder"),
    ];
    checks.into_iter().filter_map(|(holds, reason)| holds.then_some(reason)).collect()
}

/// Everything an operator asks first
#[utoipa::path(get, path = "/health", tag = "health", responses((status = 200), (status = 503)))]
pub(super) async fn health(State(app): State<App>) -> Response {
    let reasons = reasons(&app);
    let (catalog, memory) = (&app.pipeline.catalog, MemoryReading::take());
    let mut failed = 0;
    let models: Vec<Value> = catalog
        .entries()
        .map(|entry| {
            let stats = catalog.stats(entry);
            failed += usize::from(stats.state == ModelState::Failed);
            json!({
                "name": entry.name,
                "state": stats.state.as_str(),
                "resident_bytes": stats.resident_bytes,
                "last_error": stats.last_error,
                "last_minute": entry.latency.summary(),
            })
        })
        .collect();
    let status = match (reasons.is_empty(), failed) {
        (false, _) => "unavailable",
        (true, 0) => "ok",
        (true, _) => "degraded",
    };
    let code = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let results = app.pipeline.result_stats();
    let body = json!({
        "status": status,
        "reasons": reasons,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": app.life.started.elapsed().as_secs_f64(),
        "models": models,
        "queued_jobs": app.pipeline.admitted_jobs(),
        "memory": {
            "models_bytes": catalog.used_bytes(),
            "models_budget_bytes": catalog.budget_bytes(),
            "process_bytes": memory.process_bytes,
            "used_bytes": memory.used_bytes,
            "total_bytes": memory.total_bytes,
        },
        "result_cache": {
            "entries": results.entries,
            "bytes": results.bytes,
            "bytes_max": results.bytes_max,
            "evictions": results.evictions,
        },
    });
    (code, Json(body)).into_response()
}

/// Prometheus metrics
#[utoipa::path(get, path = "/metrics", tag = "health", responses((status = 200)))]
pub(super) async fn metrics(State(app): State<App>) -> Response {
    let (pipeline, catalog) = (&app.pipeline, &app.pipeline.catalog);
    for entry in catalog.entries() {
        entry.metrics.set_residency(&catalog.stats(entry));
    }
    pipeline.metrics.set_readings(Readings {
        memory_budget_bytes: catalog.budget_bytes(),
        process_bytes: MemoryReading::take().process_bytes,
        results: pipeline.result_stats(),
    });
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (content_type, pipeline.metrics.render()).into_response()
}
