//! Every metric's name, once, behind typed recorders.
//!
//! Each server has a recorder of its own rather than the process's global one: handles are looked
//! up once a model, not once a request, and two servers in one test do not mix their counts.

use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Unit};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use postsort_cache::ModelState;

use crate::error::Error;

const HTTP_REQUESTS: &str = "postsort_http_requests_total";
const HTTP_DURATION: &str = "postsort_http_request_duration_seconds";
const HTTP_IN_FLIGHT: &str = "postsort_http_requests_in_flight";
const INFERENCE_REQUESTS: &str = "postsort_inference_requests_total";
const INFERENCE_DURATION: &str = "postsort_inference_duration_seconds";
const BATCH_TOKENS: &str = "postsort_batch_tokens";
const BATCH_JOBS: &str = "postsort_batch_jobs";
const QUEUE_TOKENS: &str = "postsort_queue_tokens";
const REJECTED: &str = "postsort_rejected_total";
const CACHE_HITS: &str = "postsort_result_cache_hits_total";
const CACHE_MISSES: &str = "postsort_result_cache_misses_total";
const CACHE_BYTES: &str = "postsort_result_cache_bytes";
const CACHE_ENTRIES: &str = "postsort_result_cache_entries";
const CACHE_EVICTIONS: &str = "postsort_result_cache_evictions_total";
const RESIDENT_BYTES: &str = "postsort_model_resident_bytes";
const BUDGET_BYTES: &str = "postsort_memory_budget_bytes";
const MODEL_STATE: &str = "postsort_model_state";
const MODEL_LEASES: &str = "postsort_model_leases";
const LOAD_DURATION: &str = "postsort_model_load_duration_seconds";
const EVICTIONS: &str = "postsort_evictions_total";
const PROCESS_BYTES: &str = "postsort_process_resident_bytes";
const BUILD_INFO: &str = "postsort_build_info";

/// 50 µs to 5 s in steps of about 1.6: a p99 read from these is within a step of the truth.
const DURATION_BUCKETS_SECONDS: [f64; 26] = [
    50e-6, 80e-6, 125e-6, 200e-6, 320e-6, 500e-6, 800e-6, 1.25e-3, 2e-3, 3.2e-3, 5e-3, 8e-3,
    12.5e-3, 20e-3, 32e-3, 50e-3, 80e-3, 125e-3, 200e-3, 320e-3, 500e-3, 800e-3, 1.25, 2.0, 3.2,
    5.0,
];
const TOKEN_BUCKETS: [f64; 10] =
    [8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0];
const JOB_BUCKETS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

/// A part of a request's time; the `stage` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Mail to text.
    Decode,
    /// Waiting for the engine.
    Queue,
    /// Text to token ids.
    Tokenize,
    /// The forward pass that the mail was in.
    Infer,
    /// From the parsed request to the answer.
    Total,
}

/// How a request to a model ended; the `outcome` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered.
    Ok,
    /// The client's fault.
    Invalid,
    /// Refused for want of room.
    Rejected,
    /// Its deadline passed.
    Expired,
    /// The client went away.
    Cancelled,
    /// Our fault: loading or inference.
    Failed,
}

impl Outcome {
    const ALL: [Self; 6] =
        [Self::Ok, Self::Invalid, Self::Rejected, Self::Expired, Self::Cancelled, Self::Failed];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Invalid => "invalid",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

impl From<&Error> for Outcome {
    fn from(error: &Error) -> Self {
        match error {
            Error::Malformed { .. }
            | Error::UnknownEndpoint { .. }
            | Error::UnknownModel { .. }
            | Error::TooLarge { .. }
            | Error::UnsupportedMediaType { .. }
            | Error::BodyTimeout { .. }
            | Error::Unusable { .. } => Self::Invalid,
            Error::Overloaded { .. } | Error::NoRoom { .. } | Error::Draining => Self::Rejected,
            Error::Deadline { .. } => Self::Expired,
            Error::LoadFailed { .. }
            | Error::LargerThanBudget { .. }
            | Error::Inference { .. }
            | Error::Internal
            | Error::Setup { .. } => Self::Failed,
        }
    }
}

/// Why a request was refused; the `reason` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectReason {
    /// The queue is full.
    QueueFull,
    /// Models in use fill the memory.
    NoRoom,
}

/// The recorder of one server.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

/// One model's handles.
#[derive(Debug)]
pub struct ModelMetrics {
    outcomes: [Counter; Outcome::ALL.len()],
    stages: [Histogram; 5],
    batch_tokens: Histogram,
    batch_jobs: Histogram,
    queue_tokens: Gauge,
    rejected_queue_full: Counter,
    rejected_no_room: Counter,
    cache_hits: Counter,
    cache_misses: Counter,
    resident_bytes: Gauge,
    leases: Gauge,
    states: [Gauge; ModelState::ALL.len()],
    load_duration: Histogram,
    evictions: Counter,
}

/// The HTTP layer's recorder.
#[derive(Clone)]
pub struct HttpMetrics {
    metrics: Arc<Metrics>,
    in_flight: Gauge,
}

/// Readings that are taken when somebody scrapes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Readings {
    pub(crate) memory_budget_bytes: u64,
    pub(crate) process_bytes: u64,
    pub(crate) results: postsort_cache::ResultStats,
}

impl Metrics {
    /// A recorder with nothing in it.
    ///
    /// # Errors
    /// Never with the constant buckets above; kept so that nothing here can panic.
    pub fn new() -> Result<Self, Error> {
        let buckets = |builder: PrometheusBuilder, name: &str, buckets: &[f64]| {
            builder
                .set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets)
                .map_err(|e| Error::setup(format!("metric {name}"), e))
        };
        let mut builder = PrometheusBuilder::new();
        for name in [HTTP_DURATION, INFERENCE_DURATION, LOAD_DURATION] {
            builder = buckets(builder, name, &DURATION_BUCKETS_SECONDS)?;
        }
        builder = buckets(builder, BATCH_TOKENS, &TOKEN_BUCKETS)?;
        builder = buckets(builder, BATCH_JOBS, &JOB_BUCKETS)?;
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        let metrics = Self { recorder, handle };
        metrics.with(describe);
        Ok(metrics)
    }

    fn with<T>(&self, work: impl FnOnce() -> T) -> T {
        metrics::with_local_recorder(&self.recorder, work)
    }

    /// One model's handles; all its series exist from here on, at zero.
    pub fn model(&self, model: &str) -> ModelMetrics {
        let model = model.to_owned();
        let stage = |stage: &'static str| metrics::histogram!(INFERENCE_DURATION, "model" => model.clone(), "stage" => stage);
        let rejected = |reason: &'static str| metrics::counter!(REJECTED, "model" => model.clone(), "reason" => reason);
        self.with(|| {
            ModelMetrics {
            outcomes: Outcome::ALL.map(|outcome| {
                metrics::counter!(
                    INFERENCE_REQUESTS, "model" => model.clone(), "outcome" => outcome.as_str()
                )
            }),
            stages: ["decode", "queue", "tokenize", "infer", "total"].map(stage),
            batch_tokens: metrics::histogram!(BATCH_TOKENS, "model" => model.clone()),
            batch_jobs: metrics::histogram!(BATCH_JOBS, "model" => model.clone()),
            queue_tokens: metrics::gauge!(QUEUE_TOKENS, "model" => model.clone()),
            rejected_queue_full: rejected("queue_full"),
            rejected_no_room: rejected("no_room"),
            cache_hits: metrics::counter!(CACHE_HITS, "model" => model.clone()),
            cache_misses: metrics::counter!(CACHE_MISSES, "model" => model.clone()),
            resident_bytes: metrics::gauge!(
                RESIDENT_BYTES, "model" => model.clone(), "device" => "cpu"
            ),
            leases: metrics::gauge!(MODEL_LEASES, "model" => model.clone()),
            states: ModelState::ALL.map(|state| {
                metrics::gauge!(MODEL_STATE, "model" => model.clone(), "state" => state.as_str())
            }),
            load_duration: metrics::histogram!(LOAD_DURATION, "model" => model.clone()),
            evictions: metrics::counter!(EVICTIONS, "model" => model.clone(), "reason" => "budget"),
        }
        })
    }

    #[expect(clippy::cast_precision_loss, reason = "gauges are floats on the wire")]
    pub(crate) fn set_readings(&self, readings: Readings) {
        self.with(|| {
            metrics::gauge!(BUDGET_BYTES, "device" => "cpu")
                .set(readings.memory_budget_bytes as f64);
            metrics::gauge!(PROCESS_BYTES).set(readings.process_bytes as f64);
            metrics::gauge!(CACHE_BYTES).set(readings.results.bytes as f64);
            metrics::gauge!(CACHE_ENTRIES).set(readings.results.entries as f64);
            metrics::counter!(CACHE_EVICTIONS).absolute(readings.results.evictions);
        });
    }

    /// Everything in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Folds recorded samples into buckets. Without it the exporter's memory grows between scrapes.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

fn describe() {
    use metrics::{
        describe_counter as counter, describe_gauge as gauge, describe_histogram as histogram,
    };
    counter!(HTTP_REQUESTS, "HTTP requests answered");
    histogram!(HTTP_DURATION, Unit::Seconds, "From the request's head to the response's head");
    gauge!(HTTP_IN_FLIGHT, "HTTP requests being answered");
    counter!(INFERENCE_REQUESTS, "Requests to a model by outcome");
    histogram!(INFERENCE_DURATION, Unit::Seconds, "A request's time by stage");
    histogram!(BATCH_TOKENS, "Tokens in a forward pass");
    histogram!(BATCH_JOBS, "Mails in a forward pass");
    gauge!(QUEUE_TOKENS, "Tokens that wait for the engine");
    counter!(REJECTED, "Requests refused for want of room");
    counter!(CACHE_HITS, "Mails answered from memory");
    counter!(CACHE_MISSES, "Mails that had to be computed");
    gauge!(CACHE_BYTES, Unit::Bytes, "Memory of memoized results");
    gauge!(CACHE_ENTRIES, "Memoized results");
    counter!(CACHE_EVICTIONS, "Memoized results dropped for want of room");
    gauge!(RESIDENT_BYTES, Unit::Bytes, "Memory of a loaded model");
    gauge!(BUDGET_BYTES, Unit::Bytes, "Memory that models may take");
    gauge!(MODEL_STATE, "1 for the state that the model is in");
    gauge!(MODEL_LEASES, "Requests that use the model now");
    histogram!(LOAD_DURATION, Unit::Seconds, "From file to ready");
    counter!(EVICTIONS, "Models dropped from memory");
    gauge!(PROCESS_BYTES, Unit::Bytes, "Resident set of the process");
    gauge!(BUILD_INFO, "1, with the version as a label");
    metrics::gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

impl ModelMetrics {
    pub(crate) fn outcome(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].increment(1);
    }

    pub(crate) fn stage(&self, stage: Stage, duration: Duration) {
        self.stages[stage as usize].record(duration.as_secs_f64());
    }

    #[expect(clippy::cast_precision_loss, reason = "histograms are floats on the wire")]
    pub(crate) fn batch(&self, tokens: usize, jobs: usize) {
        self.batch_tokens.record(tokens as f64);
        self.batch_jobs.record(jobs as f64);
    }

    #[expect(clippy::cast_precision_loss, reason = "gauges are floats on the wire")]
    pub(crate) fn queued(&self, tokens: usize) {
        self.queue_tokens.increment(tokens as f64);
    }

    #[expect(clippy::cast_precision_loss, reason = "gauges are floats on the wire")]
    pub(crate) fn dequeued(&self, tokens: usize) {
        self.queue_tokens.decrement(tokens as f64);
    }

    pub(crate) fn rejected(&self, reason: RejectReason) {
        match reason {
            RejectReason::QueueFull => self.rejected_queue_full.increment(1),
            RejectReason::NoRoom => self.rejected_no_room.increment(1),
        }
    }

    pub(crate) fn cache(&self, hits: usize, misses: usize) {
        self.cache_hits.increment(hits as u64);
        self.cache_misses.increment(misses as u64);
    }

    pub(crate) fn loaded(&self, duration: Duration) {
        self.load_duration.record(duration.as_secs_f64());
    }

    #[expect(clippy::cast_precision_loss, reason = "gauges are floats on the wire")]
    pub(crate) fn set_residency<E>(&self, stats: &postsort_cache::ResidencyStats<E>) {
        self.resident_bytes.set(stats.resident_bytes as f64);
        self.leases.set(stats.leases as f64);
        self.evictions.absolute(stats.evictions);
        for (gauge, state) in self.states.iter().zip(ModelState::ALL) {
            gauge.set(f64::from(u8::from(state == stats.state)));
        }
    }
}

impl HttpMetrics {
    /// Records into `metrics`.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let in_flight = metrics.with(|| metrics::gauge!(HTTP_IN_FLIGHT));
        Self { metrics, in_flight }
    }

    pub(crate) fn begun(&self) {
        self.in_flight.increment(1.0);
    }

    pub(crate) fn gone(&self) {
        self.in_flight.decrement(1.0);
    }

    /// `endpoint` is the route's pattern, never the path: a client must not make new series.
    pub(crate) fn answered(&self, endpoint: &str, status: u16, duration: Duration) {
        let endpoint = endpoint.to_owned();
        self.metrics.with(|| {
            metrics::counter!(
                HTTP_REQUESTS, "endpoint" => endpoint.clone(), "status" => status.to_string()
            )
            .increment(1);
            metrics::histogram!(HTTP_DURATION, "endpoint" => endpoint)
                .record(duration.as_secs_f64());
        });
    }
}
