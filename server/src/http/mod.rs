//! HTTP: one file an endpoint family. Handlers translate; [`crate::pipeline`] does the work.

mod analyze;
mod body;
mod call;
mod classify;
mod dashboard;
mod error;
mod feedback;
mod health;
mod history;
mod json;
mod linger;
mod measure;
mod metrics;
mod models;
mod oip;
mod openapi;
mod routes;
mod stats;
mod stream;
mod tei;
mod trace;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::handler::Handler;
use axum::http::{Method, Uri};
use axum::middleware::from_fn;
use axum::routing::{get, post};

use crate::config::Config;
use crate::error::Error;
use crate::pipeline::Pipeline;
use crate::telemetry::HttpMetrics;

pub(crate) use body::parse;
pub use classify::{ClassifyRequest, ClassifyResponse, ClassifyResult, Presentation};
pub(crate) use error::error_json;
use measure::Measured;
use routes::Routes;
pub(crate) use stats::{Hour, HourObjectives, ModelSums, StatsResponse};
pub use trace::Tracer;

/// What handlers share.
#[derive(Debug)]
pub struct App {
    /// Answers requests.
    pub pipeline: Arc<Pipeline>,
    /// The server's life.
    pub life: Arc<Life>,
    /// What endpoints were asked, and how it went.
    pub http_metrics: HttpMetrics,
    /// What is told of requests, and where.
    pub tracer: Tracer,
    /// Where the models are.
    pub models_dir: Arc<Path>,
    /// Threads that compute.
    pub compute_threads: usize,
}

impl App {
    /// A server that has just started.
    ///
    /// # Errors
    /// See [`Tracer::new`].
    pub fn new(pipeline: Arc<Pipeline>, config: &Config) -> Result<Arc<Self>, Error> {
        let http_metrics = HttpMetrics::new(Arc::clone(&pipeline.metrics));
        let models_dir = Arc::from(config.models_dir.as_path());
        let tracer = Tracer::new(config.traces.clone())?;
        let (life, compute_threads) = (Arc::default(), config.threads);
        Ok(Arc::new(Self { pipeline, life, http_metrics, tracer, models_dir, compute_threads }))
    }
}

/// Where the server is in its life.
#[derive(Debug)]
pub struct Life {
    started: Instant,
    preloaded: AtomicBool,
    draining: AtomicBool,
}

impl Default for Life {
    fn default() -> Self {
        let (preloaded, draining) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { started: Instant::now(), preloaded, draining }
    }
}

impl Life {
    /// The models to preload are in memory.
    pub fn set_preloaded(&self) {
        self.preloaded.store(true, Ordering::Release);
    }
    /// No new work: the server is shutting down.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }
    fn uptime(&self) -> Duration {
        self.started.elapsed()
    }
    fn is_preloaded(&self) -> bool {
        self.preloaded.load(Ordering::Acquire)
    }
    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}

/// All routes, measured.
pub fn router(app: Arc<App>) -> Measured<Router> {
    // Only where it may change anything: every layer costs every request a box.
    let own_form = from_fn(error::in_the_protocols_own_form);
    let routes = Routes::default()
        .route("/v1/analyze", post(analyze::analyze))
        .route("/v1/classify", post(classify::classify))
        .route("/v1/classify/stream", post(stream::classify_stream))
        .route("/v1/models", get(models::list).post(models::rescan))
        .route("/v1/models/{model}", get(models::show))
        .route("/v1/models/{model}/load", post(models::load))
        .route("/v1/models/{model}/unload", post(models::unload))
        .route("/v1/models/{model}/reload", post(models::reload))
        .route("/v1/models/{model}/promote", post(models::promote))
        .route("/v1/models/{model}/rollback", post(models::rollback))
        .route("/v1/models/{model}/pin", post(models::pin))
        .route("/v1/models/{model}/unpin", post(models::unpin))
        .route("/v1/feedback", post(feedback::feedback))
        .route("/v1/history", get(history::history))
        .route("/v1/stats", get(stats::stats))
        .merge(tei::routes().with(|routes| routes.layer(own_form.clone())))
        .merge(oip::routes().with(|routes| routes.layer(own_form.clone())))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/health", get(health::health))
        .route("/api/health", get(health::health))
        .route("/metrics", get(metrics::metrics))
        .route("/api/metrics", get(metrics::summary))
        .merge(dashboard::routes())
        .merge(openapi::routes());
    let patterns = routes.patterns();
    let router = routes
        .router
        .fallback(unknown_endpoint.layer(own_form.clone()))
        .method_not_allowed_fallback(unknown_endpoint.layer(own_form))
        .with_state(Arc::clone(&app));
    Measured::new(app, patterns, router)
}

async fn unknown_endpoint(method: Method, uri: Uri) -> Error {
    let path = uri.path().chars().take(200).collect();
    Error::UnknownEndpoint { method: method.to_string(), path }
}
