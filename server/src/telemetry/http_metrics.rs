//! The HTTP layer's metrics, by endpoint.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use super::append::AppendList;
use super::latency::{LatencySummary, LatencyTotals, LatencyWindow};
use super::metrics::Metrics;
use super::names;
use super::registry::{Counter, Gauge, Histogram};
use super::shards::Sharded;

/// nginx's status for a client that went away before the answer.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// More than there are routes.
const ENDPOINTS_MAX: usize = 128;
/// More than an endpoint answers with.
const STATUSES_MAX: usize = 24;

/// Recorders of all endpoints that were asked so far.
#[derive(Debug)]
pub struct HttpMetrics {
    metrics: Arc<Metrics>,
    endpoints: Box<AppendList<Endpoint, ENDPOINTS_MAX>>,
}

/// One endpoint's handles.
#[derive(Debug)]
struct Endpoint {
    name: String,
    duration: Histogram,
    in_flight_gauge: Gauge,
    request_bytes: ByteCounter,
    response_bytes: ByteCounter,
    statuses: AppendList<(u16, Counter), STATUSES_MAX>,
    /// Begun less ended, by the CPU on which it happened.
    in_flight: Sharded<AtomicI64>,
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

/// Which of the endpoints that were asked so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndpointId(usize);

/// A request being answered. Dropped unanswered, its client has gone away.
#[derive(Debug)]
pub(crate) struct InFlight<'a> {
    http: &'a HttpMetrics,
    endpoint: &'a Endpoint,
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
        Self { metrics, endpoints: Box::default() }
    }

    /// `route` is the pattern, never the path: a client must not make new series.
    pub(crate) fn endpoint(&self, route: &str) -> EndpointId {
        let make = || Endpoint::new(&self.metrics, route);
        EndpointId(self.endpoints.find_or_append(|endpoint| endpoint.name == route, make).0)
    }

    /// Counts what a request's body brings.
    pub(crate) fn request_bytes(&self, endpoint: EndpointId) -> &ByteCounter {
        &self.endpoints.at(endpoint.0).request_bytes
    }

    /// A request that is answered from now on.
    pub(crate) fn begin(&self, endpoint: EndpointId) -> InFlight<'_> {
        let endpoint = self.endpoints.at(endpoint.0);
        endpoint.in_flight.own().fetch_add(1, Ordering::Relaxed);
        InFlight { http: self, endpoint, started: Instant::now(), answered: false }
    }

    /// Every endpoint that was asked so far.
    #[must_use]
    pub fn summaries(&self) -> Vec<EndpointSummary> {
        let mut summaries: Vec<_> = self.endpoints.iter().map(Endpoint::summary).collect();
        summaries.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
        summaries
    }

    #[expect(clippy::cast_precision_loss, reason = "gauges are floats on the wire")]
    pub(crate) fn set_gauges(&self) {
        for endpoint in self.endpoints.iter() {
            endpoint.in_flight_gauge.set(endpoint.in_flight() as f64);
        }
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
            statuses: AppendList::default(),
            in_flight: Sharded::default(),
            window: LatencyWindow::default(),
        }
    }

    fn count(&self, metrics: &Metrics, status: u16) {
        let make = || {
            let labels = [("endpoint", self.name.as_str()), ("status", &status.to_string())];
            (status, metrics.counter(names::HTTP_REQUESTS, &labels))
        };
        let (_, (_, counter)) = self.statuses.find_or_append(|(known, _)| *known == status, make);
        counter.increment(1);
    }

    fn in_flight(&self) -> u64 {
        let sum: i64 = self.in_flight.iter().map(|cell| cell.load(Ordering::Relaxed)).sum();
        u64::try_from(sum).unwrap_or(0)
    }

    fn summary(&self) -> EndpointSummary {
        EndpointSummary {
            endpoint: self.name.clone(),
            in_flight: self.in_flight(),
            totals: self.window.totals(),
            last_minute: self.window.summary(),
            recent: self.window.recent(),
        }
    }
}

impl<'a> InFlight<'a> {
    /// The endpoint's name.
    pub(crate) fn endpoint(&self) -> &'a str {
        &self.endpoint.name
    }

    /// The response's head is ready; how long that took.
    pub(crate) fn answered(mut self, status: u16) -> Duration {
        self.answered = true;
        let now = Instant::now();
        let duration = now.saturating_duration_since(self.started);
        self.endpoint.count(&self.http.metrics, status);
        self.endpoint.duration.time(duration);
        self.endpoint.window.record_at(now, duration, status >= 500);
        duration
    }

    pub(crate) fn response_bytes(&self) -> &ByteCounter {
        &self.endpoint.response_bytes
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.endpoint.in_flight.own().fetch_sub(1, Ordering::Relaxed);
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
