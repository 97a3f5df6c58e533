//! The metrics of one server.
//!
//! Each server has its own rather than the process's: two servers in one test do not mix their counts.

use std::time::Duration;

use postsort_cache::SharedReading;
use postsort_store::StoreReading;

use super::device_metrics::{self, DeviceMetrics};
use super::drift::{Drift, DriftSummary};
use super::exposition::{Exposition, Labels};
use super::model_metrics::ModelMetrics;
use super::names;
use super::registry::{Counter, Gauge, Histogram, Registry};
use super::shared_metrics;
use super::slo::Verdict;
use super::store_metrics;
use super::vitals::Vitals;
use crate::devices::DeviceUsage;

/// Of a model with more labels their shares are not listed.
const LABELS_MAX: usize = 32;

/// The metrics of one server.
#[derive(Debug, Default)]
pub struct Metrics {
    registry: Registry,
    /// Names of its devices.
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
    /// Nothing counted yet, of a server with devices of these names.
    #[must_use]
    pub fn new(devices: &[String]) -> Self {
        Self { registry: Registry::default(), devices: devices.to_vec() }
    }

    pub(super) fn counter(&self, name: &'static str, labels: Labels<'_>) -> Counter {
        self.registry.counter(name, labels)
    }

    pub(super) fn gauge(&self, name: &'static str, labels: Labels<'_>) -> Gauge {
        self.registry.gauge(name, labels)
    }

    pub(super) fn histogram(&self, name: &'static str, labels: Labels<'_>) -> Histogram {
        self.registry.histogram(name, labels)
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
        let mut out = Exposition::default();
        self.registry.write(&mut out);
        readings.write(&mut out);
        out.into_text()
    }
}

impl Readings {
    #[expect(clippy::cast_precision_loss, reason = "samples are floats on the wire")]
    fn write(&self, out: &mut Exposition) {
        out.sample(names::BUILD_INFO, &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        out.sample(names::READY, &[], f64::from(self.ready));
        device_metrics::write(&self.devices, out);
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
        self.write_answers(out);
        if let Some((exported, dropped)) = self.traces {
            out.sample(names::TRACES_EXPORTED, &[], exported as f64);
            out.sample(names::TRACES_DROPPED, &[], dropped as f64);
        }
        if let Some(store) = &self.store {
            store_metrics::write(store, out);
        }
        if let Some(shared) = &self.shared {
            shared_metrics::write(shared, out);
        }
        self.vitals.write(out);
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
