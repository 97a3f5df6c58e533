//! The HTTP layer's metrics, by endpoint.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use parking_lot::RwLock;

use super::latency::{LatencySummary, LatencyTotals, LatencyWindow};
use super::metrics::Metrics;
use super::names;
use super::registry::{Counter, Gauge, Histogram};

/// nginx's status for a client that went away before the answer.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// Recorders of all endpoints that were asked so far.
#[derive(Debug)]
pub struct HttpMetrics {
    metrics: Arc<Metrics>,
    endpoints: RwLock<BTreeMap<String, Arc<Endpoint>>>,
}

/// One endpoint's handles.
#[derive(Debug)]
struct Endpoint {
    name: String,
    duration: Histogram,
    in_flight_gauge: Gauge,
    request_bytes: ByteCounter,
    response_bytes: ByteCounter,
    /// An endpoint answers with few statuses, so a list is faster than a map.
    statuses: RwLock<Vec<(u16, Counter)>>,
    in_flight: AtomicI64,
    window: LatencyWindow,
}

/// One endpoint, as the dashboard shows it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct EndpointSummary {
    /// The route's pattern.
    pub endpoint: String,
    /// Requests being answered.
    pub in_flight: u64,
    /// Since the start.
    #[serde(flatten)]
    pub totals: LatencyTotals,
    /// Requests of the last minute.
    pub last_minute: LatencySummary,
    /// Requests of the last ten to twenty seconds.
    pub recent: LatencySummary,
}

/// A request being answered. Dropped unanswered, its client has gone away.
#[derive(Debug)]
pub(crate) struct InFlight<'a> {
    http: &'a HttpMetrics,
    endpoint: Arc<Endpoint>,
    started: Instant,
    answered: bool,
}

/// Counts bytes of a body whose size is known only at its end.
#[derive(Clone, Debug)]
pub(crate) struct ByteCounter(Counter);

impl HttpMetrics {
    /// Records into `metrics`.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, endpoints: RwLock::default() }
    }

    /// `endpoint` is the route's pattern, never the path: a client must not make new series.
    pub(crate) fn begin(&self, endpoint: &str) -> InFlight<'_> {
        let endpoint = self.endpoint(endpoint);
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight { http: self, endpoint, started: Instant::now(), answered: false }
    }

    /// Every endpoint that was asked so far.
    #[must_use]
    pub fn summaries(&self) -> Vec<EndpointSummary> {
        self.endpoints.read().values().map(|endpoint| endpoint.summary()).collect()
    }

    #[expect(clippy::cast_precision_loss, reason = "gauges are floats on the wire")]
    pub(crate) fn set_gauges(&self) {
        for endpoint in self.endpoints.read().values() {
            endpoint.in_flight_gauge.set(endpoint.in_flight.load(Ordering::Relaxed) as f64);
        }
    }

    fn endpoint(&self, name: &str) -> Arc<Endpoint> {
        if let Some(known) = self.endpoints.read().get(name) {
            return Arc::clone(known);
        }
        let make = || Arc::new(Endpoint::new(&self.metrics, name));
        Arc::clone(self.endpoints.write().entry(name.to_owned()).or_insert_with(make))
    }
}

impl Endpoint {
    fn new(metrics: &Metrics, name: &str) -> Self {
        let labels = [("endpoint", name)];
        Self {
            name: name.to_owned(),
            duration: metrics.histogram(names::HTTP_DURATION, &labels),
            in_flight_gauge: metrics.gauge(names::HTTP_IN_FLIGHT, &labels),
            request_bytes: ByteCounter(metrics.counter(names::HTTP_REQUEST_BYTES, &labels)),
            response_bytes: ByteCounter(metrics.counter(names::HTTP_RESPONSE_BYTES, &labels)),
            statuses: RwLock::default(),
            in_flight: AtomicI64::new(0),
            window: LatencyWindow::default(),
        }
    }

    fn count(&self, metrics: &Metrics, status: u16) {
        let known = |statuses: &[(u16, Counter)]| {
            let found = statuses.iter().find(|(known, _)| *known == status);
            found.map(|(_, counter)| counter.increment(1)).is_some()
        };
        if known(&self.statuses.read()) {
            return;
        }
        let mut statuses = self.statuses.write();
        if !known(&statuses) {
            let labels = [("endpoint", self.name.as_str()), ("status", &status.to_string())];
            let counter = metrics.counter(names::HTTP_REQUESTS, &labels);
            counter.increment(1);
            statuses.push((status, counter));
        }
    }

    fn summary(&self) -> EndpointSummary {
        EndpointSummary {
            endpoint: self.name.clone(),
            in_flight: u64::try_from(self.in_flight.load(Ordering::Relaxed)).unwrap_or(0),
            totals: self.window.totals(),
            last_minute: self.window.summary(),
            recent: self.window.recent(),
        }
    }
}

impl InFlight<'_> {
    /// The response's head is ready.
    pub(crate) fn answered(mut self, status: u16) {
        self.answered = true;
        let now = Instant::now();
        let duration = now.saturating_duration_since(self.started);
        self.endpoint.count(&self.http.metrics, status);
        self.endpoint.duration.time(duration);
        self.endpoint.window.record_at(now, duration, status >= 500);
    }

    pub(crate) fn request_bytes(&self) -> &ByteCounter {
        &self.endpoint.request_bytes
    }

    pub(crate) fn response_bytes(&self) -> &ByteCounter {
        &self.endpoint.response_bytes
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
        if !self.answered {
            self.endpoint.count(&self.http.metrics, CLIENT_CLOSED_REQUEST);
        }
    }
}

impl ByteCounter {
    pub(crate) fn add(&self, bytes: u64) {
        self.0.increment(bytes);
    }
}
