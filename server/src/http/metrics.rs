//! Metrics: Prometheus text for scrapers, a JSON summary for the dashboard and for people.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use postsort_store::Store;
use serde_json::{Value, json};

use super::App;
use super::health::{judge, memory_json, reasons};
use super::models::Revisions;
use crate::error::Error;
use crate::memory::MemoryReading;
use crate::telemetry::{Readings, Vitals};

/// Prometheus metrics
#[utoipa::path(get, path = "/metrics", tag = "health", responses((status = 200)))]
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let (pipeline, catalog) = (&app.pipeline, &app.pipeline.catalog);
    for entry in catalog.entries() {
        entry.metrics.set_residency(&catalog.stats(&entry), &catalog.resident_bytes(&entry));
    }
    app.http_metrics.set_gauges();
    let vitals = Vitals::take(&app.models_dir, app.compute_threads);
    let traces = app.tracer.exporter().map(|exporter| {
        let counts = exporter.counts();
        (counts.exported.load(Ordering::Relaxed), counts.dropped.load(Ordering::Relaxed))
    });
    let readings = Readings {
        ready: reasons(&app).is_empty(),
        devices: catalog.devices(),
        queue_jobs: pipeline.admitted_jobs(),
        queue_jobs_max: pipeline.admitted_jobs_max(),
        backlog: pipeline.backlog(),
        results: pipeline.result_stats(),
        verdicts: pipeline.slo.verdicts(vitals.memory.process_share()),
        answers: catalog
            .entries()
            .iter()
            .filter_map(|entry| {
                let (labels, summary) = entry.drift_summary()?;
                Some((entry.name.clone(), labels, summary))
            })
            .collect(),
        traces,
        store: pipeline.journal.store().ok().map(Store::reading),
        shared: pipeline.shared.reading(),
        vitals,
    };
    // Many models make milliseconds of text: not on a thread that the network needs.
    let recorder = Arc::clone(&pipeline.metrics);
    let rendered = tokio::task::spawn_blocking(move || recorder.render(&readings)).await;
    let Ok(text) = rendered else { return Error::Internal.into_response() };
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (content_type, text).into_response()
}

/// The same in short, as JSON: what the dashboard shows
#[utoipa::path(get, path = "/api/metrics", tag = "health", responses((status = 200)))]
pub(super) async fn summary(State(app): State<Arc<App>>) -> Json<Value> {
    let (pipeline, catalog) = (&app.pipeline, &app.pipeline.catalog);
    let memory = MemoryReading::take();
    let judgement = judge(&app, &memory);
    let default_model = catalog.default_model();
    let models: Vec<Value> = catalog
        .entries()
        .iter()
        .map(|entry| {
            let (stats, tally) = (catalog.stats(entry), entry.metrics.tally());
            let totals = entry.latency.totals();
            json!({
                "name": entry.name,
                "state": stats.state.as_str(),
                "default": default_model.as_ref() == Some(&entry.name),
                "pinned": stats.pinned,
                "resident_bytes": stats.resident_bytes,
                "device": catalog.device_of(&stats),
                "leases": stats.leases,
                "loads_total": stats.loads,
                "evictions_total": stats.evictions_total(),
                "last_error": stats.last_error,
                "revisions": Revisions::new(catalog, entry.versions()),
                "requests_total": totals.requests_total,
                "failures_total": totals.failures_total,
                "cache_hits_total": tally.cache_hits_total,
                "cache_misses_total": tally.cache_misses_total,
                "queue_tokens": tally.queue_tokens,
                "answers": entry.drift_summary().map(|(_, summary)| summary),
                "last_minute": entry.latency.summary(),
                "recent": entry.latency.recent(),
            })
        })
        .collect();
    let results = pipeline.result_stats();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": app.life.uptime().as_secs_f64(),
        "ready": judgement.reasons.is_empty(),
        "slo": judgement.verdicts,
        "alerts": judgement.alarms,
        "models": models,
        "endpoints": app.http_metrics.summaries(),
        "queue": {
            "jobs": pipeline.admitted_jobs(),
            "jobs_max": pipeline.admitted_jobs_max(),
            "backlog_ms": pipeline.backlog().as_secs_f64() * 1e3,
        },
        "memory": memory_json(&app, &memory),
        "store": pipeline.journal.store().ok().map(Store::reading),
        "shared_cache": pipeline.shared.reading(),
        "result_cache": {
            "entries": results.entries,
            "bytes": results.bytes,
            "bytes_max": results.bytes_max,
            "evictions_total": results.evictions,
        },
    }))
}
