//! The recorder of one server.
//!
//! Each server has a recorder of its own rather than the process's global one: handles are looked
//! up once a model, not once a request, and two servers in one test do not mix their counts.

use std::time::Duration;

use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use postsort_cache::SharedReading;
use postsort_store::StoreReading;

use super::device_metrics::{self, DeviceMetrics};
use super::drift::{Drift, DriftSummary};
use super::exposition::Exposition;
use super::model_metrics::ModelMetrics;
use super::names::{self, Kind};
use super::shared_metrics;
use super::slo::Verdict;
use super::store_metrics;
use super::vitals::Vitals;
use crate::devices::DeviceUsage;
use crate::error::Error;

/// 50 µs to 5 s in steps of about 1.6: a p99 read from these is within a step of the truth.
const DURATION_BUCKETS_SECONDS: [f64; 26] = [
    50e-6, 80e-6, 125e-6, 200e-6, 320e-6, 500e-6, 800e-6, 1.25e-3, 2e-3, 3.2e-3, 5e-3, 8e-3,
    12.5e-3, 20e-3, 32e-3, 50e-3, 80e-3, 125e-3, 200e-3, 320e-3, 500e-3, 800e-3, 1.25, 2.0, 3.2,
    5.0,
];
/// Loading reads files: from a small model in the page cache to a large one from a slow disk.
const LOAD_BUCKETS_SECONDS: [f64; 12] =
    [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0];
const TOKEN_BUCKETS: [f64; 10] =
    [8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0];
const JOB_BUCKETS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

/// Of a model with more labels their shares are not listed.
const LABELS_MAX: usize = 32;

/// The recorder of one server.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    devices: Vec<String>,
}

/// Readings that are taken when somebody scrapes.
#[derive(Clone, Debug)]
pub(crate) struct Readings {
    pub(crate) ready: bool,
    pub(crate) devices: Vec<DeviceUsage>,
    pub(crate) queue_jobs: usize,
    pub(crate) queue_jobs_max: usize,
    pub(crate) backlog: Duration,
    pub(crate) results: postsort_cache::ResultStats,
    pub(crate) verdicts: [Verdict; 4],
    /// Model, its labels, what its answers look like.
    pub(crate) answers: Vec<(String, Vec<String>, DriftSummary)>,
    /// Traces exported and dropped.
    pub(crate) traces: Option<(u64, u64)>,
    pub(crate) store: Option<StoreReading>,
    pub(crate) shared: Option<SharedReading>,
    pub(crate) vitals: Vitals,
}

impl Metrics {
    /// A recorder with nothing in it, for a server with devices of these names.
    ///
    /// # Errors
    /// Never with the constant buckets above; kept so that nothing here can panic.
    pub fn new(devices: &[String]) -> Result<Self, Error> {
        let mut builder = PrometheusBuilder::new();
        for (name, buckets) in [
            (names::HTTP_DURATION, &DURATION_BUCKETS_SECONDS[..]),
            (names::INFERENCE_DURATION, &DURATION_BUCKETS_SECONDS),
            (names::LOAD_DURATION, &LOAD_BUCKETS_SECONDS),
            (names::STORE_QUERY, &DURATION_BUCKETS_SECONDS),
            (names::SHARED_EXCHANGE, &DURATION_BUCKETS_SECONDS),
            (names::STORE_JOB, &LOAD_BUCKETS_SECONDS),
            (names::BATCH_TOKENS, &TOKEN_BUCKETS),
            (names::BATCH_JOBS, &JOB_BUCKETS),
        ] {
            builder = builder
                .set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets)
                .map_err(|e| Error::setup(format!("metric {name}"), e))?;
        }
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        let metrics = Self { recorder, handle, devices: devices.to_vec() };
        metrics.with(|| {
            for &(name, kind, unit, help) in names::ALL {
                match kind {
                    Kind::Counter => metrics::describe_counter!(name, unit, help),
                    Kind::Gauge => metrics::describe_gauge!(name, unit, help),
                    Kind::Histogram => metrics::describe_histogram!(name, unit, help),
                }
            }
        });
        Ok(metrics)
    }

    pub(super) fn with<T>(&self, work: impl FnOnce() -> T) -> T {
        metrics::with_local_recorder(&self.recorder, work)
    }

    /// One model's handles; all its series exist from here on, at zero.
    #[must_use]
    pub fn model(&self, model: &str) -> ModelMetrics {
        ModelMetrics::new(self, model)
    }

    /// One device's handles.
    #[must_use]
    pub fn device(&self, device: &str) -> DeviceMetrics {
        DeviceMetrics::new(self, device)
    }

    pub(super) fn devices(&self) -> &[String] {
        &self.devices
    }

    /// Everything in Prometheus' text format.
    #[must_use]
    pub(crate) fn render(&self, readings: &Readings) -> String {
        let mut text = self.handle.render();
        text.push_str(&readings.write());
        text
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

impl Readings {
    #[expect(clippy::cast_precision_loss, reason = "samples are floats on the wire")]
    fn write(&self) -> String {
        let mut out = Exposition::default();
        out.sample(names::BUILD_INFO, &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        out.sample(names::READY, &[], f64::from(self.ready));
        device_metrics::write(&self.devices, &mut out);
        out.sample(names::QUEUE_JOBS, &[], self.queue_jobs as f64);
        out.sample(names::QUEUE_JOBS_MAX, &[], self.queue_jobs_max as f64);
        out.sample(names::BACKLOG, &[], self.backlog.as_secs_f64());
        out.sample(names::CACHE_BYTES, &[], self.results.bytes as f64);
        out.sample(names::CACHE_BYTES_MAX, &[], self.results.bytes_max as f64);
        out.sample(names::CACHE_ENTRIES, &[], self.results.entries as f64);
        out.sample(names::CACHE_EVICTIONS, &[], self.results.evictions as f64);
        for verdict in &self.verdicts {
            out.sample(names::SLO_MET, &[("slo", verdict.slo)], f64::from(verdict.met));
        }
        self.write_answers(&mut out);
        if let Some((exported, dropped)) = self.traces {
            out.sample(names::TRACES_EXPORTED, &[], exported as f64);
            out.sample(names::TRACES_DROPPED, &[], dropped as f64);
        }
        if let Some(store) = &self.store {
            store_metrics::write(store, &mut out);
        }
        if let Some(shared) = &self.shared {
            shared_metrics::write(shared, &mut out);
        }
        self.vitals.write(&mut out);
        out.into_text()
    }

    /// Only of models that answered of late: of others there is nothing to say.
    #[expect(clippy::cast_precision_loss, reason = "samples are floats on the wire")]
    fn write_answers(&self, out: &mut Exposition) {
        let answers = || self.answers.iter().filter(|(_, _, summary)| summary.mails > 0);
        type Mean = fn(&DriftSummary) -> f64;
        let means: [(&'static str, Mean); 4] = [
            (names::ANSWER_MAILS, |summary| summary.mails as f64),
            (names::ANSWER_CONFIDENCE, |summary| summary.confidence),
            (names::ANSWER_UNKNOWN, |summary| summary.unknown_tokens),
            (names::ANSWER_TOKENS, |summary| summary.tokens),
        ];
        for (name, mean) in means {
            for (model, _, summary) in answers() {
                out.sample(name, &[("model", model)], mean(summary));
            }
        }
        for (model, labels, summary) in
            answers().filter(|(_, labels, _)| labels.len() <= LABELS_MAX)
        {
            for (label, &share) in labels.iter().zip(&summary.labels) {
                out.sample(names::ANSWER_LABEL, &[("model", model), ("label", label)], share);
            }
        }
        for (model, _, summary) in answers() {
            for (of, distance) in summary.drift.iter().flat_map(Drift::by_name) {
                out.sample(names::DRIFT, &[("model", model), ("of", of)], distance);
            }
        }
    }
}
